"""Whether rows of a call may be evaluated together or apart: what every batch of ours rests on.

Perturbed copies, steps and draws of several samples ride in one batch only where row i of the
output depends on row i of the inputs alone. A graph shows it node by node (`graph.independence`);
for any other callable it is tried: some rows are evaluated as they are and once more with other
rows before and behind them, which hold other values. Where rows see each other, where the model
takes this number of rows only, or where it draws, the two differ (or the second fails), and the
batch is evaluated as the user gave it, one perturbation at a time.

Whether an additional argument has a row for each sample is found in the same way, with the argument
cut along with the inputs and with it whole; that it has as many rows as there are samples says
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

# Of what is evaluated, all of which must have a row for each row of the inputs.
Evaluate = Callable[[tuple[Tensor, ...], tuple], list[Tensor]]  # (inputs, extra) -> tensors

# How far the same row may differ in batches of different sizes: as a part of how far outputs differ
# from each other, for other kernels sum in another order.
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
COARSE = 1e-2  # float32 where products are rounded to TF32
MOST_TRIED = 4  # arguments of N rows, of which all combinations are tried
FEW = 2  # rows that are compared on a CPU, where an index out of range is an error like others


@dataclass(frozen=True)
class Rows:
    """Knowledge of the rows of a call.

    apart: row i of the output is shown to depend on row i alone; per_sample: which additional
    arguments have a row for each sample; grows: more rows come out where more go in.
    """

    apart: bool
    per_sample: tuple[bool, ...]
    grows: bool = True


def as_given(extra: tuple, grows: bool = True) -> Rows:
    """Rows that are evaluated as the user gave them."""
    return Rows(False, (False,) * len(extra), grows)


def may_be_per_sample(x: Any, batch: int) -> bool:
    """Whether an additional argument could have a row for each sample."""
    return isinstance(x, Tensor) and x.dim() > 0 and len(x) == batch


def taken(extra: tuple, per_sample: tuple[bool, ...], samples: Tensor) -> tuple:
    """Additional arguments for rows that belong to these samples."""
    return tuple(
        x.index_select(0, samples.to(x.device)) if row else x
        for x, row in zip(extra, per_sample, strict=True)
    )


@torch.no_grad()
def rows_by_trial(
    inputs: tuple[Tensor, ...],
    extra: tuple,
    declared: tuple[bool, ...] | None,
    evaluate: Evaluate,
    known: list[Tensor] | None = None,
) -> Rows:
    """Evaluate a few rows as they are, and among others; see the module.

    Parameters
    ----------
    inputs, extra : of the call.
    declared : which additional arguments have a row for each sample, if the user has said so.
    evaluate : without gradients.
    known : what it returns for the whole call, where that is known already.
    """
    batch = len(inputs[0])
    if not batch or any(len(x) != batch for x in inputs):
        return as_given(extra)
    trial = _Trial(inputs, extra, evaluate, known and [y.detach() for y in known])
    found, grows = [], True
    for per_sample in _ways(extra, batch, declared):
        outcome = trial.run(per_sample)
        if outcome is None:
            continue
        grows = grows and outcome.grows
        if outcome.same:
            found.append((per_sample, outcome.alone))
    if not found or any(not _equal(found[0][1], alone) for _, alone in found[1:]):
        return as_given(extra, grows)
    return Rows(True, found[-1][0])


def _ways(
    extra: tuple, batch: int, declared: tuple[bool, ...] | None
) -> Iterator[tuple[bool, ...]]:
    """Which arguments to cut, to be tried one after the other; last that none is."""
    if declared is not None:
        yield declared
        return
    possible = [may_be_per_sample(x, batch) for x in extra]
    if sum(possible) > MOST_TRIED:
        yield tuple(possible)
        yield (False,) * len(extra)
        return
    yield from product(*[(True, False) if p else (False,) for p in possible])


@dataclass(frozen=True)
class _Outcome:
    """The outcome of one trial."""

    same: bool
    grows: bool
    alone: list[Tensor]


class _Trial:
    """The rows that are compared, and the others."""

    def __init__(
        self, inputs: tuple[Tensor, ...], extra: tuple, evaluate: Evaluate, known: Any
    ) -> None:
        self.extra, self.evaluate, self.known = extra, evaluate, known
        batch = len(inputs[0])
        # An index beyond the rows is an error that other devices do not recover from.
        everywhere = any(x.device.type != "cpu" for x in inputs)
        self.count = batch if everywhere or (known is not None and batch <= FEW) else 1
        self.whole = self.count == batch
        self.rows = tuple(x[: self.count] for x in inputs)
        made = [_others(x, self.count) for x in inputs]
        self.tells = all(tells for *_, tells in made)
        # So many rows that an argument of N rows, as it is, cannot have one for each of them.
        self.ahead = 2 if self.count + 3 == batch else 1
        self.among = tuple(
            torch.cat([ahead] * self.ahead + [x, behind])
            for x, (ahead, behind, _) in zip(self.rows, made, strict=True)
        )
        # Others have the additional arguments of other samples, where there are some.
        samples = [batch - 1] * self.ahead + [*range(self.count), batch // 2, batch - 1]
        self.samples = torch.tensor(samples, device="cpu")

    def run(self, per_sample: tuple[bool, ...]) -> _Outcome | None:
        """Compare, with these additional arguments cut along; None if the model cannot be run."""
        try:
            alone = self._alone(per_sample)
            among = self.evaluate(
                tuple(x.clone() for x in self.among), taken(self.extra, per_sample, self.samples)
            )
        except Exception:  # whatever it is that the model cannot do with such rows
            return None
        grows = all(y.dim() > 0 and len(y) == len(self.samples) for y in among)
        same = self.tells and grows and len(alone) == len(among)
        return _Outcome(same and all(map(self._kept, alone, among)), grows, alone)

    def _alone(self, per_sample: tuple[bool, ...]) -> list[Tensor]:
        if self.known is not None:
            return [y[: self.count] if y.dim() else y for y in self.known]
        extra = self.extra
        if not self.whole:
            extra = taken(extra, per_sample, torch.arange(self.count, device="cpu"))
        return self.evaluate(tuple(x.clone() for x in self.rows), extra)

    def _kept(self, alone: Tensor, among: Tensor) -> bool:
        """Whether the rows are what they were without the others."""
        if alone.dim() < 1 or len(alone) != self.count:
            return False
        return _close(alone, among[self.ahead : self.ahead + self.count], among)


def _others(x: Tensor, count: int) -> tuple[Tensor, Tensor, bool]:
    """One row and two others, unlike the first rows of x; and whether they are unlike them.

    They are made of the values of x, and lie between them: greater and smaller ones for numbers;
    other rows, or smaller ones, for integers, which may be places in a table. One before and two
    behind, so that neither turning nor sorting the rows leaves those of x where they are.
    """
    first, last = x[:1], x[count - 1 : count]
    if x.is_floating_point() or x.is_complex():
        rows = first.reshape(1, -1).roll(1, 1), last.reshape(1, -1).flip(1)
        a, b, c = (r.view_as(first) for r in (*rows, last.reshape(1, -1).roll(2, 1)))
        low, high = _range(x[:count])
        if low < high:  # weights whose mean gives back none of the rows
            ahead, behind = (
                high + 0.35 * (a - high),
                [low + 0.55 * (b - low), low + 0.2 * (c - low)],
            )
        elif low:
            ahead, behind = 1.8 * a, [0.55 * b, 0.3 * c]
        else:
            ahead, behind = a + 1, [b + 0.5, c + 0.2]
    elif x.dtype == torch.bool:
        ahead, behind = ~last, [first.reshape(1, -1).roll(1, 1).view_as(first), ~first]
    else:
        middle = len(x) // 2
        ahead, behind = x[-1:], [x[middle : middle + 1], x[-1:]]
        if all(torch.equal(row, first) for row in (ahead, *behind)):
            half, quarter = (first.div(n, rounding_mode="trunc") for n in (2, 4))
            ahead, behind = first - quarter, [half, quarter]
    tells = not all(torch.equal(row, own) for row, own in zip(behind, (first, last), strict=True))
    both = torch.cat([row.to(x.dtype) for row in behind])
    return ahead.to(x.dtype), both, tells or not first.numel()


def _range(x: Tensor) -> tuple[float, float]:
    """The least and the greatest value; of complex numbers, none."""
    if x.is_complex() or not x.numel():
        return 0.0, 0.0
    return float(x.amin()), float(x.amax())


def _close(one: Tensor, other: Tensor, all_rows: Tensor) -> bool:
    """Whether two outputs agree up to rounding."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not (one.is_floating_point() or one.is_complex()):
        return torch.equal(one, other)
    if not torch.isfinite(one).all():
        return False
    if not one.numel():
        return True
    tolerance = ROUNDING.get(one.dtype, 1e-9)
    if one.is_cuda and one.dtype == torch.float32 and _is_coarse():
        tolerance = COARSE
    if one.is_floating_point():
        spread = all_rows.double().nan_to_num(0.0, 0.0, 0.0)
        scale = float(spread.amax() - spread.amin())
        rounding = 64 * torch.finfo(one.dtype).eps * float(one.abs().max())
    else:
        scale, rounding = float(one.abs().max()), 0.0
    return float((one - other).abs().max()) <= tolerance * scale + rounding


def _is_coarse() -> bool:
    return torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32


def _equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(_close(a, b, a) for a, b in zip(one, other, strict=True))
