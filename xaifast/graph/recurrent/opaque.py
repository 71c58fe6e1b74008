"""Recurrent layers are captured as one call each: PyTorch works out their shapes step by step.

To know what `aten.lstm` and `aten.gru` return, torch.export runs all their steps on fake tensors,
and that twice. While a model is captured, calls go to stand-ins with the same schema that tell
their shapes at once; in the finished graph the layers are themselves again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode

aten = torch.ops.aten
OPTIONS = (
    "Tensor[] weights, bool has_biases, int num_layers, float dropout, bool train, "
    "bool bidirectional, bool batch_first"
)
_library = torch.library.Library("xaifast_capture", "DEF")
_library.define(f"lstm(Tensor x, Tensor[] states, {OPTIONS}) -> (Tensor, Tensor, Tensor)")
_library.define(f"gru(Tensor x, Tensor state, {OPTIONS}) -> (Tensor, Tensor)")
_library.impl("lstm", aten.lstm.input, "CompositeExplicitAutograd")
_library.impl("gru", aten.gru.input, "CompositeExplicitAutograd")
_ops = torch.ops.xaifast_capture
LAYERS: dict[Any, Any] = {
    _ops.lstm.default: aten.lstm.input,
    _ops.gru.default: aten.gru.input,
}


@torch.library.register_fake("xaifast_capture::lstm")
def _(x, states, weights, *options):
    return _output(x, states[0], options), *(s.clone() for s in states)


@torch.library.register_fake("xaifast_capture::gru")
def _(x, state, weights, *options):
    return _output(x, state, options), state.clone()


def _output(x: Tensor, state: Tensor, options: tuple) -> Tensor:
    ways = 2 if options[4] else 1
    return x.new_empty((*x.shape[:2], ways * state.shape[2]))


class OneCall(TorchFunctionMode):
    """Calls of LSTM and GRU layers go to their stand-ins."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None):
        if len(args) == 9 and not isinstance(args[2], Tensor):  # else of packed sequences
            if func is torch.lstm and not isinstance(args[1], Tensor):
                return _ops.lstm(*args)
            if func is torch.gru and isinstance(args[1], Tensor) and isinstance(args[3], bool):
                return _ops.gru(*args)
        return func(*args, **(kwargs or {}))


def spell_out(graph: fx.Graph) -> None:
    """Put the layers in the place of their stand-ins."""
    for node in graph.nodes:
        if node.op == "call_function":
            node.target = LAYERS.get(node.target, node.target)
