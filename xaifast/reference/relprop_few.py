"""Relevance through a convolution with few input channels: weights in panels, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .relevance import relprop_conv

__all__ = ["few_weights", "relprop_few"]


def few_weights(w: Tensor, back: bool = False) -> Tensor:
    """Kernel positions and channels against outputs, or (back) the reverse, in panels."""
    panel = 128 // w.element_size()
    m = w.permute(2, 3, 1, 0).flatten(0, 2)  # inputs x outputs
    if back:
        m = torch.nn.functional.pad(m, (0, -m.shape[1] % panel)).T
    m = torch.nn.functional.pad(m, (0, -m.shape[1] % panel))
    return m.unflatten(1, (-1, panel)).transpose(0, 1).contiguous()


def relprop_few(
    u: Tensor,
    R: Tensor,
    w: Tensor,
    w_back: Tensor,
    b: Tensor | None,
    z: Tensor | None,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    eps: float,
    parts: int,
) -> Tensor:
    """`relprop_conv` on the weights that the panels hold."""
    C, K = u.shape[1], R.shape[-3]

    def plain(m: Tensor) -> Tensor:
        return m.unflatten(0, (*kernel, C)).permute(3, 2, 0, 1)

    there = plain(w.transpose(0, 1).flatten(1)[:, :K])
    back = plain(w_back.transpose(0, 1).flatten(1)[:K, : len(there[0].flatten())].T)
    place = (kernel, stride, padding, [1, 1], False, [0, 0], 1)
    return relprop_conv(u, R, there, back, b, z, *place, eps, parts)
