"""The op for recurrent networks; its kernel is in csrc/lstm_path."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from .native import is_native, library
from .registration import fake

__all__ = ["lstm_path"]


def lstm_path(
    start: Tensor,
    change: Tensor,
    w: Tensor,
    alpha: Tensor,
    weight: Tensor,
    seed_h: Tensor,
    seed_c: Tensor,
    step: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum the gradients of an LSTM at the nodes of a path through its inputs.

    a_t = start_t + alpha change_t + w h_{t-1},   i, f, o = sigma(a), g = tanh(a)
    c_t = f c_{t-1} + i g,   h_t = o tanh(c_t),   S = seed_h . h_s + seed_c . c_s at s = step
    G_t = sum_k weight_k dS / da_t (alpha_k)

    One layer, one direction, PyTorch's order of gates (i, f, g, o). The inputs of the gates are
    linear in alpha: for the path x' + alpha (x - x'), `start` is W_ih x' + b_ih + b_hh and `change`
    is W_ih (x - x'), made once, and integrated gradients are (x - x') * (G W_ih). Targets share the
    forward pass.

    Parameters
    ----------
    start : [N, T, 4 H] or [1, T, 4 H]
        Inputs of the gates at alpha = 0; float32 or float64.
    change : [N, T, 4 H]
        How much they change up to alpha = 1.
    w : [4 H, H]
        Recurrent weights, `weight_hh_l0`.
    alpha : [N, K], float64
        Nodes of each path.
    weight : [M, N, K], float64
        Their weights, for each target.
    seed_h, seed_c : [M, N, H]
        The target: how much of each unit of h and c.
    step : [M, N], int64
        At which step, in [0, T).

    Returns
    -------
    G : [M, N, T, 4 H]
        In the dtype of change, summed in float64; zero behind the step of the target.
    S : [M, N, K], float64
        The target at the nodes.
    slope : [M, N, K], float64
        dS / dalpha at the nodes.

    Raises
    ------
    TypeError
        For dtypes other than these, or that differ.
    ValueError
        For shapes that do not fit, or a step outside [0, T) (on CUDA, S and slope are NaN then).

    References
    ----------
    Book, section 19.2.3 (Eq. 19.6).

    Examples
    --------
    >>> import torch, xaifast.ops
    >>> lstm, x = torch.nn.LSTM(3, 2, batch_first=True).double(), torch.randn(1, 5, 3).double()
    >>> w_ih, w_hh, b_ih, b_hh = (p.detach() for p in lstm.parameters())
    >>> start, change = (b_ih + b_hh).expand(1, 5, 8), x @ w_ih.T  # from a baseline of zeros
    >>> alpha = (torch.arange(100).double()[None] + 0.5) / 100
    >>> none, one = torch.zeros(1, 1, 2).double(), torch.tensor([[[1.0, 0.0]]]).double()
    >>> last = torch.tensor([[4]])  # c of unit 0 after the last step
    >>> weight = torch.full((1, 1, 100), 0.01).double()
    >>> G, S, slope = xaifast.ops.lstm_path(start, change, w_hh, alpha, weight, none, one, last)
    >>> ig = x * (G[0] @ w_ih)
    >>> c = lambda x: lstm(x)[1][1][0, 0, 0]
    >>> bool((ig.sum() - (c(x) - c(0 * x))).abs() < 1e-3)
    True
    """
    call = library.lstm_path if is_native(change) else reference.lstm_path
    return call(start, change, w, alpha, weight, seed_h, seed_c, step)


@fake(
    "lstm_path",
    change="N T G",
    start="1|N T G",
    w="G H",
    alpha="float64 N K",
    weight="float64 M N K",
    seed_h="M N H",
    seed_c="M N H",
    step="int64 M N",
)
def _(start, change, w, alpha, weight, seed_h, seed_c, step):
    M, (N, T, gates) = weight.shape[0], change.shape
    S, slope = (torch.empty_like(weight, memory_format=torch.contiguous_format) for _ in range(2))
    return change.new_empty((M, N, T, gates)), S, slope
