"""Paths through an LSTM: all nodes of the quadrature in one native call.

A model that is one LSTM layer and a linear head is found in its captured graph. On the path
x' + alpha (x - x') the inputs of its gates are linear in alpha, so W_ih is applied once to each end
and, transposed, once to the sum of the gradients (book, 19.2.3):

    R = (x - x') * (W_ih^T sum_k w_k dS / da (alpha_k)),   a the inputs of the gates

Each direction of a layer has its own path, and what the linear head reads of it: S and R are sums
over both. Stacked layers go by autograd: what enters the upper ones is not linear in alpha.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ... import ops
from ...engine.arguments import Call, module_of, runs_as
from ...engine.batching import batches, rows_of
from ...engine.evaluation import WORTH_CAPTURING
from ...errors import ModelError
from ...graph.facts import ModelGraph
from ...graph.model import model_graph
from ...graph.node import Node, nodes_in
from ...graph.recurrent import layout as recurrent
from ...graph.signature import signature_of
from ...graph.weights import Weights, check_flat
from ..base import progress_bar
from .adaptive import Wanted, adaptive_weights
from .cell_states import CellStates

aten = torch.ops.aten

# Affine maps of the states that read no other sample; each output must read a single step.
TAIL = {
    aten.linear, aten.slice, aten.select, aten.squeeze, aten.unsqueeze, aten.transpose,
    aten.permute, aten.view, aten.reshape, aten.flatten, aten.t, aten.cat, aten.add, aten.narrow,
    recurrent.part,
}  # fmt: skip
ZEROS = {aten.zeros, aten.new_zeros, aten.zeros_like}
MOST_PROBED = 10**7  # numbers of the derivative of all outputs by all states
BLOCK = 2**23  # numbers of the gradients at the gates, at once
# Units of a layer. The lead over autograd shrinks with them: 10 times as fast at 10 units, 2.3 at
# 128, 1.7 at 256 (one core with AVX-512, float32); beyond, nothing was measured.
LARGEST = 256


def _packet(node: Node) -> Any:
    return getattr(node.target, "overloadpacket", node.target)


# ---- the layer ---------------------------------------------------------------------------------


@dataclass
class Way:
    """One direction of the layer, and the targets as its states.

    S = h . h_t + c . c_t at t = step, in its own order of time; w_ih [4 H, F], w_hh [4 H, H], bias
    [4 H] or None, h and c [M, N, H], step [M, N]. Targets are sums over both directions.
    """

    w_ih: Tensor
    w_hh: Tensor
    bias: Tensor | None
    h: Tensor
    c: Tensor
    step: Tensor
    backwards: bool = False

    def run(
        self, samples: Any, x: Tensor, baseline: Tensor, alpha: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients at the inputs [M, n, T, F], and S and dS/dalpha [M, n, K], of some samples.

        x and baseline [n or 1, T, F], alpha [n, K] and weight [M, n, K] in float64.
        """
        if self.backwards:
            x, baseline = x.flip(1), baseline.flip(1)
        product = torch.nn.functional.linear
        start, change = product(baseline, self.w_ih, self.bias), product(x - baseline, self.w_ih)
        seeds = (states[:, samples] for states in (self.h, self.c, self.step))
        G, S, slope = ops.lstm_path(
            start, change, self.w_hh, alpha.to(x.device), weight.to(x.device), *seeds
        )
        R = G @ self.w_ih
        return (R.flip(2) if self.backwards else R), S, slope


@dataclass
class Paths:
    """A path through the layer for each sample: x [N, T, F], baseline [N or 1, T, F].

    rows: how many nodes to take at once, all samples counted.
    """

    ways: list[Way]
    x: Tensor
    baseline: Tensor
    rows: int

    @property
    def targets(self) -> int:
        """M."""
        return len(self.ways[0].step)

    def at_once(self, nodes: int) -> int:
        """How many samples with so many nodes."""
        gates = self.targets * self.x.shape[1] * len(self.ways[0].w_ih)
        return max(1, min(self.rows // max(1, nodes), BLOCK // max(1, gates)))

    def run(self, samples: Any, alpha: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `Way.run`, summed over the directions; no more than `rows` nodes for one sample."""
        x, baseline = self.x[samples], rows_of(self.baseline, samples)
        R, at_nodes = x.new_zeros((self.targets, *x.shape)), []
        for nodes in batches(alpha.shape[1], self.rows):
            parts = (alpha[:, nodes], weight[:, :, nodes])
            found = [way.run(samples, x, baseline, *parts) for way in self.ways]
            for part, _, _ in found:
                R += part
            at_nodes.append(torch.stack([torch.stack(values) for _, *values in found]).sum(0))
        S, slope = torch.cat(at_nodes, 3)
        return R, S, slope


def path_sums(paths: Paths, rule: tuple[Tensor, Tensor], who: str, show: bool) -> Tensor:
    """The gradient at the inputs, averaged along the path of each sample, [M, N, T, F]."""
    (alpha, weight), N = rule, len(paths.x)
    parts, K = [], len(rule[0])
    with progress_bar(N * K, who, show) as bar:
        for samples in batches(N, paths.at_once(K)):
            n = samples.stop - samples.start
            nodes, weights = alpha.expand(n, K), weight.expand(paths.targets, n, K)
            parts.append(paths.run(samples, nodes, weights)[0])
            bar.update(n * K)
    return torch.cat(parts, 1)


def adaptive_sums(paths: Paths, tolerance: float, who: str) -> Tensor:
    """The same with nodes where the output changes; the gradient is summed when they are known."""
    M, N = paths.targets, len(paths.x)

    def evaluate(wanted: Wanted) -> list[tuple[list[float], list[float]]]:
        by_sample: dict[int, list[int]] = {}
        for r, (n, _) in enumerate(wanted):
            by_sample.setdefault(n, []).append(r)
        found: list[Any] = [None] * len(wanted)
        several = list(by_sample)
        for some in batches(len(several), paths.at_once(max(map(len, by_sample.values())))):
            samples = several[some]
            alpha = _padded([[wanted[r][1] for r in by_sample[n]] for n in samples])
            _, S, slope = paths.run(
                samples, alpha, torch.zeros(M, *alpha.shape, dtype=torch.float64, device="cpu")
            )
            S, slope = S.cpu(), slope.cpu()
            for i, n in enumerate(samples):
                for k, r in enumerate(by_sample[n]):
                    found[r] = (S[:, i, k].tolist(), slope[:, i, k].tolist())
        return found

    nodes = adaptive_weights(who, N, M, tolerance, evaluate)
    parts = []
    for samples in batches(N, paths.at_once(max(len(alphas) for alphas, _ in nodes))):
        alphas, weights = zip(*nodes[samples], strict=True)
        weight = torch.stack([_padded([w[m] for w in weights]) for m in range(M)])
        parts.append(paths.run(samples, _padded(alphas), weight)[0])
    return torch.cat(parts, 1)


def _padded(rows: Sequence[Sequence[float]]) -> Tensor:
    """Rows of numbers side by side, in float64, zeros behind the shorter ones."""
    filled = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.float64, device="cpu")
    for to, row in zip(filled, rows, strict=True):
        to[: len(row)] = torch.tensor(row, dtype=torch.float64, device="cpu")
    return filled


# ---- the network -------------------------------------------------------------------------------


@dataclass
class LstmNetwork:
    """A model that is one LSTM layer and a linear head, with its graph."""

    module: nn.Module
    graph: ModelGraph
    node: Node  # of the LSTM

    def ways(self, call: Call) -> list[Way] | None:
        """The directions and the targets as their states; None if one reads several steps."""
        seeds = self._seeds(call.inputs[0])
        if seeds is None:
            return None
        shape, of_outputs = seeds
        found = []
        (weights,) = recurrent.Layout(self.node).directions(Weights(self.module).value)
        for d, (way, of_each) in enumerate(zip(weights, of_outputs, strict=True)):
            states = _selected(call, shape, *of_each)
            if states is None:
                return None
            bias = None if way.b_x is None or way.b_h is None else way.b_x + way.b_h
            found.append(Way(way.w_x, way.w_h, bias, *states, backwards=d == 1))
        return [way for way in found if way.h.any() or way.c.any()] or found[:1]

    def _seeds(self, x: Tensor) -> tuple[tuple[int, ...], list[States]] | None:
        """The shape of the output, and for each direction the states that each output reads."""
        shape = self._head(x[:1], 1)[0].shape[1:]
        count, T = shape.numel(), x.shape[1]
        if count * T * self._width > MOST_PROBED:
            return None
        output, states = self._head(x[:1], count + 2)  # row n is for output n
        flat = output.reshape(count + 2, -1)
        options: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}
        of_one = torch.autograd.grad(flat[0].sum(), states, retain_graph=True, **options)
        if any(g[1:].any() for g in of_one):  # it reads other samples
            return None
        found = torch.autograd.grad(flat.diagonal().sum(), states, **options)
        by_way = zip(*(g[:count].chunk(self._ways, -1) for g in found), strict=True)
        steps = [_single_step(y.flip(1) if d else y, h, c) for d, (y, h, c) in enumerate(by_way)]
        return None if None in steps else (tuple(shape), steps)  # type: ignore[return-value]

    @property
    def _ways(self) -> int:
        """Directions."""
        return 2 if self.node.args[4][4] else 1

    @property
    def _width(self) -> int:
        """Units of all directions."""
        return self._ways * self.node.args[3][1].shape[-1]

    def _head(self, x: Tensor, rows: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The output for `rows` rows of states of zeros, and the states y, h and c."""
        value = Weights(self.module).value
        x = x.new_zeros((rows, *x.shape[1:]))
        width = self._width
        y = x.new_zeros(rows, x.shape[1], width)
        last = x.new_zeros(rows, width), x.new_zeros(rows, width)
        states = tuple(s.requires_grad_() for s in (y, *last))
        values: dict[Node, Any] = {self.graph.inputs[0]: x}

        def lookup(node: Node) -> Any:
            return value(node) if node.constant else values[node]

        with torch.enable_grad():
            for node in self.graph.nodes:
                if node is self.node:
                    y, h, c = states
                    values[node] = torch.cat([y.flatten(1), h, c], 1)
                elif not node.constant and node.kind != "input":
                    values[node] = node.call(lookup)
        return lookup(self.graph.output), states


States = tuple[Tensor, Tensor, Tensor]  # h [.., H], c [.., H] and the step of each


def _single_step(by_y: Tensor, by_h: Tensor, by_c: Tensor) -> States | None:
    """The one step of a direction that each output reads, and how; None if one reads several.

    by_y [outputs, T, H], by_h and by_c [outputs, H]: derivatives by the outputs at all steps, in
    the direction's own order, and by its last states.
    """
    T = by_y.shape[1]
    by_y[:, -1] += by_h
    reads = (by_y != 0).any(2)  # [outputs, T]
    step = torch.where(reads.any(1), reads.int().argmax(1), T - 1)
    if (reads.sum(1) > 1).any() or ((by_c != 0).any(1) & (step != T - 1)).any():
        return None
    return by_y[torch.arange(len(by_y), device="cpu"), step], by_c, step


@dataclass
class CellNetwork:
    """The memory cells of a layer: their seeds are known without a graph."""

    module: CellStates

    def ways(self, call: Call) -> list[Way] | None:
        """The layer and the targets as its states; None if one reads several steps."""
        T, H = call.inputs[0].shape[1], self.module.lstm.hidden_size
        cells = torch.eye(H, dtype=call.inputs[0].dtype, device=call.inputs[0].device)
        step = torch.arange(T, device=cells.device).repeat_interleave(H)
        cells = cells.repeat(T, 1)
        states = _selected(call, (T, H), torch.zeros_like(cells), cells, step)
        w_ih, w_hh, bias = self.module.weights()
        bias = bias if bias is None else bias.detach()
        return None if states is None else [Way(w_ih.detach(), w_hh.detach(), bias, *states)]


def _selected(
    call: Call, shape: tuple[int, ...], h: Tensor, c: Tensor, step: Tensor
) -> States | None:
    """Pick what the selected outputs read, [M, N, ...], from what all of them read."""
    selection = call.selection(shape)
    if selection.mask is None:
        index = selection.index.to(h.device)  # type: ignore[union-attr]
        return h[index], c[index], step[index]
    mask = selection.mask.to(h.device).expand(1, call.batch, *shape).reshape(call.batch, -1)
    used = step[mask.any(0)]
    if (used != used[0]).any():
        return None
    mask = mask.to(h)
    return (mask @ h)[None], (mask @ c)[None], used[0].expand(1, call.batch)


def lstm_gradients(
    call: Call,
    ways: list[Way],
    baseline: tuple[Tensor, ...],
    rule: tuple[Tensor, Tensor],
    tolerance: float | None,
    size: int | str,
    show: bool,
) -> list[Tensor]:
    """The gradient, averaged along the path of each sample, [targets, N, T, F].

    By a quadrature, or where there is a tolerance with nodes where the output changes; size: how
    many nodes at once, or "auto".
    """
    rows = size if isinstance(size, int) else sys.maxsize
    paths = Paths(ways, call.inputs[0], baseline[0], rows)
    if tolerance is None:
        return [path_sums(paths, rule, call.who, show)]
    return [adaptive_sums(paths, tolerance, call.who)]


class LstmFinder:
    """Tells whether a model is one LSTM layer, of one or two directions, and a linear head.

    Parameters
    ----------
    function : the user's module or function.
    optimize : as in `Attribution`; False: it never is.
    """

    def __init__(self, function: Any, optimize: bool | None) -> None:
        self.function, self.optimize = function, optimize
        self._other: set[Any] = set()  # signatures with which the model is something else

    def find(self, call: Call, rows: int) -> list[Way] | None:
        """The layer and the targets of a call that needs this many rows, or None."""
        if self.optimize is False:
            return None
        module = module_of(self.function)
        lstms = [m for m in module.modules() if isinstance(m, nn.LSTM)] if module else []
        if module is None or len(lstms) != 1 or not self._fits(module, lstms[0], call, rows):
            return None
        network = self._network(module, call)
        return network.ways(call) if network else None

    def _network(self, module: nn.Module, call: Call) -> LstmNetwork | CellNetwork | None:
        if type(module) is CellStates and runs_as(module, CellStates.forward):
            return CellNetwork(module)
        key = signature_of(call.inputs, (True,))
        node = None
        if key not in self._other:
            with suppress(ModelError):  # what is wrong with the model, the ordinary way tells
                check_flat(module)
                graph = model_graph(module, call.inputs, 1)
                script = graph.script
                followed = script is not None and script.gradients_hold(module, call.inputs)
                node = _only_lstm(graph) if followed else None
        if node is None:
            self._other.add(key)
            return None
        return LstmNetwork(module, graph, node)

    def _fits(self, module: nn.Module, lstm: nn.LSTM, call: Call, rows: int) -> bool:
        x = call.inputs[0]
        return (
            len(call.inputs) == 1
            and not call.extra
            and x.dim() == 3
            and x.dtype in (torch.float32, torch.float64)
            and x.shape[1] > 0
            and ops.is_native(x)
            and self._is_like(module, lstm, x)
            and (self.optimize is True or rows >= WORTH_CAPTURING)
        )

    def _is_like(self, module: nn.Module, lstm: nn.LSTM, x: Tensor) -> bool:
        """Whether the layer has the dtype and the features of x, and is not too large."""
        kinds = {(p.dtype, p.device) for p in module.parameters()}
        small = self.optimize is True or lstm.hidden_size <= LARGEST
        return kinds == {(x.dtype, x.device)} and lstm.input_size == x.shape[2] and small


def _only_lstm(graph: ModelGraph) -> Node | None:
    """The node of the LSTM, if what is before it is nothing and what is behind it is affine."""
    found = [n for n in graph.nodes if n.target is recurrent.lstm]
    if not graph.batched or graph.traced or len(found) != 1 or not _is_plain(found[0]):
        return None
    (lstm,) = found
    before = _input_of(lstm)
    if before != [graph.inputs[0]] and not _swaps_batch(before, graph.inputs[0]):
        return None
    behind: set[Node] = {lstm}
    for node in graph.nodes[graph.nodes.index(lstm) + 1 :]:
        if not node.carries:
            continue
        known = _packet(node) in TAIL
        if not known or not set(node.inputs) <= behind or not _is_linear(node):
            return None
        behind.add(node)
    return lstm if graph.output in behind else None


def _is_plain(lstm: Node) -> bool:
    """Whether it has one layer, no projection, and starts with zeros."""
    target, _, initial, weights, options = lstm.args[:5]  # a target alone has no lengths
    if target is not aten.lstm.input:
        return False
    biases, layers, _, _, both, _ = options
    start = all(_packet(s) in ZEROS for s in initial)
    return start and layers == 1 and len(weights) == (4 if biases else 2) * (2 if both else 1)


def _input_of(lstm: Node) -> list[Node]:
    """The input of the layer, with the transpose before it where the batch is not first."""
    x, batch_first = lstm.args[1], lstm.args[4][-1]
    return [x] if batch_first else [x, *x.inputs]


def _swaps_batch(before: list[Node], x: Node) -> bool:
    """Whether the layer reads x with the two first dimensions exchanged."""
    if len(before) != 2 or before[1] is not x:
        return False
    node = before[0]
    if _packet(node) is aten.transpose:
        return {d % 3 for d in node.args[1:3]} == {0, 1}
    return _packet(node) is aten.permute and [d % 3 for d in node.args[1]] == [1, 0, 2]


def _is_linear(node: Node) -> bool:
    """Whether the other operands of a dense layer, a sum or a concatenation are constants."""
    if _packet(node) not in (aten.linear, aten.cat, aten.add):
        return True
    return all(n.carries or n.constant for n in nodes_in(node.args))
