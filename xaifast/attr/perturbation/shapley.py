"""Shapley values: what each feature adds to the output, averaged over the orders of adding them.

    R_i = sum over S without i of |S|! (M - |S| - 1)! / M! (v(S + i) - v(S))
        = mean over the permutations of v(features up to i) - v(features before i)

v(S) is the output for the input with the features S as they are and all others from the baseline.
Each coalition S is evaluated once, and all are known before the first evaluation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...engine.arguments import Call, check_count, plain_mode
from ...engine.baselines import check_baselines
from ...engine.evaluation import Evaluator
from ...engine.randomness import generator_of
from ...errors import wrong_value
from ..base import PerturbationAttribution
from ..listing import Listing
from .features import Features, check_features
from .mean_scores import baselines_of, check_shared
from .scoring import Scorer, explain_in_blocks, perturbations_at_once
from .segments import Segments

MOST_FEATURES = 20  # of exact values: a million coalitions
EXACT_KEYS = 62  # features whose coalitions have a number of their own in an int64
CHUNK = 2**22  # scores that are looked at in one piece


# ---- coalitions --------------------------------------------------------------------------------


class AllCoalitions:
    """All 2^M coalitions; bit f of number c tells whether feature f is in coalition c."""

    def __init__(self, features: int) -> None:
        self.features = features
        self.inner = torch.arange(1, 2**features - 1, device="cpu")

    @property
    def count(self) -> int:
        """K, how many coalitions there are between none and all."""
        return len(self.inner)

    def on(self, part: slice) -> Tensor:
        """Some of the coalitions between none and all, [K', M] bool."""
        return (self.inner[part].unsqueeze(1) >> torch.arange(self.features, device="cpu")) % 2 == 1

    def values(self, none: Tensor, inner: Tensor, full: Tensor) -> Tensor:
        """Shapley values [M, L] from the scores of the coalitions."""
        M = self.features
        v = torch.cat([none.unsqueeze(0), inner, full.unsqueeze(0)])
        others = 2 ** (M - 1)
        members = (
            (torch.arange(others, device="cpu").unsqueeze(1) >> torch.arange(M - 1, device="cpu"))
            .remainder(2)
            .sum(1)
        )
        share = [1 / (M * math.comb(M - 1, s)) for s in range(M)]
        weight = torch.tensor(share, dtype=v.dtype, device="cpu")[members]
        found = []
        for f in range(M):
            halves = v.view(2 ** (M - f - 1), 2, 2**f, -1)
            gain = (halves[:, 1] - halves[:, 0]).view(others, -1)
            found.append(weight @ gain)
        return torch.stack(found)


@dataclass
class Prefixes:
    """The coalitions that permutations run through, equal ones once.

    order [P, M]: the features in the order of each permutation; rank [P, M]: the place of each
    feature; row [P, M - 1]: which of the evaluated coalitions the first j + 1 features are; of
    [K]: in which permutation a coalition is first met; size [K]: its size.
    """

    order: Tensor
    rank: Tensor
    row: Tensor
    of: Tensor
    size: Tensor

    @property
    def count(self) -> int:
        """K, how many coalitions there are between none and all."""
        return len(self.of)

    def on(self, part: slice) -> Tensor:
        """Some of the coalitions, [K', M] bool."""
        return self.rank[self.of[part]] < self.size[part].unsqueeze(1)

    def values(self, none: Tensor, inner: Tensor, full: Tensor) -> Tensor:
        """Mean gain of each feature [M, L] from the scores of the coalitions."""
        P, M = self.order.shape
        L = len(none)
        total = none.new_zeros(M, L)
        step = max(1, CHUNK // max(1, (M + 1) * L))
        for begin in range(0, P, step):
            part = slice(begin, begin + step)
            row = self.row[part]
            first, last = (end.expand(len(row), 1, L) for end in (none, full))
            v = torch.cat([first, inner[row], last], 1)
            gain = (v[:, 1:] - v[:, :-1]).flatten(0, 1)
            total.index_add_(0, self.order[part].flatten(), gain)
        return total / P


def _keys(order: Tensor) -> Tensor:
    """A number for each prefix of each permutation, [P, M - 1]: equal ones are equal sets.

    Of more features than an int64 has bits, only those of one feature and of all but one are
    compared: others meet by chance alone.
    """
    P, M = order.shape
    if M <= EXACT_KEYS:
        return torch.bitwise_left_shift(1, order).cumsum(1)[:, :-1]
    keys = 2 * M + torch.arange(P * (M - 1), device="cpu").view(P, M - 1)
    keys[:, 0] = order[:, 0]
    keys[:, -1] = M + order[:, -1]
    return keys


def draw_prefixes(features: int, permutations: int, generator: torch.Generator) -> Prefixes:
    """Draw permutations, and find the coalitions that they run through."""
    drawn = [
        torch.randperm(features, generator=generator, device="cpu") for _ in range(permutations)
    ]
    order = torch.stack(drawn)
    rank = order.argsort(1)
    keys = _keys(order)
    found, row = torch.unique(keys, return_inverse=True)
    first = torch.full((len(found),), keys.numel(), device="cpu").scatter_reduce_(
        0, row.flatten(), torch.arange(keys.numel(), device="cpu"), "amin"
    )
    width = max(1, features - 1)
    return Prefixes(order, rank, row.view(keys.shape), first // width, first % width + 1)


# ---- explaining --------------------------------------------------------------------------------


@dataclass
class Game:
    """One call: its features, and the coalitions that are evaluated."""

    call: Call
    features: Features
    several: list[tuple[Tensor, ...]]
    coalitions: AllCoalitions | Prefixes

    def play(self, evaluator: Evaluator, size: int | str, show: bool) -> Any:
        """Evaluate the coalitions; attributions as they go out."""
        count = len(self.several) * (self.coalitions.count + 1) + 1
        with plain_mode():
            return explain_in_blocks(evaluator, self.call, count, size, self.explain, show=show)

    def explain(self, scorer: Scorer, block: slice) -> list[Tensor]:
        """Shapley values of a block of the samples, for each input."""
        check_shared(scorer, self.features)
        segments = Segments(self.features.rows(block), scorer.call.inputs)
        found = [
            self._values(scorer, segments, baseline)
            for baseline in baselines_of(self.several, block)
        ]
        mean = sum(found[1:], start=found[0]) / len(found)
        spread = segments.spread(mean, scorer.sample_of())
        return [
            self._as_captum(scorer, a, x) for a, x in zip(spread, self.call.inputs, strict=True)
        ]

    def _values(self, scorer: Scorer, segments: Segments, baseline: tuple) -> Tensor:
        """Values of the features, [M, L]; the first evaluation is that of no features."""

        def perturb(part: slice) -> tuple[Tensor, ...]:
            shifted = slice(max(0, part.start - 1), part.stop - 1)
            on = self.coalitions.on(shifted)
            if part.start == 0:
                on = torch.cat([torch.zeros(1, segments.count, dtype=torch.bool, device="cpu"), on])
            return segments.coalitions(baseline, on)

        scores = scorer.evaluate(perturb, self.coalitions.count + 1).to("cpu", torch.float64)
        full = scorer.initial.to("cpu", torch.float64)
        return self.coalitions.values(scores[0], scores[1:], full)

    @staticmethod
    def _as_captum(scorer: Scorer, attribution: Tensor, x: Tensor) -> Tensor:
        """Attributions [L, ...] as they go out: [N, *outputs, ...] or [targets, N, ...]."""
        shape = scorer.shape
        if scorer.call.target is None and not scorer.whole:
            shape = (scorer.call.batch, *scorer.output_shape)
        floating = scorer.initial.is_floating_point()
        found = attribution.reshape(*shape, *x.shape[1:])
        return found.to(x.device, scorer.dtype if floating else torch.float32)


class ShapleyValueSampling(PerturbationAttribution):
    """Shapley values, estimated from random permutations of the features.

    R_i = mean over the permutations of v(features up to i) - v(features before i)

    v(S) is the output with the features S from the input and all others from the baseline.
    Attributions sum to S(x) - S(x') for any number of permutations (efficiency).

    Parameters
    ----------
    forward_func : callable
        The model, or a function of the inputs; a row for each sample, or a value for the batch.
    optimize, per_sample : optional
        See `Attribution`.

    References
    ----------
    Castro, Gómez and Tejada (2009), Polynomial calculation of the Shapley value based on sampling,
    Computers & Operations Research 36.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> sampling = attr.ShapleyValueSampling(lambda x: x[:, 0] * x[:, 1] + x[:, 2])
    >>> r = sampling.attribute(torch.tensor([[2.0, 3.0, 4.0]]), n_samples=10, seed=0)
    >>> float(r.sum()), float(r[0, 2])
    (10.0, 4.0)
    """

    listing = Listing("perturbation", "function", "n_samples * (features - 1) + 2", "9.4.3")

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int = 25,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        internal_batch_size: int | str | None = "auto",
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Estimate what each feature adds to an output.

        Parameters
        ----------
        inputs, baselines, target, additional_forward_args, feature_mask, perturbations_per_eval,
        show_progress, internal_batch_size : as in `FeatureAblation.attribute`.
        n_samples : int, default 25
            Permutations, the same for all samples; each is M - 1 evaluations, or fewer where it
            meets coalitions that another has met.
        seed : int, optional
            The same seed gives the same permutations, however they are batched.
        generator : torch.Generator, optional
            From which a seed is drawn; by default from PyTorch's own.

        Returns
        -------
        Tensor or tuple of Tensor
            Like the inputs, in the dtype of the output; [N, outputs, ...] without a target for
            outputs [N, outputs], [targets, N, ...] for several targets per input.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> sampling = attr.ShapleyValueSampling(torch.nn.Linear(4, 3))
        >>> mask = torch.tensor([[0, 0, 1, 2]])
        >>> sampling.attribute(torch.rand(5, 4), target=1, feature_mask=mask).shape
        torch.Size([5, 4])
        """
        name = type(self).__name__
        check_count(f"{name}: n_samples", n_samples, "Try 25.")
        drawn = generator_of(name, seed, generator)
        call = self._perturbed(inputs, target, additional_forward_args)
        size = perturbations_at_once(name, internal_batch_size, perturbations_per_eval, call.batch)
        several = check_baselines(name, baselines, call.inputs)
        features = check_features(name, feature_mask, call.inputs)
        if call.empty or not features.count:
            return call.nothing()
        prefixes = draw_prefixes(features.count, n_samples, drawn)
        return Game(call, features, several, prefixes).play(self._evaluator, size, show_progress)


class ShapleyValues(PerturbationAttribution):
    """Shapley values, exact, from all coalitions of the features.

    R_i = sum over S without i of |S|! (M - |S| - 1)! / M! (v(S + i) - v(S))

    v(S) is the output with the features S from the input and all others from the baseline; each of
    the 2^M coalitions is evaluated once. Attributions sum to S(x) - S(x').

    Parameters
    ----------
    forward_func : callable
        The model, or a function of the inputs; a row for each sample, or a value for the batch.
    optimize, per_sample : optional
        See `Attribution`.

    References
    ----------
    Shapley (1953), A value for n-person games.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> values = attr.ShapleyValues(lambda x: x[:, 0] * x[:, 1] + x[:, 2])
    >>> values.attribute(torch.tensor([[2.0, 3.0, 4.0]]))
    tensor([[3., 3., 4.]])
    """

    listing = Listing("perturbation", "function", "2 ** features", "9.4.3")

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        internal_batch_size: int | str | None = "auto",
    ) -> Any:
        """Compute what each feature adds to an output.

        Parameters
        ----------
        inputs, baselines, target, additional_forward_args, feature_mask, perturbations_per_eval,
        show_progress, internal_batch_size : as in `FeatureAblation.attribute`.

        Returns
        -------
        Tensor or tuple of Tensor
            As `ShapleyValueSampling.attribute`.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit, or there are more than 20 features.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> quarters = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]])
        >>> x = torch.rand(2, 4, 4)
        >>> attr.ShapleyValues(net).attribute(x, target=1, feature_mask=quarters).shape
        torch.Size([2, 4, 4])
        """
        name = type(self).__name__
        call = self._perturbed(inputs, target, additional_forward_args)
        size = perturbations_at_once(name, internal_batch_size, perturbations_per_eval, call.batch)
        several = check_baselines(name, baselines, call.inputs)
        features = check_features(name, feature_mask, call.inputs)
        if features.count > MOST_FEATURES:
            raise wrong_value(
                f"{name}: inputs",
                f"must have at most {MOST_FEATURES} features, for 2^M coalitions are evaluated",
                f"{features.count}",
                "Group them by feature_mask, or take ShapleyValueSampling or KernelShap.",
            )
        if call.empty or not features.count:
            return call.nothing()
        game = Game(call, features, several, AllCoalitions(features.count))
        return game.play(self._evaluator, size, show_progress)
