"""Windows that are moved over inputs, and what they cover replaced.

Along a dimension of size S there are ceil((S - window) / stride) + 1 windows, the last cut off at
the border; they are counted with the last dimension fastest, input after input.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, product
from typing import Any

import torch
from torch import Tensor

from ... import ops
from ...errors import describe, wrong_type, wrong_value
from ...graph.local.boxes import Span, Spans

WINDOWS = (
    "Allowed: a tuple of ints with one for each dimension behind N, (3, 16, 16) for images "
    "[N, 3, H, W]; for several inputs a tuple of such tuples."
)
STRIDES = (
    'Allowed: None (1), an int, "window" (windows side by side), a tuple of ints with one for each '
    "dimension behind N; for several inputs a tuple with one of these for each."
)


# ---- their geometry ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """The windows of one input; all tuples have one entry for each dimension behind N."""

    shape: tuple[int, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def positions(self) -> tuple[int, ...]:
        """How many windows there are along each dimension."""
        sizes = zip(self.shape, self.window, self.stride, strict=True)
        return tuple(-((w - size) // s) + 1 for size, w, s in sizes)

    @property
    def count(self) -> int:
        """How many windows there are."""
        return math.prod(self.positions)

    @property
    def single(self) -> bool:
        """Whether each window is one element, and each element one window."""
        return all(w == 1 for w in self.window)  # strides are not beyond it

    def places(self, first: int, count: int) -> Iterator[tuple[slice, ...]]:
        """The places that some of the windows cover, behind N."""
        sizes = zip(self.shape, self.window, self.stride, self.positions, strict=True)
        along = [[slice(i * s, min(i * s + w, size)) for i in range(n)] for size, w, s, n in sizes]
        return islice(product(*along), first, first + count)


def _one_for_each(value: Any, inputs: tuple[Tensor, ...]) -> tuple:
    """Windows or strides as a tuple with one entry for each input."""
    if not isinstance(value, (tuple, list)):
        return (value,) * len(inputs)
    nested = len(value) == 1 and isinstance(value[0], (tuple, list, str))
    return tuple(value) if len(inputs) > 1 or nested else (tuple(value),)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _ints(name: str, value: Any, x: Tensor, forms: str) -> tuple[int, ...]:
    """One positive int for each dimension of an input."""
    if not isinstance(value, (tuple, list)) or not all(map(_is_int, value)):
        raise wrong_type(name, "must be made of ints", describe(value), forms)
    if len(value) != x.dim() - 1:
        raise wrong_value(
            name, f"must have {x.dim() - 1} entries for an input of shape {list(x.shape)}",
            describe(value), forms,
        )  # fmt: skip
    if any(i < 1 for i in value):
        raise wrong_value(name, "must be positive", describe(value), forms)
    return tuple(value)


def _count(name: str, given: tuple, inputs: tuple[Tensor, ...], forms: str) -> None:
    if len(given) != len(inputs):
        raise wrong_value(
            name, f"must hold one for each of the {len(inputs)} inputs", f"{len(given)}", forms
        )


def _check_window(name: str, window: Any, x: Tensor) -> tuple[int, ...]:
    sizes = _ints(name, window, x, WINDOWS)
    if any(w > max(1, size) for w, size in zip(sizes, x.shape[1:], strict=True)):
        raise wrong_value(
            name, f"must not be larger than the input of shape {list(x.shape)}", describe(sizes),
            "Take a smaller window.",
        )  # fmt: skip
    return sizes


def _check_stride(name: str, stride: Any, window: tuple[int, ...], x: Tensor) -> tuple[int, ...]:
    if stride is None or stride == "window":
        return window if stride else (1,) * len(window)
    if isinstance(stride, (tuple, list)) and len(stride) == 1:
        stride = stride[0]  # one int for all dimensions, as in captum
    steps = _ints(name, (stride,) * len(window) if _is_int(stride) else stride, x, STRIDES)
    for s, w, size in zip(steps, window, x.shape[1:], strict=True):
        if s > w < size:
            raise wrong_value(
                name, f"must not be beyond the window {window}, or what lies between two windows "
                "gets no attribution", describe(stride), 'Try "window".',
            )  # fmt: skip
    return tuple(min(s, w) for s, w in zip(steps, window, strict=True))


def check_windows(who: str, windows: Any, strides: Any, inputs: tuple[Tensor, ...]) -> list[Grid]:
    """Check sliding windows and their strides in any of their forms.

    The windows of each input, all of its dimensions behind N counted.

    Raises
    ------
    ValueError, TypeError
        If they do not fit the inputs; the message lists the forms.
    """
    window_name, stride_name = f"{who}: sliding_window_shapes", f"{who}: strides"
    each, steps = _one_for_each(windows, inputs), _one_for_each(strides, inputs)
    _count(window_name, each, inputs, WINDOWS)
    _count(stride_name, steps, inputs, STRIDES)
    grids = []
    for window, stride, x in zip(each, steps, inputs, strict=True):
        sizes = _check_window(window_name, window, x)
        grids.append(Grid(tuple(x.shape[1:]), sizes, _check_stride(stride_name, stride, sizes, x)))
    return grids


def each_element(inputs: tuple[Tensor, ...]) -> list[Grid]:
    """Windows of one element."""
    ones = [(1,) * (x.dim() - 1) for x in inputs]
    return [Grid(tuple(x.shape[1:]), one, one) for x, one in zip(inputs, ones, strict=True)]


# ---- rows of perturbed inputs ------------------------------------------------------------------


def common_dtype(x: Tensor, baseline: Tensor) -> torch.dtype:
    """The dtype of an input of which parts come from a baseline: integers may become floating."""
    return x.dtype if x.is_floating_point() else torch.result_type(x, baseline)


def occluded(x: Tensor, baseline: Tensor, grid: Grid, first: int, count: int) -> Tensor:
    """Rows k N + n: sample n with what window first + k covers replaced by the baseline."""
    if x.is_floating_point() and x.numel() and x.dim() > 1:
        b = baseline.to(x.dtype)
        return ops.occlude_windows(x, b, grid.window, grid.stride, first, count)
    rows = repeated(x.to(common_dtype(x, baseline)), count)
    for k, place in enumerate(grid.places(first, count)):
        rows[(slice(k * len(x), (k + 1) * len(x)), *place)] = baseline[(slice(None), *place)]
    return rows


def repeated(x: Tensor, count: int) -> Tensor:
    """The samples `count` times, one after the other; a copy, for models that write into it."""
    return x.repeat(count, *[1] * (x.dim() - 1))


def _covers(span: Span, which: Tensor, first: Tensor, count: int) -> Tensor:
    """Whether an interval covers each of some positions in a row, [intervals, count]."""
    at = first[:, None] + torch.arange(count, device="cpu")
    return (at >= span.low[which, None]) & (at < span.high[which, None])


class Windows:
    """All windows of some inputs, counted input after input.

    Inputs without samples have none.
    """

    def __init__(self, grids: list[Grid], inputs: tuple[Tensor, ...]) -> None:
        self.grids, self.inputs = grids, inputs
        counts = [g.count if len(x) else 0 for g, x in zip(grids, inputs, strict=True)]
        self.firsts = [sum(counts[:i]) for i in range(len(counts) + 1)]

    @property
    def count(self) -> int:
        """How many windows there are."""
        return self.firsts[-1]

    def rows(self, baseline: tuple[Tensor, ...], part: slice) -> tuple[Tensor, ...]:
        """Inputs, window by window of a part of them, with what the window covers replaced."""
        return tuple(self._rows_of(i, part, b) for i, b in enumerate(baseline))

    def _rows_of(self, i: int, part: slice, baseline: Tensor) -> Tensor:
        x = self.inputs[i]
        begin = max(part.start, self.firsts[i])
        end = min(part.stop, self.firsts[i + 1])
        if begin >= end:  # these windows are of other inputs
            return repeated(x, part.stop - part.start)
        rows = [occluded(x, baseline, self.grids[i], begin - self.firsts[i], end - begin)]
        if begin > part.start:
            rows.insert(0, repeated(x, begin - part.start))
        if end < part.stop:
            rows.append(repeated(x, part.stop - end))
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def spans(self) -> tuple[Spans, tuple[Tensor, ...]] | None:
        """See `incremental.Local`."""
        if len(self.grids) != 1 or len(self.grids[0].shape) < 2:
            return None
        return tuple(self._along[1:]), self._index[1:]

    @cached_property
    def _along(self) -> list[Span]:
        """Places that the windows cover along each dimension, one position after the other."""
        grid, spans = self.grids[0], []
        sizes = zip(grid.shape, grid.window, grid.stride, grid.positions, strict=True)
        for size, window, stride, count in sizes:
            low = stride * torch.arange(count, device="cpu")
            spans.append(Span(low, (low + window).clamp(max=size)))
        return spans

    @cached_property
    def _index(self) -> tuple[Tensor, ...]:
        """The position of each window along each dimension."""
        return torch.unravel_index(torch.arange(self.count, device="cpu"), self.grids[0].positions)

    def inside(self, rows: Tensor, origin: Tensor, size: tuple[int, ...]) -> Tensor:
        """See `incremental.Local`."""
        channels, *axes = self._along
        channel, *index = self._index
        found = _covers(channels, channel[rows], torch.zeros_like(rows), self.grids[0].shape[0])
        found = found.view(len(rows), *[1] * len(size), -1)
        for axis, (span, i, n) in enumerate(zip(axes, index, size, strict=True)):
            own = _covers(span, i[rows], origin[axis], n)
            found = found & own.view(len(rows), *[1] * axis, n, *[1] * (len(size) - axis))
        return found

    def spread(self, scores: Tensor, sample: Tensor | None = None) -> list[Tensor]:
        """Scores [K, L] on the elements that the windows cover, for each input [L, ...].

        Elements of several windows get the average; those of none (in inputs without samples) 0.
        """
        return [self._spread_on(i, scores.T) for i in range(len(self.grids))]

    def _spread_on(self, i: int, scores: Tensor) -> Tensor:
        grid, own = self.grids[i], scores[:, self.firsts[i] : self.firsts[i + 1]]
        if own.shape[1] < grid.count:
            return scores.new_zeros(len(scores), *grid.shape)
        if grid.single:
            return own.reshape(-1, *grid.shape)
        return ops.scatter_windows(own.contiguous(), grid.shape, grid.window, grid.stride)
