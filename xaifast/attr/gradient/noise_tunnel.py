"""Explanations of noisy copies of the input, averaged: SmoothGrad and its kin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ...engine.arguments import (
    Call,
    as_tuple,
    check_count,
    check_inputs,
    extra_arguments,
    is_nested,
    make_call,
    plain_mode,
)
from ...engine.batching import batches
from ...engine.evaluation import PlainModel, sums_dtype
from ...engine.independence import Rows, as_given, taken
from ...engine.randomness import check_stdevs, generator_of, noisy, seeds_for
from ...engine.target import check_entries
from ...errors import describe, wrong_type, wrong_value
from ..base import Attribution
from ..layer.activation import LayerRows
from ..listing import Listing

TYPES = ("smoothgrad", "smoothgrad_sq", "vargrad")
AT_ONCE = 64 * 2**20  # bytes of noisy inputs that one call of the explainer is given
# Arguments of explainers that have a row for each sample, and go along with its noisy copies.
PER_SAMPLE = {"baselines", "feature_mask"}


class _Moments:
    """Mean and sum of squared deviations of what comes, part by part, without cancellation."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, x: Tensor, dim: int) -> None:
        """Merge some more values along a dimension (Chan et al. 1983)."""
        k = x.shape[dim]
        mean = x.mean(dim)
        squares = (x - mean.unsqueeze(dim)).square().sum(dim)
        total = self.count + k
        step = mean - self.mean
        self.squares = self.squares + squares + step.square() * (self.count * k / total)
        self.mean = self.mean + step * (k / total)
        self.count = total

    def result(self, kind: str) -> Tensor:
        """smoothgrad: the mean; smoothgrad_sq: the mean of squares; vargrad: the variance."""
        mean, variance = cast(Tensor, self.mean), cast(Tensor, self.squares) / self.count
        if kind == "smoothgrad":
            return mean
        return variance if kind == "vargrad" else variance + mean.square()


class NoiseTunnel(Attribution):
    """Explain noisy copies of each sample, and average: SmoothGrad, SmoothGrad squared, VarGrad.

    smoothgrad: mean_k R(x + e_k),   smoothgrad_sq: mean_k R(x + e_k)^2,
    vargrad: mean_k (R(x + e_k) - mean R)^2,   e_k normal with standard deviation `stdevs`

    Parameters
    ----------
    attribution_method : an explainer
        Anything with `attribute(inputs, ...)`, of this package or not.

    References
    ----------
    Smilkov et al. 2017; Adebayo et al. 2018; book, sections 14.3.4 and 22.A.4.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> tunnel = attr.NoiseTunnel(attr.Saliency(torch.nn.Linear(3, 2)))
    >>> tunnel.attribute(torch.ones(4, 3), nt_samples=8, stdevs=0.1, target=1, seed=0).shape
    torch.Size([4, 3])
    """

    listing = Listing("gradient", "gradient", "nt_samples * explainer", "14.3.4, 22.A.4")

    def __init__(self, attribution_method: Any) -> None:
        if not callable(getattr(attribution_method, "attribute", None)):
            raise wrong_type(
                "NoiseTunnel: attribution_method", "must be an explainer", attribution_method,
                "For example NoiseTunnel(Saliency(model)).",
            )  # fmt: skip
        self.attribution_method = attribution_method
        explained = getattr(attribution_method, "forward_func", None)
        self.forward_func = explained or attribution_method.model

    @property
    def multiplies_by_inputs(self) -> bool:
        """As the explainer."""
        return bool(getattr(self.attribution_method, "multiplies_by_inputs", False))

    def has_convergence_delta(self) -> bool:
        """As the explainer."""
        return bool(self.attribution_method.has_convergence_delta())

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        nt_type: str = "smoothgrad",
        nt_samples: int = 5,
        nt_samples_batch_size: int | None = None,
        stdevs: float | tuple[float, ...] = 1.0,
        draw_baseline_from_distrib: bool = False,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ) -> Any:
        """Explain noisy copies by the explainer, and average.

        Parameters
        ----------
        inputs : Tensor [N, ...] or tuple of them, floating
        nt_type : "smoothgrad" (default), "smoothgrad_sq" or "vargrad"
        nt_samples : int, default 5
            Noisy copies of each sample.
        nt_samples_batch_size : int, optional
            How many of them the explainer is given at once; the result does not depend on it.
        stdevs : float or tuple, default 1.0
            Standard deviation of the noise, in the units of the input; one for each input.
        draw_baseline_from_distrib : bool, default False
            Take a random row of `baselines` for each copy.
        seed, generator : optional
            Where the noise comes from; neither: PyTorch's global generator.
        **kwargs
            What the explainer takes beside the inputs; `target`, `additional_forward_args`,
            `baselines` and `feature_mask` with a row for each sample go along with its copies.

        Returns
        -------
        What the explainer returns; with return_convergence_delta=True the delta of each copy,
            [N nt_samples], sample by sample.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit; before any work.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> tunnel = attr.NoiseTunnel(attr.InputXGradient(lambda x: (x**2).sum(1)))
        >>> tunnel.attribute(torch.ones(1, 2), "vargrad", 10, stdevs=0.0)
        tensor([[0., 0.]])
        """
        given = as_tuple(inputs)
        batch = check_inputs(given)
        check_entries(kwargs.get("target"), batch)
        _check_words(nt_type, given)
        count = check_count("NoiseTunnel: nt_samples", nt_samples, "Try 50.")
        at_once = _at_once(given, count, nt_samples_batch_size)
        source = generator_of("NoiseTunnel", seed, generator)
        copies = _Copies(
            tuple(x.detach() for x in given), count,
            check_stdevs("NoiseTunnel", stdevs, given), seeds_for(given, source),
        )  # fmt: skip
        rows = None
        if draw_baseline_from_distrib:
            rows = _baseline_rows(kwargs.get("baselines"), batch * count, source)
        cut: tuple[bool, ...] = ()
        if at_once > 1:
            cut, at_once = self._together(inputs, count, at_once, kwargs)
        average = _Average(self.attribution_method, copies, kwargs, rows, cut)
        for part in batches(count, at_once):
            average.add(part, isinstance(inputs, tuple))
        return average.result(nt_type)

    def _together(
        self, inputs: Any, count: int, at_once: int, kwargs: dict[str, Any]
    ) -> tuple[tuple[bool, ...], int]:
        """Which additional arguments go along with the copies, and how many copies at once.

        One, with all arguments as they are, if rows are not shown to be apart.
        """
        additional = kwargs.get("additional_forward_args")
        explainer = self.attribution_method
        said = getattr(explainer, "per_sample", None)
        call = make_call(
            "NoiseTunnel", self.forward_func, inputs, kwargs.get("target"), additional,
            per_sample=said,
        )  # fmt: skip
        with plain_mode():
            rows = known_rows(explainer, call, call.batch * count, kwargs)
        return (rows.per_sample, at_once) if rows.apart else ((), 1)


def known_rows(explainer: Any, call: Call, rows: int, options: dict[str, Any]) -> Rows:
    """Knowledge of the rows that an explainer, of this package or not, would be given."""
    inner = getattr(explainer, "_inner", None)
    if inner is not None:
        model: Any = LayerRows(call, inner, options.get("attribute_to_layer_input", False))
    elif hasattr(explainer, "layer"):  # another package's, whose layer may fold the batch
        return as_given(call.extra)
    elif isinstance(explainer, Attribution):
        model = explainer._evaluator.model(call, rows)
    else:
        model = PlainModel(call)
    return call.rows if model.apart and call.rows is not None else as_given(call.extra)


def _check_words(nt_type: Any, inputs: tuple[Tensor, ...]) -> None:
    if nt_type not in TYPES:
        raise wrong_value(
            "NoiseTunnel: nt_type", f"must be one of {', '.join(TYPES)}", describe(nt_type),
            "Take smoothgrad.",
        )  # fmt: skip
    for x in inputs:
        if not x.is_floating_point():
            raise wrong_type("NoiseTunnel: inputs", "must be floating", x, "Use x.float().")


def _at_once(inputs: tuple[Tensor, ...], count: int, wish: int | None) -> int:
    """How many copies of each sample to explain in one go."""
    if wish is not None:
        return min(count, check_count("NoiseTunnel: nt_samples_batch_size", wish, "Leave it out."))
    size = sum(x.numel() * x.element_size() for x in inputs)
    return max(1, min(count, AT_ONCE // max(1, size)))


def _baseline_rows(baselines: Any, count: int, source: torch.Generator) -> Tensor:
    """A row of the baselines for each copy."""
    given = as_tuple(baselines)
    if not given or not all(isinstance(b, Tensor) and b.dim() and len(b) for b in given):
        raise wrong_value(
            "NoiseTunnel: draw_baseline_from_distrib", "needs baselines that are tensors of rows",
            describe(baselines), "Pass baselines=tensor [B, ...].",
        )  # fmt: skip
    return torch.randint(min(len(b) for b in given), (count,), generator=source, device="cpu")


@dataclass(frozen=True)
class _Copies:
    """Noisy copies of samples: `count` of each, with one level and one seed for each input."""

    inputs: tuple[Tensor, ...]
    count: int
    levels: list[float]
    seeds: list[int]

    @property
    def batch(self) -> int:
        """How many samples there are."""
        return len(self.inputs[0])

    def rows(self, part: slice) -> tuple[Tensor, Tensor]:
        """Sample and draw of each row, for some of the copies of each sample."""
        k = part.stop - part.start
        sample = torch.arange(self.batch, device="cpu").repeat_interleave(k)
        return sample, torch.arange(part.start, part.stop, device="cpu").repeat(self.batch)

    def make(self, sample: Tensor, draw: Tensor) -> tuple[Tensor, ...]:
        """The copies themselves."""
        return noisy(self.inputs, sample, draw, self.levels, self.seeds)


class _Average:
    """Explanations of copies, merged part by part."""

    def __init__(
        self,
        explainer: Any,
        copies: _Copies,
        kwargs: dict[str, Any],
        rows: Tensor | None,
        cut: tuple[bool, ...],
    ) -> None:
        self.explainer, self.copies, self.kwargs, self.rows = explainer, copies, kwargs, rows
        self.cut = cut  # which additional arguments have a row for each sample
        self.dim = 1 if is_nested(kwargs.get("target")) else 0  # of the rows of an attribution
        self.moments: list[_Moments] = []
        self.deltas: list[Tensor] = []

    def add(self, part: slice, as_inputs: bool) -> None:
        """Explain some copies of each sample."""
        sample, draw = self.copies.rows(part)
        found = self.copies.make(sample, draw)
        found = self.explainer.attribute(
            found if as_inputs else found[0], **self._arguments(sample, draw)
        )
        if self.kwargs.get("return_convergence_delta"):
            found, delta = found
            self.deltas.append(delta.unflatten(-1, (-1, part.stop - part.start)))
        self.is_tuple, self.dtypes = isinstance(found, tuple), [a.dtype for a in as_tuple(found)]
        self.moments = self.moments or [_Moments() for _ in self.dtypes]
        for moments, a in zip(self.moments, as_tuple(found), strict=True):
            moments.add(self._by_sample(a, part.stop - part.start), self.dim + 1)

    def _arguments(self, sample: Tensor, draw: Tensor) -> dict[str, Any]:
        batch, arguments = self.copies.batch, dict(self.kwargs)
        if len(sample) != batch:  # else it is the batch as it came in
            for name in PER_SAMPLE & arguments.keys():
                arguments[name] = _repeated(arguments[name], sample, batch)
            if "target" in arguments:
                arguments["target"] = _repeated_target(arguments["target"], sample, batch)
            if any(self.cut):
                extra = extra_arguments(arguments["additional_forward_args"])
                arguments["additional_forward_args"] = taken(extra, self.cut, sample)
        if self.rows is not None:
            which = self.rows[sample * self.copies.count + draw]
            baselines = self.kwargs["baselines"]
            picked = tuple(b[which.to(b.device)] for b in as_tuple(baselines))
            arguments["baselines"] = picked if isinstance(baselines, tuple) else picked[0]
        return arguments

    def _by_sample(self, a: Tensor, k: int) -> Tensor:
        """Rows as [samples, copies, values of one row], in the dtype of sums."""
        wide = a.detach().to(sums_dtype(a))
        rows = self.copies.batch * k
        if k == 1 and a.dim() > self.dim and a.shape[self.dim] % max(1, rows):
            return wide.unflatten(self.dim, (-1, 1, 1))  # the layer's own, of the batch as it came
        if a.dim() <= self.dim or a.shape[self.dim] % max(1, rows):
            raise wrong_value(
                "NoiseTunnel: attribution_method", "must explain each sample by itself",
                f"an attribution of shape {list(a.shape)} for {rows} samples",
                "Let the model return one row for each sample.",
            )  # fmt: skip
        each = a.shape[self.dim] // max(1, rows)
        return wide.unflatten(self.dim, (self.copies.batch, k, each))

    def result(self, nt_type: str) -> Any:
        """The averages as the explainer returns them, and the deltas of the copies."""
        pairs = zip(self.moments, self.dtypes, strict=True)
        found = tuple(
            m.result(nt_type).flatten(self.dim, self.dim + 1).to(dtype) for m, dtype in pairs
        )
        result = found if self.is_tuple else found[0]
        if not self.deltas:
            return result
        return result, torch.cat(self.deltas, -1).flatten(-2)


def _repeated(value: Any, sample: Tensor, batch: int) -> Any:
    """Repeat a value that has a row for each sample for the rows; leave others as they are."""
    if isinstance(value, tuple):
        return tuple(_repeated(v, sample, batch) for v in value)
    if isinstance(value, Tensor) and value.dim() and len(value) == batch:
        return value.index_select(0, sample.to(value.device))
    return value


def _repeated_target(target: Any, sample: Tensor, batch: int) -> Any:
    """The target of each row."""
    if isinstance(target, list) and len(target) == batch:
        return [target[n] for n in sample.tolist()]
    if type(target).__module__ == "numpy":
        target = torch.as_tensor(target, device="cpu")
    return target if isinstance(target, tuple) else _repeated(target, sample, batch)
