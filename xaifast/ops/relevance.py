"""The relevance ops; their kernels are in csrc/relevance, their formulas in `xaifast.reference`.

Letters are the book's: a activation, u what enters the weights (a, or its positive and negative
part side by side along dimension 1), w weight, b bias, z denominator, s = R/z, c = w^T s,
R relevance. R has the shape of what it belongs to, or one leading axis of targets more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from .. import reference
from .native import is_native, library
from .registration import empty, empty_rows, fake

__all__ = [
    "add_split",
    "backward_product",
    "multiply_parts",
    "pool_redistribute",
    "relprop_conv",
    "relprop_linear",
    "split_signs",
    "stabilized_divide",
]


def stabilized_divide(R: Tensor, z: Tensor, b: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """Divide relevance by denominators that are kept away from zero.

    s = R / (z + b + eps sgn(z + b)),   sgn 0 = +1,   0/0 = 0

    Parameters
    ----------
    R : [*z.shape] or [targets, *z.shape]
        Relevance of the outputs.
    z : [N, K, ...]
        Denominators, shared by all targets.
    b : [K], optional
        Added to z along dimension 1.
    eps : float, default 1e-6
        Stabilizer, in the units of z; 0 is allowed (then R/0 = 0).

    Returns
    -------
    Tensor
        s, like R.

    Raises
    ------
    TypeError
        For a dtype that is not floating, or dtypes that differ.
    ValueError
        For shapes that do not fit.

    References
    ----------
    Book, section 10.2.2, second step of the procedure.

    Examples
    --------
    >>> import torch, xaifast.ops
    >>> xaifast.ops.stabilized_divide(torch.tensor([1.0, 1.0]), torch.tensor([2.0, -4.0]), eps=0.0)
    tensor([ 0.5000, -0.2500])
    """
    if not is_native(z):
        return reference.stabilized_divide(R, z, b, eps)
    return library.stabilized_divide(R, z, b, eps)


def multiply_parts(u: Tensor, c: Tensor, parts: int = 1) -> Tensor:
    """Multiply inputs with the backward product, summed over the parts of an input.

    R_j = sum_p u_pj c_pj

    Parameters
    ----------
    u : [N, parts x C, ...]
        What entered the weights.
    c : [targets x N, parts x C, ...]
        Backward product w^T s.
    parts : 1 or 2, default 1
        2 for an input that `split_signs` has split.

    Returns
    -------
    Tensor
        Relevance [targets x N, C, ...].

    Raises
    ------
    TypeError, ValueError
        For dtypes or shapes that do not fit.

    References
    ----------
    Book, section 10.2.2, fourth step of the procedure.

    Examples
    --------
    >>> import torch, xaifast.ops
    >>> xaifast.ops.multiply_parts(torch.tensor([[2.0, -1.0]]), torch.tensor([[3.0, 1.0]]), parts=2)
    tensor([[5.]])
    """
    if not is_native(u):
        return reference.multiply_parts(u, c, parts)
    return library.multiply_parts(u, c, parts)


def split_signs(a: Tensor) -> Tensor:
    """Put the positive and the negative part of activations side by side.

    u = [max(a, 0), min(a, 0)]

    Parameters
    ----------
    a : [N, C, ...]
        Activations.

    Returns
    -------
    Tensor
        u [N, 2 x C, ...].

    Raises
    ------
    TypeError, ValueError
        For a dtype or shape that does not fit.

    Examples
    --------
    >>> import torch, xaifast.ops
    >>> xaifast.ops.split_signs(torch.tensor([[1.0, -2.0]]))
    tensor([[ 1.,  0.,  0., -2.]])
    """
    if not is_native(a):
        return reference.split_signs(a)
    return library.split_signs(a)


def add_split(
    x: Tensor, y: Tensor, R: Tensor, beta: float = 1.0, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """Share the relevance of z = x + beta y in proportion to the summands.

    Rx = x s,   Ry = beta y s,   s = R / (z + eps sgn z)

    Parameters
    ----------
    x, y : same shape
        The summands.
    R : [*x.shape] or [targets, *x.shape]
        Relevance of the sum.
    beta : float, default 1
        -1 for a difference.
    eps : float, default 1e-6
        Stabilizer, in the units of z.

    Returns
    -------
    tuple of Tensor
        Rx and Ry, like R.

    Raises
    ------
    TypeError, ValueError
        For dtypes or shapes that do not fit.

    References
    ----------
    Book, Eq. 10.2, for a sum.

    Examples
    --------
    >>> import torch, xaifast.ops
    >>> x, y, R = torch.tensor([3.0]), torch.tensor([1.0]), torch.tensor([8.0])
    >>> xaifast.ops.add_split(x, y, R, eps=0.0)
    (tensor([6.]), tensor([2.]))
    """
    if not is_native(x):
        return reference.add_split(x, y, R, beta, eps)
    return library.add_split(x, y, R, beta, eps)


def pool_redistribute(
    a: Tensor,
    R: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    rule: str = "winner_take_all",
    eps: float = 1e-6,
) -> Tensor:
    """Hand relevance through a max pooling in one to three dimensions.

    Winner-take-all: R_i = sum_o [i is the first largest input of window o] R_o.
    Proportional: R_i = a_i sum_o R_o / (z_o + eps sgn z_o), z_o the sum of a over window o.

    Parameters
    ----------
    a : [N, C, ...]
        What entered the pooling.
    R : [N, C, ...] or [targets, N, C, ...]
        Relevance of its output; its size tells how many windows there are.
    kernel, stride, padding, dilation : one int for each position dimension
        Geometry of the pooling.
    rule : "winner_take_all" (default) or "proportional"
    eps : float, default 1e-6
        Stabilizer of the proportional rule, in the units of a.

    Returns
    -------
    Tensor
        Relevance of a, with the targets of R.

    Raises
    ------
    TypeError, ValueError
        For a dtype, shape or rule that does not fit.

    References
    ----------
    Book, section 10.3.2 (both schemes), section 16.2 (proportional).

    Examples
    --------
    >>> import torch, xaifast.ops
    >>> a, R = torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[4.0]]])
    >>> xaifast.ops.pool_redistribute(a, R, [2], [2], [0], [1])
    tensor([[[0., 4.]]])
    >>> xaifast.ops.pool_redistribute(a, R, [2], [2], [0], [1], "proportional", eps=0.0)
    tensor([[[1., 3.]]])
    """
    if not is_native(a):
        return reference.pool_redistribute(a, R, kernel, stride, padding, dilation, rule, eps)
    return library.pool_redistribute(a, R, kernel, stride, padding, dilation, rule, eps)


def backward_product(s: Tensor, w: Tensor) -> Tensor:
    """Multiply s [m, K] with w [K, J]; for few rows, weights that meet only zeros are not read.

    c = s w

    Parameters
    ----------
    s : [m, K]
        R / z of a dense layer: zero wherever the unit above has no relevance.
    w : [K, J]
        Weight of the layer.

    Returns
    -------
    Tensor
        c [m, J].

    Raises
    ------
    TypeError, RuntimeError
        For dtypes or shapes that do not fit.

    Examples
    --------
    >>> import torch, xaifast.ops
    >>> xaifast.ops.backward_product(torch.tensor([[0.0, 2.0]]), torch.tensor([[9.0], [3.0]]))
    tensor([[6.]])
    """
    if not is_native(s):
        return reference.backward_product(s, w)
    return library.backward_product(s, w)


def relprop_conv(
    u: Tensor,
    R: Tensor,
    w: Tensor,
    w_t: Tensor,
    b: Tensor | None,
    z: Tensor | None,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    eps: float,
    parts: int = 1,
) -> Tensor:
    """Eq. 10.2 for a convolution in one to three dimensions: the core of every rule.

    z = w u + b,   s = R / (z + eps sgn z),   c = w^T s,   R_j = sum over parts of u_j c_j

    With w the layer's weight it is the epsilon rule, with W+ the z+ rule, with W + gamma W+ the
    gamma rule; with u = [a+, a-] and w = [W+, W-] the z+ rule for signed inputs.

    Parameters
    ----------
    u : [N, parts x C, ...]
        What enters the weights.
    R : [N, K, ...] or [targets, N, K, ...]
        Relevance of the output.
    w, w_t : Tensor
        The weight as `aten::convolution` takes it, and the weight for the transposed product: the
        same tensor, or what oneDNN has packed of it. w_t may be in bfloat16: then s is rounded to
        it, the product is summed in float32, and c comes back in the dtype of u. For two parts:
        those of both, along its inputs if there is one group ([K, 2 x C, ...]), else along its
        groups ([2 x K, C / groups, ...]).
    b : [K], optional
        Bias that takes its share of the denominator.
    z : like the output, optional
        Denominator, if it is known already (then b is not added).
    kernel, stride, padding, dilation, output_padding : one int for each position dimension
    transposed : bool
    groups : int
    eps : float
        Stabilizer, in the units of z.
    parts : 1 or 2, default 1

    Returns
    -------
    Tensor
        Relevance of the input [N, C, ...], with the targets of R.

    Raises
    ------
    TypeError, ValueError
        For dtypes or shapes that do not fit.

    References
    ----------
    Book, Eq. 10.2 and the procedure of section 10.2.2.

    Examples
    --------
    >>> import torch, xaifast.ops
    >>> a, R = torch.tensor([[[2.0, 1.0]]]), torch.tensor([[[3.0]]])
    >>> w = torch.tensor([[[1.0, 4.0]]])
    >>> xaifast.ops.relprop_conv(
    ...     a, R, w, w, None, None, [2], [1], [0], [1], False, [0], 1, eps=0.0)
    tensor([[[1., 2.]]])
    """
    call = library.relprop_conv if is_native(u) else reference.relprop_conv
    return call(
        u, R, w, w_t, b, z, kernel, stride, padding, dilation, transposed, output_padding, groups,
        eps, parts,
    )  # fmt: skip


def relprop_linear(
    u: Tensor,
    R: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    parts: int = 1,
) -> Tensor:
    """Eq. 10.2 for a dense layer; see `relprop_conv`.

    z = u w^T + b,   s = R / (z + eps sgn z),   c = s w,   R_j = sum over parts of u_j c_j

    Parameters
    ----------
    u : [N, parts x in]
        What enters the weights.
    R : [N, out] or [targets, N, out]
        Relevance of the output.
    w : [out, parts x in]
        Weight.
    b : [out], optional
        Bias that takes its share of the denominator.
    z : [N, out], optional
        Denominator, if it is known already.
    eps : float, default 1e-6
        Stabilizer, in the units of z.
    parts : 1 or 2, default 1

    Returns
    -------
    Tensor
        Relevance of the input [N, in], with the targets of R.

    Raises
    ------
    TypeError, ValueError
        For dtypes or shapes that do not fit.

    References
    ----------
    Book, Eq. 10.2.

    Examples
    --------
    >>> import torch, xaifast.ops
    >>> a, R = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 1.0]])
    >>> w, b = torch.tensor([[1.0, 2.0], [3.0, -1.0]]), torch.tensor([0.0, 1.0])
    >>> xaifast.ops.relprop_linear(a, R, w, b, eps=0.0)
    tensor([[1.5000, 0.3333]])
    """
    call = library.relprop_linear if is_native(u) else reference.relprop_linear
    return call(u, R, w, b, z, eps, parts)


# ---- fake kernels: shapes only, for torch.compile and torch.export ---------------------------


@fake("stabilized_divide", z="*Z", R="[T] *Z", b="Z.1")
def _(R, z, b, eps):
    return empty_rows(z.shape, R.shape[: R.dim() - z.dim()], R, z)


@fake("stabilized_divide_", z="*Z", R="*Z", b="Z.1")
def _(z, R, b, eps):
    return z


@fake("multiply_parts", u="N D *S", c="M D *S")
def _(u, c, parts):
    return empty((c.shape[0], c.shape[1] // parts, *c.shape[2:]), c, u)


@fake("multiply_", c="M D *S", u="N D *S")
def _(c, u):
    return c


@fake("split_signs", a="N C *S")
def _(a):
    return empty((a.shape[0], 2 * a.shape[1], *a.shape[2:]), a)


@fake("add_split", x="*Z", y="*Z", R="[T] *Z")
def _(x, y, R, beta, eps):
    Rx, Ry = (empty_rows(x.shape, R.shape[: R.dim() - x.dim()], R, x) for _ in range(2))
    return Rx, Ry


@fake("pool_redistribute", a="N C *S", R="[T] N C *O")
def _(a, R, kernel, stride, padding, dilation, rule, eps):
    return empty_rows(a.shape, R.shape[: R.dim() - a.dim()], a, a)


@fake("backward_product", s="M K", w="K J")
def _(s, w):
    return s.new_empty((s.shape[0], w.shape[1]))


@fake("relprop_conv", u="N D *S", R="[T] N K *O", w="*_", w_t="any *_", b="K", z="N K *O")
def _(u, R, w, w_t, b, z, kernel, stride, padding, dilation, transposed, output_padding, groups, eps, parts):  # fmt: skip  # noqa: E501
    targets = R.shape[: R.dim() - u.dim()]
    rows = math.prod(targets) * u.shape[0]
    # A convolution is channels last if its input or its weight is; two parts are added as u lies.
    read: tuple = (u,) if parts == 2 else (u, w, w_t) if z is None else (z, w_t)
    if parts == 1 and u.dim() == 5 and u.device.type == "cpu" and u.dtype == torch.float64:
        read = ()  # oneDNN does not take it, and PyTorch's own is never channels last
    formats = [suggest_memory_format(x) for x in read]
    last = [f for f in formats if f != torch.contiguous_format]
    c = u.new_empty((rows, u.shape[1] // parts, *u.shape[2:]))
    c = c.contiguous(memory_format=last[0]) if last else c
    return c.unflatten(0, (*targets, u.shape[0])) if targets else c


@fake("relprop_linear", u="N D", R="[T] N K", w="K D", b="K", z="N K")
def _(u, R, w, b, z, eps, parts):
    return u.new_empty((*R.shape[: R.dim() - u.dim()], u.shape[0], u.shape[1] // parts))
