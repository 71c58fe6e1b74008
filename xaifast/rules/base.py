"""Rules for linear layers, given by their parts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..errors import wrong_type, wrong_value
from ..graph.layers import choice
from ..graph.layers.base import Layer, Share
from ..graph.node import Node
from ..graph.rule import Balance, Rule
from ..graph.weights import Weight


def check_not_negative(who: str, **values: float) -> None:
    """Require finite values >= 0."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise wrong_type(f"{who}: {name}", "must be a number", value, "For example 1e-6.")
        if not 0 <= value < math.inf:
            raise wrong_value(
                f"{who}: {name}", "must be >= 0 and finite", value, "Zero switches it off."
            )


@dataclass(frozen=True, eq=False)
class Part:
    """One stabilized redistribution; a rule is the sum of its parts.

    coefficient * u_j sum_k w_jk s_k,   s = R / (z + eps sgn z),   z = sum_j u_j w_jk + b_k

    u: what enters the weights (None: ones); w: the weight (`layer.weight`, or `layer.derive(name,
    f)` that is kept between calls, or a plain tensor); b: the bias that counts in the denominator;
    eps: the stabilizer, one number or one for each sample; parts: 2 if u and w hold
    two parts side by side; where: outputs of which relevance is taken (None: all); z: the
    denominator, if it is known already; coefficient: a factor; bounded: whether z is at least the
    layer's output wherever that is positive (faster kernels, which round in proportion to s, take
    such parts below a ReLU).
    """

    u: Tensor | None
    w: Weight | Tensor
    b: Tensor | None = None
    eps: float | Tensor = 1e-6
    parts: int = 1
    where: Tensor | None = None
    z: Tensor | None = None
    coefficient: float = 1.0
    bounded: bool = False

    @property
    def weight(self) -> Weight:
        """The weight w, a plain tensor wrapped."""
        return Weight(self.w) if isinstance(self.w, Tensor) else self.w


class LinearRule(Rule):
    """A rule for linear layers (conv, linear, affine, sum), given by its parts.

    A subclass implements `parts(layer, a, z)`, which yields a `Part` for each fraction of its
    formula.
    """

    needs_output = False

    def parts(self, layer: Layer, a: Tensor, z: Tensor | None) -> Iterator[Part]:
        """Yield the parts of the formula.

        Parameters
        ----------
        layer : the linear map. `layer.weight` is the weight w and `layer.derive(name, f)` is f(w),
            kept under that name until w changes (`.plain` of either is the tensor); `layer.bias` is
            b or None; `layer.nonnegative_input` tells whether a can be negative. For two weights
            side by side, `layer.split_signs(a)` = [a+, a-] goes with `layer.stack(first, second,
            name)` and `parts=2`.
        a : [N, ...] activations that enter.
        z : [N, ...] the layer's output, if `needs_output` is set.
        """
        raise NotImplementedError

    def check(self, node: Node) -> str | None:
        """Only nodes with a linear map whose weights do not depend on the input."""
        if node.layer is None:
            return f"{type(self).__name__} needs a linear layer with constant weights"
        return None

    def fuses(self, node: Node, rectified: bool) -> bool:
        """A rule that never looks at the output does not mind a ReLU behind it."""
        return not self.needs_output

    def at_once(self, layer: Layer, a: Tensor, z: Tensor | None, R: Tensor) -> Tensor | None:
        """The message by a kernel that knows the rule, or None: a fast path, never needed."""
        return None

    def propagate(self, node, inputs, output, R, balance=None):
        """Sum the parts, unless a kernel does it at once; a report counts step by step."""
        (a,) = inputs
        total = self.at_once(node.layer, a, output, R) if balance is None else None
        if total is not None:
            return (total,)
        for part in self.parts(node.layer, a, output):
            message, factor = _propagate_part(node.layer, part, a, R, balance), part.coefficient
            if total is None:
                total = message if factor == 1.0 else message * factor
            else:
                total = total.add(message, alpha=factor)
        return (total,)


class ShareRule(LinearRule):
    """A rule that weighs contributions by their signs, given by its shares.

    Attributes
    ----------
    bias, stabilizer : whether the bias counts in the denominators, and what is added to them.
    mirrored : whether signs are exchanged where z < 0, and nothing passes where z = 0.
    """

    bias: bool
    stabilizer: float
    mirrored = False

    def shares(self) -> tuple[Share, ...]:
        """The shares (share, positive, negative); those of z > 0 if `mirrored`."""
        return ()

    def __init_subclass__(cls, **rest: Any) -> None:
        """A subclass with parts of its own does not inherit the shares of others."""
        super().__init_subclass__(**rest)
        if "parts" in vars(cls) and "shares" not in vars(cls):
            cls.shares = ShareRule.shares  # type: ignore[method-assign]

    def _sides(self, layer: Layer, z: Tensor | None) -> list[tuple[Share, Tensor | None]]:
        """Each share, and the outputs of which it takes relevance (None: all)."""
        if z is None or not self.mirrored or layer.rectified:  # below a ReLU, z > 0 is all there is
            return [(share, None) for share in self.shares()]
        return [
            side for share in self.shares() for side in ((share, z > 0), (share.mirrored, z < 0))
        ]

    def parts(self, layer, a, z):
        """sum_k q_jk s_k with (a w)+ = a+ w+ + a- w- and (a w)- = a+ w- + a- w+."""
        u = a if layer.nonnegative_input else layer.split_signs(a)
        for share, where in self._sides(layer, z):
            yield self._part(layer, u, share, where)

    def _part(self, layer: Layer, u: Tensor, share: Share, where: Tensor | None = None) -> Part:
        """One share; u: a, or its two parts where it may be negative."""
        w, signed = weighed(layer, share), not layer.nonnegative_input
        if signed:
            w = layer.stack(w, weighed(layer, share.mirrored), ("pair", *share[1:]))
        # A denominator without the bias, or of fewer contributions, may be below the output.
        whole = self.bias or layer.bias is None
        bounded = whole and share.positive >= max(1, share.negative)
        return Part(
            u, w, _counted(layer, share, self.bias), self.stabilizer, parts=1 + signed, where=where,
            coefficient=share.share, bounded=bounded,
        )  # fmt: skip

    def at_once(self, layer, a, z, R):
        """All shares from the layer's own weight: `zplus_linear`, or `zplus_conv` for some."""
        shares = self.shares()
        if choice.takes_signs(layer, a, R.shape[:-1], len(shares)):
            b = layer.bias if self.bias else None
            if not self.mirrored or layer.rectified:
                return layer.share_out(a, R, b, shares, self.stabilizer)
            other = tuple(share.mirrored for share in shares)
            up, down = R * (z > 0), R * (z < 0)
            return layer.share_out(a, up, b, shares, self.stabilizer) + layer.share_out(
                a, down, b, other, self.stabilizer
            )
        if layer.nonnegative_input or self.mirrored:
            return None
        found = [self._contributed(layer, a, R, share) for share in shares]
        missing = [message is None for message in found]
        if all(missing):
            return None
        u = layer.split_signs(a) if any(missing) else a
        total: Tensor | None = None
        for share, message in zip(shares, found, strict=True):
            if message is None:
                message = _propagate_part(layer, self._part(layer, u, share), a, R, None)
            message = message if share.share == 1.0 else message * share.share
            total = message if total is None else total + message
        return total

    def _contributed(self, layer: Layer, a: Tensor, R: Tensor, share: Share) -> Tensor | None:
        name = CONTRIBUTIONS.get(share[1:])
        if name is None:
            return None
        own = _counted(layer, share, self.bias)
        return layer.contributed(name, a, R, layer.weight, own, self.stabilizer)


# (positive, negative) of a share -> the rule of `ops.zplus_conv` for signed inputs.
CONTRIBUTIONS = {(1.0, 0.0): "positive", (0.0, 1.0): "negative"}


def weighed(layer: Layer, share: Share) -> Weight:
    """positive w+ + negative w-, kept with the layer."""
    return layer.derive(share[1:], share.of)


def _counted(layer: Layer, share: Share, bias: bool) -> Tensor | None:
    """The bias that counts in the denominator of a share."""
    return share.of(layer.bias) if bias and layer.bias is not None else None


def _propagate_part(
    layer: Layer, part: Part, a: Tensor, R: Tensor, balance: Balance | None
) -> Tensor:
    R = R if part.where is None else R * part.where
    u = part.u
    if u is None:
        return _spread(layer, part, a, R, balance)
    if balance is not None:
        return _step_by_step(layer, part, u, R, balance)
    bounded = part.bounded and layer.rectified
    if isinstance(part.eps, Tensor):
        z = layer.forward(u, part.weight, part.b) if part.z is None else part.z
        z = reference.stabilize(z, part.eps)
        return layer.relprop(u, R, part.weight, None, 0.0, part.parts, z, bounded)
    if part.z is None and part.parts == 1:
        message = layer.contributed("all", u, R, part.weight, part.b, part.eps)
        if message is not None:
            return message
    return layer.relprop(u, R, part.weight, part.b, part.eps, part.parts, part.z, bounded)


def _spread(layer: Layer, part: Part, a: Tensor, R: Tensor, balance: Balance | None) -> Tensor:
    """c = w^T s for an input of ones: the denominator does not depend on the input."""
    ones = a.new_ones((1, *a.shape[1:]))

    def inverse() -> Tensor:
        d = reference.stabilize(layer.forward(ones, part.weight, part.b), part.eps)
        return torch.where(d == 0, 0, 1 / d)

    weight = part.weight
    key = ("1/z", id(weight), part.b is None, part.eps, tuple(a.shape[1:]), a.dtype)
    if isinstance(part.w, Tensor):
        s = R * inverse()
    else:  # kept with the weight, so that no other one gets its id
        s = R * layer.remember(key, lambda: (weight, inverse()))[1]
    if balance is not None:
        z = layer.forward(ones, part.weight, part.b)
        balance.absorb(_bias_share(layer, part, ones, s), (R - s * z).sum())
    return layer.hand_back(s, part.weight, a)


def _step_by_step(layer: Layer, part: Part, u: Tensor, R: Tensor, balance: Balance) -> Tensor:
    """The four steps one by one, counting what the bias and the stabilizer absorb."""
    z = layer.forward(u, part.weight, part.b) if part.z is None else part.z
    d = reference.stabilize(z, part.eps)
    s = torch.where(d == 0, 0, R / d)
    bias, stabilizer = _bias_share(layer, part, u, s), (R - s * z).sum()
    balance.absorb(part.coefficient * bias, part.coefficient * stabilizer)
    return layer.multiply(u, layer.hand_back(s, part.weight, u), part.parts)


def _bias_share(layer: Layer, part: Part, u: Tensor, s: Tensor) -> Tensor | float:
    """sum_k b_k s_k, with b as the layer adds it."""
    if part.b is None:
        return 0.0
    return (s * layer.forward(torch.zeros_like(u[:1]), part.weight, part.b)).sum()
