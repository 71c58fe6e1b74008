"""The rules of gated products and of recurrent layers (book, section 11.3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import ops, reference
from ..errors import describe, wrong_type, wrong_value
from ..graph import operations
from ..graph.facts import ACTIVATIONS
from ..graph.layers.base import unbroadcast
from ..graph.node import Node, nodes_in
from ..graph.operations import FILLS
from ..graph.recurrent.layout import KINDS, Direction, Layout
from ..graph.rule import Balance, NodeCall, Rule
from .base import check_not_negative

SIGMOIDS = {"sigmoid", "hardsigmoid"}
NAMES = {packet.__name__ for packet in ACTIVATIONS}  # type: ignore[attr-defined]
FILLING = {"where"} | {packet.__name__ for packet in FILLS}


def _check_gate(who: str, gate: object) -> None:
    words = reference.GATES
    if not isinstance(gate, str):
        raise wrong_type(f"{who}: gate", "must be a word", gate, f"One of {', '.join(words)}.")
    if gate not in words:
        raise wrong_value(
            f"{who}: gate", f"must be one of {', '.join(words)}", describe(gate),
            "They are the four rules of table 11.1.",
        )  # fmt: skip


# ---- a product of two nodes ------------------------------------------------------------------


@dataclass(repr=False)
class GatedProduct(Rule):
    """A product of signal and gate, h = g s, by one of the four rules of table 11.1.

    all   R_g = 0                               R_s = R_h
    prop  R_g = z_g / (z_g + z_s) R_h           R_s = z_s / (z_g + z_s) R_h
    abs   R_g = |z_g| / (|z_g| + |z_s|) R_h     R_s = |z_s| / (|z_g| + |z_s|) R_h
    half  R_g = R_h / 2                         R_s = R_h / 2

    z_g and z_s are what enters the activations of gate and signal (the value itself where there is
    none). A factor belongs to the activation, as in g = a_g sigm: z counts as it is, however large
    the factor, and as -z where the factor is negative, so that a signal rises with its z, and
    1 - sigm(z) is sigm(-z).

    The gate is found as by `Gate`. Shares do not depend on which inputs are explained: an operand
    that depends on none of them gets its share too if it has a number of its own for each one of h
    (an initial state, the gate of a first step), and keeps it, which a report shows as filled. A
    smaller one (a scale, a mask) is a factor: all goes to the other operand.

    This is for products in code of your own; `nn.LSTM`, `nn.GRU` and their cells have the rule
    `Recurrent`.

    Parameters
    ----------
    gate : "all" (default), "prop", "abs" or "half"
        The rule.
    epsilon : float, default 1e-3
        Stabilizer of prop, with the sign of z_g + z_s, and of abs.

    Raises
    ------
    ValueError, TypeError
        If gate is none of the words, or epsilon is negative.

    References
    ----------
    Arras et al. 2017 and 2019; book, section 11.3.2 and table 11.1; scaled activations: A2 and A3
    of section 11.4.1.

    Examples
    --------
    >>> from xaifast import rules
    >>> rules.GatedProduct("prop")
    GatedProduct(gate='prop', epsilon=0.001)
    """

    gate: str = "all"
    epsilon: float = 1e-3
    needs_output = False

    def __post_init__(self) -> None:
        _check_gate("GatedProduct", self.gate)
        check_not_negative("GatedProduct", epsilon=self.epsilon)

    def check(self, node: Node) -> str | None:
        """One operand, and not both, must be a gate, and its pre-activation known if it counts."""
        operands = _operands(node)
        if operands is None:
            return "GatedProduct needs a product of two tensors"
        gate = _gate_among(operands)
        if gate is None:
            return "neither operand is known to be a gate in [0, 1], or both are"
        if self._compares() and _activation(operands[gate]) is None:
            return f"GatedProduct({self.gate!r}) needs a gate that is an activation, or 1 - it"
        return None

    def _compares(self) -> bool:
        return self.gate in ("prop", "abs")

    def reads(self, node: Node) -> tuple[Node, ...]:
        """The pre-activations of gate and signal."""
        if not self._compares():
            return ()
        found = (_activation(x) for x in _operands(node) or ())
        return tuple(_below(x) for x in found if x is not None)

    def gates(self, node: Node, gated: bool) -> bool:
        """Only where the signal gets all: a gate has no zero."""
        return gated and self.gate == "all"

    def propagate(self, node, inputs, output, R, balance=None):
        """Share R between the two, which may be one input and one constant."""
        operands = _operands(node.node)
        g = None if operands is None else _gate_among(operands)
        assert operands is not None  # as check() saw to it
        assert g is not None
        z_g, z_s = (self._before(node, operands[k]) for k in (g, 1 - g))
        R_g, R_s = reference.gated_product(z_g, z_s, R, self.gate, self.epsilon)
        shares: dict[Node, Tensor | None] = {operands[g]: R_g, operands[1 - g]: R_s}
        if balance is not None:
            if R_g is not None:
                balance.gates += float(R_g.sum())
                balance.absorb(stabilizer=(R - R_g - R_s).sum())
            lost = [m for x, m in shares.items() if not x.carries and m is not None]
            balance.filled += sum(float(m.sum()) for m in lost)
        messages = [shares[x] for x in node.inputs]
        return tuple(
            None if m is None else unbroadcast(m.expand_as(R), a.shape)
            for m, a in zip(messages, inputs, strict=True)
        )

    def _before(self, node: NodeCall, operand: Node) -> Tensor | None:
        if not self._compares():
            return None
        known = _activation(operand) is not None
        return _entering(operand, node.lookup) if known else node.lookup(operand)


def _operands(node: Node) -> tuple[Node, Node] | None:
    """The two tensors of a product, of which one may be constant if it is no factor."""
    if (node.target is operations.affine and node.args[2] is None) or node.op == "mul":
        x, y = node.args[:2]
    else:
        return None
    if not (isinstance(x, Node) and isinstance(y, Node)) or x is y:
        return None
    place = node.shape, node.by_sample
    return (x, y) if all(v.carries or (v.shape, v.by_sample) == place for v in (x, y)) else None


def _gate_among(operands: tuple[Node, Node]) -> int | None:
    """Which operand is the gate, or None."""
    known = [_is_gate(x) for x in operands]
    if all(known):
        sizes = [math.prod(map(int, x.shape)) for x in operands]
        known = [size < max(sizes) for size in sizes]
    return known.index(True) if sum(known) == 1 else None


def _is_gate(node: Node) -> bool:
    """Whether the values are known to lie in [0, 1]; of a constant, bounds are not known."""
    if node.carries:
        return node.low >= 0 and node.high <= 1
    return node.op in SIGMOIDS or _is_turned(node)


def is_gated_product(node: Node) -> bool:
    """Whether a node is a product of two inputs, or of a gate and a tensor that is none.

    The second is what the first step of a recurrence from constant states looks like.
    """
    operands = _operands(node)
    return node.kind == "mul" or (operands is not None and _gate_among(operands) is not None)


# ---- what enters an operand's activation -----------------------------------------------------


def _activation(node: Node) -> Node | None:
    """The activation that an operand is, scaled, turned into 1 - it or moved perhaps, or None."""
    while node.op not in NAMES:
        if _factor(node) is None and not _moves(node):
            return None
        node = _below(node)
    return node if len(node.inputs) < 2 else None


def _entering(node: Node, lookup: Callable[[Node], Any]) -> Tensor:
    """Z of an operand: what enters its activation, times the signs of the factors behind it."""
    below = _below(node)
    if node.op in NAMES:
        return lookup(below)
    z = _entering(below, lookup)
    factor = _factor(node)
    if factor is None:
        return node.call(lambda x: z if x is below else lookup(x))
    if isinstance(factor, Node):
        return torch.where(lookup(factor) < 0, -z, z)
    return -z if factor < 0 else z


def _below(node: Node) -> Node:
    return node.inputs[0] if node.inputs else node.args[0]


def _factor(node: Node) -> Node | float | None:
    """The constant c, number or tensor, of a node c x; -1 for 1 - sigm."""
    if _is_turned(node):
        return -1.0
    if node.target is operations.affine:
        return node.args[1] if node.args[2] is None and not is_gated_product(node) else None
    if node.op != "mul" or node.kind != "affine" or is_gated_product(node):
        return None
    x, y = node.args[:2]
    return y if x is node.inputs[0] else x


def _is_turned(node: Node) -> bool:
    """Whether a node is 1 - sigm."""
    turned = node.target is operations.affine and node.args[1:3] == (-1.0, 1.0)
    return turned and node.args[0].op in SIGMOIDS


def _moves(node: Node) -> bool:
    """Whether a node only moves the values of one tensor."""
    if node.kind != "rearrange" or node.op in FILLING:
        return False
    return sum(x.floating for x in nodes_in(node.args)) == 1


# ---- a whole recurrent layer -----------------------------------------------------------------


@dataclass(repr=False)
class Recurrent(Rule):
    """LSTMs and GRUs, their cells too: LRP through every product, sum and linear map inside.

    - linear maps by LRP-epsilon, R_j = sum_k a_j w_jk / (z_k + eps sgn z_k) R_k, where j runs over
      x_t and h_(t-1) together;
    - products by one of the four rules of table 11.1 (see `GatedProduct`);
    - accumulations c_t = i g + f c_(t-1) (GRU: h_t = (1 - u) n + u h_(t-1) and z_n = W x + b + r m)
      in proportion, with the same stabilizer.

    The gate 1 - u of the GRU is sigm(-z_u). Inputs get relevance at every step, and initial states
    if they are inputs, or made of inputs. Packed sequences are explained each at its own length;
    padded steps get exact zeros.

    Parameters
    ----------
    gate : "all" (default), "prop", "abs" or "half"
        The rule for products.
    epsilon : float, default 1e-3
        Stabilizer of all denominators.
    bias : bool, default True
        Whether biases count in the denominators of linear maps (and so absorb their share).

    Raises
    ------
    ValueError, TypeError
        If gate is none of the words, or epsilon is negative.

    References
    ----------
    Book, sections 11.3.1 to 11.3.3; Eqs. 11.1 to 11.6. What the book leaves open: the signal of the
    output product is c_t before its tanh, that of f c_(t-1) is c_(t-1) itself.

    Examples
    --------
    >>> from xaifast import rules
    >>> rules.Recurrent("half")
    Recurrent(gate='half', epsilon=0.001, bias=True)
    """

    gate: str = "all"
    epsilon: float = 1e-3
    bias: bool = True
    needs_output = False
    runs = True

    def __post_init__(self) -> None:
        _check_gate("Recurrent", self.gate)
        check_not_negative("Recurrent", epsilon=self.epsilon)

    def check(self, node: Node) -> str | None:
        """An LSTM or GRU with weights of its own and without projections."""
        if node.target not in KINDS:
            return "Recurrent needs an LSTM, a GRU, or a cell of these"
        layout = Layout(node)
        if layout.is_projected():
            return "LSTMs with projections (proj_size) have no rule: the book has none"
        if not all(w is None or w.constant for w in layout.weights):
            return "Recurrent needs weights that do not depend on the input"
        return None

    def propagate(self, node, inputs, output, R, balance=None) -> Iterable[Tensor | None]:
        """Run each layer again, keeping its gates, and hand relevance back through time."""
        layout = Layout(node.node)
        account = None if balance is None else reference.Absorbed()
        kept = node.kept
        if kept is None:
            given = dict(zip(node.inputs, inputs, strict=True))
            kept = _forward(layout, lambda x: given[x] if x in given else node.lookup(x))
        R_x, R_states = _through_layers(self, layout, kept, R, account)
        messages = [(layout.x, R_x), *zip(layout.states, R_states, strict=True)]
        if balance is not None and account is not None:
            _settle(balance, account, messages)
        return tuple(message for operand, message in messages if operand.carries)

    def run(self, node):
        """Run the layers by our own op, which keeps the gates."""
        layout = Layout(node.node)
        kept = _forward(layout, node.lookup)
        last = [run for ways in kept for run in ways]
        ends = [torch.stack([_end(run.h, run.lengths) for run in last], 1)]
        if layout.is_lstm:
            ends.append(
                torch.stack([_end(run.c, run.lengths) for run in last if run.c is not None], 1)
            )
        y = [] if layout.is_cell else [_outputs(kept[-1]).transpose(0, 1)]
        return torch.cat([part.flatten(1) for part in (*y, *ends)], 1), kept

    def keeps(self, node):
        """Inputs, pre-activations and states of all layers; s of one."""
        layout = Layout(node)
        w_x, w_h = layout.weights[:2]
        features, H = w_x.shape[-1], w_h.shape[-1]
        _, layers, bidirectional, _ = layout.options
        ways, states = 2 if bidirectional else 1, len(layout.states)
        steps = 1 if layout.is_cell else node.elements // (ways * H) - states * layers
        entering = [features, *[ways * H] * (layers - 1)]
        own = sum(steps * (n + 4 * H) + (steps + 1) * states * H for n in entering)
        return ways * own, steps * 4 * H


def _settle(balance: Balance, account: reference.Absorbed, messages: list) -> None:
    """Put down what stayed inside, and what fell on constant inputs and states."""
    balance.absorb(account.bias, account.stabilizer)
    balance.gates += account.gates
    balance.filled += sum(float(R.sum()) for operand, R in messages if not operand.carries)


@dataclass(frozen=True)
class _Kept:
    """One layer in one direction, with what it was on its way: in its own order of time.

    lengths: the steps of each sample, behind which h and c are zero; None: all have all steps.
    """

    weights: Direction
    x: Tensor
    z: Tensor
    h: Tensor
    c: Tensor | None
    lengths: Tensor | None


def _backwards(x: Tensor, lengths: Tensor | None) -> Tensor:
    """X [..., T, N, features], the steps of each sample in reverse order, padding in its place."""
    if lengths is None:
        return x.flip(-3)
    t = torch.arange(x.shape[-3], device=x.device).unsqueeze(1)
    places = torch.where(t < lengths, lengths - 1 - t, t)
    return torch.take_along_dim(x, places.view(*[1] * (x.dim() - 3), *places.shape, 1), -3)


def _end(h: Tensor, lengths: Tensor | None) -> Tensor:
    """The last state of each sample."""
    return h[-1] if lengths is None else torch.take_along_dim(h, lengths.view(1, -1, 1), 0)[0]


def _through_layers(rule, layout: Layout, kept: list[list[_Kept]], R: Tensor, account):
    """Relevance of x and of the initial states, in their shapes."""
    h, count = kept[0][0].h, len(layout.states)
    R_y, R_last = _parts(layout, R, len(h) - 1, h.shape[2], count)
    R_first = [torch.zeros_like(s) for s in R_last]
    for i in reversed(range(len(kept))):
        R_below = []
        for d, (run, R_d) in enumerate(zip(kept[i], R_y.chunk(len(kept[i]), -1), strict=True)):
            k = i * len(kept[i]) + d
            R_d = _backwards(R_d, run.lengths) if d else R_d
            R_x, first = _back(rule, run, R_d, [s[:, k] for s in R_last], account)
            R_below.append(_backwards(R_x, run.lengths) if d else R_x)
            for s, f in zip(R_first, first, strict=True):
                s[:, k] = f
        R_y = sum(R_below[1:], R_below[0])
    if layout.is_cell:
        return R_y[:, 0], [s[:, 0] for s in R_first]
    return (R_y.transpose(1, 2) if layout.options[3] else R_y), R_first


def _forward(layout: Layout, value: Callable[[Any], Tensor]) -> list[list[_Kept]]:
    """Run all layers and directions, keeping their pre-activations and states."""
    x, states = value(layout.x), [value(s) for s in layout.states]
    if layout.is_cell:
        x, states = x.unsqueeze(0), [s.unsqueeze(0) for s in states]
    elif layout.options[3]:
        x = x.transpose(0, 1)
    lengths = None
    if layout.lengths is not None:
        lengths = value(layout.lengths).to(x.device)
        behind = torch.arange(len(x), device=x.device).unsqueeze(1) >= lengths
        x = x.masked_fill(behind.unsqueeze(-1), 0.0)  # padding may be anything, NaN too
    kept: list[list[_Kept]] = []
    for i, ways in enumerate(layout.directions(value)):
        runs = []
        for d, weights in enumerate(ways):
            start = [s[i * len(ways) + d] for s in states]
            runs.append(_run(weights, _backwards(x, lengths) if d else x, start, lengths))
        kept.append(runs)
        x = _outputs(runs)
    return kept


def _outputs(runs: list[_Kept]) -> Tensor:
    """The output of a layer, [T, N, D H]."""
    outputs = [_backwards(run.h[1:], run.lengths) if d else run.h[1:] for d, run in enumerate(runs)]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)


def _run(weights: Direction, x: Tensor, start: list[Tensor], lengths: Tensor | None) -> _Kept:
    b, b_h = weights.b_x, weights.b_h
    is_lstm = len(start) == 2
    if is_lstm and b is not None and b_h is not None:  # both enter the same sum
        b, b_h = b + b_h, None
    x = x.contiguous()  # less to copy than a, which the op wants with time first
    a = torch.nn.functional.linear(x, weights.w_x, b)
    c_0 = start[1] if is_lstm else None
    z, h, c = ops.recurrent_states(a, weights.w_h, b_h, start[0], c_0, lengths)
    return _Kept(weights, x, z, h, c if is_lstm else None, lengths)


def _parts(layout: Layout, R: Tensor, steps: int, hidden: int, count: int):
    """Relevance of the outputs [targets, T, N, D H], and each last state [targets, L D, N, H]."""
    targets, batch = R.shape[:2]
    _, layers, bidirectional, _ = layout.options
    ways = 2 if bidirectional else 1
    size = 0 if layout.is_cell else steps * ways * hidden
    R_last = R[:, :, size:].reshape(targets, batch, count, layers * ways, hidden)
    R_last = R_last.permute(2, 0, 3, 1, 4)
    if layout.is_cell:
        return R.new_zeros((targets, steps, batch, hidden)), list(R_last)
    R_y = R[:, :, :size].reshape(targets, batch, steps, ways * hidden)
    return R_y.transpose(1, 2), list(R_last)


def _back(rule: Recurrent, run: _Kept, R: Tensor, last: list[Tensor], account):
    """Relevance of x and of the first states of one layer in one direction."""
    biases = _biases(run)
    b = None if rule.bias else biases
    R_c = last[1] if run.c is not None else None
    call = (run.z, run.h, run.c, run.weights.w_h, b, R, last[0], R_c, rule.gate, rule.epsilon)
    if account is None:
        s, R_h0, R_c0 = ops.recurrent_relprop(*call, lengths=run.lengths)
    else:
        counted = biases if rule.bias else None
        s, R_h0, R_c0 = reference.recurrent_relprop(
            *call, absorbed=account, counted=counted, lengths=run.lengths
        )
    hidden = run.h.shape[2]
    w = run.weights.w_x[2 * hidden : 3 * hidden] if rule.gate == "all" else run.weights.w_x
    return run.x * (s @ w), [R_h0] if run.c is None else [R_h0, R_c0]


def _biases(run: _Kept) -> Tensor | None:
    """The biases of the four blocks of z."""
    b_x, b_h = run.weights.b_x, run.weights.b_h
    if b_x is None or b_h is None:
        return None
    if run.c is not None:
        return b_x + b_h
    size = 2 * len(b_x) // 3
    return torch.cat([b_x[:size] + b_h[:size], b_x[size:], b_h[size:]])
