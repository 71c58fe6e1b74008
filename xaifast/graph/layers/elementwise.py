"""Affine maps of single values, and sums with fixed weights, as linear maps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..node import Node
from ..weights import Weights
from .base import Layer, unbroadcast


class Affine(Layer):
    """y = w x + b elementwise, w and b numbers or tensors that broadcast against x."""

    def __init__(self, node: Node, weights: Weights) -> None:
        super().__init__(node, weights, node.args[1], node.args[2])

    def _value(self, x: Any) -> Any:
        x = super()._value(x)
        return (
            torch.tensor(x, dtype=torch.float64, device="cpu") if isinstance(x, (int, float)) else x
        )

    def product(self, u: Tensor, w: Tensor) -> Tensor:
        return u * w

    def gradient(self, R: Tensor) -> Tensor:
        return unbroadcast(R * self.weight.plain.to(R), self._like(R).shape)


class Sum(Layer):
    """A sum or mean over windows or dimensions: fixed non-negative weights, scaled by w (1)."""

    def __init__(self, node: Node, weights: Weights) -> None:
        super().__init__(node, weights, torch.ones((), dtype=torch.float32, device="cpu"), None)

    def product(self, u: Tensor, w: Tensor) -> Tensor:
        x = self.node.inputs[0]
        return self.node.call(lambda n: u if n is x else self._value(n)) * w.to(u)
