"""Perturbations that are evaluated only where they change something; see `graph.changes`."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ... import ops
from ...engine.batching import FEW_ROWS, Need, rows_in_memory, run_in_batches
from ...engine.evaluation import GraphModel, check_finite
from ...graph.local.boxes import Spans, is_map
from ...graph.local.changes import Changes, Group, plan_of
from ...graph.proof.verify import to_compute
from ..base import progress_bar
from .scoring import Scorer

# Worth the while if it costs no more than this part of what whole maps cost.
WORTH = 0.8
# What it costs to start an operation on boxes, in multiplications: some 50 microseconds.
STARTED = 5_000_000
# So many perturbations share what it costs to read the weights behind the boxes, on the CPU where
# their largest tensor is no larger than BLOCK bytes: ResNet-50 runs no faster with twice as much,
# but needs a third more memory, because blocks of many sizes leave gaps behind.
TOGETHER = 64
BLOCK = 8 * 2**20


@runtime_checkable
class Local(Protocol):
    """Perturbations of one input that each change a part of it."""

    @property
    def count(self) -> int:
        """How many there are."""

    def spans(self) -> tuple[Spans, tuple[Tensor, ...]] | None:
        """The different intervals along each spatial axis, and which of them each one covers.

        None where the input is not one map [N, channels, ...].
        """

    def inside(self, rows: Tensor, origin: Tensor, size: tuple[int, ...]) -> Tensor:
        """Where some of them change boxes [axes, rows], as bool [rows, *size, 1 or channels]."""


class Incremental:
    """Evaluates perturbations of the inputs of a call, sample by sample."""

    def __init__(self, scorer: Scorer, source: Local, plan: Changes) -> None:
        self.scorer, self.source, self.plan = scorer, source, plan

    @property
    def share(self) -> float:
        """The cost of a sample's perturbations, as a part of their cost on whole maps."""
        batches = sum(
            -(-len(g.members) // self._at_once(g)) * len(g.sizes) for g in self.plan.groups
        )
        count, whole = self.source.count, self.plan.full_cost
        return (self.plan.cost * count + whole + STARTED * batches) / (count * whole)

    def _largest(self, group: Group) -> int:
        """Bytes of the largest tensor of one perturbation."""
        return group.largest * (8 if self.scorer.call.inputs[0].dtype == torch.float64 else 4)

    def _at_once(self, group: Group) -> int:
        """How many perturbations to evaluate at once: as many as are asked for, or run well."""
        size, count = self.scorer.size, len(group.members)
        if size == "auto":
            x, largest = self.scorer.call.inputs[0], self._largest(group)
            need = Need(4 * largest, largest)  # what goes in and comes out, and twice that aside
            size = rows_in_memory(need, x.device)
            if x.device.type == "cpu":
                size = min(size, max(FEW_ROWS, min(TOGETHER, BLOCK // largest)))
        return -(-count // -(-count // max(1, int(size))))

    @torch.no_grad()
    def scores(self, baseline: tuple[Tensor, ...]) -> Tensor:
        """Scores [perturbations, L], as `Scorer.evaluate` returns them."""
        scorer, call = self.scorer, self.scorer.call
        found = scorer.initial.new_zeros(self.source.count, len(scorer.initial))
        x, b = call.inputs[0], baseline[0].to(call.inputs[0].dtype)
        with progress_bar(call.batch * self.source.count, call.who, scorer.show) as bar:
            for n in range(call.batch):
                one = self._arguments(x, n, 1)
                kept = self.plan.keep(one)
                pair = (x[n], b[n if len(b) > 1 else 0])
                for group in self.plan.groups:

                    def work(part: slice, n=n, kept=kept, pair=pair, group=group) -> None:
                        rows = group.members[part]
                        box = self._box(group, rows, *pair)
                        given = self._arguments(x, n, len(rows))
                        output = self.plan.output(group, rows, box, kept, given)
                        scorer.put(found, rows, n, check_finite(output))
                        bar.update(len(rows))

                    size = self._at_once(group)
                    run_in_batches(len(group.members), size, work, scorer.size == "auto")
                    # The next group's blocks have other sizes, and would not fit into the gaps.
                    # Small networks would pay more for the page faults than for their products.
                    if TOGETHER * self._largest(group) > BLOCK:
                        ops.give_back_memory()
        return found

    def _arguments(self, x: Tensor, n: int, rows: int) -> tuple:
        return self.scorer.model.arguments((x[n : n + 1],), torch.full((rows,), n, device="cpu"))  # type: ignore[union-attr]

    def _box(self, group: Group, rows: Tensor, x: Tensor, baseline: Tensor) -> Tensor:
        """The input in the boxes of some perturbations, [rows, channels, *size]."""
        entry = self.plan.trace.entry
        origin, size = self.plan.origin(group, entry, rows), group.sizes[entry]
        at = origin.to(x.device)
        old, new = (
            ops.cut_boxes(v.movedim(0, -1).contiguous(), None, None, at, size)
            for v in (x, baseline)
        )
        inside = self.source.inside(rows, origin, size).to(x.device)
        return to_compute((torch.where(inside, new, old).movedim(-1, 1),))[0]


def _possible(scorer: Scorer, source: Local) -> Incremental | None:
    """The way to evaluate only what changes, where there is one."""
    model, call = scorer.model, scorer.call
    if not isinstance(model, GraphModel) or scorer.whole or len(call.inputs) != 1:
        return None
    entry = model.graph.inputs[0]
    spans = source.spans() if is_map(entry) and source.count else None
    if spans is None:
        return None
    return Incremental(scorer, source, plan_of(model.propagation, entry, *spans))


def incremental(scorer: Scorer, source: Local) -> Incremental | None:
    """The same where it pays."""
    found = _possible(scorer, source)
    return found if found is not None and found.share <= WORTH else None


def describe_plan(scorer: Scorer, source: Local) -> str:
    """How perturbations are evaluated, in words; with one line per node where that is on boxes."""
    if not isinstance(scorer.model, GraphModel):
        return "The model is called as it is, on whole inputs."
    found = _possible(scorer, source)
    if found is None:
        return "The graph of the model is run on whole maps."
    counts = f"{source.count} perturbations in {len(found.plan.groups)} groups"
    cost = f"{100 * found.share:.0f} % of what whole maps cost"
    if found.share > WORTH:
        return f"The graph of the model is run on whole maps: boxes would need {cost}."
    return f"{counts}, {cost}\n{found.plan.describe()}"
