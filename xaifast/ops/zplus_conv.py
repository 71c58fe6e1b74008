"""Relevance through a convolution by the contributions of one sign; kernels in csrc/zplus_conv."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .. import reference
from . import conv_table
from .native import is_native, library
from .registration import empty_rows, fake

__all__ = ["zplus_conv"]


def zplus_conv(
    a: Tensor,
    R: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
    rule: str = "positive",
    nonnegative: bool = False,
    low: Sequence[float] = (),
    high: Sequence[float] = (),
    eps: float = 1e-6,
    w_t: Tensor | None = None,
    kernel: str = "auto",
) -> Tensor:
    """Eq. 10.2 for a convolution, given what contributes: the z+ rule and its relatives.

    R_i = sum_k q_ik / (z_k + eps sgn z_k) R_k,   z_k = sum_i q_ik + b_k

    with contributions q = a w ("all"), (a w)+ ("positive"), (a w)- ("negative"),
    (a - low) w+ + (a - high) w- ("box") or w^2 ("square").

    Parameters
    ----------
    a : [N, C, *positions]
        Activations that enter, with 1 to 3 position dimensions.
    R : [N, K, *positions] or [targets, N, K, *positions]
        Relevance of the output.
    w : [K, C / groups, *kernel]
        Weight. Our CUDA kernels read it channels last: no copy where it lies so.
    b : [K], optional
        Bias that counts in the denominator, as it is.
    stride, padding, dilation : one int for each position dimension
    groups : int, default 1
    rule : "all", "positive" (default), "negative", "box" or "square"
    nonnegative : bool, default False
        Whether no a is negative; then one product is enough for "positive" and "negative".
    low, high : one float for each channel, for "box"
    eps : float, default 1e-6
        Stabilizer, in the units of z.
    w_t : [C, K / groups, *kernel], optional
        w with both kinds of channels exchanged within the groups, channels last, if it is at hand.
    kernel : "auto" (default), "library", "tiles", "tensor_cores" or "pixels"
        "auto": the library, unless a kernel of ours was measured to be faster for this shape on
        this GPU; XAIFAST_ZPLUS=library in the environment takes the library alone,
        XAIFAST_ZPLUS=own takes our kernels wherever they can run. The last three exist on CUDA for
        1 or 2 position dimensions, not for float64; "tensor_cores" rounds float32 to tf32, "pixels"
        is for first layers of at most 4 channels.

    Returns
    -------
    Tensor
        Relevance of a, with the targets of R.

    Raises
    ------
    TypeError, ValueError
        For dtypes, shapes or names that do not fit.

    References
    ----------
    Book, Eq. 10.2 and section 10.A.

    Examples
    --------
    >>> import torch
    >>> from xaifast import ops
    >>> a, w = torch.tensor([[[2.0, -1.0]]]), torch.tensor([[[1.0, -4.0]]])
    >>> ops.zplus_conv(a, torch.tensor([[[3.0]]]), w, stride=[1], padding=[0], dilation=[1], eps=0)
    tensor([[[1., 2.]]])
    """
    place = (list(stride), list(padding), list(dilation), groups, rule, list(low), list(high))
    if not is_native(a):
        return reference.zplus_conv(a, R, w, None, b, *place, nonnegative, eps, "library")
    if kernel == "auto":
        one_term = nonnegative and rule in ("positive", "negative")
        rule_measured = "all" if one_term else rule
        kernel = conv_table.choose(a, R, w, stride, dilation, groups, rule_measured)
    return library.zplus_conv(a, R, w, w_t, b, *place, nonnegative, float(eps), kernel)


@fake("zplus_conv", a="N C *S", R="[T] N K *O", w="K _ *G", w_t="_ _ *G", b="K")
def _(a, R, w, w_t, b, stride, padding, dilation, groups, rule, low, high, nonnegative, eps, kernel):  # fmt: skip  # noqa: E501
    return empty_rows(a.shape, R.shape[: R.dim() - a.dim()], a, a)
