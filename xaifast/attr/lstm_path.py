"""Paths through an LSTM: all nodes of the quadrature in one native call.

A model that is one LSTM layer and a linear head is found in its captured graph. On the path
x' + alpha (x - x') the inputs of its gates are linear in alpha, so W_ih is applied once to each end
and, transposed, once to the sum of the gradients (book, 19.2.3):

    R = (x - x') * (W_ih^T sum_k w_k dS / da (alpha_k)),   a the inputs of the gates
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..errors import ModelError
from ..graph import model_graph, recurrent, signature_of, structure_of
from ..graph.capture import unwrap
from ..graph.facts import ModelGraph, Node
from ..graph.weights import Weights
from .adaptive import Wanted, adaptive_weights
from .arguments import Call, module_of
from .base import progress_bar
from .batching import batches
from .cell_states import CellStates
from .evaluation import WORTH_CAPTURING

aten = torch.ops.aten

# Affine maps of the states that read no other sample; each output must read a single step.
TAIL = {
    aten.linear, aten.slice, aten.select, aten.squeeze, aten.unsqueeze, aten.transpose,
    aten.permute, aten.view, aten.reshape, aten.flatten, aten.t, recurrent.part,
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
class Layer:
    """One LSTM layer of one direction, and one path through it for each sample.

    x [N, T, F], baseline [N or 1, T, F]; w_ih [4 H, F], w_hh [4 H, H], bias [4 H] or None.
    """

    w_ih: Tensor
    w_hh: Tensor
    bias: Tensor | None
    x: Tensor
    baseline: Tensor

    def __post_init__(self) -> None:
        product = torch.nn.functional.linear
        self.change = product(self.x - self.baseline, self.w_ih)
        self.start = product(self.baseline, self.w_ih, self.bias)

    def rows(self, rows: slice) -> Layer:
        """The same for some of the samples."""
        baseline = self.baseline if len(self.baseline) == 1 else self.baseline[rows]
        return Layer(self.w_ih, self.w_hh, self.bias, self.x[rows], baseline)

    def run(self, seeds: Seeds, alpha: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients at the inputs [M, N, T, F], and S and dS/dalpha [M, N, K].

        alpha [N, K] and weight [M, N, K], in float64.
        """
        device = self.x.device
        G, S, slope = ops.lstm_path(
            self.start, self.change, self.w_hh, alpha.to(device), weight.to(device), *seeds.parts()
        )
        return G @ self.w_ih, S, slope


@dataclass
class Seeds:
    """Targets as states: S = h . h_t + c . c_t at t = step; h, c [M, N, H], step [M, N]."""

    h: Tensor
    c: Tensor
    step: Tensor

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """As the op takes them."""
        return self.h, self.c, self.step

    def rows(self, rows: Any) -> Seeds:
        """Those of some samples."""
        return Seeds(*(x[:, rows] for x in self.parts()))


def path_sums(
    layer: Layer, seeds: Seeds, rule: tuple[Tensor, Tensor], who: str, show: bool
) -> Tensor:
    """The gradient at the inputs, averaged along the path of each sample, [M, N, T, F]."""
    (M, N), (alpha, weight) = seeds.step.shape, rule
    parts = []
    with progress_bar(N * len(alpha), who, show) as bar:
        for rows in batches(N, max(1, BLOCK // max(1, M * layer.change[0].numel()))):
            n, K = rows.stop - rows.start, len(alpha)
            nodes, weights = alpha.expand(n, K), weight.expand(M, n, K)
            parts.append(layer.rows(rows).run(seeds.rows(rows), nodes, weights)[0])
            bar.update(n * K)
    return torch.cat(parts, 1)


def adaptive_sums(layer: Layer, seeds: Seeds, tolerance: float, who: str) -> Tensor:
    """The same with nodes where the output changes; the gradient is summed when they are known."""
    M, N = seeds.step.shape

    def evaluate(wanted: Wanted) -> list[tuple[list[float], list[float]]]:
        by_sample: dict[int, list[int]] = {}
        for r, (n, _) in enumerate(wanted):
            by_sample.setdefault(n, []).append(r)
        samples, K = list(by_sample), max(map(len, by_sample.values()))
        alpha = torch.zeros(len(samples), K, dtype=torch.float64)
        for i, rows in enumerate(by_sample.values()):
            alpha[i, : len(rows)] = torch.tensor([wanted[r][1] for r in rows], dtype=torch.float64)
        _, S, slope = _picked(layer, samples).run(
            seeds.rows(samples), alpha, torch.zeros(M, *alpha.shape, dtype=torch.float64)
        )
        found: list[Any] = [None] * len(wanted)
        S, slope = S.cpu(), slope.cpu()
        for i, rows in enumerate(by_sample.values()):
            for k, r in enumerate(rows):
                found[r] = (S[:, i, k].tolist(), slope[:, i, k].tolist())
        return found

    nodes = adaptive_weights(who, N, M, tolerance, evaluate)
    K = max(len(alphas) for alphas, _ in nodes)
    alpha = torch.zeros(N, K, dtype=torch.float64)
    weight = torch.zeros(M, N, K, dtype=torch.float64)
    for n, (alphas, weights) in enumerate(nodes):
        alpha[n, : len(alphas)] = torch.tensor(alphas, dtype=torch.float64)
        weight[:, n, : len(alphas)] = torch.tensor(weights, dtype=torch.float64)
    return layer.run(seeds, alpha, weight)[0]


def _picked(layer: Layer, samples: list[int]) -> Layer:
    baseline = layer.baseline if len(layer.baseline) == 1 else layer.baseline[samples]
    return Layer(layer.w_ih, layer.w_hh, layer.bias, layer.x[samples], baseline)


# ---- the network -------------------------------------------------------------------------------


@dataclass
class LstmNetwork:
    """A model that is one LSTM layer and a linear head, with its graph."""

    module: nn.Module
    graph: ModelGraph
    node: Node  # of the LSTM

    def layer(self, x: Tensor, baseline: Tensor) -> Layer:
        """The layer with a path for each sample."""
        value = Weights(self.module).value
        w_ih, w_hh, *biases = (value(p) for p in self.node.args[3])
        return Layer(w_ih, w_hh, biases[0] + biases[1] if biases else None, x, baseline)

    def seeds(self, call: Call) -> Seeds | None:
        """The targets as states; None if one reads several steps."""
        x = call.inputs[0]
        shape = self._head(x[:1], 1)[0].shape[1:]
        count, (T, H) = shape.numel(), (x.shape[1], self.node.args[3][1].shape[-1])
        if count * T * H > MOST_PROBED:
            return None
        output, states = self._head(x[:1], count + 2)  # row n is for output n
        flat = output.reshape(count + 2, -1)
        options: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}
        of_one = torch.autograd.grad(flat[0].sum(), states, retain_graph=True, **options)
        if any(g[1:].any() for g in of_one):  # it reads other samples
            return None
        found = torch.autograd.grad(flat.diagonal().sum(), states, **options)
        by_y, by_h, by_c = (g[:count] for g in found)
        by_y[:, -1] += by_h
        reads = (by_y != 0).any(2)  # [outputs, T]
        step = torch.where(reads.any(1), reads.int().argmax(1), T - 1)
        if (reads.sum(1) > 1).any() or ((by_c != 0).any(1) & (step != T - 1)).any():
            return None
        by_y = by_y[torch.arange(count), step]
        return _selected(call, tuple(shape), by_y, by_c, step)

    def _head(self, x: Tensor, rows: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The output for `rows` rows of states of zeros, and the states y, h and c."""
        value = Weights(self.module).value
        x = x.new_zeros((rows, *x.shape[1:]))
        H = self.node.args[3][1].shape[-1]
        y = x.new_zeros(rows, x.shape[1], H)
        states = tuple(s.requires_grad_() for s in (y, x.new_zeros(rows, H), x.new_zeros(rows, H)))
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


@dataclass
class CellNetwork:
    """The memory cells of a layer: their seeds are known without a graph."""

    module: CellStates

    def layer(self, x: Tensor, baseline: Tensor) -> Layer:
        """The layer with a path for each sample."""
        w_ih, w_hh, bias = self.module.weights()
        return Layer(
            w_ih.detach(), w_hh.detach(), bias if bias is None else bias.detach(), x, baseline
        )

    def seeds(self, call: Call) -> Seeds | None:
        """The targets as states; None if one reads several steps."""
        T, H = call.inputs[0].shape[1], self.module.lstm.hidden_size
        cells = torch.eye(H, dtype=call.inputs[0].dtype, device=call.inputs[0].device)
        step = torch.arange(T, device=cells.device).repeat_interleave(H)
        cells = cells.repeat(T, 1)
        return _selected(call, (T, H), torch.zeros_like(cells), cells, step)


def _selected(
    call: Call, shape: tuple[int, ...], h: Tensor, c: Tensor, step: Tensor
) -> Seeds | None:
    """Seeds of the selected outputs, from those of all of them."""
    selection = call.selection(shape)
    if selection.mask is None:
        index = selection.index.to(h.device)  # type: ignore[union-attr]
        return Seeds(h[index], c[index], step[index])
    mask = selection.mask.to(h.device).expand(1, call.batch, *shape).reshape(call.batch, -1)
    used = step[mask.any(0)]
    if (used != used[0]).any():
        return None
    mask = mask.to(h)
    return Seeds((mask @ h)[None], (mask @ c)[None], used[0].expand(1, call.batch))


Network = LstmNetwork | CellNetwork


def lstm_gradients(
    call: Call,
    network: Network,
    seeds: Seeds,
    baseline: tuple[Tensor, ...],
    rule: tuple[Tensor, Tensor],
    tolerance: float | None,
    show: bool,
) -> list[Tensor]:
    """The gradient, averaged along the path of each sample, [targets, N, T, F].

    By a quadrature, or where there is a tolerance with nodes where the output changes.
    """
    layer = network.layer(call.inputs[0], baseline[0])
    if tolerance is None:
        return [path_sums(layer, seeds, rule, call.who, show)]
    return [adaptive_sums(layer, seeds, tolerance, call.who)]


class LstmFinder:
    """Tells whether a model is one LSTM layer and a linear head.

    Parameters
    ----------
    function : the user's module or function.
    optimize : as in `Attribution`; False: it never is.
    """

    def __init__(self, function: Any, optimize: bool | None) -> None:
        module = module_of(function)
        module = None if module is None else unwrap(module)
        lstms = [m for m in module.modules() if isinstance(m, nn.LSTM)] if module else []
        self.module = module if optimize is not False and len(lstms) == 1 else None
        self.optimize = optimize
        self._other: set[Any] = set()  # structures and shapes that are something else

    def find(self, call: Call, rows: int) -> tuple[Network, Seeds] | None:
        """The network and the targets of a call that needs this many rows, or None."""
        if self.module is None or not self._fits(call, rows):
            return None
        network = self._network(call)
        seeds = network.seeds(call) if network else None
        return (network, seeds) if network and seeds else None

    def _network(self, call: Call) -> LstmNetwork | CellNetwork | None:
        if isinstance(self.module, CellStates):
            return CellNetwork(self.module)
        key = (structure_of(self.module), signature_of(call.inputs, (True,)))  # type: ignore[arg-type]
        node = None
        if key not in self._other:
            with suppress(ModelError):  # what is wrong with the model, the ordinary way tells
                graph = model_graph(self.module, call.inputs, 1)  # type: ignore[arg-type]
                node = _only_lstm(graph)
        if node is None:
            self._other.add(key)
            return None
        return LstmNetwork(self.module, graph, node)  # type: ignore[arg-type]

    def _fits(self, call: Call, rows: int) -> bool:
        x = call.inputs[0]
        return (
            len(call.inputs) == 1
            and not call.extra
            and x.dim() == 3
            and x.dtype in (torch.float32, torch.float64)
            and x.shape[1] > 0
            and ops.is_native(x)
            and self._is_like(x)
            and (self.optimize is True or rows >= WORTH_CAPTURING)
        )

    def _is_like(self, x: Tensor) -> bool:
        """Whether the layer has the dtype and the features of x, and is not too large."""
        (lstm,) = (m for m in self.module.modules() if isinstance(m, nn.LSTM))  # type: ignore[union-attr]
        kinds = {(p.dtype, p.device) for p in self.module.parameters()}  # type: ignore[union-attr]
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
        if not known or not set(node.inputs) <= behind or not _constant_weights(node):
            return None
        behind.add(node)
    return lstm if graph.output in behind else None


def _is_plain(lstm: Node) -> bool:
    """Whether it has one layer, one direction, no projection, and starts with zeros."""
    target, _, initial, weights, options = lstm.args[:5]  # a target alone has no lengths
    if target is not aten.lstm.input:
        return False
    biases, layers, _, _, both, _ = options
    start = all(_packet(s) in ZEROS for s in initial)
    return start and layers == 1 and not both and len(weights) == (4 if biases else 2)


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


def _constant_weights(node: Node) -> bool:
    """Whether a dense layer has weights that do not depend on the input."""
    if _packet(node) is not aten.linear:
        return True
    return all(w is None or w.constant for w in node.args[1:])
