"""Scores of perturbed inputs: what the methods that only evaluate the model have in common.

There are K perturbations of the N samples. Where each row of the output is shown to belong to one
sample (see `independence`), several perturbations are evaluated at once, as K' x N rows
(perturbation by perturbation). Else perturbations go one by one, on the batch as it came in: where
rows see each other, or the model returns one value (or several) for the whole batch.

    scores [K, L],   L = targets x N, or N x outputs where no target is named, or the values of the
                     whole batch
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ...engine.arguments import Call, check_count, check_even
from ...engine.batching import (
    CPU_BLOCK_FORWARD,
    batches,
    check_batch_size,
    rows_in_memory,
    run_in_batches,
)
from ...engine.evaluation import (
    FEW,
    Evaluator,
    GraphModel,
    Model,
    check_rows,
    check_undivided,
    doubt,
    rows_at_once,
)
from ...errors import ModelError, describe, wrong_value
from ..base import progress_bar

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
    apart : bool
        Whether each row of the output is shown to belong to one sample alone.
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
        raw = self.model.output(tuple(x.clone() for x in at), None)  # models may write into it
        self._known = raw if point is None else None
        output = self._changed(raw)
        self.output_shape = tuple(output.shape[1:])
        self.whole = output.dim() == 0 or len(output) != call.batch
        if not call.even and not self.whole:
            if call.batch > 1:
                check_even(call.inputs)
            self.whole = True  # one value, and inputs that are not samples alone
        self.shape = self._leading_shape(output)
        self.initial = self._scores(output, None).flatten()

    @property
    def apart(self) -> bool:
        """See the class; looked for where it is needed."""
        if self.whole:
            return False
        known, self._known = self._known, None
        return self.model.look(known).apart

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
        targets = self.call.chosen(output).targets
        several = (
            self.call.one_target(torch.empty(targets, 0, dtype=torch.float32, device="cpu")).dim()
            == 2
        )
        return (targets, batch) if several else (batch,)

    def _scores(self, output: Tensor, samples: Tensor | None) -> Tensor:
        """Scores of K' perturbations, [K', L], from the output for their rows."""
        if self.call.target is None:
            return output.reshape(1, -1) if self.whole else output.reshape(-1, self._length())
        values = self.call.chosen(output, samples).values(output)  # [targets, rows]
        batch = len(output) if samples is None else self.call.batch
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
        at_once = 1 if count == 1 or self.whole else self._perturbations_at_once(count)
        parts: list[Tensor] = []
        with progress_bar(count, self.call.who, self.show) as bar:

            def work(part: slice) -> None:
                parts.append(self._evaluate(perturb(part), part.stop - part.start))
                bar.update(part.stop - part.start)

            run_in_batches(count, at_once, work, self.size == "auto")
        return torch.cat(parts) if parts else self.initial.new_zeros((0, len(self.initial)))

    def _perturbations_at_once(self, count: int) -> int:
        """As many as are asked for; or as many as fit, in batches of one size.

        One where rows are not shown to be apart: more would be right by chance alone.
        """
        batch = max(1, self.call.batch)
        if not self.apart:
            asked = isinstance(self.size, Asked) and self.size > batch
            if asked and not self.model.look().grows:  # as many values as samples, by chance
                raise ModelError(
                    f"{self.call.who}: more rows went into the model and not more came out: "
                    "its output does not grow with the batch. Pass perturbations_per_eval=1, or "
                    "return one row for each sample."
                )
            return 1
        rows = rows_at_once(self.model, self.size, count * batch, CPU_BLOCK_FORWARD)
        most = max(1, rows // batch)
        return most if isinstance(self.size, Asked) else -(-count // max(1, -(-count // most)))

    def _evaluate(self, rows: tuple[Tensor, ...], count: int) -> Tensor:
        samples = None if count == 1 else torch.arange(self.call.batch, device="cpu").repeat(count)
        output = self._output(rows, samples)
        if samples is None and not self.whole and self.call.batch == len(rows[0]):
            check_rows(output, self.call.batch, self.call.who)
        elif samples is not None:
            check_rows(output, len(rows[0]), self.call.who)
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
    alone: bool = False,
    **options: Any,
) -> Any:
    """Explain the samples, or one block of them after the other where not all fit at once.

    Samples whose rows are not shown to be apart are explained together, or each alone.

    Parameters
    ----------
    evaluator, call : what is explained, and how it is evaluated.
    count : evaluations for each sample, to judge what pays.
    size : rows at once, or "auto".
    explain : from the scorer of a block and the place of the block, the attributions of each input;
        their samples (or samples x outputs) come first, or second behind an axis of targets.
    alone : whether a sample that may depend on others is explained without them.
    options : further arguments of the `Scorer`.
    """
    total = count * call.batch if call.even else 1
    model = evaluator.model(call, total)
    rows = _samples_at_once(model, size)
    if rows < call.batch and not alone and not model.apart:
        check_undivided(call, size)
        rows = call.batch
    if rows >= call.batch:
        scorer = Scorer(call, model, size, **options)
        if not alone or call.batch == 1 or scorer.whole or scorer.apart:
            return call.result(explain(scorer, slice(0, call.batch)))
        rows = 1
    if not model.apart:
        _check_grows(model)
        rows = 1
    parts, axis = [], 0
    for block in batches(call.batch, rows):
        part = call.part(block)
        scorer = _scorer_of(part, evaluator.model(part, total), size, options)
        parts.append(explain(scorer, block))
        axis = int(scorer.several)
    return call.result(torch.cat(p, axis) for p in zip(*parts, strict=True))


def _check_grows(model: Model) -> None:
    """Refuse as many values as there are samples that are not of one sample each."""
    call = model.call
    if not model.look().grows:
        raise ModelError(
            f"{call.who}: the model returned {call.batch} values for as many samples, but no more "
            "for more samples. Return one row for each sample, or one value for all."
        )


def _scorer_of(call: Call, model: Model, size: int | str, options: dict[str, Any]) -> Scorer:
    """The scorer of some samples, without the others."""
    try:
        return Scorer(call, model, size, **options)
    except ModelError as error:
        if model.apart:
            raise
        raise ModelError(
            f"{call.who} explains each sample without the others where they may depend on each "
            f"other{doubt(call)}, and the model does not take one alone: {error}"
        ) from error
