"""Rules for products with a gate."""

from __future__ import annotations

from torch import Tensor

from ..graph.layers.base import unbroadcast
from ..graph.node import Node
from ..graph.rule import Rule


class Gate(Rule):
    """A product of signal and gate: all relevance to the signal.

    h = g s:   R_s = R_h,   R_g = 0

    The gate is the operand that lies in [0, 1] (behind a sigmoid, say), or the one that has fewer
    elements if both do.

    References
    ----------
    Book, section 10.4: all relevance flows through the second term of an LSTM's products.

    Examples
    --------
    >>> from xaifast import rules
    >>> rules.Gate()
    Gate
    """

    needs_output = False

    def check(self, node: Node) -> str | None:
        """One operand, and not both, must be a gate."""
        if node.kind != "mul":
            return "Gate needs a product of two inputs"
        if _gate_of(node) is None:
            return "neither operand is known to be a gate in [0, 1], or both are"
        return None

    def gates(self, node: Node, gated: bool) -> bool:
        return gated

    def propagate(self, node, inputs, output, R, balance=None):
        signal = 1 if _gate_of(node) == 0 else 0
        messages: list[Tensor | None] = [None, None]
        messages[signal] = unbroadcast(R, inputs[signal].shape)
        return messages


def _gate_of(node) -> int | None:
    """Which operand of a product is the gate, or None."""
    known = [x.low >= 0 and x.high <= 1 for x in node.inputs]
    if all(known):
        sizes = [_elements(x.shape) for x in node.inputs]
        known = [size < max(sizes) for size in sizes]
    return known.index(True) if sum(known) == 1 else None


def _elements(shape: tuple) -> int:
    n = 1
    for size in shape:
        n *= int(size)
    return n
