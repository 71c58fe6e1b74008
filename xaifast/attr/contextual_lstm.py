"""An LSTM taken apart into what a phrase says, and all else: contextual decomposition.

Every value v of the network is a sum v = beta + gamma, stacked along a leading axis of two. A
nonlinear function of beta + gamma + b is a sum of three again (Shapley values, the bias b first):

    L(b) = f(b),   L(beta) = ((f(beta + b) - f(b)) + (f(beta + gamma + b) - f(gamma + b))) / 2

L(gamma) alike. A product of such sums has a term for each pair; beta takes those with a factor of
beta and none of gamma, gamma the others. The output gate stays whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..graph import compute_dtype, model_graph
from ..graph.facts import SHAPE_ONLY, ModelGraph, Node, nodes_in
from ..graph.prefix import SIZES
from ..graph.recurrent import Direction, Layout
from ..graph.weights import Weights
from .evaluation import check_finite
from .target import Selection

aten = torch.ops.aten

ZEROS = {aten.zeros, aten.new_zeros, aten.zeros_like}
AFFINE = ("linear", "affine", "sum", "add", "rearrange")  # kinds of nodes, by their inputs
WHO = "ContextualDecomposition"


# ---- the decomposition -------------------------------------------------------------------------


def shares(
    f: Callable[[Tensor], Tensor], x: Tensor, bias: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """L(beta) and L(gamma), stacked as x [2, ...] is, and f of all."""
    alone, whole = f(x + bias), f(x.sum(0) + bias)
    at_bias = f(torch.as_tensor(bias, dtype=x.dtype, device=x.device))
    return (alone - at_bias + whole - alone.flip(0)) / 2, whole


def product(p: Tensor, p_bias: Tensor, q: Tensor, q_bias: Tensor | float) -> Tensor:
    """(beta, gamma) of a product, from the shares of its factors and of their biases."""
    beta = p[0] * (q[0] + q_bias) + p_bias * q[0]
    gamma = p[1] * (q.sum(0) + q_bias) + (p[0] + p_bias) * q[1] + p_bias * q_bias
    return torch.stack([beta, gamma])


def decompose(a: Tensor, w: Direction) -> tuple[Tensor, Tensor]:
    """Outputs y [2, R, T, H] and the last memory cells [2, R, H], from a = W_x x [2, R, T, 4 H]."""
    H = w.w_h.shape[1]
    bias = a.new_zeros(4 * H) if w.b_x is None else w.b_x + w.b_h  # type: ignore[operator]
    b_if, b_g, b_o = bias.split([2 * H, H, H])
    i_bias, f_bias = b_if.sigmoid().chunk(2)
    g_bias = b_g.tanh()
    h = c = a.new_zeros(2, a.shape[1], H)
    outputs = []
    for x in a.unbind(2):
        z_if, z_g, z_o = (x + h @ w.w_h.T).split([2 * H, H, H], -1)
        i, f = shares(torch.sigmoid, z_if, b_if)[0].chunk(2, -1)
        g, _ = shares(torch.tanh, z_g, b_g)
        c = product(f, f_bias, c, 0.0) + product(i, i_bias, g, g_bias)
        h = (z_o.sum(0) + b_o).sigmoid() * shares(torch.tanh, c)[0]
        outputs.append(h)
    return torch.stack(outputs, 2), c


def decomposed_states(x: Tensor, phrases: Tensor, layers: list[list[Direction]]) -> Tensor:
    """All outputs of an LSTM as its node lays them out, [2, n, p, -1]: y, h and c.

    x [n, T, F], phrases [n, p, T]: which steps are of the phrase.
    """
    n, p, T = phrases.shape
    inside = phrases.to(x.dtype).unsqueeze(-1)
    y, hs, cs = torch.empty(0), [], []
    for number, directions in enumerate(layers):
        found = []
        for d, w in enumerate(directions):
            if number:
                a = y @ w.w_x.T
            else:  # W_x x_t is the same in all phrases
                z = (x @ w.w_x.T).unsqueeze(1)
                a = torch.stack([z * inside, z * (1 - inside)]).reshape(2, n * p, T, -1)
            out, c = decompose(a.flip(2) if d else a, w)
            hs.append(out[:, :, -1])
            cs.append(c)
            found.append(out.flip(2) if d else out)
        y = torch.cat(found, -1)
    flat = torch.cat([y.flatten(2), *hs, *cs], -1)
    return flat.reshape(2, n, p, -1)


# ---- the network -------------------------------------------------------------------------------


def _packet(node: Node) -> Any:
    return getattr(node.target, "overloadpacket", node.target)


def _operands(node: Node) -> list[Node]:
    return list(nodes_in([*node.args, *node.kwargs.values()]))


def _swaps(node: Node) -> bool:
    """Whether a node exchanges the two first dimensions, batch and time."""
    if _packet(node) is aten.t:
        return True
    if _packet(node) is aten.transpose:
        return set(node.args[1:3]) == {0, 1}
    return _packet(node) is aten.permute and node.args[1] in ([1, 0], [1, 0, 2])


def _is_stepwise(node: Node, x: Node) -> bool:
    """Whether each step of a node's output depends on that step of x alone."""
    others = [n for n in _operands(node) if n is not x]
    if not all(n.constant or n.op in SIZES for n in others):
        return False
    if node.kind in ("source", "activation", "affine") or _packet(node) is aten.linear:
        return True
    kept = node.by_sample and x.by_sample and node.shape[:1] == x.shape[:1]
    return kept and _packet(node) in (aten.view, aten.reshape, aten.flatten)


def _not_stepwise(graph: ModelGraph, lstm: Node) -> Node | None:
    """What stands between the steps of the input and those of the layer, if anything does."""
    node, swapped = lstm.args[1], not lstm.args[4][-1]
    while node is not graph.inputs[0]:
        varying = [n for n in _operands(node) if not n.constant and n.op not in SIZES]
        if len(varying) != 1 or not (_swaps(node) or _is_stepwise(node, varying[0])):
            return node
        swapped ^= _swaps(node)
        node = varying[0]
    return lstm if swapped else None


def _not_affine(graph: ModelGraph, lstm: Node) -> Node | None:
    """The first node that is not an affine function of the states, if there is one."""
    behind = {lstm}
    for node in graph.nodes:
        reads = behind.intersection(_operands(node))
        if not reads or _packet(node) in SHAPE_ONLY:
            continue
        if node.kind not in AFFINE or reads != set(node.inputs):
            return node
        behind.add(node)
    return None


def _starts_with_zeros(lstm: Node) -> bool:
    return all(_packet(s) in ZEROS for s in Layout(lstm).states)


def _problem(graph: ModelGraph) -> str | None:
    """Why a model cannot be decomposed, if it cannot."""
    found = [n for n in graph.nodes if n.kind in ("lstm", "gru")]
    if [n.kind for n in found] != ["lstm"] or Layout(found[0]).is_cell:
        have = ", ".join(map(repr, found)) or "none"
        return f"it must have one nn.LSTM (of any number of layers); it has {have}"
    (lstm,) = found
    if Layout(lstm).is_projected():
        return f"{lstm!r} must have no projection (proj_size)"
    if not _starts_with_zeros(lstm):
        return f"{lstm!r} must start with states of zeros"
    node = _not_stepwise(graph, lstm)
    if node is not None:
        return f"each step of the LSTM must read that step of the input alone; {node!r} mixes them"
    node = _not_affine(graph, lstm)
    if node is not None:
        return f"the output must be an affine function of the LSTM's states alone; {node!r} is not"
    if not graph.batched or graph.traced:
        return (
            "it must take any number of samples, and not fix it or run code that depends on data "
            "(for the last steps of padded sequences take y.gather, not y[torch.arange(len(y)), t])"
        )
    return None


@dataclass
class Network:
    """A model that is an LSTM with an affine head, and its graph."""

    graph: ModelGraph
    lstm: Node
    weights: Weights

    @classmethod
    def of(cls, model: nn.Module, x: Tensor) -> Network:
        """Find the layer in a model of one input.

        Raises
        ------
        ModelError
            If the model is something else.
        """
        args = (x if len(x) else x.new_zeros((1, *x.shape[1:])),)  # nothing is not captured
        graph = model_graph(model, args, 1)
        problem = _problem(graph)
        if problem:
            raise ModelError(
                f"{WHO} cannot explain {type(model).__name__}: {problem}. Explain a score before "
                "a softmax or another nonlinear head, or take LRP with composites.Recurrent, which "
                "knows GRUs and other heads."
            )
        lstm = next(n for n in graph.nodes if n.kind == "lstm")
        return cls(graph, lstm, Weights(model, compute_dtype(model, args)))

    def layers(self) -> list[list[Direction]]:
        """The weights by layer and direction."""
        return Layout(self.lstm).directions(self.weights.value)

    def run(self, x: Tensor, selection: Selection) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the layer reads, its states, the scores, and their gradient at the states.

        [n, T, F], [n, S], [M, n] and [M, n, S].
        """
        values: dict[Node, Any] = {self.graph.inputs[0]: x}

        def lookup(node: Node) -> Any:
            return self.weights.value(node) if node.constant else values[node]

        with torch.enable_grad():
            for node in self.graph.nodes:
                if node.constant or node.kind == "input":
                    continue
                values[node] = node.call(lookup)
                if node is self.lstm:
                    values[node] = values[node].detach().requires_grad_()
            scores = selection.values(check_finite(lookup(self.graph.output)))
            states, reads = values[self.lstm], values[self.lstm.args[1]]
            found = [torch.autograd.grad(s.sum(), states, retain_graph=True)[0] for s in scores]
        reads = reads if self.lstm.args[4][-1] else reads.transpose(0, 1)  # the batch first
        return reads.detach(), states.detach(), scores.detach(), torch.stack(found)
