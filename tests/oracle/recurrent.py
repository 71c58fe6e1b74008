"""LSTM-LRP of chapter 11 for one sample of one layer in one direction: plain numpy, step by step.

Weights are PyTorch's: rows of the gates i, f, g, o (LSTM) or r, u, n (GRU). The state at the start
and the outputs' relevance are given; `eps` stabilizes every denominator.
"""

from __future__ import annotations

import numpy as np

from .linear import share, stabilize
from .taps import Array


def sigm(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def linear(a: Array, w: Array, z: Array, R: Array, eps: float) -> Array:
    """R_j = sum_k a_j w_jk / (z_k + eps sgn z_k) R_k (section 11.3.1), z given."""
    R_a = np.zeros_like(a)
    for k in range(len(z)):
        d = stabilize(float(z[k]), eps)
        if d != 0:
            R_a += a * w[k] / d * R[k]
    return R_a


def product(z_g: Array, z_s: Array, R: Array, gate: str, eps: float) -> tuple[Array, Array]:
    """(R_g, R_s) of table 11.1."""
    if gate == "all":
        return np.zeros_like(R), R
    if gate == "half":
        return R / 2, R / 2
    R_g, R_s = np.zeros_like(R), np.zeros_like(R)
    for k in range(len(R)):
        g, s = float(z_g[k]), float(z_s[k])
        if gate == "abs":
            g, s = abs(g), abs(s)
        d = g + s + eps if gate == "abs" else stabilize(g + s, eps)
        R_g[k], R_s[k] = share(g, d, R[k]), share(s, d, R[k])
    return R_g, R_s


def accumulation(p: Array, q: Array, z: Array, R: Array, eps: float) -> tuple[Array, Array]:
    """Relevance of the two terms of z = p + q (section 11.3.3)."""
    d = [stabilize(float(x), eps) for x in z]
    each = range(len(z))
    return (
        np.array([share(p[k], d[k], R[k]) for k in each]),
        np.array([share(q[k], d[k], R[k]) for k in each]),
    )


def lstm(x, h0, c0, w_x, w_h, b, R_y, R_h, R_c, gate: str, eps: float, bias: bool = True):
    """(R of x [T, F], R of h0, R of c0); x [T, F], b the sum of both biases."""
    H = len(h0)
    parts = [slice(k * H, (k + 1) * H) for k in range(4)]
    h, c, zs = [h0], [c0], []
    for x_t in x:
        z = w_x @ x_t + w_h @ h[-1] + b
        i, f, g, o = (z[p] for p in parts)
        zs.append(z)
        c.append(sigm(i) * np.tanh(g) + sigm(f) * c[-1])
        h.append(sigm(o) * np.tanh(c[-1]))
    R_x = np.zeros_like(x)
    for t in reversed(range(len(x))):
        R_h = R_h + R_y[t]
        i, f, g, o = (zs[t][p] for p in parts)
        R_o, R_signal = product(o, c[t + 1], R_h, gate, eps)
        p, q = sigm(i) * np.tanh(g), sigm(f) * c[t]
        R_p, R_q = accumulation(p, q, c[t + 1], R_c + R_signal, eps)
        R_i, R_g = product(i, g, R_p, gate, eps)
        R_f, R_c = product(f, c[t], R_q, gate, eps)
        R_z = np.concatenate([R_i, R_f, R_g, R_o])
        d = zs[t] if bias else zs[t] - b
        R_x[t] = linear(x[t], w_x, d, R_z, eps)
        R_h = linear(h[t], w_h, d, R_z, eps)
    return R_x, R_h, R_c


def gru(x, h0, w_x, w_h, b_x, b_h, R_y, R_h, gate: str, eps: float, bias: bool = True):
    """(R of x [T, F], R of h0)."""
    H = len(h0)
    r_, u_, n_ = (slice(k * H, (k + 1) * H) for k in range(3))
    h, zs, ms = [h0], [], []
    for x_t in x:
        z = w_x @ x_t + b_x
        q = w_h @ h[-1] + b_h
        ms.append(q[n_])
        z[r_] += q[r_]
        z[u_] += q[u_]
        z[n_] += sigm(z[r_]) * q[n_]
        zs.append(z)
        h.append(sigm(-z[u_]) * np.tanh(z[n_]) + sigm(z[u_]) * h[-1])
    R_x = np.zeros_like(x)
    ru = slice(0, 2 * H)
    for t in reversed(range(len(x))):
        R_h = R_h + R_y[t]
        r, u, n, m = zs[t][r_], zs[t][u_], zs[t][n_], ms[t]
        p, q = sigm(-u) * np.tanh(n), sigm(u) * h[t]
        R_p, R_q = accumulation(p, q, h[t + 1], R_h, eps)
        R_other, R_n = product(-u, n, R_p, gate, eps)
        R_u, R_keep = product(u, h[t], R_q, gate, eps)
        d = n if bias else n - b_x[n_]
        R_x[t] = linear(x[t], w_x[n_], d, R_n, eps)
        rm = sigm(r) * m
        R_rm = np.array([share(rm[k], stabilize(float(d[k]), eps), R_n[k]) for k in range(H)])
        R_r, R_m = product(r, m, R_rm, gate, eps)
        R_h = R_keep + linear(h[t], w_h[n_], m if bias else m - b_h[n_], R_m, eps)
        d = zs[t][ru] if bias else zs[t][ru] - b_x[ru] - b_h[ru]
        R_ru = np.concatenate([R_r, R_u + R_other])
        R_x[t] += linear(x[t], w_x[ru], d, R_ru, eps)
        R_h += linear(h[t], w_h[ru], d, R_ru, eps)
    return R_x, R_h
