"""The way of relevance back to token numbers, whatever the composite."""

from __future__ import annotations

from ..graph.layers.base import unbroadcast
from ..graph.rule import Rule
from ..graph.tokens import RENAMINGS, is_lookup
from .moves import Transpose


class Tokens(Rule):
    """From what was read of token numbers to the numbers, each at its place.

    R_j = sum of the relevance of all that was read of number j, its features and its copies

    Examples
    --------
    >>> from xaifast.rules.tokens import Tokens
    >>> Tokens()
    Tokens
    """

    needs_output = False

    def propagate(self, node, inputs, output, R, balance=None):
        """Sum over features, over what was broadcast, and over the places that were copied to."""
        if is_lookup(node):
            (x,) = inputs
            return (R.reshape(len(R), *x.shape, -1).sum(-1),)
        if getattr(node.target, "overloadpacket", node.target) in RENAMINGS:
            return (unbroadcast(R, inputs[0].shape),)
        floating = tuple(x.new_zeros(x.shape, dtype=R.dtype) for x in inputs)
        return Transpose().propagate(node, floating, output, R, balance)
