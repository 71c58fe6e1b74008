"""Surrogates: a linear model of the score in which features are on, whose coefficients explain.

    min over c, c0 of  sum_s weight_s (S(x_s) - z_s c - c0)^2 + penalty(c)

z_s says which features of x_s are as in the input x; the others are as in a baseline x'. LIME and
KernelSHAP differ in how z is drawn, in the weights and in the penalty (book, section 1.4.1).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...engine.arguments import Call, as_tuple, plain_mode
from ...engine.baselines import check_baselines
from ...engine.batching import rows_of
from ...engine.randomness import seed_of
from ...errors import describe, wrong_type, wrong_value
from ..base import PerturbationAttribution
from ..listing import Listing
from ..perturbation.features import Features, check_features, superpixels
from ..perturbation.fills import fill_means
from ..perturbation.scoring import Scorer, explain_in_blocks, perturbations_at_once
from .coalitions import (
    AfterOnes,
    ShapleyShares,
    Uniform,
    ask_coalitions,
    draw_coalitions,
    flat,
    players_of,
)
from .fitting import Task, arguments_of
from .lime_base import (
    LimeBase,
    as_coefficients,
    check_one_score,
    check_samples,
)
from .regressors import Lasso, LinearRegression, Ridge, check_regressor
from .similarity import (
    ExponentialKernel,
    Kernel,
    ShapleyKernel,
    check_kernel,
)

# Beyond this many features a surrogate is slow, and no number of samples tells them apart.
MANY_FEATURES = 10000


class Lime(LimeBase):
    """LIME: the score of an input as a sparse linear function of which features are on.

    min over c, c0 of  sum_s w_s (S(x_s) - z_s c - c0)^2 / (2 n) + alpha |c|_1,
    w_s ~ exp(-d(x, x_s)^2 / (2 width^2)),   z_s uniform in {0, 1}^M

    by default with alpha = 0.01, d the cosine distance of the flattened inputs and width 1
    (captum's). A batch gets a surrogate for each sample, evaluated and fitted together. Each
    distinct coalition of features is evaluated once; where n_samples >= 2^M all are, alike, and the
    result is that of infinitely many samples.

    Parameters
    ----------
    forward_func : callable
        The model, or a function of the inputs: one row for each sample, or one value for the batch.
    interpretable_model : optional
        The surrogate: None for `Lasso(alpha=0.01)`; `Lasso`, `Ridge`, `LinearRegression`; a
        scikit-learn regressor; an object with fit(dataloader) and representation(), such as
        captum's models. What stands for one of ours is solved natively, and left as if fitted.
    similarity_func : optional
        None for `ExponentialKernel()`; or a function (original_input, perturbed_input,
        interpretable_input, **kwargs) -> number, called for one perturbed input at a time.
    perturb_func : optional
        None: features are on with probability 1/2. A function (original_input, **kwargs) that
        returns [1, M], or a generator of these. kwargs of both functions: baselines, feature_mask
        (numbers 0, 1, ... of the sample's own features), num_interp_features (M).
    optimize, per_sample : optional
        See `Attribution`.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit.

    References
    ----------
    Ribeiro et al. 2016; book, sections 1.4.1 and 22.2.1 (`LimeImage` is the listing there).

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    >>> squares = torch.tensor([[0, 0, 1, 1]] * 2 + [[2, 2, 3, 3]] * 2)
    >>> x = torch.rand(5, 1, 4, 4)
    >>> lime = attr.Lime(net)
    >>> lime.attribute(x, target=1, feature_mask=squares, n_samples=200, seed=0).shape
    torch.Size([5, 1, 4, 4])
    """

    listing = Listing("surrogate", "function", "n_samples + 1", "1.4.1, 22.2.1")

    _source = Uniform()
    _fewest = 1

    def __init__(
        self,
        forward_func: Callable,
        interpretable_model: Any = None,
        similarity_func: Callable | Kernel | None = None,
        perturb_func: Callable | None = None,
        *,
        optimize: bool | None = None,
        per_sample: tuple[bool, ...] | None = None,
    ) -> None:
        PerturbationAttribution.__init__(
            self, forward_func, optimize=optimize, per_sample=per_sample
        )
        name = type(self).__name__
        model = Lasso(0.01) if interpretable_model is None else interpretable_model
        kernel = ExponentialKernel() if similarity_func is None else similarity_func
        if perturb_func is not None and not callable(perturb_func):
            raise wrong_type(
                f"{name}: perturb_func", "must be a function", describe(perturb_func),
                "Leave it out to switch features on with probability 1/2.",
            )  # fmt: skip
        self.interpretable_model, self.similarity_func = model, kernel
        self.perturb_func = perturb_func  # type: ignore[assignment]
        self.perturb_interpretable_space = True
        self.from_interp_rep_transform = self.to_interp_rep_transform = None
        check_regressor(name, model)
        check_kernel(name, kernel)

    def attribute(  # type: ignore[override]
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int = 25,
        perturbations_per_eval: int | None = None,
        return_input_shape: bool = True,
        show_progress: bool = False,
        *,
        internal_batch_size: int | str = "auto",
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Explain an output by a surrogate around each sample.

        Parameters
        ----------
        inputs : Tensor [N, ...] or tuple of them, of any dtype
        baselines : optional
            x': None (zero), a number, "blur", "mean" (the mean of each segment, channel by
            channel), a tensor like the input or like one sample; a tuple with one for each input; a
            list of several, over which coefficients are averaged.
        target, additional_forward_args : as in `Saliency.attribute`.
        feature_mask : optional
            Which feature each element belongs to: integers without gaps that broadcast against the
            input, shared by the batch or for each sample, where features may run through several
            inputs; "slic" or "quickshift"; None: each element.
        n_samples : int, default 25
            How many coalitions are drawn.
        perturbations_per_eval : int, optional
            How many perturbed copies of the batch are evaluated at once; None: as many as fit. At
            most 1 for a model that returns one value for the whole batch.
        return_input_shape : bool, default True
            False: coefficients by feature; 0 for features that a sample does not have.
        show_progress : bool, default False
            A progress bar.
        internal_batch_size : int or "auto" (default)
            The same as perturbations_per_eval, in rows; "auto" fits the memory that is free.
        seed, generator : optional
            Where the coalitions come from: an int, or a torch.Generator; neither: PyTorch's global
            generator.

        Returns
        -------
        Tensor or tuple of Tensor
            Like the inputs (integers and bools: floating), each element with the coefficient of its
            feature; with return_input_shape=False [N, M]; a leading axis of targets for several
            per input. For one value of the whole batch N = 1, but N for a mask for each sample.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> shap = attr.KernelShap(lambda x: x @ torch.tensor([1.0, 2.0, -3.0]))
        >>> x, x0 = torch.ones(1, 3), torch.tensor([0.0, 0.5, 0.0])
        >>> shap.attribute(x, x0, n_samples=50, seed=0).round(decimals=4)
        tensor([[ 1.,  1., -3.]])
        """
        name = type(self).__name__
        n_samples = check_samples(name, n_samples, self._fewest)
        call = self._call(inputs, target, additional_forward_args, floating=False)
        size = perturbations_at_once(name, internal_batch_size, perturbations_per_eval, call.batch)
        features = check_features(name, feature_mask, call.inputs, gaps=False)
        filled = fill_means(name, baselines, call.inputs, feature_mask, features)
        several = check_baselines(name, filled, call.inputs)
        draws = self._draws(features.count, n_samples) or (seed, generator) != (None, None)
        seed = seed_of(name, seed, generator) if draws else 0
        warn_of_many(name, features.count, n_samples)
        if not call.batch or not features.count:
            coefficients = torch.zeros(
                call.batch, features.count, dtype=torch.float32, device="cpu"
            )
            return self._result(call, features.labels, coefficients, return_input_shape)

        def explain(scorer: Scorer, rows: slice) -> list[Tensor]:
            own = [tuple(rows_of(b, rows) for b in baseline) for baseline in several]
            task = self._task(scorer, features.rows(rows), own, n_samples, seed)
            found = torch.stack([task.coefficients(baseline) for baseline in own]).mean(0)
            return [found.view(*scorer.shape, features.count)]

        count = n_samples * len(several)
        with plain_mode(), torch.no_grad():
            found = explain_in_blocks(
                self._evaluator, call, count, size, explain, alone=True, show=show_progress
            )
        return self._result(call, features.labels, as_tuple(found)[0], return_input_shape)

    def _draws(self, features: int, n_samples: int) -> bool:
        """Whether something is drawn here; if not, PyTorch's generator stays where it is."""
        exact = check_regressor(type(self).__name__, self.interpretable_model).merges
        enumerated = exact and self._source.enumerates(features, n_samples)
        return self.perturb_func is None and not enumerated

    def _task(
        self, scorer: Scorer, features: Features, several: list, n_samples: int, seed: int
    ) -> Task:
        """The fit of a call, with its coalitions."""
        call = scorer.call
        check_one_score(call, scorer)
        regressor = check_regressor(call.who, self.interpretable_model)
        kernel = check_kernel(call.who, self.similarity_func)
        players = players_of(features, call.batch, scorer.whole)
        if self.perturb_func is None:
            exact = regressor.merges
            coalitions = draw_coalitions(players, n_samples, self._source, seed, exact)
        else:
            units = range(len(players.counts))
            told = [arguments_of(call, players, u, several[0]) for u in units]
            coalitions = ask_coalitions(call.who, players, n_samples, self.perturb_func, told)
        return Task(call, scorer, players, coalitions, kernel, regressor)

    def _result(
        self, call: Call, labels: tuple[Tensor, ...], coefficients: Tensor, like_inputs: bool
    ) -> Any:
        """Coefficients [..., N, M] as they go out."""
        if not like_inputs:
            return as_coefficients(call, coefficients)
        pairs = zip(call.inputs, labels, strict=True)
        return call.result(by_element(coefficients, m, x) for x, m in pairs)


def warn_of_many(who: str, features: int, n_samples: int) -> None:
    """Warn of a mask (or none) with too many features."""
    if features > MANY_FEATURES:
        warnings.warn(
            f"{who} has {features} features, and {n_samples} samples will not tell them apart. "
            "Group them by feature_mask.",
            stacklevel=3,
        )


def by_element(coefficients: Tensor, labels: Tensor, x: Tensor) -> Tensor:
    """Coefficients [..., N, M] at the elements of an input, [..., N, ...], in its dtype."""
    given = coefficients.to(x.dtype if x.is_floating_point() else torch.float32).to(x.device)
    lead, rows = given.shape[:-2], given.shape[-2] if len(labels) == 1 else len(labels)
    at = flat(labels).expand(*lead, rows, -1)
    own = given.expand(*lead, rows, -1).gather(-1, at).view(*lead, rows, *labels.shape[1:])
    return own.expand(*lead, rows, *x.shape[1:]).contiguous()


class KernelShap(Lime):
    """KernelSHAP: Shapley values as the coefficients of a weighted linear regression.

    phi = argmin over c, c0 of  sum_s weight_s (S(x_s) - z_s c - c0)^2

    z: all features, none, then coalitions of k features with probability ~ (M - 1) / (k (M - k)),
    all of one size alike: their share of the Shapley kernel, so that their weight is 1; each is
    followed by its complement, which has the same share. All and none weigh 1e6, and so the
    coefficients sum to S(x) - S(x') but for about a part in a million. Each distinct coalition is
    evaluated once; where n_samples >= 2^M all are, with the weights of the Shapley kernel, and the
    coefficients are the Shapley values.

    Parameters
    ----------
    forward_func : callable
        The model, or a function of the inputs: one row for each sample, or one value for the batch.
    optimize, per_sample : optional
        See `Attribution`.

    References
    ----------
    Lundberg and Lee 2017, theorem 2; complements: Covert and Lee 2021. captum has the same weights
    and sizes, but draws for the features of the whole batch also where a sample has fewer.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> shap = attr.KernelShap(lambda x: x[:, 0] * x[:, 1] + x[:, 2])
    >>> shap.attribute(torch.tensor([[2.0, 3.0, 4.0]]), n_samples=100, seed=0).round(decimals=2)
    tensor([[3., 3., 4.]])
    """

    listing = Listing("surrogate", "function", "n_samples", "1.4.1")

    _source = ShapleyShares()
    _fewest = 2

    def __init__(
        self,
        forward_func: Callable,
        *,
        optimize: bool | None = None,
        per_sample: tuple[bool, ...] | None = None,
    ) -> None:
        super().__init__(
            forward_func, LinearRegression(), ShapleyKernel(), optimize=optimize,
            per_sample=per_sample,
        )  # fmt: skip


# ---- the book's listing ------------------------------------------------------------------------


class LimeImage(Lime):
    """LIME for images, as the book lists it and the `lime` package has it.

    min over c, c0 of  sum_s weight_s (S(x_s) - z_s c - c0)^2 + |c|^2,
    weight_s = sqrt(exp(-d_s^2 / 0.25^2)),   d_s = 1 - <1, z_s> / (|1| |z_s|)

    Features are the quickshift segments of the image before preprocessing (kernel_size 4, max_dist
    200, ratio 0.2); the first coalition has all of them, in the others each is on with probability
    1/2; segments that are off are 0.

    Parameters
    ----------
    forward_func : callable
        The model, or a function of the inputs.
    images : callable, optional
        Takes the inputs back to the images before preprocessing, [N, C, H, W], uint8 or floating
        in [0, 1], for the segments; None: the inputs, scaled to [0, 1].
    optimize, per_sample : optional
        See `Attribution`.

    References
    ----------
    Ribeiro et al. 2016; book, section 22.2.1, the listing of LIME.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 2))
    >>> quarters = torch.arange(4).view(2, 2).repeat_interleave(4, 0).repeat_interleave(4, 1)
    >>> lime = attr.LimeImage(net)
    >>> lime.attribute(torch.rand(1, 3, 8, 8), target=1, feature_mask=quarters).shape
    torch.Size([1, 3, 8, 8])
    """

    listing = Listing("surrogate", "function", "n_samples", "22.2.1")

    _source = AfterOnes()

    def __init__(
        self,
        forward_func: Callable,
        images: Callable[[Tensor], Tensor] | None = None,
        *,
        optimize: bool | None = None,
        per_sample: tuple[bool, ...] | None = None,
    ) -> None:
        kernel = ExponentialKernel("cosine", 0.25, space="features")
        super().__init__(forward_func, Ridge(1.0), kernel, optimize=optimize, per_sample=per_sample)
        if images is not None and not callable(images):
            raise wrong_type(
                "LimeImage: images", "must be a function of the inputs", describe(images),
                "For example images=lambda x: x * std + mean.",
            )  # fmt: skip
        self.images = images

    def attribute(  # type: ignore[override]
        self,
        inputs: Tensor,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int = 1000,
        perturbations_per_eval: int | None = None,
        return_input_shape: bool = True,
        show_progress: bool = False,
        *,
        internal_batch_size: int | str = "auto",
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Explain an output for images.

        Parameters
        ----------
        inputs : Tensor [N, C, H, W]
            The preprocessed images.
        feature_mask : optional
            As in `Lime.attribute`, in place of quickshift segments.
        n_samples : int, default 1000
            How many coalitions are drawn.
        baselines, target, additional_forward_args, perturbations_per_eval, return_input_shape, \
        show_progress, internal_batch_size, seed, generator : as in `Lime.attribute`.

        Returns
        -------
        Tensor [N, C, H, W]
            Each pixel with the coefficient of its segment; otherwise as in `Lime.attribute`.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit.
        ImportError
            Without scikit-image, if segments are to be found.

        Examples
        --------
        See the class.
        """
        if feature_mask is None:
            known = self.images is None
            feature_mask = "quickshift" if known else _segments_of(self.images(inputs))  # type: ignore[misc]
        return super().attribute(
            inputs, baselines, target, additional_forward_args, feature_mask, n_samples,
            perturbations_per_eval, return_input_shape, show_progress,
            internal_batch_size=internal_batch_size, seed=seed, generator=generator,
        )  # fmt: skip


def _segments_of(images: Any) -> Tensor:
    """Quickshift segments of images before preprocessing, [N, 1, H, W]."""
    do = "Give the images before preprocessing, uint8 or floating in [0, 1]."
    if not isinstance(images, Tensor) or images.dim() != 4:
        raise wrong_type("LimeImage: images", "must be [N, C, H, W]", describe(images), do)
    colours = images.detach().double() / (255 if images.dtype == torch.uint8 else 1)
    if not bool(((colours >= 0) & (colours <= 1)).all()):
        low, high = float(images.min()), float(images.max())
        raise wrong_value(
            "LimeImage: images", "must lie in [0, 1]", f"values from {low:g} to {high:g}", do
        )
    return superpixels("LimeImage", "quickshift", colours)
