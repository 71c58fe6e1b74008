"""Relevance through a dense layer by the signs of contributions; kernel in csrc/relevance."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .. import reference
from .native import is_native, library
from .registration import fake

__all__ = ["zplus_linear"]


def zplus_linear(
    a: Tensor,
    R: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    share: Sequence[float] = (1.0,),
    positive: Sequence[float] = (1.0,),
    negative: Sequence[float] = (0.0,),
    eps: float = 1e-6,
) -> Tensor:
    """Eq. 10.2 for a dense layer by the signs of its contributions: z+, alpha-beta and gamma.

    R_j = sum_p share_p sum_k q_jk / (z_k + eps sgn z_k) R_k,   z_k = sum_0,j q_jk

    with contributions q = positive_p (a w)+ + negative_p (a w)- of each part p; that of j = 0 is
    the bias. For few rows of relevance on the CPU, weights are read once, no others are made of
    them, and those that meet no relevance are not read.

    Parameters
    ----------
    a : [N, in]
        Activations that enter.
    R : [N, out] or [targets, N, out]
        Relevance of the output.
    w : [out, in]
        Weight.
    b : [out], optional
        The layer's bias; left out of the denominator without it.
    share, positive, negative : one float for each of 1 or 2 parts
        z+ (default): 1, 1, 0; alpha-beta: (alpha, -beta), (1, 0), (0, 1); gamma where z > 0: 1,
        1 + gamma, 1.
    eps : float, default 1e-6
        Stabilizer, in the units of z.

    Returns
    -------
    Tensor
        Relevance of a, with the targets of R.

    Raises
    ------
    TypeError, ValueError
        For dtypes, shapes or parts that do not fit.

    References
    ----------
    Book, Eq. 10.2 and section 10.A.

    Examples
    --------
    >>> import torch
    >>> from xaifast import ops
    >>> a, w = torch.tensor([[2.0, -1.0]]), torch.tensor([[1.0, -4.0]])
    >>> ops.zplus_linear(a, torch.tensor([[3.0]]), w, eps=0.0)
    tensor([[1., 2.]])
    """
    call = library.zplus_linear if is_native(a) else reference.zplus_linear
    return call(a, R, w, b, list(share), list(positive), list(negative), float(eps))


@fake("zplus_linear", a="N J", R="[T] N K", w="K J", b="K")
def _(a, R, w, b, share, positive, negative, eps):
    return a.new_empty((*R.shape[: R.dim() - 2], *a.shape))
