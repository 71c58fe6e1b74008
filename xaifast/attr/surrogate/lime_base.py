"""LimeBase: a surrogate of samples that functions of the user draw, map and weigh."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ...engine.arguments import Call, check_count, make_call, plain_mode
from ...engine.evaluation import Model, rows_at_once
from ...errors import ModelError, describe, wrong_type, wrong_value
from ..base import PerturbationAttribution, progress_bar
from ..perturbation.scoring import Scorer, perturbations_at_once
from .coalitions import samples_of, too_few
from .fitting import check_weights, similarity
from .regressors import check_regressor
from .similarity import check_kernel


def check_samples(who: str, n_samples: Any, fewest: int) -> int:
    """Return the number of samples, if a surrogate can be fitted to as many."""
    count = check_count(f"{who}: n_samples", n_samples, "Try 200.")
    if count < fewest:
        raise wrong_value(f"{who}: n_samples", f"must be at least {fewest}", count, "Try 200.")
    return count


def as_coefficients(call: Call, coefficients: Tensor) -> Tensor:
    """Coefficients by feature as they go out: float32, or float64 for such inputs."""
    wide = any(x.dtype == torch.float64 for x in call.inputs)
    return coefficients.to(call.inputs[0].device, torch.float64 if wide else torch.float32)


def check_one_score(call: Call, scorer: Scorer) -> None:
    """Refuse a model that gives neither one score for each sample nor one for the batch."""
    if not scorer.whole:
        if call.target is None:
            call.selection(scorer.output_shape)
        return
    if scorer.shape[-1] != 1 or (call.target is None and math.prod(scorer.shape) != 1):
        raise ModelError(
            f"{call.who} needs a model that returns one row for each sample, or one value for the "
            f"whole batch; for {call.batch} samples it returned values of shape "
            f"{list(scorer.shape)}. Keep the batch first."
        )


class LimeBase(PerturbationAttribution):
    """A surrogate that is fitted to samples which functions of the user draw, map and weigh.

    Parameters
    ----------
    forward_func : callable
        The model, or a function of the inputs; it returns one value for the inputs.
    interpretable_model : object
        What is fitted: `Lasso`, `Ridge` or `LinearRegression` of this package, a scikit-learn
        regressor, or an object with fit(dataloader) and representation(), such as captum's models.
    similarity_func : callable
        (original_input, perturbed_input, interpretable_input, **kwargs) -> the weight, a number; or
        an `ExponentialKernel`.
    perturb_func : callable
        (original_input, **kwargs) -> one sample, or a generator of samples.
    perturb_interpretable_space : bool
        Whether it gives interpretable representations [1, M] rather than inputs.
    from_interp_rep_transform : callable or None
        (sample, original_input, **kwargs) -> inputs; needed if it does.
    to_interp_rep_transform : callable or None
        (sample, original_input, **kwargs) -> representation [1, M]; needed if it does not.
    optimize : bool, default False
        See `Attribution`; True only if perturbed inputs have the shapes of the inputs.
    per_sample : optional
        See `Attribution`.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit, or the transform is missing.

    References
    ----------
    Ribeiro et al. 2016; book, section 1.4.1. The interface is captum's.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> lime = attr.LimeBase(
    ...     torch.nn.Linear(3, 2),
    ...     attr.Ridge(),
    ...     attr.ExponentialKernel("euclidean"),
    ...     lambda x: x + torch.randn_like(x),
    ...     False,
    ...     None,
    ...     lambda sample, x: sample,
    ... )
    >>> lime.attribute(torch.ones(1, 3), target=1).shape
    torch.Size([1, 3])
    """

    def __init__(
        self,
        forward_func: Callable,
        interpretable_model: Any,
        similarity_func: Callable,
        perturb_func: Callable,
        perturb_interpretable_space: bool,
        from_interp_rep_transform: Callable | None,
        to_interp_rep_transform: Callable | None,
        *,
        optimize: bool | None = False,
        per_sample: tuple[bool, ...] | None = None,
    ) -> None:
        super().__init__(forward_func, optimize=optimize, per_sample=per_sample)
        name = type(self).__name__
        self.interpretable_model = interpretable_model
        self.similarity_func: Any = similarity_func
        self.perturb_func = perturb_func
        self.perturb_interpretable_space = perturb_interpretable_space
        self.from_interp_rep_transform = from_interp_rep_transform
        self.to_interp_rep_transform = to_interp_rep_transform
        check_regressor(name, interpretable_model)
        check_kernel(name, similarity_func)
        direction = "from" if perturb_interpretable_space else "to"
        functions = {
            "perturb_func": perturb_func,
            f"{direction}_interp_rep_transform": getattr(self, f"{direction}_interp_rep_transform"),
        }
        for key, function in functions.items():
            if not callable(function):
                raise wrong_type(
                    f"{name}: {key}", "must be a function", describe(function),
                    "With perturb_interpretable_space=True from_interp_rep_transform is needed, "
                    "else to_interp_rep_transform.",
                )  # fmt: skip

    @property
    def multiplies_by_inputs(self) -> bool:
        """Coefficients belong to the interpretable representation."""
        return False

    def attribute_future(self, *args: Any, **kwargs: Any) -> Any:
        """Not there, as in captum."""
        raise NotImplementedError(
            f"{type(self).__name__}.attribute_future is not implemented; call attribute."
        )

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        n_samples: int = 50,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        internal_batch_size: int | str = "auto",
        **kwargs: Any,
    ) -> Any:
        """Fit the surrogate around one input, and return what it is told by.

        Parameters
        ----------
        inputs : Tensor [1, ...] or tuple of them
            A batch of several only for a model that returns one value for all of it.
        target, additional_forward_args : as in `Saliency.attribute`; one target.
        n_samples : int, default 50
            How many samples are drawn and evaluated.
        perturbations_per_eval : int, optional
            How many of them are evaluated at once; None: as many as fit. Samples of different
            shapes are not evaluated together.
        show_progress : bool, default False
            A progress bar.
        internal_batch_size : int or "auto" (default)
            The same as perturbations_per_eval, in rows.
        **kwargs
            Handed on to all functions.

        Returns
        -------
        object
            For our models and scikit-learn's the coefficients [1, M]; else what representation()
            returns.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit.

        Examples
        --------
        See the class.
        """
        name = type(self).__name__
        n_samples = check_samples(name, n_samples, 1)
        call = make_call(name, self.forward_func, inputs, target, additional_forward_args, False)
        size = perturbations_at_once(name, internal_batch_size, perturbations_per_eval, call.batch)
        regressor = check_regressor(name, self.interpretable_model)
        with plain_mode(), torch.no_grad():
            model = self._evaluator.model(call, call.batch * n_samples)
            scorer = Scorer(call, model, size)
            self._check_one_value(call, scorer)
            Z, y, weight = self._draw_and_score(scorer, model, n_samples, show_progress, kwargs)
            found = regressor.representation(Z[None], y[None], weight[None])
        return found if regressor.speaks else as_coefficients(call, found)

    def _check_one_value(self, call: Call, scorer: Scorer) -> None:
        check_one_score(call, scorer)
        if len(scorer.initial) != 1:
            raise wrong_value(
                f"{call.who}: inputs", "must be one sample, with one target",
                f"{len(scorer.initial)} scores", "Call it for each, or take Lime.",
            )  # fmt: skip

    def _draw_and_score(
        self, scorer: Scorer, model: Model, count: int, show: bool, options: dict
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Representations [S, M], scores [S] and similarities [S], float64, of drawn samples."""
        call = scorer.call
        drawn = self._samples(call, options)
        rows = rows_at_once(model, scorer.size, count * call.batch)
        at_once = max(1, rows // max(1, call.batch)) if scorer.apart else 1
        parts: list[tuple[Tensor, ...]] = []
        left = count
        with progress_bar(count, self.get_name(), show) as bar:
            while left:
                block = [s for _, s in zip(range(min(at_once, left)), drawn, strict=False)]
                if not block:
                    too_few(call.who, count - left, count)
                    break
                left -= len(block)
                parts.append(self._score(scorer, block, options))
                bar.update(len(block))
        Z, y, weight = (torch.cat(p) for p in zip(*parts, strict=True))
        check_weights(call.who, weight.unsqueeze(0))
        return Z, y, weight

    def _samples(self, call: Call, options: dict) -> Iterator[tuple[Any, Any]]:
        """Samples as (interpretable representation, inputs)."""
        original = call.as_given(call.inputs)
        for sample in samples_of(self.perturb_func, original, options):
            if self.perturb_interpretable_space:
                yield sample, self.from_interp_rep_transform(sample, original, **options)  # type: ignore[misc]
            else:
                yield self.to_interp_rep_transform(sample, original, **options), sample  # type: ignore[misc]

    def _score(self, scorer: Scorer, block: list, options: dict) -> tuple[Tensor, Tensor, Tensor]:
        """Representations, scores and similarities of some samples."""
        call = scorer.call
        original = call.as_given(call.inputs)
        weight = [
            similarity(call.who, self.similarity_func(original, rows, z, **options))
            for z, rows in block
        ]
        perturbed = [rows if isinstance(rows, tuple) else (rows,) for _, rows in block]
        y = []
        for run in _runs_of_equal_shapes(perturbed):
            joined = [torch.cat(parts) for parts in zip(*run, strict=True)]

            def part(p: slice, joined: list = joined) -> tuple[Tensor, ...]:
                return tuple(x[p.start * call.batch : p.stop * call.batch] for x in joined)

            y.append(scorer.evaluate(part, len(run))[:, 0].to("cpu", torch.float64))
        Z = torch.cat([z.detach().reshape(1, -1).to("cpu", torch.float64) for z, _ in block])
        return Z, torch.cat(y), torch.tensor(weight, dtype=torch.float64, device="cpu")


def _runs_of_equal_shapes(samples: list[tuple[Tensor, ...]]) -> Iterator[list[tuple[Tensor, ...]]]:
    """Neighbours whose tensors have the same shapes."""
    run: list[tuple[Tensor, ...]] = []
    for sample in samples:
        if run and [x.shape for x in run[-1]] != [x.shape for x in sample]:
            yield run
            run = []
        run.append(sample)
    if run:
        yield run
