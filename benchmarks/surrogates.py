"""Lime and KernelShap against captum 0.9.0, side by side: python -m benchmarks.surrogates.

Small networks on images of 32 x 32 pixels in 20 segments, 200 samples: captum evaluates 1 or 16
perturbations at once, ours as many as fit. `forward` is model(x) under no_grad on all 200 x N rows,
in blocks of 100, which suit the CPU. Ours may be under it: it runs the canonical graph (as called:
without, by optimize=False), and equal coalitions once. The first call includes the capture.
"""

from __future__ import annotations

import os
import time
import warnings

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from torch import Tensor, nn

from xaifast import attr

from .peers import captum
from .report import Report, parser
from .timing import interleave, peak_memory, ratio

SAMPLES, SIZE = 200, 32
HEAD = [
    "channels", "batch", "method", "ours ms", "forward ms", "captum ms (1, 16 at once)",
    "captum / ours (1, 16 at once)", "ours at once, as called", "first call ms", "memory MiB",
]  # fmt: skip


def network(channels: int) -> nn.Module:
    """Three convolutions with pooling, and a linear layer; with 0 channels that layer alone."""
    torch.manual_seed(0)
    c = channels
    if not c:
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 10)).eval()
    parts: list[nn.Module] = []
    for i, o in ((3, c), (c, 2 * c), (2 * c, 2 * c)):
        parts += [nn.Conv2d(i, o, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(2 * c * 16, 10)).eval()


def segments() -> Tensor:
    """Twenty rectangles."""
    rows, columns = torch.arange(SIZE) // 8, torch.arange(SIZE) * 5 // SIZE
    return (rows[:, None] * 5 + columns).view(1, 1, SIZE, SIZE)


def forward(model: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        for block in x.split(100):
            model(block)


def one(method: str, channels: int, batch: int, rounds: int, device: str) -> list[str]:
    """Measure one method on one network and batch."""
    model, mask = network(channels).to(device), segments().to(device)
    x = torch.randn(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)).to(device)
    rows = x.repeat(SAMPLES, 1, 1, 1)
    ours, plain = getattr(attr, method)(model), getattr(attr, method)(model, optimize=False)
    theirs = getattr(captum, method)(model)
    options = {"target": 3, "feature_mask": mask, "n_samples": SAMPLES}
    begin = time.perf_counter()
    ours.attribute(x, **options)
    first = time.perf_counter() - begin
    functions = {
        "ours": lambda: ours.attribute(x, **options),
        "plain": lambda: plain.attribute(x, **options),
        "forward": lambda: forward(model, rows),
        "captum 1": lambda: theirs.attribute(x, perturbations_per_eval=1, **options),
        "captum 16": lambda: theirs.attribute(x, perturbations_per_eval=16, **options),
    }
    seconds = interleave(functions, rounds)
    ms = {k: 1000 * sorted(v)[len(v) // 2] for k, v in seconds.items()}
    faster = [ratio(seconds, f"captum {p}", "ours") for p in (1, 16)]
    memory = [peak_memory(functions[k]) for k in ("ours", "captum 16")]
    return [
        str(channels), str(batch), method, f"{ms['ours']:.1f}", f"{ms['forward']:.1f}",
        f"{ms['captum 1']:.0f}, {ms['captum 16']:.0f}", f"{faster[0]:.1f}, {faster[1]:.1f}",
        f"{ms['plain']:.1f}", f"{1000 * first:.0f}", f"{memory[0]:.0f} / {memory[1]:.0f}",
    ]  # fmt: skip


def main() -> None:
    p = parser(__doc__, rounds=7)
    p.add_argument("--channels", nargs="+", type=int, default=[0, 4, 8, 16])
    p.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    options = p.parse_args()
    warnings.filterwarnings("ignore", message="You are providing multiple inputs")
    report = Report(options)
    for channels in options.channels:
        for batch in options.batches:
            for method in ("Lime", "KernelShap"):
                report.add(one(method, channels, batch, options.rounds, options.device))
    report.finish(HEAD)


if __name__ == "__main__":
    main()
