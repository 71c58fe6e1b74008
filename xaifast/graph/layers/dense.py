"""Dense layers, and products with one constant tensor, as linear maps."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from ... import ops
from ..node import Node, nodes_in
from ..weights import Weight, Weights
from .base import Layer


class Linear(Layer):
    """A dense layer on the last dimension; leading dimensions are one long batch."""

    has_shares = True

    def __init__(self, node: Node, weights: Weights) -> None:
        super().__init__(node, weights, node.args[1], node.args[2])

    @property
    def bias(self) -> Tensor | None:
        """The layer's bias b [out], or None."""
        b = self._value(self._b)
        return None if b is None else b.reshape(-1)

    def _stack(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.cat([first, second], 1)

    def stack_inputs(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.cat([first, second], -1)

    def split_signs(self, a: Tensor) -> Tensor:
        return ops.split_signs(a.reshape(-1, a.shape[-1])).unflatten(0, a.shape[:-1])

    def forward(self, u: Tensor, w: Weight, b: Tensor | None = None) -> Tensor:
        return torch.nn.functional.linear(u, w.plain, b)

    def transpose(self, s: Tensor, w: Weight, like: Tensor) -> Tensor:
        return s @ w.plain

    @property
    def spreads_evenly(self) -> bool:
        return True

    def spread(self, R: Tensor, share: Tensor, like: Tensor) -> Tensor:
        return (R.sum(-1, keepdim=True) * share[..., :1]).expand(len(R), *like.shape)

    def gradient(self, R: Tensor) -> Tensor:
        return self.transpose(R, self.weight, R)

    def multiply(self, u: Tensor, c: Tensor, parts: int) -> Tensor:
        R = u * c
        return R if parts == 1 else sum(R.chunk(parts, -1))  # type: ignore[return-value]

    def relprop(self, u, R, w, b, eps, parts=1, z=None, bounded=False) -> Tensor:
        if self.rounds_to is not None:
            return super().relprop(u, R, w, b, eps, parts, z)
        targets, out = len(R), R.shape[-1]
        flat_z = None if z is None else z.reshape(-1, out)
        flat_u, flat_R = u.reshape(-1, u.shape[-1]), R.reshape(targets, -1, out)
        flat = ops.relprop_linear(flat_u, flat_R, w.plain, b, flat_z, eps, parts)
        return flat.reshape(targets, *u.shape[:-1], -1)

    def share_out(self, a, R, b, shares, eps) -> Tensor:
        flat_a, flat_R = a.reshape(-1, a.shape[-1]), R.reshape(len(R), -1, R.shape[-1])
        share, positive, negative = zip(*shares, strict=True)
        w = self.weight.plain
        flat = ops.zplus_linear(flat_a, flat_R, w, b, share, positive, negative, eps)
        return flat.reshape(len(R), *a.shape)


class Product(Layer):
    """Any other product of the input with a constant tensor: matmul, bmm, einsum."""

    def __init__(self, node: Node, weights: Weights) -> None:
        (w,) = (n for n in nodes_in(node.args) if n is not node.inputs[0])
        super().__init__(node, weights, w, None)

    def product(self, u: Tensor, w: Tensor) -> Tensor:
        return self.node.call(lambda n: u if n is self.node.inputs[0] else w)

    def transpose(self, s: Tensor, w: Weight, like: Tensor) -> Tensor:
        return super().transpose(s, w, like.to(w.plain.dtype))


class Fixed(Linear):
    """A dense layer with weights given once, such as differences of another layer's."""

    def __init__(self, node: Node, w: Tensor, b: Tensor | None) -> None:
        self.node = node
        self._w, self._b = w, b
        self.rounds_to = None if node.layer is None else node.layer.rounds_to

    def _value(self, x: Any) -> Any:
        return x

    def derive(self, name: Hashable, f: Callable[[Tensor], Tensor]) -> Weight:
        return Weight(f(self._w))

    def remember(self, name: Hashable, make: Callable[[], Any]) -> Any:
        return make()
