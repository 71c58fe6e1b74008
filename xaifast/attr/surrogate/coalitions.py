"""Coalitions: which features of each perturbed input are on.

A unit is what one surrogate is fitted to: a sample, or the whole batch where the model returns one
value for it. Units with the same number of features share their coalitions, which are drawn before
any evaluation, from a seed and the number of features alone: so a sample gets the same ones alone,
in any batch, and however the evaluations are cut.

    z [S, M],   z_sj = 1: feature j is as in the input, 0: as in the baseline
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import describe, wrong_value
from ..perturbation.features import Features

# ---- the features of each unit -----------------------------------------------------------------


@dataclass(frozen=True)
class Players:
    """The features of each unit, counted from 0 in it.

    labels: as in `Features`, with the unit's own numbers; counts: how many features each unit has;
    own: [units, M] bool, which of all features it has, None: all.
    """

    labels: tuple[Tensor, ...]
    counts: list[int]
    own: Tensor | None
    features: int

    def spread(self, coefficients: Tensor) -> Tensor:
        """Coefficients of the units' own features [T, units, M'] at their places among all."""
        if self.own is None:
            return coefficients
        full = coefficients.new_zeros(*coefficients.shape[:2], self.features)
        for u, count in enumerate(self.counts):
            full[:, u, self.own[u]] = coefficients[:, u, :count]
        return full


def flat(labels: Tensor) -> Tensor:
    """Labels of the elements of each sample, [N or 1, elements]."""
    return labels.flatten(1) if labels.dim() > 1 else labels.unsqueeze(1)


def players_of(features: Features, batch: int, whole: bool) -> Players:
    """Count the features of each unit."""
    M, rows = features.count, max(len(m) for m in features.labels)
    own = torch.zeros(rows, M, dtype=torch.bool, device="cpu")
    for labels in features.labels:
        present = flat(labels).expand(rows, -1).cpu()
        own.scatter_(1, present, torch.ones_like(present, dtype=torch.bool))
    if whole or own.all():
        return Players(features.labels, [M] * (1 if whole else batch), None, M)
    number = own.cumsum(1) - 1
    renumbered = tuple(_renumber(labels, number) for labels in features.labels)
    own = own.expand(batch, M)
    return Players(renumbered, own.sum(1).tolist(), own, M)


def _renumber(labels: Tensor, number: Tensor) -> Tensor:
    """Labels by the units' own numbers, [N, ...]."""
    own = number.to(labels.device).gather(1, flat(labels).expand(len(number), -1))
    return own.view(len(number), *labels.shape[1:])


# ---- drawing -----------------------------------------------------------------------------------


def _in_pairs(z: Tensor, S: int) -> Tensor:
    """Each coalition followed by its complement, S in all."""
    return torch.stack([z, ~z], 1).flatten(0, 1)[:S]


def _all_coalitions(M: int) -> Tensor:
    """All subsets of M features, [2^M, M]."""
    return (torch.arange(2**M, device="cpu").unsqueeze(1) >> torch.arange(M, device="cpu")) % 2 == 1


class Uniform:
    """Each feature on with probability 1/2."""

    def draw(self, M: int, S: int, generator: torch.Generator) -> Tensor:
        """S coalitions of M features, [S, M] bool."""
        return torch.rand(S, M, generator=generator, dtype=torch.float32, device="cpu") < 0.5

    def enumerates(self, M: int, S: int) -> bool:
        """Whether all coalitions are taken in place of S draws: where they are no more."""
        return 2**M <= S

    def enumerate(self, M: int, S: int) -> tuple[Tensor, Tensor]:
        """All coalitions, and how often each of them is expected in S draws."""
        z = _all_coalitions(M)
        return z, torch.full((len(z),), S / len(z), dtype=torch.float64, device="cpu")


class AfterOnes(Uniform):
    """All features, then each on with probability 1/2, as in the book's listing."""

    def draw(self, M: int, S: int, generator: torch.Generator) -> Tensor:
        """S coalitions of M features, [S, M] bool."""
        z = super().draw(M, S, generator)
        z[0] = True
        return z

    def enumerates(self, M: int, S: int) -> bool:
        """Never: the listing draws."""
        return False


class ShapleyShares(Uniform):
    """All features, none, then coalitions by their share of the Shapley kernel.

    k features with probability p(k) ~ (M - 1) / (k (M - k)), then one of the coalitions of that
    size, all alike; in pairs of a coalition and its complement, whose share is the same: what two
    features do only together cancels then, and on networks as many draws tell more (Covert and Lee
    2021, Improving KernelSHAP).
    """

    def draw(self, M: int, S: int, generator: torch.Generator) -> Tensor:
        """S coalitions of M >= 2 features, [S, M] bool."""
        ends = torch.tensor([[True], [False]], device="cpu").expand(2, M)
        pairs = (S - 1) // 2
        if not pairs:
            return ends[:S]
        sizes = 1 + torch.multinomial(self._shares(M), pairs, True, generator=generator)
        keys = torch.rand(pairs, M, generator=generator, dtype=torch.float64, device="cpu")
        z = keys.argsort(1).argsort(1) < sizes.unsqueeze(1)
        return torch.cat([ends, _in_pairs(z, S - 2)])

    def enumerate(self, M: int, S: int) -> tuple[Tensor, Tensor]:
        """All coalitions, and how often each of them is expected in S draws."""
        z = _all_coalitions(M)
        k = z.sum(1)
        of_size = torch.bincount(k, minlength=M + 1)
        shares = torch.zeros(M + 1, dtype=torch.float64, device="cpu")
        shares[1:M] = (S - 2) * self._shares(M) / of_size[1:M]
        shares[0] = shares[M] = 1.0
        return z, shares[k]

    def _shares(self, M: int) -> Tensor:
        """p(k) for k = 1 ... M - 1."""
        k = torch.arange(1, M, dtype=torch.float64, device="cpu")
        shares = 1 / (k * (M - k))
        return shares / shares.sum()


@dataclass
class Coalitions:
    """The coalitions of all units, in groups that share them.

    z: for each group [S, M], float64, equal ones once; group [units]: whose are whose; repeats: for
    each group [S], how often each was drawn (0: there only because another group has more); rows:
    for each group [drawn], the row of each draw; dtype: in which the user's functions see them.
    """

    z: list[Tensor]
    group: Tensor
    repeats: list[Tensor]
    rows: list[Tensor]
    dtype: torch.dtype = torch.long

    @property
    def count(self) -> int:
        """S."""
        return len(self.z[0])

    def units(self, group: int) -> Tensor:
        """The units of a group."""
        return (self.group == group).nonzero().flatten()

    def on(self, device: torch.device) -> Tensor:
        """Which features are on, [S, groups, M'] bool; off beyond those of a group."""
        width = max(z.shape[1] for z in self.z)
        on = torch.zeros(self.count, len(self.z), width, dtype=torch.bool, device="cpu")
        for g, z in enumerate(self.z):
            on[:, g, : z.shape[1]] = z != 0
        return on.to(device)

    def full_row(self) -> int | None:
        """The row in which every feature of every unit is on."""
        full = torch.stack([(z == 1).all(1) for z in self.z]).all(0).nonzero()
        return int(full[0]) if len(full) else None


def _distinct(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct coalitions, all features first; how often each is there; the row of each."""
    rows = torch.zeros(len(z), dtype=torch.long, device="cpu")
    for part in z.split(62, 1):  # as numbers of 62 bits
        number = (part.long() << torch.arange(part.shape[1], device="cpu")).sum(1)
        smaller = number.unique(return_inverse=True)[1]
        rows = (rows * len(z) + smaller).unique(return_inverse=True)[1]
    rows = rows.max() - rows
    repeats = rows.bincount()
    one = torch.empty_like(repeats).scatter_(0, rows, torch.arange(len(z), device="cpu"))
    return z[one], repeats.double(), rows


def draw_coalitions(
    players: Players, S: int, source: Uniform, seed: int, enumerated: bool
) -> Coalitions:
    """Coalitions for each number of features, equal ones once.

    Parameters
    ----------
    players : the features of each unit.
    S : how many are drawn.
    source : from which distribution.
    seed : of the generator, which starts anew for each number of features.
    enumerated : whether all coalitions are taken, with the weights that draws have on average,
        where S suffices for all.
    """
    sizes = sorted(set(players.counts))
    found = []
    for M in sizes:
        if enumerated and source.enumerates(M, S):
            z, repeats = source.enumerate(M, S)
            found.append((z.flip(0), repeats.flip(0), torch.arange(2**M, device="cpu")))
        else:
            found.append(_distinct(source.draw(M, S, torch.Generator().manual_seed(seed))))
    most = max(len(z) for z, _, _ in found)

    def padded(x: Tensor) -> Tensor:
        return torch.cat([x.double(), x.new_zeros(most - len(x), *x.shape[1:]).double()])

    group = torch.tensor([sizes.index(M) for M in players.counts], device="cpu")
    coalitions, numbers, rows = (list(parts) for parts in zip(*found, strict=True))
    return Coalitions([padded(v) for v in coalitions], group, [padded(v) for v in numbers], rows)


# ---- from a function of the user ---------------------------------------------------------------


def samples_of(function: Callable, original: Any, options: dict) -> Iterator[Any]:
    """Samples of a perturbation function, call by call, or of a generator that it is or returns."""
    if inspect.isgeneratorfunction(function):
        yield from function(original, **options)
        return
    first = function(original, **options)
    if inspect.isgenerator(first):
        yield from first
        return
    yield first
    while True:
        yield function(original, **options)


def too_few(who: str, count: int, asked: int) -> None:
    """Warn that a generator has ended early, or refuse one that gave nothing."""
    if not count:
        raise wrong_value(
            f"{who}: perturb_func", "must give at least one sample", "none", "Yield n_samples."
        )
    warnings.warn(
        f"perturb_func completed after {count} of n_samples={asked} samples; these are used.",
        stacklevel=3,
    )


def _coalition(who: str, sample: Any, M: int) -> Tensor:
    """One coalition of the user, as float64 [M]."""
    if not isinstance(sample, Tensor) or sample.numel() != M:
        raise wrong_value(
            f"{who}: perturb_func", f"must return a tensor [1, {M}], a number for each feature",
            describe(sample), "Its argument num_interp_features says how many there are.",
        )  # fmt: skip
    return sample.detach().reshape(M).to("cpu", torch.float64)


def ask_coalitions(
    who: str, players: Players, S: int, function: Callable, arguments: list[tuple[Any, dict]]
) -> Coalitions:
    """Take S coalitions of each unit from the user's function; `arguments` are those of each."""
    z: list[list[Tensor]] = []
    dtype = torch.long
    for M, (original, options) in zip(players.counts, arguments, strict=True):
        z.append([])
        for _, sample in zip(range(S), samples_of(function, original, options), strict=False):
            z[-1].append(_coalition(who, sample, M))
            dtype = sample.dtype
    drawn = min(len(rows) for rows in z)
    if drawn < S:
        too_few(who, drawn, S)
    every, group = torch.arange(drawn, device="cpu"), torch.arange(len(z), device="cpu")
    stacked = [torch.stack(rows[:drawn]) for rows in z]
    ones = torch.ones(drawn, dtype=torch.float64, device="cpu")
    return Coalitions(stacked, group, [ones] * len(z), [every] * len(z), dtype)
