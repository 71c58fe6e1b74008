"""3 x 3 convolutions with fewer products, by Winograd's algorithm; kernel in csrc/relevance."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from .native import is_native, library
from .registration import fake, formula_on_cuda

__all__ = ["winograd_conv", "winograd_weights"]


def winograd_pays() -> bool:
    """Whether the CPU has the vector registers that the products of `winograd_conv` need."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def winograd_weights(w: Tensor) -> Tensor:
    """Transform the weights of a 3 x 3 convolution for `winograd_conv`.

    Parameters
    ----------
    w : Tensor [K, C, 3, 3]
        Weights; K must be a multiple of 32 and C of 16 (in float64: 16 and 8).

    Returns
    -------
    Tensor [4, 4, K / P, C, P]
        G w G^T in panels of P = 128 bytes.

    Examples
    --------
    >>> import torch
    >>> from xaifast import ops
    >>> ops.winograd_weights(torch.randn(64, 16, 3, 3)).shape
    torch.Size([4, 4, 2, 16, 32])
    """
    return reference.winograd_weights(w)


def winograd_conv(
    x: Tensor, w: Tensor, b: Tensor | None = None, relu: bool = False, padding: int = 1
) -> Tensor:
    """Convolve with 3 x 3 weights and stride 1 by Winograd's algorithm.

    y = A^T [ sum_c (G w G^T) . (B^T x B) ] A + b,   for each tile of 2 x 2 outputs

    16 products per channel take the place of 36. An output depends on its own 3 x 3 inputs alone,
    to the last bit.

    Parameters
    ----------
    x : Tensor [N, C, H, W]
        Input, float32 or float64.
    w : Tensor [4, 4, K / P, C, P]
        From `winograd_weights`.
    b : Tensor [K], optional
        Bias.
    relu : bool, default False
        Whether negative outputs become 0.
    padding : 1 (default) or 0

    Returns
    -------
    Tensor [N, K, H, W]
        In channels_last layout; 2 rows and columns less without padding.

    Raises
    ------
    TypeError, ValueError
        For dtypes or shapes that do not fit.

    References
    ----------
    Lavin and Gray 2016, Fast algorithms for convolutional neural networks.

    Examples
    --------
    >>> import torch
    >>> from xaifast import ops
    >>> x, w = torch.randn(1, 16, 9, 7), torch.randn(32, 16, 3, 3)
    >>> y = ops.winograd_conv(x, ops.winograd_weights(w))
    >>> torch.allclose(y, torch.nn.functional.conv2d(x, w, padding=1), atol=1e-3)
    True
    """
    call = library.winograd_conv if is_native(x) else reference.winograd_conv
    return call(x, w, b, relu, padding)


# cuDNN has such kernels of its own: nothing here takes this path on CUDA for its speed.
formula_on_cuda("winograd_conv", reference.winograd_conv)


@fake("winograd_conv", x="N C H W", w="4 4 _ C _", b="_")
def _(x, w, b, relu, padding):
    sizes = (n + 2 * padding - 2 for n in x.shape[2:])
    shape = (x.shape[0], w.shape[2] * w.shape[4], *sizes)
    last = torch.channels_last
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=last)
