"""Quadratures of the integral over alpha from 0 to 1: nodes alpha_k and weights w_k.

    riemann_left     (k - 1) / m     1 / m            riemann_middle   (k - 1/2) / m    1 / m
    riemann_right    k / m           1 / m            (k = 1 ... m; the book's Eq. 19.6)
    riemann_trapezoid  (k - 1) / (m - 1)   1 / (m - 1), half of it at both ends
    gausslegendre    the roots of the Legendre polynomial of degree m, moved to [0, 1]

Weights sum to 1, so that the attribution of a linear model is exact by any of them. captum's
trapezoid has weights 1 / m and so sums to (m - 1) / m; dialect="captum" reproduces it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...errors import describe, wrong_type, wrong_value

METHODS = (
    "riemann_right", "riemann_left", "riemann_middle", "riemann_trapezoid", "gausslegendre",
)  # fmt: skip
DIALECTS = ("book", "captum")


def check_method(who: str, method: str, dialect: str) -> None:
    """Refuse unknown words."""
    if method not in METHODS:
        raise wrong_value(
            f"{who}: method", f"must be one of {', '.join(METHODS)}", describe(method),
            "Take gausslegendre.",
        )  # fmt: skip
    if dialect not in DIALECTS:
        raise wrong_value(
            f"{who}: dialect", f"must be one of {', '.join(DIALECTS)}", describe(dialect),
            "Leave it out.",
        )  # fmt: skip


def check_steps(who: str, n_steps: object, method: str, auto: bool = True) -> None:
    """Refuse what is neither enough steps for the method nor (where that is allowed) "auto"."""
    if auto and isinstance(n_steps, str) and n_steps == "auto":
        return
    if isinstance(n_steps, bool) or not isinstance(n_steps, int):
        must = 'must be an int or "auto"' if auto else "must be an int"
        raise wrong_type(f"{who}: n_steps", must, describe(n_steps), "The default is 50.")
    least = 2 if method == "riemann_trapezoid" else 1
    if n_steps < least:
        raise wrong_value(
            f"{who}: n_steps", f"must be at least {least} for {method}", n_steps,
            "The default is 50.",
        )  # fmt: skip


def nodes_and_weights(method: str, m: int, dialect: str = "book") -> tuple[Tensor, Tensor]:
    """Nodes alpha [m] and weights [m] of a quadrature, in float64."""
    if method == "gausslegendre":
        roots, doubled = np.polynomial.legendre.leggauss(m)  # on [-1, 1]
        return torch.from_numpy((1 + roots) / 2), torch.from_numpy(doubled / 2)
    k = torch.arange(m, dtype=torch.float64, device="cpu")
    equal = torch.full((m,), 1 / m, dtype=torch.float64, device="cpu")
    if method == "riemann_trapezoid":
        weights = equal.clone() if dialect == "captum" else torch.full_like(equal, 1 / (m - 1))
        weights[[0, -1]] /= 2
        return k / (m - 1), weights
    shift = {"riemann_left": 0.0, "riemann_middle": 0.5, "riemann_right": 1.0}[method]
    return (k + shift) / m, equal
