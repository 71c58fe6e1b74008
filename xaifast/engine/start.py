"""Where relevance starts: at outputs, at ones, at log-odds, or at a tensor of the caller's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..errors import describe, wrong_type, wrong_value
from ..graph.layers.dense import Fixed, Linear
from ..graph.node import Node
from ..graph.rule import NodeCall
from ..graph.run import Propagation
from ..rules import LinearRule
from .target import Selection, select

STARTS = ("output", "one", "log_odds")


@dataclass(frozen=True)
class Start:
    """Relevance of the output to start with: of selected outputs, or a tensor of the caller's.

    word: one of `STARTS`; given: [targets, N, *shape], in place of a word.
    """

    selection: Selection
    word: str = "output"
    given: Tensor | None = None

    @property
    def targets(self) -> int:
        """How many targets each sample has."""
        return self.selection.targets if self.given is None else len(self.given)

    def rows(self, rows: slice) -> Start:
        """The start for some of the samples."""
        given = None if self.given is None else self.given[:, rows]
        return Start(self.selection.rows(rows), self.word, given)

    def relevance(self, output: Tensor) -> Tensor:
        """Relevance of the output, [targets, N, *shape]."""
        if self.given is not None:
            return self.given.to(output)
        return self.selection.seed(output, one=self.word == "one")


def start_of(start: Any, target: Any, shape: tuple[int, ...], batch: int) -> Start:
    """Check where relevance starts, and at which targets.

    Parameters
    ----------
    start : one of `STARTS`, or a tensor [N, *shape] or [targets, N, *shape].
    target : in any form of `target.FORMS`.
    shape : of the output, without the batch.
    batch : number of samples.

    Raises
    ------
    ValueError, TypeError
        If one of them does not fit the output, or both are given.
    """
    check_start(start)
    if isinstance(start, Tensor):
        if target is not None:
            raise wrong_value(
                "target", "must be None when start is a tensor", target,
                "Put the relevance of every output into start.",
            )  # fmt: skip
        given = _check_given(start, shape, batch)
        return Start(Selection(shape, several=start.dim() == len(shape) + 2), given=given)
    selection = select(target, shape, batch)
    if start == "log_odds" and (selection.index is None or len(shape) != 1 or shape[0] < 2):
        raise wrong_value(
            "start", '"log_odds" needs an output [N, classes] and class targets',
            f"an output of shape [N, {', '.join(map(str, shape))}]", 'Use start="output".',
        )  # fmt: skip
    return Start(selection, start)


def check_start(start: Any) -> None:
    """Require one of the words, or a tensor."""
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


def _check_given(start: Tensor, shape: tuple[int, ...], batch: int) -> Tensor:
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


def min_take_most(z: Tensor) -> Tensor:
    """R_cc' for the differences z_cc' along the last dimension."""
    return z * torch.softmax(-z, -1)


def _others(classes: int, c: int, device: torch.device) -> Tensor:
    """All classes but c."""
    every = torch.arange(classes, device=device)
    return every[every != c]


def log_odds(
    propagation: Propagation, output: Tensor, index: Tensor, values: dict[Node, Tensor]
) -> tuple[dict[Node, Tensor], Tensor]:
    """The first messages for the log-odds of the classes `index` [targets, N].

    Returns (node -> message, relevance that they started with [targets, N]).
    """
    node = propagation.graph.output
    rule = propagation.rules.get(node)
    dense = (
        isinstance(node.layer, Linear)
        and isinstance(rule, LinearRule)
        and len(node.inputs[0].shape) == 1
    )
    index = index.to(output.device)
    started = output.new_zeros(index.shape)
    shape = (len(index), len(output))
    R = output.new_zeros((*shape, *(node.inputs[0].shape if dense else node.shape)))
    for c in index.unique().tolist():
        others = _others(output.shape[1], c, output.device)
        t, n = torch.where(index == c)
        R_pairs = min_take_most(output[n, c, None] - output[n][:, others])
        started[t, n] = R_pairs.sum(1)
        if dense:
            R[t, n] = _through_differences(propagation, node, rule, values, n, c, others, R_pairs)
        else:
            R[t, n] = _through_logits(output[n], c, others, R_pairs)
    return {node.inputs[0] if dense else node: R}, started


def _through_differences(propagation, node, rule, values, n, c, others, R_pairs) -> Tensor:
    """The rule of the last layer on the layer with weights w_c - w_c'."""
    layer = node.layer
    w, b = layer.weight.plain, layer.bias
    differences = Fixed(node, w[c] - w[others], None if b is None else b[c] - b[others])
    call = NodeCall(node, propagation.lookup(values)).with_layer(differences)
    a = values[node.inputs[0]][n]
    z = differences.forward(a, differences.weight, differences.bias)
    (message,) = rule.propagate(call, (a,), z, R_pairs.unsqueeze(0))
    return message[0]


def _through_logits(
    z: Tensor, c: int, others: Tensor, R_pairs: Tensor, eps: float = 1e-6
) -> Tensor:
    """z_c and -z_c' share the relevance of their sum."""
    s = reference.stabilized_divide(R_pairs, z[:, c, None] - z[:, others], None, eps)
    R = torch.zeros_like(z)
    R[:, c] = z[:, c] * s.sum(1)
    R[:, others] = -z[:, others] * s
    return R
