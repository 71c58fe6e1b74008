"""The rules of layer-wise relevance propagation (book, sections 10.2.1, 10.3.2 and 10.A).

Each class is its formula and a few lines. The book's sums over 0,j count the bias in the
denominator, those over j do not; `bias=False` leaves it out everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from ..errors import wrong_type, wrong_value
from ..graph.layers.base import Layer, Share, unbroadcast
from ..graph.node import Node
from .base import LinearRule, Part, ShareRule, check_not_negative, weighed


def _check_weights(rule: LinearRule, node: Node) -> str | None:
    """For rules that replace the weights: sums and average pooling have none to replace."""
    if node.kind == "sum":
        return f"{type(rule).__name__} needs weights; for sums and average pooling take Epsilon"
    return LinearRule.check(rule, node)


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
        check_not_negative("Epsilon", epsilon=self.epsilon)

    def _eps(self, z: Tensor) -> float | Tensor:
        if not self.relative:
            return self.epsilon
        return self.epsilon * z.flatten(1).std(1, unbiased=False).view(-1, *[1] * (z.dim() - 1))

    def parts(self, layer, a, z):
        b = layer.bias if self.bias else None
        if b is None and layer.bias is not None:
            z = layer.forward(a, layer.weight)
        bounded = b is not None or layer.bias is None
        yield Part(a, layer.weight, b, self._eps(z), z=z, bounded=bounded)

    def at_once(self, layer, a, z, R):
        if self.relative:
            return None
        b = layer.bias if self.bias else None
        return layer.contributed("all", a, R, layer.weight, b, self.epsilon, known=True)

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
class ZPlus(ShareRule):
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
        check_not_negative("ZPlus", stabilizer=self.stabilizer)

    def shares(self) -> tuple[Share, ...]:
        return (Share(1.0, 1.0, 0.0),)

    def gates(self, node: Node, gated: bool) -> bool:
        return True


@dataclass(repr=False)
class AlphaBeta(ShareRule):
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
        check_not_negative(
            "AlphaBeta", alpha=self.alpha, beta=self.beta, stabilizer=self.stabilizer
        )
        if abs(self.alpha - self.beta - 1.0) > 1e-9:
            raise wrong_value(
                "AlphaBeta: alpha - beta", "must be 1", f"{self.alpha} - {self.beta}",
                "Usual pairs are (1, 0) and (2, 1).",
            )  # fmt: skip

    def shares(self) -> tuple[Share, ...]:
        # Not z - z+: where nothing is negative that is rounding noise, and it divides by it.
        both = (Share(self.alpha, 1.0, 0.0), Share(-self.beta, 0.0, 1.0))
        return both if self.beta else both[:1]

    def gates(self, node: Node, gated: bool) -> bool:
        return True


@dataclass(repr=False)
class Gamma(ShareRule):
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
    mirrored = True

    def __post_init__(self) -> None:
        check_not_negative("Gamma", gamma=self.gamma, stabilizer=self.stabilizer)

    def shares(self) -> tuple[Share, ...]:
        return (Share(1.0, 1.0 + self.gamma, 1.0),)

    def fuses(self, node: Node, rectified: bool) -> bool:
        return rectified

    def gates(self, node: Node, gated: bool) -> bool:
        return True


# ---- first layers ----------------------------------------------------------------------------

POSITIVE, NEGATIVE = Share(1.0, 1.0, 0.0), Share(1.0, 0.0, 1.0)  # of a weight: w+ and w-
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
        check_not_negative("ZBox", stabilizer=self.stabilizer)
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
        low, high = (self._bound(x, a) for x in (self.low, self.high))
        u, w = layer.stack_inputs(a - low, a - high), weighed(layer, POSITIVE)
        w = layer.stack(w, weighed(layer, NEGATIVE), "[w+, w-]")
        yield Part(u, w, None, self.stabilizer, parts=2)

    def at_once(self, layer, a, z, R):
        low, high = (_by_channel(*bound, a) for bound in self._numbers)
        if not (low and high):
            return None
        return layer.contributed("box", a, R, layer.weight, None, self.stabilizer, low, high)

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
        check_not_negative("WSquare", stabilizer=self.stabilizer)

    def parts(self, layer, a, z):
        yield Part(None, layer.derive("w^2", torch.square), self._b2(layer), self.stabilizer)

    def at_once(self, layer, a, z, R):
        return layer.contributed("square", a, R, layer.weight, self._b2(layer), self.stabilizer)

    def _b2(self, layer: Layer) -> Tensor | None:
        return layer.bias.square() if self.bias and layer.bias is not None else None

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
        check_not_negative("Flat", stabilizer=self.stabilizer)

    def parts(self, layer, a, z):
        yield Part(None, layer.derive("1", torch.ones_like), None, self.stabilizer)

    def check(self, node: Node) -> str | None:
        return _check_weights(self, node)

    def at_once(self, layer, a, z, R):
        if not layer.spreads_evenly or not ops.is_native(a):
            return None
        # All units share alike, so their relevance is summed before it is spread.
        share = layer.remember(
            ("share", self.stabilizer, a.shape[1:]), lambda: self._share(layer, a)
        )
        return layer.spread(R, share, a)

    def _share(self, layer: Layer, a: Tensor) -> Tensor:
        n = layer.forward(a.new_ones((1, *a.shape[1:])), layer.derive("1", torch.ones_like))
        return 1 / (n + self.stabilizer)
