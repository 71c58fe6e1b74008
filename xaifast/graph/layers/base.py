"""Linear maps: what a rule may do with a node that is a weighted sum of its input.

Every layer answers the same questions, so that a rule is written once for all of them:

    weight, bias            the layer's own w and b
    derive(name, f)         f(w) as a Weight, computed once and kept
    forward(u, w, b)        z = w u + b
    transpose(s, w, like)   c = w^T s
    hand_back(s, w, like)   the same in the precision that was asked for
    relprop(u, R, w, ...)   Eq. 10.2 in one go, on native kernels where there are some
    contributed(rule, ...)  Eq. 10.2 by a kernel that knows the rule, where one is chosen
    share_out(a, R, ...)    shares by the signs of contributions, from w itself

Which kernel runs, and why, `choice` decides.

u has the batch first; R and s have one leading axis of targets more.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import ops
from ..node import Node
from ..weights import Weight, Weights


def _per_target(propagate: Callable[[Tensor], Tensor], s: Tensor) -> Tensor:
    if len(s) == 1:
        return propagate(s[0]).unsqueeze(0)
    return torch.stack([propagate(x) for x in s])


def transposed(forward: Callable[[Tensor], Tensor], like: Tensor, s: Tensor) -> Tensor:
    """J^T s for each target, J the Jacobian of a function that is linear in its input."""
    with torch.enable_grad():
        x = like.detach().requires_grad_()
        y = forward(x)
    return _per_target(lambda g: torch.autograd.grad(y, x, g, retain_graph=True)[0], s)


def unbroadcast(x: Tensor, shape: torch.Size) -> Tensor:
    """Sum x, [targets, *broadcast shape], down to [targets, *shape]."""
    extra = x.dim() - 1 - len(shape)
    if extra:
        x = x.flatten(1, extra).sum(1) if extra > 1 else x.sum(1)
    for i, size in enumerate(shape):
        if size == 1 and x.shape[i + 1] != 1:
            x = x.sum(i + 1, keepdim=True)
    return x


class Share(NamedTuple):
    """A share of a rule, by the signs of contributions.

    share sum_k q_jk / (sum_0,j q_jk) R_k,   q = positive (a w)+ + negative (a w)-
    """

    share: float
    positive: float
    negative: float

    @property
    def mirrored(self) -> Share:
        """The share with the signs exchanged."""
        return Share(self.share, self.negative, self.positive)

    def of(self, x: Tensor) -> Tensor:
        """positive x+ + negative x-, one clamp where that is enough."""
        both = min(self.positive, self.negative)
        parts = [
            x * both if both != 1 else x,
            x.clamp(min=0) * (self.positive - both) if self.positive != both else None,
            x.clamp(max=0) * (self.negative - both) if self.negative != both else None,
        ]
        found = [p for p in (parts if both else parts[1:]) if p is not None]
        return found[0] if len(found) == 1 else found[0] + found[1]


class Layer:
    """The base of all layers: their node and where their weights come from."""

    rounds_to: torch.dtype | None = None  # what the factors of w^T s are rounded to, if anything
    has_shares = False  # whether `share_out` is there
    rectified = False  # whether relevance vanishes wherever the output is not positive

    def __init__(self, node: Node, weights: Weights, w: Any, b: Any) -> None:
        self.node = node
        self.weights = weights
        self._w, self._b = w, b

    def _value(self, x: Any) -> Any:
        return self.weights.value(x) if isinstance(x, Node) else x

    @property
    def nonnegative_input(self) -> bool:
        """Whether the activations that enter cannot be negative."""
        return self.node.inputs[0].nonnegative

    @property
    def bias(self) -> Tensor | None:
        """The layer's bias b, or None."""
        return self._value(self._b)

    @property
    def weight(self) -> Weight:
        """The layer's weight w."""
        return self.derive("w", lambda w: w)

    def derive(self, name: Hashable, f: Callable[[Tensor], Tensor]) -> Weight:
        """f(w), computed at the first call and kept until a parameter changes."""

        def make() -> Weight:
            w = self._value(self._w)
            plain = f(w)
            if plain is not w:
                self._derives()
            return Weight(plain, self._derives)

        return self.weights.derived((self.node, name), make, ())

    def remember(self, name: Hashable, make: Callable[[], Any]) -> Any:
        """Anything else that depends on the weights only."""
        return self.weights.derived((self.node, name), make, (self._w, self._b))

    def _derives(self) -> None:
        """Note that something is derived from the layer's parameters."""
        self.weights.derives(self._w, self._b)

    def stack(self, first: Weight, second: Weight, name: Hashable) -> Weight:
        """Two weights side by side, for an input in two parts."""
        return self.remember(name, lambda: Weight(self._stack(first.plain, second.plain)))

    def _stack(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.stack([first, second])

    def stack_inputs(self, first: Tensor, second: Tensor) -> Tensor:
        """Two inputs side by side, as `stack` puts their weights."""
        return torch.stack([first, second], 1)

    def split_signs(self, a: Tensor) -> Tensor:
        """The positive and the negative part of a, side by side."""
        return self.stack_inputs(a.clamp(min=0), a.clamp(max=0))

    def multiply(self, u: Tensor, c: Tensor, parts: int) -> Tensor:
        """u c, summed over the parts of u."""
        R = u * c
        return R if parts == 1 else R.sum(2)

    def product(self, u: Tensor, w: Tensor) -> Tensor:
        """w u for one part."""
        raise NotImplementedError

    def forward(self, u: Tensor, w: Weight, b: Tensor | None = None) -> Tensor:
        """z = w u + b."""
        if u.dim() == len(self.node.inputs[0].shape) + 1:
            z = self.product(u, w.plain)
        else:  # two parts
            z = self.product(u[:, 0], w.plain[0]) + self.product(u[:, 1], w.plain[1])
        return z if b is None else z + b

    def run(self, a: Tensor, relu: bool = False, alone: bool = False) -> Tensor:
        """The layer's own forward pass, with a ReLU behind it if asked for.

        alone: nothing is propagated back through it, and so speed matters alone.
        """
        z = self.forward(a, self.weight, self.bias)
        return z.relu_() if relu else z

    @property
    def spreads_evenly(self) -> bool:
        """Whether all units that see an input see the same inputs: then `spread` exists."""
        return False

    def transpose(self, s: Tensor, w: Weight, like: Tensor) -> Tensor:
        """c = w^T s, one product for each target; `like` has the shape of u."""
        return transposed(lambda u: self.forward(u, w), like, s)

    def hand_back(self, s: Tensor, w: Weight, like: Tensor) -> Tensor:
        """c = w^T s of the relevance pass: the one place where it may be less than float32."""
        if self.rounds_to is None:
            return self.transpose(s, w, like)
        return self.transpose(s.to(self.rounds_to), w.rounded(self.rounds_to), like).to(s.dtype)

    def gradient(self, R: Tensor) -> Tensor:
        """c = w^T R for the layer's own weight: its derivative, for which no value matters."""
        return self.transpose(R, self.weight, self._like(R))

    def _like(self, R: Tensor) -> Tensor:
        """Something of the shape of the layer's input, without its memory."""
        return R.new_zeros(()).expand(R.shape[1], *self.node.inputs[0].shape)

    def relprop(
        self,
        u: Tensor,
        R: Tensor,
        w: Weight,
        b: Tensor | None,
        eps: float,
        parts: int = 1,
        z: Tensor | None = None,
        bounded: bool = False,
    ) -> Tensor:
        """R_j = sum over parts of u_j w^T (R / (z + eps sgn z)), z = w u + b or as given.

        bounded: R / z stays below R over the layer's output, and R vanishes with that.
        """
        z = self.forward(u, w, b) if z is None else z
        s = ops.stabilized_divide(R, z, None, eps)
        return self.multiply(u, self.hand_back(s, w, u), parts)

    def contributed(
        self,
        rule: str,
        a: Tensor,
        R: Tensor,
        w: Weight,
        b: Tensor | None,
        eps: float,
        low: tuple[float, ...] = (),
        high: tuple[float, ...] = (),
        known: bool = False,
    ) -> Tensor | None:
        """Eq. 10.2 by a kernel of `ops.zplus_conv`, or None where none is chosen.

        rule: its name there; low, high: bounds of a box, one for each channel; known: whether the
        denominator is at hand, so that the general way need not compute it.
        """
        return None

    def share_out(
        self, a: Tensor, R: Tensor, b: Tensor | None, shares: Sequence[Share], eps: float
    ) -> Tensor:
        """The sum of shares, from the layer's own weight; b is not clamped yet."""
        raise NotImplementedError
