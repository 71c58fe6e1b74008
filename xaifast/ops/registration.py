"""All that Python registers for an op: its fake kernel, and its formula on CUDA without a kernel.

Schemas, kernels and autograd's refusal are registered in csrc (library.cpp). A fake kernel checks
devices, dtypes and shapes, and foretells the layout of the result.

PyTorch runs a fake kernel where a graph is recorded, and also where one tensor of a call is on
"meta": a result must then be refused, not made of unwritten memory. The native kernels check the
same (and more: values, geometry) in csrc.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from ..errors import wrong_type, wrong_value
from .native import library

DTYPES = {"int64": torch.int64, "float64": torch.float64, "bool": torch.bool}
FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
FIX = "Convert it, or pass another."


class _Arguments:
    """The tensors of one call against their words; the first one tells device and dtype."""

    def __init__(self, op: str, first: Tensor, name: str) -> None:
        self.op, self.first, self.name = op, first, name
        self.sizes: dict[str, Any] = {}

    def check(self, name: str, words: str, x: Tensor) -> None:
        who = f"{self.op}: {name}"
        if x.device != self.first.device:
            must = f"must be on the device of {self.name} ({self.first.device})"
            raise wrong_value(who, must, f"{x.device}", FIX)
        kind, *dims = words.split()
        if kind not in (*DTYPES, "any"):
            kind, dims = "", words.split()
        dtypes: tuple[torch.dtype, ...] = (DTYPES.get(kind, self.first.dtype),)
        if kind == "any" or x is self.first:
            dtypes = FLOATING
        if x.dtype not in dtypes:
            raise wrong_type(who, f"must be one of {dtypes}", f"{x.dtype}", FIX)
        if not self._fits(dims, list(x.shape)):
            known = ", ".join(f"{d} = {n}" for d, n in self.sizes.items() if d != "*")
            must = f"must have the shape [{', '.join(dims)}] with {known or 'any sizes'}"
            raise wrong_value(who, must, f"{list(x.shape)}", FIX)

    def _fits(self, dims: list[str], shape: list[Any]) -> bool:
        """Sizes by name, the same wherever the name is: "[T]" may miss, "*S" is any number."""
        star = next((i for i, d in enumerate(dims) if "*" in d), None)
        if star is not None:
            one, name = dims[star].split("*")  # "1|" or nothing
            length = self._length(name, len(shape) - len(dims) + 1)
            dims = [*dims[:star], *(f"{one}{name}.{i}" for i in range(length)), *dims[star + 1 :]]
        if dims and dims[0] == "[T]" and len(shape) < len(dims):
            dims = dims[1:]
        return len(dims) == len(shape) and all(map(self._is, dims, shape))

    def _length(self, star: str, rest: int) -> int:
        """How many sizes a star stands for: as many as the first one, which takes what is there."""
        if star == "_":
            return rest
        return self.sizes.setdefault("*", rest)

    def _is(self, name: str, size: Any) -> bool:
        """Whether a size is that of the name; one that is symbolic may be."""
        one, _, name = name.rpartition("|")
        if name.startswith("_") or name == "[T]" or not isinstance(size, int):
            return True
        if (one and size == 1) or name.isdigit():
            return size == int(one or name)
        return self.sizes.setdefault(name, size) == size


def fake(op: str, **words: str) -> Callable[[Callable], Callable]:
    """Register the fake kernel of an op, with its tensors in words: `u="N C *S", R="[T] N K *O"`.

    Words are sizes by name: a number; "_" any; "1|N" 1 or N; "*S" any number of them; "[T]" a
    leading axis that may be missing; all stars of a call, but "*_", are equally many. "int64",
    "float64" or "bool" in front is the dtype, in place of that of the first tensor; "any" leaves it
    open.
    """
    schema = getattr(library, op).default._schema
    names = [argument.name for argument in schema.arguments]

    def register(function: Callable) -> Callable:
        def checked(*args: Any, **kwargs: Any) -> Any:
            given = dict(zip(names, args, strict=False)) | kwargs
            first = next(iter(words))
            arguments = _Arguments(op, given[first], first)
            for name, text in words.items():
                if isinstance(given.get(name), Tensor):
                    arguments.check(name, text, given[name])
            return function(*args, **kwargs)

        return torch.library.register_fake(f"xaifast::{op}", checked)

    return register


def formula_on_cuda(op: str, formula: Callable) -> None:
    """Let the formula in plain PyTorch be the CUDA kernel of an op that has none of ours."""
    torch.library.impl(f"xaifast::{op}", "CUDA")(formula)


def empty(shape: Sequence[Any], x: Tensor, like: Tensor | None = None) -> Tensor:
    """An unwritten tensor with the dtype and device of x, in the layout of `like` (or x)."""
    format = suggest_memory_format(x if like is None else like)
    if len(shape) != {torch.channels_last: 4, torch.channels_last_3d: 5}.get(format, len(shape)):
        format = torch.contiguous_format
    return torch.empty(tuple(shape), dtype=x.dtype, device=x.device, memory_format=format)


def empty_rows(shape: Sequence[Any], targets: Sequence[Any], x: Tensor, like: Tensor) -> Tensor:
    """As `empty`, for each of the targets [T] (or [], for none): they are rows of one tensor."""
    rows = empty((math.prod(targets) * shape[0], *shape[1:]), x, like)
    return rows.unflatten(0, (*targets, shape[0])) if targets else rows
