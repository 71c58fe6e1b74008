"""Which convolutions run on a CUDA kernel of ours: those it was measured to be faster on.

Everything else goes to the library (cuDNN through PyTorch, and our elementwise kernels between). An
entry comes from a measurement of both on a GPU, never from a guess; there is none yet.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Conv(NamedTuple):
    """What decides, but for the number of positions."""

    capability: tuple[int, int]  # of the GPU
    precision: str  # "tf32", "float32", "bfloat16" or "float16"
    rule: str  # of zplus_conv; "+" behind it where no activation is negative
    channels_last: bool  # memory of the activation; other layouts cost our kernels copies
    channels: int
    units: int
    groups: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]


# (kernel of ours, from how many output positions on, in all samples and targets together)
FASTER: dict[Conv, tuple[str, int]] = {}


def precision_of(x: Tensor) -> str:
    """The dtype that the library's convolutions compute in."""
    if x.dtype != torch.float32:
        return str(x.dtype).removeprefix("torch.")
    try:
        rounds = torch.backends.cudnn.allow_tf32
    except RuntimeError:  # it was set for convolutions alone
        rounds = torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]
    return "tf32" if rounds else "float32"


def describe(a, w, stride, dilation, groups, rule, nonnegative) -> Conv:
    """The key of a convolution of CUDA tensors in FASTER."""
    return Conv(
        torch.cuda.get_device_capability(a.device),
        precision_of(a),
        rule + "+" * bool(nonnegative),
        a.dim() == 4 and a.is_contiguous(memory_format=torch.channels_last),
        a.shape[1],
        w.shape[0],
        groups,
        tuple(w.shape[2:]),
        tuple(stride),
        tuple(dilation),
    )


def choose(a, R, w, stride, dilation, groups, rule, nonnegative) -> str:
    """The kernel of zplus_conv: "library", unless another was measured faster on such tensors."""
    if not FASTER or a.device.type != "cuda" or not 3 <= a.dim() <= 4:
        return "library"
    key = describe(a, w, stride, dilation, groups, rule, nonnegative)
    kernel, least = FASTER.get(key, ("library", 0))
    positions = R.numel() // max(w.shape[0], 1)
    return kernel if positions >= least else "library"
