"""Linear layers as lists of connections, written out neuron by neuron.

A tap is one connection: (j, w) says that input j enters with weight w. A neuron k is the list of
its taps. Two taps of a neuron may read the same input (reflected padding), and a tap may have
weight 0 (the flat rule counts it); padded zeros make no tap. Inputs and outputs are numbered as in
a flattened array of one sample.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Tap = tuple[int, float]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Connections:
    """A linear layer for one sample: z_k = sum over the taps (j, w) of k of a_j w, plus b_k."""

    in_shape: Shape
    out_shape: Shape
    taps: list[list[Tap]]
    bias: list[float]

    def forward(self, a: Array) -> Array:
        """The layer's output z for one sample."""
        values = a.ravel().tolist()
        z = [
            sum(values[j] * w for j, w in taps) + b
            for taps, b in zip(self.taps, self.bias, strict=True)
        ]
        return np.array(z).reshape(self.out_shape)


def positions(shape: Sequence[int]) -> Iterator[Shape]:
    """All positions of a grid, last dimension fastest."""
    return itertools.product(*(range(n) for n in shape))


def number(position: Sequence[int], shape: Sequence[int]) -> int:
    """The place of a position in the flattened grid."""
    n = 0
    for p, size in zip(position, shape, strict=True):
        n = n * size + p
    return n


def dense(W: Array, b: Array | None = None, before: Shape = ()) -> Connections:
    """A dense layer with W [out, in]; `before` are dimensions at each place of which it acts."""
    outs, ins = W.shape
    in_shape, out_shape = (*before, ins), (*before, outs)
    taps: list[list[Tap]] = []
    bias: list[float] = []
    for place in positions(before):
        for k in range(outs):
            taps.append([(number((*place, j), in_shape), float(W[k, j])) for j in range(ins)])
            bias.append(0.0 if b is None else float(b[k]))
    return Connections(in_shape, out_shape, taps, bias)


def einsum(in_shape: Shape, letters: str, W: Array) -> Connections:
    """np.einsum(letters, x, W) for one sample x, such as "ti,tio->to"."""
    operands, out = letters.split("->")
    first, second = operands.split(",")
    sizes = dict(zip(first + second, (*in_shape, *W.shape), strict=True))
    out_shape = tuple(sizes[letter] for letter in out)
    summed = sorted(set(first + second) - set(out))
    taps: list[list[Tap]] = []
    for place in positions(out_shape):
        of_neuron: list[Tap] = []
        for inner in positions([sizes[letter] for letter in summed]):
            at = dict(zip([*out, *summed], (*place, *inner), strict=True))
            j = number([at[letter] for letter in first], in_shape)
            of_neuron.append((j, float(W[tuple(at[letter] for letter in second)])))
        taps.append(of_neuron)
    return Connections(in_shape, out_shape, taps, [0.0] * len(taps))


def scale_and_shift(in_shape: Shape, W: Array, b: Array) -> Connections:
    """y = W x + b elementwise, W and b with one value for each channel."""
    taps = [[(number(p, in_shape), float(W[p[0]]))] for p in positions(in_shape)]
    return Connections(in_shape, in_shape, taps, [float(b[p[0]]) for p in positions(in_shape)])


def average(in_shape: Shape, size: int) -> Connections:
    """The mean of each window of `size` neighbours in the last dimension."""
    out_shape = (*in_shape[:-1], in_shape[-1] // size)
    taps = [
        [(number((*p[:-1], p[-1] * size + q), in_shape), 1 / size) for q in range(size)]
        for p in positions(out_shape)
    ]
    return Connections(in_shape, out_shape, taps, [0.0] * len(taps))


def _source(i: int, n: int, mode: str) -> int | None:
    """Which of n inputs stands at place i of the padded row; None for a padded zero."""
    if 0 <= i < n:
        return i
    if mode == "zeros":
        return None
    if mode == "reflect":  # the border itself is not repeated
        return -i if i < 0 else 2 * (n - 1) - i
    if mode == "replicate":
        return 0 if i < 0 else n - 1
    if mode == "circular":
        return i % n
    raise ValueError(mode)


def convolution(
    in_shape: Shape,
    W: Array,
    b: Array | None,
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
    mode: str = "zeros",
) -> Connections:
    """A convolution of [channels, *sizes] with W [out, in / groups, *kernel].

    padding: (before, after) for each dimension.
    """
    _, *sizes = in_shape
    outs, ins_of_group, *kernel = W.shape
    out_sizes = []
    for d, n in enumerate(sizes):
        room = n + sum(padding[d]) - dilation[d] * (kernel[d] - 1) - 1
        out_sizes.append(room // stride[d] + 1)
    taps: list[list[Tap]] = []
    bias: list[float] = []
    for k in range(outs):
        group = k // (outs // groups)
        for out in positions(out_sizes):
            of_neuron: list[Tap] = []
            for c in range(ins_of_group):
                channel = group * ins_of_group + c
                for q in positions(kernel):
                    place = [
                        _source(
                            out[d] * stride[d] + q[d] * dilation[d] - padding[d][0], sizes[d], mode
                        )
                        for d in range(len(sizes))
                    ]
                    if None not in place:
                        j = number((channel, *place), in_shape)  # type: ignore[arg-type]
                        of_neuron.append((j, float(W[(k, c, *q)])))
            taps.append(of_neuron)
            bias.append(0.0 if b is None else float(b[k]))
    return Connections(in_shape, (outs, *out_sizes), taps, bias)


def transposed_convolution(
    in_shape: Shape,
    W: Array,
    b: Array | None,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Connections:
    """A transposed convolution of [channels, *sizes] with W [in, out / groups, *kernel].

    Input i reaches output i * stride + q * dilation - padding through kernel position q.
    """
    ins, *sizes = in_shape
    _, outs_of_group, *kernel = W.shape
    out_sizes = [
        (n - 1) * stride[d] - 2 * padding[d] + dilation[d] * (kernel[d] - 1) + output_padding[d] + 1
        for d, n in enumerate(sizes)
    ]
    out_shape = (outs_of_group * groups, *out_sizes)
    taps: list[list[Tap]] = [[] for _ in positions(out_shape)]
    for channel in range(ins):
        group = channel // (ins // groups)
        for i in positions(sizes):
            for c in range(outs_of_group):
                for q in positions(kernel):
                    out = [
                        i[d] * stride[d] + q[d] * dilation[d] - padding[d]
                        for d in range(len(sizes))
                    ]
                    if all(0 <= o < n for o, n in zip(out, out_sizes, strict=True)):
                        k = number((group * outs_of_group + c, *out), out_shape)
                        j = number((channel, *i), in_shape)
                        taps[k].append((j, float(W[(channel, c, *q)])))
    bias = [0.0 if b is None else float(b[k[0]]) for k in positions(out_shape)]
    return Connections(in_shape, out_shape, taps, bias)


def average_pooling(
    in_shape: Shape,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Connections:
    """Average pooling: taps of one over the number of places that a window counts."""
    channels, *sizes = in_shape
    out_sizes = window_counts(sizes, kernel, stride, padding, [1] * len(sizes), ceil_mode)
    taps: list[list[Tap]] = []
    for channel in range(channels):
        for out in positions(out_sizes):
            counted, inside = 1, 1
            ranges = []
            for d, n in enumerate(sizes):
                start = out[d] * stride[d] - padding[d]
                end = min(start + kernel[d], n + padding[d])  # beyond the padding nothing counts
                counted *= end - start
                start, end = max(start, 0), min(end, n)
                inside *= end - start
                ranges.append(range(start, end))
            divisor = divisor_override or (counted if count_include_pad else inside)
            taps.append(
                [
                    (number((channel, *place), in_shape), 1.0 / divisor)
                    for place in itertools.product(*ranges)
                ]
            )
    return Connections(in_shape, (channels, *out_sizes), taps, [0.0] * len(taps))


def adaptive_average_pooling(in_shape: Shape, out_sizes: Sequence[int]) -> Connections:
    """Average over [floor(o n / m), ceil((o + 1) n / m)) for output o of m."""
    channels, *sizes = in_shape
    taps: list[list[Tap]] = []
    for channel in range(channels):
        for out in positions(out_sizes):
            ranges = [
                range(o * n // m, -(-(o + 1) * n // m))
                for o, n, m in zip(out, sizes, out_sizes, strict=True)
            ]
            places = list(itertools.product(*ranges))
            taps.append([(number((channel, *p), in_shape), 1.0 / len(places)) for p in places])
    return Connections(in_shape, (channels, *out_sizes), taps, [0.0] * len(taps))


def window_counts(
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> list[int]:
    """How many pooling windows fit in each dimension."""
    counts = []
    for d, n in enumerate(sizes):
        room = n + 2 * padding[d] - dilation[d] * (kernel[d] - 1) - 1
        count = -(-room // stride[d]) + 1 if ceil_mode else room // stride[d] + 1
        # PyTorch drops a last window that would start in the padding behind the input.
        if ceil_mode and (count - 1) * stride[d] >= n + padding[d]:
            count -= 1
        counts.append(count)
    return counts


def _channel(i: int, shape: Shape) -> int:
    return i // int(np.prod(shape[1:]))


def with_affine_behind(layer: Connections, scale: Array, shift: Array) -> Connections:
    """The layer and z scale + shift by channel behind it (a batch norm), as one layer."""
    taps, bias = [], []
    for k, of_neuron in enumerate(layer.taps):
        c = _channel(k, layer.out_shape)
        taps.append([(j, w * float(scale[c])) for j, w in of_neuron])
        bias.append(layer.bias[k] * float(scale[c]) + float(shift[c]))
    return Connections(layer.in_shape, layer.out_shape, taps, bias)


def with_affine_in_front(layer: Connections, scale: Array, shift: Array) -> Connections:
    """The layer and x scale + shift by channel in front of it, as one layer; padding stays zero."""
    taps, bias = [], []
    for k, of_neuron in enumerate(layer.taps):
        channels = [_channel(j, layer.in_shape) for j, _ in of_neuron]
        pairs = list(zip(of_neuron, channels, strict=True))
        taps.append([(j, w * float(scale[c])) for (j, w), c in pairs])
        bias.append(layer.bias[k] + sum(w * float(shift[c]) for (_, w), c in pairs))
    return Connections(layer.in_shape, layer.out_shape, taps, bias)
