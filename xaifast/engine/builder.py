"""Building: a model and a composite, made ready to run for one signature of inputs."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..composites import Composite
from ..errors import ModelError, describe, wrong_value
from ..graph.capture.modules import unwrap
from ..graph.facts import ModelGraph
from ..graph.layers.attach import attach_layers
from ..graph.model import model_graph
from ..graph.node import Node
from ..graph.proof.cuts import with_cuts
from ..graph.proof.verify import agree, compute_dtype, expected_output, to_compute
from ..graph.run import Propagation
from ..graph.signature import fits, signature_of
from ..graph.weights import Weights, check_flat
from ..rules import Rule
from ..rules.tokens import Tokens
from .precision import check_dtypes, rounds_to

LIMIT = 8  # signatures that are kept
VERIFY = ("auto", "always", "never")


def check_verify(who: str, verify: object) -> str:
    """Return what an explainer takes as `verify`, or raise."""
    if not isinstance(verify, str) or verify not in VERIFY:
        raise wrong_value(
            f"{who}: verify", f"must be one of {', '.join(VERIFY)}", describe(verify),
            'Leave it out: "auto" proves at every call that the graph is still the model.',
        )  # fmt: skip
    return verify


def _assign(graph: ModelGraph, composite: Composite) -> dict[Node, Rule]:
    """A rule for every node that relevance may reach; all problems in one error."""
    rules: dict[Node, Rule] = {}
    problems = []
    reached = {graph.output}
    for node in reversed(graph.nodes):
        if node not in reached or not node.inputs:
            continue
        reached.update(node.inputs)
        if node.kind in ("source", "tokens"):  # numbers that name something, the same for all
            rules[node] = Tokens()
            continue
        rule = composite.rule_for(node)
        reason = composite.check(node)
        if rule is None:
            reason = reason or f"no entry of the composite matches kind {node.kind!r}"
            if node.kind in ("lstm", "gru"):
                reason += "; for LRP of recurrent layers take composites.Recurrent"
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
class Built:
    """A model and a composite, ready to run for one signature of inputs."""

    propagation: Propagation
    weights: Weights
    precision: str | None = None  # of products; None: float32, as PyTorch is set

    def holds(self, model: nn.Module, args: tuple) -> bool:
        """Whether the model's code still does what it did when the graph was captured."""
        check_flat(model)
        script = self.graph.script
        return script is not None and script.holds(model, args)

    @property
    def graph(self) -> ModelGraph:
        """The canonical graph."""
        return self.propagation.graph


class Builder:
    """Builds at the first call with inputs of some signature, and keeps what it built.

    Parameters
    ----------
    model : the user's module; never changed.
    composite : a rule for every node.
    precision : of products, from `precision.PRECISIONS`; None: float32, as PyTorch is set.
    verify : how a call makes sure that what was built is still the model, from `VERIFY`.
    """

    def __init__(
        self,
        model: nn.Module,
        composite: Composite,
        precision: str | None = None,
        verify: str = "auto",
    ) -> None:
        self._given = model
        self.composite = composite
        self.precision = precision
        self.verify = verify
        self._built: dict[Any, Built] = {}

    @property
    def model(self) -> nn.Module:
        """The module, out of its wrappers, as it is now."""
        return unwrap(self._given)

    def __getstate__(self) -> dict[str, Any]:
        """A copy captures the model anew."""
        return {**vars(self), "_built": {}}

    def build(self, args: tuple, explained: int) -> Built:
        """Build for `model(*args)`; relevance is asked for the first `explained` arguments."""
        built = self._kept(args, explained)
        if built is None:
            if not len(args[0]):  # an empty batch has nothing to trace; its graph is any other's
                args = tuple(_one_sample(x) for x in args)
            built = self.anew(args, explained)
            graph = built.graph
            if len(self._built) >= LIMIT:
                self._built.pop(next(iter(self._built)))
            if graph.script is not None:
                key = (explained, graph.rows, signature_of(args, graph.rows))
                self._built[key] = built
        built.weights.refresh(whole=self.verify != "never")
        if self.verify == "always":
            self._check_output(built, args)
        return built

    def _kept(self, args: tuple, explained: int) -> Built | None:
        """Return the graph that was built for such a call, if it is still the model."""
        for key, built in list(self._built.items()):
            known, rows, signature = key
            if known == explained and fits(args, rows, signature):
                if self.verify == "never" or built.holds(self.model, args):
                    return built
                del self._built[key]
        return None

    def _check_output(self, built: Built, args: tuple) -> None:
        """Compare the output of the graph with the model's own, on all samples of the call."""
        if not len(args[0]):
            return
        with torch.no_grad():
            got = built.propagation.run_output(to_compute(args))
        if not agree(got, expected_output(self.model, args)):
            raise ModelError(
                f"{type(self.model).__name__} computes something else than its graph on these "
                'inputs (verify="always" compares the two). Please report it with the model; '
                "optimize=False calls the model itself, where an explainer has it."
            )

    def anew(self, args: tuple, explained: int) -> Built:
        """Build, and keep nothing of it."""
        model = self.model
        tensors = (*(x for x in args if isinstance(x, Tensor)), *model.parameters())
        check_dtypes(self.precision, tensors)
        check_flat(model)
        try:
            graph = model_graph(model, args, explained, self.composite.folds)
        except ModelError as error:
            raise with_cuts(error, model, args, explained) from error
        weights = Weights(model, compute_dtype(model, args))
        weights.watch(graph.paths)
        attach_layers(graph.nodes, weights, rounds_to(self.precision))
        propagation = Propagation(graph, weights, _assign(graph, self.composite))
        return Built(propagation, weights, self.precision)


def _one_sample(x: Any) -> Any:
    if not isinstance(x, Tensor) or not x.dim() or len(x):
        return x
    # One int for each sample may be a length, which is not zero.
    return x.new_full((1, *x.shape[1:]), 0 if x.is_floating_point() or x.dim() > 1 else 1)


def needs_eval_mode(model: nn.Module) -> bool:
    """Whether the model is in training mode, and computes something else in it."""
    special = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    return any(m.training and isinstance(m, special) for m in model.modules())


def warn_training(model: nn.Module) -> None:
    """Say that training mode is left out of account, where that matters."""
    if needs_eval_mode(model):
        warnings.warn(
            "The model is in training mode; it is explained as in eval mode (batch norm uses its "
            "running statistics, dropout is off). Call model.eval() to silence this.",
            stacklevel=3,
        )
