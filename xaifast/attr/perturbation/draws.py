"""Draws from reference images in the place of a hidden patch.

Two ways, both from reference data [M, C, ...]:

- `Marginal`: what reference images have at the same place;
- `Conditional`: a Gaussian given what surrounds the patch. Patches of the surrounding's size are
  taken from everywhere in the reference images as draws of one Gaussian N(m, V); for a patch w and
  its surrounding s in it,

      x_w | x_s ~ N(m_w + B (x_s - m_s), V_ww - B V_sw),   B = V_ws V_ss^-1

Draws of one place differ from place to place and from draw to draw, and are the same for all
samples: noise comes from the seed and the number of the place alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...engine.evaluation import sums_dtype
from .windows import Grid

MOST_PATCHES = 50_000  # of the reference images that a Gaussian is fitted to
# Directions of less variance, in parts of the largest, are taken as without any: what an image has
# there the reference images have not, and tells nothing.
RANK = 1e-8

Place = tuple[slice, ...]  # of a window, behind N


@dataclass(frozen=True)
class Drawn:
    """Draws for one window: its number, its place, and values [draws, N or 1, *window]."""

    window: int
    place: Place
    values: Tensor


def _bounds(place: Place) -> tuple[tuple[int, int], ...]:
    return tuple((s.start, s.stop) for s in place)


def _generator(seed: int, place: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed + place) % 2**63)


class Marginal:
    """Draws of what reference images show at the patch."""

    def __init__(self, reference: Tensor, grid: Grid, draws: int, seed: int) -> None:
        self.reference, self.grid, self.draws, self.seed = reference, grid, draws, seed

    def drawn(self, x: Tensor, first: int, count: int) -> Iterator[Drawn]:
        """Draws for some windows."""
        images = self.reference
        for w, place in enumerate(self.grid.places(first, count), first):
            generator = _generator(self.seed, w)
            which = torch.randint(len(images), (self.draws,), generator=generator, device="cpu")
            values = images[which.to(images.device)][(slice(None), *place)]
            yield Drawn(w, place, values.unsqueeze(1).to(x.device, x.dtype))


@dataclass(frozen=True)
class Rule:
    """How a patch is drawn, given its surrounding: draw = m_w + B (x_s - m_s) + root z."""

    inside: Tensor  # [D] bool: which of the surrounding patch is the hidden one
    mean: Tensor  # [D]
    B: Tensor  # [w, s]
    root: Tensor  # [w, w], the square root of the covariance that is left

    def drawn(self, patches: Tensor, z: Tensor) -> Tensor:
        """Draws [k, draws, N, w] for surrounding patches [k, N, D] and noise [k, draws, w]."""
        mean, B, root = (v.to(patches) for v in (self.mean, self.B, self.root))
        inside = self.inside.to(patches.device)
        given = patches[..., ~inside] - mean[~inside]
        centre = mean[inside] + given @ B.T
        return centre.unsqueeze(1) + (z.to(patches) @ root).unsqueeze(2)


def condition(mean: Tensor, covariance: Tensor, inside: Tensor) -> Rule:
    """The Gaussian of the elements inside, given those outside."""
    to_outside = covariance[inside][:, ~inside]
    B = to_outside @ torch.linalg.pinv(covariance[~inside][:, ~inside], rtol=RANK, hermitian=True)
    left = covariance[inside][:, inside] - B @ to_outside.T
    values, vectors = torch.linalg.eigh((left + left.T) / 2)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T  # the symmetric one: it is unique
    return Rule(inside, mean, B, root)


def patches_of(images: Tensor, size: tuple[int, ...]) -> Tensor:
    """Patches [P, D] from everywhere in images [M, C, ...], at most MOST_PATCHES of them."""
    view = images
    for d, length in enumerate(size):
        view = view.unfold(2 + d, length, 1)
    view = view.movedim(1, 1 + len(size))  # [M, *places, C, *size]
    places = view.shape[: 1 + len(size)]
    total = places.numel()
    which = torch.linspace(
        0, total - 1, min(total, MOST_PATCHES), dtype=torch.float64, device="cpu"
    ).long()
    return view[torch.unravel_index(which, places)].flatten(1).to("cpu", torch.float64)


class Conditional:
    """A Gaussian given what surrounds the patch.

    Parameters
    ----------
    reference : [M, C, ...], images
    around : size of the surrounding patch, larger than the window in each dimension.
    grid : the windows.
    draws, seed : how many for each window, and from what.
    """

    def __init__(
        self, reference: Tensor, around: tuple[int, ...], grid: Grid, draws: int, seed: int
    ) -> None:
        self.around, self.grid, self.draws, self.seed = around, grid, draws, seed
        patches = patches_of(reference, around)
        self.mean, self.covariance = patches.mean(0), torch.cov(patches.T)
        self.channels = reference.shape[1]
        self.rules: dict[tuple, Rule] = {}

    def _surrounding(self, place: Place) -> tuple[Place, Place]:
        """The surrounding of a window in the image, and the window in its surrounding."""
        outer, inner = [slice(0, self.channels)], [slice(0, self.channels)]
        sizes = zip(place[1:], self.around, self.grid.window[1:], self.grid.shape[1:], strict=True)
        for hidden, around, window, size in sizes:
            begin = min(max(hidden.start - (around - window) // 2, 0), size - around)
            outer.append(slice(begin, begin + around))
            inner.append(slice(hidden.start - begin, hidden.stop - begin))
        return tuple(outer), tuple(inner)

    def _rule(self, inner: Place) -> Rule:
        key = _bounds(inner)
        if key not in self.rules:
            inside = torch.zeros(self.channels, *self.around, dtype=torch.bool, device="cpu")
            inside[inner] = True
            self.rules[key] = condition(self.mean, self.covariance, inside.flatten())
        return self.rules[key]

    def drawn(self, x: Tensor, first: int, count: int) -> Iterator[Drawn]:
        """Draws for some windows; those of one geometry at once."""
        alike: dict[tuple, list[tuple[int, Place, Place]]] = {}
        inners: dict[tuple, Place] = {}
        for w, place in enumerate(self.grid.places(first, count), first):
            outer, inner = self._surrounding(place)
            alike.setdefault(_bounds(inner), []).append((w, place, outer))
            inners[_bounds(inner)] = inner
        for bounds, windows in alike.items():
            rule = self._rule(inners[bounds])
            around = [x[(slice(None), *outer)].flatten(1) for _, _, outer in windows]
            patches = torch.stack(around).to(sums_dtype(x))
            shape = [stop - start for start, stop in bounds]
            z = torch.stack([self._noise(w, math.prod(shape)) for w, _, _ in windows])
            values = rule.drawn(patches, z).to(x.dtype)
            for (w, place, _), value in zip(windows, values, strict=True):
                yield Drawn(w, place, value.reshape(self.draws, len(x), *shape))

    def _noise(self, window: int, size: int) -> Tensor:
        generator = _generator(self.seed, window)
        return torch.randn(self.draws, size, generator=generator, dtype=torch.float64, device="cpu")
