"""Operations by what they do: sets of ATen's, and functions of our own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .recurrent import layout as recurrent

aten = torch.ops.aten
CONVOLUTIONS = {aten.conv1d, aten.conv2d, aten.conv3d, aten.convolution}
TRANSPOSED = {aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d}


def adaptive_max_pool(x: Tensor, size: list[int], target: Callable) -> Tensor:
    """The values of an adaptive max pooling, without the indices."""
    return target(x, size)[0]


def affine(x: Tensor, scale: Tensor | float, shift: Tensor | float | None) -> Tensor:
    """y = scale x + shift: a batch norm at test time, or arithmetic with a constant."""
    y = x if isinstance(scale, float) and scale == 1.0 else x * scale
    return y if shift is None else y + shift


def with_bias_map(
    x: Tensor, w: Tensor, bias_map: Tensor, target: Callable, *rest: object
) -> Tensor:
    """A layer whose bias depends on the position, as behind a folded shift and zero padding."""
    return target(x, w, None, *rest) + bias_map


def cropped(
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    target: Callable,
    starts: list[int],
    sizes: list[int],
    *rest: object,
) -> Tensor:
    """A convolution of which only some positions are outputs."""
    z = target(x, w, b, *rest)
    return z[(..., *(slice(i, i + n) for i, n in zip(starts, sizes, strict=True)))]


aten = torch.ops.aten


def named(names: str) -> set[object]:
    """The ATen operations of these names that this PyTorch has."""
    return {getattr(aten, name) for name in names.split() if hasattr(aten, name)}


# What copies elements to other places (and perhaps adds constants): its transposed map is exact
# and conserves relevance.
REARRANGEMENTS = named("""
    view reshape _unsafe_view flatten unflatten permute transpose t movedim moveaxis cat concat
    stack narrow slice select expand expand_as index index_select gather squeeze unsqueeze flip
    roll rot90 pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d
    replication_pad1d
    replication_pad2d replication_pad3d unfold im2col repeat tile repeat_interleave pixel_shuffle
    pixel_unshuffle channel_shuffle upsample_nearest1d upsample_nearest2d upsample_nearest3d
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d slice_scatter
    select_scatter where masked_fill diagonal tril triu _to_copy to type_as
""") | {recurrent.part}
# Position of the number that a rearrangement fills in.
FILLS = {aten.constant_pad_nd: 2, aten.masked_fill: 2, aten.pad: 3}

# Sums of inputs with fixed non-negative weights.
SUMS = named("""
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    _adaptive_avg_pool2d _adaptive_avg_pool3d mean sum upsample_linear1d upsample_bilinear2d
    upsample_trilinear3d
""")
# Linear maps when one operand is constant; the rules for dense layers hold for them.
PRODUCTS = named("matmul mm bmm mv einsum")
MAX_POOLS = named("max_pool1d max_pool2d max_pool3d")
MAXIMA = {aten.amax, aten.maximum, adaptive_max_pool}
SHAPE_ONLY = named("""
    sym_size new_zeros new_ones new_full new_empty zeros_like ones_like full_like empty_like fill
    zero
""")
