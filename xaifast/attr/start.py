"""The log-odds of a class as a start of relevance (book, section 10.3.1).

    z_cc' = z_c - z_c' = sum_0,k a_k (w_kc - w_kc')          eta_c = -log sum_c' exp(-z_cc')
    R_cc' = z_cc' exp(-z_cc') / sum_c'' exp(-z_cc'')         (min takes most)

The last dense layer is replaced by the layer of differences, and its rule takes R_cc' on. Where
the logits are not the output of a dense layer, they share R_cc' as the summands of a difference.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ..graph.facts import Node
from ..graph.layers import Fixed, Linear
from ..graph.run import NodeCall, Propagation
from ..rules import LinearRule


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
