"""Integrated gradients: the gradient, averaged along the straight path from a baseline.

    R_i = (x_i - x'_i) int_0^1 dS(x' + alpha (x - x')) / dx_i dalpha
        ~ (x_i - x'_i) sum_k w_k dS(x' + alpha_k (x - x')) / dx_i

The linear prefix of the model runs once for each end of the path, and its transposed map once for
the sum of what comes back; gradients are summed as they come and not kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from ... import ops
from ...engine.arguments import Call, plain_mode
from ...engine.baselines import check_baselines
from ...engine.batching import Need, batches, check_batch_size, rows_of, run_in_batches
from ...engine.evaluation import (
    Model,
    PlainModel,
    check_gradients,
    doubt,
    row_sums,
    rows_at_once,
    scores_of,
    sums_dtype,
)
from ..base import GradientAttribution, progress_bar
from ..listing import Listing
from .adaptive import adaptive_gradients, check_tolerance
from .lstm import LstmFinder, lstm_gradients
from .quadrature import check_method, check_steps, nodes_and_weights


class PathModel(Protocol):
    """The interface of a model on a path: its stations, and gradients of the target there."""

    call: Call

    @property
    def apart(self) -> bool:
        """Whether row i of all of this is shown to depend on row i of the inputs alone."""

    def enter(self, inputs: tuple, samples: Tensor | None = None) -> list[Tensor]:
        """Values of the stations."""

    def rectified(self) -> list[bool]:
        """For each station, whether its values go through a ReLU before they are used."""

    def gradients(self, points: list[Tensor], samples: Tensor | None) -> tuple[Any, list[Tensor]]:
        """Anything, and the gradients at the stations [targets, rows, ...]."""

    def leave(self, totals: list[Tensor]) -> tuple[Tensor, ...]:
        """Gradients at the inputs from those at the stations."""

    def need(self) -> Need:
        """Memory of one row."""


class PathSum:
    """The weighted sum of gradients along the paths of some samples.

    samples : whose rows they are; None: the batch as it came in, walked as one.
    """

    def __init__(
        self, model: PathModel, inputs: tuple, baseline: tuple, samples: Tensor | None
    ) -> None:
        self.model, self.samples = model, samples
        self.starts = model.enter(baseline, samples)
        self.ends = model.enter(inputs, samples)  # last: `leave` is for what entered last
        self.totals: list[Tensor] = []  # [targets, N, ...] at each station

    def add(self, sample: Tensor, alpha: Tensor, weight: Tensor) -> None:
        """Add weight times the gradient at x' + alpha (x - x'), for rows of these samples."""
        assert self.samples is not None  # of a batch that may be divided
        stations = zip(self.ends, self.starts, self.model.rectified(), strict=True)
        points = [ops.path_points(x, b, sample, alpha, relu) for x, b, relu in stations]
        _, found = self.model.gradients(points, self.samples[sample])
        self._add([(g, sample, weight) for g in found])

    def add_step(self, alpha: Tensor, weight: Tensor) -> None:
        """Add weight times the gradient at x' + alpha (x - x'), for the batch as it came in."""
        own = [torch.arange(len(x), device="cpu") for x in self.ends]
        stations = zip(self.ends, self.starts, own, self.model.rectified(), strict=True)
        points = [
            ops.path_points(x, b, rows, alpha.expand(len(rows)), relu)
            for x, b, rows, relu in stations
        ]
        _, found = self.model.gradients(points, None)
        pairs = zip(found, own, strict=True)
        self._add([(g, rows, weight.expand(len(rows))) for g, rows in pairs])

    def _add(self, parts: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Add gradients at each station, of these rows, times weights."""
        found = [g for g, _, _ in parts]
        if not self.totals:
            self.totals = [
                torch.stack([torch.zeros_like(x, dtype=sums_dtype(x))] * len(g))
                for x, g in zip(self.ends, found, strict=True)
            ]
        for total, (g, rows, weight) in zip(self.totals, parts, strict=True):
            for t in range(len(g)):
                ops.accumulate_rows_(total[t], g[t], rows, weight)

    def gradients(self) -> tuple[Tensor, ...]:
        """The sums at the inputs, [targets, N, ...]."""
        like = zip(self.totals, self.ends, strict=True)
        return self.model.leave([total.to(x.dtype) for total, x in like])

    def gradients_times_difference(self) -> tuple[Tensor, ...]:
        """The sums at the stations, times the difference of their values at both ends."""
        ends = zip(self.totals, self.ends, self.starts, strict=True)
        return tuple(total.to(x.dtype) * (x - b) for total, x, b in ends)


def sum_along_paths(
    model: PathModel,
    baseline: tuple[Tensor, ...],
    rule: tuple[Tensor, Tensor],
    size: int | str,
    show: bool,
    finish: Callable[[PathSum], tuple[Tensor, ...]] = PathSum.gradients,
) -> list[Tensor]:
    """The gradient, averaged by a quadrature along the path of each sample, [targets, N, ...].

    One step at a time for the batch as it came in, if its rows are not shown to be apart.
    """
    call, (alpha, weight) = model.call, rule
    if call.batch * len(alpha) > 1 and not model.apart:
        return list(finish(_walk_together(model, baseline, rule, size, show)))
    rows = rows_at_once(model, size, call.batch * len(alpha))
    parts = []
    with progress_bar(call.batch * len(alpha), call.who, show) as bar:
        for block in batches(call.batch, rows):
            x, b = (tuple(rows_of(v, block) for v in values) for values in (call.inputs, baseline))
            path = PathSum(model, x, b, torch.arange(block.start, block.stop, device="cpu"))
            n = block.stop - block.start

            def work(part: slice, path: PathSum = path, n: int = n) -> None:
                r = torch.arange(part.start, part.stop, device="cpu")
                path.add(r % n, alpha[r // n], weight[r // n])
                bar.update(len(r))

            run_in_batches(n * len(alpha), rows, work, size == "auto")
            parts.append(finish(path))
    return [p[0] if len(p) == 1 else torch.cat(p, 1) for p in zip(*parts, strict=True)]


def _walk_together(
    model: PathModel, baseline: tuple, rule: tuple[Tensor, Tensor], size: int | str, show: bool
) -> PathSum:
    """Walk the path of the whole batch, step by step."""
    call, (alpha, weight) = model.call, rule
    warn_undivided(call, size)
    start = tuple(b.expand_as(x).clone() for b, x in zip(baseline, call.inputs, strict=True))
    path = PathSum(model, tuple(x.clone() for x in call.inputs), start, None)
    with progress_bar(call.batch * len(alpha), call.who, show) as bar:

        def work(step: slice) -> None:
            path.add_step(alpha[step], weight[step])
            bar.update(call.batch)

        run_in_batches(len(alpha), 1, work, size == "auto")
    return path


def warn_undivided(call: Call, size: int | str) -> None:
    """Say, as captum does, that a batch is not divided whatever the bound."""
    if size != "auto" and int(size) < call.batch:
        warnings.warn(
            f"{call.who}: internal_batch_size={size} is less than the {call.batch} samples, whose "
            f"rows may depend on each other{doubt(call)}: all of them are evaluated at once.",
            stacklevel=4,
        )


class IntegratedGradients(GradientAttribution):
    """Integrated gradients.

    R_i = (x_i - x'_i) int_0^1 dS(x' + alpha (x - x')) / dx_i dalpha

    Attributions sum to S(x) - S(x') up to the error of the quadrature (completeness).

    Parameters
    ----------
    forward_func : callable
        The model, or a function of the inputs.
    multiply_by_inputs : bool, default True
        Whether the averaged gradient is multiplied by x - x'.
    dialect : "book" (default) or "captum"
        captum's trapezoid, whose weights sum to (m - 1) / m.
    optimize, per_sample : optional
        See `Attribution`.

    References
    ----------
    Sundararajan et al. 2017; book, Eq. 9.19, 19.6 and 22.2.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> ig = attr.IntegratedGradients(lambda x: x[:, 0] + x[:, 1].sqrt())  # section 9.3.1
    >>> ig.attribute(torch.tensor([[4.0, 4.0]], dtype=torch.float64), n_steps=500).round(decimals=2)
    tensor([[4., 2.]], dtype=torch.float64)
    """

    listing = Listing("path", "gradient", "2 * n_steps", "9.3.2")

    def __init__(
        self,
        forward_func: Callable,
        multiply_by_inputs: bool = True,
        *,
        dialect: str = "book",
        optimize: bool | None = None,
        per_sample: tuple[bool, ...] | None = None,
    ) -> None:
        super().__init__(forward_func, optimize=optimize, per_sample=per_sample)
        check_method("IntegratedGradients", "gausslegendre", dialect)
        self._lstm = LstmFinder(forward_func, optimize)
        self._multiply_by_inputs = multiply_by_inputs
        self.dialect = dialect

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether attributions are in the units of the output."""
        return self._multiply_by_inputs

    def has_convergence_delta(self) -> bool:
        """Yes: the completeness gap."""
        return True

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int | str = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | str | None = "auto",
        return_convergence_delta: bool = False,
        *,
        tolerance: float = 0.01,
        show_progress: bool = False,
    ) -> Any:
        """Explain an output by gradients along the path from a baseline.

        Parameters
        ----------
        inputs : Tensor [N, ...] or tuple of them, floating
        baselines : optional
            x': None (zero), a number, "blur", a tensor like the input or like one sample; a tuple
            with one for each input; a list of several, over which attributions are averaged.
        target, additional_forward_args : as in `Saliency.attribute`.
        n_steps : int or "auto", default 50
            Evaluations for each sample. "auto" starts with 5 and puts more where the output changes
            in another way than the gradients at both ends of an interval tell, until the tolerance
            is met; then `method` is not used.
        method : str, default "gausslegendre"
            Or "riemann_right" (the book's Eq. 19.6), "riemann_left", "riemann_middle",
            "riemann_trapezoid".
        internal_batch_size : int or "auto" (default)
            Rows (steps x samples) at once; "auto" (also None) fits the memory that is free.
        return_convergence_delta : bool, default False
            Also return the completeness gap of each sample: sum R_i - (S(x) - S(x')).
        tolerance : float, default 0.01
            For n_steps="auto": how much of the change of the output along the path the trapezoidal
            rule may miss, summed over the intervals.
        show_progress : bool, default False
            A progress bar.

        Returns
        -------
        attributions : Tensor or tuple of Tensor
            Like the inputs; [targets, N, ...] for several targets per input.
        delta : Tensor [N] or [targets, N]
            Only with return_convergence_delta.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit; before any work.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> ig = attr.IntegratedGradients(torch.nn.Linear(3, 2))
        >>> x = torch.ones(4, 3)
        >>> r, delta = ig.attribute(x, 0.5, target=1, return_convergence_delta=True)
        >>> r.shape, bool((delta.abs() < 1e-5).all())
        (torch.Size([4, 3]), True)
        """
        name = type(self).__name__
        check_method(name, method, self.dialect)
        check_steps(name, n_steps, method)
        check_tolerance(name, tolerance)
        call = self._call(inputs, target, additional_forward_args)
        size = "auto" if internal_batch_size is None else internal_batch_size
        several = check_baselines(name, baselines, call.inputs)
        if not call.batch:
            return call.nothing(return_convergence_delta)
        with plain_mode():
            check_batch_size(size)
            auto = tolerance if isinstance(n_steps, str) else None
            steps = 50 if isinstance(n_steps, str) else n_steps
            rule = nodes_and_weights(method, steps, self.dialect)
            rows = call.batch * steps * len(several)
            lstm = self._lstm.find(call, rows)
            model = PlainModel(call) if lstm else self._evaluator.model(call, rows)
            results = []
            for baseline in several:
                if lstm is not None:
                    found = lstm_gradients(call, lstm, baseline, rule, auto, size, show_progress)
                elif auto is not None:
                    found = adaptive_gradients(call, model, baseline, auto, size, show_progress)
                else:
                    found = sum_along_paths(model, baseline, rule, size, show_progress)
                results.append(self._scaled(call, baseline, check_gradients(found, name)))
            mean = [sum(parts) / len(several) for parts in zip(*results, strict=True)]
            if not return_convergence_delta:
                return call.shaped(mean)
            return call.shaped(mean), self._gap(call, model, several, mean, size)

    def _scaled(self, call: Call, baseline: tuple, found: list[Tensor]) -> list[Tensor]:
        """The averaged gradient, times x - x' if asked for."""
        if not self._multiply_by_inputs:
            return found
        triples = zip(call.inputs, baseline, found, strict=True)
        return [(x - b) * g for x, b, g in triples]

    def _gap(
        self, call: Call, model: Model, several: list, attributions: list[Tensor], size: int | str
    ) -> Tensor:
        """Sum R_i - (S(x) - S(x')), S(x') averaged over the baselines."""
        size = size if model.apart else "auto"
        end = scores_of(model, call.inputs, size)
        start = sum(scores_of(model, b, size) for b in several) / len(several)
        return call.one_target(gap_of(sum(row_sums(a) for a in attributions), end - start))


def gap_of(total: Any, difference: Any) -> Tensor:
    """The completeness gap [targets, N]: sums of attributions minus differences of outputs.

    [targets, 1] where the model returns more or fewer rows than there are samples.
    """
    if total.shape == difference.shape:
        return total - difference
    return total.sum(1, keepdim=True) - difference.sum(1, keepdim=True)
