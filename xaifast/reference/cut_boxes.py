"""The ops of `xaifast.ops` on boxes of maps in plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["cut_boxes"]


def _within(start: Tensor, size: Sequence[int], shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Flat positions in a map of boxes [rows, *size], and which of them are in it at all."""
    at = torch.zeros((), dtype=torch.long, device=start.device)
    inside = torch.ones((), dtype=torch.bool, device=start.device)
    for axis, (n, whole) in enumerate(zip(size, shape, strict=True)):
        along = start[axis, :, None] + torch.arange(n, device=start.device)
        along = along.view(len(along), *[n if i == axis else 1 for i in range(len(size))])
        at = at * whole + along
        inside = inside & (along >= 0) & (along < whole)
    return at, inside


def cut_boxes(
    x: Tensor, box: Tensor | None, origin: Tensor | None, start: Tensor, size: Sequence[int],
    fill: float,
) -> Tensor:  # fmt: skip
    """Each element from the box where that is, from x where that is, or else the number."""
    channels, count = x.shape[-1], math.prod(size)
    at, inside = _within(start, size, x.shape[:-1])
    out = x.new_empty(at.numel() + 1, channels)  # the last one takes what is not asked for
    out[:-1] = x.flatten(0, -2)[at.where(inside, 0).flatten()]
    out[:-1][~inside.flatten()] = fill
    if box is not None and origin is not None:
        at, inside = _within(origin - start, box.shape[1:-1], size)
        at = at + count * torch.arange(len(at), device=at.device).view(-1, *[1] * len(size))
        out[at.where(inside, len(out) - 1).flatten()] = box.flatten(0, -2)
    return out[:-1].view(start.shape[1], *size, channels)
