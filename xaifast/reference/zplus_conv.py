"""The convolution op of `xaifast.ops` in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .relevance import stabilized_divide

__all__ = ["zplus_conv"]


def _contributions(a: Tensor, w: Tensor, rule: str, low: Tensor, high: Tensor) -> list:
    """Pairs (u, v) of terms on the inputs and on the weights: q_ik = sum of u_i v_ik."""
    positive, negative = w.clamp(min=0), w.clamp(max=0)
    if rule == "positive":
        return [(a.clamp(min=0), positive), (a.clamp(max=0), negative)]
    if rule == "negative":
        return [(a.clamp(min=0), negative), (a.clamp(max=0), positive)]
    if rule == "box":
        return [(a - low, positive), (a - high, negative)]
    return [(torch.ones_like(a), w * w)] if rule == "square" else [(a, w)]


def zplus_conv(
    a: Tensor,
    R: Tensor,
    w: Tensor,
    w_t: Tensor | None,
    b: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    rule: str,
    low: Sequence[float],
    high: Sequence[float],
    nonnegative: bool,
    eps: float,
    kernel: str,
) -> Tensor:
    """R_i = sum_k q_ik / (z_k + eps sgn z_k) R_k, z_k = sum_i q_ik + b_k."""
    place = (stride, padding, dilation, False, [0] * len(stride), groups)
    shape = (-1, *[1] * (a.dim() - 2))
    bounds = (a.new_tensor(list(x)).view(shape) for x in (low, high))
    terms = _contributions(a, w, rule, *bounds)
    forward = [lambda u, v=v: torch.ops.aten.convolution(u, v, None, *place) for _, v in terms]
    z = torch.stack([f(u) for f, (u, _) in zip(forward, terms, strict=True)]).sum(0)
    messages = []
    for R_t in R if R.dim() > a.dim() else [R]:
        s = stabilized_divide(R_t, z, b, eps)
        c = [
            torch.autograd.functional.vjp(f, u, s)[1]
            for f, (u, _) in zip(forward, terms, strict=True)
        ]
        messages.append(torch.stack([u * x for (u, _), x in zip(terms, c, strict=True)]).sum(0))
    return torch.stack(messages) if R.dim() > a.dim() else messages[0]
