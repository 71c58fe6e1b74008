"""Expected gradients: integrated gradients, averaged over baselines by sampling (GradientShap)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ... import ops
from ...engine.arguments import Call, check_count, plain_mode
from ...engine.baselines import check_distribution
from ...engine.batching import check_batch_size, run_in_batches
from ...engine.evaluation import (
    Model,
    check_gradients,
    check_undivided,
    gradients_of,
    row_sums,
    rows_at_once,
    sums_dtype,
)
from ...engine.randomness import check_stdevs, generator_of, noisy, seeds_for
from ..base import GradientAttribution, progress_bar
from ..listing import Listing
from .integrated_gradients import gap_of


class GradientShap(GradientAttribution):
    """Expected gradients, an approximation of Shapley values.

    R_i = E_{x', alpha, e} [ (x_i + e_i - x'_i) dS(x' + alpha (x + e - x')) / dx_i ]

    x' a random row of the baselines, alpha uniform in [0, 1] (stratified), e normal noise; drawn
    anew for each sample.

    Parameters
    ----------
    forward_func : callable
        The model, or a function of the inputs.
    multiply_by_inputs : bool, default True
        False: the averaged gradient alone.
    optimize, per_sample : optional
        See `Attribution`.

    References
    ----------
    Lundberg and Lee 2017; Erion et al. 2021; book, section 9.3.2 for the path.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> shap = attr.GradientShap(torch.nn.Linear(3, 2))
    >>> shap.attribute(torch.ones(4, 3), torch.zeros(2, 3), target=1, seed=0).shape
    torch.Size([4, 3])
    """

    listing = Listing("path", "gradient", "2 * n_samples", "9.3.2")

    def __init__(
        self,
        forward_func: Callable,
        multiply_by_inputs: bool = True,
        *,
        optimize: bool | None = None,
        per_sample: tuple[bool, ...] | None = None,
    ) -> None:
        super().__init__(forward_func, optimize=optimize, per_sample=per_sample)
        self._multiply_by_inputs = multiply_by_inputs

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether attributions are in the units of the output."""
        return self._multiply_by_inputs

    def has_convergence_delta(self) -> bool:
        """Yes: the gap of each draw."""
        return True

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: Any,
        n_samples: int = 5,
        stdevs: float | tuple[float, ...] = 0.0,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        *,
        internal_batch_size: int | str = "auto",
        show_progress: bool = False,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Explain an output by gradients between samples and baselines.

        Parameters
        ----------
        inputs : Tensor [N, ...] or tuple of them, floating
        baselines : Tensor [B, ...], tuple of them, or function of the inputs that returns them
            The distribution of baselines.
        n_samples : int, default 5
            Draws for each sample.
        stdevs : float or tuple, default 0.0
            Standard deviation of the noise; one for each input.
        target, additional_forward_args, internal_batch_size : as in `Saliency.attribute`.
        return_convergence_delta : bool, default False
            Also return the gap of each draw, sum R_i - (S(x + e) - S(x')), [N n_samples], sample by
            sample.
        show_progress : bool, default False
            A progress bar.
        seed, generator : optional
            Where draws come from; neither: PyTorch's global generator.

        Returns
        -------
        attributions : Tensor or tuple of Tensor
            Like the inputs; [targets, N, ...] for several targets per input.
        delta : Tensor [N n_samples] or [targets, N n_samples]
            Only with return_convergence_delta.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit; before any work.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> shap = attr.GradientShap(lambda x: (x**2).sum(1))
        >>> shap.attribute(torch.ones(1, 2), torch.zeros(1, 2), n_samples=2000, seed=0).round(
        ...     decimals=1)
        tensor([[1., 1.]])
        """
        name = "GradientShap"
        call = self._call(inputs, target, additional_forward_args)
        count = check_count(f"{name}: n_samples", n_samples, "Try 50.")
        levels = check_stdevs(name, stdevs, call.inputs)
        distribution = check_distribution(name, baselines, call.inputs)
        check_batch_size(internal_batch_size)
        if not call.batch:
            return call.nothing(return_convergence_delta)
        draws = _Draws(call, distribution, levels, count, generator_of(name, seed, generator))
        with plain_mode():
            model = self._evaluator.model(call, call.batch * count)
            mean, gaps = self._average(
                model, draws, internal_batch_size, show_progress, return_convergence_delta
            )
        if not return_convergence_delta:
            return call.shaped(mean)
        return call.shaped(mean), call.one_target(gaps)

    def _average(
        self, model: Model, draws: _Draws, size: int | str, show: bool, with_gaps: bool
    ) -> tuple[list[Tensor], Tensor]:
        call, total = model.call, model.call.batch * draws.count
        together = total > 1 and not model.apart  # then one draw for the batch at a time
        sums: list[Tensor] = []
        gaps: list[Tensor] = []
        with progress_bar(total, call.who, show) as bar:

            def work(part: slice) -> None:
                row = (
                    draws.of_all(part.start)
                    if together
                    else torch.arange(part.start, part.stop, device="cpu")
                )
                found, sample, gap = self._explain(model, draws, row, together, with_gaps)
                gaps.append(gap)
                if not sums:
                    sums.extend(_zeros(x, len(found[0])) for x in call.inputs)
                weight = torch.full((len(row),), 1 / draws.count, dtype=torch.float64, device="cpu")
                for s, a in zip(sums, found, strict=True):
                    for t in range(len(a)):
                        ops.accumulate_rows_(s[t], a[t], sample, weight)
                bar.update(len(row))

            if together:
                check_undivided(call, size)
                run_in_batches(draws.count, 1, work, size == "auto")
                return sums, torch.stack(gaps, 2).flatten(1)
            run_in_batches(total, rows_at_once(model, size, total), work, size == "auto")
        return sums, torch.cat(gaps, 1)

    def _explain(
        self, model: Model, draws: _Draws, row: Tensor, together: bool, with_gaps: bool
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Attributions of some draws [targets, rows, ...], their samples, and their gaps."""
        sample, x, b, alpha = draws.rows(row)
        samples = None if together or model.call.batch * draws.count == 1 else sample
        each = torch.arange(len(row), device="cpu")
        points = tuple(ops.path_points(u, v, each, alpha) for u, v in zip(x, b, strict=True))
        _, found = gradients_of(model, points, samples)
        g = check_gradients(found, model.call.who)
        attributions = [s * (u - v) for s, u, v in zip(g, x, b, strict=True)]
        gap = g[0].new_empty(len(g[0]), 0)
        if with_gaps:
            difference = _scores(model, x, samples) - _scores(model, b, samples)
            gap = gap_of(torch.stack([row_sums(a) for a in attributions]).sum(0), difference)
        return (attributions if self._multiply_by_inputs else g), sample, gap


class _Draws:
    """Draws of baselines, places on the path and noise, whatever the size of batches.

    Each sample has draws of its own, so that their errors cancel in a mean over samples. Within a
    sample, every baseline comes as often as any other (up to one): the baselines stand in a random
    order, in which a sample begins at a random place. The places on the path are stratified: the
    k-th of n lies in [k / n, (k + 1) / n). Each draw alone is uniform, so the estimate is unbiased;
    its error is smaller than that of independent draws. The draws of sample n depend on the seed
    and n, not on the other samples.

    of: baselines [N, count]; alpha: places on the path [N, count].
    """

    def __init__(
        self,
        call: Call,
        distribution: tuple[Tensor, ...],
        levels: list[float],
        count: int,
        source: torch.Generator,
    ) -> None:
        self.inputs, self.distribution = call.inputs, distribution
        self.levels, self.count = levels, count
        self.seeds = seeds_for(call.inputs, source)
        N, B = len(call.inputs[0]), len(distribution[0])
        order = torch.randperm(B, generator=source, device="cpu")
        # Row by row, so that a sample's numbers do not depend on how many follow it.
        drawn = torch.rand(N, 1 + 2 * count, generator=source, dtype=torch.float64, device="cpu")
        begin, stratum, within = drawn.split([1, count, count], 1)
        self.of = order[((begin * B).long() + torch.arange(count, device="cpu")) % B]
        self.alpha = (stratum.argsort(1) + within) / count

    def of_all(self, draw: int) -> Tensor:
        """One draw of each sample."""
        return torch.arange(len(self.inputs[0]), device="cpu") * self.count + draw

    def rows(self, row: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
        """Sample, noisy input, baseline and alpha of some draws, counted sample by sample."""
        sample, draw = row // self.count, row % self.count
        x = noisy(self.inputs, sample, draw, self.levels, self.seeds)
        of = self.of[sample, draw]
        b = tuple(v[of.to(v.device)] for v in self.distribution)
        return sample, x, b, self.alpha[sample, draw]


def _zeros(x: Tensor, targets: int) -> Tensor:
    return torch.stack([torch.zeros_like(x, dtype=sums_dtype(x))] * targets)


def _scores(model: Model, points: tuple[Tensor, ...], samples: Tensor | None) -> Tensor:
    output = model.output(points, samples)
    return model.call.chosen(output, samples).values(output)
