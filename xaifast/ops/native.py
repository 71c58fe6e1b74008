"""Which devices our kernels run on, and what else the native library tells about tensors."""

from __future__ import annotations

import os

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .. import build

_C = build.load()
_native = torch.ops.xaifast
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


def fingerprint(tensors: list[Tensor]) -> int:
    """Hash a sample of the values of CPU tensors: sees in-place changes that leave no version."""
    on_cpu = [t for t in tensors if t.device.type == "cpu" and t.layout == torch.strided]
    return _native.fingerprint(on_cpu) if on_cpu else 0
