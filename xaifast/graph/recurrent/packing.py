"""Packed sequences: captured as padded ones with their lengths beside them.

`pack_padded_sequence` makes tensors whose sizes depend on the lengths, which no graph shows. While
a model is captured, a `PackedSequence` holds all T N steps in its data, time first, padding too;
what a layer does with each step alone stays right, recurrent layers are told the lengths, and
`pad_packed_sequence` puts the padding value behind the ends. The model's output must not depend on
how long the longest sequence is, which `graph._capture` tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from ...errors import InputError, ModelError, wrong_value
from . import layout as recurrent

SUPPORTED = (
    "Supported are lengths in a tensor or fixed in the model, nn.LSTM and nn.GRU on what "
    "pack_padded_sequence returns, layers that treat each step of packed.data alone, h_n, c_n and "
    "pad_packed_sequence; an output may not depend on the longest sequence of the batch (for a "
    "mean, y.sum(1) / lengths). Or run the recurrent layer on the padded batch and take the last "
    "step of each sequence, y[torch.arange(len(y)), lengths - 1], which in one direction gives the "
    "same output"
)


# ---- lengths -----------------------------------------------------------------------------------


def wrong_count(rows: int, got: Any) -> InputError:
    """The error for lengths that are not one for each sample."""
    must = f"must be one int for each of the {rows} samples"
    do = "Pass a 1-D tensor [N], with the inputs' rows."
    return wrong_value("pack_padded_sequence: lengths", must, got, do)


def check_lengths(lengths: Tensor, steps: int, rows: int) -> None:
    """Refuse lengths that are not those of `rows` sequences padded to `steps`, longest first."""
    who = "pack_padded_sequence: lengths"
    if lengths.dim() != 1 or len(lengths) != rows:
        raise wrong_count(rows, lengths)
    bad = lengths[(lengths < 1) | (lengths > steps)]
    if len(bad):
        raise wrong_value(
            who, f"must be 1 to {steps}, the steps of the padded input", str(int(bad[0])),
            "Leave out empty sequences; pad the input to the longest.",
        )  # fmt: skip
    if (lengths[1:] > lengths[:-1]).any():
        raise wrong_value(
            who, "must decrease where enforce_sorted is True", str(lengths.tolist()[:20]),
            "Call pack_padded_sequence with enforce_sorted=False.",
        )  # fmt: skip


@torch.library.custom_op("xaifast::sequence_lengths", mutates_args=())
def sequence_lengths(lengths: Tensor, steps: int, rows: int) -> Tensor:
    """The lengths, if they are sound: a node of the graph, so that every call is checked."""
    check_lengths(lengths, steps, rows)
    return lengths.clone()


@sequence_lengths.register_fake
def _(lengths, steps, rows):
    return torch.empty_like(lengths)


class Watch(TorchFunctionMode):
    """Checks the lengths that a model itself packs by, and notices that it packs."""

    rows: int | None = None  # sequences that were packed

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") == "_pack_padded_sequence":
            x, lengths, batch_first = args
            self.rows, steps = x.shape[:2] if batch_first else x.shape[1::-1]
            check_lengths(lengths, steps, self.rows)
        return func(*args, **(kwargs or {}))


# ---- recurrent layers, while a model is captured -------------------------------------------------


def _run(x: Tensor, lengths: Tensor, states: list[Tensor], weights: list[Tensor], options: list):
    layer = recurrent.lstm if len(states) == 2 else recurrent.gru
    given = states if len(states) == 2 else states[0]
    return layer(None, x, given, weights, options, lengths)


@torch.library.custom_op("xaifast::packed_rnn", mutates_args=())
def packed_rnn(
    x: Tensor,
    lengths: Tensor,
    states: list[Tensor],
    weights: list[Tensor],
    has_biases: bool,
    layers: int,
    bidirectional: bool,
) -> Tensor:
    """All outputs of an LSTM (two states) or GRU on x [T, N, F], as `recurrent.lstm` returns them.

    It stands for the layer in a graph that is being captured; `recurrent.one_output_each` puts
    `recurrent.lstm` or `gru` in its place.
    """
    return _run(x, lengths, states, weights, [has_biases, layers, 0.0, False, bidirectional, False])


@packed_rnn.register_fake
def _(x, lengths, states, weights, has_biases, layers, bidirectional):
    steps, rows = x.shape[:2]
    hidden = states[0].shape[2]
    ways = 2 if bidirectional else 1
    return x.new_empty((rows, ways * hidden * (steps + layers * len(states))))


@dataclass(frozen=True)
class _Batch:
    """The batch behind the batch_sizes of a packed sequence."""

    batch_sizes: Tensor
    lengths: Tensor
    steps: int
    rows: int

    def unpack(self, data: Tensor) -> Tensor:
        """[T N, ...] -> [T, N, ...]."""
        return data.reshape(self.steps, self.rows, *data.shape[1:])


class Padded(TorchFunctionMode):
    """While it is on, packed sequences stay padded."""

    def __init__(self) -> None:
        super().__init__()
        self._batches: dict[int, _Batch] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name == "_pack_padded_sequence":
            return self._pack(*args)
        if name == "_pad_packed_sequence":
            return self._pad(*args)
        return func(*args, **(kwargs or {}))

    def prepare(self, model: nn.Module) -> nn.Module:
        """Let the recurrent layers of a private copy of a model take padded sequences."""
        for module in model.modules():
            if not isinstance(module, (nn.LSTM, nn.GRU)):
                continue
            if type(module).forward in (nn.LSTM.forward, nn.GRU.forward):
                forward: Any = partial(self._forward, module, module.forward)
                module.__dict__["forward"] = forward
        return model

    def _batch(self, batch_sizes: Tensor) -> _Batch:
        if id(batch_sizes) not in self._batches:
            raise ModelError("a PackedSequence that pack_padded_sequence did not make")
        return self._batches[id(batch_sizes)]

    def _pack(self, x: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
        x = x.transpose(0, 1) if batch_first else x
        steps, rows = x.shape[:2]
        if lengths.dim() != 1 or lengths.shape[0] != rows:
            raise ModelError("as many lengths as samples are needed")
        lengths = torch.ops.xaifast.sequence_lengths(lengths, steps, rows)
        places = torch.arange(steps, device=lengths.device).unsqueeze(1)
        batch_sizes = (lengths > places).sum(1)
        self._batches[id(batch_sizes)] = _Batch(batch_sizes, lengths, steps, rows)
        return x.flatten(0, 1), batch_sizes

    def _pad(
        self, data: Tensor, batch_sizes: Tensor, batch_first: bool, fill: float, total: int
    ) -> tuple[Tensor, Tensor]:
        batch = self._batch(batch_sizes)
        places = torch.arange(batch.steps, device=data.device).unsqueeze(1)
        behind = places >= batch.lengths.to(data.device)
        y = batch.unpack(data)
        y = y.masked_fill(behind.view(*behind.shape, *[1] * (y.dim() - 2)), fill)
        if total > batch.steps:
            y = nn.functional.pad(y, [0, 0] * (y.dim() - 1) + [0, total - batch.steps], value=fill)
        return (y.transpose(0, 1) if batch_first else y), batch.lengths

    def _forward(self, rnn: nn.RNNBase, original: Callable, x: Any, hx: Any = None) -> Any:
        """The forward of nn.LSTM and nn.GRU, for a packed sequence by `packed_rnn`."""
        if not isinstance(x, PackedSequence):
            return original(x, hx)
        if rnn.proj_size:
            raise ModelError("LSTMs with projections (proj_size) have no rule: the book has none")
        data, batch_sizes, order, back = x
        batch = self._batch(batch_sizes)
        ways = 2 if rnn.bidirectional else 1
        H, many = rnn.hidden_size, ways * rnn.num_layers
        if hx is None:
            zeros = data.new_zeros((many, batch.rows, H))
            states = [zeros, zeros] if rnn.mode == "LSTM" else [zeros]
        else:
            states = list(hx) if rnn.mode == "LSTM" else [hx]
            states = states if order is None else [s.index_select(1, order) for s in states]
        weights = [getattr(rnn, name) for name in rnn._flat_weights_names]  # _flat_weights lag
        whole = torch.ops.xaifast.packed_rnn(
            batch.unpack(data), batch.lengths, states, weights, rnn.bias, rnn.num_layers,
            rnn.bidirectional,
        )  # fmt: skip
        y = recurrent.part(whole, 0, [batch.steps, ways * H], 1).flatten(0, 1)
        starts = [H * (ways * batch.steps + many * k) for k in range(len(states))]
        last = [recurrent.part(whole, start, [many, H], 1) for start in starts]
        last = last if back is None else [s.index_select(1, back) for s in last]
        ends = tuple(last) if rnn.mode == "LSTM" else last[0]
        return PackedSequence(y, batch_sizes, order, back), ends
