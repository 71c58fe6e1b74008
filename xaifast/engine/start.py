"""Where relevance starts: at outputs, at ones, at log-odds, or at a tensor of the caller's."""

from __future__ import annotations

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

STARTS = ("output", "one", "log_odds")


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


def check_seed(start: Tensor, shape: tuple[int, ...], batch: int) -> Tensor:
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
