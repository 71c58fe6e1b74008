"""An LSTM taken apart into what a phrase says, and all else: contextual decomposition.

Every value v of the network is a sum v = beta + gamma, stacked along a leading axis of two. A
nonlinear function of beta + gamma + b is a sum of three again (Shapley values, the bias b first):

    L(b) = f(b),   L(beta) = ((f(beta + b) - f(b)) + (f(beta + gamma + b) - f(gamma + b))) / 2

L(gamma) alike. A product of such sums has a term for each pair; beta takes those with a factor of
beta and none of gamma, gamma the others. The output gate stays whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...engine.evaluation import check_finite
from ...engine.target import Selection
from ...errors import InputError, ModelError
from ...graph.facts import ModelGraph
from ...graph.model import model_graph
from ...graph.node import Node, nodes_in
from ...graph.operations import SHAPE_ONLY
from ...graph.prefix import SIZES
from ...graph.proof.verify import compute_dtype
from ...graph.recurrent.layout import Direction, Layout
from ...graph.weights import Weights, check_flat

aten = torch.ops.aten

ZEROS = {aten.zeros, aten.new_zeros, aten.zeros_like}
AFFINE = ("linear", "affine", "sum", "add", "rearrange")  # kinds of nodes, by their inputs
WHO = "ContextualDecomposition"


# ---- the decomposition -------------------------------------------------------------------------


def shares(f: Callable[[Tensor], Tensor], x: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """L(beta) and L(gamma), stacked as x [2, ...] is."""
    alone, whole = f(x + bias), f(x.sum(0) + bias)
    at_bias = f(torch.as_tensor(bias, dtype=x.dtype, device=x.device))
    return (alone - at_bias + whole - alone.flip(0)) / 2


def product(p: Tensor, p_bias: Tensor, q: Tensor, q_bias: Tensor | float) -> Tensor:
    """(beta, gamma) of a product, from the shares of its factors and of their biases."""
    beta = p[0] * (q[0] + q_bias) + p_bias * q[0]
    gamma = p[1] * (q.sum(0) + q_bias) + (p[0] + p_bias) * q[1] + p_bias * q_bias
    return torch.stack([beta, gamma])


Pieces = Callable[[int, int], Tensor]  # step t, rows k -> W_x x_t [2, n, k, 4 H]


def grown(s: Tensor, k: int) -> Tensor:
    """States [2, n, k, H] of k rows: those that have not begun are as row 0."""
    return torch.cat([s, s[:, :, :1].expand(-1, -1, k - s.shape[2], -1)], 2)


def decompose(pieces: Pieces, w: Direction, begun: list[int]) -> tuple[Tensor, Tensor]:
    """Outputs y [2, n, p, T, H] and the last memory cells [2, n, p, H] of p phrases.

    Row 0 is the empty phrase. Rows from begun[t] on say nothing before or at step t, so that until
    then all is gamma's and the same as in row 0.
    """
    b = w.w_h.new_zeros(len(w.w_h)) if w.b_x is None else w.b_x + w.b_h  # type: ignore[operator]
    H = w.w_h.shape[1]
    b_if, b_g, b_o = b.split([2 * H, H, H])
    i_bias, f_bias = b_if.sigmoid().chunk(2)
    g_bias = b_g.tanh()
    h = c = torch.zeros((), dtype=torch.float32, device="cpu")
    outputs: list[Tensor] = []
    for t, k in enumerate(begun):
        x = pieces(t, k)
        if not outputs:
            h = c = x.new_zeros(*x.shape[:3], H)
        elif k > h.shape[2]:
            h, c = grown(h, k), grown(c, k)
        z_if, z_g, z_o = (x + h @ w.w_h.T).split([2 * H, H, H], -1)
        i, f = shares(torch.sigmoid, z_if, b_if).chunk(2, -1)
        g = shares(torch.tanh, z_g, b_g)
        c = product(f, f_bias, c, 0.0) + product(i, i_bias, g, g_bias)
        h = (z_o.sum(0) + b_o).sigmoid() * shares(torch.tanh, c)
        outputs.append(h)
    return torch.stack([grown(h, begun[-1]) for h in outputs], 3), c


def of_input(x: Tensor, inside: Tensor, w: Direction) -> Pieces:
    """The pieces of x [n, T, F]: W_x x_t is the same in all phrases, beta's inside and gamma's."""
    z, beta = (x @ w.w_x.T).unsqueeze(1), inside.to(x.dtype).unsqueeze(-1)
    both = torch.stack([beta, 1 - beta])
    return lambda t, k: z[:, :, t] * both[:, :, :k, t]


def of_states(y: Tensor, w: Direction) -> Pieces:
    """The pieces of the layer below, y [2, n, p, T, H]."""
    return lambda t, k: y[:, :, :k, t] @ w.w_x.T


def rows_begun(inside: Tensor) -> list[int]:
    """How many rows, from the first, have to be told apart from row 0 at each step."""
    begun = inside.any(0).cumsum(1) > 0
    found = (begun * torch.arange(len(begun), device=begun.device)[:, None]).amax(0) + 1
    return [*found.tolist()[:-1], len(begun)]


def _check_parts(parts: Sequence[Tensor], where: str) -> None:
    """Refuse parts of values that are not finite."""
    if not all(torch.isfinite(x).all() for x in parts):
        raise InputError(
            f"{WHO}: what phrases say has NaN or infinite values for these inputs, though the "
            f"output of the model is finite; first at {where}. It left the range of "
            f"{parts[0].dtype}. Scale the inputs down, or pass the model and the inputs in float64."
        )


def decomposed_states(
    x: Tensor, phrases: Tensor, layers: list[list[Direction]], check: str = ""
) -> Tensor:
    """All outputs of an LSTM as its node lays them out, [2, n, p, -1]: y, h and c.

    x [n, T, F], phrases [n, p, T]: which steps are of the phrase. It takes the least time where
    they are in the order of their first steps. check: a name of the LSTM, to raise an error with at
    the first layer whose parts are not finite.
    """
    n, p, T = phrases.shape
    inside = torch.cat([phrases.new_zeros(n, 1, T), phrases], 1)
    back = torch.tensor([0, *range(p, 0, -1)], device=x.device)  # in the order of the last steps
    y: Tensor | None = None
    hs, cs = [], []
    for number, directions in enumerate(layers):
        found = []
        for d, w in enumerate(directions):
            steps = inside[:, back].flip(2) if d else inside
            begun = rows_begun(steps)
            if y is None:
                pieces = of_input(x.flip(1) if d else x, steps, w)
            else:
                pieces = of_states(y[:, :, back].flip(3) if d else y, w)
                begun = [p + 1] * T if len(directions) > 1 else begun
            out, c = decompose(pieces, w, begun)
            if check:
                way = ", backwards" if d else ""
                _check_parts((out, c), f"layer {number}{way} of {check}")
            hs.append(out[:, :, back, -1] if d else out[:, :, :, -1])
            cs.append(c[:, :, back] if d else c)
            found.append(out[:, :, back].flip(3) if d else out)
        y = torch.cat(found, -1)
    return torch.cat([y.flatten(3), *hs, *cs], -1)[:, :, 1:]  # type: ignore[union-attr]


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
    """Name what stands between the steps of the input and those of the layer, if anything does."""
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
        check_flat(model)
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

    def decomposed(self, reads: Tensor, phrases: Tensor, slope: Tensor) -> Tensor:
        """(beta, gamma) of the scores without the head's bias, [2, M, n, p]."""
        layers = self.layers()
        parts = torch.einsum("knps,mns->kmnp", decomposed_states(reads, phrases, layers), slope)
        if not torch.isfinite(parts).all():
            name = f"{self.lstm!r}, {self.lstm.source}" if self.lstm.source else repr(self.lstm)
            decomposed_states(reads, phrases, layers, check=name)
            _check_parts((parts,), repr(self.graph.output))
        return parts

    def run(self, x: Tensor, selection: Selection) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Values that the layer reads, its states, the scores, and their gradient at the states.

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
