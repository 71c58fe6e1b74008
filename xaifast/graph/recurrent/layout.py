"""Recurrent layers as nodes with one output: `aten.lstm` and `aten.gru` return several.

The outputs of a call are laid side by side, [N, everything of a sample], and what took one of them
takes its part of that: an ordinary move of values. So the engine, which hands one tensor on from
node to node, needs to know nothing of recurrence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ..edit import emit, replace
from ..node import Node

aten = torch.ops.aten

LAYERS = {aten.lstm, aten.gru}
CELLS = {aten.lstm_cell, aten.gru_cell}


def _stacked(
    target: Callable | None,
    x: Tensor,
    states: Any,
    weights: list,
    options: list,
    lengths: Tensor | None = None,
) -> Tensor:
    """All outputs of a call, [N, -1]."""
    if target is None:
        assert lengths is not None  # what is packed has lengths
        out, dim = _packed(x, states, weights, options, lengths), 1
    elif target.overloadpacket in CELLS:  # type: ignore[attr-defined]
        out, dim = target(x, states, *weights), 0
    else:
        out, dim = target(x, states, weights, *options), 1
    outputs = [out] if isinstance(out, Tensor) else list(out)
    dims = [dim] * len(outputs)
    if dim:
        dims[0] = 0 if options[-1] else 1  # batch_first concerns the sequence alone
    flat = [y.movedim(d, 0).flatten(1) for y, d in zip(outputs, dims, strict=True)]
    return torch.cat(flat, 1)


def _packed(x: Tensor, states: Any, weights: list, options: list, lengths: Tensor) -> tuple:
    """The outputs of a layer on x [T, N, F] of several lengths, zeros behind their ends."""
    packed = pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False)
    data, batch_sizes, order, back = packed
    given = [s.index_select(1, order) for s in _listed(states)]
    if len(given) == 2:
        y, *last = aten.lstm.data(data, batch_sizes, given, weights, *options[:-1])
    else:
        y, *last = aten.gru.data(data, batch_sizes, given[0], weights, *options[:-1])
    sequence = PackedSequence(y, batch_sizes, order, back)
    y, _ = pad_packed_sequence(sequence, total_length=len(x))
    return (y, *(s.index_select(1, back) for s in last))


def _listed(states: Any) -> list[Any]:
    return list(states) if isinstance(states, (list, tuple)) else [states]


# The target is ATen's, or None for sequences of several lengths [N].
def lstm(
    target: Callable | None,
    x: Tensor,
    states: Any,
    weights: list,
    options: list,
    lengths: Tensor | None = None,
) -> Tensor:
    """All outputs of an LSTM or of its cell, side by side."""
    return _stacked(target, x, states, weights, options, lengths)


def gru(
    target: Callable | None,
    x: Tensor,
    states: Any,
    weights: list,
    options: list,
    lengths: Tensor | None = None,
) -> Tensor:
    """All outputs of a GRU or of its cell, side by side."""
    return _stacked(target, x, states, weights, options, lengths)


KINDS: dict[object, str] = {lstm: "lstm", gru: "gru"}


def part(whole: Tensor, start: int, sizes: list[int], dim: int) -> Tensor:
    """One of the outputs: `sizes` numbers of each sample from `start`, the batch at `dim`."""
    piece = whole.narrow(1, start, math.prod(sizes))
    return piece.reshape(whole.shape[0], *sizes).movedim(0, dim)


# ---- canonize --------------------------------------------------------------------------------


def one_output_each(graph: fx.Graph) -> None:
    """Rewrite every recurrent call and what takes its outputs."""
    for node in list(graph.nodes):
        packet = getattr(node.target, "overloadpacket", None)
        if packet is torch.ops.xaifast.packed_rnn:
            _told_lengths(node)
        if packet not in LAYERS | CELLS or node.target in (aten.lstm.data, aten.gru.data):
            continue
        x, states, *rest = node.args
        is_cell = packet in CELLS
        weights, options = (rest, []) if is_cell else (rest[0], rest[1:])
        function = lstm if packet in (aten.lstm, aten.lstm_cell) else gru
        values = node.meta["val"]
        outputs = [values] if isinstance(values, Tensor) else list(values)
        dims = [0 if is_cell else 1] * len(outputs)
        if not is_cell and options[-1]:
            dims[0] = 0
        sizes = [
            [n for i, n in enumerate(y.shape) if i != dim]
            for y, dim in zip(outputs, dims, strict=True)
        ]
        if not all(isinstance(n, int) for size in sizes for n in size):
            continue  # the length is symbolic: not what a sample has
        batch = outputs[0].shape[dims[0]]
        value = outputs[0].new_empty((batch, sum(map(math.prod, sizes))))
        call = (node.target, x, states, list(weights), list(options))
        whole = emit(node, function, *call, origin=node, value=value)
        _take_parts(node, whole, sizes, dims)


def _arguments(node: fx.Node) -> Any:
    return node.args


def _told_lengths(node: fx.Node) -> None:
    """A layer on packed sequences: it has one output already."""
    given: Any
    x, lengths, states, weights, has_biases, layers, bidirectional = _arguments(node)
    function = lstm if len(states) == 2 else gru
    options = [has_biases, layers, 0.0, False, bidirectional, False]
    given = list(states) if len(states) == 2 else states[0]
    call = (None, x, given, list(weights), options, lengths)
    replace(node, emit(node, function, *call, value=node.meta["val"]))


def _take_parts(
    node: fx.Node,
    whole: fx.Node,
    sizes: list[list[int]],
    dims: list[int],
) -> None:
    starts = [sum(math.prod(s) for s in sizes[:k]) for k in range(len(sizes))]

    def take(old: fx.Node, k: int) -> None:
        replace(old, emit(old, part, whole, starts[k], sizes[k], dims[k], origin=node))

    if isinstance(node.meta["val"], Tensor):
        take(node, 0)
        return
    for user in list(node.users):
        take(user, user.args[1])  # type: ignore[arg-type]
    node.graph.erase_node(node)


# ---- a call, read by a rule ------------------------------------------------------------------


@dataclass(frozen=True)
class Direction:
    """One layer in one direction: its weights, and its biases if it has some."""

    w_x: Tensor
    w_h: Tensor
    b_x: Tensor | None
    b_h: Tensor | None


@dataclass(frozen=True)
class Layout:
    """The arguments of a recurrent node by name."""

    node: Node

    @property
    def is_cell(self) -> bool:
        """Whether the node is one step."""
        target = self.node.args[0]
        return target is not None and target.overloadpacket in CELLS

    @property
    def is_lstm(self) -> bool:
        """Whether it has a cell state."""
        return self.node.kind == "lstm"

    @property
    def x(self) -> Any:
        """The operand that enters at every step."""
        return self.node.args[1]

    @property
    def states(self) -> list[Any]:
        """The operands h_0 and, for an LSTM, c_0."""
        return _listed(self.node.args[2])

    @property
    def lengths(self) -> Any:
        """The operand that holds the steps of each sample, longest first; None: all have all."""
        return (*self.node.args, None)[5]

    @property
    def weights(self) -> list[Any]:
        """All weights and biases, in PyTorch's order."""
        return list(self.node.args[3])

    @property
    def options(self) -> tuple[bool, int, bool, bool]:
        """(has biases, layers, both directions, batch first)."""
        if self.is_cell:
            return self.weights[2] is not None, 1, False, False
        has_biases, layers, _, _, bidirectional, batch_first = self.node.args[4]
        return has_biases, layers, bidirectional, batch_first

    def is_projected(self) -> bool:
        """Whether the output of each step is a projection of its units."""
        has_biases, layers, bidirectional, _ = self.options
        count = (4 if has_biases else 2) * layers * (2 if bidirectional else 1)
        return not self.is_cell and len(self.weights) != count

    def directions(self, value: Callable[[Any], Any]) -> list[list[Direction]]:
        """The weights by layer and direction."""
        has_biases, layers, bidirectional, _ = self.options
        count, ways = (4 if has_biases else 2), (2 if bidirectional else 1)
        tensors: Sequence[Any] = [w if w is None else value(w) for w in self.weights]
        groups = [
            Direction(*(*tensors[i : i + count], None, None)[:4])
            for i in range(0, count * layers * ways, count)
        ]
        return [groups[i : i + ways] for i in range(0, len(groups), ways)]
