"""The report of where relevance went, and the plan of how it goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .. import ops
from ..composites import Composite
from ..graph.layers import choice
from ..graph.layers.conv import Conv
from ..graph.layers.dense import Linear
from ..graph.node import Node
from ..graph.rule import Balance, Rule
from ..graph.run import Propagation
from ..rules.base import ShareRule

# ---- the report ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """Where the relevance went, node by node, from the output to the inputs.

    Attributes
    ----------
    rows : list of Balance
        For each node: received = passed + bias + stabilizer + filled + gap. `bias` and `stabilizer`
        are what those absorbed, `filled` what fell on padding and constants, `gap` is rounding.
        `gates` tells how much of it was given to gates of products, which hand it on or absorb it.

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
        """The rows as plain data: node, module, and the numbers of its account."""
        numbers = ("received", "passed", "bias", "stabilizer", "filled", "gates", "gap")
        return [
            {"node": b.node.name, "module": b.node.module, **{n: getattr(b, n) for n in numbers}}
            for b in self.rows
        ]

    def __str__(self) -> str:
        columns = ("received", "passed", "bias", "stabilizer", "filled", "gates")
        head = " ".join(
            [f"{'node':24} {'module':24}", *(f"{c:>12}" for c in columns), f"{'gap':>10}"]
        )
        lines = [
            f"{b.node.name:24.24} {b.node.module:24.24} {b.received:12.5g} {b.passed:12.5g} "
            f"{b.bias:12.5g} {b.stabilizer:12.5g} {b.filled:12.5g} "
            f"{b.gates:12.5g} {b.gap:10.2g}"
            for b in self.rows
        ]
        return "\n".join([head, *lines])


# ---- the plan --------------------------------------------------------------------------------


def _facts(node: Node, propagation: Propagation) -> str:
    words = []
    if node.inputs and all(x.nonnegative for x in node.inputs):
        words.append("inputs >= 0")
    if node in propagation.fused:
        words.append(f"runs with {propagation.fused[node].name}")
    if node.layer is not None and node.layer.rectified:
        words.append("R = 0 where z <= 0")
    if node.first:
        words.append("first")
    return ", ".join(words)


def _kernel(node: Node, rule: Rule, like: Tensor) -> str:
    """The kernel of the way back, as `choice` names it."""
    layer = node.layer
    if isinstance(layer, Linear):
        a = layer.weight.plain  # in the dtype that the run computes in
        shares = rule.shares() if isinstance(rule, ShareRule) else ()
        rows = choice.sign_rows(layer, a, len(shares))
        return f"zplus_linear up to {rows} rows" if rows else choice.DENSE.name
    if isinstance(layer, Conv):
        u = like.new_zeros(()).expand(1, *node.inputs[0].shape)
        kernel = choice.back_through(layer, u, layer.rectified)
        one_part = kernel is choice.FEW and 2 * u.shape[1] > ops.FEW_CHANNELS
        return kernel.name + (" for one part" if one_part else "")
    return {"max_pool": "pool_redistribute", "add": "add_split"}.get(node.kind, "-")


def describe_plan(
    model: nn.Module,
    composite: Composite,
    propagation: Propagation,
    like: Tensor,
    precision: str,
) -> str:
    """One line per node that relevance may reach, from the output down."""
    graph = propagation.graph
    head = [f"LRP of {type(model).__name__} by {composite!r}"]
    if precision != "float32":
        head[0] += f", precision {precision}"
    if graph.traced:
        head.append(
            "traced for this input: the model's code depends on the data; traced anew each call"
        )
    elif not graph.batched:
        head.append("valid for this batch size only: the model fixes it; captured anew for others")
    lines = [
        f"{node.name:26} {node.op:22} {node.module or '-':30} {rule!r:58} "
        f"{_kernel(node, rule, like):28} {_facts(node, propagation)}"
        for node, rule in propagation.rules.items()
    ]
    return "\n".join([*head, *(line.rstrip() for line in lines)])
