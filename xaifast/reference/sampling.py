"""The sampling ops of `xaifast.ops` in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def _compute(x: Tensor) -> torch.dtype:
    """What kernels compute in: float32 for the 16-bit types, else the dtype itself."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _column(v: Tensor, x: Tensor) -> Tensor:
    """V [R] as one number per row of something shaped like x, in what x is computed in."""
    return v.to(_compute(x)).view(-1, *[1] * (x.dim() - 1))


def _rows(x: Tensor, sample: Tensor) -> Tensor:
    """The sample that each row is made of; x may be one row for all samples."""
    rows = x[sample] if x.shape[0] > 1 else x.expand(len(sample), *x.shape[1:])
    return rows.to(_compute(x))


def path_points(x: Tensor, baseline: Tensor, sample: Tensor, alpha: Tensor, relu: bool) -> Tensor:
    """X' + alpha (x - x'), counted from the nearer end."""
    out = torch.lerp(_rows(baseline, sample), _rows(x, sample), _column(alpha, x))
    return (out.clamp(min=0) if relu else out).to(x.dtype)


def accumulate_rows_(total: Tensor, g: Tensor, sample: Tensor, weight: Tensor) -> Tensor:
    """total[n] += weight[r] g[r] for each row r of sample n, one after the other."""
    for r, n in enumerate(sample.tolist()):
        total[n] += weight[r].to(total.dtype) * g[r].to(total.dtype)
    return total
