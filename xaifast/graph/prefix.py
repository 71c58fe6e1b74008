"""The linear prefix: the part of a model, from its inputs up, that is affine in them.

Along a straight path of inputs x' + alpha (x - x') every value z of the prefix moves straight as
well, z' + alpha (z - z'), so the prefix runs once for each end of the path, and its transposed map,
which is linear, once for the sum of what comes back. The values where it ends, and the rest of the
model begins, are the stations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .node import Node
from .run import Propagation

LINEAR = ("conv", "linear", "affine", "sum")
SIZES = ("sym_size",)  # read the shape of a value, not the value


def _is_affine(node: Node, affine: set[Node]) -> bool:
    """Whether a node is an affine function of affine ones."""
    if not node.inputs or not all(x in affine for x in node.inputs):
        return False
    if node.kind in LINEAR:
        return node.layer is not None
    others = [x for x in node.operands if x not in node.inputs]
    constant = all(x.constant or x.op in SIZES for x in others)
    return node.kind in ("add", "rearrange") and constant


@dataclass(frozen=True)
class Prefix:
    """Where the prefix ends, and how to run what is before and behind.

    nodes: the affine values, inputs included; stations: those that the rest reads; before, rest:
    the steps of the run on either side; sized: values of which the rest reads the shape only.
    """

    propagation: Propagation
    nodes: set[Node]
    stations: list[Node]
    before: list[Node]
    rest: list[Node]
    sized: list[Node]

    def rectifier(self, station: Node) -> Node | None:
        """The ReLU that is all that reads a station, if so: it may be computed with the point."""
        return self.propagation.fused.get(station)

    def enter(self, inputs: tuple) -> dict[Node, Any]:
        """Run the prefix; all its values."""
        run = self.propagation
        values: dict[Node, Any] = dict(zip(run.graph.inputs, inputs, strict=True))
        run.run_steps(values, self.before, None)
        return values

    def behind(self, points: list[Tensor], others: dict[Node, Any]) -> dict[Node, Any]:
        """Run the rest, from values of the stations (or of the ReLUs behind them)."""
        run = self.propagation
        values = dict(others)
        for station, point in zip(self.stations, points, strict=True):
            values[self.rectifier(station) or station] = point
        rows, like = len(points[0]), points[0]
        for node in self.sized:
            values.setdefault(node, like.new_zeros(()).expand(rows, *node.shape))
        run.run_steps(values, self.rest, run.frees)
        return values

    def back_to_stations(
        self, values: dict[Node, Any], seeds: dict[Node, Tensor]
    ) -> dict[Node, Tensor]:
        """Hand messages down to the stations; a station that none reached is missing."""
        return self.propagation.run_rules(values, seeds, set(self.stations), stop=self.nodes)

    def leave(self, values: dict[Node, Any], totals: dict[Node, Tensor]) -> dict[Node, Tensor]:
        """The transposed prefix: messages at the stations to messages at the inputs."""
        return self.propagation.run_rules(dict(values), totals, set(self.stations))


def linear_prefix(propagation: Propagation, whole: bool = True) -> Prefix:
    """Find the linear prefix of a built model; with whole=False the empty one, inputs only."""
    graph = propagation.graph
    affine = {n for n in graph.inputs if n.carries}
    if whole:
        for node in propagation.steps:
            if _is_affine(node, affine):
                affine.add(node)
    sizes = {n for n in propagation.steps if n.op in SIZES}
    before = [n for n in propagation.steps if n in affine or n in sizes]
    rest = [n for n in propagation.steps if n not in affine]
    read = {x for node in rest if node not in sizes for x in node.operands} | {graph.output}
    stations = [n for n in graph.nodes if n in affine and n in read]
    sized = [x for n in rest if n in sizes for x in n.operands if x in affine and x not in read]
    if whole and not all(n.by_sample for n in (*stations, *sized)):  # rows must be samples there
        return linear_prefix(propagation, whole=False)
    return Prefix(propagation, affine, stations, before, rest, sized)
