"""Relevance through a convolution with few input channels; kernel in csrc/relevance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch._subclasses.fake_tensor import FakeTensor

from .. import reference
from .native import is_native, library
from .registration import fake, formula_on_cuda
from .winograd_conv import winograd_pays

__all__ = ["few_weights", "relprop_few"]


FEW_CHANNELS = 8  # of all parts: what the kernel holds of an input
FEW_ROWS = 16  # of a kernel


def few_pays(u: Tensor) -> bool:
    """Whether `relprop_few` runs, and is fast, for such an input: not in a recorded graph."""
    return bool(
        is_native(u)
        and u.device.type == "cpu"
        and u.dtype in (torch.float32, torch.float64)
        and winograd_pays()  # the same products
        and not isinstance(u, FakeTensor)
    )


def few_weights(w: Tensor, back: bool = False) -> Tensor:
    """Lay out the weights of a convolution for `relprop_few`.

    Parameters
    ----------
    w : Tensor [K, C, rows, columns]
        Weights.
    back : bool, default False
        Whether for the way back, w^T s.

    Returns
    -------
    Tensor [K' / P, J, P], or back: [J' / P, K', P]
        In panels of P = 128 bytes; J = rows x columns x C, K' and J' are K and J rounded up to P.

    Examples
    --------
    >>> import torch
    >>> from xaifast import ops
    >>> w = torch.randn(64, 3, 7, 7)
    >>> ops.few_weights(w).shape, ops.few_weights(w, back=True).shape
    (torch.Size([2, 147, 32]), torch.Size([5, 64, 32]))
    """
    return reference.few_weights(w, back)


def relprop_few(
    u: Tensor,
    R: Tensor,
    w: Tensor,
    w_back: Tensor,
    b: Tensor | None,
    z: Tensor | None,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    eps: float,
    parts: int = 1,
) -> Tensor:
    """Eq. 10.2 for a 2-D convolution with few input channels, such as the first of a network.

    z = w u + b,   s = R / (z + eps sgn z),   c = w^T s,   R_j = sum over parts of u_j c_j

    What `relprop_conv` computes, in one pass over R: no z, s or c is kept.

    Parameters
    ----------
    u : [N, parts x C, H, W]
        What enters the weights, at most 8 channels; float32 or float64.
    R : [N, K, rows, columns] or [targets, N, K, rows, columns]
        Relevance of the output.
    w, w_back : Tensor
        `few_weights` of the weight [K, parts x C, *kernel], there and back.
    b : [K], optional
        Bias that takes its share of the denominator.
    z : like the output, optional
        Denominator, if it is known already (then b is not added).
    kernel, stride, padding : two ints each
        The kernel has at most 16 rows; one group, no dilation.
    eps : float
        Stabilizer, in the units of z.
    parts : 1 or 2, default 1

    Returns
    -------
    Tensor
        Relevance of the input [N, C, H, W], with the targets of R.

    Raises
    ------
    TypeError, ValueError
        For dtypes or shapes that do not fit.

    References
    ----------
    Book, Eq. 10.2 and the procedure of section 10.2.2.

    Examples
    --------
    >>> import torch
    >>> from xaifast import ops
    >>> a, R = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[[3.0]]]])
    >>> w = torch.tensor([[[[1.0, 4.0]]]])
    >>> there, back = ops.few_weights(w), ops.few_weights(w, back=True)
    >>> ops.relprop_few(a, R, there, back, None, None, [1, 2], [1, 1], [0, 0], eps=0.0)
    tensor([[[[1., 2.]]]])
    """
    call = library.relprop_few if is_native(u) else reference.relprop_few
    return call(u, R, w, w_back, b, z, kernel, stride, padding, eps, parts)


# Few channels are no burden to cuDNN: nothing here takes this path on CUDA for its speed.
formula_on_cuda("relprop_few", reference.relprop_few)


@fake("relprop_few", u="N D H W", R="[T] N K I J", w="_ _ _", w_back="_ _ _", b="K", z="N K I J")
def _(u, R, w, w_back, b, z, kernel, stride, padding, eps, parts):
    targets = R.shape[: R.dim() - u.dim()]
    shape = (math.prod(targets) * u.shape[0], u.shape[1] // parts, *u.shape[2:])
    rows = u.new_empty(shape).contiguous(memory_format=suggest_memory_format(u))
    return rows.unflatten(0, (*targets, u.shape[0])) if targets else rows
