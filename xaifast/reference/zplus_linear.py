"""The dense op by signs of `xaifast.ops` in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .relevance import relprop_linear

__all__ = ["zplus_linear"]


def _by_sign(x: Tensor, positive: float, negative: float) -> Tensor:
    return positive * x.clamp(min=0) + negative * x.clamp(max=0)


def zplus_linear(
    a: Tensor,
    R: Tensor,
    w: Tensor,
    b: Tensor | None,
    share: Sequence[float],
    positive: Sequence[float],
    negative: Sequence[float],
    eps: float,
) -> Tensor:
    """R_j = sum_p share_p sum_k q_jk / (z_k + eps sgn z_k) R_k, z_k = sum_0,j q_jk."""
    u = torch.cat([a.clamp(min=0), a.clamp(max=0)], 1)
    messages = []
    for s, p, n in zip(share, positive, negative, strict=True):
        v = torch.cat([_by_sign(w, p, n), _by_sign(w, n, p)], 1)  # of a+, and of a-
        own = None if b is None else _by_sign(b, p, n)
        messages.append(s * relprop_linear(u, R, v, own, None, eps, 2))
    return torch.stack(messages).sum(0)
