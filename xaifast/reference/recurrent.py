"""The recurrent ops of `xaifast.ops` in plain PyTorch: one layer in one direction, time first.

Pre-activations z [T, N, 4H] have four blocks: those of the LSTM's i, f, g, o (Eqs. 11.1 to 11.6;
the book's cell input is PyTorch's g), or those of the GRU's r, u, n and m = U_n h + b, where n =
tanh(z_n), z_n = W_n x + b + r m. In both, block 2 is the signal's and what else is left of it
belongs to gates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .relevance import stabilized_divide

__all__ = ["GATES", "Absorbed", "gated_product", "recurrent_relprop", "recurrent_states"]

GATES = ("all", "prop", "abs", "half")


@dataclass
class Absorbed:
    """Relevance that stayed on the way: in biases, in stabilizers; and what was given to gates."""

    bias: float = 0.0
    stabilizer: float = 0.0
    gates: float = 0.0


def _where(steps: Tensor | None, x: Tensor, other: Tensor | float = 0.0) -> Tensor:
    """Take x for the samples that have a step, `other` for those that have ended."""
    return x if steps is None else torch.where(steps.unsqueeze(-1), x, other)


def recurrent_states(
    a: Tensor,
    w: Tensor,
    b: Tensor | None,
    h0: Tensor,
    c0: Tensor | None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the cell; an LSTM where c0 is given. Returns z, and the states h and c [T + 1, N, H].

    lengths [N]: the steps of each sample, behind which z, h and c are 0.
    """
    h, c = [h0], [c0 if c0 is not None else h0[:, :0]]
    steps = []
    for t in range(len(a)):
        q = torch.nn.functional.linear(h[-1], w, b)
        if c0 is not None:
            z = a[t] + q
            i, f, g, o = z.chunk(4, 1)
            c_t = f.sigmoid() * c[-1] + i.sigmoid() * g.tanh()
            h_t = o.sigmoid() * c_t.tanh()
        else:
            (a_r, a_u, a_n), (q_r, q_u, m) = a[t].chunk(3, 1), q.chunk(3, 1)
            r, u = a_r + q_r, a_u + q_u
            n = a_n + r.sigmoid() * m
            z, c_t = torch.cat([r, u, n, m], 1), c[-1]
            h_t = (-u).sigmoid() * n.tanh() + u.sigmoid() * h[-1]
        on = None if lengths is None else lengths > t
        steps.append(_where(on, z))
        h.append(_where(on, h_t))
        c.append(_where(on, c_t))
    return torch.stack(steps), torch.stack(h), torch.stack(c)


def gated_product(
    z_g: Tensor | None, z_s: Tensor | None, R: Tensor, gate: str, eps: float
) -> tuple[Tensor | None, Tensor]:
    """(R_g, R_s) of table 11.1; None where a gate gets nothing. all and half read no z."""
    if gate == "all":
        return None, R
    if gate == "half":
        return 0.5 * R, 0.5 * R
    assert z_g is not None
    assert z_s is not None
    if gate == "abs":
        z_g, z_s = z_g.abs(), z_s.abs()
    s = stabilized_divide(R, z_g + z_s, None, eps)
    return z_g * s, z_s * s


class _Step:
    """The redistributions of one step, with an account of what stays where one is asked for."""

    def __init__(
        self, gate: str, eps: float, absorbed: Absorbed | None, biases: Tensor | None
    ) -> None:
        self.gate, self.eps, self.absorbed = gate, eps, absorbed
        self.biases = None if biases is None else biases.chunk(4)

    def product(self, z_g: Tensor, z_s: Tensor, R: Tensor) -> tuple[Tensor | None, Tensor]:
        R_g, R_s = gated_product(z_g, z_s, R, self.gate, self.eps)
        if self.absorbed is not None and R_g is not None:
            self.absorbed.gates += float(R_g.sum())
            self.absorbed.stabilizer += float((R - R_g - R_s).sum())
        return R_g, R_s

    def share(self, z: Tensor, R: Tensor) -> Tensor:
        """s = R / (z + eps sgn z)."""
        s = stabilized_divide(R, z, None, self.eps)
        if self.absorbed is not None:
            self.absorbed.stabilizer += float((R - s * z).sum())
        return s

    def linear(self, z: tuple[Tensor, ...], k: int, R: Tensor) -> Tensor:
        """Return s of the linear map of block k, whose bias takes its share."""
        s = self.share(z[k], R)
        if self.absorbed is not None and self.biases is not None:
            self.absorbed.bias += float((s * self.biases[k]).sum())
        return s


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
    absorbed: Absorbed | None = None,
    counted: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Hand the relevance of outputs and last states back through time.

    R [targets, T, N, H], R_h and R_c [targets, N, H]; b [4H] is what the denominators of the linear
    maps leave out, counted [4H] what `absorbed` counts as the biases' share. Returns s of the maps
    that x enters [targets, T, N, H or (gates) 4H or 3H], R_h0 and R_c0. lengths [N]: the steps of
    each sample, behind which s is 0 and R counts for nothing.
    """
    H = h.shape[2]
    step = _Step(gate, eps, absorbed, counted)
    w = w[2 * H : 3 * H] if gate == "all" else w
    bias = z.new_zeros(4 * H) if b is None else b
    shares = []
    R_c = R_h[..., :0] if R_c is None else R_c
    for t in reversed(range(len(z))):
        blocks, d = z[t].chunk(4, 1), (z[t] - bias).chunk(4, 1)
        on = None if lengths is None else lengths > t
        above = _where(on, R_h + R[:, t])
        if c is not None:
            R_own = _where(on, R_c)
            s_x, direct, carried = _lstm_step(step, blocks, d, c[t], c[t + 1], above, R_own)
            s_h = s_x
        else:
            s_x, s_h, direct = _gru_step(step, blocks, d, h[t], h[t + 1], above)
            carried = R_c
        shares.append(_where(on, s_x))
        R_h, R_c = _where(on, h[t] * (s_h @ w) + direct, R_h), _where(on, carried, R_c)
    return torch.stack(shares[::-1], 1), R_h, R_c


def _lstm_step(step: _Step, z, d, c, c_next, R_h: Tensor, R_c: Tensor):
    """H' = o tanh(c'), c' = f c + i g. Returns s, the R of h that takes no map (none), R of c."""
    i, f, g, o = z
    R_o, R_tanh = step.product(o, c_next, R_h)
    s = step.share(c_next, R_c + R_tanh)
    R_i, R_g = step.product(i, g, i.sigmoid() * g.tanh() * s)
    R_f, R_c = step.product(f, c, f.sigmoid() * c * s)
    if R_i is None or R_f is None or R_o is None:
        return step.linear(d, 2, R_g), 0.0, R_c
    blocks = [(0, R_i), (1, R_f), (2, R_g), (3, R_o)]
    return torch.cat([step.linear(d, k, R) for k, R in blocks], -1), 0.0, R_c


def _gru_step(step: _Step, z, d, h, h_next, R_h: Tensor):
    """H' = (1 - u) n + u h, z_n = W x + b + r m. Returns s for x, s for h, R of h without a map."""
    r, u, n, m = z
    s = step.share(h_next, R_h)
    R_not_u, R_n = step.product(-u, n, (-u).sigmoid() * n.tanh() * s)  # 1 - u = sigm(-z_u)
    R_u, R_direct = step.product(u, h, u.sigmoid() * h * s)
    s_n = step.linear(d, 2, R_n)
    R_r, R_m = step.product(r, m, r.sigmoid() * m * s_n)
    s_m = step.linear(d, 3, R_m)
    if R_r is None or R_u is None or R_not_u is None:
        return s_n, s_m, R_direct
    s_r, s_u = step.linear(d, 0, R_r), step.linear(d, 1, R_u + R_not_u)
    return torch.cat([s_r, s_u, s_n], -1), torch.cat([s_r, s_u, s_m], -1), R_direct
