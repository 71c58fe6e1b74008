"""Contextual decomposition of one LSTM layer in one direction: plain loops over single numbers.

Every value is a sum of terms, each of the phrase ("b"), of the rest ("g") or of a bias ("bias").
Weights are PyTorch's: rows of the gates i, f, g, o.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np

from .taps import Array

Terms = dict[str, float]


def sigm(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def linearized(f: Callable[[float], float], terms: Terms) -> Terms:
    """f(sum of the terms) as a sum over them: what each adds, averaged over their orders.

    A bias comes first in every order. What f(0) is belongs to it, so without a bias it must be 0.
    """
    found = dict.fromkeys(terms, 0.0)
    free = [name for name in terms if name != "bias"]
    orders = [["bias", *order] for order in itertools.permutations(free)]
    if "bias" not in terms:
        orders = [order[1:] for order in orders]
    for order in orders:
        z, before = 0.0, 0.0
        for name in order:
            z += terms[name]
            after = f(z)
            found[name] += (after - before) / len(orders)
            before = after
    return found


def product(p: Terms, q: Terms) -> tuple[float, float]:
    """(beta, gamma) of a product: beta if a factor is of the phrase and none of the rest."""
    beta = gamma = 0.0
    for (m, x), (n, y) in itertools.product(p.items(), q.items()):
        if "b" in (m, n) and "g" not in (m, n):
            beta += x * y
        else:
            gamma += x * y
    return beta, gamma


def lstm(beta: Array, gamma: Array, w_x: Array, w_h: Array, b: Array):
    """(beta, gamma) [T, H] of the outputs and of the memory cells, from those of the inputs."""
    T, H = len(beta), w_h.shape[1]
    y, c = np.zeros((2, T + 1, H)), np.zeros((2, T + 1, H))
    for t in range(T):
        x = {"b": beta[t], "g": gamma[t]}
        h = {"b": y[0, t], "g": y[1, t]}
        for k in range(H):

            def gate(number: int, k: int = k, x: dict = x, h: dict = h) -> Terms:
                row = number * H + k
                terms = {name: float(w_x[row] @ x[name] + w_h[row] @ h[name]) for name in x}
                return {**terms, "bias": float(b[row])}

            i, f = (linearized(sigm, gate(n)) for n in (0, 1))
            g = linearized(math.tanh, gate(2))
            o = sigm(sum(gate(3).values()))
            new = product(i, g)
            kept = product(f, {"b": float(c[0, t, k]), "g": float(c[1, t, k])})
            for part in (0, 1):
                c[part, t + 1, k] = new[part] + kept[part]
            shown = linearized(math.tanh, {"b": float(c[0, t + 1, k]), "g": float(c[1, t + 1, k])})
            y[0, t + 1, k], y[1, t + 1, k] = o * shown["b"], o * shown["g"]
    return y[:, 1:], c[:, 1:]


def network(x: Array, phrase: Array, layers: list, both: bool):
    """(beta, gamma) of the outputs [T, D H], of h and of c [layers * D, H].

    x [T, F]; phrase: one bool for each step; layers: for each the (w_x, w_h, b) of its directions.
    """
    inside = phrase[:, None].astype(float)
    y, hs, cs = np.stack([x * inside, x * (1 - inside)]), [], []
    for directions in layers:
        outputs = []
        for d, weights in enumerate(directions):
            backward = both and d == 1
            given = y[:, ::-1] if backward else y
            found, cells = lstm(given[0], given[1], *weights)
            hs.append(found[:, -1])
            cs.append(cells[:, -1])
            outputs.append(found[:, ::-1] if backward else found)
        y = np.concatenate(outputs, -1)
    return y, np.stack(hs, 1), np.stack(cs, 1)
