"""The LRP rules of the book (10.2.1, 10.A) for one sample of one linear layer: plain loops.

Every function takes the layer's connections, the activations a that enter, and the relevance R of
the outputs, and returns the relevance of the inputs. `bias` says whether the sum in the denominator
runs over 0,j (the bias counts) or over j.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .taps import Array, Connections

Rule = Callable[[Connections, Array, Array], Array]


def stabilize(z: float, eps: float) -> float:
    """Z + eps sgn z, with sgn 0 = +1."""
    return z + eps if z >= 0 else z - eps


def share(contribution: float, denominator: float, R: float) -> float:
    """Contribution / denominator * R, with 0/0 = 0."""
    if denominator == 0:
        return 0.0
    return contribution / denominator * R


def pos(x: float) -> float:
    return max(0.0, x)


def neg(x: float) -> float:
    return min(0.0, x)


def epsilon(layer: Connections, a: Array, R: Array, eps: float, bias: bool = True) -> Array:
    """R_j = sum_k a_j w_jk / (z_k + eps sgn z_k) R_k,  z_k = sum_0,j a_j w_jk."""
    x, Rk, Rj = a.ravel().tolist(), R.ravel().tolist(), [0.0] * a.size
    for k, taps in enumerate(layer.taps):
        z = layer.bias[k] if bias else 0.0
        for j, w in taps:
            z += x[j] * w
        d = stabilize(z, eps)
        for j, w in taps:
            Rj[j] += share(x[j] * w, d, Rk[k])
    return np.array(Rj).reshape(a.shape)


def epsilon_relative(
    layer: Connections, a: Array, R: Array, factor: float, bias: bool = True
) -> Array:
    """LRP-epsilon with epsilon = factor times the standard deviation of z over the sample."""
    x = a.ravel().tolist()
    zs = []
    for k, taps in enumerate(layer.taps):
        z = layer.bias[k] if bias else 0.0
        for j, w in taps:
            z += x[j] * w
        zs.append(z)
    mean = sum(zs) / len(zs)
    variance = sum((z - mean) ** 2 for z in zs) / len(zs)
    return epsilon(layer, a, R, factor * variance**0.5, bias)


def gamma(
    layer: Connections, a: Array, R: Array, gamma: float, eps: float, bias: bool = True
) -> Array:
    """Contributions with the sign of z_k count 1 + gamma times; where z_k = 0 nothing passes.

    For a >= 0 and z > 0 it is the book's
    R_j = sum_k a_j (w_jk + gamma w_jk+) / sum_0,j a_j (w_jk + gamma w_jk+) R_k.
    z_k, whose sign decides, is the layer's output, with its bias.
    """
    x, Rk, Rj = a.ravel().tolist(), R.ravel().tolist(), [0.0] * a.size

    def raised(contribution: float, z: float) -> float:
        return contribution * (1.0 + gamma) if contribution * z > 0 else contribution

    for k, taps in enumerate(layer.taps):
        z = layer.bias[k]
        for j, w in taps:
            z += x[j] * w
        if z == 0:
            continue
        total = raised(layer.bias[k], z) if bias else 0.0
        for j, w in taps:
            total += raised(x[j] * w, z)
        d = stabilize(total, eps)
        for j, w in taps:
            Rj[j] += share(raised(x[j] * w, z), d, Rk[k])
    return np.array(Rj).reshape(a.shape)


def alpha_beta(
    layer: Connections,
    a: Array,
    R: Array,
    alpha: float,
    beta: float,
    eps: float,
    bias: bool = True,
) -> Array:
    """R_j = sum_k (alpha (a_j w_jk)+ / sum_0,j (..)+ - beta (a_j w_jk)- / sum_0,j (..)-) R_k."""
    x, Rk, Rj = a.ravel().tolist(), R.ravel().tolist(), [0.0] * a.size
    for k, taps in enumerate(layer.taps):
        above = pos(layer.bias[k]) if bias else 0.0
        below = neg(layer.bias[k]) if bias else 0.0
        for j, w in taps:
            above += pos(x[j] * w)
            below += neg(x[j] * w)
        above, below = stabilize(above, eps), stabilize(below, eps)
        for j, w in taps:
            Rj[j] += alpha * share(pos(x[j] * w), above, Rk[k])
            Rj[j] -= beta * share(neg(x[j] * w), below, Rk[k])
    return np.array(Rj).reshape(a.shape)


def z_plus(layer: Connections, a: Array, R: Array, eps: float, bias: bool = True) -> Array:
    """R_j = sum_k (a_j w_jk)+ / sum_0,j (a_j w_jk)+ R_k."""
    x, Rk, Rj = a.ravel().tolist(), R.ravel().tolist(), [0.0] * a.size
    for k, taps in enumerate(layer.taps):
        total = pos(layer.bias[k]) if bias else 0.0
        for j, w in taps:
            total += pos(x[j] * w)
        d = stabilize(total, eps)
        for j, w in taps:
            Rj[j] += share(pos(x[j] * w), d, Rk[k])
    return np.array(Rj).reshape(a.shape)


def z_box(layer: Connections, a: Array, R: Array, low: Array, high: Array, eps: float) -> Array:
    """R_i = sum_j (x_i w_ij - l_i w_ij+ - h_i w_ij-) / sum_i (the same) R_j, without biases."""
    x, Rk, Rj = a.ravel().tolist(), R.ravel().tolist(), [0.0] * a.size
    l = np.broadcast_to(low, a.shape).ravel().tolist()
    h = np.broadcast_to(high, a.shape).ravel().tolist()
    for k, taps in enumerate(layer.taps):
        total = 0.0
        for i, w in taps:
            total += x[i] * w - l[i] * pos(w) - h[i] * neg(w)
        d = stabilize(total, eps)
        for i, w in taps:
            Rj[i] += share(x[i] * w - l[i] * pos(w) - h[i] * neg(w), d, Rk[k])
    return np.array(Rj).reshape(a.shape)


def w_square(layer: Connections, a: Array, R: Array, eps: float, bias: bool = False) -> Array:
    """R_i = sum_j w_ij^2 / sum_i w_ij^2 R_j; the book's sum is over i, so without the bias."""
    Rk, Rj = R.ravel().tolist(), [0.0] * a.size
    for k, taps in enumerate(layer.taps):
        total = layer.bias[k] ** 2 if bias else 0.0
        for _, w in taps:
            total += w * w
        d = stabilize(total, eps)
        for i, w in taps:
            Rj[i] += share(w * w, d, Rk[k])
    return np.array(Rj).reshape(a.shape)


def flat(layer: Connections, a: Array, R: Array, eps: float) -> Array:
    """R_i = sum_j 1 / (sum_i 1) R_j: one for each connection, whatever its weight."""
    Rk, Rj = R.ravel().tolist(), [0.0] * a.size
    for k, taps in enumerate(layer.taps):
        d = stabilize(float(len(taps)), eps)
        for i, _ in taps:
            Rj[i] += share(1.0, d, Rk[k])
    return np.array(Rj).reshape(a.shape)
