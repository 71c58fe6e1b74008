"""Max pooling and sums of two inputs, for one sample: plain loops (book, 10.3.2 and 16.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .linear import share, stabilize
from .taps import Array, Shape, number, positions, window_counts

Windows = list[list[int]]


def windows(
    in_shape: Shape,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool = False,
) -> Windows:
    """For each output, in order, the inputs of its window, in order; padding is not among them."""
    channels, *sizes = in_shape
    found: Windows = []
    for channel in range(channels):
        for out in positions(window_counts(sizes, kernel, stride, padding, dilation, ceil_mode)):
            window = []
            for q in positions(kernel):
                place = [
                    out[d] * stride[d] + q[d] * dilation[d] - padding[d] for d in range(len(sizes))
                ]
                if all(0 <= p < n for p, n in zip(place, sizes, strict=True)):
                    window.append(number((channel, *place), in_shape))
            found.append(window)
    return found


def winner_take_all(pool: Windows, a: Array, R: Array) -> Array:
    """All of R_o to the largest input of window o, to the first one of equals."""
    x, Ro, Ri = a.ravel().tolist(), R.ravel().tolist(), [0.0] * a.size
    for o, window in enumerate(pool):
        winner = window[0]
        for i in window:
            if x[i] > x[winner]:
                winner = i
        Ri[winner] += Ro[o]
    return np.array(Ri).reshape(a.shape)


def proportional(pool: Windows, a: Array, R: Array, eps: float) -> Array:
    """R_i = sum_o a_i / (sum of a over window o) R_o."""
    x, Ro, Ri = a.ravel().tolist(), R.ravel().tolist(), [0.0] * a.size
    for o, window in enumerate(pool):
        d = stabilize(sum(x[i] for i in window), eps)
        for i in window:
            Ri[i] += share(x[i], d, Ro[o])
    return np.array(Ri).reshape(a.shape)


def sum_of_two(x: Array, y: Array, R: Array, eps: float, beta: float = 1.0) -> tuple[Array, Array]:
    """z = x + beta y: each summand gets its share of R."""
    Rx, Ry = [0.0] * x.size, [0.0] * x.size
    values = zip(x.ravel().tolist(), y.ravel().tolist(), R.ravel().tolist(), strict=True)
    for k, (p, q, Rk) in enumerate(values):
        d = stabilize(p + beta * q, eps)
        Rx[k] = share(p, d, Rk)
        Ry[k] = share(beta * q, d, Rk)
    return np.array(Rx).reshape(x.shape), np.array(Ry).reshape(x.shape)
