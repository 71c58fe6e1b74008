"""A rule, the call of a node that it is given, and the account that it may keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor

from .node import Node


class NodeCall:
    """A node in one run: its facts, and its function with everything but its inputs fixed.

    `kept` is what the node's rule kept when it ran the node itself. `reference(node)` is the value
    of a node in the run of a baseline, where there was one.
    """

    def __init__(
        self,
        node: Node,
        lookup: Callable[[Node], Any],
        reference: Callable[[Node], Any] | None = None,
        kept: Any = None,
    ) -> None:
        self.node = node
        self.kept = kept
        self.lookup = lookup
        self.reference = reference
        self.layer = node.layer

    # Facts of the node that rules read; all others are those of `node`.

    @property
    def kind(self) -> str:
        """The word that composites match."""
        return self.node.kind

    @property
    def op(self) -> str:
        """The name of the ATen operation."""
        return self.node.op

    @property
    def target(self) -> Callable:
        """The function that the node calls."""
        return self.node.target

    @property
    def args(self) -> tuple:
        """Its arguments, operands among them as nodes."""
        return self.node.args

    @property
    def kwargs(self) -> dict[str, Any]:
        """Its arguments by keyword."""
        return self.node.kwargs

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The operands that carry relevance."""
        return self.node.inputs

    @property
    def module(self) -> str:
        """The path of the module that the node belongs to."""
        return self.node.module

    @property
    def shape(self) -> tuple:
        """The shape of the output, without the batch."""
        return self.node.shape

    def with_layer(self, layer: Any) -> NodeCall:
        """The same call with another linear map in place of the node's."""
        other = NodeCall(self.node, self.lookup, self.reference)
        other.layer = layer
        return other

    def rerun(self, *inputs: Tensor) -> Tensor:
        """The node's output for other values of the inputs that carry relevance."""
        given = dict(zip(self.node.inputs, inputs, strict=True))
        return self.node.call(lambda n: given[n] if n in given else self.lookup(n))


@dataclass
class Balance:
    """The account of the relevance that one node received, summed over batch and targets."""

    node: Node
    received: float = 0.0
    passed: float = 0.0
    bias: float = 0.0
    stabilizer: float = 0.0
    filled: float = 0.0
    gates: float = 0.0  # of what it passed or absorbed, how much went through gates

    def absorb(self, bias: Tensor | float = 0.0, stabilizer: Tensor | float = 0.0) -> None:
        """Count what a bias or a stabilizer kept."""
        self.bias += float(bias)
        self.stabilizer += float(stabilizer)

    @property
    def gap(self) -> float:
        """The rest that is unaccounted for: rounding."""
        return self.received - self.passed - self.bias - self.stabilizer - self.filled


class Rule:
    """How a node hands the relevance of its output to its inputs.

    A subclass implements `propagate`; the rest has safe defaults.

    Attributes
    ----------
    needs_inputs, needs_output : bool
        Whether `propagate` reads them; what no rule reads is not kept.
    runs : bool
        Whether `run` takes the place of the operation on the way forward.
    """

    needs_inputs: bool = True
    needs_output: bool = True
    runs: bool = False

    def check(self, node: Node) -> str | None:
        """Why this rule cannot be used at a node, or None: asked once, before any work."""
        return None

    def reads(self, node: Node) -> tuple[Node, ...]:
        """Further nodes whose values it asks for, by `node.lookup`."""
        return ()

    def run(self, node: NodeCall) -> tuple[Tensor, Any]:
        """Return the node's output, and what `propagate` shall find as `node.kept`."""
        raise NotImplementedError

    def keeps(self, node: Node) -> tuple[int, int]:
        """Numbers of each sample that `run` keeps, and that each target takes on the way back.

        Beside inputs and output: what bounds the samples that are processed at once.
        """
        return 0, 0

    def passes(self, node: Node) -> bool:
        """Whether the message is handed on as it is."""
        return False

    def fuses(self, node: Node, rectified: bool) -> bool:
        """Whether a ReLU behind the node may be computed with it, and `output` be the ReLU's."""
        return False

    def gates(self, node: Node, gated: bool) -> bool:
        """Whether the message vanishes where the input does, if R does where the output does."""
        return False

    def propagate(
        self,
        node: NodeCall,
        inputs: tuple[Tensor, ...],
        output: Tensor | None,
        R: Tensor,
        balance: Balance | None = None,
    ) -> Iterable[Tensor | None]:
        """Return one message for each input.

        Parameters
        ----------
        node : the node's facts (kind, op, layer, module, ...) and `rerun(*inputs)`.
        inputs : values of the operands that carry relevance, [N, ...] each.
        output : value of the node.
        R : relevance of the output, [targets, *output.shape].
        balance : when a report is wanted: `balance.absorb(bias=..., stabilizer=...)`.

        Returns
        -------
        One tensor [targets, *input.shape] for each input (None for no relevance).
        """
        raise NotImplementedError

    def __repr__(self) -> str:
        if not is_dataclass(self):
            return type(self).__name__

        def shown(x: object) -> str:
            return f"Tensor{list(x.shape)}" if isinstance(x, Tensor) and x.numel() > 1 else repr(x)

        values = [f"{f.name}={shown(getattr(self, f.name))}" for f in fields(self) if f.repr]
        return f"{type(self).__name__}({', '.join(values)})"
