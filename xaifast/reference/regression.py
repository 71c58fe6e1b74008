"""The regression ops of `xaifast.ops` in plain PyTorch.

A and b are X and y without their weighted means, times the root of the weight. That takes the
intercept out of the problem: it is c0 = mean y - mean x c at the end.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["weighted_lasso", "weighted_least_squares"]


def _centre(X: Tensor, y: Tensor, weight: Tensor, intercept: bool) -> tuple[Tensor, ...]:
    """Return a [B, S, M], b [B, S], mean x [B, M], mean y [B]."""
    w = weight.double().expand(y.shape)
    counts = w > 0  # a sample that does not may hold anything
    X = torch.where(counts[..., None], X.double(), 0)
    y = torch.where(counts, y.double(), 0)
    mean_x, mean_y, root = X.new_zeros(X.shape[::2]), y.new_zeros(len(y)), w.sqrt()
    if intercept and y.numel():
        # Relative to the heaviest sample: a constant feature becomes exactly zero.
        rows = torch.arange(len(y), device=X.device)
        x_near, y_near = X[rows, w.argmax(1)], y[rows, w.argmax(1)]
        X, y = X - x_near[:, None], y - y_near[:, None]
        share = torch.where(counts, w / w.sum(1, keepdim=True), 0)
        x_more, y_more = (share[:, None] @ X)[:, 0], (share * y).sum(1)
        X, y = X - x_more[:, None], y - y_more[:, None]
        mean_x, mean_y = x_near + x_more, y_near + y_more
    return root[..., None] * X, root * y, mean_x, mean_y


def weighted_least_squares(
    X: Tensor, y: Tensor, weight: Tensor, ridge: float, intercept: bool
) -> tuple[Tensor, Tensor]:
    """Minimum of |b - A c|^2 + |0 - sqrt(ridge) c|^2, where c has the least norm."""
    A, b, mean_x, mean_y = _centre(X, y, weight, intercept)
    cut = 2.0**-52 * max(A.shape[1:])
    penalty = ridge**0.5 * torch.eye(A.shape[2], dtype=A.dtype, device=A.device)
    A = torch.cat([A, penalty.expand(len(A), -1, -1)], 1).cpu()  # other devices have no gelsd
    b = torch.nn.functional.pad(b, (0, A.shape[2]))[..., None].cpu()
    c = torch.linalg.lstsq(A, b, rcond=cut, driver="gelsd").solution[..., 0].to(X.device)
    return c, mean_y - (mean_x * c).sum(1)


def _relative_gap(c: Tensor, g: Tensor, q: Tensor, bb: Tensor, penalty: Tensor) -> Tensor:
    """The duality gap over |b|^2; g = A^T r for the residual r = b - A c, q = A^T b."""
    cq, cg = (c * q).sum(1), (c * g).sum(1)
    rr, rb = bb - cq - cg, bb - cq
    steepest = torch.nn.functional.pad(g.abs(), (0, 1)).amax(1)
    t = torch.where(steepest > penalty, penalty / steepest, 1)
    gap = rr * (1 + t**2) / 2 + penalty * c.abs().sum(1) - t * rb
    return torch.where(bb > 0, gap.clamp(min=0) / bb, 0)


def weighted_lasso(
    X: Tensor, y: Tensor, weight: Tensor, alpha: float, intercept: bool, tol: float, max_iter: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Minimum of |b - A c|^2 / 2 + penalty |c|_1 by coordinate descent."""
    if alpha == 0:
        c, c0 = weighted_least_squares(X, y, weight, 0.0, intercept)
        return c, c0, torch.zeros_like(c0)
    A, b, mean_x, mean_y = _centre(X, y, weight, intercept)
    Q, q, bb = A.mT @ A, (b[:, None] @ A)[:, 0], (b * b).sum(1)
    penalty = alpha * weight.double().sum(1).expand(len(b))
    c, g, gap = torch.zeros_like(q), q, _relative_gap(torch.zeros_like(q), q, q, bb, penalty)
    for _ in range(max_iter):
        before = c.clone()
        for j in range(c.shape[1]):
            x = g[:, j] + Q[:, j, j] * c[:, j]
            soft = x.sign() * (x.abs() - penalty).clamp(min=0) / Q[:, j, j]
            step = torch.where(Q[:, j, j] > 0, soft, 0) - c[:, j]
            c[:, j] += step
            g = g - step[:, None] * Q[:, j]
        gap = _relative_gap(c, g, q, bb, penalty)
        still = (c - before).abs().sum(1) <= tol * c.abs().sum(1)
        if (still & (gap <= tol)).all():
            break
    return c, mean_y - (mean_x * c).sum(1), gap
