"""Which convolutions run on a CUDA kernel of ours: those it was measured to be faster on.

Everything else goes to the library (cuDNN through PyTorch, and our elementwise kernels between).
`conv_measured` holds what was measured on a GPU, never a guess: a layer that was not measured goes
to the library. One that was takes a kernel of ours for as many positions as it was measured to be
faster on, for every number between two neighbours of these, and for more than the largest. Several
targets share the first of two products, which was not measured: they go to the library.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from .conv_measured import FASTER

DEVICE = "cuda"  # where our kernels are


class Conv(NamedTuple):
    """The key of a convolution in the table, but for the number of positions."""

    capability: tuple[int, int]  # of the GPU
    precision: str  # "tf32", "float32", "bfloat16" or "float16"
    rule: str  # of zplus_conv; "all z" where the library need not compute z
    channels_last: bool  # memory of the activation; other layouts cost our kernels copies
    channels: int
    units: int
    groups: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]


def precision_of(x: Tensor) -> str:
    """The dtype that the library's convolutions compute in."""
    if x.dtype != torch.float32:
        return str(x.dtype).removeprefix("torch.")
    try:
        rounds = torch.backends.cudnn.allow_tf32
    except RuntimeError:  # it was set for convolutions alone
        rounds = torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]
    return "tf32" if rounds else "float32"


def describe(a, w, stride, dilation, groups, rule) -> Conv:
    """The key of a convolution of CUDA tensors in FASTER."""
    return Conv(
        torch.cuda.get_device_capability(a.device),
        precision_of(a),
        rule,
        a.dim() == 4 and a.is_contiguous(memory_format=torch.channels_last),
        a.shape[1],
        w.shape[0],
        groups,
        tuple(w.shape[2:]),
        tuple(stride),
        tuple(dilation),
    )


def positions(R: Tensor, dims: int) -> tuple[int, int | None]:
    """The least and the largest number of outputs of one unit, in all samples.

    They differ where a graph is recorded for batches of any size, which no choice may tie to one:
    then one sample is the least, and None is the largest.
    """
    sizes = [n for i, n in enumerate(R.shape) if i != R.dim() - dims + 1]
    fixed = [n for n in sizes if isinstance(n, int)]
    return prod(fixed), prod(fixed) if len(fixed) == len(sizes) else None


def choose(a, R, w, stride, dilation, groups, rule) -> str:
    """The kernel of zplus_conv: "library", unless another was measured faster on such tensors."""
    if not FASTER or a.device.type != DEVICE or not 3 <= a.dim() <= 4:
        return "library"
    if R.dim() > a.dim() and R.shape[0] != 1:
        return "library"
    least, most = positions(R, a.dim())
    for kernel, first, last in FASTER.get(describe(a, w, stride, dilation, groups, rule), ()):
        if first <= least and (last is None or (most is not None and most <= last)):
            return kernel
    return "library"
