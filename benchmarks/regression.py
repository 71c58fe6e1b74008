"""The regression ops against scikit-learn and torch.linalg: python -m benchmarks.regression.

B problems of S binary samples of M features, with one design for all of them or one for each.
`scikit-learn` is a loop of fits on the CPU, `lstsq` is torch.linalg.lstsq (gelsy; on CUDA gels) on
the weighted, centred problems. GFLOP/s counts what the QR needs, 2 S M^2 for a design and 4 S M for
a problem; for the lasso, that is its Gram matrix. The difference is the largest one to
scikit-learn's coefficients, over the largest of them. All run on OMP_NUM_THREADS threads, one by
default.
"""

from __future__ import annotations

import os
import statistics
import warnings

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # two threads that spin fight over busy cores
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", os.environ["OMP_NUM_THREADS"])

import numpy as np
import torch
from sklearn.linear_model import Lasso, LinearRegression, Ridge
from torch import Tensor

from xaifast import ops

from .report import Report, parser
from .timing import interleave, ratio

SIZES = [(25, 16), (200, 50), (1000, 50), (1000, 200)]
METHODS = {
    "least squares": (
        lambda X, y, weight: ops.weighted_least_squares(X, y, weight),
        lambda: LinearRegression(tol=1e-13),
    ),
    "ridge": (
        lambda X, y, weight: ops.weighted_least_squares(X, y, weight, ridge=1.0),
        lambda: Ridge(alpha=1.0),
    ),
    "lasso": (
        lambda X, y, weight: ops.weighted_lasso(X, y, weight, alpha=0.01),
        lambda: Lasso(alpha=0.01, tol=1e-12, max_iter=100000),
    ),
}
HEAD = ["method", "S x M", "B", "design", "ours", "GFLOP/s", "scikit-learn / ours", "lstsq / ours",
        "difference"]  # fmt: skip


def problems(B: int, S: int, M: int, shared: bool, device: str) -> list[Tensor]:
    """X, y and weight as LIME draws them."""
    generator = torch.Generator().manual_seed(0)
    designs = 1 if shared else B
    X = torch.randint(0, 2, (designs, S, M), generator=generator).double()
    weight = torch.rand(designs, S, generator=generator).double() + 0.05
    y = torch.randn(B, S, generator=generator).double()
    return [t.to(device) for t in (X, y, weight)]


def scikit_learn(make, X: Tensor, y: Tensor, weight: Tensor) -> np.ndarray:
    """Coefficients, a fit after the other."""
    Xs, ys, weights = (t.cpu().numpy() for t in (X, y, weight))
    designs = len(Xs)
    return np.stack([
        make().fit(Xs[b % designs], ys[b], sample_weight=weights[b % designs]).coef_
        for b in range(len(ys))
    ])  # fmt: skip


def lstsq(X: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    share = weight / weight.sum(1, keepdim=True)
    root = weight.sqrt()
    A = root[..., None] * (X - share[:, None] @ X)
    b = root * (y - (share * y).sum(1, keepdim=True))
    driver = "gels" if X.is_cuda else "gelsy"  # CUDA has no pivoting
    if len(A) < len(b):
        return torch.linalg.lstsq(A[0], b.T, driver=driver).solution.T
    return torch.linalg.lstsq(A, b[..., None], driver=driver).solution


def one(method: str, B: int, S: int, M: int, shared: bool, rounds: int, device: str) -> list[str]:
    """A row of the table, after a check that the results agree."""
    fit, make = METHODS[method]
    inputs = problems(B, S, M, shared, device)
    ours, theirs = fit(*inputs)[0].cpu().numpy(), scikit_learn(make, *inputs)
    difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    assert difference < 1e-6, difference
    functions = {
        "ours": lambda: fit(*inputs),
        "scikit-learn": lambda: scikit_learn(make, *inputs),
    }
    if method == "least squares":
        functions["lstsq"] = lambda: lstsq(*inputs)
    seconds = interleave(functions, rounds)
    median = statistics.median(seconds["ours"])
    flops = 2 * S * M * M * (1 if shared else B) + 4 * S * M * B
    faster = {name: f"{ratio(seconds, name, 'ours'):.1f}" for name in seconds}
    return [
        method, f"{S} x {M}", str(B), "shared" if shared else "separate", f"{median * 1e6:.0f} us",
        f"{flops / median / 1e9:.1f}", faster["scikit-learn"], faster.get("lstsq", "-"),
        f"{difference:.0e}",
    ]  # fmt: skip


def main() -> None:
    p = parser(__doc__, rounds=7)
    p.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    p.add_argument("--batches", nargs="+", type=int, default=[1, 8, 64])
    options = p.parse_args()
    warnings.simplefilter("ignore")  # those of scikit-learn
    report = Report(options)
    for method in options.methods:
        for S, M in SIZES:
            for B in options.batches:
                for shared in [True, False] if B > 1 else [True]:
                    report.add(one(method, B, S, M, shared, options.rounds, options.device))
    report.finish(HEAD)


if __name__ == "__main__":
    main()
