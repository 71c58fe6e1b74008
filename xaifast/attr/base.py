"""Base classes of the explainers of functions, by captum's names."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..engine.arguments import (
    Call,
    Fixed,
    as_tuple,
    check_function,
    check_per_sample,
    make_call,
    plain_mode,
)
from ..engine.baselines import check_baselines
from ..engine.evaluation import Evaluator
from ..errors import wrong_value


class Attribution(Fixed):
    """An explainer of a function: anything that maps inputs [N, ...] to outputs [N, ...].

    Parameters
    ----------
    forward_func : callable
        The model, or a function that calls it.
    optimize : bool, optional
        Whether a module is evaluated on its canonical graph (batch norm folded, channels last,
        packed weights; the same function): True: always; False: never, the module is called as it
        is; None: where that pays, for a convolutional module that is evaluated 32 times or more.
    per_sample : tuple of bools, optional
        For each of the additional arguments of the model, whether it has a row for each sample.
        None: found out by the model's graph, or by evaluating it. That it has as many rows as
        there are samples says nothing.

    Notes
    -----
    Many perturbed rows are evaluated at once only where each row of the output is shown to depend
    on its own row of the inputs alone. Where it is not (samples that see each other, a bag that
    forward unpacks, a batch in another dimension), the batch is evaluated as it came in, one change
    at a time, as captum does by default: right, and slower.
    """

    def __init__(
        self,
        forward_func: Callable,
        *,
        optimize: bool | None = None,
        per_sample: tuple[bool, ...] | None = None,
    ) -> None:
        name = type(self).__name__
        self.forward_func = check_function(name, forward_func)
        self.optimize = optimize
        self.per_sample = check_per_sample(name, per_sample)
        self._evaluator = Evaluator(forward_func, optimize, isinstance(self, GradientAttribution))

    def _call(
        self, inputs: Any, target: Any, additional: Any, floating: bool = True, even: bool = True
    ) -> Call:
        """Check the arguments of `attribute`; see `make_call`."""
        return make_call(
            type(self).__name__, self.forward_func, inputs, target, additional, floating, even,
            self.per_sample,
        )  # fmt: skip

    def attribute(self, *args: Any, **kwargs: Any) -> Any:
        """Explain; each explainer says what it takes."""
        raise NotImplementedError

    def attribute_future(self, *args: Any, **kwargs: Any) -> torch.Future:
        """Explain a function that returns futures; for perturbation methods only."""
        raise NotImplementedError(
            f"{type(self).__name__} has no attribute_future, for there is no gradient of a future. "
            "Call attribute."
        )

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether attributions are in the units of the output (and not of its gradient)."""
        return False

    def has_convergence_delta(self) -> bool:
        """Whether `attribute` can return a convergence delta."""
        return False

    @classmethod
    def get_name(cls) -> str:
        """The name in words: "Integrated Gradients"."""
        return _in_words(cls.__name__)

    def __repr__(self) -> str:
        kind = type(self.forward_func).__name__
        return f"{type(self).__name__}({kind})"


class GradientAttribution(Attribution):
    """An explainer by gradients, whose attributions sum to a difference of outputs."""

    def compute_convergence_delta(
        self,
        attributions: Tensor | tuple[Tensor, ...],
        start_point: Any,
        end_point: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Tensor:
        """Compute the completeness gap: sum of attributions - (F(end) - F(start)), per sample.

        Parameters
        ----------
        attributions : like the inputs
        start_point : the baselines, in any of their forms.
        end_point : the inputs.
        target, additional_forward_args : as in `attribute`.

        Returns
        -------
        Tensor [N]
        """
        name = type(self).__name__
        call = self._call(end_point, target, additional_forward_args, floating=False)
        (start, *more) = check_baselines(name, start_point, call.inputs)
        if more:
            raise wrong_value(
                f"{name}: start_point", "must be one baseline", start_point, "Call it for each."
            )
        with plain_mode(), torch.no_grad():
            model = self._evaluator.model(call, 2 * call.batch)
            whole = tuple(b.expand_as(x) for b, x in zip(start, call.inputs, strict=True))
            end_out, start_out = model.output(call.inputs), model.output(whole)
            select = call.chosen(end_out).values
            difference = (select(end_out) - select(start_out))[0]
        total = sum(a.reshape(len(a), -1).sum(1) for a in as_tuple(attributions))
        return total - difference.to(total)


class PerturbationAttribution(Attribution):
    """An explainer that evaluates the model on changed inputs, and needs no gradient."""

    def _perturbed(self, inputs: Any, target: Any, additional: Any) -> Call:
        """The call of a method that needs neither gradients nor equal numbers of samples."""
        return self._call(inputs, target, additional, floating=False, even=False)

    def attribute_future(self, *args: Any, **kwargs: Any) -> torch.Future:
        """Do what `attribute` does, and return the result in a future that is done.

        `forward_func` may return futures itself; they are waited for.
        """
        future: torch.Future = torch.Future([])  # the class itself, as captum's
        future.set_result(self.attribute(*args, **kwargs))
        return future

    @property
    def multiplies_by_inputs(self) -> bool:
        """Attributions are in the units of the output."""
        return True


def _in_words(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)


def progress_bar(total: int, name: str, show: bool) -> tqdm:
    """A progress bar over rows of the model's input, if asked for."""
    return tqdm(total=total, desc=f"{_in_words(name)} attribution", unit="row", disable=not show)
