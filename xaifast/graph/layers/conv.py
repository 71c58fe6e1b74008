"""Convolutions of one to three dimensions, transposed ones too, as linear maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ... import ops
from .. import operations
from ..node import Node
from ..weights import PACKED, Weight, Weights
from . import choice
from .base import Layer

aten = torch.ops.aten

# oneDNN adds the products of an output one after the other: no more than so many in one go.
CHAIN = 1152


def _channels_inside(w: Tensor) -> Tensor:
    """w in the memory that our CUDA kernels read: channels last."""
    return w.movedim(1, -1).contiguous().movedim(-1, 1)


class Conv(Layer):
    """A convolution or transposed convolution in 1 to 3 dimensions."""

    on_boxes = False  # whether it runs on parts of its maps; see boxes.py

    def __init__(self, node: Node, weights: Weights) -> None:
        args, target = node.args, node.target
        self.crop: tuple[list[int], list[int]] | None = None  # (starts, sizes) of the outputs
        if target is operations.with_bias_map:
            target, args = args[3], (*args[:3], *args[4:])
        elif target is operations.cropped:
            target, self.crop, args = args[3], (args[4], args[5]), (*args[:3], *args[6:])
        super().__init__(node, weights, args[1], args[2])
        packet = target.overloadpacket  # type: ignore[attr-defined]
        if packet is aten.convolution:
            stride, padding, dilation, self.transposed, output_padding, self.groups = args[3:9]
        elif packet in operations.TRANSPOSED:
            stride, padding, output_padding, self.groups, dilation = args[3:8]
            self.transposed = True
        else:
            stride, padding, dilation, self.groups = args[3:7]
            self.transposed, output_padding = False, [0]
        self.kernel = [int(k) for k in args[1].shape[1:]]
        dims = len(self.kernel)

        def each(x: Any) -> list[int]:
            x = [x] if isinstance(x, int) else list(x)
            return x * dims if len(x) == 1 else x

        self.stride, self.padding, self.dilation = each(stride), each(padding), each(dilation)
        self.output_padding = each(output_padding)

    @property
    def geometry(self) -> tuple[Any, ...]:
        """Arguments of aten::convolution behind the bias."""
        place: tuple[list[int], ...] = (self.stride, self.padding, self.dilation)
        return (*place, self.transposed, self.output_padding, self.groups)

    def output_size(self, size: Sequence[int]) -> tuple[list[int], list[int]]:
        """Output positions of a plain convolution, and what each axis of the input leaves over."""
        spans = [
            n + 2 * p - q * (k - 1) - 1
            for n, p, q, k in zip(size, self.padding, self.dilation, self.kernel, strict=True)
        ]
        pairs = [divmod(n, s) for n, s in zip(spans, self.stride, strict=True)]
        return [q + 1 for q, _ in pairs], [r for _, r in pairs]

    # -- weights that oneDNN has packed (a fast path: without it the plain weight is used) --

    def _transformed(self, w: Weight, back: bool = False) -> Tensor:
        def pack(x: Tensor) -> Tensor:
            return ops.winograd_weights(x.transpose(0, 1).flip(2, 3) if back else x)

        return w.packed(("winograd", back), pack)

    def _relprop_few(self, u, R, w, b, z, eps, parts) -> Tensor:
        there, back = (
            w.packed(("few", way), partial(ops.few_weights, back=way)) for way in (False, True)
        )
        place = (self.kernel, self.stride, self.padding)
        return ops.relprop_few(u, R, there, back, b, z, *place, eps, parts)

    def _packed(self, w: Weight, u: Tensor) -> Tensor:
        if not choice.packs(self, u):
            return w.plain
        place = (self.padding, self.stride, self.dilation, self.groups_for(u), list(u.shape))
        pack = torch.ops.mkldnn._reorder_convolution_weight
        # One copy serves batches of any size; boxes come in many sizes, each for a while only.
        key, keep = ("forward", u.shape[1:], *self.padding), 1 if self.on_boxes else PACKED
        return w.packed(key, lambda x: pack(x.contiguous(), *place), keep)

    def _packed_transposed(self, w: Weight, u: Tensor) -> Tensor:
        if not choice.packs(self, u, w.plain.dtype):
            return w.plain
        size, left_over = self.output_size(u.shape[2:])
        place = (self.padding, left_over, self.stride, self.dilation, self.groups_for(u))
        pack = torch.ops.mkldnn._reorder_convolution_transpose_weight
        return w.packed(
            ("transposed", u.shape), lambda x: pack(x, *place, [len(u), x.shape[0], *size])
        )

    # -- two parts side by side; with several groups, each part has groups of its own --

    def _stack(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.cat([first, second], 0 if self.transposed or self.groups > 1 else 1)

    def stack_inputs(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.cat([first, second], 1)

    def split_signs(self, a: Tensor) -> Tensor:
        return ops.split_signs(a)

    def _parts_are_groups(self, u: Tensor) -> bool:
        return self.groups > 1 and u.shape[1] == 2 * self.node.inputs[0].shape[0]

    def groups_for(self, u: Tensor) -> int:
        return self.groups * (2 if self._parts_are_groups(u) else 1)

    # -- the map --

    def run(self, a: Tensor, relu: bool = False, alone: bool = False) -> Tensor:
        b = self.bias
        packed = choice.packs(self, a) if alone else choice.runs_packed(self, a)
        if packed and (b is None or b.dim() == 1):
            return self._run_packed(a, b, relu, alone)
        if choice.packs(self, a):  # in the model's layout, then back to that of the way back
            z = self.forward(a.contiguous(), self.weight, b)
            z = z.contiguous(memory_format=torch.channels_last)
        else:
            z = self.forward(a, self.weight, b)
        return z.relu_() if relu else z

    def _run_packed(self, a: Tensor, b: Tensor | None, relu: bool, whole: bool) -> Tensor:
        if choice.runs_winograd(self, a):
            return ops.winograd_conv(a, self._transformed(self.weight), b, relu, self.padding[0])
        run, add = torch.ops.mkldnn._convolution_pointwise, torch.ops.mkldnn._convolution_pointwise_
        w, place = self.weight.plain, (self.padding, self.stride, self.dilation, self.groups)
        single = whole or self.groups > 1
        cuts = 1 if single else -(-math.prod(self.kernel) * w.shape[1] // CHAIN)
        a = a.contiguous(memory_format=torch.channels_last)
        pieces = list(zip(a.chunk(cuts, 1), w.chunk(cuts, 1), strict=True))
        z = a.new_empty(0)
        for i, (u, w_u) in enumerate(pieces):
            u = u.contiguous(memory_format=torch.channels_last)
            piece = self.remember(("piece", i, len(pieces)), partial(Weight, w_u))
            packed = self._packed(piece, u)
            behind = "relu" if relu and i == len(pieces) - 1 else None
            if i == 0:
                z = run(u, packed, b, *place, behind or "none", [], "")
            else:
                add.binary(z, u, packed, None, *place, "add", 1.0, behind, [], None)
        return z

    def forward(self, u: Tensor, w: Weight, b: Tensor | None = None) -> Tensor:
        if b is not None and b.dim() > 1:  # one bias for each position
            return self.forward(u, w).add_(b)
        if self._parts_are_groups(u):
            z = aten.convolution(u, w.plain, None, *self.geometry[:-1], self.groups_for(u))
            z = sum(z.chunk(2, 1), 0 if b is None else b.view(-1, *[1] * len(self.kernel)))
        else:
            z = aten.convolution(u, w.plain, b, *self.geometry)
        if self.crop is None:
            return z
        return z[(..., *(slice(i, i + n) for i, n in zip(*self.crop, strict=True)))]

    def _uncropped(self, s: Tensor, like: Tensor) -> Tensor:
        """The outputs with zeros where the crop left some out."""
        if self.crop is None:
            return s
        whole = self.output_size(like.shape[2:])[0]
        places = zip(*self.crop, whole, strict=True)
        pads = [p for i, n, size in reversed(list(places)) for p in (i, size - i - n)]
        return torch.nn.functional.pad(s, pads)

    def transpose(self, s: Tensor, w: Weight, like: Tensor) -> Tensor:
        place = (self.stride, self.padding, self.dilation)
        if self.transposed:
            mirrored = (False, [0] * len(self.kernel), self.groups_for(like))
        else:
            mirrored = (True, self.output_size(like.shape[2:])[1], self.groups_for(like))
        whole = self._uncropped(s.flatten(0, 1), like)
        if self._parts_are_groups(like):
            whole = torch.cat([whole, whole], 1)
        c = aten.convolution(whole, w.plain, None, *place, *mirrored)
        # Output padding of a stride or more makes room for positions that no input has.
        c = c[(..., *(slice(0, n) for n in like.shape[2:]))]
        return c.unflatten(0, s.shape[:2])

    def gradient(self, R: Tensor) -> Tensor:
        like = self._like(R)
        if choice.runs_few(self, like):  # what enters, and what is divided by, is 1: no memory
            u, z = (
                R.new_ones(shape).expand(size)
                for shape, size in (((), like.shape), ((R.shape[2], 1, 1), R.shape[1:]))
            )
            return self._relprop_few(u, R, self.weight, None, z, 0.0, 1)
        if not choice.packs(self, like):
            return super().gradient(R)
        s = R.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        left_over = self.output_size(like.shape[2:])[1]
        place = (self.padding, left_over, self.stride, self.dilation, self.groups)
        packed = self._packed_transposed(self.weight, like)
        c = torch.ops.mkldnn._convolution_transpose_pointwise(
            s, packed, None, *place, "none", [], ""
        )
        return c.unflatten(0, R.shape[:2])

    @property
    def spreads_evenly(self) -> bool:
        return self.groups == 1

    def spread(self, R: Tensor, share: Tensor, like: Tensor) -> Tensor:
        s = R.sum(2, keepdim=True) * share[:, :1]
        box = self.remember("box", lambda: Weight(s.new_ones((1, 1, *self.kernel))))
        return self.transpose(s, box, like).expand(*R.shape[:2], *like.shape[1:])

    def multiply(self, u: Tensor, c: Tensor, parts: int) -> Tensor:
        R = ops.multiply_parts(u, c.flatten(0, 1), parts)
        return R.unflatten(0, c.shape[:2])

    def relprop(self, u, R, w, b, eps, parts=1, z=None, bounded=False) -> Tensor:
        kernel = choice.back_through(self, u, bounded)
        if kernel is choice.ONE_BY_ONE:
            return super().relprop(u, R, w, b, eps, parts, z)
        if b is not None and b.dim() > 1 and z is None:
            z = self.forward(u, w, b)
        b = b if z is None else None  # z has it
        if kernel is choice.FEW:
            return self._relprop_few(u, R, w, b, z, eps, parts)
        if choice.packs(self, u):
            u = u.contiguous(memory_format=torch.channels_last)
        back = w if self.rounds_to is None else w.rounded(self.rounds_to)
        if kernel is choice.WINOGRAD:
            pack, pack_back = self._transformed, partial(self._transformed, back=True)
        else:
            pack, pack_back = partial(self._packed, u=u), partial(self._packed_transposed, u=u)
        packed = (pack(w) if z is None else w.plain, pack_back(back))
        rest = (b, z, self.kernel, *self.geometry, eps, parts)
        return ops.relprop_conv(u, R, *packed, *rest)

    def contributed(self, rule, a, R, w, b, eps, low=(), high=(), known=False) -> Tensor | None:
        kernel = choice.contributes_by(self, f"{rule} z" if known else rule, a, R, w.plain, b)
        if kernel == "library":
            return None
        return ops.zplus_conv(
            a, R, w.packed("inside", _channels_inside), b, stride=self.stride,
            padding=self.padding, dilation=self.dilation, groups=self.groups, rule=rule,
            low=low, high=high, eps=eps, w_t=w.packed("exchanged", self._exchanged), kernel=kernel,
        )  # fmt: skip

    def _exchanged(self, w: Tensor) -> Tensor:
        """Both kinds of channels exchanged within each group."""
        by_group = w.unflatten(0, (self.groups, -1))
        return _channels_inside(by_group.transpose(1, 2).flatten(0, 1))
