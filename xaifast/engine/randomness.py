"""Randomness: `seed`, `generator` or neither become one seed, and a generator on the CPU.

All that a call draws comes from the seed alone, so that results depend neither on the device nor on
how rows are cut into batches. A generator that is given (and PyTorch's own, where nothing is)
advances by one number for each call.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..errors import describe, wrong_type, wrong_value

LOWEST, HIGHEST = -(2**63), 2**64 - 1  # what torch.manual_seed takes


def _check_seed(who: str, seed: Any) -> int:
    try:
        if isinstance(seed, bool):
            raise TypeError
        number = operator.index(seed)
    except TypeError:
        raise wrong_type(f"{who}: seed", "must be an int", seed, "Try seed=0.") from None
    if not LOWEST <= number <= HIGHEST:
        raise wrong_value(f"{who}: seed", "must have 64 bits", seed, "Try seed=0.")
    return (number + 2**63) % 2**64 - 2**63


def seed_of(who: str, seed: Any = None, generator: Any = None) -> int:
    """The seed of one call, an int64.

    Parameters
    ----------
    who : name of the explainer, for errors.
    seed : an int, or None.
    generator : a torch.Generator of any device from which a seed is drawn, or None; if neither is
        given, PyTorch's global generator, so that torch.manual_seed governs.

    Raises
    ------
    ValueError, TypeError
        If both are given, or one does not fit.
    """
    if seed is not None:
        if generator is not None:
            raise wrong_value(
                f"{who}: seed", "and generator exclude each other", f"{seed} and a generator",
                "Give one of them.",
            )  # fmt: skip
        return _check_seed(who, seed)
    if generator is not None and not isinstance(generator, torch.Generator):
        raise wrong_type(
            f"{who}: generator", "must be a torch.Generator", generator,
            "Use torch.Generator().manual_seed(0), or seed=0.",
        )  # fmt: skip
    device = "cpu" if generator is None else generator.device
    number = torch.empty((), dtype=torch.int64, device=device)
    return int(number.random_(LOWEST, None, generator=generator))


def generator_of(who: str, seed: Any = None, generator: Any = None) -> torch.Generator:
    """A fresh generator on the CPU from the seed of one call; see `seed_of`."""
    return torch.Generator().manual_seed(seed_of(who, seed, generator))


def check_stdevs(who: str, stdevs: Any, inputs: tuple[Tensor, ...]) -> list[float]:
    """One standard deviation for each input."""
    given = stdevs if isinstance(stdevs, tuple) else (stdevs,) * len(inputs)
    for s in given:
        if isinstance(s, bool) or not isinstance(s, (int, float)):
            raise wrong_type(f"{who}: stdevs", "must be numbers", describe(s), "Try 0.1.")
        if not 0 <= s < float("inf"):
            raise wrong_value(f"{who}: stdevs", "must be >= 0 and finite", s, "Try 0.1.")
    if len(given) != len(inputs):
        raise wrong_value(
            f"{who}: stdevs", f"must hold one for each of the {len(inputs)} inputs",
            f"{len(given)}", "Give a number for all.",
        )  # fmt: skip
    return [float(s) for s in given]


def noisy(
    inputs: tuple[Tensor, ...], sample: Tensor, draw: Tensor, stdevs: list[float], seeds: list[int]
) -> tuple[Tensor, ...]:
    """Rows x[sample] + std normal(seed, sample, draw) of each input."""

    def one(x: Tensor, std: float, seed: int) -> Tensor:
        if not std:
            return x.index_select(0, sample.to(x.device))
        level = torch.full((len(x),), std, dtype=torch.float64, device="cpu")
        return ops.add_noise(x, sample, draw, level, seed)

    return tuple(one(*triple) for triple in zip(inputs, stdevs, seeds, strict=True))


def seeds_for(inputs: tuple[Tensor, ...], generator: torch.Generator) -> list[int]:
    """A seed for each input."""
    return torch.randint(2**62, (len(inputs),), generator=generator, device="cpu").tolist()
