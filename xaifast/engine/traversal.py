"""One traversal of a model's graph: checked arguments, and the work on each part of the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..errors import InputError, ModelError, describe, wrong_type, wrong_value
from ..graph.capture.modules import fails_itself
from ..graph.facts import ModelGraph
from ..graph.node import Node
from ..graph.proof.cuts import check_paths, check_tokens
from ..graph.proof.verify import to_compute
from ..graph.recurrent.padding import steps_of
from ..graph.rule import Balance
from .arguments import Call, in_dtype
from .batching import check_batch_size, need_of, rows_that_fit, run_in_batches
from .builder import Built
from .independence import rows_by_trial
from .precision import products_in
from .start import Start, log_odds


def find_layers(graph: ModelGraph, layers: Sequence[str] | None) -> dict[str, list[Node]]:
    """Find the nodes at which the outputs of modules lie, by the paths of the modules."""
    if layers is None:
        return {}
    if isinstance(layers, str):
        layers = [layers]
    if not isinstance(layers, (list, tuple)) or not all(isinstance(x, str) for x in layers):
        raise wrong_type(
            "layers", "must be a list of module paths", describe(layers),
            'Paths are as in model.named_modules(), such as "features.3".',
        )  # fmt: skip
    for name in layers:
        if name not in graph.outputs_of:
            raise wrong_value(
                "layers", "must name modules of the model that compute something", describe(name),
                f"Known: {', '.join(n for n in graph.outputs_of if n)}.",
            )  # fmt: skip
    return {name: graph.outputs_of[name] for name in layers}


@dataclass
class Traversal:
    """A call of an explainer on a graph that is built: from the start down to the inputs.

    watch: path of a module -> the nodes of its outputs, whose relevance is asked for.
    """

    call: Call
    built: Built
    start: Start
    watch: dict[str, list[Node]]

    @property
    def model(self) -> nn.Module:
        """The model that is explained."""
        return self.call.function  # type: ignore[return-value]

    @property
    def args(self) -> tuple:
        """All that the model is called with."""
        return self.call.arguments

    @property
    def batch(self) -> int:
        """The number of samples."""
        return self.call.batch

    @property
    def explained(self) -> int:
        """How many arguments, the first ones, get relevance."""
        return len(self.call.inputs)

    def all_batches(self, size: int | str) -> tuple[tuple, Tensor, dict]:
        """Relevance of the inputs, convergence delta, relevance at the layers asked for."""
        targets = self.start.targets
        parts: list[tuple] = []
        run_in_batches(
            self.batch,
            self._batch_size(size, targets),
            lambda rows: parts.append(self.one_batch(rows)),
            size == "auto" and self.built.graph.apart,
        )
        if not parts:
            return self._nothing(targets)
        relevance = tuple(_join([p[0][i] for p in parts]) for i in range(self.explained))
        delta = _join([p[1] for p in parts])
        at_layers = {
            name: [_join([p[2][name][k] for p in parts]) for k in range(len(nodes))]
            for name, nodes in self.watch.items()
        }
        return self._shaped(relevance, delta, at_layers)

    def _batch_size(self, size: int | str, targets: int) -> int:
        """How many samples to process at once."""
        check_batch_size(size)
        if size != "auto" and int(size) >= self.batch:
            return int(size)
        if not self._apart():
            if size != "auto":
                raise wrong_value(
                    "internal_batch_size", f"must be at least the batch size ({self.batch}) for a "
                    "model that fixes its batch size, or whose rows may depend on each other", size,
                    "Pass fewer samples per call.",
                )  # fmt: skip
            return max(1, self.batch)
        if size != "auto":
            return int(size)
        x = next(a for a in self.args if isinstance(a, Tensor))
        itemsize = 8 if x.dtype == torch.float64 else 4
        need = need_of(self.built.propagation, targets, itemsize)
        return max(1, min(self.batch, rows_that_fit(need, x.device)))

    def _apart(self) -> bool:
        """Whether the batch may be divided: each row of the output belongs to one sample alone."""
        graph = self.built.graph
        if not graph.batched:
            return False
        if graph.apart:
            return True

        def evaluate(inputs: tuple, extra: tuple) -> list[Tensor]:
            with torch.no_grad():
                args = to_compute((*inputs, *extra))
                return [self.built.propagation.run_output(args)]

        inputs, extra = self.args[: self.explained], self.args[self.explained :]
        cut = graph.rows[self.explained :]  # type: ignore[index]
        return rows_by_trial(inputs, extra, cut, evaluate).apart

    def _shaped(
        self, relevance: tuple, delta: Tensor, at_layers: dict
    ) -> tuple[tuple, Tensor, dict]:
        """Without the axis of targets where one target was asked for, in the dtype of the input."""

        def one(x: Tensor) -> Tensor:
            return x if self.start.selection.several else x[0]

        dtypes = [x.dtype if x.is_floating_point() else None for x in self.args[: self.explained]]
        relevance = tuple(
            in_dtype(one(R), t or R.dtype).contiguous()
            for R, t in zip(relevance, dtypes, strict=True)
        )
        found = {name: [one(R).contiguous() for R in Rs] for name, Rs in at_layers.items()}
        return relevance, one(delta), {n: Rs[0] if len(Rs) == 1 else Rs for n, Rs in found.items()}

    def _nothing(self, targets: int) -> tuple[tuple, Tensor, dict]:
        """The result for a batch of no samples."""
        empty = tuple(
            torch.zeros((targets, 0, *source.shape), dtype=torch.float32, device=x.device)
            for source, x in zip(self._sources(), self.args, strict=False)
        )
        layers = {
            name: [
                torch.zeros((targets, 0, *n.shape), dtype=torch.float32, device="cpu")
                for n in nodes
            ]
            for name, nodes in self.watch.items()
        }
        return self._shaped(
            empty, torch.zeros(targets, 0, dtype=torch.float32, device="cpu"), layers
        )

    @torch.no_grad()
    def one_batch(self, rows: slice, balances: list[Balance] | None = None) -> tuple:
        """The same for some of the samples, with the axis of targets in front."""
        propagation = self.built.propagation
        cut = propagation.graph.rows or (False,) * len(self.args)
        if rows.stop - rows.start >= self.batch:
            cut = (False,) * len(self.args)
        args = to_compute(
            tuple(x[rows] if row else x for x, row in zip(self.args, cut, strict=True))
        )
        try:
            with products_in(self.built.precision, args):
                started, found = propagation(
                    args, partial(self._seeds, args, rows), self._watched(), balances
                )
        except IndexError as error:  # such as the last step of a sequence that is too short
            raise ModelError(fails_itself(self.model, error)) from error
        relevance = tuple(_found(found, source, started) for source in self._sources())
        arrived = sum(map(_sums, relevance[1:]), start=_sums(relevance[0]))
        at_layers = {
            name: [_found(found, n, started) for n in nodes] for name, nodes in self.watch.items()
        }
        # A sum is finite only if all its terms are: the terms are looked at where it is not.
        if not torch.isfinite(arrived).all():
            self._check_relevance(relevance, args, rows, balances)
        for Rs in at_layers.values():
            self._check_relevance(Rs, args, rows, balances)
        return relevance, started - arrived, at_layers

    def _check_relevance(
        self, found: Sequence[Tensor], args: tuple, rows: slice, balances: list[Balance] | None
    ) -> None:
        """Refuse what is not finite, and name the node that made it so."""
        if all(torch.isfinite(R).all() for R in found):
            return
        again: list[Balance] | None = None if balances is None else []
        start = partial(self._seeds, args, rows)
        with products_in(self.built.precision, args):
            self.built.propagation(args, start, self._watched(), again, check=True)
        raise InputError(
            "Relevance has NaN or infinite values for these inputs, but in a second run it has "
            "none: some operation of the model or of a rule is not deterministic."
        )

    def _sources(self) -> list[Node]:
        """Where the relevance of each input ends."""
        check_paths(self.built.graph, self.model, self.args, self.explained)
        given = self.args[: self.explained]
        return [source_of(self.built.graph, i, x.dtype) for i, x in enumerate(given)]

    def _watched(self) -> list[Node]:
        return [n for nodes in self.watch.values() for n in nodes]

    def _seeds(self, args: tuple, rows: slice, output: Tensor, values: dict) -> tuple:
        """The first messages and their sums, once the output is known and found sound."""
        self._check_output(output, args)
        start = self.start.rows(rows)
        index = start.selection.index
        if index is not None:
            self._check_steps(index, rows, values)
            if start.word == "log_odds":
                return log_odds(self.built.propagation, output, index, values)
        R = start.relevance(output)
        return {self.built.graph.output: R}, _sums(R)

    def _check_steps(self, index: Tensor, rows: slice, values: dict) -> None:
        """Refuse targets behind the end of a packed sequence, where the output is padding."""
        found = steps_of(self.built.graph)
        if found is None:
            return
        lengths = found.lengths(self.built.propagation.lookup(values)).to(index.device)
        shape = self.built.graph.output.shape
        steps = index // math.prod(map(int, shape[found.axis :])) % int(shape[found.axis - 1])
        for k, n in (steps >= lengths).nonzero()[:1].tolist():
            raise wrong_value(
                "target", "must name a step of the sample's own sequence",
                f"step {int(steps[k, n])} of sample {rows.start + n}, which has {int(lengths[n])}",
                "What is behind the end is padding.",
            )  # fmt: skip

    def _check_output(self, output: Tensor, args: tuple) -> None:
        if not torch.isfinite(output).all():
            bad = self.built.propagation.first_bad_node(args)
            raise InputError(
                f"The model's output has NaN or infinite values for these inputs; the first "
                f"operation that made them is {bad}. Check its parameters and the inputs' scale."
            )


def source_of(graph: ModelGraph, i: int, dtype: torch.dtype) -> Node:
    """Where the relevance of input i ends: at itself, or at what reads its tokens one for one."""
    node = graph.inputs[i]
    if not node.floating:
        check_tokens(graph, node, f"input {i}, of {dtype}")
    return graph.ends[i]


def _sums(R: Tensor) -> Tensor:
    """Relevance of each target and sample, [targets, N]."""
    return R.reshape(*R.shape[:2], -1).sum(2)


def _found(found: dict[Node, Tensor], node: Node, started: Tensor) -> Tensor:
    """The relevance that reached a node; zeros if none did."""
    if node in found:
        return found[node]
    return started.new_zeros((*started.shape, *node.shape))


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
