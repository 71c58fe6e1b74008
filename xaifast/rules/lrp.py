"""The rules of layer-wise relevance propagation (book, sections 10.2.1, 10.3.2 and 10.A).

Each class is its formula and a few lines. The book's sums over 0,j count the bias in the
denominator, those over j do not; `bias=False` leaves it out everywhere.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from ..errors import wrong_type, wrong_value
from ..graph.facts import Node
from ..graph.layers import Contributions, Layer, Signs, transposed, unbroadcast
from ..graph.weights import Weight
from .base import BySigns, LinearRule, Part, Rule


def _plus(layer: Layer) -> Weight:
    return layer.derive("w+", lambda w: w.clamp(min=0))


def _minus(layer: Layer) -> Weight:
    return layer.derive("w-", lambda w: w.clamp(max=0))


def _counted(b: Tensor | None, rule: LinearRule) -> Tensor | None:
    return b if rule.bias else None  # type: ignore[attr-defined]


def _counts_all(layer: Layer, b: Tensor | None) -> bool:
    """Whether z has all that the layer's output has, its bias too."""
    return b is not None or layer.bias is None


def _check_weights(rule: LinearRule, node: Node) -> str | None:
    """For rules that replace the weights: sums and average pooling have none to replace."""
    if node.kind == "sum":
        return f"{type(rule).__name__} needs weights; for sums and average pooling take Epsilon"
    return LinearRule.check(rule, node)


def _check_not_negative(who: str, **values: float) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise wrong_type(f"{who}: {name}", "must be a number", value, "For example 1e-6.")
        if not 0 <= value < math.inf:
            raise wrong_value(
                f"{who}: {name}", "must be >= 0 and finite", value, "Zero switches it off."
            )


# ---- linear layers ---------------------------------------------------------------------------


@dataclass(repr=False)
class Epsilon(LinearRule):
    """LRP-epsilon, for upper and middle layers, sums and average pooling.

    R_j = sum_k a_j w_jk / (z_k + eps sgn z_k) R_k,   z_k = sum_0,j a_j w_jk

    For the sum of two inputs the weights are 1: relevance is shared in proportion.

    Parameters
    ----------
    epsilon : float, default 1e-6
        In the units of z; with `relative`, in standard deviations of z over each sample.
    relative : bool, default False
        True for the book's epsilon = 0.25 std.
    bias : bool, default True
        Whether the bias counts in the denominator (and so absorbs its share).

    Raises
    ------
    ValueError
        If epsilon is negative.

    References
    ----------
    Bach et al. 2015; book, section 10.2.1. sgn 0 = +1 is our choice.

    Examples
    --------
    >>> from xaifast import composites, rules
    >>> composites.Uniform(rules.Epsilon(0.25, relative=True))
    Uniform(Epsilon(epsilon=0.25, relative=True, bias=True))
    """

    epsilon: float = 1e-6
    relative: bool = False
    bias: bool = True
    needs_output = True

    def __post_init__(self) -> None:
        _check_not_negative("Epsilon", epsilon=self.epsilon)

    def _eps(self, z: Tensor) -> float | Tensor:
        if not self.relative:
            return self.epsilon
        return self.epsilon * z.flatten(1).std(1, unbiased=False).view(-1, *[1] * (z.dim() - 1))

    def parts(self, layer, a, z):
        b = _counted(layer.bias, self)
        if b is None and layer.bias is not None:
            z = layer.forward(a, layer.weight)
        by, bounded = Contributions("all", a, known=True), _counts_all(layer, b)
        yield Part(a, layer.weight, b, self._eps(z), z=z, bounded=bounded, by=by)

    def check(self, node: Node) -> str | None:
        return None if node.kind == "add" else super().check(node)

    def fuses(self, node: Node, rectified: bool) -> bool:
        # With no relevance where z <= 0, the output of the ReLU serves as z.
        return rectified and self.bias and not self.relative

    def gates(self, node: Node, gated: bool) -> bool:
        return True

    def propagate(self, node, inputs, output, R, balance=None):
        if node.kind != "add":
            return super().propagate(node, inputs, output, R, balance)
        x, y = (a.expand_as(output) for a in inputs)
        beta = float(node.kwargs.get("alpha", 1)) * (-1 if node.op == "sub" else 1)
        eps = self._eps(output)
        if isinstance(eps, Tensor) or balance is not None:
            z = torch.where(output >= 0, output + eps, output - eps)
            s = ops.stabilized_divide(R, z, None, 0.0)
            messages = (x * s, beta * y * s)
            if balance is not None:
                balance.absorb(stabilizer=(R - s * output).sum())
        else:
            messages = ops.add_split(x, y, R, beta, eps)
        return tuple(unbroadcast(m, a.shape) for m, a in zip(messages, inputs, strict=True))


def Zero(bias: bool = True) -> Epsilon:
    """LRP-0, the basic rule, for the uppermost layers: LRP-epsilon with epsilon = 0.

    R_j = sum_k a_j w_jk / z_k R_k,   z_k = sum_0,j a_j w_jk,   R/0 = 0

    Used everywhere in a ReLU network it gives gradient x input.

    Parameters
    ----------
    bias : bool, default True
        Whether the bias counts in the denominator.

    Returns
    -------
    Epsilon

    References
    ----------
    Bach et al. 2015; book, section 10.2.1 and Eq. 13.2.

    Examples
    --------
    >>> from xaifast import rules
    >>> rules.Zero()
    Epsilon(epsilon=0.0, relative=False, bias=True)
    """
    return Epsilon(0.0, bias=bias)


@dataclass(repr=False)
class ZPlus(BySigns):
    """z+ rule (LRP-alpha1-beta0), for lower layers: positive contributions only.

    R_j = sum_k (a_j w_jk)+ / sum_0,j (a_j w_jk)+ R_k

    (a w)+ = a+ w+ + a- w-; where a cannot be negative the second product is not computed.

    Parameters
    ----------
    bias : bool, default True
        Whether b+ counts in the denominator.
    stabilizer : float, default 1e-6
        Added to the denominator.

    Raises
    ------
    ValueError
        If the stabilizer is negative.

    References
    ----------
    Montavon et al. 2017; book, section 10.A (alpha = 1, beta = 0).

    Examples
    --------
    >>> from xaifast import composites, rules
    >>> composites.Uniform(rules.ZPlus())
    Uniform(ZPlus(bias=True, stabilizer=1e-06))
    """

    bias: bool = True
    stabilizer: float = 1e-6

    def __post_init__(self) -> None:
        _check_not_negative("ZPlus", stabilizer=self.stabilizer)

    def signs(self) -> tuple[Signs, ...]:
        return (Signs(1.0, 1.0, 0.0),)

    def parts(self, layer, a, z):
        yield _positive_part(
            layer, a, _split(layer, a), _counted(layer.bias, self), self.stabilizer
        )

    def gates(self, node: Node, gated: bool) -> bool:
        return True


def _split(layer: Layer, a: Tensor) -> Tensor | Callable[[], Tensor]:
    """What enters the signed weights: a, or its two parts, made once, where it may be negative."""
    return a if layer.nonnegative_input else functools.cache(lambda: layer.split_signs(a))


def _positive_part(layer, a, u, b, eps, coefficient=1.0) -> Part:
    """sum_k (a_j w_jk)+ s_k with (a w)+ = a+ w+ + a- w-."""
    bounded, b = _counts_all(layer, b), None if b is None else b.clamp(min=0)
    if u is a:
        return Part(u, _plus(layer), b, eps, coefficient=coefficient, bounded=bounded)
    by = Contributions("positive", a)
    return Part(
        u, lambda: _signs(layer), b, eps, parts=2, coefficient=coefficient, bounded=bounded, by=by
    )


def _signs(layer: Layer) -> Weight:
    return layer.stack(_plus(layer), _minus(layer), "[w+, w-]")


def _negative_part(layer, a, u, b, eps, coefficient=1.0) -> Part:
    """sum_k (a_j w_jk)- s_k with (a w)- = a+ w- + a- w+."""
    b = None if b is None else b.clamp(max=0)
    if u is a:
        return Part(u, _minus(layer), b, eps, coefficient=coefficient)
    by = Contributions("negative", a)

    def w() -> Weight:
        return layer.stack(_minus(layer), _plus(layer), "[w-, w+]")

    return Part(u, w, b, eps, parts=2, coefficient=coefficient, by=by)


@dataclass(repr=False)
class AlphaBeta(BySigns):
    """LRP-alpha-beta, for lower layers: positive and negative contributions apart.

    R_j = sum_k (  alpha (a_j w_jk)+ / sum_0,j (a_j w_jk)+
                 - beta  (a_j w_jk)- / sum_0,j (a_j w_jk)- ) R_k

    Parameters
    ----------
    alpha : float, default 2
        Weight of positive contributions.
    beta : float, default 1
        Weight of negative ones; alpha - beta must be 1, so that relevance is conserved.
    bias : bool, default True
        Whether b+ and b- count in their denominators.
    stabilizer : float, default 1e-6
        Added to the denominators with their sign.

    Raises
    ------
    ValueError
        If alpha - beta is not 1, or a value is negative.

    References
    ----------
    Bach et al. 2015; book, section 10.A.

    Examples
    --------
    >>> from xaifast import rules
    >>> rules.AlphaBeta(2, 1)
    AlphaBeta(alpha=2, beta=1, bias=True, stabilizer=1e-06)
    """

    alpha: float = 2.0
    beta: float = 1.0
    bias: bool = True
    stabilizer: float = 1e-6

    def __post_init__(self) -> None:
        _check_not_negative(
            "AlphaBeta", alpha=self.alpha, beta=self.beta, stabilizer=self.stabilizer
        )
        if abs(self.alpha - self.beta - 1.0) > 1e-9:
            raise wrong_value(
                "AlphaBeta: alpha - beta", "must be 1", f"{self.alpha} - {self.beta}",
                "Usual pairs are (1, 0) and (2, 1).",
            )  # fmt: skip

    def signs(self) -> tuple[Signs, ...]:
        both = (Signs(self.alpha, 1.0, 0.0), Signs(-self.beta, 0.0, 1.0))
        return both if self.beta else both[:1]

    def parts(self, layer, a, z):
        u, b = _split(layer, a), _counted(layer.bias, self)
        yield _positive_part(layer, a, u, b, self.stabilizer, self.alpha)
        if self.beta:
            # Not z - z+: where nothing is negative that is rounding noise, and it divides by it.
            yield _negative_part(layer, a, u, b, self.stabilizer, -self.beta)

    def gates(self, node: Node, gated: bool) -> bool:
        return True


@dataclass(repr=False)
class Gamma(BySigns):
    """LRP-gamma, for lower layers: positive contributions favoured; for signed inputs too.

    R_j = sum_k a_j (w_jk + gamma w_jk+) / sum_0,j a_j (w_jk + gamma w_jk+) R_k     (a >= 0, z > 0)

    In general, the contributions a_j w_jk with the sign of z_k are multiplied by 1 + gamma; where
    z_k = 0, no relevance passes.

    Parameters
    ----------
    gamma : float, default 0.25
        How much the contributions that agree with the output are favoured.
    bias : bool, default True
        Whether the bias counts in the denominator, favoured like the weights (the sign of z is
        that of the layer's output in any case).
    stabilizer : float, default 1e-6
        Added to the denominators with their sign.

    Raises
    ------
    ValueError
        If a value is negative.

    References
    ----------
    Montavon et al. 2019; book, section 10.2.1; for signed inputs Andéol et al. 2021.

    Examples
    --------
    >>> from xaifast import rules
    >>> rules.Gamma()
    Gamma(gamma=0.25, bias=True, stabilizer=1e-06)
    """

    gamma: float = 0.25
    bias: bool = True
    stabilizer: float = 1e-6
    needs_output = True

    def __post_init__(self) -> None:
        _check_not_negative("Gamma", gamma=self.gamma, stabilizer=self.stabilizer)

    def signs(self) -> tuple[Signs, ...]:
        return (Signs(1.0, 1.0 + self.gamma, 1.0),)

    def _by_signs(self, layer, a, z, R):
        if layer.node.rectified:
            return super()._by_signs(layer, a, z, R)
        b, other = self._counted(layer), (Signs(1.0, 1.0, 1.0 + self.gamma),)
        favoured = ((R * (z > 0), self.signs()), (R * (z < 0), other))
        up, down = (layer.by_signs(a, x, b, signs, self.stabilizer) for x, signs in favoured)
        return up + down

    def parts(self, layer, a, z):
        u, b, eps = _split(layer, a), _counted(layer.bias, self), self.stabilizer
        # Where relevance vanishes unless z > 0 (below a ReLU), one branch is all there is.
        alone = layer.node.rectified
        yield self._favouring("+", layer, a, u, b, eps, None if alone else z > 0)
        if not alone:
            yield self._favouring("-", layer, a, u, b, eps, z < 0)

    def _favouring(self, sign, layer, a, u, b, eps, where) -> Part:
        """The contributions of this sign times 1 + gamma, the others once."""
        same, other = {"min": 0}, {"max": 0}
        if sign == "-":
            same, other = other, same
        w = self._raised(layer, **same)
        bounded = sign == "+" and _counts_all(layer, b)
        b = None if b is None else b + self.gamma * b.clamp(**same)
        if u is a:
            return Part(u, w, b, eps, where=where, bounded=bounded)
        pair = layer.stack(w, self._raised(layer, **other), f"gamma {self.gamma} pair {sign}")
        return Part(u, pair, b, eps, parts=2, where=where, bounded=bounded)

    def _raised(self, layer: Layer, **bounds: float) -> Weight:
        name = f"w + {self.gamma} w clamped to {bounds}"
        return layer.derive(name, lambda w: w + self.gamma * w.clamp(**bounds))

    def fuses(self, node: Node, rectified: bool) -> bool:
        return rectified

    def gates(self, node: Node, gated: bool) -> bool:
        return True


# ---- first layers ----------------------------------------------------------------------------

FEW = 16  # channels up to which a kernel is handed the bounds of a box as numbers


@dataclass(repr=False)
class ZBox(LinearRule):
    """z^B rule, for a first layer on inputs in a box l <= x <= h, such as pixels.

    R_i = sum_j (x_i w_ij - l_i w_ij+ - h_i w_ij-) / sum_i (same) R_j

    Computed as (x - l) w+ + (x - h) w-, which is the same and cancels nothing.

    Parameters
    ----------
    low, high : float or Tensor
        The box, in the units of what enters the layer; a tensor must broadcast against one sample
        ([C, 1, 1] for images).
    stabilizer : float, default 1e-6
        Added to the denominator.

    Raises
    ------
    ValueError
        If low is not below high, or the stabilizer is negative.

    References
    ----------
    Montavon et al. 2017; book, section 10.A. Zeros that a convolution pads have l = h = 0.

    Examples
    --------
    >>> from xaifast import rules
    >>> rules.ZBox(0.0, 1.0)
    ZBox(low=0.0, high=1.0, stabilizer=1e-06)
    """

    low: float | Tensor
    high: float | Tensor
    stabilizer: float = 1e-6

    def __post_init__(self) -> None:
        _check_not_negative("ZBox", stabilizer=self.stabilizer)
        for name, value in (("low", self.low), ("high", self.high)):
            if not isinstance(value, (int, float, Tensor)):
                raise wrong_type(
                    f"ZBox: {name}", "must be a number or a tensor", value,
                    "Pass the bounds of the inputs; torch.as_tensor makes a tensor of others.",
                )  # fmt: skip
        low, high = map(_numbers_of, (self.low, self.high))
        finite = torch.isfinite(low).all() and torch.isfinite(high).all()
        if not finite or not (low <= high).all() or not (low < high).any():
            raise wrong_value(
                "ZBox: low and high", "must be finite and ordered, low < high",
                f"low={self.low!r} and high={self.high!r}", "Pass the bounds of the inputs.",
            )  # fmt: skip
        # Read here: in a recorded run no tensor has a value.
        self._numbers = [
            (x.shape, x.flatten().tolist() if x.numel() <= FEW else []) for x in (low, high)
        ]

    def parts(self, layer, a, z):
        def u() -> Tensor:
            return layer.stack_inputs(a - self._bound(self.low, a), a - self._bound(self.high, a))

        low, high = (_by_channel(*bound, a) for bound in self._numbers)
        by = Contributions("box", a, low, high) if low and high else None
        yield Part(u, lambda: _signs(layer), None, self.stabilizer, parts=2, by=by)

    def check(self, node: Node) -> str | None:
        shape = (1, *(int(n) for n in node.inputs[0].shape))
        for bound in (self.low, self.high):
            size = tuple(bound.shape) if isinstance(bound, Tensor) else ()
            try:
                fits = torch.broadcast_shapes(size, shape) == shape
            except RuntimeError:
                fits = False
            if not fits:
                return f"ZBox bounds of shape {list(size)} do not fit a sample {list(shape[1:])}"
        return super().check(node)

    def _bound(self, value: float | Tensor, a: Tensor) -> float | Tensor:
        return value.to(a) if isinstance(value, Tensor) else value


def _numbers_of(bound: float | Tensor) -> Tensor:
    if isinstance(bound, Tensor):
        return bound
    return torch.tensor(bound, dtype=torch.float64, device="cpu")


def _by_channel(shape: torch.Size, numbers: list[float], a: Tensor) -> tuple[float, ...]:
    """A bound as one number for each of a few channels; empty if it is no such bound."""
    sizes = (*[1] * (a.dim() - len(shape)), *shape)
    if not numbers or a.shape[1] > FEW or any(n != 1 for n in sizes[2:]):
        return ()
    return tuple(numbers) * (1 if len(numbers) > 1 else a.shape[1])


@dataclass(repr=False)
class WSquare(LinearRule):
    """w^2 rule, for a first layer on unbounded inputs: by weight alone.

    R_i = sum_j w_ij^2 / sum_i w_ij^2 R_j

    Parameters
    ----------
    bias : bool, default False
        True counts b^2 in the denominator, as zennit does.
    stabilizer : float, default 1e-6
        Added to the denominator.

    Raises
    ------
    ValueError
        If the stabilizer is negative.

    References
    ----------
    Montavon et al. 2017; book, section 10.A.

    Examples
    --------
    >>> from xaifast import rules
    >>> rules.WSquare()
    WSquare(bias=False, stabilizer=1e-06)
    """

    bias: bool = False
    stabilizer: float = 1e-6

    def __post_init__(self) -> None:
        _check_not_negative("WSquare", stabilizer=self.stabilizer)

    def parts(self, layer, a, z):
        b = _counted(layer.bias, self)
        yield Part(
            None, layer.derive("w^2", torch.square), None if b is None else b.square(),
            self.stabilizer, by=Contributions("square", a),
        )  # fmt: skip

    def check(self, node: Node) -> str | None:
        return _check_weights(self, node)


@dataclass(repr=False)
class Flat(LinearRule):
    """Flat rule, for a first layer: every input that a unit sees gets the same share.

    R_i = sum_j 1 / (sum_i 1) R_j

    Parameters
    ----------
    stabilizer : float, default 1e-6
        Added to the denominator.

    Raises
    ------
    ValueError
        If the stabilizer is negative.

    References
    ----------
    Lapuschkin et al. 2019; book, section 10.A.

    Examples
    --------
    >>> from xaifast import rules
    >>> rules.Flat()
    Flat(stabilizer=1e-06)
    """

    stabilizer: float = 1e-6

    def __post_init__(self) -> None:
        _check_not_negative("Flat", stabilizer=self.stabilizer)

    def parts(self, layer, a, z):
        yield Part(None, layer.derive("1", torch.ones_like), None, self.stabilizer)

    def check(self, node: Node) -> str | None:
        return _check_weights(self, node)

    def propagate(self, node, inputs, output, R, balance=None):
        layer, (a,) = node.layer, inputs
        if balance is not None or not layer.spreads_evenly or not ops.is_native(a):
            return super().propagate(node, inputs, output, R, balance)
        # Fast path: all units share alike, so their relevance is summed before it is spread.
        share = layer.remember(
            ("share", self.stabilizer, a.shape[1:]), lambda: self._share(layer, a)
        )
        return (layer.spread(R, share, a),)

    def _share(self, layer: Layer, a: Tensor) -> Tensor:
        n = layer.forward(a.new_ones((1, *a.shape[1:])), layer.derive("1", torch.ones_like))
        return 1 / (n + self.stabilizer)


# ---- other nodes -----------------------------------------------------------------------------


class Pass(Rule):
    """Hand relevance on unchanged, for activation functions and affine nodes.

    R_j = R_k

    References
    ----------
    Book, section 10.2.1: the propagation rules treat a layer together with its activation.

    Examples
    --------
    >>> from xaifast import rules
    >>> rules.Pass()
    Pass
    """

    needs_inputs = needs_output = False

    def check(self, node: Node) -> str | None:
        """The one input must have the shape of the output."""
        if len(node.inputs) == 1 and node.inputs[0].shape == node.shape:
            return None
        return "Pass needs one input of the shape of the output"

    def passes(self, node: Node) -> bool:
        return True

    def gates(self, node: Node, gated: bool) -> bool:
        return gated and node.op == "relu"

    def propagate(self, node, inputs, output, R, balance=None):
        return (R,)


class Transpose(Rule):
    """The exact transposed map of what only moves values (view, cat, slice, expand, pad, ...).

    R_j = sum of the R_k that are copies of j

    Examples
    --------
    >>> from xaifast import rules
    >>> rules.Transpose()
    Transpose
    """

    needs_output = False

    def gates(self, node: Node, gated: bool) -> bool:
        return gated

    def propagate(self, node, inputs, output, R, balance=None):
        messages: tuple[Tensor | None, ...] | None = _moved_back(node, inputs, R)
        if messages is None:
            messages = _transposed_inputs(node, inputs, R)
        if balance is not None:  # what fell on padding and constants
            arrived = sum(float(m.sum()) for m in messages if m is not None)
            balance.filled += float(R.sum()) - arrived
        return messages


def _moved_back(node, inputs: tuple[Tensor, ...], R: Tensor) -> tuple[Tensor, ...] | None:
    """The common cases in closed form, else None."""
    if node.op in (
        "view",
        "reshape",
        "_unsafe_view",
        "flatten",
        "unflatten",
        "squeeze",
        "unsqueeze",
    ):
        return (R.reshape(len(R), *inputs[0].shape),)
    if node.op == "permute":
        dims = [d % inputs[0].dim() for d in node.args[1]]
        back = sorted(range(len(dims)), key=dims.__getitem__)
        return (R.permute(0, *(d + 1 for d in back)),)
    if node.op == "transpose":
        i, j = (d % inputs[0].dim() + 1 for d in node.args[1:3])
        return (R.transpose(i, j),)
    if node.op == "cat" and len(inputs) == len(node.args[0]):
        dim = (node.args[1] if len(node.args) > 1 else 0) % inputs[0].dim()
        return R.split([x.shape[dim] for x in inputs], dim + 1)
    return None


def _transposed_inputs(node, inputs: tuple[Tensor, ...], R: Tensor) -> tuple[Tensor | None, ...]:
    """One transposed map for each input, the others held fixed."""
    messages: list[Tensor | None] = []
    for i, x in enumerate(inputs):
        source = node.inputs[i]
        if source in node.inputs[:i]:  # it enters twice, as in stack([y, y]): one map for both
            messages.append(None)
            continue

        def forward(u: Tensor, source: Node = source) -> Tensor:
            given = zip(node.inputs, inputs, strict=True)
            return node.rerun(*(u if n is source else v for n, v in given))

        messages.append(transposed(forward, x, R))
    return tuple(messages)


@dataclass(repr=False)
class Pool(Rule):
    """Max pooling: winner-take-all, or in proportion to the activations.

    winner-take-all:  R_i = sum of the R_o of the windows that i wins (first of equals)
    proportional:     R_i = sum_o a_i / (sum_i a_i) R_o

    Parameters
    ----------
    proportional : bool, default False
        False: winner-take-all.
    stabilizer : float, default 1e-6
        Of the proportional rule's denominator.

    Raises
    ------
    ValueError
        If the stabilizer is negative.

    References
    ----------
    Book, section 10.3.2 (both), section 16.2 (proportional).

    Examples
    --------
    >>> from xaifast import rules
    >>> rules.Pool(proportional=True)
    Pool(proportional=True, stabilizer=1e-06)
    """

    proportional: bool = False
    stabilizer: float = 1e-6
    needs_output = False

    def __post_init__(self) -> None:
        if not isinstance(self.proportional, bool):
            raise wrong_type(
                "Pool: proportional", "must be a bool", self.proportional,
                "False: winner-take-all.",
            )  # fmt: skip
        _check_not_negative("Pool", stabilizer=self.stabilizer)

    def check(self, node: Node) -> str | None:
        """Windows for both schemes; a plain maximum has a winner only."""
        if node.kind == "max_pool" or (node.kind == "max_reduce" and not self.proportional):
            return None
        return "Pool(proportional=True) needs a max pooling with windows, Pool() a maximum"

    def gates(self, node: Node, gated: bool) -> bool:
        return gated or self.proportional

    def propagate(self, node, inputs, output, R, balance=None):
        if node.op == "maximum":
            return _to_the_larger(inputs, R)
        (a,) = inputs
        if node.kind == "max_reduce":
            return (_to_first_largest(node, a, R),)
        kernel, stride, padding, dilation = _pool_geometry(node, a.dim() - 2)
        rule = "proportional" if self.proportional else "winner_take_all"
        message = ops.pool_redistribute(
            a, R, kernel, stride, padding, dilation, rule, self.stabilizer
        )
        if balance is not None and self.proportional:
            balance.absorb(stabilizer=R.sum() - message.sum())
        return (message,)


def _to_the_larger(inputs: tuple[Tensor, ...], R: Tensor) -> tuple[Tensor, Tensor]:
    """All relevance of max(x, y) to the larger of the two, to x if they are equal."""
    x, y = inputs
    R_x = torch.where(x >= y, R, 0)
    return unbroadcast(R_x, x.shape), unbroadcast(R - R_x, y.shape)


def _to_first_largest(node, a: Tensor, R: Tensor) -> Tensor:
    """All relevance of a maximum to the first input that attains it."""
    if node.op != "amax":
        return transposed(node.rerun, a, R)
    dims = sorted(d % a.dim() for d in node.args[1]) or list(range(1, a.dim()))
    kept = [d for d in range(a.dim()) if d not in dims]
    moved = a.permute(*kept, *dims)
    winner = moved.flatten(len(kept)).argmax(-1, keepdim=True)  # the first of equals
    share = torch.zeros_like(moved.flatten(len(kept))).scatter_(-1, winner, 1.0)
    back = sorted(range(a.dim()), key=[*kept, *dims].__getitem__)
    share = share.view(moved.shape).permute(back)
    whole = (
        R
        if node.args[2]
        else R.reshape(len(R), *(1 if d in dims else n for d, n in enumerate(a.shape)))
    )
    return share * whole


def _pool_geometry(node, dims: int) -> list[list[int]]:
    """Kernel, stride, padding and dilation, one number for each dimension."""
    kernel, stride, padding, dilation = node.args[1:5]
    lists = [[x] if isinstance(x, int) else list(x) for x in (kernel, stride, padding, dilation)]
    lists[1] = lists[1] or lists[0]
    return [x * dims if len(x) == 1 else x for x in lists]


class Gate(Rule):
    """A product of signal and gate: all relevance to the signal.

    h = g s:   R_s = R_h,   R_g = 0

    The gate is the operand that lies in [0, 1] (behind a sigmoid, say), or the one that has fewer
    elements if both do.

    References
    ----------
    Book, section 10.4: all relevance flows through the second term of an LSTM's products.

    Examples
    --------
    >>> from xaifast import rules
    >>> rules.Gate()
    Gate
    """

    needs_output = False

    def check(self, node: Node) -> str | None:
        """One operand, and not both, must be a gate."""
        if node.kind != "mul":
            return "Gate needs a product of two inputs"
        if _gate_of(node) is None:
            return "neither operand is known to be a gate in [0, 1], or both are"
        return None

    def gates(self, node: Node, gated: bool) -> bool:
        return gated

    def propagate(self, node, inputs, output, R, balance=None):
        signal = 1 if _gate_of(node) == 0 else 0
        messages: list[Tensor | None] = [None, None]
        messages[signal] = unbroadcast(R, inputs[signal].shape)
        return messages


def _gate_of(node) -> int | None:
    """Which operand of a product is the gate, or None."""
    known = [x.low >= 0 and x.high <= 1 for x in node.inputs]
    if all(known):
        sizes = [_elements(x.shape) for x in node.inputs]
        known = [size < max(sizes) for size in sizes]
    return known.index(True) if sum(known) == 1 else None


def _elements(shape: tuple) -> int:
    n = 1
    for size in shape:
        n *= int(size)
    return n
