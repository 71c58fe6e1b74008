"""Rules for activations and for moves of values."""

from __future__ import annotations

from torch import Tensor

from ..graph.layers.base import transposed
from ..graph.node import Node
from ..graph.rule import Rule

# ---- other nodes -----------------------------------------------------------------------------


class Pass(Rule):
    """Hand relevance on unchanged, for activation functions and affine nodes.

    R_j = R_k

    References
    ----------
    Book, section 10.2.1: the propagation rules treat a layer together with its activation.

    Examples
    --------
    >>> from xaifast import rules
    >>> rules.Pass()
    Pass
    """

    needs_inputs = needs_output = False

    def check(self, node: Node) -> str | None:
        """The one input must have the shape of the output."""
        if len(node.inputs) == 1 and node.inputs[0].shape == node.shape:
            return None
        return "Pass needs one input of the shape of the output"

    def passes(self, node: Node) -> bool:
        return True

    def gates(self, node: Node, gated: bool) -> bool:
        return gated and node.op == "relu"

    def propagate(self, node, inputs, output, R, balance=None):
        return (R,)


class Transpose(Rule):
    """The exact transposed map of what only moves values (view, cat, slice, expand, pad, ...).

    R_j = sum of the R_k that are copies of j

    Examples
    --------
    >>> from xaifast import rules
    >>> rules.Transpose()
    Transpose
    """

    needs_output = False

    def gates(self, node: Node, gated: bool) -> bool:
        return gated

    def propagate(self, node, inputs, output, R, balance=None):
        messages: tuple[Tensor | None, ...] | None = _moved_back(node, inputs, R)
        if messages is None:
            messages = _transposed_inputs(node, inputs, R)
        if balance is not None:  # what fell on padding and constants
            arrived = sum(float(m.sum()) for m in messages if m is not None)
            balance.filled += float(R.sum()) - arrived
        return messages


def _moved_back(node, inputs: tuple[Tensor, ...], R: Tensor) -> tuple[Tensor, ...] | None:
    """The common cases in closed form, else None."""
    if node.op in (
        "view",
        "reshape",
        "_unsafe_view",
        "flatten",
        "unflatten",
        "squeeze",
        "unsqueeze",
    ):
        return (R.reshape(len(R), *inputs[0].shape),)
    if node.op == "permute":
        dims = [d % inputs[0].dim() for d in node.args[1]]
        back = sorted(range(len(dims)), key=dims.__getitem__)
        return (R.permute(0, *(d + 1 for d in back)),)
    if node.op == "transpose":
        i, j = (d % inputs[0].dim() + 1 for d in node.args[1:3])
        return (R.transpose(i, j),)
    if node.op == "cat" and len(inputs) == len(node.args[0]):
        dim = (node.args[1] if len(node.args) > 1 else 0) % inputs[0].dim()
        return R.split([x.shape[dim] for x in inputs], dim + 1)
    return None


def _transposed_inputs(node, inputs: tuple[Tensor, ...], R: Tensor) -> tuple[Tensor | None, ...]:
    """One transposed map for each input, the others held fixed."""
    messages: list[Tensor | None] = []
    for i, x in enumerate(inputs):
        source = node.inputs[i]
        if source in node.inputs[:i]:  # it enters twice, as in stack([y, y]): one map for both
            messages.append(None)
            continue

        def forward(u: Tensor, source: Node = source) -> Tensor:
            given = zip(node.inputs, inputs, strict=True)
            return node.rerun(*(u if n is source else v for n, v in given))

        messages.append(transposed(forward, x, R))
    return tuple(messages)
