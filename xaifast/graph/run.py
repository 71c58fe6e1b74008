"""Run: forward once, keeping just what some rule asks for; then the nodes in reverse.

Messages (relevance, [targets, N, ...]) of a node that several others read are summed, and every
tensor is dropped after its last use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, ModelError
from .facts import ModelGraph
from .node import Node
from .rule import Balance, NodeCall, Rule
from .weights import Weights


@dataclass(frozen=True)
class _Kept:
    """Where the values of a run hold what a node's rule kept."""

    node: Node


def _check_messages(rule: Rule, node: Node, sent: Any, targets: int, values: dict) -> None:
    """Refuse what is not one message for each input, so that a rule's mistake has its name."""
    expected = [(targets, *values[x].shape) if x in values else None for x in node.inputs]
    if isinstance(sent, (tuple, list)) and len(sent) == len(expected):
        if all(
            m is None
            or (isinstance(m, Tensor) and (shape is None or tuple(m.shape) == tuple(shape)))
            for m, shape in zip(sent, expected, strict=True)
        ):
            return
        came = [tuple(m.shape) if isinstance(m, Tensor) else m for m in sent]
    else:
        came = tuple(sent.shape) if isinstance(sent, Tensor) else type(sent).__name__  # type: ignore[assignment]
    raise ModelError(
        f"{rule!r} at {node!r} must return a tuple with one tensor [targets, *input.shape] (or "
        f"None) for each of the {len(expected)} inputs; it returned {came}. Expected shapes: "
        f"{expected}."
    )


def _named(node: Node) -> str:
    """A node, and the line of the user's code that it comes from."""
    return f"{node!r}, {node.source}" if node.source else repr(node)


def _check_finite(message: Tensor | None, where: str) -> None:
    """Refuse a message with a NaN or an infinity."""
    if message is not None and not torch.isfinite(message).all():
        raise InputError(
            "Relevance (or the gradient) has NaN or infinite values for these inputs, though the "
            f"output of the model is finite; it was first so {where}. Something was divided by "
            f"nearly nothing there, or left the range of {message.dtype}. Give that node's rule a "
            "larger epsilon (or stabilizer), or pass the model and the inputs in float64."
        )


class Propagation(nn.Module):
    """The built explainer: a canonical graph, a rule for each node, and the plan to run them.

    Parameters
    ----------
    graph : from `build_graph`, with its layers attached.
    weights : where constants come from.
    rules : node -> rule, for every node with inputs that carry relevance.
    """

    def __init__(self, graph: ModelGraph, weights: Weights, rules: dict[Node, Rule]) -> None:
        super().__init__()
        self.graph = graph
        self.weights = weights
        self.rules = rules
        self.active = self._reaching_output()
        self.gated = self._gated()
        self.fused = self._fused()
        self.own = {node for node, rule in rules.items() if rule.runs}
        kept = self._kept()
        self.kept = kept
        self.steps = [n for n in graph.nodes if not n.constant and n.kind != "input"]
        self.frees = self._frees(kept)
        self.frees_all = self._frees({graph.output})
        self.plans: list[Any] = []  # of changes of an input, see `local.changes.plan_of`

    # -- the plan --

    def _reaching_output(self) -> set[Node]:
        active = {self.graph.output}
        for node in reversed(self.graph.nodes):
            if node in active:
                active.update(node.inputs)
        return active

    def _gated(self) -> set[Node]:
        """Nodes whose relevance is zero wherever their value is zero."""
        gated: set[Node] = set()
        for node in reversed(self.graph.nodes):
            users = [u for u in node.users if u in self.active]
            if users and all(self.rules[u].gates(u, u in gated) for u in users):
                gated.add(node)
        return gated

    def _fused(self) -> dict[Node, Node]:
        """Layer -> the ReLU that runs with it. Its pre-activation is then not kept."""
        fused = {}
        readers: Counter[Node] = Counter()
        for node in self.graph.nodes:
            readers.update({*node.operands})
        for node, rule in self.rules.items():
            readers.update(rule.reads(node))
        for node in self.graph.nodes:
            behind = node.users[0] if len(node.users) == 1 else None
            if (
                behind is None
                or behind.op != "relu"
                or node not in self.rules
                or node is self.graph.output
            ):
                continue
            # Relevance vanishes wherever the pre-activation is not positive.
            rectified = behind in self.gated and self.rules[behind].passes(behind)
            if node.layer is not None:
                node.layer.rectified = rectified
            if (
                node.kind in ("conv", "linear")
                and node.layer is not None
                and readers[node] == 1  # a comparison, or a rule, reads the pre-activation, too
                and not self.rules[behind].needs_inputs
                and self.rules[node].fuses(node, rectified)
            ):
                fused[node] = behind
        return fused

    def _kept(self) -> set[Node]:
        kept = {self.graph.output}
        for node, rule in self.rules.items():
            if rule.needs_inputs:
                kept.update(node.inputs)
            if rule.needs_output:
                kept.add(node)
            kept.update(rule.reads(node))
        # What is no tensor of relevance (sizes, masks, further arguments) may be asked for again.
        kept.update(n for n in self.graph.nodes if n.kind in ("value", "tokens"))
        kept.update(n for n in self.graph.inputs if not n.carries)
        return kept

    def _frees(self, kept: set[Node]) -> dict[Node, list[Node]]:
        """After which step which values are needed no more."""
        last: dict[Node, Node] = {}
        for node in self.steps:
            for x in node.operands:
                if not x.constant and x not in kept:
                    last[x] = node
        frees: dict[Node, list[Node]] = {}
        for x, node in last.items():
            frees.setdefault(node, []).append(x)
        return frees

    # -- the run --

    def forward(
        self,
        inputs: tuple,
        start: Callable[[Tensor, dict[Node, Any]], tuple[dict[Node, Tensor], Any]],
        watch: Iterable[Node] = (),
        balances: list[Balance] | None = None,
        check: bool = False,
    ) -> tuple[Any, dict[Node, Tensor]]:
        """Run the model on inputs and the rules on what `start` makes of the output.

        `start(output, values)` returns the first messages and anything that is to be returned.
        Returns that, and the messages at the inputs, the sources and the watched nodes (a node that
        no relevance reached is missing). check: as for `run_rules`.
        """
        values = self.run_model(inputs)
        seeds, started = start(values[self.graph.output], values)
        return started, self.run_rules(values, seeds, set(watch), balances, check=check)

    def lookup(self, values: dict[Node, Any]) -> Callable[[Node], Any]:
        """A node's value in this run."""
        return lambda n: self.weights.value(n) if n.constant else values[n]

    def run_model(self, inputs: tuple, keep_all: bool = False) -> dict[Node, Any]:
        """Values of the nodes that are kept."""
        values: dict[Node, Any] = dict(zip(self.graph.inputs, inputs, strict=True))
        self.run_steps(values, self.steps, None if keep_all else self.frees)
        return values

    def run_output(self, inputs: tuple) -> Tensor:
        """The model's output, nothing else kept: as fast as it goes, for nothing goes back."""
        values: dict[Node, Any] = dict(zip(self.graph.inputs, inputs, strict=True))
        self.run_steps(values, self.steps, self.frees_all, alone=True)
        return values[self.graph.output]

    def run_steps(
        self,
        values: dict[Node, Any],
        steps: list[Node],
        frees: dict[Node, list[Node]] | None,
        alone: bool = False,
    ) -> None:
        """Run some nodes, with the values of those before them at hand.

        frees: what each node was the last to use, None: keep everything; alone: nothing is going to
        be propagated back.
        """
        lookup = self.lookup(values)
        for node in steps:
            if node in self.fused and frees is not None:
                value = node.layer.run(lookup(node.inputs[0]), relu=True, alone=alone)
                values[node] = values[self.fused[node]] = value
            elif node not in values and node in self.own and not alone:
                call = NodeCall(node, lookup)
                values[node], values[_Kept(node)] = self.rules[node].run(call)  # type: ignore[index]
            elif node not in values:
                values[node] = self._run_node(node, lookup, alone)
            if frees is not None:
                for x in frees.get(node, ()):
                    values.pop(x, None)

    def _run_node(self, node: Node, lookup: Callable[[Node], Any], alone: bool) -> Any:
        if node.kind in ("conv", "linear") and node.layer is not None:
            return node.layer.run(lookup(node.inputs[0]), alone=alone)
        return node.call(lookup)

    def run_rules(
        self,
        values: dict[Node, Any],
        seeds: dict[Node, Tensor],
        watch: set[Node],
        balances: list[Balance] | None = None,
        stop: set[Node] | None = None,
        reference: dict[Node, Any] | None = None,
        check: bool = False,
    ) -> dict[Node, Tensor]:
        """Hand the seeds down, node by node in reverse order; what reaches `stop` stays there.

        reference: values in the run of a baseline, for rules that compare the two; check: raise at
        the first node whose rule hands on, or at which arrives, what is not finite.
        """
        lookup = self.lookup(values)
        other = None if reference is None else self.lookup(reference)
        messages: dict[Node, Tensor] = dict(seeds)
        found: dict[Node, Tensor] = {}
        for node in reversed(self.graph.nodes):
            R = messages.pop(node, None)
            if R is not None:
                if check:
                    _check_finite(R, f"in what arrives at {_named(node)}")
                if node in watch or node.kind in ("input", "source"):
                    found[node] = R
                if node in self.rules and not (stop and node in stop):
                    kept = values.get(_Kept(node)) if node in self.own else None  # type: ignore[call-overload]
                    call = NodeCall(node, lookup, other, kept)
                    self._hand_down(call, R, values, messages, balances, check)
            if node in self.own:
                values.pop(_Kept(node), None)  # type: ignore[call-overload]
            if node.kind != "value":
                values.pop(node, None)
        return found

    def _hand_down(self, call: NodeCall, R, values, messages, balances, check) -> None:
        node = call.node
        rule = self.rules[node]
        inputs = tuple(values[x] for x in node.inputs) if rule.needs_inputs else ()
        output = values[node] if rule.needs_output else None
        balance = None if balances is None else Balance(node, received=float(R.sum()))
        sent = rule.propagate(call, inputs, output, R, balance)
        _check_messages(rule, node, sent, len(R), values)
        for x, message in zip(node.inputs, sent, strict=True):
            if check:
                _check_finite(message, f"at {_named(node)}, by {rule!r}")
            if message is None:
                continue
            messages[x] = messages[x] + message if x in messages else message
            if balance is not None:
                balance.passed += float(message.sum())
        if balances is not None:
            balances.append(balance)

    # -- when something went wrong --

    def first_bad_node(self, inputs: tuple) -> str:
        """Name the first operation whose output has a NaN or an infinity."""
        values = self.run_model(inputs, keep_all=True)
        for node in self.steps:
            x = values[node]
            if isinstance(x, Tensor) and x.is_floating_point() and not torch.isfinite(x).all():
                return _named(node)
        raise ModelError("The output of the model is not finite, but every operation's is.")
