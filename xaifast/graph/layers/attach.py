"""Which linear map each kind of node has."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..facts import is_product
from ..node import Node, nodes_in
from ..weights import Weights
from .base import Layer
from .conv import Conv
from .dense import Linear, Product
from .elementwise import Affine, Sum

LAYERS: dict[str, Callable[[Node, Weights], Layer]] = {
    "conv": Conv,
    "linear": Linear,
    "affine": Affine,
    "sum": Sum,
}


def attach_layers(
    nodes: list[Node], weights: Weights, rounds_to: torch.dtype | None = None
) -> None:
    """Give every linear node its layer; one whose weights depend on the input gets none.

    rounds_to: the precision of w^T s in the relevance pass, of layers that multiply by matrices.
    """
    for node in nodes:
        if node.kind in LAYERS and all(
            n.constant for n in nodes_in(node.args) if n not in node.inputs
        ):
            make = Product if is_product(node) else LAYERS[node.kind]
            node.layer = make(node, weights)
            if isinstance(node.layer, (Conv, Linear, Product)):
                node.layer.rounds_to = rounds_to
