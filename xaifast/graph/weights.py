"""Weights of a captured model: read from the user's module, derived once, kept until they change.

Everything that depends on parameters alone (folded batch norms, W+, packed copies ...) is computed
at the first use and thrown away as soon as one of the parameters has another place, version or
value, so that a training step between two explanations is seen by the second. Changes in place
through `.data`, numpy or shared memory leave the version alone: the values of those weights from
which something was derived are hashed, all of them, at every call. Weights that are used as they
are need no hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import ops
from ..errors import ModelError

if TYPE_CHECKING:
    from .node import Node


def read(model: nn.Module, path: str) -> Tensor:
    """The parameter or buffer at a path such as 'layer1.0.conv1.weight'."""
    return _find(model, path.split(".")).detach()


def _find(model: nn.Module, path: list[str]) -> Tensor:
    """The tensor itself; past `nn.Module.__getattr__`, which takes several times as long."""
    owner: Any = model
    for name in path[:-1]:
        owner = owner.__dict__["_modules"].get(name) or getattr(owner, name)
    state, name = owner.__dict__, path[-1]
    for kind in ("_parameters", "_buffers"):
        if state[kind].get(name) is not None:
            return state[kind][name]
    return getattr(owner, name)


def check_flat(model: nn.Module) -> None:
    """Refuse recurrent layers that compute with other weights than those they name.

    nn.LSTM and its kin hand `_flat_weights` to the kernel. A graph reads weights by their names.
    """
    for path, m in model.named_modules():
        if not isinstance(m, nn.RNNBase) or m._weights_have_changed():  # made anew by forward
            continue
        named = [getattr(m, name, None) for name in m._flat_weights_names]
        if any(x is not y for x, y in zip(m._flat_weights, named, strict=True)):
            raise ModelError(
                f"{path or type(m).__name__}: _flat_weights must hold the weights that the layer "
                "names, for a graph reads these; others have been put there. Set the weights by "
                "their names (layer.weight_ih_l0 = ...)."
            )


def _version(x: Tensor) -> int:
    """How often x was changed in place, where PyTorch counts that."""
    return -1 if x.is_inference() else x._version


def _place(x: Tensor) -> tuple:
    """Where a tensor lies, in which form."""
    return (x.data_ptr(), x.shape, x.stride(), x.dtype, x.device)


# oneDNN packs for one shape of input and converts at every call with another: keep packed copies
# for the two shapes that came last (a batch, and the rest of it), in both directions.
PACKED = 4


class Weight:
    """One (derived) weight, and the copies of it that oneDNN has packed for itself."""

    def __init__(self, plain: Tensor, on_copy: Callable[[], None] | None = None) -> None:
        self.plain = plain
        self._on_copy = on_copy  # called before the first copy is made
        self._packed: dict[Any, Tensor] = {}
        self._rounded: Weight | None = None

    def packed(self, key: Any, pack: Callable[[Tensor], Tensor], keep: int = PACKED) -> Tensor:
        """The copy for `key`, packed at the first call; no more than `keep` are kept."""
        self._copies()
        found = self._packed.pop(key, None)
        self._packed[key] = pack(self.plain) if found is None else found  # the last one used
        while len(self._packed) > keep:
            del self._packed[next(iter(self._packed))]
        return self._packed[key]

    def rounded(self, dtype: torch.dtype) -> Weight:
        """The weight in a lower precision, made at the first call."""
        self._copies()
        if self._rounded is None or self._rounded.plain.dtype != dtype:
            self._rounded = Weight(self.plain.to(dtype))
        return self._rounded

    def _copies(self) -> None:
        if self._on_copy is not None:
            self._on_copy()
            self._on_copy = None


class Weights:
    """Values of all constant nodes of a graph, and what rules derive from them."""

    def __init__(self, model: nn.Module, dtype: torch.dtype | None = None) -> None:
        self.model = model
        self.dtype = dtype  # floating constants are converted to it (None: left as they are)
        self.leaves: dict[Node, Any] = {}  # what stands for the model's own tensors, if anything
        self._paths: dict[str, list[str]] = {}
        self._state: list = []
        self._hashes: dict[str, int] = {}  # of parameters from which something was derived
        self._values: dict[Node, Any] = {}
        self._derived: dict[Any, Any] = {}

    def watch(self, paths: list[str]) -> None:
        """Name the parameters on which the values depend."""
        self._paths = {path: path.split(".") for path in sorted(set(paths))}

    def _tensors(self) -> dict[str, Tensor]:
        """The parameters as they are now."""
        return {path: _find(self.model, parts) for path, parts in self._paths.items()}

    def places(self) -> list:
        """Where the parameters are, in which form."""
        return list(map(_place, self._tensors().values()))

    def refresh(self, whole: bool = True) -> bool:
        """Forget every value if some parameter has changed since the last call; whether it has.

        whole: look at all values; without it, changes that leave no version go unnoticed.
        """
        tensors = self._tensors()
        now = [(_place(x), _version(x)) for x in tensors.values()]
        changed = now != self._state
        if not changed and whole and self._hashes:
            hashes = ops.fingerprint([tensors[path] for path in self._hashes])
            changed = hashes != list(self._hashes.values())
        if changed:
            self.forget()
            self._state = now
        return changed

    def forget(self) -> None:
        """Forget every value."""
        self._values.clear()
        self._derived.clear()
        self._hashes.clear()

    def derives(self, *nodes: Any) -> None:
        """Note that something is derived from the parameters behind some nodes."""
        self._note({path for node in nodes for path in _paths_behind(node)})

    def _note(self, paths: Iterable[str]) -> None:
        if self.leaves:  # recorded, not run
            return
        new = sorted(set(paths) - self._hashes.keys())
        hashes = ops.fingerprint([read(self.model, path) for path in new])
        self._hashes.update(zip(new, hashes, strict=True))

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
                    if x.dtype != self.dtype:
                        self.derives(node)
                    x = x.to(self.dtype)
            else:
                self.derives(node)
                x = node.call(self.value)
            self._values[node] = x
        return self._values[node]

    def derived(self, key: Any, make: Callable[[], Any], sources: Any = None) -> Any:
        """Make something from the weights, once.

        sources: nodes that it is computed from (None: any that are watched).
        """
        if key not in self._derived:
            if sources is None:
                self._note(self._paths)
            else:
                self.derives(*sources)
            self._derived[key] = make()
        return self._derived[key]


def _paths_behind(node: Any) -> Iterator[str]:
    """Paths of the parameters that a constant node, or a list of them, is computed from."""
    if isinstance(node, (list, tuple)):
        for x in node:
            yield from _paths_behind(x)
    elif getattr(node, "leaf", None) is not None:
        if node.leaf.path:
            yield node.leaf.path
    elif hasattr(node, "args"):
        for x in (*node.args, *node.kwargs.values()):
            yield from _paths_behind(x)
