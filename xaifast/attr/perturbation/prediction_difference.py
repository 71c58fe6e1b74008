"""Prediction difference analysis: what a patch tells the model beyond what surrounds it.

    R_i = mean over the windows W that cover i of D(p(c | x), p(c | x without W))
    p(c | x without W) = mean over draws of p(c | x with x_W drawn given its surroundings)

with D the difference of log-odds (the weight of evidence), or of probabilities, or of scores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...engine.arguments import check_count, plain_mode
from ...engine.randomness import seed_of
from ...errors import ModelError, describe, wrong_type, wrong_value
from ..base import PerturbationAttribution
from ..listing import Listing
from .draws import Conditional, Marginal
from .mean_scores import as_captum
from .rise import check_cells, check_images
from .scoring import (
    Scorer,
    explain_in_blocks,
    perturbations_at_once,
    probabilities,
)
from .windows import Grid, Windows, check_windows, repeated

MEASURES = ("weight_of_evidence", "probability", "score")


def log_odds(p: Tensor, trained_on: int, classes: int) -> Tensor:
    """Base-2 logarithm of p / (1 - p), p after the Laplace correction (n p + 1) / (n + classes)."""
    return ((trained_on * p + 1) / (trained_on * (1 - p) + classes - 1)).log2()


def checked_probabilities(output: Tensor) -> Tensor:
    """Return a model's output, if it may be probabilities."""
    if not output.is_floating_point() or (output < 0).any() or (output > 1).any():
        raise ModelError(
            "logits=False needs a model that returns probabilities, in [0, 1]; it returned values "
            f"in [{float(output.min()):g}, {float(output.max()):g}]. Leave it out, or take "
            'measure="score".'
        )
    return output


class Replaced:
    """Images with one window drawn anew, window by window and draw by draw."""

    def __init__(
        self, patches: Conditional | Marginal, x: Tensor, value_range: tuple | None
    ) -> None:
        self.patches, self.x, self.value_range = patches, x, value_range
        self.count = patches.grid.count * patches.draws

    def rows(self, part: slice) -> tuple[Tensor, ...]:
        """The rows of some windows and draws."""
        draws = self.patches.draws
        rows = repeated(self.x, part.stop - part.start).unflatten(0, (-1, len(self.x)))
        first, last = part.start // draws, (part.stop - 1) // draws
        for drawn in self.patches.drawn(self.x, first, last - first + 1):
            begin = max(part.start, drawn.window * draws)
            end = min(part.stop, (drawn.window + 1) * draws)
            own = drawn.values[begin - drawn.window * draws : end - drawn.window * draws]
            values = own if self.value_range is None else own.clamp(*self.value_range)
            at = slice(begin - part.start, end - part.start)
            rows[(at, slice(None), *drawn.place)] = values
        return (rows.flatten(0, 1),)


class PredictionDifference(PerturbationAttribution):
    """Prediction difference analysis: patches are replaced by what else could have been there.

    R_i = mean over the windows W that cover i of D(p(c | x), p(c | x without W))

    p(c | x without W) is the mean of the model's output over draws of x_W, from a Gaussian given
    the patch that surrounds W, or from reference images at the same place. D is the weight of
    evidence, log2 odds(c | x) - log2 odds(c | x without W), odds(p) = p / (1 - p), with the Laplace
    correction p <- (n p + 1) / (n + classes) for n training samples; or the difference.

    Parameters
    ----------
    forward_func : callable
        The model, or a function of the images.
    reference : Tensor [M, C, ...], optional
        Reference images, here or by `fit`: training data, in the way the model sees it.
    measure : "weight_of_evidence" (default), "probability" or "score"
        Differences of log2-odds, of probabilities, or of the output as it is.
    logits : bool, default True
        The model returns logits [N, ..., classes]: their softmax are the probabilities; False: it
        returns probabilities.
    n_train : int, optional
        n of the Laplace correction; default the number of reference images.
    value_range : (low, high), optional
        Draws are clamped to it.
    optimize, per_sample : optional
        See `Attribution`.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit.

    References
    ----------
    Zintgraf, Cohen, Adel and Welling (2017), Visualizing deep neural network decisions: prediction
    difference analysis; Robnik-Šikonja and Kononenko (2008) for the corrected odds; book, section
    1.4.2. Unlike in the authors' program, all channels of a surrounding are given.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> data = torch.rand(50, 1, 8, 8)
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> pda = attr.PredictionDifference(net).fit(data)
    >>> pda.attribute(data[:2], 2, 4, strides=2, target=3, seed=0).shape
    torch.Size([2, 1, 8, 8])
    """

    listing = Listing("perturbation", "function", "windows * n_samples + 1", "1.4.2")

    def __init__(
        self,
        forward_func: Callable,
        reference: Tensor | None = None,
        measure: str = "weight_of_evidence",
        *,
        logits: bool = True,
        n_train: int | None = None,
        value_range: tuple[float, float] | None = None,
        optimize: bool | None = None,
        per_sample: tuple[bool, ...] | None = None,
    ) -> None:
        super().__init__(forward_func, optimize=optimize, per_sample=per_sample)
        name = type(self).__name__
        _check_options(name, measure, value_range)
        if n_train is not None:
            check_count(f"{name}: n_train", n_train, "Leave it out.")
        self.measure, self.logits, self.n_train = measure, logits, n_train
        self.value_range = value_range
        self.reference: Tensor | None = None
        if reference is not None:
            self.fit(reference)

    def fit(self, reference: Tensor) -> PredictionDifference:
        """Take reference images [M, C, ...]; return the explainer.

        Raises
        ------
        ValueError, TypeError
            If they are not at least two finite, floating images.
        """
        name = type(self).__name__
        if not isinstance(reference, Tensor) or not reference.is_floating_point():
            raise wrong_type(
                f"{name}: reference", "must be a floating tensor [M, C, ...]", describe(reference),
                "Pass training images, in the way the model sees them.",
            )  # fmt: skip
        if reference.dim() < 3 or len(reference) < 2 or not torch.isfinite(reference).all():
            raise wrong_value(
                f"{name}: reference", "must hold at least two finite images [M, C, ...]", reference,
                "Pass training images, in the way the model sees them.",
            )  # fmt: skip
        self.reference = reference.detach()
        return self

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        window: int | tuple[int, ...],
        surround: int | tuple[int, ...] | None = None,
        strides: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_samples: int = 10,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        internal_batch_size: int | str | None = "auto",
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Explain an output by patches that are drawn anew.

        Parameters
        ----------
        inputs : Tensor [N, C, H, W], floating; also [N, C, L] and [N, C, D, H, W]
        window : int or tuple of ints
            Size k of the patches along the positions; they cover all channels.
        surround : int or tuple of ints, optional
            Size l > k of the surrounding patch that the draws are conditioned on; None: draws are
            what reference images show at the place of the patch.
        strides : optional
            From patch to patch along the positions, as in `Occlusion.attribute`; default 1.
        target, additional_forward_args, perturbations_per_eval, show_progress,
        internal_batch_size : as in `FeatureAblation.attribute`.
        n_samples : int, default 10
            Draws for each patch.
        seed : int, optional
            The same seed gives the same draws, however they are batched.
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
        >>> data = torch.rand(20, 3, 6, 6)
        >>> pda = attr.PredictionDifference(lambda x: x.mean((1, 2, 3)), data, "score")
        >>> pda.attribute(data[:1], 2, strides="window", n_samples=4).shape
        torch.Size([1, 3, 6, 6])
        """
        name = type(self).__name__
        call = self._call(inputs, target, additional_forward_args, floating=False)
        x = check_images(name, call.inputs)
        grid = _grid(name, window, strides, x)
        around = None if surround is None else _around(name, surround, grid, x)
        reference = self._reference(name, x)
        check_count(f"{name}: n_samples", n_samples, "Leave it out.")
        trained_on = len(reference) if self.n_train is None else self.n_train
        size = perturbations_at_once(name, internal_batch_size, perturbations_per_eval, call.batch)
        number = seed_of(name, seed, generator)
        if call.empty:
            return call.nothing()
        patches = (
            Marginal(reference, grid, n_samples, number)
            if around is None
            else Conditional(reference, around, grid, n_samples, number)
        )
        change = probabilities if self.logits else checked_probabilities

        def explain(scorer: Scorer, block: slice) -> list[Tensor]:
            source = Replaced(patches, x[block], self.value_range)
            scores = scorer.evaluate(source.rows, source.count)
            without = scores.unflatten(0, (grid.count, n_samples)).mean(1)
            found = _differences(scorer, without, self.measure, trained_on)
            return as_captum(scorer, Windows([grid], (x[block],)).spread(found))

        with plain_mode():
            return explain_in_blocks(
                self._evaluator, call, grid.count * n_samples, size, explain, show=show_progress,
                change=None if self.measure == "score" else change,
            )  # fmt: skip

    def _reference(self, name: str, x: Tensor) -> Tensor:
        if self.reference is None:
            raise wrong_value(
                f"{name}: reference", "must be given before attribute", "None",
                "Pass training images to the constructor, or call fit.",
            )  # fmt: skip
        if self.reference.shape[1:] != x.shape[1:]:
            raise wrong_value(
                f"{name}: reference", f"must hold images of shape {list(x.shape[1:])} as inputs do",
                self.reference, "Resize one of them.",
            )  # fmt: skip
        return self.reference


def _differences(scorer: Scorer, without: Tensor, measure: str, trained_on: int) -> Tensor:
    """The difference that each window makes to the scores, [K, L]."""
    with_all = scorer.initial
    if measure != "weight_of_evidence":
        return with_all - without
    classes = scorer.output_shape[-1] if scorer.output_shape else 1
    a, b = (log_odds(p, trained_on, max(2, classes)) for p in (with_all, without))
    return a - b


def _grid(name: str, window: Any, strides: Any, x: Tensor) -> Grid:
    sizes = check_cells(f"{name}: window", window, x)
    each = tuple(strides) if isinstance(strides, (tuple, list)) else strides
    steps = (1, *each) if isinstance(each, tuple) else each
    (grid,) = check_windows(name, (x.shape[1], *sizes), steps, (x,))
    return grid


def _around(name: str, surround: Any, grid: Grid, x: Tensor) -> tuple[int, ...]:
    around = check_cells(f"{name}: surround", surround, x)
    if any(size <= w for size, w in zip(around, grid.window[1:], strict=True)):
        raise wrong_value(
            f"{name}: surround", f"must be larger than the window {list(grid.window[1:])}",
            describe(surround), "Zintgraf et al. take window=10 and surround=14 for photographs.",
        )  # fmt: skip
    return around


def _check_options(name: str, measure: Any, value_range: Any) -> None:
    if measure not in MEASURES:
        raise wrong_value(
            f"{name}: measure", f"must be one of {', '.join(MEASURES)}", describe(measure),
            "Leave it out.",
        )  # fmt: skip
    if value_range is None:
        return
    if not isinstance(value_range, (tuple, list)) or len(value_range) != 2:
        raise wrong_value(
            f"{name}: value_range", "must be (low, high)", describe(value_range), "Leave it out."
        )
    if not value_range[0] < value_range[1]:
        raise wrong_value(
            f"{name}: value_range", "must have low < high", describe(value_range), "Leave it out."
        )
