"""Mean differences of scores, laid on the features that were changed."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ...engine.batching import rows_of
from ...errors import wrong_value
from .features import Features
from .incremental import Local, incremental
from .scoring import (
    Scorer,
)

STATS = ("difference", "score")


def baselines_of(several: list[tuple[Tensor, ...]], block: slice) -> list[tuple[Tensor, ...]]:
    """Baselines for a block of the samples."""
    return [tuple(rows_of(b, block) for b in one) for one in several]


class Source(Protocol):
    """Makes the perturbed inputs."""

    @property
    def count(self) -> int:
        """K, how many perturbations there are."""

    def rows(self, baseline: tuple[Tensor, ...], part: slice) -> tuple[Tensor, ...]:
        """The rows of some of them."""


def mean_scores(scorer: Scorer, source: Source, several: list[tuple[Tensor, ...]]) -> Tensor:
    """Scores [K, L] of all perturbations, averaged over the baselines."""
    local = incremental(scorer, source) if isinstance(source, Local) else None
    found = [
        local.scores(baseline)
        if local is not None
        else scorer.evaluate(lambda part, b=baseline: source.rows(b, part), source.count)  # type: ignore[misc]
        for baseline in several
    ]
    if len(found) == 1:
        return found[0]
    stacked = torch.stack(found)
    return (stacked if stacked.is_floating_point() else stacked.float()).mean(0)


def check_shared(scorer: Scorer, features: Features) -> None:
    """Refuse features of each sample for one value of the whole batch."""
    if scorer.whole and not features.shared:
        raise wrong_value(
            f"{scorer.call.who}: feature_mask",
            "must be one for all samples ([1, ...]) where the model returns one value for the "
            "whole batch", "one for each sample", "Give the mask of one sample.",
        )  # fmt: skip


def as_captum(scorer: Scorer, attributions: list[Tensor]) -> list[Tensor]:
    """Attributions [L, ...] as they go out: [L, ...], or [targets, N, ...] for several targets."""
    shape = scorer.shape if scorer.several else (len(scorer.initial),)
    dtype = scorer.dtype if scorer.initial.is_floating_point() else attributions[0].dtype
    pairs = zip(attributions, scorer.call.inputs, strict=True)
    return [a.reshape(*shape, *x.shape[1:]).to(x.device, dtype) for a, x in pairs]
