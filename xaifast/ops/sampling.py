"""The sampling ops: the many inputs of methods that see a model as a function, and their results.

Their kernels are in csrc/sampling, their formulas in `xaifast.reference`. A batch of R rows is made
of samples of x [N, ...]: row r belongs to sample n = sample[r], in any order, repeats allowed. Any
number of dimensions may follow N, and results have the layout of x. Everything is deterministic:
the same for any number of threads, and wherever rows are cut into batches. An index that is out of
range is an error on the CPU; on CUDA, where the check would have to wait for the device, its row is
NaN (in a sum: left out). What tells about rows (sample, alpha, weight, ...) may come from any
device; what holds their values must be on the device of x.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import reference
from .native import is_native, library
from .registration import fake

__all__ = [
    "accumulate_rows_",
    "add_noise",
    "mask_segments",
    "occlude_windows",
    "path_points",
    "scatter_windows",
    "segment_sums",
]


def path_points(
    x: Tensor, baseline: Tensor, sample: Tensor, alpha: Tensor, relu: bool = False
) -> Tensor:
    """Walk on the straight path from a baseline to each sample.

    out[r] = x'[n] + alpha[r] (x[n] - x'[n]),   n = sample[r];   with relu, max(0, .) of it

    The path is counted from its nearer end, so that alpha = 0 and alpha = 1 give x' and x exactly.

    Parameters
    ----------
    x : [N, ...]
        The samples.
    baseline : [N, ...] or [1, ...]
        x', where the paths start; one row may serve all samples.
    sample : [R], int64
        Which sample each row belongs to.
    alpha : [R], float64
        How far each row has come; it may leave [0, 1].
    relu : bool, default False
        For the points behind the linear layers that a model begins with.

    Returns
    -------
    Tensor
        out [R, ...], like x.

    Raises
    ------
    TypeError, ValueError
        For dtypes or shapes that do not fit, or a sample outside [0, N).

    References
    ----------
    Sundararajan, Taly and Yan (2017), Axiomatic attribution for deep networks, Eq. 1.

    Examples
    --------
    >>> import torch, xaifast.ops
    >>> x, baseline = torch.tensor([[4.0, -4.0]]), torch.tensor([[0.0, 4.0]])
    >>> alpha = torch.tensor([0.0, 0.75], dtype=torch.float64)
    >>> xaifast.ops.path_points(x, baseline, torch.tensor([0, 0]), alpha)
    tensor([[ 0.,  4.],
            [ 3., -2.]])
    """
    call = library.path_points if is_native(x) else reference.path_points
    return call(x, baseline, sample.to(x.device), alpha.to(x.device), relu)


def accumulate_rows_(total: Tensor, g: Tensor, sample: Tensor, weight: Tensor) -> Tensor:
    """Add weighted rows to the sums of their samples, in place.

    total[n] += sum over r with sample[r] = n of weight[r] g[r]

    Rows are added one after the other, each product rounded to the dtype of total, so that the sums
    do not depend on how the rows are cut into calls.

    Parameters
    ----------
    total : [N, ...], float32 or float64
        The sums; they are updated.
    g : [R, ...]
        One row for each term, of the dtype of total or a narrower one.
    sample : [R], int64
        Which sample each row belongs to.
    weight : [R], float64

    Returns
    -------
    Tensor
        total.

    Raises
    ------
    TypeError, ValueError
        For dtypes or shapes that do not fit, or a sample outside [0, N).

    Examples
    --------
    >>> import torch, xaifast.ops
    >>> total, g = torch.zeros(2, 1), torch.tensor([[1.0], [2.0], [4.0]])
    >>> weight = torch.tensor([0.5, 1.0, 0.5], dtype=torch.float64)
    >>> xaifast.ops.accumulate_rows_(total, g, torch.tensor([0, 1, 0]), weight)
    tensor([[2.5000],
            [2.0000]])
    """
    call = library.accumulate_rows_ if is_native(total) else reference.accumulate_rows_
    call(total, g, sample.to(total.device), weight.to(total.device))
    return total


def add_noise(x: Tensor, sample: Tensor, draw: Tensor, std: Tensor, seed: int) -> Tensor:
    """Add Gaussian noise to samples, reproducibly.

    out[r] = x[n] + std[n] z,   n = sample[r],   z standard normal

    z depends on the seed, n, draw[r] and the place of an element in its sample, on nothing else:
    the same numbers come on every device, in any batch, order, layout and dtype, bit for bit. They
    are made in float32 (24 bits, up to 6.3 standard deviations) for every dtype, so that a float64
    model sees the noise that its float32 twin sees.

    Parameters
    ----------
    x : [N, ...]
        The samples; N at most 2^32, and each of at most 2^34 elements.
    sample : [R], int64
        Which sample each row belongs to.
    draw : [R], int64
        Numbers in [0, 2^32) that tell the rows of a sample apart.
    std : [N], float64
        Standard deviation for each sample.
    seed : int
        Any 64 bits.

    Returns
    -------
    Tensor
        out [R, ...], like x.

    Raises
    ------
    TypeError, ValueError
        For dtypes or shapes that do not fit, or a sample or draw that is out of range.

    References
    ----------
    Salmon, Moraes, Dror and Shaw (2011), Parallel random numbers: as easy as 1, 2, 3: the generator
    (Philox4x32-10). Wichura (1988), Algorithm AS 241, Applied Statistics 37: the normal numbers.

    Examples
    --------
    >>> import torch, xaifast.ops
    >>> x, std = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([0.5], dtype=torch.float64)
    >>> sample, draw = torch.tensor([0, 0]), torch.tensor([0, 1])
    >>> xaifast.ops.add_noise(x, sample, draw, std, seed=7)
    tensor([[0.9430, 1.6630, 3.6023],
            [1.4526, 2.5334, 2.9535]])
    """
    call = library.add_noise if is_native(x) else reference.add_noise
    return call(x, sample.to(x.device), draw.to(x.device), std.to(x.device), seed)


def occlude_windows(
    x: Tensor,
    baseline: Tensor,
    window: Sequence[int],
    stride: Sequence[int],
    first: int,
    count: int,
) -> Tensor:
    """Hide one window of the samples after the other.

    out[k N + n] = x[n], but x'[n] inside of window first + k,   k = 0, ..., count - 1

    Windows cover all dimensions behind N. Along a dimension of size S there are
    ceil((S - window) / stride) + 1 of them (one, if window = S); they start at 0, stride, 2 stride,
    ..., and the last is cut off at the border. They are counted with the last dimension fastest.

    Parameters
    ----------
    x : [N, ...]
        The samples.
    baseline : [N, ...] or [1, ...]
        x', what is put in place of the hidden elements; one row may serve all samples.
    window, stride : one int for each dimension behind N
        Size of the window, in [1, S], and the steps in which it moves.
    first, count : int
        Which of the windows.

    Returns
    -------
    Tensor
        out [count x N, ...], like x.

    Raises
    ------
    TypeError, ValueError
        For dtypes, shapes or numbers that do not fit.

    References
    ----------
    Zeiler and Fergus (2014), Visualizing and understanding convolutional networks, section 4.2.

    Examples
    --------
    >>> import torch, xaifast.ops
    >>> x = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    >>> xaifast.ops.occlude_windows(x, torch.zeros(1, 5), [2], [2], first=0, count=3)
    tensor([[0., 0., 3., 4., 5.],
            [1., 2., 0., 0., 5.],
            [1., 2., 3., 4., 0.]])
    """
    call = library.occlude_windows if is_native(x) else reference.occlude_windows
    return call(x, baseline, window, stride, first, count)


def scatter_windows(
    scores: Tensor,
    shape: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    average: bool = True,
) -> Tensor:
    """Give each element the scores of the windows that cover it.

    out[t, e] = sum of scores[t, k] over the windows k that cover e, divided by their number

    Windows are those of `occlude_windows`. An element that none covers gets 0.

    Parameters
    ----------
    scores : [T, K]
        One for each of the K windows.
    shape : list of int
        Shape of a sample.
    window, stride : one int for each dimension of a sample
    average : bool, default True
        False for the sum.

    Returns
    -------
    Tensor
        out [T, *shape], contiguous.

    Raises
    ------
    TypeError, ValueError
        For a dtype, shapes or numbers that do not fit.

    Examples
    --------
    >>> import torch, xaifast.ops
    >>> xaifast.ops.scatter_windows(torch.tensor([[1.0, 3.0]]), [4], [3], [1])
    tensor([[1., 2., 2., 3.]])
    """
    call = library.scatter_windows if is_native(scores) else reference.scatter_windows
    return call(scores, shape, window, stride, average)


def mask_segments(
    x: Tensor, baseline: Tensor, labels: Tensor, on: Tensor, sample: Tensor
) -> Tensor:
    """Switch segments of samples off.

    out[r, e] = x[n, e] if on[r, labels[n, e]], else x'[n, e],   n = sample[r]

    Parameters
    ----------
    x : [N, ...]
        The samples.
    baseline : [N, ...] or [1, ...]
        x', what is put in place of segments that are off; one row may serve all samples.
    labels : [N, ...] or [1, ...], int64
        The segment of each element, in [0, M); 1 for each dimension along which elements share
        theirs, such as [1, 1, H, W] for images. An element with another label stays as it is.
    on : [R, M], bool
        Which segments of a row are left.
    sample : [R], int64
        Which sample each row belongs to.

    Returns
    -------
    Tensor
        out [R, ...], like x.

    Raises
    ------
    TypeError, ValueError
        For dtypes or shapes that do not fit, or a sample outside [0, N).

    References
    ----------
    Ribeiro, Singh and Guestrin (2016), "Why should I trust you?", section 3.3.

    Examples
    --------
    >>> import torch, xaifast.ops
    >>> x, labels = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0, 1, 1]])
    >>> on = torch.tensor([[True, False], [False, True]])
    >>> xaifast.ops.mask_segments(x, torch.zeros(1, 3), labels, on, torch.tensor([0, 0]))
    tensor([[1., 0., 0.],
            [0., 2., 3.]])
    """
    call = library.mask_segments if is_native(x) else reference.mask_segments
    return call(x, baseline, labels.to(x.device), on.to(x.device), sample.to(x.device))


def segment_sums(x: Tensor, labels: Tensor, segments: int) -> Tensor:
    """Sum each segment of each channel, in float64.

    out[n, c, m] = sum of x[n, c, p] over the positions p with labels[n, c, p] = m

    Parameters
    ----------
    x : [N, C, ...]
    labels : [N or 1, C or 1, ...], int64
        The segment of each element, in [0, segments); 1 for each dimension along which elements
        share theirs. An element with another label is left out.
    segments : int

    Returns
    -------
    Tensor
        out [N, C, segments], float64.

    Raises
    ------
    TypeError, ValueError
        For dtypes or shapes that do not fit.

    Examples
    --------
    >>> import torch, xaifast.ops
    >>> x, labels = torch.tensor([[[1.0, 2.0, 4.0]]]), torch.tensor([[[0, 1, 0]]])
    >>> xaifast.ops.segment_sums(x, labels, segments=3)
    tensor([[[5., 2., 0.]]], dtype=torch.float64)
    """
    call = library.segment_sums if is_native(x) else reference.segment_sums
    return call(x, labels.to(x.device), segments)


# ---- fake kernels: shapes and layouts only, for torch.compile and torch.export ---------------


def _empty_rows(x, rows):
    """An unwritten batch of samples like those of x, in its layout."""
    layout = torch._prims_common.suggest_memory_format(x)
    return torch.empty((rows, *x.shape[1:]), dtype=x.dtype, device=x.device, memory_format=layout)


@fake("path_points", x="N *S", baseline="1|N *S", sample="int64 R", alpha="float64 R")
def _(x, baseline, sample, alpha, relu):
    return _empty_rows(x, sample.shape[0])


@fake("accumulate_rows_", total="N *S", g="any R *S", sample="int64 R", weight="float64 R")
def _(total, g, sample, weight):
    return None


@fake("add_noise", x="N *S", sample="int64 R", draw="int64 R", std="float64 N")
def _(x, sample, draw, std, seed):
    return _empty_rows(x, sample.shape[0])


@fake("occlude_windows", x="N *S", baseline="1|N *S")
def _(x, baseline, window, stride, first, count):
    return _empty_rows(x, count * x.shape[0])


@fake("scatter_windows", scores="_ _")
def _(scores, shape, window, stride, average):
    return scores.new_empty((scores.shape[0], *shape))


@fake(
    "mask_segments",
    x="N *S",
    baseline="1|N *S",
    labels="int64 1|N 1|*S",
    on="bool R M",
    sample="int64 R",
)
def _(x, baseline, labels, on, sample):
    return _empty_rows(x, sample.shape[0])


@fake("segment_sums", x="N C *S", labels="int64 1|N 1|C 1|*S")
def _(x, labels, segments):
    return x.new_empty((*x.shape[:2], segments), dtype=torch.float64)
