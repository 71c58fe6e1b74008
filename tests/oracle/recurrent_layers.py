"""LSTM-LRP of whole recurrent layers: that of one layer and direction, one after the other."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from . import recurrent as oracle


def by_oracle(
    rnn: nn.RNNBase, inputs: tuple, R: Tensor, gate: str, eps: float, bias: bool = True
) -> list[np.ndarray]:
    """Relevance of x [N, T, F] and the initial states: sample, layer, direction one by one.

    R [N, -1]: of all outputs of a sample, then of the last states.
    """
    ways = 2 if rnn.bidirectional else 1
    many, H = rnn.num_layers * ways, rnn.hidden_size
    found = [np.zeros(tuple(a.shape)) for a in inputs]
    for n, (x, *states) in enumerate(zip(*(a.numpy() for a in inputs), strict=True)):
        T = len(x)
        row = R[n].numpy()
        R_y = row[: T * ways * H].reshape(T, ways * H)
        R_last = row[T * ways * H :].reshape(len(states), many, H)
        below = [x]
        for i in range(rnn.num_layers - 1):
            below.append(outputs_of(rnn, i, below[-1], states))
        for i in reversed(range(rnn.num_layers)):
            R_below = np.zeros_like(below[i])
            for d in range(ways):
                k = i * ways + d
                back = slice(None, None, -1) if d else slice(None)
                R_d = R_y[:, d * H : (d + 1) * H][back]
                args = (below[i][back], *(s[k] for s in states), *weights_of(rnn, i, d), R_d)
                call = getattr(oracle, rnn.mode.lower())
                R_x, *firsts = call(*args, *(s[k] for s in R_last), gate, eps, bias)
                R_below += R_x[back]
                for s, first in enumerate(firsts):
                    found[1 + s][n, k] = first
            R_y = R_below
        found[0][n] = R_y
    return found


def weights_of(rnn: nn.RNNBase, layer: int, direction: int) -> list[np.ndarray]:
    ending = f"_l{layer}{'_reverse' if direction else ''}"
    w = [getattr(rnn, name + ending).detach().numpy() for name in ("weight_ih", "weight_hh")]
    if rnn.bias:
        b = [getattr(rnn, name + ending).detach().numpy() for name in ("bias_ih", "bias_hh")]
    else:
        b = [np.zeros(len(w[0]))] * 2
    return [*w, b[0] + b[1]] if rnn.mode == "LSTM" else [*w, *b]


def outputs_of(rnn: nn.RNNBase, layer: int, x: np.ndarray, states: list) -> np.ndarray:
    """What one layer hands to the next, by PyTorch."""
    ways = 2 if rnn.bidirectional else 1
    features = x.shape[1]
    one = type(rnn)(features, rnn.hidden_size, bias=rnn.bias, bidirectional=ways == 2).double()
    endings = [f"_l{layer}{way}" for way in ("", "_reverse")[:ways]]
    for ending, own in zip(endings, ("_l0", "_l0_reverse"), strict=False):
        for name in ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if rnn.bias else ())):
            setattr(one, name + own, getattr(rnn, name + ending))
    start = [torch.from_numpy(s[layer * ways : (layer + 1) * ways]).unsqueeze(1) for s in states]
    with torch.no_grad():
        y, _ = one(torch.from_numpy(x).unsqueeze(1), tuple(start) if len(start) == 2 else start[0])
    return y[:, 0].numpy()
