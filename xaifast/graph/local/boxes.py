"""Boxes: where in a model's maps a change of a part of its input can be seen at all.

A change of the input is known by the interval [low, high) that it covers along each spatial axis.
Operations that look at one position keep it, those that slide a kernel widen it, and one that mixes
all positions ends it: behind that nothing is known, and the whole map may have changed.

    output o reads inputs  o stride - padding + dilation j,  j = 0 ... kernel - 1
    the outputs that read one of [low, high):
        ceil((low + padding - dilation (kernel - 1)) / stride) <= o <= (high - 1 + padding) / stride

An interval may be larger than what changes, never smaller; it is never empty.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import operations
from ..facts import ACTIVATIONS
from ..layers.conv import Conv
from ..node import Node
from ..operations import MAX_POOLS

aten = torch.ops.aten

POINTWISE = {
    *ACTIVATIONS, operations.affine, aten.add, aten.sub, aten.rsub, aten.mul, aten.div,
    aten.maximum, aten.minimum, aten.neg, aten.abs, aten.exp, aten.log, aten.sqrt, aten.rsqrt,
    aten.square, aten.reciprocal, aten.sin, aten.cos, aten.erf, aten.pow,
}  # fmt: skip
# These read one position too, where the dimension that they cut or join is that of the channels.
PIECES = {aten.narrow: 1, aten.slice: 1}
JOINS = {aten.cat: 1, aten.concat: 1}
AVERAGES = {aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d}


@dataclass(frozen=True)
class Span:
    """The intervals [low, high) of some changes along one axis, [changes] each."""

    low: Tensor
    high: Tensor

    @property
    def size(self) -> Tensor:
        """How many positions each covers."""
        return self.high - self.low

    def joined(self, other: Span) -> Span:
        """The intervals that hold both."""
        return Span(torch.minimum(self.low, other.low), torch.maximum(self.high, other.high))


Spans = tuple[Span, ...]  # one for each spatial axis


@dataclass(frozen=True)
class Slide:
    """How an operation slides along one axis of its input; outputs: how many positions it makes."""

    kernel: int
    stride: int
    padding: int
    dilation: int
    outputs: int

    @property
    def reach(self) -> int:
        """How far the first and the last input of one output are apart."""
        return self.dilation * (self.kernel - 1)

    def behind(self, span: Span) -> Span:
        """The outputs that read something of an interval; one that reads nothing if none does."""
        ahead = span.low + self.padding - self.reach
        first = (-(-ahead // self.stride)).clamp(0, self.outputs - 1)
        last = ((span.high - 1 + self.padding) // self.stride).clamp(0, self.outputs - 1)
        return Span(first, torch.maximum(first, last) + 1)

    def read(self, outputs: int) -> int:
        """How many inputs in a row so many outputs in a row read."""
        return (outputs - 1) * self.stride + self.reach + 1

    def start(self, first: Tensor) -> Tensor:
        """The first input that an output reads; in the padding it is negative."""
        return first * self.stride - self.padding


def dims_of(node: Node) -> int:
    """How many spatial axes a map [channels, ...] has."""
    return len(node.shape) - 1


def is_map(node: Node) -> bool:
    """Whether a node is a map [N, channels, ...] of real numbers for each sample."""
    return node.floating and node.by_sample and dims_of(node) >= 1 and 0 not in node.shape


# ---- operations that slide a kernel ------------------------------------------------------------


def _each(value: Any, dims: int) -> list[int]:
    value = [value] if isinstance(value, int) else list(value)
    return value * dims if len(value) == 1 else value


def _conv_slides(node: Node) -> list[Slide] | None:
    layer = node.layer
    if not isinstance(layer, Conv) or layer.transposed or len(layer.kernel) != dims_of(node):
        return None
    starts = [0] * len(layer.kernel) if layer.crop is None else layer.crop[0]
    places = zip(
        layer.kernel, layer.stride, layer.padding, layer.dilation, starts, node.shape[1:],
        strict=True,
    )  # fmt: skip
    # The outputs that a crop leaves out at the left are as much padding less.
    return [Slide(k, s, p - i * s, d, n) for k, s, p, d, i, n in places]


def _pool_slides(node: Node, packet: object) -> list[Slide]:
    dims = dims_of(node)
    _, kernel, stride, padding, *rest = node.args
    kernel = _each(kernel, dims)
    stride = _each(stride, dims) if stride else kernel
    dilation = _each(rest[0], dims) if packet in MAX_POOLS else [1] * dims
    places = zip(kernel, stride, _each(padding, dims), dilation, node.shape[1:], strict=True)
    return [Slide(*place) for place in places]


def slides_of(node: Node) -> list[Slide] | None:
    """How an operation slides along each spatial axis, where that is what it does."""
    packet = getattr(node.target, "overloadpacket", node.target)
    if not is_map(node) or len(node.inputs) != 1 or not is_map(node.inputs[0]):
        return None
    if dims_of(node) != dims_of(node.inputs[0]) or node.args[0] is not node.inputs[0]:
        return None
    if node.kind == "conv":
        return _conv_slides(node)
    if packet in MAX_POOLS | AVERAGES and node.op.endswith(f"{dims_of(node)}d"):
        return _pool_slides(node, packet)
    return None


class Sliding:
    """An operation that slides, to be run on patches that hold their padding already.

    fill: what the padding is made of.
    """

    def __init__(self, node: Node, slides: list[Slide]) -> None:
        self.node, self.slides = node, slides
        self.fill = -math.inf if node.kind == "max_pool" else 0.0
        self.layer = None
        if node.kind == "conv":
            self.layer = copy.copy(node.layer)
            self.layer.padding, self.layer.crop = [0] * len(slides), None
            self.layer.on_boxes = True
            if self.bias_map is not None:
                self.layer._b = None

    @property
    def bias_map(self) -> Tensor | None:
        """The bias of each position [1, channels, ...], or None if it is the same for all."""
        bias = None if self.node.kind != "conv" else self.node.layer.bias
        return bias if bias is not None and bias.dim() > 1 else None

    def run(self, patches: Tensor, relu: bool) -> Tensor:
        """The outputs of patches; of a convolution without its map of biases."""
        if self.layer is not None:
            return self.layer.run(patches, relu=relu and self.bias_map is None, alone=True)
        kernel = [s.kernel for s in self.slides]
        place = (kernel, [s.stride for s in self.slides], [0] * len(kernel))
        if self.node.kind == "max_pool":
            return self.node.target(patches, *place, [s.dilation for s in self.slides], False)
        return self.node.target(patches, *place)

    def factors(self, like: Tensor) -> Tensor | None:
        """Of an average: what the average of a padded patch is to be multiplied with, [1, 1, ...].

        Where padding is not counted, or a window hangs over the border, the model divides by
        another number than that of the kernel's positions.
        """
        if self.node.kind != "sum":
            return None
        x = self.node.inputs[0]
        shares = self.node.call(lambda _: like.new_ones((1, 1, *x.shape[1:])))
        for axis, (slide, size) in enumerate(zip(self.slides, x.shape[1:], strict=True)):
            first = slide.start(torch.arange(slide.outputs, device=like.device))
            held = (first + slide.kernel).clamp(max=size) - first.clamp(min=0)
            factor = slide.kernel / held.to(like.dtype)
            shares = shares * factor.view(-1, *[1] * (len(self.slides) - 1 - axis))
        return shares


# ---- operations on one position ----------------------------------------------------------------


def operands(node: Node) -> list[Node]:
    """The operands of a node that depend on the input."""
    return [x for x in node.operands if not x.constant]


def constants(node: Node) -> list[Node]:
    """Its other operands."""
    return [x for x in node.operands if x.constant]


def is_local(node: Node) -> bool:
    """Whether each position of a map is made of the same position of the maps that enter."""
    packet: Any = getattr(node.target, "overloadpacket", node.target)
    given = operands(node)
    if not is_map(node) or not given or not all(is_map(x) for x in given):
        return False
    if any(x.shape[1:] != node.shape[1:] for x in given):
        return False
    dimension = {**PIECES, **JOINS}.get(packet)
    if dimension is not None:
        dim = node.args[dimension]
        return dim % (dims_of(node) + 2) == 1 and not constants(node)
    return packet in POINTWISE


# ---- the way of a change through a model -------------------------------------------------------


@dataclass(frozen=True)
class Trace:
    """The nodes up to which a change can be followed, with its intervals there.

    spans: the entry's among them; sliding: those of the nodes that slide.
    """

    entry: Node
    spans: dict[Node, Spans]
    sliding: dict[Node, Sliding]


def trace_change(steps: list[Node], entry: Node, spans: Spans) -> Trace:
    """Follow changes of an input through a model, as far as that goes."""
    found: dict[Node, Spans] = {entry: spans}
    sliding: dict[Node, Sliding] = {}
    for node in steps:
        given = operands(node)
        if not given or any(x not in found for x in given):
            continue
        slides = slides_of(node)
        if slides is not None:
            pairs = zip(slides, found[given[0]], strict=True)
            found[node] = tuple(slide.behind(span) for slide, span in pairs)
            sliding[node] = Sliding(node, slides)
        elif is_local(node):
            found[node] = found[given[0]]
            for other in given[1:]:
                both = zip(found[node], found[other], strict=True)
                found[node] = tuple(a.joined(b) for a, b in both)
    return Trace(entry, found, sliding)
