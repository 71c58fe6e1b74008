"""Which kernel takes a layer forwards and relevance back through it, and why.

The layers obey, and the plan prints what is decided here. A choice looks at the layer, and at the
shape, dtype and device of what enters; never at values.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ... import ops
from ...ops import conv_table
from .base import Layer

if TYPE_CHECKING:
    from collections.abc import Sequence

# Multiplications per sample from which a convolution runs channels last on packed weights in the
# forward pass too; below, the forward pass is the model's to the bit. oneDNN then adds the products
# of an output one after the other, which rounds two to five times as coarsely as the plain layout
# and so moves units near zero to the other side of their ReLU (see `conv.CHAIN`).
PACKED_PRODUCTS = 40_000_000
SMALLEST = 3  # edge of a map from which Winograd's algorithm pays: 0.5 to 0.9 of oneDNN's time
# Outputs from which `relprop_few` pays: on one core it is then 1.4 to 4.5 times as fast as oneDNN's
# two products and our steps between them (gradients 1.2 to 3.4; float64 2 to 8). With 16 outputs it
# gains 1.1 (two parts) to 2, and with fewer it can lose, because it pads them to 32.
LEAST_OUTPUTS = 24
# Rows of relevance up to which a dense layer takes zplus_linear, by the number of derived weights
# (W+, W-, each for a+ and a-) whose products it takes the place of. Measured on 25088-4096,
# 4096-4096 and 4096-1000 with relevance at half of the units: 1.1 to 1.5, 1.3 to 1.9 and 2.2 to 2.6
# times as fast at so many rows, 1.4 to 7.7 times at one; with relevance at one unit 20 and more.
SIGN_ROWS = {1: 2, 2: 8, 4: 16}


class Kernel(NamedTuple):
    """A choice, as the plan prints it, and its reason."""

    name: str
    reason: str


ONE_BY_ONE = Kernel("one by one", "some positions of the convolution are no outputs")
FEW = Kernel("relprop_few", "few input channels: one pass, no z, s or c in memory")
WINOGRAD = Kernel("relprop_conv, Winograd", "3 x 3, and R / z is below R over the output")
PACKED = Kernel("relprop_conv, oneDNN packed", "products on a CPU, channels last")
LIBRARY = Kernel("relprop_conv", "the library's convolutions")
DENSE = Kernel("relprop_linear", "the library's products")


# ---- convolutions ----------------------------------------------------------------------------


def packs(layer: Any, u: Tensor, dtype: torch.dtype = torch.float32) -> bool:
    """Whether products with such an input run channels last, on weights packed by oneDNN."""
    plain = len(layer.kernel) == 2 and not layer.transposed and layer.crop is None
    return plain and ops.packs_weights(u, dtype)


def runs_packed(layer: Any, a: Tensor) -> bool:
    """Whether the forward pass does, too; see PACKED_PRODUCTS."""
    products = math.prod(layer.output_size(a.shape[2:])[0]) * layer.weight.plain.numel()
    return products >= PACKED_PRODUCTS and packs(layer, a)


def runs_winograd(layer: Any, u: Tensor) -> bool:
    """Whether w u and, for a bounded s, w^T s are computed by Winograd's algorithm.

    It rounds in proportion to the largest products that an output could have with its inputs.
    A plain convolution rounds in proportion to those it has, which can be far less.
    """
    return (
        packs(layer, u)
        and layer.kernel == [3, 3]
        and layer.stride == layer.dilation == [1, 1]
        and layer.padding in ([1, 1], [0, 0])
        and layer.groups_for(u) == 1
        and u.shape[1] % 32 == layer.node.shape[0] % 32 == 0
        and min(layer.output_size(u.shape[2:])[0]) >= SMALLEST
        and ops.winograd_pays()
    )


def runs_few(layer: Any, u: Tensor) -> bool:
    """Whether relevance goes through in one pass, which pays for few input channels."""
    few = ops.FEW_CHANNELS if len(layer.kernel) == 2 else 0
    return (
        u.shape[1] <= few
        and layer.kernel[0] <= ops.FEW_ROWS
        and layer.groups == 1
        and layer.dilation == [1, 1]
        and not layer.transposed
        and layer.crop is None
        and layer.rounds_to is None
        and layer.node.shape[0] >= LEAST_OUTPUTS
        and ops.few_pays(u)
    )


def back_through(layer: Any, u: Tensor, bounded: bool) -> Kernel:
    """The kernel of Eq. 10.2 at a convolution.

    bounded: R / z stays below R over the layer's output, and R vanishes with that. w^T s has the
    padding 2 where w u has none.
    """
    if layer.crop is not None:
        return ONE_BY_ONE
    if runs_few(layer, u):
        return FEW
    same = layer.padding == [1, 1] and layer.rounds_to is None
    if bounded and same and runs_winograd(layer, u):
        return WINOGRAD
    return PACKED if packs(layer, u) else LIBRARY


def contributes_by(layer: Any, rule: str, a: Tensor, R: Tensor, w: Tensor, b: Tensor | None) -> str:
    """The kernel of `ops.zplus_conv` for a rule, or "library": the general way.

    The kernels multiply both ways in one precision.
    """
    mapped = b is not None and b.dim() > 1
    if layer.transposed or layer.crop is not None or mapped or layer.rounds_to is not None:
        return "library"
    return conv_table.choose(a, R, w, layer.stride, layer.dilation, layer.groups, rule)


# ---- dense layers ----------------------------------------------------------------------------


def sign_rows(layer: Layer, a: Tensor, shares: int) -> int:
    """Rows of relevance up to which `zplus_linear` takes all shares at once; 0: never."""
    if not shares or not layer.has_shares:
        return 0
    w = layer.weight.plain
    fits = a.device.type == "cpu" and w.dtype == a.dtype and w.is_contiguous()
    if layer.rounds_to is not None or not fits or not ops.is_native(a):
        return 0
    return SIGN_ROWS[shares if layer.nonnegative_input else 2 * shares]


def takes_signs(layer: Layer, a: Tensor, rows: Sequence[Any], shares: int) -> bool:
    """Whether it does for so many rows; a graph that is recorded for any number has many."""
    most = sign_rows(layer, a, shares)
    return bool(most) and all(isinstance(n, int) for n in rows) and math.prod(rows) <= most
