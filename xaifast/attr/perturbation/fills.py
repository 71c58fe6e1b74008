"""Baselines that know the features: "mean", the mean of each segment, channel by channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import ops
from ...errors import wrong_value
from .features import Features


def fill_means(
    who: str, baselines: Any, inputs: tuple[Tensor, ...], mask: Any, features: Features
) -> Any:
    """Replace "mean" among baselines by the mean of each segment."""
    if isinstance(baselines, list):
        return [fill_means(who, b, inputs, mask, features) for b in baselines]
    given = baselines if isinstance(baselines, tuple) else (baselines,) * len(inputs)
    if not any(isinstance(b, str) and b == "mean" for b in given):
        return baselines
    if mask is None:
        raise wrong_value(
            f"{who}: baselines", '"mean" needs segments', "no feature_mask",
            "Each element is its own mean; pass a feature_mask.",
        )  # fmt: skip
    if len(given) != len(inputs):
        return baselines  # which check_baselines refuses
    return tuple(
        segment_means(who, x, m, features.count) if isinstance(b, str) and b == "mean" else b
        for b, x, m in zip(given, inputs, features.labels, strict=True)
    )


def segment_means(who: str, x: Tensor, labels: Tensor, M: int) -> Tensor:
    """The mean of each segment, [N, ...]; channel by channel where channels share segments."""
    if not x.is_floating_point():
        raise wrong_value(
            f"{who}: baselines", '"mean" needs floating inputs', x, "Pass a baseline of the input."
        )
    by_channel = x.dim() > 2 and labels.shape[1] == 1
    flat = x.flatten(2) if by_channel else x.reshape(len(x), 1, -1)
    shape = (len(labels), 1, *x.shape[2:]) if by_channel else (len(labels), *x.shape[1:])
    own = labels.expand(shape).reshape(len(labels), 1, -1)
    count = ops.segment_sums(torch.ones_like(own, dtype=torch.float64), own, M)
    mean = ops.segment_sums(flat, own, M) / count.clamp(min=1)
    return mean.gather(2, own.expand_as(flat)).to(x.dtype).view_as(x)
