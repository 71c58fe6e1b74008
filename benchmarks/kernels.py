"""Each native op against its limit and against ATen calls: python -m benchmarks.kernels.

`MiB` is what an op must read and write, each number once; `MFLOP` the multiplications and additions
of its products, where it has some. The limit is the longer of both, at the rates that are measured
in the same run: of a copy between two large tensors, and of a product of two large matrices in the
dtype of the op's products. `of the limit` is the limit over the time: above 1 where a small tensor
stays in a cache, or where a library needs fewer multiplications than the formula. `ATen` is the
same result by plain PyTorch calls; the results are compared before anything is timed.
"""

from __future__ import annotations

import functools
import os
import statistics
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # two threads that spin fight over busy cores

import torch
from torch import Tensor

from .kernel_cases import CASES, Case, Maker
from .report import Report, parser
from .timing import interleave, ratio, seconds_of_many

HEAD = ["op", "shape", "MiB", "MFLOP", "limit us", "ours us", "of the limit", "ATen us",
        "ATen / ours", "difference"]  # fmt: skip
SECONDS = 0.02  # of calls in a row, in each round


def rates(m: Maker, device: str) -> dict[str, float]:
    """Bytes a second of a copy, and multiplications and additions of matrix products."""
    numbers, edge = m.size(1 << 26, 1 << 20), m.size(2048, 256)
    x, y = torch.zeros(numbers, device=device), torch.zeros(numbers, device=device)
    functions: dict[str, Callable[[], Any]] = {"copy": lambda: y.copy_(x)}
    work = {"copy": 8.0 * numbers}
    for dtype in (torch.float32, torch.float64):
        a = m.normal(edge, edge, dtype=dtype)
        functions[str(dtype)], work[str(dtype)] = functools.partial(torch.mm, a, a), 2.0 * edge**3
    seconds = interleave(functions, 5, timer=lambda f: seconds_of_many(f, 1, device))
    return {name: work[name] / statistics.median(seconds[name]) for name in functions}


def difference(case: Case) -> float:
    """Of the results, over the largest value; an error where they are too far apart."""
    ours, theirs = case.ours(), case.aten()
    if case.drawn:
        return float("nan")
    pairs = [(ours, theirs)] if isinstance(ours, Tensor) else list(zip(ours, theirs, strict=True))
    apart = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs if b.numel())
    if not apart <= case.exact:
        raise SystemExit(f"{case.name}: the results are {apart:.1e} apart")
    return apart


def one(case: Case, rate: dict[str, float], rounds: int, device: str) -> dict[str, Any]:
    """Measure one case."""
    apart = difference(case)
    functions = {"ours": case.ours, "aten": case.aten}
    times = {}
    for run in functions.values():
        once = seconds_of_many(run, 2, device)
        times[run] = int(min(max(SECONDS / once, 1), 1000))
    seconds = interleave(functions, rounds, timer=lambda f: seconds_of_many(f, times[f], device))
    product = rate["torch.float64" if case.wide else "torch.float32"]
    median = {name: statistics.median(v) for name, v in seconds.items()}
    limit = max(case.numbers / rate["copy"], case.products / product)
    return {
        "op": case.name, "shape": case.shape, "bytes": case.numbers, "flop": case.products,
        "seconds": median, "limit": limit, "of the limit": limit / median["ours"],
        "faster": ratio(seconds, "aten", "ours"), "difference": apart,
    }  # fmt: skip


def as_row(r: dict[str, Any]) -> list[str]:
    s, apart = r["seconds"], r["difference"]
    return [
        r["op"], r["shape"], f"{r['bytes'] / 2**20:.1f}",
        f"{r['flop'] / 1e6:.0f}" if r["flop"] else "-", f"{r['limit'] * 1e6:.0f}",
        f"{s['ours'] * 1e6:.0f}", f"{r['of the limit']:.2f}", f"{s['aten'] * 1e6:.0f}",
        f"{r['faster']:.2f}", "-" if apart != apart else f"{apart:.0e}",
    ]  # fmt: skip


def main() -> None:
    p = parser(__doc__, rounds=9)
    p.add_argument("--ops", nargs="+", default=[""], help="only those whose names begin so")
    p.add_argument("--size", choices=("small", "full"), default="full")
    options = p.parse_args()
    report, m = Report(options), Maker(options.device, options.size == "small")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    rate = rates(m, options.device)
    print(
        f"copy {rate['copy'] / 1e9:.1f} GB/s, products {rate['torch.float32'] / 1e9:.0f} GFLOP/s "
        f"in float32, {rate['torch.float64'] / 1e9:.0f} in float64"
    )
    for make in CASES:
        made = make(m)
        if made.name.startswith(tuple(options.ops)):
            result = one(made, rate, options.rounds, options.device)
            report.add(as_row(result), result)
    report.finish(HEAD, rates=rate)


if __name__ == "__main__":
    main()
