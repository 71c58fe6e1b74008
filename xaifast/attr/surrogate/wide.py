"""Regressions with more features than samples, brought down to ones that are not.

With A and b the weighted, centred features and scores,

    A_sk = sqrt(weight_s) (z_sk - mean_k),   b_s = sqrt(weight_s) (y_s - mean),
    sum_s weight_s (y_s - z_s c - c0)^2 = |b - A c|^2   for   c0 = mean(y) - mean(z) c,

least squares and ridge have c = Q c' for A^T = Q R, where c' solves the same problem of S features
for R^T: what c has outside the rows of A only makes it longer. The lasso has at most S features in
use: it is solved for some, to which those are added that it misses, until it misses none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ... import ops

# Features of a lasso that are solved for at once: the native op forms their Gram matrix.
WIDE_LASSO = 2000
# By how much a feature left out may pull stronger than the penalty.
SLACK = 1e-9


def _means(v: Tensor, weight: Tensor, intercept: bool) -> Tensor:
    """Weighted means of v [..., S, M] over the samples, [..., 1, M]; zero without an intercept."""
    if not intercept:
        return torch.zeros_like(v[..., :1, :])
    total = weight.sum(-1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
    return (weight / total).unsqueeze(-2) @ v


def least_squares(
    Z: Tensor, y: Tensor, weight: Tensor, ridge: float, intercept: bool
) -> tuple[Tensor, Tensor]:
    """`ops.weighted_least_squares`, at the cost of S features."""
    if len(Z) > 1 or len(weight) > 1:  # one design after the other
        problems = zip(Z.expand(len(y), -1, -1), y, weight.expand(len(y), -1), strict=True)
        found = [least_squares(z[None], t[None], w[None], ridge, intercept) for z, t, w in problems]
        return torch.cat([c for c, _ in found]), torch.cat([c0 for _, c0 in found])
    root = weight[0].sqrt()
    z_mean = _means(Z[0], weight[0], intercept)
    y_mean = _means(y.T, weight[0], intercept)
    Q, R = torch.linalg.qr((root.unsqueeze(1) * (Z[0] - z_mean)).T)
    b = root * (y - y_mean.T)
    ones = torch.ones_like(weight)
    c, _ = ops.weighted_least_squares(R.T.unsqueeze(0).contiguous(), b, ones, ridge, False)
    c = c @ Q.T
    return c, y_mean[0] - c @ z_mean[0]


def lasso(
    Z: Tensor, y: Tensor, weight: Tensor, alpha: float, intercept: bool
) -> tuple[Tensor, Tensor]:
    """`ops.weighted_lasso`, in the memory of the features in use."""
    problems = zip(Z.expand(len(y), -1, -1), y, weight.expand(len(y), -1), strict=True)
    found = [_one_lasso(*problem, alpha, intercept) for problem in problems]
    c, c0 = zip(*found, strict=True)
    return torch.stack(c), torch.cat(c0)


def _one_lasso(
    Z: Tensor, y: Tensor, weight: Tensor, alpha: float, intercept: bool
) -> tuple[Tensor, Tensor]:
    """One lasso: c [M], c0 [1]."""
    share = weight / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)
    centred = Z - _means(Z, weight, intercept)
    used = torch.zeros(Z.shape[1], dtype=torch.bool, device="cpu")
    c, c0 = Z.new_zeros(Z.shape[1]), _means(y.unsqueeze(1), weight, intercept)[0]
    while True:
        pull = (centred.T @ (share * (y - Z @ c - c0))).abs()
        missed = (pull > alpha * (1 + SLACK)) & ~used
        if not missed.any():
            return c, c0
        strongest = torch.where(missed, pull, 0.0).topk(min(len(y), int(missed.sum()))).indices
        used[strongest] = True
        parts = Z[:, used].unsqueeze(0), y.unsqueeze(0), weight.unsqueeze(0)
        found, c0, _ = ops.weighted_lasso(*parts, alpha, intercept)
        c[used] = found[0]
