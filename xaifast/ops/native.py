"""Which devices our kernels run on, and what else the native library tells about tensors."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import Parameter
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from .. import build, reference

_C = build.load()
library = torch.ops.xaifast
_REFERENCE = os.environ.get("XAIFAST_REFERENCE", "0") == "1"
_DEVICES = {"cpu", "meta"} | ({"cuda"} if _C.build_info()["cuda"] else set())


def is_native(x: Tensor) -> bool:
    """Whether ops on x run on native kernels."""
    return not _REFERENCE and x.device.type in _DEVICES


def packs_weights(x: Tensor, dtype: torch.dtype = torch.float32) -> bool:
    """Whether convolutions of x may use weights that oneDNN has packed: not in a recorded graph.

    dtype: of the weights; bfloat16 is not for every CPU.
    """
    return bool(
        is_native(x)
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and (dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
        and not isinstance(x, FakeTensor)
    )


def give_back_memory() -> None:
    """Return to the system what the C library holds of freed memory."""
    _C.give_back_memory()


def _parts(x: Tensor) -> list[Tensor]:
    """The dense tensors that hold the numbers of x; none where there are no numbers."""
    if type(x) in (Tensor, Parameter) and x.layout is torch.strided and not x.is_quantized:
        return [] if x.is_meta else [x]
    if isinstance(x, FakeTensor) or x.is_meta:
        return []
    if is_traceable_wrapper_subclass(x):
        names, _ = x.__tensor_flatten__()
        return [part for name in names for part in _parts(getattr(x, name))]
    if x.layout == torch.sparse_coo:
        return [x._indices(), x._values()]
    if x.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [x.crow_indices(), x.col_indices(), x.values()]
    if x.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [x.ccol_indices(), x.row_indices(), x.values()]
    if x.is_quantized:
        return [x.int_repr()]
    return [x if x.layout == torch.strided else x.to_dense()]


def fingerprint(tensors: Sequence[Tensor]) -> list[int]:
    """Hash all bytes of each tensor and its layout: sees in-place changes that leave no version.

    Tensors may have any dtype, strides, layout and device; what has no numbers (on "meta") has the
    hash of its shape. One hash for each, of 64 bits.
    """
    parts = [_parts(x) for x in tensors]
    places: dict[torch.device, list[Tensor]] = {}
    for several in parts:
        for part in several:
            places.setdefault(part.device, []).append(part)
    found: dict[int, int] = {}
    for together in places.values():
        call = library.fingerprint if is_native(together[0]) else reference.fingerprint
        found.update(zip(map(id, together), call(together), strict=True))
    return [
        found[id(several[0])]
        if len(several) == 1
        else hash((*x.shape, *(found[id(part)] for part in several)))
        for x, several in zip(tensors, parts, strict=True)
    ]
