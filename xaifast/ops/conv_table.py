"""Which convolutions run on a CUDA kernel of ours; everything else goes to the library.

The library is cuDNN through PyTorch, with our elementwise kernels between. XAIFAST_ZPLUS in the
environment, read when the package is imported, makes the choice on CUDA:

- not set or empty: by the table in `conv_measured`, which holds what was measured on a GPU (by
  `python -m benchmarks.fit_conv_table`), never a guess. The library runs what was not measured. A
  convolution that was takes a kernel of ours for as many positions as it was measured to be faster
  on, for every number between two neighbours of these, and for more than the largest. Several
  targets share the first of two products, which was not measured: they go to the library.
- "library": always the library.
- "own": our kernels wherever they can run, whether they are faster or not.
"""

from __future__ import annotations

import os
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import wrong_value
from .conv_measured import FASTER

DEVICE = "cuda"  # where our kernels are
WISH = os.environ.get("XAIFAST_ZPLUS", "")
if WISH not in ("", "library", "own"):
    raise wrong_value(
        "XAIFAST_ZPLUS", "must be 'library' or 'own'", f"{WISH!r}", "Set one of them, or unset it."
    )
PIXEL_CHANNELS = 4  # of a first layer
MOST_SIZE = 2**20  # of a dimension
MOST_POSITIONS = 2**30  # of all samples and targets
PIXEL_TILE = (8, 16)
PIXEL_BYTES = 40 * 2**10  # beside the weights, for 80 bytes of each output that a tile meets


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
    """The kernel of zplus_conv: "library", or one of ours."""
    return choose_and_tell(a, R, w, stride, dilation, groups, rule)[0]


def choose_and_tell(a, R, w, stride, dilation, groups, rule) -> tuple[str, str]:
    """The kernel of zplus_conv for such tensors, and the reason.

    rule: of zplus_conv, or "all z" where z is known; "all" for a product of one sign.
    """
    if a.device.type != DEVICE:
        return "library", f"our kernels are for {DEVICE}"
    if WISH == "library":
        return "library", "XAIFAST_ZPLUS=library"
    if WISH == "own":
        kernel = _own(a, R, w, stride, dilation, groups, rule.removesuffix(" z"))
        if kernel is None:
            return "library", "none of our kernels takes it"
        return kernel, "XAIFAST_ZPLUS=own"
    return _by_table(a, R, w, stride, dilation, groups, rule)


def _by_table(a, R, w, stride, dilation, groups, rule) -> tuple[str, str]:
    if not FASTER or not 3 <= a.dim() <= 4:
        return "library", "not measured"
    if R.dim() > a.dim() and R.shape[0] != 1:
        return "library", "several targets were not measured"
    least, most = positions(R, a.dim())
    for kernel, first, last in FASTER.get(describe(a, w, stride, dilation, groups, rule), ()):
        if first <= least and (last is None or (most is not None and most <= last)):
            return kernel, "measured faster"
    return "library", "not measured faster"


def _own(a, R, w, stride, dilation, groups, rule: str) -> str | None:
    """The kernel of ours that is made for it; None where csrc/zplus_conv would refuse it."""
    if a.dtype == torch.float64 or not _fits(a, R, w, stride, dilation, groups):
        return None
    if groups == 1 and a.shape[1] <= PIXEL_CHANNELS and _is_near(w, stride, dilation):
        return "pixels"
    if rule in ("box", "square"):
        return None
    return "tiles" if precision_of(a) == "float32" else "tensor_cores"


def _fits(a, R, w, stride, dilation, groups) -> bool:
    """Whether all numbers of the grids are known and small: fits_tiles of gather.h."""
    sizes = [*a.shape, *R.shape]
    if not 3 <= a.dim() <= 4 or not all(isinstance(n, int) for n in sizes):
        return False
    out = R.shape[R.dim() - a.dim() + 2 :]
    places = zip(a.shape[2:], out, w.shape[2:], stride, dilation, strict=True)
    reach = [max(i, o * s + k * d) for i, o, k, s, d in places]
    rows = prod(R.shape[: R.dim() - a.dim() + 1])
    positions = max(prod(a.shape[2:]), prod(out))
    return (
        max(reach) < MOST_SIZE
        and max(rows, 1) * positions < MOST_POSITIONS
        and prod(stride) < 2**10
        and groups * prod(stride) < 2**16
        and max(a.shape[1], w.shape[0]) < 2**22
    )


def _is_near(w, stride, dilation) -> bool:
    """Whether a block of "pixels" holds the outputs that its 8 x 16 inputs meet (pixels.h)."""
    first = 4 - w.dim()  # one dimension stands behind another of size 1
    place = zip(PIXEL_TILE[first:], w.shape[2:], stride, dilation, strict=True)
    met = [(tile - 1 + (k - 1) * d) // s + 1 for tile, k, s, d in place]
    return prod(PIXEL_TILE[:first]) * prod(met) * 80 <= PIXEL_BYTES
