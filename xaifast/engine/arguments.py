"""The arguments that all explainers share: inputs, additional arguments, the mode they run in."""

from __future__ import annotations

import operator
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.eval_frame import OptimizedModule

from ..errors import FixedError, describe, wrong_type, wrong_value
from ..graph.capture.modules import check_model, has_own_hooks, unwrap
from .independence import Rows, as_given, may_be_per_sample, taken
from .target import Selection, select


def as_tuple(inputs: Any) -> tuple:
    """One input or several, as a tuple."""
    return inputs if isinstance(inputs, tuple) else (inputs,)


def extra_arguments(additional: Any) -> tuple:
    """`additional_forward_args` as a tuple."""
    if additional is None:
        return ()
    return additional if isinstance(additional, tuple) else (additional,)


@contextmanager
def plain_mode() -> Iterator[None]:
    """Neither inference mode nor autocast: relevance is computed in the inputs' own precision."""
    cpu, cuda = (torch.autocast(device, enabled=False) for device in ("cpu", "cuda"))
    with torch.inference_mode(False), cpu, cuda:
        yield


def check_inputs(inputs: tuple, even: bool = True) -> int:
    """Check the inputs to explain; return the batch size, that of the first where they differ."""
    if not inputs:
        raise wrong_value(
            "inputs", "must hold at least one tensor", "an empty tuple", "Pass x or (x, y)."
        )
    for x in inputs:
        if not isinstance(x, Tensor):
            raise wrong_type(
                "inputs", "must be a tensor or a tuple of tensors", x, "Use torch.as_tensor."
            )
        if x.layout != torch.strided or x.is_meta:
            raise wrong_type("inputs", "must be dense and hold data", x, "Use x.to_dense().")
        if x.dim() < 1:
            raise wrong_value(
                "inputs", "must have the batch as first dimension", x, "Use x.unsqueeze(0)."
            )
        if x.is_floating_point() and not _is_finite(x):
            raise wrong_value(
                "inputs", "must be finite", "NaN or infinite values", "Clean them first."
            )
    if even:
        check_even(inputs)
    return len(inputs[0])


def _is_finite(x: Tensor) -> bool:
    """Whether no value is NaN or infinite: a finite sum tells so in one pass, without a copy."""
    return bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all())


def check_even(inputs: tuple) -> None:
    """Refuse inputs with different numbers of samples."""
    sizes = [len(x) for x in inputs]
    if len(set(sizes)) > 1:
        raise wrong_value("inputs", "must share one batch size", f"{sizes}", "Give all the same N.")


def check_count(name: str, value: Any, do: str) -> int:
    """Return what must be an int of at least 1."""
    try:
        if isinstance(value, bool):
            raise TypeError
        count = operator.index(value)
    except TypeError:
        raise wrong_type(name, "must be an int", describe(value), do) from None
    if count < 1:
        raise wrong_value(name, "must be at least 1", count, do)
    return count


# ---- one call of a function method -------------------------------------------------------------


def check_function(who: str, function: object) -> Callable:
    """Return what a function method may explain: anything that can be called."""
    if not callable(function):
        raise wrong_type(
            f"{who}: forward_func", "must be a module or a function", function,
            "Pass the model, or a function of the inputs that calls it.",
        )  # fmt: skip
    return function


def runs_as(module: nn.Module, forward: object) -> bool:
    """Whether a call of a module is this function of its class, and nothing else."""
    own = "forward" not in vars(module) and type(module).forward is forward
    return own and type(module).__call__ is nn.Module.__call__ and not has_own_hooks(module)


def module_of(function: Callable) -> nn.Module | None:
    """The module behind a function, out of its wrappers, if it is one or its `forward`.

    As it is now: a hook that is added to a module makes its `forward` another function.
    """
    owner: Any = function
    if not isinstance(function, nn.Module):
        owner = getattr(function, "__self__", None)
        if not isinstance(owner, nn.Module) or not isinstance(function, types.MethodType):
            return None
        if not runs_as(owner, function.__func__):
            return None
    module = unwrap(owner)
    # A compiled module with a forward of its own can only be called.
    return None if isinstance(module, OptimizedModule) else module


class Fixed:
    """An explainer: what it explains, and how, is fixed when it is made."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in FIXED and hasattr(self, name):
            raise FixedError(
                f"{type(self).__name__}.{name} is fixed when an explainer is made; make a new one "
                "with the other value. It costs nothing: what is captured belongs to the model."
            )
        super().__setattr__(name, value)


FIXED = {
    "model", "forward_func", "composite", "layer", "attribution_method", "precision", "verify",
    "optimize", "per_sample", "dialect",
}  # fmt: skip


class OfModule(Fixed):
    """An explainer of a module, out of the wrappers that do nothing more than the module inside."""

    _given_model: nn.Module

    @property
    def model(self) -> nn.Module:
        """The module that is explained, as it is now: a wrapper with a hook is the model."""
        return check_model(type(self).__name__, self._given_model)


def _clean(x: Tensor) -> Tensor:
    """A tensor that autograd may look at, and that is not the user's leaf."""
    with torch.inference_mode(False):
        return x.clone() if x.is_inference() else x.detach()


@dataclass(eq=False)
class Call:
    """The checked arguments of one call of `attribute`.

    who: the explainer's name; single: one tensor came in, so one goes out; extra: additional
    arguments of the model; declared: which of them the user says have a row for each sample; rows:
    what is known of the rows, once a model of this call has looked (see `evaluation`); unused: what
    the output has been shown not to depend on.
    """

    who: str
    function: Callable
    inputs: tuple[Tensor, ...]
    single: bool
    extra: tuple
    target: Any
    batch: int
    declared: tuple[bool, ...] | None = None
    rows: Rows | None = None
    unused: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.selection: Callable[[tuple[int, ...]], Selection] = lru_cache(4)(self._selection)
        self._selection_of_rows = lru_cache(4)(self._selection)

    def _selection(self, shape: tuple[int, ...], rows: int | None = None) -> Selection:
        """The outputs to explain, for outputs of this shape (without the batch)."""
        batch = self.batch if rows is None else rows
        return select(self.target, tuple(int(n) for n in shape), batch)

    def chosen(self, output: Tensor, samples: Tensor | None = None) -> Selection:
        """The outputs to explain, in an output for rows that belong to these samples.

        None: for the batch as it came in; what it makes of that need not have as many rows.
        """
        shape = output.shape[1:]
        if samples is None and len(output) != self.batch:
            return self._selection_of_rows(shape, len(output))
        return self.selection(shape).rows_of(samples)

    @property
    def arguments(self) -> tuple:
        """All that the model is called with."""
        return (*self.inputs, *self.extra)

    @property
    def even(self) -> bool:
        """Whether all inputs have the same number of samples."""
        return all(len(x) == self.batch for x in self.inputs)

    @property
    def empty(self) -> bool:
        """Whether there is no sample in any input."""
        return not any(len(x) for x in self.inputs)

    def part(self, rows: slice) -> Call:
        """The same call for some of its samples."""
        samples = torch.arange(rows.start, rows.stop, device="cpu")
        inputs = tuple(x[rows] for x in self.inputs)
        part = replace(self, inputs=inputs, extra=self.extra_rows(samples), batch=len(samples))
        part.selection = lambda shape: self.selection(shape).rows(rows)
        return part

    @property
    def extra_in_doubt(self) -> bool:
        """Whether some additional argument could have a row for each sample."""
        return any(may_be_per_sample(x, self.batch) for x in self.extra)

    @property
    def extra_per_sample(self) -> bool:
        """Whether some additional argument has a row for each sample."""
        return any(self._known.per_sample)

    @property
    def _known(self) -> Rows:
        """Knowledge of the rows; where there is none, the user's word on the arguments."""
        if self.rows is not None:
            return self.rows
        return as_given(self.extra) if self.declared is None else Rows(False, self.declared)

    def extra_rows(self, samples: Tensor | None) -> tuple:
        """Additional arguments for rows that belong to these samples (None: as they came in)."""
        return self.extra if samples is None else taken(self.extra, self._known.per_sample, samples)

    def as_given(self, parts: Any) -> Any:
        """One tensor or a tuple of them, as the inputs were."""
        parts = tuple(parts)
        return parts[0] if self.single else parts

    def result(self, parts: Any) -> Any:
        """Attributions as they go out: contiguous, or channels last where the inputs are."""
        return self.as_given(_in_memory(a, self.inputs) for a in parts)

    def one_target(self, x: Tensor) -> Tensor:
        """Without the axis of targets [targets, ...] where each sample has one target."""
        return x if isinstance(self.target, str) or is_nested(self.target) else x[0]

    def nothing(self, with_delta: bool = False) -> Any:
        """The result for a batch of no samples."""
        result = self.result(torch.zeros_like(x) for x in self.inputs)
        return (result, self.inputs[0].new_zeros(0)) if with_delta else result

    def shaped(self, attributions: Any) -> Any:
        """Attributions [targets, N, ...] as they go out, in the inputs' dtype."""
        pairs = zip(attributions, self.inputs, strict=True)
        return self.result(in_dtype(self.one_target(a), x.dtype) for a, x in pairs)


def _in_memory(attribution: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
    """An attribution that `view` takes, as it takes the inputs."""
    for layout in (torch.channels_last, torch.channels_last_3d):
        kept = [x for x in (attribution, *inputs) if x.is_contiguous(memory_format=layout)]
        if len(kept) > 1 and kept[0] is attribution:
            return attribution
    return attribution.contiguous()


def in_dtype(attribution: Tensor, dtype: torch.dtype) -> Tensor:
    """An attribution in the dtype of its input, if that can hold it: float16 ends at 65504."""
    out = attribution.to(dtype)
    if dtype == torch.float16 and (out.isinf() & attribution.isfinite()).any():
        raise wrong_value(
            "inputs", "must have a dtype that can hold what they are attributed",
            f"{dtype}, and attributions up to {float(attribution.abs().max()):.3g}",
            "Pass them in float32.",
        )  # fmt: skip
    return out


def is_nested(target: Any) -> bool:
    """Whether a target names several outputs for each sample."""
    if isinstance(target, Tensor) or type(target).__module__ == "numpy":
        return target.ndim == 2 and str(target.dtype) not in ("torch.bool", "bool")
    return isinstance(target, list) and bool(target) and isinstance(target[0], list)


def make_call(
    who: str,
    function: Callable,
    inputs: Any,
    target: Any,
    additional: Any,
    floating: bool = True,
    even: bool = True,
    per_sample: tuple[bool, ...] | None = None,
) -> Call:
    """Check what all function methods are given.

    Parameters
    ----------
    who : name of the explainer, for errors.
    function : the user's model or function.
    inputs : one tensor or a tuple.
    target : in any form of `target.FORMS`.
    additional : `additional_forward_args`.
    floating : whether the inputs must have gradients.
    even : whether the inputs must have the same number of samples.
    per_sample : which additional arguments have a row for each sample; None: not said.

    Raises
    ------
    ValueError, TypeError
        If an input does not fit.
    """
    given = as_tuple(inputs)
    batch = check_inputs(given, even)
    for i, x in enumerate(given):
        if floating and not x.is_floating_point():
            raise wrong_type(
                f"{who}: inputs", "must be floating, for there is no gradient by integers", x,
                "Explain the output of the embedding instead (a Layer... explainer), or pass the "
                f"input (number {i}) by additional_forward_args.",
            )  # fmt: skip
    extra = tuple(_clean(x) if isinstance(x, Tensor) else x for x in extra_arguments(additional))
    cleaned = tuple(_clean(x) for x in given)
    single = not isinstance(inputs, tuple)
    declared = check_declared(who, per_sample, extra, batch)
    return Call(who, function, cleaned, single, extra, target, batch, declared)


def check_per_sample(who: str, per_sample: Any) -> tuple[bool, ...] | None:
    """Return what is None or a tuple of bools, one for each additional argument."""
    if per_sample is None:
        return None
    given = tuple(per_sample) if isinstance(per_sample, (tuple, list)) else (per_sample,)
    if not all(isinstance(p, bool) for p in given):
        raise wrong_type(
            f"{who}: per_sample", "must be a tuple of bools", describe(per_sample),
            "Give one for each additional argument: whether it has a row for each sample.",
        )  # fmt: skip
    return given


def check_declared(
    who: str, per_sample: tuple[bool, ...] | None, extra: tuple, batch: int
) -> tuple[bool, ...] | None:
    """Refuse what the user says of the additional arguments where it does not fit them."""
    if per_sample is None:
        return None
    if len(per_sample) != len(extra):
        raise wrong_value(
            f"{who}: per_sample", f"must hold one bool for each of the {len(extra)} additional "
            "arguments", describe(per_sample), "Say of each whether it has a row for each sample.",
        )  # fmt: skip
    for i, (x, row) in enumerate(zip(extra, per_sample, strict=True)):
        if row and not may_be_per_sample(x, batch):
            raise wrong_value(
                f"{who}: additional_forward_args", f"must, where per_sample is True, be a tensor "
                f"with one row for each of the {batch} samples", f"{describe(x)} (number {i})",
                "Say False of it.",
            )  # fmt: skip
    return per_sample
