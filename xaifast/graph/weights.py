"""Weights of a captured model: read from the user's module, derived once, kept until they change.

Everything that depends on parameters alone (folded batch norms, W+, packed copies ...) is computed
at the first use and thrown away as soon as some parameter has another identity or version, so a
training step between two explanations is seen by the second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import ops

if TYPE_CHECKING:
    from .facts import Node


def read(model: nn.Module, path: str) -> Tensor:
    """The parameter or buffer at a path such as 'layer1.0.conv1.weight'."""
    owner: Any = model
    for name in path.split("."):
        owner = getattr(owner, name)
    return owner.detach()


def _version(x: Tensor) -> int:
    """How often x was changed in place, where PyTorch counts that."""
    return -1 if x.is_inference() else x._version


# oneDNN packs for one shape of input and converts at every call with another: keep packed copies
# for the two shapes that came last (a batch, and the rest of it), in both directions.
PACKED = 4


class Weight:
    """One (derived) weight, and the copies of it that oneDNN has packed for itself."""

    def __init__(self, plain: Tensor) -> None:
        self.plain = plain
        self._packed: dict[Any, Tensor] = {}
        self._rounded: Weight | None = None

    def packed(self, key: Any, pack: Callable[[Tensor], Tensor], keep: int = PACKED) -> Tensor:
        """The copy for `key`, packed at the first call; no more than `keep` are kept."""
        found = self._packed.pop(key, None)
        self._packed[key] = pack(self.plain) if found is None else found  # the last one used
        while len(self._packed) > keep:
            del self._packed[next(iter(self._packed))]
        return self._packed[key]

    def rounded(self, dtype: torch.dtype) -> Weight:
        """The weight in a lower precision, made at the first call."""
        if self._rounded is None or self._rounded.plain.dtype != dtype:
            self._rounded = Weight(self.plain.to(dtype))
        return self._rounded


class Weights:
    """Values of all constant nodes of a graph, and what rules derive from them."""

    def __init__(self, model: nn.Module, dtype: torch.dtype | None = None) -> None:
        self.model = model
        self.dtype = dtype  # floating constants are converted to it (None: left as they are)
        self.leaves: dict[Node, Any] = {}  # what stands for the model's own tensors, if anything
        self._state: tuple | None = None
        self._paths: list[str] = []
        self._values: dict[Node, Any] = {}
        self._derived: dict[Any, Any] = {}

    def watch(self, paths: list[str]) -> None:
        """Name the parameters on which the values depend."""
        self._paths = sorted(set(paths))

    def state(self) -> tuple[list, list]:
        """Where the parameters are, and what tells whether their values have changed."""
        tensors = [read(self.model, path) for path in self._paths]
        places = [(t.data_ptr(), t.shape, t.stride(), t.dtype, t.device) for t in tensors]
        # In-place changes through .data leave the version alone, but not the hash.
        return places, [*map(_version, tensors), *ops.fingerprint(tensors)]

    def refresh(self) -> None:
        """Forget every value if some parameter has changed since the last call."""
        state = self.state()
        if state != self._state:
            self.forget()
            self._state = state

    def forget(self) -> None:
        """Forget every value."""
        self._values.clear()
        self._derived.clear()

    def leaf(self, node: Node) -> Any:
        """The model's own parameter, buffer or constant."""
        assert node.leaf is not None  # what has none is computed
        return read(self.model, node.leaf.path) if node.leaf.path else node.leaf.value

    def value(self, node: Node) -> Any:
        """The value of a constant node."""
        if node not in self._values:
            if node.leaf is not None:
                x = self.leaves[node] if node in self.leaves else self.leaf(node)
                if self.dtype and isinstance(x, Tensor) and x.is_floating_point():
                    x = x.to(self.dtype)
            else:
                x = node.call(self.value)
            self._values[node] = x
        return self._values[node]

    def derived(self, key: Any, make: Callable[[], Any]) -> Any:
        """Make something from the weights, once."""
        if key not in self._derived:
            self._derived[key] = make()
        return self._derived[key]
