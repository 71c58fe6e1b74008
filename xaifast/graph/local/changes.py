"""Changes: many changes of one input, each evaluated only where it can be seen.

The maps of the unchanged input are kept. For each change, an operation then runs on the box of its
output that may have changed (see `boxes`): on a patch that is cut out of the kept map, with the
changed box of the input in its place, and with the padding where it reaches beyond the border.
Where an operation mixes all positions, and where a box is most of the map anyway, the box is put
into a copy of the map, and the operations behind run on whole maps, as ever.

All changes of a group have boxes of one size at each node, that of the largest, so that they run as
one batch. Changes with boxes of like sizes are put into a group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ... import ops
from ..node import Node
from ..prefix import SIZES
from ..run import Propagation
from .boxes import Spans, constants, dims_of, operands, trace_change

# A box of more than this part of its map is not worth cutting out.
MOST = 0.8
# What it costs to move a number, in multiplications.
MOVED = 32
# Changes that a group should have, to share what it costs to read the weights.
ENOUGH = 32
PLANS = 4  # kept for a model: windows of other sizes and strides take turns


@dataclass(frozen=True)
class Group:
    """Changes that are evaluated together.

    members: which they are; sizes: the boxes of the nodes that run on boxes; cost: of one change,
    in multiplications; largest: the most numbers that a tensor of one change holds.
    """

    members: Tensor
    sizes: dict[Node, tuple[int, ...]]
    cost: float
    largest: int


def products_of(node: Node) -> int:
    """How many multiplications a node needs on its whole map."""
    if node.kind not in ("conv", "linear") or node.layer is None:
        return 0
    positions = node.shape[1:] if node.kind == "conv" else node.shape[:-1]
    return node.layer.weight.plain.numel() * math.prod(positions)


def _work(node: Node) -> float:
    """The work of a node, with the numbers that are moved."""
    return products_of(node) + MOVED * node.elements


def _merged(sizes: Tensor, count: Tensor, work: Tensor, most: int) -> Tensor:
    """A class for each kind of change [kinds], no more than `most`, for as little work as may be.

    sizes [kinds, nodes]: of their boxes; all of a class pay for its largest.
    """
    classes = [[i] for i in range(len(sizes))]
    largest, members = sizes * work, count.clone()
    while len(classes) > most:
        both = torch.maximum(largest[:, None], largest[None])
        extra = (both - largest[:, None]).sum(-1) * members[:, None]
        extra = (extra + extra.T).fill_diagonal_(math.inf)
        i, j = divmod(int(extra.argmin()), len(classes))
        i, j = min(i, j), max(i, j)
        classes[i] += classes.pop(j)
        largest[i], members[i] = both[i, j], members[i] + members[j]
        keep = [k for k in range(len(largest)) if k != j]
        largest, members = largest[keep], members[keep]
    found = torch.zeros(len(sizes), dtype=torch.long, device="cpu")
    for k, own in enumerate(classes):
        found[own] = k
    return found


class Changes:
    """The plan to evaluate changes of one input.

    Parameters
    ----------
    propagation : the model.
    entry : the input that is changed.
    spans : the different intervals that changes cover along each spatial axis.
    index : for each axis, which of them each change covers [changes].
    enough : changes that a group should have.
    """

    def __init__(
        self,
        propagation: Propagation,
        entry: Node,
        spans: Spans,
        index: Sequence[Tensor],
        enough: int = ENOUGH,
    ) -> None:
        self.run = propagation
        self.graph = propagation.graph
        self.trace = trace_change(propagation.steps, entry, spans)
        self.index = tuple(index)
        self.work = {n: _work(n) for n in propagation.steps}
        self.groups = self._groups(max(1, enough))
        self.needed = self._needed()

    # -- the plan --

    @property
    def full_cost(self) -> float:
        """The cost of one change on whole maps."""
        return sum(self.work.values())

    @property
    def cost(self) -> float:
        """The cost of one change on average."""
        total = sum(g.cost * len(g.members) for g in self.groups)
        return total / max(1, len(self.index[0]))

    def describe(self) -> str:
        """One line for each node: its map, and the least and greatest box in a group."""
        return "\n".join(self._line(node).rstrip() for node in self.run.steps)

    def _line(self, node: Node) -> str:
        sizes = [g.sizes[node] for g in self.groups if node in g.sizes]
        words = "whole maps"
        if sizes:
            ends = {min(sizes, key=math.prod): None, max(sizes, key=math.prod): None}
            words = "boxes " + " to ".join(" x ".join(map(str, n)) for n in ends)
            if len(sizes) < len(self.groups):
                words += f", whole maps in {len(self.groups) - len(sizes)} groups"
        shape = " x ".join(map(str, node.shape))
        return f"{node.name:26} {node.op:22} {node.module or '-':30} {shape:20} {words}"

    def _groups(self, enough: int) -> list[Group]:
        count = len(self.index[0])
        most = max(1, int((count / enough) ** (1 / len(self.index))))
        own = [self._classes(axis, most)[i] for axis, i in enumerate(self.index)]
        keys, which = torch.unique(torch.stack(own), dim=1, return_inverse=True)
        return [self._group(torch.nonzero(which == g)[:, 0]) for g in range(keys.shape[1])]

    def _classes(self, axis: int, most: int) -> Tensor:
        """A class for each of the different intervals along an axis."""
        steps = [n for n in self.run.steps if n in self.trace.spans]
        work = torch.tensor(
            [self.work[n] / n.shape[1 + axis] for n in steps], dtype=torch.float64, device="cpu"
        )
        if not steps:
            return torch.zeros(
                len(self.trace.spans[self.trace.entry][axis].low), dtype=torch.long, device="cpu"
            )
        each = torch.stack([self.trace.spans[n][axis].size for n in steps], 1)
        kinds, kind = torch.unique(each, dim=0, return_inverse=True)
        count = torch.bincount(kind[self.index[axis]], minlength=len(kinds))
        return _merged(kinds.double(), count.double(), work, most)[kind]

    def _group(self, members: Tensor) -> Group:
        """Which nodes run on boxes, and of which size."""
        covered = [torch.unique(i[members]) for i in self.index]
        entry = self.trace.entry
        sizes: dict[Node, tuple[int, ...]] = {entry: self._size(entry, covered)}
        cost, largest = 0.0, 0
        for node in self.run.steps:
            size = self._size(node, covered) if node in self.trace.spans else ()
            share = math.prod(size) / math.prod(node.shape[1:]) if size else 1.0
            if size and share <= MOST and all(x in sizes for x in operands(node)):
                sizes[node] = size
                moved = self._patch(node, size) if node in self.trace.sliding else 0
                cost += self.work[node] * share + MOVED * moved
                largest = max(largest, moved, node.shape[0] * math.prod(size))
            else:
                cost += self.work[node]
                largest = max(largest, node.elements)
        return Group(members, sizes, cost, largest)

    def _size(self, node: Node, covered: list[Tensor]) -> tuple[int, ...]:
        pairs = zip(self.trace.spans[node], covered, strict=True)
        return tuple(int(span.size[own].max()) for span, own in pairs)

    def _patch(self, node: Node, size: tuple[int, ...]) -> int:
        """Numbers in the patch that one box of a sliding operation is made of."""
        slides = self.trace.sliding[node].slides
        read = (slide.read(n) for slide, n in zip(slides, size, strict=True))
        return node.inputs[0].shape[0] * math.prod(read)

    def _needed(self) -> set[Node]:
        """The nodes whose maps without changes are to be kept."""
        needed = (
            {self.graph.output} if any(self.graph.output in g.sizes for g in self.groups) else set()
        )
        for group in self.groups:
            for node in self.run.steps:
                for x in operands(node):
                    alone = node in group.sizes and node not in self.trace.sliding
                    alone = alone and len(operands(node)) == 1
                    if x in group.sizes and not alone and node.op not in SIZES:
                        needed.add(x)
        return needed

    # -- the run --

    def keep(self, inputs: tuple) -> dict[Node, Tensor]:
        """The maps of one unchanged sample that changes are put into, [*shape, channels]."""
        values: dict[Node, Any] = dict(zip(self.graph.inputs, inputs, strict=True))
        kept, missing = {}, set(self.needed)
        for node in (self.trace.entry, *self.run.steps):
            if not missing:
                break
            if node in self.run.steps:
                self.run.run_steps(values, [node], self.run.frees_all, alone=True)
            if node in missing:
                kept[node] = _behind(values[node])[0]
                missing.remove(node)
        return kept

    def origin(self, group: Group, node: Node, rows: Tensor) -> Tensor:
        """Where the boxes of some changes begin in a node's map, [axes, rows]."""
        axes = zip(
            self.trace.spans[node], self.index, group.sizes[node], node.shape[1:], strict=True
        )
        # A box that would reach beyond the border is moved inwards.
        return torch.stack([s.low[i[rows]].clamp(max=whole - n) for s, i, n, whole in axes])

    def output(
        self, group: Group, rows: Tensor, box: Tensor, kept: dict[Node, Tensor], inputs: tuple
    ) -> Tensor:
        """The output of the model for some changes of one sample.

        rows : which changes of the group; box : what the input is in their boxes [rows, channels,
        *size]; inputs : all of the call, each for so many rows (that which is changed is not read).
        """
        return _Batch(self, group, rows, kept, inputs).output(box)


def _behind(x: Tensor) -> Tensor:
    """A map [N, channels, ...] with its channels last, dense."""
    return x.movedim(1, -1).contiguous()


class _Batch:
    """The run of some changes of a group: its values are boxes, or whole maps."""

    def __init__(
        self, plan: Changes, group: Group, rows: Tensor, kept: dict[Node, Tensor], inputs: tuple
    ) -> None:
        self.plan, self.group, self.rows, self.kept = plan, group, rows, kept
        self.boxes: dict[Node, Tensor] = {}
        self.values: dict[Node, Any] = dict(zip(plan.graph.inputs, inputs, strict=True))
        self.origins: dict[Node, Tensor] = {}

    def output(self, box: Tensor) -> Tensor:
        run, entry, output = self.plan.run, self.plan.trace.entry, self.plan.graph.output
        self.values.pop(entry)
        self.boxes[entry] = box
        for node in run.steps:
            self._step(node, run.fused.get(node))
            for x in run.frees_all.get(node, ()):
                self.values.pop(x, None)
                self.boxes.pop(x, None)
        return self._whole(output)

    def _step(self, node: Node, rectifier: Node | None) -> None:
        run = self.plan.run
        if node in self.boxes or node in self.values:
            return
        if node in self.group.sizes:
            self.boxes[node] = value = self._on_boxes(node, rectifier is not None)
            if rectifier is not None:  # its boxes are those of its layer
                self.boxes[rectifier] = value
        elif node.op in SIZES:
            self.values[node] = node.call(self._sized)
        else:
            found = {x: self._whole(x) for x in operands(node)}
            run.run_steps(found, [node], run.frees_all, alone=True)
            self.values[node] = found[node]
            if rectifier is not None:
                self.values[rectifier] = found[rectifier]

    # -- boxes --

    def _origin(self, node: Node) -> Tensor:
        if node not in self.origins:
            self.origins[node] = self.plan.origin(self.group, node, self.rows)
        return self.origins[node]

    def _cut(self, node: Node, start: Tensor, size: Sequence[int], fill: float = 0.0) -> Tensor:
        """A part of a node's map, with the changes in it, [rows, channels, *size]."""
        box = _behind(self.boxes[node])
        origin, start = (v.to(box.device) for v in (self._origin(node), start))
        found = ops.cut_boxes(self.kept[node], box, origin, start, size, fill)
        return found.movedim(-1, 1)

    def _on_boxes(self, node: Node, relu: bool) -> Tensor:
        if node in self.plan.trace.sliding:
            return self._slide(node, relu)
        given = {x: self._at(x, node) for x in operands(node)}
        given |= {c: self._constant(c, node) for c in constants(node)}
        return node.call(given.__getitem__)

    def _slide(self, node: Node, relu: bool) -> Tensor:
        sliding, first = self.plan.trace.sliding[node], self._origin(node)
        size = self.group.sizes[node]
        pairs = list(zip(sliding.slides, size, strict=True))
        start = torch.stack([s.start(o) for s, o in zip(sliding.slides, first, strict=True)])
        patches = self._cut(node.inputs[0], start, [s.read(n) for s, n in pairs], sliding.fill)
        z = sliding.run(patches, relu)
        for by, maps in (("add_", sliding.bias_map), ("mul_", sliding.factors(z))):
            if maps is not None:
                z = getattr(z, by)(self._part(maps, node))
        return z.relu_() if relu and sliding.bias_map is not None else z

    def _part(self, maps: Tensor, node: Node) -> Tensor:
        """Values of a constant [1, channels, *shape] in a node's boxes."""
        first, size = self._origin(node).to(maps.device), self.group.sizes[node]
        return ops.cut_boxes(_behind(maps)[0], None, None, first, size).movedim(-1, 1)

    def _at(self, x: Node, node: Node) -> Tensor:
        """Values of one of the node's operands in its boxes."""
        first, size = self._origin(node), self.group.sizes[node]
        if self.group.sizes[x] == size and torch.equal(self._origin(x), first):
            return self.boxes[x]
        return self._cut(x, first, size)

    def _constant(self, x: Node, node: Node) -> Any:
        """A constant, or what lies of it in the node's boxes if it differs between positions."""
        value, dims = self.plan.run.weights.value(x), dims_of(node)
        if not isinstance(value, Tensor) or all(n == 1 for n in value.shape[-dims:]):
            return value
        if node.op == "prelu":  # a number for each channel, whatever the shape
            return value
        missing = dims + 2 - value.dim()
        maps = value.reshape(*[1] * missing, *value.shape)
        return self._part(maps.expand(1, maps.shape[1], *node.shape[1:]), node)

    # -- whole maps --

    def _whole(self, node: Node) -> Any:
        """The value of a node for all rows."""
        if node not in self.values:
            size = node.shape[1:]
            start = torch.zeros(len(size), len(self.rows), dtype=torch.long, device="cpu")
            self.values[node] = self._cut(node, start, size)
        return self.values[node]

    def _sized(self, node: Node) -> Any:
        """Something of the shape of a node, or a value that is no map."""
        if node in self.values:
            return self.values[node]
        like = self.boxes[node]
        return like.new_zeros(()).expand(len(self.rows), *node.shape)


def plan_of(
    propagation: Propagation, entry: Node, spans: Spans, index: Sequence[Tensor]
) -> Changes:
    """The plan for changes of one input, made at the first call with such intervals and kept."""
    key = (*(end for span in spans for end in (span.low, span.high)), *index)
    plans = propagation.plans
    for i, (known, plan) in enumerate(plans):
        if (
            plan.trace.entry is entry
            and len(known) == len(key)
            and all(map(torch.equal, known, key))
        ):
            plans.insert(0, plans.pop(i))
            return plan
    plan = Changes(propagation, entry, spans, index)
    plans[:] = [(key, plan), *plans[: PLANS - 1]]
    return plan
