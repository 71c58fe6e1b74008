"""Which steps of an output belong to which sequence, where packed sequences were padded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..facts import ModelGraph
from ..node import Node, nodes_in

ELEMENTWISE = ("linear", "affine", "activation")  # features come last: no step sees another
MADE_BY = ("ge", "view", "reshape", "_to_copy", "to")  # places >= lengths, in the data's dimensions


@dataclass(frozen=True)
class Steps:
    """An axis of time in the output [N, ...], and where the lengths of the samples are."""

    axis: int
    node: Node
    orders: list[Node]

    def lengths(self, value: Callable[[Node], Any]) -> Tensor:
        """The steps of each sample."""
        lengths = value(self.node)
        for order in self.orders:
            lengths = lengths[value(order).to(lengths.device)]
        return lengths


def _lengths_of(mask: Any) -> Node | None:
    """The lengths that `pad_packed_sequence` made a mask of; None for a mask of other making."""
    for node in nodes_in(mask):
        if node.op == "sequence_lengths":
            return node
        found = _lengths_of(list(node.args)) if node.op in MADE_BY else None
        if found is not None:
            return found
    return None


def steps_of(graph: ModelGraph) -> Steps | None:
    """The steps of the output, if it is made of each step of `pad_packed_sequence` alone."""
    path, node = [], graph.output
    while node.op != "masked_fill" or _lengths_of(node.args[1]) is None:
        known = node.kind in ELEMENTWISE or node.op in ("transpose", "index_select")
        if not known or len(node.inputs) != 1:
            return None
        path.append(node)
        node = node.inputs[0]
    axes, orders = ["steps", "samples"], []
    axes += ["features"] * (len(node.shape) - 1)
    for moved in reversed(path):
        if moved.op == "transpose":
            i, j = moved.args[1:3]
            axes[i], axes[j] = axes[j], axes[i]
        elif moved.op == "index_select":
            if axes[moved.args[1]] != "samples":
                return None
            orders.append(moved.args[2])
        elif moved.kind == "linear" and axes[-1] != "features":
            return None
    lengths = _lengths_of(node.args[1])
    if axes[0] != "samples" or lengths is None:
        return None
    return Steps(axes.index("steps"), lengths, orders)
