"""Occlusion: a window hides part of the input, and the output changes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...engine.arguments import plain_mode
from ...engine.baselines import check_baselines
from ...errors import describe, wrong_value
from ..base import PerturbationAttribution
from ..listing import Listing
from .incremental import describe_plan
from .mean_scores import STATS, as_captum, baselines_of, mean_scores
from .scoring import (
    Scorer,
    explain_in_blocks,
    perturbations_at_once,
    probabilities,
)
from .windows import Windows, check_windows


class Occlusion(PerturbationAttribution):
    """Occlusion: how the output changes when a window of the input is hidden.

    R_i = mean over the windows W that cover i of S(x) - S(x with x'_W in place of x_W)

    Parameters
    ----------
    forward_func : callable
        The model, or a function of the inputs.
    optimize, per_sample : optional
        See `Attribution`.

    References
    ----------
    Zeiler and Fergus (2014); book, sections 8.4.1, 9.4.3 and 22.2.1.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> occlusion = attr.Occlusion(lambda x: x.sum((1, 2)))
    >>> occlusion.attribute(torch.ones(1, 2, 5), (2, 2), strides="window")  # section 22.2.1
    tensor([[[4., 4., 4., 4., 2.],
             [4., 4., 4., 4., 2.]]])
    """

    listing = Listing("perturbation", "function", "windows + 1", "1.4.2, 9.4.3")

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        sliding_window_shapes: Any,
        strides: Any = None,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        stat: str = "difference",
        probability: bool = False,
        internal_batch_size: int | str | None = "auto",
    ) -> Any:
        """Explain an output by what it loses when windows of the input are hidden.

        Parameters
        ----------
        inputs : Tensor [N, ...] or tuple of them, of any dtype
        sliding_window_shapes : tuple of ints
            The window, one int for each dimension behind N; a tuple of such tuples for several
            inputs, which are occluded one after the other.
        strides : int or tuple of ints, optional
            From window to window, at most the window; default 1. "window": windows side by side,
            the patches of the book's section 22.2.1. The last one of a dimension is cut off at the
            border. One for each input in a tuple.
        baselines : optional
            What a window is replaced by, as in `FeatureAblation.attribute`.
        target, additional_forward_args, perturbations_per_eval, show_progress,
        internal_batch_size : as in `FeatureAblation.attribute`.
        stat : "difference" (default) or "score"
            Attribute S(x) - S(occluded), or S(occluded) itself.
        probability : bool, default False
            S is the probability: the softmax over the last dimension of the output.

        Returns
        -------
        Tensor or tuple of Tensor
            As `FeatureAblation.attribute`; floating.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit; before any work, but for the target.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 10))
        >>> occlusion = attr.Occlusion(net)
        >>> x = torch.rand(2, 3, 4, 4)
        >>> occlusion.attribute(x, (3, 2, 2), strides=(3, 1, 1), target=[4, 7]).shape
        torch.Size([2, 3, 4, 4])
        """
        name = type(self).__name__
        call = self._perturbed(inputs, target, additional_forward_args)
        grids = check_windows(name, sliding_window_shapes, strides, call.inputs)
        size = perturbations_at_once(name, internal_batch_size, perturbations_per_eval, call.batch)
        several = check_baselines(name, baselines, call.inputs)
        if stat not in STATS:
            raise wrong_value(
                f"{name}: stat",
                f"must be one of {', '.join(STATS)}",
                describe(stat),
                "Leave it out.",
            )
        if call.empty:
            return call.nothing()

        def explain(scorer: Scorer, block: slice) -> list[Tensor]:
            windows = Windows(grids, scorer.call.inputs)
            scores = mean_scores(scorer, windows, baselines_of(several, block))
            shown = scores if stat == "score" else scorer.initial - scores
            found = windows.spread(shown if shown.is_floating_point() else shown.float())
            return as_captum(scorer, found)

        count = len(several) * Windows(grids, call.inputs).count
        change = probabilities if probability else None
        with plain_mode():
            return explain_in_blocks(
                self._evaluator, call, count, size, explain, show=show_progress, change=change
            )

    def plan(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        sliding_window_shapes: Any,
        strides: Any = None,
        additional_forward_args: Any = None,
    ) -> str:
        """Describe how windows are evaluated: on whole inputs, or on boxes of the model's maps.

        Parameters
        ----------
        inputs, sliding_window_shapes, strides, additional_forward_args : as in `attribute`.

        Returns
        -------
        str
            Where boxes pay, one line per operation: its map, and the boxes that are recomputed.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> attr.Occlusion(lambda x: x.sum((1, 2))).plan(torch.ones(1, 2, 5), (2, 2))
        'The model is called as it is, on whole inputs.'
        """
        name = type(self).__name__
        call = self._perturbed(inputs, None, additional_forward_args)
        windows = Windows(
            check_windows(name, sliding_window_shapes, strides, call.inputs), call.inputs
        )
        with plain_mode():
            model = self._evaluator.model(call, windows.count * call.batch)
            return describe_plan(Scorer(call, model, "auto"), windows)
