"""Layer-wise relevance propagation: the graph engine and a composite, as an explainer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..composites import Composite, Uniform
from ..errors import InputError, ModelError, describe, wrong_type, wrong_value
from ..graph import compute_dtype, fits, model_graph, signature_of, structure_of, to_compute
from ..graph.capture import check_model
from ..graph.facts import ModelGraph, Node
from ..graph.layers import Conv, Linear, attach_layers
from ..graph.run import Balance, Propagation
from ..graph.weights import Weights
from ..rules import Epsilon, Rule
from .batching import batch_size_for, batches
from .start import log_odds
from .target import Selection, select

STARTS = ("output", "one", "log_odds")


# ---- building --------------------------------------------------------------------------------


def _assign(graph: ModelGraph, composite: Composite) -> dict[Node, Rule]:
    """A rule for every node that relevance may reach; all problems in one error."""
    rules: dict[Node, Rule] = {}
    problems = []
    reached = {graph.output}
    for node in reversed(graph.nodes):
        if node not in reached or not node.inputs:
            continue
        reached.update(node.inputs)
        rule = composite.rule_for(node)
        reason = composite.check(node)
        if rule is None:
            reason = reason or f"no entry of the composite matches kind {node.kind!r}"
        else:
            rules[node] = rule
            reason = reason or rule.check(node)
        if reason:
            problems.append(
                f"  {node!r}: {reason}" + (f"\n      {node.source}" if node.source else "")
            )
    if problems:
        raise ModelError(
            f"{composite!r} has no exact rule for {len(problems)} operation(s) of the model:\n"
            + "\n".join(reversed(problems))
            + "\nGive each a rule with composite.with_rules((kind(...), rule)), explain an output "
            "before it (a softmax: explain the logits), or choose another composite."
        )
    return rules


@dataclass
class _Built:
    """A model and a composite, ready to run for one signature of inputs."""

    propagation: Propagation
    weights: Weights

    @property
    def graph(self) -> ModelGraph:
        return self.propagation.graph


def _tuple(inputs: Any) -> tuple:
    return inputs if isinstance(inputs, tuple) else (inputs,)


@contextmanager
def _plain_mode() -> Iterator[None]:
    """Neither inference mode nor autocast: relevance is computed in the inputs' own precision."""
    cpu, cuda = (torch.autocast(device, enabled=False) for device in ("cpu", "cuda"))
    with torch.inference_mode(False), cpu, cuda:
        yield


def _check_inputs(inputs: tuple) -> int:
    """Check the inputs to explain; return the batch size."""
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
        if x.is_floating_point() and not torch.isfinite(x).all():
            raise wrong_value(
                "inputs", "must be finite", "NaN or infinite values", "Clean them first."
            )
    sizes = {len(x) for x in inputs}
    if len(sizes) > 1:
        raise wrong_value(
            "inputs", "must share one batch size", f"{sorted(sizes)}", "Give all the same N."
        )
    return sizes.pop()


def _warn_training(model: nn.Module) -> None:
    special = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    if any(m.training and isinstance(m, special) for m in model.modules()):
        warnings.warn(
            "The model is in training mode; it is explained as in eval mode (batch norm uses its "
            "running statistics, dropout is off). Call model.eval() to silence this.",
            stacklevel=3,
        )


# ---- the report ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """Where the relevance went, node by node, from the output to the inputs.

    Attributes
    ----------
    rows : list of Balance
        For each node: received = passed + bias + stabilizer + filled + gap. `bias` and `stabilizer`
        are what those absorbed, `filled` what fell on padding and constants, `gap` is rounding.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> lrp = attr.LRP(torch.nn.Linear(2, 1))
    >>> print(lrp.report(torch.ones(1, 2), target=0))  # doctest: +ELLIPSIS
    node ...
    """

    rows: list[Balance]

    def as_dicts(self) -> list[dict[str, Any]]:
        """The rows as plain data: node, module, received, passed, bias, stabilizer, filled, gap."""
        numbers = ("received", "passed", "bias", "stabilizer", "filled", "gap")
        return [
            {"node": b.node.name, "module": b.node.module, **{n: getattr(b, n) for n in numbers}}
            for b in self.rows
        ]

    def __str__(self) -> str:
        columns = ("received", "passed", "bias", "stabilizer", "filled")
        head = " ".join(
            [f"{'node':24} {'module':24}", *(f"{c:>12}" for c in columns), f"{'gap':>10}"]
        )
        lines = [
            f"{b.node.name:24.24} {b.node.module:24.24} {b.received:12.5g} {b.passed:12.5g} "
            f"{b.bias:12.5g} {b.stabilizer:12.5g} {b.filled:12.5g} {b.gap:10.2g}"
            for b in self.rows
        ]
        return "\n".join([head, *lines])


# ---- the explainer ---------------------------------------------------------------------------


class LRP:
    """Layer-wise relevance propagation.

    Each node of the model's graph hands the relevance R_k of its output to its inputs,

        R_j = sum_k z_jk / (sum_j z_jk) R_k,

    by the rule that the composite gives it. The model is captured at the first call (for each
    shape of inputs) and never changed; later calls see its current parameters.

    Parameters
    ----------
    model : torch.nn.Module
        Any model that `torch.export` can capture: functional calls, in-place calls, residual adds
        and reused modules are ordinary nodes. It must return one tensor [N, ...].
    composite : Composite, optional
        Which rule goes where; default `Uniform(Epsilon(1e-6))`.

    Raises
    ------
    TypeError
        If model is not a module in Python, or composite is not a Composite.

    References
    ----------
    Bach et al. 2015; book, chapter 10.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr, composites
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> x = torch.rand(2, 4)
    >>> lrp = attr.LRP(model, composite=composites.EpsilonPlus())
    >>> relevance, delta = lrp.attribute(x, target=[0, 2], return_convergence_delta=True)
    >>> relevance.shape, delta.shape
    (torch.Size([2, 4]), torch.Size([2]))
    """

    def __init__(self, model: nn.Module, composite: Composite | None = None) -> None:
        self.model = check_model("LRP", model)
        if composite is not None and not isinstance(composite, Composite):
            raise wrong_type(
                "LRP: composite", "must be a Composite", composite,
                "Call a preset (composites.EpsilonPlusFlat()), or wrap a rule: "
                "composites.Uniform(rules.Epsilon(1e-6)).",
            )  # fmt: skip
        self.composite = composite if composite is not None else Uniform(Epsilon(1e-6))
        self._built: dict[Any, _Built] = {}
        self._warned = False

    def __getstate__(self) -> dict[str, Any]:
        """A copy captures the model anew."""
        return {**vars(self), "_built": {}}

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        *,
        start: str | Tensor = "output",
        layers: Sequence[str] | None = None,
        internal_batch_size: int | str = "auto",
    ) -> Any:
        """Explain an output of the model in terms of its inputs.

        Parameters
        ----------
        inputs : Tensor [N, ...] or tuple of them
            What the model is called with and what gets relevance. Token numbers (integers) get
            theirs at the output of their embedding, [N, length, features].
        target : optional
            The output to explain: an int; one int per sample (list or 1-D tensor); a tuple of ints
            for an output with more dimensions, with slices for the sum over a region; a list of
            such tuples; a boolean mask of the output for the sum over it; several targets per input
            as [N, targets] (list of lists or 2-D tensor) or "all". None if there is one output.
        additional_forward_args : optional
            Further positional arguments of the model (a tuple, or one); they get no relevance.
        return_convergence_delta : bool, default False
            Also return, per target and sample, the relevance at the start minus its sum at the
            inputs: what biases and stabilizers absorbed.
        start : "output" (default), "one", "log_odds" or Tensor
            Relevance to start with: the output's value (so relevance sums to it); 1; the log-odds
            of the class by its min-take-most rule (section 10.3.1); or a tensor like the output
            (with a leading axis for several targets), then without target.
        layers : sequence of str, optional
            Module paths; the relevance at their outputs is returned as well.
        internal_batch_size : int or "auto" (default)
            Samples that are processed at once; "auto" fits the memory that is free.

        Returns
        -------
        relevance : Tensor or tuple of Tensor
            Like the inputs; [targets, N, ...] for several targets per input.
        delta : Tensor [N] or [targets, N]
            Only with return_convergence_delta.
        at_layers : dict of str to Tensor
            Only with layers; a list of tensors for a module that is called more than once.

        Raises
        ------
        ModelError
            If some operation has no exact rule; all of them are listed.
        ValueError, TypeError
            If an argument does not fit; before any work.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> lrp = attr.LRP(torch.nn.Linear(2, 3))
        >>> lrp.attribute(torch.ones(1, 2), target=[[0, 1, 2]]).shape
        torch.Size([3, 1, 2])
        """
        with _plain_mode():
            run = self._prepare(inputs, target, additional_forward_args, start, layers)
            relevance, delta, at_layers = run.all_batches(internal_batch_size)
        result = [relevance if isinstance(inputs, tuple) else relevance[0]]
        if return_convergence_delta:
            result.append(delta)
        if layers is not None:
            result.append(at_layers)
        return result[0] if len(result) == 1 else tuple(result)

    def report(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        start: str | Tensor = "output",
    ) -> Report:
        """Account for the relevance of `attribute`, node by node: passed on, or absorbed by what.

        Parameters
        ----------
        inputs, target, additional_forward_args, start : as in `attribute`.

        Returns
        -------
        Report
            Sums over batch and targets; prints as a table.

        Raises
        ------
        ModelError, ValueError, TypeError
            As `attribute`.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> report = attr.LRP(torch.nn.Linear(2, 1)).report(torch.ones(1, 2), target=0)
        >>> abs(report.rows[0].gap) < 1e-5
        True
        """
        balances: list[Balance] = []
        with _plain_mode():
            run = self._prepare(inputs, target, additional_forward_args, start, None)
            if not run.batch:
                raise wrong_value(
                    "inputs", "must hold at least one sample for a report", "an empty batch",
                    "An empty batch has no relevance to account for.",
                )  # fmt: skip
            run.one_batch(slice(0, run.batch), balances)
        return Report(balances)

    def plan(self, inputs: Tensor | tuple[Tensor, ...], additional_forward_args: Any = None) -> str:
        """Describe, one line per node, what runs: module, operation, rule, facts and kernel.

        Parameters
        ----------
        inputs, additional_forward_args : as in `attribute`.

        Returns
        -------
        str

        Raises
        ------
        ModelError
            If some operation has no exact rule.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> print(attr.LRP(torch.nn.Linear(2, 1)).plan(torch.ones(1, 2)))  # doctest: +ELLIPSIS
        LRP of Linear by Uniform(...
        """
        given = _tuple(inputs)
        _check_inputs(given)
        with _plain_mode():
            built = self._build((*given, *_extra(additional_forward_args)), len(given))
        return describe_plan(self.model, self.composite, built.propagation, given[0])

    def has_convergence_delta(self) -> bool:
        """Whether `attribute` can return a convergence delta: yes (captum's interface)."""
        return True

    # -- inside --

    def _prepare(self, inputs, target, additional, start, layers) -> _Run:
        given = _tuple(inputs)
        batch = _check_inputs(given)
        _check_start(start)
        if not self._warned:
            _warn_training(self.model)
            self._warned = True
        args = (*given, *_extra(additional))
        built = self._build(args, len(given))
        shape = tuple(int(n) for n in built.graph.output.shape)
        if isinstance(start, Tensor):
            if target is not None:
                raise wrong_value(
                    "target", "must be None when start is a tensor", target,
                    "Put the relevance of every output into start.",
                )  # fmt: skip
            seeds = _check_seed(start, shape, batch)
            selection = Selection(shape, several=start.dim() == len(shape) + 2)
        else:
            seeds, selection = None, select(target, shape, batch)
            if start == "log_odds" and (selection.index is None or len(shape) != 1 or shape[0] < 2):
                raise wrong_value(
                    "start", '"log_odds" needs an output [N, classes] and class targets',
                    f"an output of shape [N, {', '.join(map(str, shape))}]", 'Use start="output".',
                )  # fmt: skip
        watch = _find_layers(built.graph, layers)
        if start == "log_odds" and any(built.graph.output in nodes for nodes in watch.values()):
            raise wrong_value(
                "layers", 'must not name the output when start is "log_odds"', describe(layers),
                "The log-odds start below the logits.",
            )  # fmt: skip
        return _Run(self.model, built, args, len(given), batch, selection, start, seeds, watch)

    def _build(self, args: tuple, explained: int) -> _Built:
        structure = structure_of(self.model)
        for (*known, rows, signature), built in self._built.items():
            same = known == [structure, explained] and fits(args, rows, signature)
            if same and not built.graph.traced:
                return built
        if not len(args[0]):  # an empty batch has nothing to trace; its graph is that of any other
            args = tuple(_one_sample(x) for x in args)
        graph = model_graph(self.model, args, explained)
        weights = Weights(self.model, compute_dtype(self.model, args))
        weights.watch(graph.paths)
        attach_layers(graph.nodes, weights)
        rules = _assign(graph, self.composite)
        built = _Built(Propagation(graph, weights, rules), weights)
        if len(self._built) >= 8:
            self._built.pop(next(iter(self._built)))
        self._built[structure, explained, graph.rows, signature_of(args, graph.rows)] = built
        return built


def _extra(additional: Any) -> tuple:
    if additional is None:
        return ()
    return additional if isinstance(additional, tuple) else (additional,)


def _one_sample(x: Any) -> Any:
    return x.new_zeros((1, *x.shape[1:])) if isinstance(x, Tensor) and x.dim() and not len(x) else x


def _check_start(start: Any) -> None:
    if isinstance(start, Tensor):
        return
    if not isinstance(start, str):
        raise wrong_type(
            "start", "must be a word or a tensor", describe(start), f"Words: {', '.join(STARTS)}."
        )
    if start not in STARTS:
        raise wrong_value(
            "start", f"must be one of {', '.join(STARTS)}", describe(start), "Or pass a tensor."
        )


def _check_seed(start: Tensor, shape: tuple[int, ...], batch: int) -> Tensor:
    """A start tensor as [targets, N, *shape]."""
    expected = (batch, *shape)
    if start.is_complex() or not torch.isfinite(start).all():
        raise wrong_value(
            "start", "must be real and finite", start, "Put the relevance of every output into it."
        )
    if tuple(start.shape) == expected:
        return start.unsqueeze(0)
    if start.dim() == len(expected) + 1 and tuple(start.shape[1:]) == expected and len(start):
        return start
    raise wrong_value(
        "start", f"must, as a tensor, have the shape of the output {list(expected)} (or one more "
        "leading axis of targets)", start, "Put the relevance of every output into it.",
    )  # fmt: skip


def _find_layers(graph: ModelGraph, layers: Sequence[str] | None) -> dict[str, list[Node]]:
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
class _Run:
    """One call of `attribute`: checked arguments, and the work on each part of the batch."""

    model: nn.Module
    built: _Built
    args: tuple
    explained: int
    batch: int
    selection: Selection
    start: str | Tensor
    seeds: Tensor | None
    watch: dict[str, list[Node]]

    def all_batches(self, size: int | str) -> tuple[tuple, Tensor, dict]:
        """Relevance of the inputs, convergence delta, relevance at the layers asked for."""
        targets = len(self.seeds) if self.seeds is not None else self.selection.targets
        chosen = batch_size_for(size, self.built.propagation, self.args, targets, self.batch)
        parts = [self.one_batch(rows) for rows in batches(self.batch, chosen)]
        if not parts:
            return self._nothing(targets)
        relevance = tuple(_join([p[0][i] for p in parts]) for i in range(self.explained))
        delta = _join([p[1] for p in parts])
        at_layers = {
            name: [_join([p[2][name][k] for p in parts]) for k in range(len(nodes))]
            for name, nodes in self.watch.items()
        }
        return self._shaped(relevance, delta, at_layers)

    def _shaped(
        self, relevance: tuple, delta: Tensor, at_layers: dict
    ) -> tuple[tuple, Tensor, dict]:
        """Without the axis of targets where one target was asked for, in the dtype of the input."""

        def one(x: Tensor) -> Tensor:
            return x if self.selection.several else x[0]

        dtypes = [x.dtype if x.is_floating_point() else None for x in self.args[: self.explained]]
        relevance = tuple(
            one(R).to(t or R.dtype).contiguous() for R, t in zip(relevance, dtypes, strict=True)
        )
        found = {name: [one(R).contiguous() for R in Rs] for name, Rs in at_layers.items()}
        return relevance, one(delta), {n: Rs[0] if len(Rs) == 1 else Rs for n, Rs in found.items()}

    def _nothing(self, targets: int) -> tuple[tuple, Tensor, dict]:
        """The result for a batch of no samples."""
        empty = tuple(
            torch.zeros((targets, 0, *self._source(i).shape), device=self.args[i].device)
            for i in range(self.explained)
        )
        layers = {
            name: [torch.zeros((targets, 0, *n.shape)) for n in nodes]
            for name, nodes in self.watch.items()
        }
        return self._shaped(empty, torch.zeros(targets, 0), layers)

    @torch.no_grad()
    def one_batch(self, rows: slice, balances: list[Balance] | None = None) -> tuple:
        """The same for some of the samples, with the axis of targets in front."""
        propagation = self.built.propagation
        whole = propagation.graph.rows or (False,) * len(self.args)
        args = to_compute(
            tuple(x[rows] if row else x for x, row in zip(self.args, whole, strict=True))
        )
        self.built.weights.refresh()
        started, found = propagation(
            args, partial(self._seeds, args, rows), self._watched(), balances
        )
        relevance = tuple(_found(found, self._source(i), started) for i in range(self.explained))
        arrived = sum(_sums(R) for R in relevance)
        at_layers = {
            name: [_found(found, n, started) for n in nodes] for name, nodes in self.watch.items()
        }
        return relevance, started - arrived, at_layers

    def _watched(self) -> list[Node]:
        return [n for nodes in self.watch.values() for n in nodes]

    def _seeds(self, args: tuple, rows: slice, output: Tensor, values: dict) -> tuple:
        """The first messages and their sums, once the output is known and found sound."""
        self._check_output(output, args)
        selection = self.selection.rows(rows)
        if self.start == "log_odds" and selection.index is not None:
            return log_odds(self.built.propagation, output, selection.index, values)
        if self.seeds is not None:
            R = self.seeds[:, rows].to(output)
        else:
            R = selection.seed(output, one=self.start == "one")
        return {self.built.graph.output: R}, _sums(R)

    def _check_output(self, output: Tensor, args: tuple) -> None:
        if not torch.isfinite(output).all():
            bad = self.built.propagation.first_bad_node(args)
            raise InputError(
                f"The model's output has NaN or infinite values for these inputs; the first "
                f"operation that made them is {bad}. Check its parameters and the inputs' scale."
            )

    def _source(self, i: int) -> Node:
        """Where the relevance of input i ends: at itself, or at its one embedding."""
        node = self.built.graph.inputs[i]
        if node.floating:
            return node
        sources = [n for n in self.built.graph.nodes if n.kind == "source" and node in n.args]
        if len(sources) == 1:
            return sources[0]
        raise wrong_value(
            "inputs", "must be floating, or enter exactly one embedding",
            f"input {i}, of {self.args[i].dtype}, which enters {len(sources)}",
            "Pass it by additional_forward_args, and ask for the relevance at the embeddings with "
            "layers=[...].",
        )  # fmt: skip


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


# ---- the plan --------------------------------------------------------------------------------


def _facts(node: Node, propagation: Propagation) -> str:
    words = []
    if node.inputs and all(x.nonnegative for x in node.inputs):
        words.append("inputs >= 0")
    if node in propagation.fused:
        words.append(f"runs with {propagation.fused[node].name}")
    if node.rectified:
        words.append("R = 0 where z <= 0")
    if node.first:
        words.append("first")
    return ", ".join(words)


def _kernel(node: Node, like: Tensor) -> str:
    """What runs on the way back."""
    layer = node.layer
    kernels = {"max_pool": "pool_redistribute", "add": "add_split"}
    if isinstance(layer, Linear):
        return "relprop_linear"
    if isinstance(layer, Conv):
        packed = layer.packs_for(like)
        return (
            "one by one" if layer.crop else "relprop_conv" + (", oneDNN packed" if packed else "")
        )
    return kernels.get(node.kind, "-")


def describe_plan(
    model: nn.Module, composite: Composite, propagation: Propagation, like: Tensor
) -> str:
    """One line per node that relevance may reach, from the output down."""
    graph = propagation.graph
    head = [f"LRP of {type(model).__name__} by {composite!r}"]
    if graph.traced:
        head.append(
            "traced for this input: the model's code depends on the data; traced anew each call"
        )
    elif not graph.batched:
        head.append("valid for this batch size only: the model fixes it; captured anew for others")
    lines = [
        f"{node.name:26} {node.op:22} {node.module or '-':30} {rule!r:58} "
        f"{_kernel(node, like):28} {_facts(node, propagation)}"
        for node, rule in propagation.rules.items()
    ]
    return "\n".join([*head, *(line.rstrip() for line in lines)])
