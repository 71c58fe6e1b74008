"""RISE: the output for many randomly masked images, laid on what each mask let through.

    R = 1 / (n p) sum_i S(x' + M_i (x - x')) M_i

A mask is a grid of zeros and ones (one with probability p), enlarged bilinearly by cells that cover
the image, and moved by a random part of a cell. Enlarging is linear along each dimension, so masks
are products of matrices, made where they are needed and never kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ...engine.arguments import check_count, plain_mode
from ...engine.baselines import check_baselines
from ...engine.batching import batches
from ...engine.evaluation import sums_dtype
from ...engine.randomness import generator_of
from ...errors import describe, wrong_type, wrong_value
from ..base import PerturbationAttribution
from ..listing import Listing
from .mean_scores import as_captum, baselines_of, mean_scores
from .scoring import (
    Scorer,
    explain_in_blocks,
    perturbations_at_once,
    probabilities,
)

CHUNK = 2**24  # elements of masks that are made at once


class Masks:
    """Random masks over positions [H, W] (or [L], or [D, H, W]).

    Parameters
    ----------
    count : n, how many.
    grid : cells along each dimension, at most its size.
    size : of the positions.
    p : how likely a cell is let through.
    """

    def __init__(
        self,
        count: int,
        grid: tuple[int, ...],
        size: tuple[int, ...],
        p: float,
        generator: torch.Generator,
    ) -> None:
        self.count, self.size = count, size
        self.grids = (
            torch.rand(count, *grid, generator=generator, dtype=torch.float32, device="cpu") < p
        )
        cells = [-(-s // h) for s, h in zip(size, grid, strict=True)]
        self.shifts = [torch.randint(c, (count,), generator=generator, device="cpu") for c in cells]
        self.enlarge = [_enlarging(h, (h + 1) * c) for h, c in zip(grid, cells, strict=True)]

    def made(self, part: slice, like: Tensor) -> Tensor:
        """Some of the masks [K', *positions], in the precision and on the device of `like`."""
        dtype = sums_dtype(like)
        masks = self.grids[part].to(like.device, dtype)
        for weights, shift, size in zip(self.enlarge, self.shifts, self.size, strict=True):
            rows = shift[part].unsqueeze(1) + torch.arange(size, device="cpu")
            matrix = weights[rows].to(like.device, dtype)  # [K', size, cells]
            masks = torch.einsum("ksh,kh...->k...s", matrix, masks)
        return masks

    def weighted(self, scores: Tensor) -> Tensor:
        """Sum of the masks weighted by scores [n, L], [L, *positions]."""
        positions = torch.Size(self.size).numel()
        total = scores.new_zeros(scores.shape[1], positions)
        for part in batches(self.count, max(1, CHUNK // positions)):
            total += scores[part].T @ self.made(part, scores).flatten(1)
        return total.view(-1, *self.size)


def _enlarging(cells: int, size: int) -> Tensor:
    """The matrix [size, cells] of bilinear enlarging along one dimension."""
    ones = torch.eye(cells, dtype=torch.float64, device="cpu").unsqueeze(0)
    return torch.nn.functional.interpolate(ones, size=size, mode="linear")[0].T


class Masked:
    """Images behind masks: what a scorer evaluates."""

    def __init__(self, masks: Masks, x: Tensor) -> None:
        self.masks, self.x, self.count = masks, x, masks.count

    def rows(self, baseline: tuple[Tensor, ...], part: slice) -> tuple[Tensor, ...]:
        """The images behind some of the masks, mask by mask."""
        x, (b,) = self.x, baseline
        m = self.masks.made(part, x).to(x.dtype).unsqueeze(1).unsqueeze(1)
        return ((b + m * (x - b)).flatten(0, 1),)


class RISE(PerturbationAttribution):
    """Randomized input sampling: outputs for random masks, averaged over what the masks show.

    R = 1 / (n p) sum_i S(x' + M_i (x - x')) M_i

    Parameters
    ----------
    forward_func : callable
        The model, or a function of the images.
    grid_size : int or tuple of ints, default 7
        Cells of a mask along each dimension of positions.
    p : float, default 0.5
        Probability that a cell is let through.
    probability : bool, default False
        S is the probability, as in the paper: the softmax over the last dimension of the output.
    optimize, per_sample : optional
        See `Attribution`.

    Raises
    ------
    ValueError, TypeError
        If p is not in (0, 1].

    References
    ----------
    Petsiuk, Das and Saenko (2018), RISE: Randomized input sampling for explanation of black-box
    models, Eq. 6; book, section 8.4.1.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> rise = attr.RISE(lambda x: x[:, :, :4, :4].mean((1, 2, 3)), grid_size=4)
    >>> r = rise.attribute(torch.ones(1, 3, 8, 8), n_samples=500, seed=0)
    >>> r.shape, bool(r[0, 0, :4, :4].mean() > r[0, 0, 4:, 4:].mean())
    (torch.Size([1, 3, 8, 8]), True)
    """

    listing = Listing("perturbation", "function", "n_samples + 1", "8.4.1")

    def __init__(
        self,
        forward_func: Callable,
        grid_size: int | tuple[int, ...] = 7,
        p: float = 0.5,
        probability: bool = False,
        *,
        optimize: bool | None = None,
        per_sample: tuple[bool, ...] | None = None,
    ) -> None:
        super().__init__(forward_func, optimize=optimize, per_sample=per_sample)
        self.grid_size = grid_size
        self.p = _check_p(type(self).__name__, p)
        self.probability = probability

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_samples: int = 4000,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        internal_batch_size: int | str | None = "auto",
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Explain an output by random masks.

        Parameters
        ----------
        inputs : Tensor [N, C, H, W], floating; also [N, C, L] and [N, C, D, H, W]
        baselines, target, additional_forward_args, perturbations_per_eval, show_progress,
        internal_batch_size : as in `FeatureAblation.attribute`.
        n_samples : int, default 4000
            Masks, the same for all images.
        seed : int, optional
            The same seed gives the same masks, however they are batched.
        generator : torch.Generator, optional
            From which a seed is drawn; by default from PyTorch's own.

        Returns
        -------
        Tensor or tuple of Tensor
            Like the input, all channels alike; as `FeatureAblation.attribute` for several outputs
            or targets.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit; before any work, but for the target.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> rise = attr.RISE(net, grid_size=(2, 4))
        >>> rise.attribute(torch.rand(2, 1, 8, 8), target=3, n_samples=20).shape
        torch.Size([2, 1, 8, 8])
        """
        name = type(self).__name__
        call = self._call(inputs, target, additional_forward_args, floating=False)
        x = check_images(name, call.inputs)
        check_count(f"{name}: n_samples", n_samples, "Try 4000.")
        grid = check_cells(f"{name}: grid_size", self.grid_size, x)
        size = perturbations_at_once(name, internal_batch_size, perturbations_per_eval, call.batch)
        several = check_baselines(name, baselines, call.inputs)
        drawn = generator_of(name, seed, generator)
        if call.empty:
            return call.nothing()
        masks = Masks(n_samples, grid, tuple(x.shape[2:]), self.p, drawn)

        def explain(scorer: Scorer, block: slice) -> Iterator[Tensor]:
            source = Masked(masks, x[block])
            scores = mean_scores(scorer, source, baselines_of(several, block))
            found = masks.weighted(scores.to(sums_dtype(scores))) / (n_samples * self.p)
            wide = found.unsqueeze(1).expand(-1, x.shape[1], *found.shape[1:])
            return iter(as_captum(scorer, [wide]))

        count = len(several) * n_samples
        change = probabilities if self.probability else None
        with plain_mode():
            return explain_in_blocks(
                self._evaluator, call, count, size, explain, show=show_progress, change=change
            )


def check_images(who: str, inputs: tuple[Tensor, ...]) -> Tensor:
    """The one input with channels and positions that a method for images explains."""
    x = inputs[0]
    if len(inputs) > 1:
        raise wrong_value(
            f"{who}: inputs", "must be one tensor of images", f"{len(inputs)}",
            "Pass others by additional_forward_args.",
        )  # fmt: skip
    if x.dim() < 3 or not x.is_floating_point():
        raise wrong_value(
            f"{who}: inputs", "must be floating images [N, C, H, W], [N, C, L] or [N, C, D, H, W]",
            x, "Take ShapleyValueSampling or KernelShap for other inputs.",
        )  # fmt: skip
    return x


def check_cells(name: str, value: Any, x: Tensor) -> tuple[int, ...]:
    """One int for each dimension of positions, in [1, its size]; one int may stand for all."""
    sizes = tuple(x.shape[2:])
    given = tuple(value) if isinstance(value, (tuple, list)) else (value,) * len(sizes)
    if any(isinstance(v, bool) or not isinstance(v, int) for v in given):
        raise wrong_type(name, "must be an int or a tuple of ints", describe(value), "Try 7.")
    if len(given) != len(sizes) or any(not 1 <= v <= s for v, s in zip(given, sizes, strict=False)):
        raise wrong_value(
            name, f"must be in [1, size] for each of the positions {list(sizes)}", describe(value),
            "Give one int, or one for each dimension behind the channels.",
        )  # fmt: skip
    return given


def _check_p(who: str, p: Any) -> float:
    if isinstance(p, bool) or not isinstance(p, (int, float)):
        raise wrong_type(f"{who}: p", "must be a number", describe(p), "Try 0.5.")
    if not 0 < p <= 1:
        raise wrong_value(f"{who}: p", "must be in (0, 1]", p, "Try 0.5.")
    return p
