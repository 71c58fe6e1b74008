"""Integrated gradients of an LSTM against autograd: python -m benchmarks.lstm_path.

The network of the book's section 19.2.1 (one LSTM layer, a linear head), zero baseline, the right
rule with m nodes (Eq. 19.6). `autograd` runs all nodes as a batch through nn.LSTM and back, in the
same precision, in chunks of --rows rows: at most as many as PyTorch likes. The difference is the
largest one of the attributions over the largest attribution, each against float64 by ours. All run
on OMP_NUM_THREADS threads, one by default.
"""

from __future__ import annotations

import argparse
import os
import statistics

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # two threads that spin fight over busy cores
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

from xaifast.attr import IntegratedGradients

from .report import Report, parser
from .timing import interleave, ratio

HEAD = ["batch", "dtype", "ours", "autograd", "autograd / ours", "ours is off by",
        "autograd is off by"]  # fmt: skip


class Runoff(nn.Module):
    """Eq. 19.3 and 19.4."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, batch_first=True)
        self.dense = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(self.lstm(x)[0][:, -1]).squeeze(-1)


def autograd(model: nn.Module, x: Tensor, m: int, rows: int) -> Tensor:
    """Eq. 19.6 by PyTorch alone."""
    alpha = torch.arange(1, m + 1, dtype=x.dtype, device=x.device) / m
    total = []
    for sample in x:
        parts = []
        for some in alpha.split(rows):
            points = (some[:, None, None] * sample).requires_grad_()
            parts.append(torch.autograd.grad(model(points).sum(), points)[0].sum(0))
        total.append(sample * torch.stack(parts).sum(0) / m)
    return torch.stack(total)


def one(batch: int, dtype: torch.dtype, options: argparse.Namespace) -> list[str]:
    """A row of the table, after a check that the results agree."""
    torch.manual_seed(0)
    model = Runoff(options.features, options.hidden).to(options.device).eval()
    x = torch.randn(batch, options.steps, options.features).to(options.device)
    rule = {"n_steps": options.nodes, "method": "riemann_right"}
    want = IntegratedGradients(model.double()).attribute(x.double(), **rule)
    model, x = model.to(dtype), x.to(dtype)
    ig = IntegratedGradients(model)
    functions = {
        "ours": lambda: ig.attribute(x, **rule),
        "autograd": lambda: autograd(model, x, options.nodes, options.rows),
    }
    off = {
        name: float((run().double() - want).abs().max() / want.abs().max())
        for name, run in functions.items()
    }
    assert max(off.values()) < (1e-5 if dtype == torch.float32 else 1e-10), off
    seconds = interleave(functions, options.rounds, warm_up=0)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    return [
        str(batch), str(dtype).split(".")[1], f"{median['ours'] * 1e3:.0f} ms",
        f"{median['autograd'] * 1e3:.0f} ms", f"{ratio(seconds, 'autograd', 'ours'):.1f}",
        f"{off['ours']:.0e}", f"{off['autograd']:.0e}",
    ]  # fmt: skip


def main() -> None:
    p = parser(__doc__, rounds=3)
    p.add_argument("--steps", type=int, default=365)
    p.add_argument("--features", type=int, default=5)
    p.add_argument("--hidden", type=int, default=10)
    p.add_argument("--nodes", type=int, default=1000)
    p.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    p.add_argument("--rows", type=int, default=250)
    p.add_argument("--dtypes", nargs="+", default=["float32", "float64"])
    options = p.parse_args()
    report = Report(options)
    for name in options.dtypes:
        for batch in options.batches:
            report.add(one(batch, getattr(torch, name), options))
    report.finish(HEAD)


if __name__ == "__main__":
    main()
