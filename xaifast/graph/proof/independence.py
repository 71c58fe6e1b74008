"""Whether row i of a graph's output depends on row i of its inputs alone: shown node by node.

Every value that has rows holds them along one dimension of size outer x batch x inner: steps, heads
or windows may be folded into it, and unfolded. A node keeps rows apart if nothing of its arithmetic
goes along that dimension. What is not in the tables below is not shown, which is no refutation.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from .. import operations
from ..operations import named
from ..recurrent import layout as recurrent

aten = torch.ops.aten

Axis = tuple[int, int, int]  # (dimension, outer, inner)
ROWS = (0, 1, 1)


# Copies and casts; what is tagged as pointwise is found by its tag.
ELEMENTWISE = {operations.affine} | named("""
    _to_copy to type_as clone contiguous detach alias lift_fresh_copy masked_fill where
""")
# Move dimensions about; each keeps its elements in their order.
MOVES = named("permute transpose t movedim moveaxis squeeze unsqueeze expand expand_as")
MOVES |= {recurrent.part, operator.getitem}
VIEWS = named("view reshape _unsafe_view flatten unflatten")
# Work within the samples of a map [N, channels, ...].
MAPS = {operations.cropped, operations.adaptive_max_pool} | named("""
    conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d conv_transpose3d
    max_pool1d max_pool2d max_pool3d max_pool2d_with_indices avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d
    _adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d
    upsample_bicubic2d upsample_trilinear3d pixel_shuffle pixel_unshuffle channel_shuffle im2col
    col2im group_norm instance_norm reflection_pad1d reflection_pad2d reflection_pad3d
    replication_pad1d replication_pad2d replication_pad3d
""")
# Go along the dimensions that they name as this argument.
ALONG = {
    op: place
    for place, names in {
        1: """
            sum mean amax amin max min prod any all argmax argmin logsumexp softmax _softmax
            log_softmax _log_softmax cumsum cumprod flip glu select slice narrow index_select
            gather unfold unbind median sort argsort var std count_nonzero
        """,
        2: "linalg_vector_norm norm topk roll",
    }.items()
    for op in named(names)
}
EVERYTHING = 2**62  # where a slice without an end ends
# The same number for all rows, however many there are.
UNIFORM = named("""
    zeros ones full new_zeros new_ones new_full zeros_like ones_like full_like expand
""")
FILLS = {aten.full: 1, aten.full_like: 1, aten.new_full: 2}  # the place of their number


class _NotShownError(Exception):
    """Some node may let rows see each other."""


class _Proof:
    """The axis of every value of a graph, found in execution order."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch  # its symbol
        self.axes: dict[fx.Node, Axis | None] = {}
        self.sizes: set[fx.Node] = set()  # numbers that depend on how many rows there are

    # -- what is known of values --

    def place_of(self, value: Any) -> tuple[int, int] | None:
        """The dimension that has the batch in a value of this shape, and how often."""
        if isinstance(value, (tuple, list)):
            found = {self.place_of(v) for v in value if isinstance(v, Tensor)}
            if len(found) != 1:
                raise _NotShownError
            return found.pop()
        places = [i for i, n in enumerate(value.shape) if isinstance(n, torch.SymInt)]
        if not places:
            return None
        times = value.shape[places[0]].node.expr / self.batch
        if len(places) > 1 or not times.is_Integer:
            raise _NotShownError
        return places[0], int(times)

    def _folded(self, node: fx.Node, packet: Any, dim: int, times: int) -> Axis:
        """The axis of a value that has the batch there, so often."""
        rows = list(self.rows_in([node.args, list(node.kwargs.values())]))
        outer = {self.axes[n][1] for n in rows} or {1}  # type: ignore[index]
        if packet in VIEWS and rows == [node.args[0]]:
            place, before, _ = self.axes[rows[0]]  # type: ignore[misc]
            before *= _count(rows[0].meta["val"].shape[:place])
            ahead = _count(node.meta["val"].shape[:dim])
            if before % ahead:
                raise _NotShownError
            outer = {before // ahead}
        if len(outer) > 1 or times % (found := outer.pop()):
            raise _NotShownError
        return dim, found, times // found

    def rows_in(self, argument: Any) -> Iterator[fx.Node]:
        """The operands with rows."""
        for node in _nodes(argument):
            if self.axes.get(node) is not None:
                yield node

    def _rank(self, node: fx.Node) -> int:
        return node.meta["val"].dim()

    # -- one node --

    def visit(self, node: fx.Node) -> None:
        """Find the axis of a node; raise where rows may meet."""
        value = node.meta.get("val")
        operands = [*_nodes(node.args), *_nodes(list(node.kwargs.values()))]
        packet = getattr(node.target, "overloadpacket", node.target)
        if not isinstance(value, (Tensor, tuple, list)):
            if packet is not aten.sym_size and any(self.axes.get(n) for n in operands):
                raise _NotShownError
            if not isinstance(value, int) or any(n in self.sizes for n in operands):
                self.sizes.add(node)
            self.axes[node] = None
            return
        if packet in FILLS and node.args[FILLS[packet]] in self.sizes:
            raise _NotShownError
        place = self.place_of(value)
        axis = place and self._folded(node, packet, *place)
        if not any(self.axes.get(n) for n in operands):
            sized = axis is not None or any(n in self.sizes for n in operands)
            if sized and packet not in UNIFORM:
                raise _NotShownError
        elif axis is None or not self._apart(node, packet, axis):
            raise _NotShownError
        self.axes[node] = axis

    def _apart(self, node: fx.Node, packet: Any, axis: Axis) -> bool:
        """Whether a node with operands that have rows keeps them apart."""
        if packet in ELEMENTWISE or torch.Tag.pointwise in getattr(node.target, "tags", ()):
            return self._elementwise(node, axis)
        if packet in ALONG:
            return self._along(node, ALONG[packet])
        if packet in MAPS:
            return self._first_only(node) and self.axes[node.args[0]][0] == 0  # type: ignore[index]
        for ops, check in CHECKS:
            if packet in ops:
                return check(self, node, axis)
        return False

    def _elementwise(self, node: fx.Node, axis: Axis) -> bool:
        """All operands have their rows at one place, counted from the last dimension."""
        operands = [*_nodes(node.args), *_nodes(list(node.kwargs.values()))]
        behind = node.meta["val"].dim() - axis[0]
        return not any(n in self.sizes for n in operands) and all(
            (self._rank(n) - own[0], *own[1:]) == (behind, *axis[1:])
            for n in operands
            if (own := self.axes.get(n)) is not None
        )

    def _first_only(self, node: fx.Node) -> bool:
        """Whether the first operand has rows, and no other."""
        return list(self.rows_in([node.args, list(node.kwargs.values())])) == [node.args[0]]

    def _along(self, node: fx.Node, place: int) -> bool:
        """Whether the dimensions that a node names leave out that of the rows."""
        x = node.args[0]
        mine = self.axes.get(x)  # type: ignore[arg-type]
        if mine is None or any(self.axes[n] != mine for n in self.rows_in(node.args)):
            return False
        if len(node.args) <= place:
            return False
        dims = node.args[place]
        dims = [dims] if isinstance(dims, int) else dims
        if not isinstance(dims, (list, tuple)) or not dims:
            return False
        rank = self._rank(x)  # type: ignore[arg-type]
        if all(isinstance(d, int) and d % rank != mine[0] for d in dims):
            return True
        whole = node.target is aten.slice.Tensor and node.args[2:4] in ((0,), (None,))
        return whole or (
            node.target is aten.slice.Tensor
            and node.args[2] in (0, None)
            and isinstance(node.args[3], int)
            and node.args[3] > EVERYTHING
            and node.args[4:] in ((), (1,))
        )

    def moves(self, node: fx.Node, axis: Axis) -> bool:
        """A move keeps the one dimension of the rows."""
        own = self.axes.get(node.args[0])  # type: ignore[arg-type]
        return own is not None and own[1:] == axis[1:]

    def views(self, node: fx.Node, axis: Axis) -> bool:
        """`_folded` has seen to it that as many elements are before the rows as there were."""
        return self._first_only(node)

    def linear(self, node: fx.Node, axis: Axis) -> bool:
        """Dense layers go along the last dimension."""
        x = node.args[0]
        return self._first_only(node) and self.axes[x][0] != self._rank(x) - 1  # type: ignore[index,arg-type]

    def with_bias_map(self, node: fx.Node, axis: Axis) -> bool:
        """A dense layer or a convolution, plus a constant."""
        dense = node.args[3].overloadpacket is aten.linear  # type: ignore[union-attr]
        at = self.axes[node.args[0]]  # type: ignore[index]
        return self.linear(node, axis) if dense else self._first_only(node) and at[0] == 0  # type: ignore[index]

    def product(self, node: fx.Node, axis: Axis) -> bool:
        """Matrix products sum over the last dimension of one and the last but one of the other."""
        x, y = node.args[:2]
        a, b = ((self.axes.get(v), self._rank(v)) for v in (x, y))  # type: ignore[arg-type]
        if a[0] is not None and b[0] is not None:  # of a pair of matrices in each sample
            behind = a[1] - a[0][0], b[1] - b[0][0]
            return behind[0] == behind[1] > 2 and a[0][1:] == b[0][1:]
        if b[1] == 1 or a[1] == 1:
            return b[0] is None and a[0] is not None and a[0][0] != a[1] - 1
        if a[0] is not None:
            return a[0][0] != a[1] - 1
        return b[0] is not None and b[0][0] != b[1] - 2

    def attention(self, node: fx.Node, axis: Axis) -> bool:
        """Queries, keys and values of one sample."""
        at = [(self.axes.get(v), self._rank(v)) for v in node.args[:3]]  # type: ignore[arg-type]
        mask = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
        if isinstance(mask, fx.Node) and self.axes.get(mask) is not None:
            place, *folded = self.axes[mask]  # type: ignore[misc]
            if (self._rank(mask) - place, *folded) != (at[0][1] - axis[0], *axis[1:]):
                return False
        return all(a == axis and axis[0] < rank - 2 for a, rank in at)

    def layer_norm(self, node: fx.Node, axis: Axis) -> bool:
        """It goes along the last dimensions."""
        normalized = len(node.args[1])  # type: ignore[arg-type]
        return self._first_only(node) and axis[0] < self._rank(node.args[0]) - normalized  # type: ignore[arg-type]

    def batch_norm(self, node: fx.Node, axis: Axis) -> bool:
        """With running statistics only."""
        return self._first_only(node) and len(node.args) > 5 and node.args[5] is False

    def joined(self, node: fx.Node, axis: Axis) -> bool:
        """Values put side by side, along another dimension."""
        values = list(node.args[0])  # type: ignore[arg-type]
        dim = node.args[1] if len(node.args) > 1 else 0
        apart = dim % node.meta["val"].dim() != axis[0]
        return apart and len({self.axes.get(v) for v in values}) == 1

    def padded(self, node: fx.Node, axis: Axis) -> bool:
        """Padding of the last dimensions."""
        pads = node.args[1]
        return axis[0] < self._rank(node.args[0]) - len(pads) // 2  # type: ignore[arg-type]

    def embedded(self, node: fx.Node, axis: Axis) -> bool:
        """Numbers of rows look up one table."""
        return self.axes.get(node.args[0]) is None and self.axes[node.args[1]] == axis  # type: ignore[arg-type,index]

    def indexed(self, node: fx.Node, axis: Axis) -> bool:
        """An index that takes the dimension of the rows as a whole, and has none itself."""
        x, indices = node.args[:2]
        at = self.axes.get(x)  # type: ignore[arg-type]
        untouched = at is not None and (len(indices) <= at[0] or indices[at[0]] is None)  # type: ignore[arg-type,index]
        return untouched and not list(self.rows_in(indices))

    def triangle(self, node: fx.Node, axis: Axis) -> bool:
        """Parts of the last two dimensions."""
        return axis[0] < self._rank(node.args[0]) - 2  # type: ignore[arg-type]

    def recurrent(self, node: fx.Node, axis: Axis) -> bool:
        """Sequences side by side; their steps are another dimension."""
        arguments: Any = node.args
        target, x, states, weights, options, *lengths = arguments
        if list(self.rows_in(weights)):
            return False
        cell = target is not None and target.overloadpacket in recurrent.CELLS
        first = cell or (target is not None and bool(options[-1]))
        state = 0 if cell else 1
        own = self.axes.get(x) == (0 if first else 1, 1, 1)
        given = states if isinstance(states, (list, tuple)) else [states]
        kept = all(self.axes.get(s) in (None, (state, 1, 1)) for s in given)
        return own and kept and all(self.axes.get(v) == ROWS for v in lengths if v is not None)

    def lengths(self, node: fx.Node, axis: Axis) -> bool:
        """A check of each length."""
        return self.axes.get(node.args[0]) == ROWS  # type: ignore[arg-type]


CHECKS: list[tuple[set[Any], Callable[[_Proof, fx.Node, Axis], bool]]] = [
    (MOVES, _Proof.moves),
    (VIEWS, _Proof.views),
    ({aten.linear}, _Proof.linear),
    ({operations.with_bias_map}, _Proof.with_bias_map),
    (named("matmul mm bmm mv"), _Proof.product),
    (named("scaled_dot_product_attention"), _Proof.attention),
    (named("layer_norm rms_norm"), _Proof.layer_norm),
    (named("batch_norm"), _Proof.batch_norm),
    (named("cat concat stack"), _Proof.joined),
    (named("constant_pad_nd pad"), _Proof.padded),
    (named("embedding"), _Proof.embedded),
    (named("index"), _Proof.indexed),
    (named("tril triu"), _Proof.triangle),
    ({recurrent.lstm, recurrent.gru}, _Proof.recurrent),
    ({torch.ops.xaifast.sequence_lengths}, _Proof.lengths),
    (UNIFORM, lambda proof, node, axis: True),  # their numbers are no rows
]


def _nodes(argument: Any) -> Iterator[fx.Node]:
    if isinstance(argument, fx.Node):
        yield argument
    elif isinstance(argument, (list, tuple)):
        for a in argument:
            yield from _nodes(a)


def _count(sizes: Any) -> int:
    total = 1
    for n in sizes:
        total *= int(n)
    return total


def rows_apart(graph: fx.Graph, inputs: dict[str, bool]) -> bool:
    """Whether row i of the output is shown to depend on row i of the inputs alone.

    Parameters
    ----------
    graph : canonical, its batch symbolic.
    inputs : the names of its inputs, and whether each holds a row for each sample.
    """
    values = {n.name: n.meta.get("val") for n in graph.nodes if n.name in inputs}
    leading = [values[name].shape[0] for name, row in inputs.items() if row]
    if not leading or not all(isinstance(n, torch.SymInt) for n in leading):
        return False
    proof = _Proof(leading[0].node.expr)
    try:
        for node in graph.nodes:
            if node.op == "placeholder":
                value = node.meta.get("val")
                place = proof.place_of(value) if isinstance(value, Tensor) else None
                if place is not None and (place != (0, 1) or not inputs.get(node.name)):
                    return False
                proof.axes[node] = place and ROWS
            elif node.op == "call_function":
                proof.visit(node)
            elif node.op == "output":
                return proof.axes.get(node.args[0]) == ROWS
    except _NotShownError:
        return False
    return False
