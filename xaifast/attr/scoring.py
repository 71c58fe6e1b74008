"""Scores of perturbed inputs: what the methods that only evaluate the model have in common.

There are K perturbations of the N samples. The model returns one row for each sample, and then
several perturbations are evaluated at once, as K' x N rows (perturbation by perturbation); or it
returns one value (or several) for the whole batch, and then perturbations go one by one.

    scores [K, L],   L = targets x N, or N x outputs where no target is named, or the values of the
                     whole batch
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError, describe, wrong_value
from .arguments import Call, check_count, check_even
from .base import progress_bar
from .batching import CPU_BLOCK_FORWARD, batches, check_batch_size, rows_in_memory, run_in_batches
from .evaluation import FEW, Evaluator, GraphModel, Model, rows_at_once

Perturb = Callable[[slice], tuple[Tensor, ...]]  # some of the K perturbations -> rows of inputs
Output = Callable[[Tensor], Tensor]  # what is made of the model's output before it is selected
Explain = Callable[["Scorer", slice], Iterable[Tensor]]  # some samples -> their attributions


class Asked(int):
    """Rows at once that `perturbations_per_eval` asks for; any other size is a bound."""


def perturbations_at_once(
    who: str, size: int | str | None, per_eval: int | None, batch: int
) -> int | str:
    """`internal_batch_size` in rows, from it or from captum's `perturbations_per_eval`."""
    size = "auto" if size is None else size
    check_batch_size(size)
    if per_eval is None:
        return size
    check_count(f"{who}: perturbations_per_eval", per_eval, "Leave it out.")
    if size != "auto":
        raise wrong_value(
            f"{who}: perturbations_per_eval", "and internal_batch_size exclude each other",
            f"{per_eval} and {size}", "Give one of them.",
        )  # fmt: skip
    return Asked(per_eval * max(1, batch))


def probabilities(output: Tensor) -> Tensor:
    """The softmax over the last dimension of a model's output."""
    if output.dim() < 2 or not output.is_floating_point():
        raise ModelError(
            "probability=True needs a model that returns floating outputs [N, ..., classes], for "
            f"the softmax is over the last dimension; it returned {describe(output)}. Leave it out."
        )
    return output.softmax(-1)


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
    change : what is made of each output before the target is selected.

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
        change: Output | None = None,
    ) -> None:
        self.call, self.model, self.size, self.show = call, model, size, show
        self.change = change
        at = call.inputs if point is None else point
        output = self._output(tuple(x.clone() for x in at), None)  # models may write into it
        self.output_shape = tuple(output.shape[1:])
        self.whole = output.dim() == 0 or len(output) != call.batch
        if not call.even and not self.whole:
            if call.batch > 1:
                check_even(call.inputs)
            self.whole = True  # one value, and inputs that are not samples alone
        self.shape = self._leading_shape(output)
        self.initial = self._scores(output, None).flatten()

    def _output(self, rows: tuple[Tensor, ...], samples: Tensor | None) -> Tensor:
        return self._changed(self.model.output(rows, samples))

    def _changed(self, output: Tensor) -> Tensor:
        output = output if self.change is None else self.change(output)
        return output.long() if output.dtype == torch.bool else output

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the model's output; half models may be evaluated in float32."""
        own = {x.dtype for x in self.call.inputs}
        half = own & {torch.float16, torch.bfloat16}
        graph = isinstance(self.model, GraphModel) and self.initial.dtype == torch.float32
        return half.pop() if graph and len(own) == len(half) == 1 else self.initial.dtype

    @property
    def several(self) -> bool:
        """Whether `shape` begins with an axis of targets."""
        return self.call.target is not None and len(self.shape) == 2

    def sample_of(self) -> Tensor:
        """The sample that each of the L scores belongs to, [L]."""
        each = len(self.initial) // max(1, self.call.batch)
        samples = torch.arange(self.call.batch, device="cpu")
        return samples.repeat_interleave(each) if self.call.target is None else samples.repeat(each)

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
        several = (
            self.call.one_target(torch.empty(targets, 0, dtype=torch.float32, device="cpu")).dim()
            == 2
        )
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

    def put(self, scores: Tensor, rows: Tensor, n: int, output: Tensor) -> None:
        """Write into scores [K, L] those of some perturbations of sample n, from their output."""
        output, batch = self._changed(output), self.call.batch
        if self.call.target is None:
            values, own = output.reshape(len(rows), -1), scores.view(len(scores), batch, -1)[:, n]
        else:
            samples = torch.full((len(rows),), n, device="cpu")
            values = self.call.selection(self.output_shape).rows_of(samples).values(output).T
            own = scores.view(len(scores), -1, batch)[:, :, n]
        own[rows.to(own.device)] = values

    def _length(self) -> int:
        length = self.call.batch
        for n in self.output_shape:
            length *= n
        return length

    def evaluate(self, perturb: Perturb, count: int) -> Tensor:
        """Scores [count, L] of perturbations; `perturb(part)` makes the rows of some of them."""
        if self.whole and isinstance(self.size, Asked) and self.size > max(1, self.call.batch):
            raise wrong_value(
                f"{self.call.who}: perturbations_per_eval",
                "must be 1 for a model that returns one value for the whole batch",
                self.size // max(1, self.call.batch), "Leave it out.",
            )  # fmt: skip
        at_once = 1 if self.whole else self._perturbations_at_once(count)
        try:
            return self._all(perturb, count, at_once)
        except _DoesNotGrowError:  # as many values for the batch as it has samples, by chance
            if isinstance(self.size, Asked):
                raise
            self.whole = True
            return self._all(perturb, count, 1)

    def _all(self, perturb: Perturb, count: int, at_once: int) -> Tensor:
        parts: list[Tensor] = []
        with progress_bar(count, self.call.who, self.show) as bar:

            def work(part: slice) -> None:
                parts.append(self._evaluate(perturb(part), part.stop - part.start))
                bar.update(part.stop - part.start)

            run_in_batches(count, at_once, work, self.size == "auto")
        return torch.cat(parts) if parts else self.initial.new_zeros((0, len(self.initial)))

    def _perturbations_at_once(self, count: int) -> int:
        """As many as are asked for; or as many as fit, in batches of one size."""
        batch = max(1, self.call.batch)
        rows = rows_at_once(self.model, self.size, count * batch, CPU_BLOCK_FORWARD)
        most = max(1, rows // batch)
        return most if isinstance(self.size, Asked) else -(-count // max(1, -(-count // most)))

    def _evaluate(self, rows: tuple[Tensor, ...], count: int) -> Tensor:
        samples = None if self.whole else torch.arange(self.call.batch, device="cpu").repeat(count)
        output = self._output(rows, samples)
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


# ---- all samples, or blocks of them ------------------------------------------------------------


def _samples_at_once(model: Model, size: int | str) -> int:
    """How many samples to explain at once: all that may be evaluated at once."""
    call = model.call
    if call.batch <= 1 or not call.even:
        return max(1, call.batch)
    if size != "auto":
        return int(size)
    if call.batch <= FEW:  # what came in together fits together
        return call.batch
    return max(2, rows_in_memory(model.need(), call.inputs[0].device))


def explain_in_blocks(
    evaluator: Evaluator,
    call: Call,
    count: int,
    size: int | str,
    explain: Explain,
    **options: Any,
) -> Any:
    """Explain the samples, or one block of them after the other where not all fit at once.

    Parameters
    ----------
    evaluator, call : what is explained, and how it is evaluated.
    count : evaluations for each sample, to judge what pays.
    size : rows at once, or "auto".
    explain : from the scorer of a block and the place of the block, the attributions of each input;
        their samples (or samples x outputs) come first, or second behind an axis of targets.
    options : further arguments of the `Scorer`.
    """
    total = count * call.batch if call.even else 1
    model = evaluator.model(call, total)
    rows = _samples_at_once(model, size)
    if rows >= call.batch:
        scorer = Scorer(call, model, size, **options)
        return call.result(explain(scorer, slice(0, call.batch)))
    parts, axis = [], 0
    for block in batches(call.batch, rows):
        part = call.part(block)
        scorer = Scorer(part, evaluator.model(part, total), size, **options)
        if scorer.whole:
            raise wrong_value(
                "internal_batch_size",
                f"must be at least {call.batch}, the size of the batch, for a model that returns "
                "one value for the whole batch", rows, "Leave it out.",
            )  # fmt: skip
        parts.append(explain(scorer, block))
        axis = int(scorer.several)
    return call.result(torch.cat(p, axis) for p in zip(*parts, strict=True))
