"""The recurrent ops: one layer of an LSTM or GRU in one direction, all steps in one call."""

from __future__ import annotations

from torch import Tensor

from .. import reference
from .native import is_native, library
from .registration import fake

__all__ = ["recurrent_relprop", "recurrent_states"]

# Units for which a CUDA block holds what all steps need; beyond, PyTorch runs step by step.
CUDA_HIDDEN = 512


def _runs_natively(x: Tensor, hidden: int) -> bool:
    return is_native(x) and (x.device.type != "cuda" or hidden <= CUDA_HIDDEN)


def recurrent_states(
    a: Tensor,
    w: Tensor,
    b: Tensor | None,
    h0: Tensor,
    c0: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run an LSTM (where c0 is given) or a GRU over all steps, keeping its gates.

    LSTM   z = a_t + w h,   c' = sigm(z_f) c + sigm(z_i) tanh(z_g),   h' = sigm(z_o) tanh(c')
    GRU    q = w h + b,   z_r = a_r + q_r,   z_u = a_u + q_u,   z_n = a_n + sigm(z_r) q_n,
           h' = (1 - sigm(z_u)) tanh(z_n) + sigm(z_u) h

    Parameters
    ----------
    a : [T, N, 4 H] or [T, N, 3 H]
        What x and the biases add at each step, w_x x_t + b.
    w : [4 H, H] or [3 H, H]
        Recurrent weight, PyTorch's weight_hh.
    b : [4 H] or [3 H], optional
        What the recurrent map adds; the GRU's bias_hh.
    h0, c0 : [N, H]
        States at the start.
    lengths : [N], int64, optional
        Steps of each sample, 0 to T, in decreasing order; all results are 0 behind them.

    Returns
    -------
    z : [T, N, 4 H]
        Pre-activations of i, f, g, o; of a GRU r, u, n and q_n.
    h, c : [T + 1, N, H]
        States from the start to the end; c of a GRU is [T + 1, N, 0].

    Raises
    ------
    TypeError, ValueError
        For dtypes or shapes that do not fit.

    References
    ----------
    Book, Eqs. 11.1 to 11.6.

    Examples
    --------
    >>> import torch, xaifast.ops
    >>> a, w, zero = torch.zeros(5, 2, 12), torch.randn(12, 3), torch.zeros(2, 3)
    >>> z, h, c = xaifast.ops.recurrent_states(a, w, None, zero, zero)
    >>> z.shape, h.shape
    (torch.Size([5, 2, 12]), torch.Size([6, 2, 3]))
    """
    native = _runs_natively(a, h0.shape[-1])
    call = library.recurrent_states if native else reference.recurrent_states
    return call(a, w, b, h0, c0, lengths)


def recurrent_relprop(
    z: Tensor,
    h: Tensor,
    c: Tensor | None,
    w: Tensor,
    b: Tensor | None,
    R: Tensor,
    R_h: Tensor,
    R_c: Tensor | None,
    gate: str,
    eps: float,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Hand relevance back through all steps of an LSTM (where c is given) or a GRU.

    Linear maps and accumulations by LRP-epsilon, products by a rule of table 11.1.

    Parameters
    ----------
    z, h, c : as `recurrent_states` returns them
        c None for a GRU.
    w : [4 H, H] or [3 H, H]
        Recurrent weight.
    b : [4 H], optional
        What the denominators of the linear maps leave out: the biases of the blocks of z.
    R : [targets, T, N, H]
        Relevance of the outputs.
    R_h, R_c : [targets, N, H]
        Relevance of the last states; R_c None for a GRU.
    gate : "all", "prop", "abs" or "half"
        What gates get.
    eps : float
        Stabilizer of all denominators.
    lengths : [N], int64, optional
        As for `recurrent_states`; behind its end, R of a sample counts for nothing.

    Returns
    -------
    s : [targets, T, N, H], with gates that get relevance [..., 4 H], of a GRU [..., 3 H]
        R / (z + eps sgn z) of the maps that x enters: of block g or n, or of all rows of weight_ih.
    R_h0, R_c0 : [targets, N, H]
        Relevance of the first states; R_c0 of a GRU is [targets, N, 0].

    Raises
    ------
    TypeError, ValueError
        For dtypes, shapes or a gate that do not fit.

    References
    ----------
    Book, sections 11.3.1 to 11.3.3.

    Examples
    --------
    >>> import torch, xaifast.ops
    >>> a, w, zero = torch.zeros(5, 2, 12), torch.randn(12, 3), torch.zeros(2, 3)
    >>> z, h, c = xaifast.ops.recurrent_states(a, w, None, zero, zero)
    >>> R, last = torch.randn(1, 5, 2, 3), torch.zeros(1, 2, 3)
    >>> s, R_h, R_c = xaifast.ops.recurrent_relprop(z, h, c, w, None, R, last, last, "all", 1e-3)
    >>> s.shape
    torch.Size([1, 5, 2, 3])
    """
    native = _runs_natively(z, h.shape[-1])
    call = library.recurrent_relprop if native else reference.recurrent_relprop
    return call(z, h, c, w, b, R, R_h, R_c, gate, eps, lengths=lengths)


# ---- fake kernels: shapes only, for torch.compile and torch.export ---------------------------


@fake("recurrent_states", a="T N G", w="G H", b="_", h0="N H", c0="N H", lengths="int64 N")
def _(a, w, b, h0, c0, lengths=None):
    (steps, rows, _), hidden = a.shape, h0.shape[1]
    states = (steps + 1, rows)
    c = a.new_empty((*states, 0 if c0 is None else hidden))
    return a.new_empty((steps, rows, 4 * hidden)), a.new_empty((*states, hidden)), c


@fake(
    "recurrent_relprop",
    z="T N F",
    h="U N H",
    c="U N H",
    w="G H",
    b="_",
    R="M T N H",
    R_h="M N H",
    R_c="M N H",
    lengths="int64 N",
)
def _(z, h, c, w, b, R, R_h, R_c, gate, eps, lengths=None):
    hidden = h.shape[2]
    width = hidden if gate == "all" else w.shape[0]
    R_c0 = z.new_empty((*R_h.shape[:2], 0 if c is None else hidden))
    return z.new_empty((*R.shape[:3], width)), R_h.new_empty(R_h.shape), R_c0
