"""Rules for linear layers, given by their parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..errors import wrong_type, wrong_value
from ..graph.layers.base import Contributions, Layer, Signs
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

    by: what a kernel computes at once, of the layer's own weight unless its rule is "all". It says
    the same as u and w, which may then be functions: called where no such kernel is faster.
    """

    u: Tensor | Callable[[], Tensor] | None
    w: Weight | Tensor | Callable[[], Weight]
    b: Tensor | None = None
    eps: float | Tensor = 1e-6
    parts: int = 1
    where: Tensor | None = None
    z: Tensor | None = None
    coefficient: float = 1.0
    bounded: bool = False
    by: Contributions | None = None

    @property
    def weight(self) -> Weight:
        """The weight w, a plain tensor wrapped."""
        w = self.w() if callable(self.w) else self.w
        return Weight(w) if isinstance(w, Tensor) else w


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

    def propagate(self, node, inputs, output, R, balance=None):
        """Sum the parts."""
        (a,) = inputs
        total: Tensor | None = None
        for part in self.parts(node.layer, a, output):
            message, factor = _propagate_part(node.layer, part, a, R, balance), part.coefficient
            if total is None:
                total = message if factor == 1.0 else message * factor
            else:
                total = total.add(message, alpha=factor)
        return (total,)


class BySigns(LinearRule):
    """A rule that weighs contributions by their signs: one more way to give its formula.

    Attributes
    ----------
    bias, stabilizer : whether the bias counts in the denominators, and what is added to them.
    """

    bias: bool
    stabilizer: float

    def signs(self) -> tuple[Signs, ...]:
        """The parts, for kernels that need no weights but the layer's own.

        Those of z > 0, for a rule that depends on the sign of z. None: there are no such parts.
        """
        return ()

    def __init_subclass__(cls, **rest: Any) -> None:
        """A subclass with parts of its own does not inherit the signs of others."""
        super().__init_subclass__(**rest)
        if "parts" in vars(cls) and "signs" not in vars(cls):
            cls.signs = BySigns.signs  # type: ignore[method-assign]

    def rows_by_signs(self, layer: Layer, a: Tensor) -> int:
        """Rows of relevance up to which a kernel takes all parts at once."""
        parts = len(self.signs())
        return layer.rows_by_signs(a, parts) if parts else 0

    def propagate(self, node, inputs, output, R, balance=None):
        """All parts at once for few rows; a graph that is recorded for any number has many."""
        (a,), rows = inputs, R.shape[:-1]
        most = self.rows_by_signs(node.layer, a) if balance is None else 0
        if most and all(isinstance(n, int) for n in rows) and math.prod(rows) <= most:
            return (self._by_signs(node.layer, a, output, R),)
        return super().propagate(node, inputs, output, R, balance)

    def _by_signs(self, layer: Layer, a: Tensor, z: Tensor | None, R: Tensor) -> Tensor:
        return layer.by_signs(a, R, self._counted(layer), self.signs(), self.stabilizer)

    def _counted(self, layer: Layer) -> Tensor | None:
        return layer.bias if self.bias else None


def _propagate_part(
    layer: Layer, part: Part, a: Tensor, R: Tensor, balance: Balance | None
) -> Tensor:
    R = R if part.where is None else R * part.where
    if balance is None:
        message = _by_contributions(layer, part, R)
        if message is not None:
            return message
    u = part.u() if callable(part.u) else part.u
    if u is None:
        return _spread(layer, part, a, R, balance)
    if balance is not None:
        return _step_by_step(layer, part, u, R, balance)
    bounded = part.bounded and layer.rectified
    if isinstance(part.eps, Tensor):
        z = layer.forward(u, part.weight, part.b) if part.z is None else part.z
        z = reference.stabilize(z, part.eps)
        return layer.relprop(u, R, part.weight, None, 0.0, part.parts, z, bounded)
    return layer.relprop(u, R, part.weight, part.b, part.eps, part.parts, part.z, bounded)


def _by_contributions(layer: Layer, part: Part, R: Tensor) -> Tensor | None:
    """The part by a kernel for its contributions, or None where none is faster."""
    by = part.by
    if by is None and isinstance(part.u, Tensor) and part.z is None and part.parts == 1:
        by = Contributions("all", part.u)
    if by is None or isinstance(part.eps, Tensor):
        return None
    w = part.weight if by.rule == "all" else layer.weight
    return layer.contributed(by, R, w, part.b, part.eps)


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
