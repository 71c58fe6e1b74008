"""Recurrent layers as nodes with one output: `aten.lstm` and `aten.gru` return several.

The outputs of a call are laid side by side, [N, everything of a sample], and what took one of them
takes its part of that: an ordinary move of values. So the engine, which hands one tensor on from
node to node, needs to know nothing of recurrence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

if TYPE_CHECKING:
    from .facts import Node

aten = torch.ops.aten

LAYERS = {aten.lstm, aten.gru}
CELLS = {aten.lstm_cell, aten.gru_cell}


def _stacked(target: Callable, x: Tensor, states: Any, weights: list, options: list) -> Tensor:
    """All outputs of a call, [N, -1]."""
    if target.overloadpacket in CELLS:  # type: ignore[attr-defined]
        out, dim = target(x, states, *weights), 0
    else:
        out, dim = target(x, states, weights, *options), 1
    outputs = [out] if isinstance(out, Tensor) else list(out)
    dims = [dim] * len(outputs)
    if dim:
        dims[0] = 0 if options[-1] else 1  # batch_first concerns the sequence alone
    flat = [y.movedim(d, 0).flatten(1) for y, d in zip(outputs, dims, strict=True)]
    return torch.cat(flat, 1)


def lstm(target: Callable, x: Tensor, states: Any, weights: list, options: list) -> Tensor:
    """All outputs of an LSTM or of its cell, side by side."""
    return _stacked(target, x, states, weights, options)


def gru(target: Callable, x: Tensor, states: Any, weights: list, options: list) -> Tensor:
    """All outputs of a GRU or of its cell, side by side."""
    return _stacked(target, x, states, weights, options)


KINDS: dict[object, str] = {lstm: "lstm", gru: "gru"}


def part(whole: Tensor, start: int, sizes: list[int], dim: int) -> Tensor:
    """One of the outputs: `sizes` numbers of each sample from `start`, the batch at `dim`."""
    piece = whole.narrow(1, start, math.prod(sizes))
    return piece.reshape(whole.shape[0], *sizes).movedim(0, dim)


# ---- canonize --------------------------------------------------------------------------------


def one_output_each(graph: fx.Graph, emit: Callable, replace: Callable) -> None:
    """Rewrite every recurrent call and what takes its outputs."""
    for node in list(graph.nodes):
        packet = getattr(node.target, "overloadpacket", None)
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
        _take_parts(node, whole, sizes, dims, emit, replace)


def _take_parts(
    node: fx.Node,
    whole: fx.Node,
    sizes: list[list[int]],
    dims: list[int],
    emit: Callable,
    replace: Callable,
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
    """What the arguments of a recurrent node say."""

    node: Node

    @property
    def is_cell(self) -> bool:
        """Whether the node is one step."""
        return self.node.args[0].overloadpacket in CELLS

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
        states = self.node.args[2]
        return list(states) if isinstance(states, (list, tuple)) else [states]

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
