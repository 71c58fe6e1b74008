"""Rules for max pooling and maxima."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from ..errors import wrong_type
from ..graph.layers.base import transposed, unbroadcast
from ..graph.node import Node
from ..graph.rule import Rule
from .base import check_not_negative


@dataclass(repr=False)
class Pool(Rule):
    """Max pooling: winner-take-all, or in proportion to the activations.

    winner-take-all:  R_i = sum of the R_o of the windows that i wins (first of equals)
    proportional:     R_i = sum_o a_i / (sum_i a_i) R_o

    Parameters
    ----------
    proportional : bool, default False
        False: winner-take-all.
    stabilizer : float, default 1e-6
        Of the proportional rule's denominator.

    Raises
    ------
    ValueError
        If the stabilizer is negative.

    References
    ----------
    Book, section 10.3.2 (both), section 16.2 (proportional).

    Examples
    --------
    >>> from xaifast import rules
    >>> rules.Pool(proportional=True)
    Pool(proportional=True, stabilizer=1e-06)
    """

    proportional: bool = False
    stabilizer: float = 1e-6
    needs_output = False

    def __post_init__(self) -> None:
        if not isinstance(self.proportional, bool):
            raise wrong_type(
                "Pool: proportional", "must be a bool", self.proportional,
                "False: winner-take-all.",
            )  # fmt: skip
        check_not_negative("Pool", stabilizer=self.stabilizer)

    def check(self, node: Node) -> str | None:
        """Windows for both schemes; a plain maximum has a winner only."""
        if node.kind == "max_pool" or (node.kind == "max_reduce" and not self.proportional):
            return None
        return "Pool(proportional=True) needs a max pooling with windows, Pool() a maximum"

    def gates(self, node: Node, gated: bool) -> bool:
        return gated or self.proportional

    def propagate(self, node, inputs, output, R, balance=None):
        if node.op == "maximum":
            return _to_the_larger(inputs, R)
        (a,) = inputs
        if node.kind == "max_reduce":
            return (to_first_largest(node, a, R),)
        kernel, stride, padding, dilation = pool_geometry(node, a.dim() - 2)
        rule = "proportional" if self.proportional else "winner_take_all"
        message = ops.pool_redistribute(
            a, R, kernel, stride, padding, dilation, rule, self.stabilizer
        )
        if balance is not None and self.proportional:
            balance.absorb(stabilizer=R.sum() - message.sum())
        return (message,)


def _to_the_larger(inputs: tuple[Tensor, ...], R: Tensor) -> tuple[Tensor, Tensor]:
    """All relevance of max(x, y) to the larger of the two, to x if they are equal."""
    x, y = inputs
    R_x = torch.where(x >= y, R, 0)
    return unbroadcast(R_x, x.shape), unbroadcast(R - R_x, y.shape)


def to_first_largest(node, a: Tensor, R: Tensor) -> Tensor:
    """All relevance of a maximum to the first input that attains it."""
    if node.op != "amax":
        return transposed(node.rerun, a, R)
    dims = sorted(d % a.dim() for d in node.args[1]) or list(range(1, a.dim()))
    kept = [d for d in range(a.dim()) if d not in dims]
    moved = a.permute(*kept, *dims)
    winner = moved.flatten(len(kept)).argmax(-1, keepdim=True)  # the first of equals
    share = torch.zeros_like(moved.flatten(len(kept))).scatter_(-1, winner, 1.0)
    back = sorted(range(a.dim()), key=[*kept, *dims].__getitem__)
    share = share.view(moved.shape).permute(back)
    whole = (
        R
        if node.args[2]
        else R.reshape(len(R), *(1 if d in dims else n for d, n in enumerate(a.shape)))
    )
    return share * whole


def pool_geometry(node, dims: int) -> list[list[int]]:
    """Kernel, stride, padding and dilation, one number for each dimension."""
    kernel, stride, padding, dilation = node.args[1:5]
    lists = [[x] if isinstance(x, int) else list(x) for x in (kernel, stride, padding, dilation)]
    lists[1] = lists[1] or lists[0]
    return [x * dims if len(x) == 1 else x for x in lists]
