"""Scores of perturbed inputs: what the methods that only evaluate the model have in common.

There are K perturbations of the N samples. The model returns one row for each sample, and then
several perturbations are evaluated at once, as K' x N rows (perturbation by perturbation); or it
returns one value (or several) for the whole batch, and then perturbations go one by one.

    scores [K, L],   L = targets x N, or N x outputs where no target is named, or the values of the
                     whole batch
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import ModelError, wrong_type, wrong_value
from .arguments import Call
from .base import progress_bar
from .batching import run_in_batches
from .evaluation import Model, rows_at_once

Perturb = Callable[[slice], tuple[Tensor, ...]]  # some of the K perturbations -> rows of inputs


def perturbations_at_once(who: str, size: int | str, per_eval: int | None, batch: int) -> int | str:
    """`internal_batch_size` in rows, from it or from captum's `perturbations_per_eval`."""
    if per_eval is None:
        return size
    if isinstance(per_eval, bool) or not isinstance(per_eval, int):
        raise wrong_type(
            f"{who}: perturbations_per_eval", "must be an int", per_eval, "Leave it out."
        )
    if per_eval < 1:
        raise wrong_value(
            f"{who}: perturbations_per_eval", "must be at least 1", per_eval, "Leave it out."
        )
    if size != "auto":
        raise wrong_value(
            f"{who}: perturbations_per_eval", "and internal_batch_size exclude each other",
            f"{per_eval} and {size}", "Give one of them.",
        )  # fmt: skip
    return per_eval * max(1, batch)


class _DoesNotGrowError(ModelError):
    """More rows went in, and not more came out."""


class Scorer:
    """Scores of a call's inputs, and of perturbations of them.

    Parameters
    ----------
    call, model : what is explained, and how it is evaluated.
    size : rows at once, or "auto".
    show : whether to show a progress bar.
    point : where to evaluate first; default the inputs themselves.

    Attributes
    ----------
    initial : Tensor [L]
        The scores at `point`.
    shape : tuple
        The leading dimensions of an attribution, L elements: (N,), (targets, N), (N, *output) or
        those of the value of the whole batch.
    whole : bool
        Whether the model returns values for the whole batch, not for each sample.
    """

    def __init__(
        self,
        call: Call,
        model: Model,
        size: int | str,
        show: bool = False,
        point: tuple[Tensor, ...] | None = None,
    ) -> None:
        self.call, self.model, self.size, self.show = call, model, size, show
        output = model.output(call.inputs if point is None else point)
        self.output_shape = tuple(output.shape[1:])
        self.whole = output.dim() == 0 or len(output) != call.batch
        self.shape = self._leading_shape(output)
        self.initial = self._scores(output, None).flatten()

    def _leading_shape(self, output: Tensor) -> tuple[int, ...]:
        if self.call.target is None:
            if self.whole:
                return tuple(output.shape) or (1,)
            each = self.output_shape if output[:1].numel() != 1 else ()
            return (self.call.batch, *each)
        if self.whole and output.dim() == 0:
            raise ModelError(
                f"{self.call.who}: target must be None for a model that returns one value for the "
                f"whole batch; got {self.call.target!r}. Leave it out."
            )
        batch = len(output)
        targets = self.call.selection(self.output_shape).targets
        several = self.call.one_target(torch.empty(targets, 0)).dim() == 2
        return (targets, batch) if several else (batch,)

    def _scores(self, output: Tensor, samples: Tensor | None) -> Tensor:
        """Scores of K' perturbations, [K', L], from the output for their rows."""
        if self.call.target is None:
            return output.reshape(1, -1) if self.whole else output.reshape(-1, self._length())
        selection = self.call.selection(self.output_shape)
        rows = None if samples is None or self.whole else samples
        values = selection.rows_of(rows).values(output)  # [targets, rows]
        batch = len(output) if self.whole else self.call.batch
        return values.unflatten(1, (-1, batch)).movedim(1, 0).flatten(1)

    def _length(self) -> int:
        length = self.call.batch
        for n in self.output_shape:
            length *= n
        return length

    def evaluate(self, perturb: Perturb, count: int) -> Tensor:
        """Scores [count, L] of perturbations; `perturb(part)` makes the rows of some of them."""
        if self.whole and isinstance(self.size, int) and self.size > self.call.batch:
            raise wrong_value(
                f"{self.call.who}: perturbations_per_eval",
                "must be 1 for a model that returns one value for the whole batch",
                self.size // max(1, self.call.batch), "Leave it out.",
            )  # fmt: skip
        at_once = 1 if self.whole else self._perturbations_at_once(count)
        try:
            return self._all(perturb, count, at_once)
        except _DoesNotGrowError:
            if self.size != "auto" or self.call.batch > 1:
                raise
            return self._all(perturb, count, 1)  # one value for a batch of one: never two at once

    def _all(self, perturb: Perturb, count: int, at_once: int) -> Tensor:
        parts: list[Tensor] = []
        with progress_bar(count, self.call.who, self.show) as bar:

            def work(part: slice) -> None:
                parts.append(self._evaluate(perturb(part), part.stop - part.start))
                bar.update(part.stop - part.start)

            run_in_batches(count, at_once, work, self.size == "auto")
        return torch.cat(parts) if parts else self.initial.new_zeros((0, len(self.initial)))

    def _perturbations_at_once(self, count: int) -> int:
        batch = max(1, self.call.batch)
        return max(1, rows_at_once(self.model, self.size, count * batch) // batch)

    def _evaluate(self, rows: tuple[Tensor, ...], count: int) -> Tensor:
        samples = None if self.whole else torch.arange(self.call.batch).repeat(count)
        output = self.model.output(rows, samples)
        if not self.whole and (output.dim() < 1 or len(output) != len(rows[0])):
            raise _DoesNotGrowError(
                f"{self.call.who}: the model returned a tensor of shape {list(output.shape)} for "
                f"{len(rows[0])} rows: its output does not grow with the batch. Pass "
                "perturbations_per_eval=1, or return one row for each sample."
            )
        return self._scores(output, samples)

    def shaped(self, attribution: Tensor, x: Tensor) -> Tensor:
        """An attribution [L, ...] of an input as it goes out."""
        return attribution.reshape(*self.shape, *x.shape[1:])
