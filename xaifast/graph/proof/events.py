"""Calls of PyTorch as a script has them: places of tensors, constants by value, modes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import ops

HALF = (torch.float16, torch.bfloat16)

# ---- places: which tensor a call of PyTorch is given ------------------------------------------


@dataclass(frozen=True)
class Place:
    """The place of a tensor in the code of a model.

    kind: "input", "own" (of the modules), "slot" (made by an earlier call) or "outside"; key: its
    number or path; look: shape, dtype and device; values: a hash of those of an outside tensor.
    """

    kind: str
    key: Hashable
    look: tuple
    values: int | None = None


def look_of(x: Tensor) -> tuple:
    """Shape, dtype and device."""
    return (x.shape, x.dtype, x.device)


def looks_like(x: Tensor, look: tuple) -> bool:
    """Whether a tensor has this shape, dtype and device."""
    return x.shape == look[0] and x.dtype is look[1] and x.device == look[2]


def hash_of(x: Tensor) -> int:
    """A hash of every byte of a tensor."""
    return ops.fingerprint([x.detach()])[0]


# ---- constants: everything else that it is given ----------------------------------------------


@dataclass(frozen=True)
class _Same:
    """An object that is compared by identity."""

    what: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.what is other.what

    def __hash__(self) -> int:
        return id(self.what)


NOTHING = object()


def is_constant(x: Any) -> bool:
    """Whether an object has the same value for ever."""
    return type(x) in _BY_VALUE or (type(x) is tuple and all(map(is_constant, x)))


class NoScriptError(Exception):
    """The code of a model cannot be followed."""


_BY_VALUE = {
    int, bool, str, bytes, complex, type(None), type(Ellipsis), torch.dtype, torch.device,
    torch.layout, torch.memory_format, torch.Size,
}  # fmt: skip
_SEQUENCES = (list, tuple, set, frozenset)


def frozen(x: Any, place: Callable[[Tensor], Place] | None = None) -> Any:
    """An argument by its value now, to be compared later; tensors become their places."""
    kind = type(x)
    if kind in _BY_VALUE:
        return (kind, x)
    if kind is float:
        return (kind, x.hex())  # NaN equals NaN, and -0 is not 0
    if isinstance(x, Tensor):
        if place is None:
            raise NoScriptError("a tensor among the constants")
        return place(x)
    if isinstance(x, (list, tuple)):
        return (kind, *[frozen(y, place) for y in x])
    if isinstance(x, (set, frozenset)):
        return (kind, frozenset(frozen(y, place) for y in x))
    if isinstance(x, dict):
        return (kind, *[(frozen(k, place), frozen(y, place)) for k, y in x.items()])
    if isinstance(x, slice):
        return (kind, *[frozen(y, place) for y in (x.start, x.stop, x.step)])
    if isinstance(x, (np.ndarray, np.generic)):
        array = np.asarray(x)
        if array.dtype.hasobject:
            raise NoScriptError("an array of objects")
        return (kind, array.dtype.str, array.shape, array.tobytes())
    if callable(x) or isinstance(x, torch.Generator):
        return _Same(x)
    raise NoScriptError(f"an argument of type {kind.__name__}")


# ---- the script --------------------------------------------------------------------------------

# What tells about a tensor without a look at its values.
ABOUT = {
    *(getattr(Tensor, name).__get__ for name in (
        "shape", "dtype", "device", "layout", "ndim", "is_cuda", "is_cpu", "is_meta", "is_sparse",
        "is_quantized", "is_nested", "is_leaf", "requires_grad", "grad_fn", "grad", "itemsize",
        "nbytes", "is_mkldnn", "is_mps", "is_xla", "names", "_version",
    ) if hasattr(Tensor, name)),
    *(getattr(Tensor, name) for name in (
        "size", "dim", "stride", "numel", "nelement", "ndimension", "is_contiguous", "__len__",
        "is_floating_point", "is_complex", "is_signed", "is_inference", "element_size",
        "storage_offset", "get_device", "type", "has_names", "is_same_size", "is_set_to",
    ) if hasattr(Tensor, name)),
    torch.is_floating_point, torch.is_complex, torch.numel, torch.is_inference, torch.is_tensor,
    torch.is_same_size, torch.is_signed, torch.is_conj, torch.is_neg, torch.result_type,
}  # fmt: skip
# What depends on how an input lies in memory.
LAYOUT = {Tensor.is_contiguous, Tensor.stride, Tensor.storage_offset}
# What has no tensor to stand in for, and is done in a rehearsal as well.
STATE = {torch._C._set_grad_enabled}
HANDLES = {Tensor.register_hook, Tensor.register_post_accumulate_grad_hook}
# Functions that put another gradient in the place of that of their values.
CUTS = {
    Tensor.detach, Tensor.detach_, torch.detach, torch.detach_, Tensor.data.__get__,  # type: ignore[attr-defined]
    Tensor.register_hook, Tensor.register_post_accumulate_grad_hook, Tensor.requires_grad_,
    torch.autograd.grad, torch.autograd.backward, Tensor.backward,
    torch.nn.functional.gumbel_softmax,
}  # fmt: skip
# They may write into tensors that are not their first argument.
_WRITERS = {
    torch.nn.functional.batch_norm, torch.batch_norm, torch.nn.functional.instance_norm,
    torch.instance_norm, torch.nn.functional.embedding, torch.nn.functional.embedding_bag,
    torch.nn.functional.rrelu,
}  # fmt: skip


def writes(func: Any, kwargs: dict) -> bool:
    """Whether a call may change one of its arguments."""
    name = getattr(func, "__name__", "")
    if name.startswith("__"):
        return name in ("__setitem__", "__set__", "__delete__") or name[:3] == "__i"
    return name.endswith("_") or func in _WRITERS or "out" in kwargs or bool(kwargs.get("inplace"))


@dataclass(frozen=True)
class Event:
    """One call of PyTorch: its function, what it was given and returned, and in which mode.

    given: its arguments, frozen; raw: those of them that cannot change, as they were, for a
    comparison by identity; names: of the keyword arguments, which are the last ones.
    """

    func: Any
    given: tuple
    names: tuple[str, ...]
    result: Any
    mode: tuple
    raw: tuple = field(compare=False)

    @property
    def without_mode(self) -> tuple:
        """The call without its mode: whether gradients are recorded or not."""
        return (self.func, self.given, self.names, self.result)


def new_tensor_defaults() -> tuple:
    """Default dtype and device of new tensors."""
    return (torch.get_default_dtype(), torch.get_default_device())


OWN_BACKWARD = "a function with a backward pass of its own"
HOOKED = "a backward hook of a module"


def mode_now() -> tuple:
    """The modes on which calls of PyTorch depend beside their arguments."""
    grad = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    if not torch._C._is_any_autocast_enabled():
        return (grad,)
    devices = ("cpu", "cuda")
    on = [(torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in devices]
    return (grad, *on)


# ---- recording ---------------------------------------------------------------------------------


def alias_of(x: Tensor) -> tuple | None:
    """A key that two objects of one tensor share; None where it has no memory of its own."""
    if x.layout != torch.strided or not x.numel():
        return None
    return (x.data_ptr(), tuple(x.shape), x.stride(), x.dtype)


def stand_in(look: tuple) -> Tensor:
    """A tensor of some shape, dtype and device in the memory of one number."""
    shape, dtype, device = look
    return torch.zeros((), dtype=dtype, device=device).expand(shape)


def mapped(x: Any, f: Callable[[Tensor], Any]) -> Any:
    """The same structure of lists, tuples and dicts, with f of its tensors."""
    if isinstance(x, Tensor):
        return f(x)
    if isinstance(x, tuple) and type(x) is not torch.Size:
        parts = [mapped(y, f) for y in x]
        return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
    if isinstance(x, list):
        return [mapped(y, f) for y in x]
    if isinstance(x, dict):
        return {k: mapped(y, f) for k, y in x.items()}
    if isinstance(x, slice):
        return slice(*(mapped(y, f) for y in (x.start, x.stop, x.step)))
    return x


def places_in(x: Any) -> Iterator[Place]:
    """The places in a frozen argument."""
    if isinstance(x, Place):
        yield x
    elif isinstance(x, (tuple, frozenset)):
        for y in x:
            yield from places_in(y)
