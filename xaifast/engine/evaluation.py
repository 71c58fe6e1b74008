"""The model as function methods see it: rows of inputs go in, outputs and gradients come out.

Two ways to evaluate, the same function:

- `PlainModel` calls what the user gave, with autograd for gradients; any callable will do.
- `GraphModel` runs the canonized graph of a module (batch norm folded, channels last, weights
  packed by oneDNN), with the gradient as rules and the linear prefix apart.

A row is one perturbed copy of a sample; `samples` says of which (None: of each, in order). Where
gradients are taken is called the stations: the inputs, or the values where the linear prefix ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..composites import Gradient
from ..errors import InputError, ModelError, XaifastError, describe, wrong_value
from ..graph.capture.modules import fails_itself, private_copy
from ..graph.node import Node
from ..graph.prefix import linear_prefix
from ..graph.proof.cuts import check_paths
from ..graph.proof.verify import to_compute
from ..graph.weights import check_flat
from .arguments import Call, module_of
from .batching import (
    CPU_BLOCK,
    FEW_ROWS,
    Need,
    check_batch_size,
    is_out_of_memory,
    need_of,
    rows_that_fit,
    run_in_batches,
)
from .builder import Builder, Built, warn_training
from .differentiation import Differentiation
from .independence import Rows, rows_by_trial

# Rows from which a convolutional model is captured: export takes a second or so, once per model.
WORTH_CAPTURING = 32
# So many rows need no measured size of batch: what came in together fits together.
FEW = 8
CONVOLUTIONS = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm)


# ---- what a model returned ---------------------------------------------------------------------


def output_of(function: Any, inputs: tuple) -> Tensor:
    """The output of a model as a tensor; a number is one value for the whole batch."""
    try:
        output = function(*inputs)
    except Exception as error:
        if isinstance(error, XaifastError) or is_out_of_memory(error):
            raise
        raise ModelError(fails_itself(function, error)) from error
    if isinstance(output, torch.futures.Future):
        output = output.wait()
    if isinstance(output, Tensor):
        return output
    if isinstance(output, (bool, int, float)):
        kind = torch.float64 if isinstance(output, float) else torch.int64
        return torch.tensor(output, dtype=kind, device="cpu")
    raise ModelError(
        f"The model must return one tensor; it returned {describe(output)}. Wrap it: a function "
        'that returns the tensor to explain, such as lambda x: model(x)["out"] or '
        "lambda x: model(x)[0]."
    )


def check_finite(output: Tensor) -> Tensor:
    """Return the output, if it has no NaN and no infinity."""
    if output.is_floating_point() and not torch.isfinite(output).all():
        raise InputError(
            "The model's output has NaN or infinite values for these inputs, or for what they are "
            "changed to (the baseline is one such). Check its parameters, and the scale of inputs "
            "and baselines; LRP(model).attribute(x, target=...) names the first operation that "
            "made them."
        )
    return output


def check_gradients(gradients: Iterable[Tensor], who: str) -> list[Tensor]:
    """Return the gradients, if they are numbers."""
    found = list(gradients)
    if not all(torch.isfinite(g).all() for g in found):
        raise InputError(
            f"{who}: the gradient has NaN or infinite values for these inputs (a root or a "
            "logarithm at zero, say). Move inputs and baselines away from such points, or take a "
            "perturbation method."
        )
    return found


def check_rows(output: Tensor, rows: int | None, who: str) -> Tensor:
    """Return the output, if it has a row for each row that came in (None: rows at all)."""
    if output.dim() < 1 or rows not in (None, len(output)):
        came = "the batch" if rows is None else f"{rows} rows"
        raise ModelError(
            f"{who} needs a model that returns one row for each sample; for {came} it "
            f"returned a tensor of shape {list(output.shape)}. Keep the batch first, and do not "
            "sum over it."
        )
    return output


def check_undivided(call: Call, size: int | str) -> None:
    """Refuse a bound by which a batch would be divided whose rows are not shown to be apart."""
    if size != "auto" and int(size) < call.batch:
        raise wrong_value(
            "internal_batch_size", f"must be at least {call.batch}, the size of the batch, "
            f"for a model whose rows may depend on each other{doubt(call)}", size,
            "Leave it out.",
        )  # fmt: skip


def doubt(call: Call) -> str:
    """Advice where additional arguments leave it open which rows belong together."""
    if not call.extra_in_doubt or call.declared is not None:
        return ""
    return " (or say by per_sample= which additional arguments have a row for each sample)"


# ---- calling the model -------------------------------------------------------------------------


def _storage(x: Tensor) -> int:
    return x.untyped_storage()._cdata


class _Sizes(TorchDispatchMode):
    """Watches the sizes of what operations make; views do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.total = self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {_storage(x) for x in args if isinstance(x, Tensor)}
        for x in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(x, Tensor) and _storage(x) not in given:
                size = x.numel() * x.element_size()
                self.total += size
                self.largest = max(self.largest, size)
        return result


class PlainModel:
    """Evaluate by calling what the user gave."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.function = call.function
        self._need: Need | None = None
        module = module_of(call.function)
        if module is not None and module.training:
            warn_training(module)
            check_flat(module)  # a copy computes with the weights that are named
            self.function = private_copy(module, keep_hooks=True)

    @property
    def apart(self) -> bool:
        """Whether row i of the output is shown to depend on row i of the inputs alone."""
        return self.look().apart

    def look(self, known: Tensor | None = None) -> Rows:
        """Find out about the rows, once for each call.

        known : what `output` returns for the inputs, where that is known already.
        """
        call = self.call
        if call.rows is None:
            given = None if known is None else [known]
            call.rows = rows_by_trial(call.inputs, call.extra, call.declared, self._try, given)
        return call.rows

    @torch.no_grad()
    def _try(self, inputs: tuple, extra: tuple) -> list[Tensor]:
        return [output_of(self.function, (*inputs, *extra))]

    def _run(self, inputs: tuple, samples: Tensor | None) -> Tensor:
        return output_of(self.function, (*inputs, *self.call.extra_rows(samples)))

    def output(self, inputs: tuple, samples: Tensor | None = None) -> Tensor:
        """The output of the model for some rows, without gradients."""
        with torch.no_grad():
            return check_finite(self._run(inputs, samples))

    def enter(self, inputs: tuple, samples: Tensor | None = None) -> list[Tensor]:
        """Values of the stations: here the inputs themselves."""
        return list(inputs)

    def rectified(self) -> list[bool]:
        """For each station, whether its values go through a ReLU before they are used."""
        return [False] * len(self.call.inputs)

    def gradients(
        self, points: list[Tensor], samples: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Scores [targets, rows], and their gradients at the stations [targets, rows, ...]."""
        leaves = [x.detach().requires_grad_() for x in points]
        with torch.enable_grad():
            output = self._run(tuple(leaves), samples)
            check_rows(output, None if samples is None else len(points[0]), self.call.who)
            check_finite(output.detach())
            scores = self.call.chosen(output, samples).values(output)
        return scores.detach(), self._differentiation(samples).gradients(scores, leaves, {})

    def _differentiation(self, samples: Tensor | None) -> Differentiation:
        def rerun(points: Sequence[Tensor], mark: Callable[[Tensor, int], Any]) -> Tensor:
            for i, x in enumerate(points):
                mark(x, i)
            return self._run(tuple(points), samples)

        names = [f"input {i}" for i in range(len(self.call.inputs))]
        names = ["the inputs"] if self.call.single else names
        module = module_of(self.function)
        return Differentiation(self.call.who, names, rerun, module, self.call.unused)

    def leave(self, totals: list[Tensor]) -> tuple[Tensor, ...]:
        """Gradients at the inputs from those at the stations."""
        return tuple(totals)

    def need(self) -> Need:
        """Memory of one row, measured on the first sample."""
        if self._need is None:
            self._need = self._measured()
        return self._need

    def _measured(self) -> Need:
        if self.call.extra_in_doubt:
            self.look()
        one = torch.zeros(1, dtype=torch.long, device="cpu")
        sizes, row = _Sizes(), tuple(x[:1].clone() for x in self.call.inputs)  # may be written into
        try:
            with torch.no_grad(), sizes:
                self._run(row, one)
        except Exception:  # a model that does not bear being watched, or one sample alone
            return Need(0, 0)
        return Need(sizes.total + 3 * sizes.largest, sizes.largest)


# ---- running its graph -------------------------------------------------------------------------


class GraphModel:
    """Evaluate by running the canonized graph of the model, whose rows are shown to be apart."""

    apart = True

    def __init__(self, call: Call, built: Built) -> None:
        self.call = call
        self.propagation = built.propagation
        self.graph = built.graph
        self.module = built.weights.model
        self.prefix = linear_prefix(built.propagation)
        self.entered: dict[Node, Any] = {}

    def look(self, known: Tensor | None = None) -> Rows:
        """Knowledge of the rows."""
        assert self.call.rows is not None  # without it there is no such model
        return self.call.rows

    def arguments(self, inputs: tuple, samples: Tensor | None) -> tuple:
        """Arguments of the graph: inputs, and the additional arguments for these samples."""
        return to_compute((*inputs, *self.call.extra_rows(samples)))

    @torch.no_grad()
    def output(self, inputs: tuple, samples: Tensor | None = None) -> Tensor:
        """The output of the model for some rows."""
        return check_finite(self.propagation.run_output(self.arguments(inputs, samples)))

    @torch.no_grad()
    def enter(self, inputs: tuple, samples: Tensor | None = None) -> list[Tensor]:
        """Run the linear prefix: values of the stations."""
        self.entered = self.prefix.enter(self.arguments(inputs, samples))
        return [self.entered[s] for s in self.prefix.stations]

    def rectified(self) -> list[bool]:
        """For each station, whether its values go through a ReLU before they are used."""
        return [self.prefix.rectifier(s) is not None for s in self.prefix.stations]

    @torch.no_grad()
    def gradients(
        self, points: list[Tensor], samples: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Scores [targets, rows], and their gradients at the stations [targets, rows, ...]."""
        check_paths(self.graph, self.module, self.call.arguments, len(self.call.inputs))
        extra = to_compute(self.call.extra_rows(samples))
        nodes = self.graph.inputs[len(self.call.inputs) :]
        values = self.prefix.behind(points, dict(zip(nodes, extra, strict=True)))
        output = check_finite(values[self.graph.output])
        selection = self.call.selection(output.shape[1:]).rows_of(samples)
        seeds = {self.graph.output: selection.seed(output, one=True)}
        scores = selection.values(output)
        found = self.prefix.back_to_stations(values, seeds)
        return scores, [self._at(found, s, scores) for s in self.prefix.stations]

    def _at(self, found: dict[Node, Tensor], node: Node, like: Tensor) -> Tensor:
        """The message at a node; zeros if none reached it."""
        if node in found:
            return found[node]
        return like.new_zeros((*like.shape, *node.shape))

    @torch.no_grad()
    def leave(self, totals: list[Tensor]) -> tuple[Tensor, ...]:
        """Gradients at the inputs from those at the stations, of the samples that entered last."""
        seeds = dict(zip(self.prefix.stations, totals, strict=True))
        found = self.prefix.leave(self.entered, seeds)
        nodes = self.graph.inputs[: len(self.call.inputs)]
        like = totals[0].new_empty(totals[0].shape[:2])
        return tuple(self._at(found, n, like) for n in nodes)

    def need(self) -> Need:
        """Memory of one row."""
        alone = self.call.target is None  # all of the output, and nothing is propagated back
        targets = 1 if alone else self.call.selection(self.graph.output.shape).targets
        itemsize = 8 if self.call.inputs[0].dtype == torch.float64 else 4
        return need_of(self.propagation, targets, itemsize)


Model = PlainModel | GraphModel


class RowModel(Protocol):
    """The interface of a model whose rows are evaluated in batches."""

    call: Call

    @property
    def apart(self) -> bool:
        """Whether row i of the output is shown to depend on row i of the inputs alone."""

    def need(self) -> Need:
        """Memory of one row."""


# ---- which of the two --------------------------------------------------------------------------


class Evaluator:
    """Chooses how the calls of one explainer are evaluated.

    Parameters
    ----------
    function : the user's module or function.
    optimize : True: on the graph or not at all; False: as the user gave it; None: on the graph
        where that pays: a convolutional module, and at least 32 rows.
    gradients : whether gradients are asked for, which must be those that autograd gives.
    """

    def __init__(self, function: Any, optimize: bool | None, gradients: bool = False) -> None:
        if optimize not in (None, True, False):
            raise wrong_value("optimize", "must be True, False or None", optimize, "Leave it out.")
        self.function = function
        self.optimize = optimize
        self._gradients = gradients
        self._builder: Builder | None = None

    def model(self, call: Call, rows: int) -> Model:
        """The way to evaluate a call that needs this many rows.

        Raises
        ------
        ModelError
            With optimize=True, if the model has no graph that is valid for any batch.
        """
        if self.optimize is False or not (self.optimize or self._pays(rows)):
            return PlainModel(call)
        try:
            return self._graph(call)
        except ModelError:
            if self.optimize:
                raise
            return PlainModel(call)

    def _pays(self, rows: int) -> bool:
        module = module_of(self.function)
        if module is None or rows < WORTH_CAPTURING:
            return False
        return any(isinstance(m, CONVOLUTIONS) for m in module.modules())

    def _graph(self, call: Call) -> GraphModel:
        if module_of(self.function) is None:
            raise ModelError(
                f"{call.who}: optimize=True needs a module, and forward_func is a function. Pass "
                "the module itself, or leave optimize out."
            )
        if self._builder is None:
            given = getattr(self.function, "__self__", self.function)  # of its forward
            self._builder = Builder(given, Gradient())
        warn_training(self._builder.model)
        built = self._builder.build(call.arguments, len(call.inputs))
        if not built.graph.batched:
            raise ModelError(
                f"{call.who}: optimize=True needs a model that takes any number of samples; this "
                "one fixes it, or its code depends on the data. Leave optimize out."
            )
        script = built.graph.script
        if self._gradients and not (
            script and script.gradients_hold(self._builder.model, (*call.inputs, *call.extra))
        ):
            why = (script and script.cut) or "code that cannot be followed"
            raise ModelError(
                f"{call.who}: optimize=True needs a model whose gradient is that of its forward "
                f"pass; this one has {why}. Leave optimize out."
            )
        rows = graph_rows(built, call)
        if not rows.apart:
            raise ModelError(
                f"{call.who}: optimize=True needs a model each of whose outputs belongs to one "
                "sample, with additional arguments that have a row for each sample or do not have "
                f"{call.batch} rows. Leave optimize out."
            )
        call.rows = rows
        return GraphModel(call, built)


def graph_rows(built: Built, call: Call) -> Rows:
    """Knowledge of the rows of a call that is evaluated by a graph for any batch size.

    Shown by the graph itself, or else tried on it.
    """
    cut = built.graph.rows[len(call.inputs) :]  # type: ignore[index]
    if call.declared not in (None, cut):
        return Rows(False, cut)
    if built.graph.apart:
        return Rows(True, cut)

    def evaluate(inputs: tuple, extra: tuple) -> list[Tensor]:
        with torch.no_grad():
            return [built.propagation.run_output(to_compute((*inputs, *extra)))]

    return rows_by_trial(call.inputs, call.extra, cut, evaluate)


def rows_at_once(model: RowModel, size: int | str, count: int, block: int = CPU_BLOCK) -> int:
    """How many rows to evaluate at once, for `count` in all: as asked for, or as many as fit.

    To measure what a row needs costs one; a few rows are tried as they are.
    """
    check_batch_size(size)
    if size != "auto":
        return min(int(size), max(1, count))
    if count <= FEW:
        return max(1, count)
    fitting = rows_that_fit(model.need(), model.call.inputs[0].device, block, FEW_ROWS)
    return max(1, min(count, fitting))


def run_over_samples(
    model: RowModel, size: int | str, work: Callable[[slice, Tensor | None], None]
) -> None:
    """Do the work for all samples, or for some of them after the other where not all fit.

    `work(rows, samples)` is given None for samples where it has the batch as it came in; a batch
    whose rows are not shown to be apart is not divided.
    """
    call = model.call
    at_once = rows_at_once(model, size, call.batch)
    if at_once < call.batch and not model.apart:
        check_undivided(call, size)
        at_once = call.batch

    def part(rows: slice) -> None:
        if rows.stop - rows.start == call.batch:
            work(rows, None)
            return
        if not model.apart:
            raise torch.OutOfMemoryError("no memory for a batch that cannot be divided")
        work(rows, torch.arange(rows.start, rows.stop, device="cpu"))

    run_in_batches(call.batch, at_once, part, size == "auto")


def scores_of(model: Model, points: tuple[Tensor, ...], size: int | str) -> Tensor:
    """Scores [targets, N] at one point for each sample; one row that serves all is run once.

    Where rows see each other, those of what the whole batch gives.
    """
    call = model.call
    select = call.selection
    whole = tuple(p.expand_as(x) for p, x in zip(points, call.inputs, strict=True))
    one = all(len(x) == 1 for x in points) and call.batch > 1
    if one and model.apart and not call.extra_per_sample:
        output = check_rows(
            model.output(points, torch.zeros(1, dtype=torch.long, device="cpu")), 1, call.who
        )
        return select(output.shape[1:]).values(output.expand(call.batch, *output.shape[1:]))
    parts: list[Tensor] = []

    def work(rows: slice, samples: Tensor | None) -> None:
        output = model.output(tuple(x[rows].clone() for x in whole), samples)
        check_rows(output, None if samples is None else len(samples), call.who)
        parts.append(call.chosen(output, samples).values(output))

    run_over_samples(model, size, work)
    return torch.cat(parts, 1) if parts else torch.zeros(1, 0, dtype=torch.float32, device="cpu")


def gradients_of(
    model: Model, inputs: tuple, samples: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Scores [targets, rows] and their gradients at the inputs [targets, rows, ...]."""
    values = model.enter(inputs, samples)
    through = zip(values, model.rectified(), strict=True)
    scores, found = model.gradients([v.relu() if relu else v for v, relu in through], samples)
    return scores, model.leave(found)


def row_sums(a: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Sums over the elements of each row, [targets, N, ...] -> [targets, N]."""
    return a.reshape(*a.shape[:2], -1).sum(2, dtype=dtype)


def sums_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which sums over rows are kept."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
