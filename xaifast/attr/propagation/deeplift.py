"""DeepLIFT, and its expectation over a distribution of baselines (DeepLiftShap).

The model runs once on the inputs and once on the baselines, a baseline that serves all samples as
one row; one traversal of the graph then hands multipliers down (xaifast.rules.deeplift).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ... import ops
from ...composites import Composite
from ...composites import DeepLift as DeepLiftComposite
from ...engine.arguments import Call, OfModule, plain_mode
from ...engine.baselines import check_baselines, check_distribution
from ...engine.batching import check_batch_size, need_of, rows_that_fit, run_in_batches
from ...engine.builder import Builder, Built, check_verify, warn_training
from ...engine.evaluation import (
    check_finite,
    check_gradients,
    check_undivided,
    graph_rows,
    row_sums,
    sums_dtype,
)
from ...errors import InputError, wrong_type, wrong_value
from ...graph.capture.modules import check_model
from ...graph.node import Node
from ...graph.prefix import SIZES
from ...graph.proof.cuts import check_paths
from ...graph.proof.verify import to_compute
from ..base import GradientAttribution
from ..listing import Listing

Values = dict[Node, Any]
Result = tuple[tuple[Tensor, ...], Tensor]  # multipliers [targets, rows, ...], S(x) - S(x')


class _Comparison:
    """Runs of the model on samples and on baselines, and the multipliers between the two."""

    def __init__(self, call: Call, built: Built) -> None:
        self.call, self.built = call, built
        self.graph, self.propagation = built.graph, built.propagation

    @property
    def apart(self) -> bool:
        """Whether the batch may be divided, and rows compared that came in with others."""
        if not self.graph.batched:
            return False
        if self.call.rows is None:
            self.call.rows = graph_rows(self.built, self.call)
        return self.call.rows.apart

    def run(self, rows: tuple[Tensor, ...], samples: Tensor | None) -> Values:
        """Values of the nodes that rules read."""
        args = to_compute((*rows, *self.call.extra_rows(samples)))
        values = self.propagation.run_model(args)
        check_finite(values[self.graph.output])
        return values

    def compare(self, values: Values, reference: Values, samples: Tensor | None) -> Result:
        """Multipliers at the inputs, and the difference of the outputs."""
        output, other = values[self.graph.output], reference[self.graph.output]
        selection = self.call.chosen(output, samples)
        seeds = {self.graph.output: selection.seed(output, one=True)}
        found = self._hand_down(values, reference, seeds)
        nodes = self.graph.inputs[: len(self.call.inputs)]
        sizes = (selection.targets, len(output))
        multipliers = [
            found[n] if n in found else output.new_zeros((*sizes, *n.shape)) for n in nodes
        ]
        if not all(torch.isfinite(m).all() for m in multipliers):
            self._hand_down(values, reference, seeds, check=True)
        difference = selection.values(output) - selection.values(other.expand_as(output))
        return tuple(check_gradients(multipliers, self.call.who)), difference

    def _hand_down(
        self, values: Values, reference: Values, seeds: Values, check: bool = False
    ) -> Values:
        """Messages at the inputs; check: name the first node that makes one that is not finite."""
        run = self.propagation.run_rules
        return run(dict(values), seeds, set(), reference=reference, check=check)

    def repeats(self) -> bool:
        """Whether rows of a run may be repeated: nothing in it but sizes depends on the batch."""
        return all(n.kind != "value" or n.op in SIZES for n in self.propagation.steps)

    def repeated(self, values: Values, rows: Tensor) -> Values:
        """The same run with rows repeated."""
        batch = len(values[self.graph.output])

        def part(node: Node, x: Any) -> Any:
            if isinstance(x, Tensor):
                return x.index_select(0, rows.to(x.device))
            return len(rows) if node.op in SIZES and x == batch and _is_batch(node) else x

        return {n: part(n, x) for n, x in values.items()}


def _is_batch(size: Node) -> bool:
    """Whether a size is that of the batch."""
    return len(size.args) > 1 and size.args[1] == 0


class DeepLift(OfModule, GradientAttribution):
    """DeepLIFT: gradients, with the average slope of each nonlinear function in place of its own.

    R_i = (x_i - x'_i) d^g S_c / dx_i,   g = (f(z) - f(z')) / (z - z')

    Through the graph of the model: functional, in-place and reused activations, residual sums,
    GELU, SiLU, softmax and max pooling are handled; operations without a rule are refused before
    any work. Attributions sum to S(x) - S(x'), except across products of two inputs.

    The graph is that of the forward function: `detach`, `no_grad` blocks and checkpoints are passed
    as if they were not there, so that attributions sum up across them; the backward of an autograd
    Function, hooks on tensors and backward hooks of modules are not used. Behind comparisons, casts
    to integers and numbers read in Python an input has no multiplier; if it has no other path, that
    is an error which names them.

    Parameters
    ----------
    model : torch.nn.Module
    multiply_by_inputs : bool, default True
        False: the multipliers themselves.
    eps : float, default 1e-10
        Below this difference of inputs a nonlinear function's own slope is taken.
    rule : "rescale" (default) or "reveal_cancel"
        See `composites.DeepLift`.
    composite : Composite, optional
        In place of `composites.DeepLift(rule, eps)`.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.

    References
    ----------
    Shrikumar et al. 2017; book, section 9.3.2, proposition 2 and table 9.1.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> r, delta = attr.DeepLift(net).attribute(
    ...     torch.ones(5, 3), target=1, return_convergence_delta=True)
    >>> r.shape, bool((delta.abs() < 1e-5).all())
    (torch.Size([5, 3]), True)
    """

    listing = Listing("path", "module", "3", "9.3.2")

    def __init__(
        self,
        model: nn.Module,
        multiply_by_inputs: bool = True,
        eps: float = 1e-10,
        *,
        rule: str = "rescale",
        composite: Composite | None = None,
        verify: str = "auto",
        per_sample: tuple[bool, ...] | None = None,
    ) -> None:
        name = type(self).__name__
        check_model(name, model)
        self._given_model = model
        super().__init__(model, per_sample=per_sample)
        if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not eps > 0:
            raise wrong_value(f"{name}: eps", "must be a number > 0", eps, "Leave it out.")
        if composite is not None and not isinstance(composite, Composite):
            raise wrong_type(
                f"{name}: composite", "must be a Composite", composite,
                "For example composites.DeepLift().with_rules((condition, rule)).",
            )  # fmt: skip
        self.composite = composite or DeepLiftComposite(rule, eps)
        self._multiply_by_inputs = multiply_by_inputs
        self._builder = Builder(model, self.composite, verify=check_verify(name, verify))

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether attributions are in the units of the output."""
        return self._multiply_by_inputs

    def has_convergence_delta(self) -> bool:
        """Yes: the sum of attributions minus S(x) - S(x')."""
        return True

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        custom_attribution_func: Callable | None = None,
        *,
        internal_batch_size: int | str = "auto",
    ) -> Any:
        """Explain an output by its difference to that of a baseline.

        Parameters
        ----------
        inputs : Tensor [N, ...] or tuple of them, floating
        baselines : optional
            x', as in `IntegratedGradients.attribute`.
        target, additional_forward_args : as in `Saliency.attribute`.
        return_convergence_delta : bool, default False
            Also return, per sample, the sum of attributions minus S(x) - S(x').
        custom_attribution_func : callable, optional
            (multipliers, inputs, baselines) -> attributions, tuples all; in place of
            multiplier times x - x'.
        internal_batch_size : int or "auto" (default)
            Samples at once.

        Returns
        -------
        attributions : Tensor or tuple of Tensor
            Like the inputs; [targets, N, ...] for several targets per input.
        delta : Tensor [N] or [targets, N]
            Only with return_convergence_delta.

        Raises
        ------
        ModelError
            If some operation has no rule; all of them are listed.
        ValueError, TypeError
            If an argument does not fit; before any work.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> attr.DeepLift(torch.nn.Linear(2, 2)).attribute(torch.ones(1, 2), target=0).shape
        torch.Size([1, 2])
        """
        name = type(self).__name__
        call = self._call(inputs, target, additional_forward_args)
        several = check_baselines(name, baselines, call.inputs)
        check_batch_size(internal_batch_size)
        if not call.batch:
            return call.nothing(return_convergence_delta)
        with plain_mode(), torch.no_grad():
            comparison = self._comparison(call)
            results = [
                self._one(comparison, b, internal_batch_size, custom_attribution_func)
                for b in several
            ]
            found = zip(*(r[0] for r in results), strict=True)
            mean = [sum(parts) / len(several) for parts in found]
            difference = torch.stack([r[1] for r in results]).mean(0)
        if not return_convergence_delta:
            return call.shaped(mean)
        total = sum(row_sums(a) for a in mean)
        return call.shaped(mean), call.one_target(total - difference)

    # -- inside --

    def _comparison(self, call: Call) -> _Comparison:
        warn_training(self.model)
        built = self._builder.build(call.arguments, len(call.inputs))
        check_paths(built.graph, self.model, call.arguments, len(call.inputs))
        call.selection(built.graph.output.shape)  # a target that does not fit is refused first
        return _Comparison(call, built)

    def _one(
        self, comparison: _Comparison, baseline: tuple, size: int | str, custom: Callable | None
    ) -> Result:
        """Attributions and S(x) - S(x') for one baseline of each sample."""
        call = comparison.call
        shared = all(len(b) == 1 for b in baseline) and call.batch > 1
        shared = shared and comparison.apart and not call.extra_per_sample
        alone = (
            comparison.run(baseline, torch.zeros(1, dtype=torch.long, device="cpu"))
            if shared
            else None
        )
        whole = tuple(b.expand_as(x) for b, x in zip(baseline, call.inputs, strict=True))
        parts: list[Result] = []

        def work(rows: slice) -> None:
            samples = None
            if rows.stop - rows.start < call.batch:
                samples = torch.arange(rows.start, rows.stop, device="cpu")
            x, b = (tuple(v[rows] for v in vs) for vs in (call.inputs, whole))
            values = comparison.run(x, samples)
            reference = comparison.run(b, samples) if alone is None else alone
            found, difference = comparison.compare(values, reference, samples)
            parts.append((self._scaled(found, x, b, custom), difference))

        rows = rows_for(comparison, size, call.batch)
        run_in_batches(call.batch, rows, work, size == "auto" and comparison.graph.apart)
        joined = tuple(torch.cat(p, 1) for p in zip(*(p[0] for p in parts), strict=True))
        return joined, torch.cat([p[1] for p in parts], 1)

    def _scaled(
        self, found: tuple, x: tuple, b: tuple, custom: Callable | None
    ) -> tuple[Tensor, ...]:
        """Attributions from multipliers [targets, rows, ...]."""
        if custom is not None:
            per_target = [custom(tuple(m[t] for m in found), x, b) for t in range(len(found[0]))]
            return tuple(torch.stack(parts) for parts in zip(*per_target, strict=True))
        if not self._multiply_by_inputs:
            return found
        products = tuple(m * (u - v) for m, u, v in zip(found, x, b, strict=True))
        if not all(torch.isfinite(a).all() for a in products):
            raise InputError(
                f"{type(self).__name__}: a multiplier, which is finite, times the difference to "
                f"the baseline leaves the range of {products[0].dtype}. Pass the model, inputs and "
                "baselines in float64, or take multiply_by_inputs=False."
            )
        return products


def rows_for(comparison: _Comparison, size: int | str, count: int) -> int:
    """How many rows to compare at once."""
    if size != "auto" and int(size) >= count:
        return int(size)
    if not comparison.apart:
        check_undivided(comparison.call, size)
        return max(1, comparison.call.batch)
    if size != "auto":
        return int(size)
    x = comparison.call.inputs[0]
    targets = comparison.call.selection(comparison.graph.output.shape).targets
    need = need_of(comparison.propagation, targets, 8 if x.dtype == torch.float64 else 4)
    return max(1, min(count, rows_that_fit(need, x.device)))


class DeepLiftShap(DeepLift):
    """DeepLIFT, averaged over a distribution of baselines: an approximation of Shapley values.

    R_i = E_x' [ (x_i - x'_i) d^g S_c / dx_i ]

    Each sample is compared with each baseline; both run through the model once, not once per pair.

    Parameters
    ----------
    model, multiply_by_inputs, eps, rule, composite : as in `DeepLift`.

    References
    ----------
    Lundberg and Lee 2017; Shrikumar et al. 2017.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> attr.DeepLiftShap(net).attribute(torch.ones(5, 3), torch.randn(7, 3), target=1).shape
    torch.Size([5, 3])
    """

    listing = Listing("path", "module", "3 * baselines", "9.3.2")

    def attribute(  # type: ignore[override]
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        custom_attribution_func: Callable | None = None,
        *,
        internal_batch_size: int | str = "auto",
    ) -> Any:
        """Explain an output by its differences to those of several baselines.

        Parameters
        ----------
        inputs : Tensor [N, ...] or tuple of them, floating
        baselines : Tensor [B, ...], tuple of them, or function of the inputs that returns them
            The distribution: each of the B rows is a baseline for every sample.
        target, additional_forward_args, custom_attribution_func : as in `DeepLift.attribute`.
        return_convergence_delta : bool, default False
            Also return the gap of each pair, [N B], sample by sample.
        internal_batch_size : int or "auto" (default)
            Pairs at once.

        Returns
        -------
        attributions : Tensor or tuple of Tensor
            Like the inputs; [targets, N, ...] for several targets per input.
        delta : Tensor [N B] or [targets, N B]
            Only with return_convergence_delta.

        Raises
        ------
        ModelError, ValueError, TypeError
            As `DeepLift.attribute`.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> shap = attr.DeepLiftShap(torch.nn.Linear(2, 2))
        >>> shap.attribute(torch.ones(1, 2), torch.zeros(3, 2), target=0).shape
        torch.Size([1, 2])
        """
        name = type(self).__name__
        call = self._call(inputs, target, additional_forward_args)
        distribution = check_distribution(name, baselines, call.inputs)
        check_batch_size(internal_batch_size)
        if not call.batch:
            return call.nothing(return_convergence_delta)
        with plain_mode(), torch.no_grad():
            comparison = self._comparison(call)
            mean, gaps = self._pairs(
                comparison, distribution, internal_batch_size, custom_attribution_func
            )
        if not return_convergence_delta:
            return call.shaped(mean)
        return call.shaped(mean), call.one_target(gaps)

    def _pairs(
        self, comparison: _Comparison, distribution: tuple, size: int | str, custom: Callable | None
    ) -> tuple[list[Tensor], Tensor]:
        """Mean attributions, and the gap of each pair [targets, N B]."""
        call, B = comparison.call, len(distribution[0])
        if not comparison.apart:
            return self._batches(comparison, distribution, size, custom)
        targets = call.selection(comparison.graph.output.shape).targets
        means = [
            torch.stack([torch.zeros_like(x, dtype=sums_dtype(x))] * targets) for x in call.inputs
        ]
        gaps: list[Tensor] = []

        def work(part: slice) -> None:
            pair = torch.arange(part.start, part.stop, device="cpu")
            found, gap = self._compare_pairs(comparison, distribution, pair // B, pair % B, custom)
            gaps.append(gap)
            weight = torch.full((len(pair),), 1 / B, dtype=torch.float64, device="cpu")
            for mean, a in zip(means, found, strict=True):
                for t in range(targets):
                    ops.accumulate_rows_(mean[t], a[t], pair // B, weight)

        rows = rows_for(comparison, size, call.batch * B)
        run_in_batches(call.batch * B, rows, work, size == "auto")
        return means, torch.cat(gaps, 1)

    def _batches(
        self, comparison: _Comparison, distribution: tuple, size: int | str, custom: Callable | None
    ) -> tuple[list[Tensor], Tensor]:
        """The same, the batch as it came in against each baseline in turn."""
        results = []
        for k in range(len(distribution[0])):
            baseline = tuple(v[k : k + 1] for v in distribution)
            found, difference = self._one(comparison, baseline, size, custom)
            results.append((found, sum(row_sums(a) for a in found) - difference))
        means = [sum(parts) / len(results) for parts in zip(*(r[0] for r in results), strict=True)]
        return means, torch.stack([r[1] for r in results], 2).flatten(1)

    def _compare_pairs(
        self,
        comparison: _Comparison,
        distribution: tuple,
        sample: Tensor,
        of: Tensor,
        custom: Callable | None,
    ) -> Result:
        """Attributions and gaps for pairs (sample, row of the distribution)."""
        call = comparison.call
        x = tuple(v[sample.to(v.device)] for v in call.inputs)
        b = tuple(v[of.to(v.device)] for v in distribution)
        if comparison.repeats() and not call.extra_per_sample:
            values = self._run_once(comparison, call.inputs, sample)
            reference = self._run_once(comparison, distribution, of)
        else:
            values, reference = comparison.run(x, sample), comparison.run(b, sample)
        found, difference = comparison.compare(values, reference, sample)
        attributions = self._scaled(found, x, b, custom)
        return attributions, sum(row_sums(a) for a in attributions) - difference

    def _run_once(self, comparison: _Comparison, rows: tuple, which: Tensor) -> Values:
        """Run each row that occurs in `which` once, and repeat it."""
        distinct, back = torch.unique(which, return_inverse=True)
        some = tuple(v[distinct.to(v.device)] for v in rows)
        return comparison.repeated(comparison.run(some, distinct), back)
