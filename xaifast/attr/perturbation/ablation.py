"""Explainers that change a part of the input and look at the output (book, section 22.2.1).

    R_i = S(x) - S(x without i)

S(x) is evaluated once, as many changed inputs at once as `internal_batch_size` allows, and what
comes back, one number for each change and target, is spread over the input at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...engine.arguments import plain_mode
from ...engine.baselines import check_baselines
from ...engine.randomness import seed_of
from ...errors import wrong_value
from ..base import PerturbationAttribution
from ..listing import Listing
from .features import Features, check_features
from .mean_scores import as_captum, baselines_of, check_shared, mean_scores
from .scoring import (
    Scorer,
    explain_in_blocks,
    perturbations_at_once,
)
from .segments import Permute, Permuting, Segments
from .windows import Windows, each_element


class FeatureAblation(PerturbationAttribution):
    """Feature ablation: how the output changes when one feature is replaced by a baseline.

    R_i = S(x) - S(x with x'_i in place of x_i)

    Parameters
    ----------
    forward_func : callable
        The model, or a function of the inputs. It returns a row for each sample, or a number or
        a tensor for the whole batch (an error, say).
    optimize, per_sample : optional
        See `Attribution`.

    References
    ----------
    Book, sections 9.4.3 and 22.2.1; for a linear model R_i = w_i (x_i - x'_i).

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> ablation = attr.FeatureAblation(lambda x: x[:, 0] * x[:, 1] + x[:, 2])
    >>> ablation.attribute(torch.tensor([[2.0, 3.0, 4.0]]))
    tensor([[6., 6., 4.]])
    """

    listing = Listing("perturbation", "function", "features + 1", "9.4.3")

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
        """Explain an output by what it loses without each feature.

        Parameters
        ----------
        inputs : Tensor [N, ...] or tuple of them, of any dtype
            N may differ between them if the model returns one value for the whole batch.
        baselines : optional
            x': None (zero), a number, "blur", a tensor like the input or like one sample; a tuple
            with one for each input; a list of several, over which attributions are averaged.
        target, additional_forward_args : as in `Saliency.attribute`; without a target all outputs
            are explained.
        feature_mask : optional
            Integers, of the input's shape or broadcast to it: elements with the same number, in
            whichever input, are one feature; or "slic", "quickshift" (superpixels). None: each
            element is a feature.
        perturbations_per_eval : int, optional
            Features at once, N rows each; in place of internal_batch_size.
        show_progress : bool, default False
            A progress bar.
        internal_batch_size : int or "auto" (default)
            Rows at once; "auto" fits the memory that is free.

        Returns
        -------
        Tensor or tuple of Tensor
            Like the inputs, in the dtype of the output; [N x outputs, ...] without a target for
            outputs [N, outputs], [targets, N, ...] for several targets per input, and with as many
            rows as there are values where these are for the whole batch.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> ablation = attr.FeatureAblation(torch.nn.Conv2d(3, 2, 8))
        >>> segments = torch.arange(4).view(2, 2).repeat_interleave(4, 0).repeat_interleave(4, 1)
        >>> ablation.attribute(
        ...     torch.rand(1, 3, 8, 8), target=(1, 0, 0), feature_mask=segments).unique().numel()
        4
        """
        name = type(self).__name__
        call = self._perturbed(inputs, target, additional_forward_args)
        size = perturbations_at_once(name, internal_batch_size, perturbations_per_eval, call.batch)
        several = check_baselines(name, baselines, call.inputs)
        features = None if feature_mask is None else check_features(name, feature_mask, call.inputs)
        if call.empty:
            return call.nothing()

        def explain(scorer: Scorer, block: slice) -> list[Tensor]:
            source = _source(scorer, features, block)
            scores = mean_scores(scorer, source, baselines_of(several, block))
            found = source.spread(scorer.initial - scores, scorer.sample_of())
            return as_captum(scorer, found)

        count = Windows(each_element(call.inputs), call.inputs).count
        count = len(several) * (features.count if features else count)
        with plain_mode():
            return explain_in_blocks(
                self._evaluator, call, count, size, explain, show=show_progress
            )


def _source(scorer: Scorer, features: Features | None, block: slice) -> Windows | Segments:
    """The features of a block; elements are windows of one element."""
    inputs = scorer.call.inputs
    if features is None:
        return Windows(each_element(inputs), inputs)
    check_shared(scorer, features)
    return Segments(features.rows(block), inputs)


class FeaturePermutation(PerturbationAttribution):
    """Permutation importance: how the output changes when a feature is shuffled in the batch.

    R_i = S(x) - S(x with x_i of other samples)

    The features of one group are shuffled together, by one permutation that is not the identity.

    Parameters
    ----------
    forward_func : callable
        The model, or a function of the inputs; for the importance in the usual sense one that
        returns the error of the batch.
    perm_func : callable, optional
        Shuffles one feature: takes an input [N, ...] and the mask of the feature, a bool tensor
        that broadcasts against it, and returns the changed input.
    optimize, per_sample : optional
        See `Attribution`.

    References
    ----------
    Breiman (2001), Random forests, Machine Learning 45; Fisher, Rudin and Dominici (2019).

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> permutation = attr.FeaturePermutation(lambda x: 2 * x[:, 0])
    >>> permutation.attribute(torch.tensor([[1.0, 5.0], [4.0, 6.0]]))
    tensor([[-6.,  0.],
            [ 6.,  0.]])
    """

    listing = Listing("perturbation", "function", "features + 1", "9.4.3")

    def __init__(
        self,
        forward_func: Callable,
        perm_func: Permute | None = None,
        *,
        optimize: bool | None = None,
        per_sample: tuple[bool, ...] | None = None,
    ) -> None:
        super().__init__(forward_func, optimize=optimize, per_sample=per_sample)
        self.perm_func = perm_func

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        internal_batch_size: int | str | None = "auto",
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Explain an output by what it loses when each feature is shuffled.

        Parameters
        ----------
        inputs : Tensor [N, ...] or tuple of them, N at least 2
        target, additional_forward_args, feature_mask, perturbations_per_eval, show_progress,
        internal_batch_size : as in `FeatureAblation.attribute`.
        seed : int, optional
            The same seed gives the same permutations, however they are batched.
        generator : torch.Generator, optional
            From which a seed is drawn; by default from PyTorch's own.

        Returns
        -------
        Tensor or tuple of Tensor
            As `FeatureAblation.attribute`.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit, or there is only one sample.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> x, y = torch.randn(50, 3), torch.randn(50)
        >>> error = lambda x: ((x.sum(1) - y) ** 2).mean()
        >>> attr.FeaturePermutation(error).attribute(x, seed=0).shape
        torch.Size([1, 3])
        """
        name = type(self).__name__
        call = self._perturbed(inputs, target, additional_forward_args)
        size = perturbations_at_once(name, internal_batch_size, perturbations_per_eval, call.batch)
        features = check_features(name, feature_mask, call.inputs)
        number = seed_of(name, seed, generator)
        if call.empty:
            return call.nothing()
        if any(len(x) == 1 for x in call.inputs):
            raise wrong_value(
                f"{name}: inputs", "must have at least two samples, to be permuted among them", "1",
                "Give more samples, or take FeatureAblation.",
            )  # fmt: skip
        permuting = Permuting(name, Segments(features, call.inputs), self.perm_func, number)

        def explain(scorer: Scorer, block: slice) -> list[Tensor]:
            check_shared(scorer, features)
            scores = scorer.evaluate(lambda part: permuting.rows(part, block), features.count)
            segments = Segments(features.rows(block), scorer.call.inputs)
            found = segments.spread(scorer.initial - scores, scorer.sample_of())
            return as_captum(scorer, found)

        with plain_mode():
            return explain_in_blocks(
                self._evaluator, call, features.count, size, explain, show=show_progress
            )
