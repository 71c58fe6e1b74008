"""The log-odds of a class through a last dense layer (book, 10.3.1), for one sample."""

from __future__ import annotations

import math

import numpy as np

from .linear import Rule
from .taps import Array, dense


def min_take_most(z: Array) -> Array:
    """R_cc' of the differences z_cc'."""
    total = sum(math.exp(-v) for v in z.tolist())
    return np.array([v * math.exp(-v) / total for v in z.tolist()])


def log_odds(W: Array, b: Array, a: Array, c: int, rule: Rule) -> tuple[Array, float, float]:
    """Relevance of a, the relevance at the start, and eta_c itself.

    z_cc' = sum_0,k a_k (w_kc - w_kc')            eta_c = -log sum_c' exp(-z_cc')
    R_cc' = z_cc' exp(-z_cc') / sum_c'' exp(-z_cc'')
    """
    others = [k for k in range(len(W)) if k != c]
    differences = dense(
        np.array([W[c] - W[k] for k in others]), np.array([b[c] - b[k] for k in others])
    )
    z = differences.forward(a)
    R = min_take_most(z)
    eta = -math.log(sum(math.exp(-v) for v in z.tolist()))
    return rule(differences, a, R), sum(R.tolist()), eta
