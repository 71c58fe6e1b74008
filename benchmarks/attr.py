"""The methods of xaifast.attr against captum 0.9.0, side by side: python -m benchmarks.attr.

Each method explains one image with ours as it comes, with captum as it comes, and with captum at
the best of some batch settings, tried before. Time ratios are medians over interleaved rounds, all
in one process with one allocator; `first` is our first call, which captures the model. Memory is
the peak of a call above what was held before. The difference is the largest between the maps over
the largest value, in float64 on smaller images; where draws differ, it is the correlation.

python -m benchmarks.attr --adaptive compares IntegratedGradients(n_steps="auto") to captum's 50
steps on trained networks: evaluations, and the part of f(x) - f(x') that is missing.
"""

from __future__ import annotations

import copy
import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # two threads that spin fight over busy cores

import torch
from torch import Tensor, nn

from xaifast import attr

from . import models, trained
from .peers import captum
from .report import Report, parser
from .timing import interleave, peak_memory, ratio

HEAD = [
    "model", "method", "ours s", "captum s", "captum's best s", "captum / ours",
    "captum's best / ours", "first s", "memory MiB: ours, captum, its best", "difference",
]  # fmt: skip
WINDOW = {"sliding_window_shapes": (3, 16, 16), "strides": (3, 8, 8)}
LONG = 20  # seconds of a call, above which one round must do
STEPS = [{"internal_batch_size": n} for n in (1, 4, 8)]
PERTURBATIONS = [{"perturbations_per_eval": n} for n in (4, 16)]


@dataclass(frozen=True)
class Row:
    """A method: its options, those that make captum batch otherwise, whether maps can agree."""

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    settings: list[dict[str, Any]] = field(default_factory=list)
    drawn: bool = False
    noise: bool = False
    segments: bool = False

    def call(self, package: Any, model: nn.Module, x: Tensor, **more: Any) -> Callable[[], Tensor]:
        explainer = getattr(package, self.method)(model)
        options = {"target": 7, **self.options, **more}
        if self.segments:
            options["feature_mask"] = segments(x)
        if self.noise:
            explainer = package.NoiseTunnel(explainer)
        return lambda: explainer.attribute(x, **options)


ROWS = {
    "IG 50": Row("IntegratedGradients", {"n_steps": 50}, STEPS),
    "SmoothGrad 32": Row(
        "Saliency",
        {"nt_samples": 32, "stdevs": 0.1, "abs": False},
        [{"nt_samples_batch_size": n} for n in (1, 4, 8)],
        drawn=True,
        noise=True,
    ),
    "Occlusion (3, 16, 16) / 8": Row("Occlusion", WINDOW, PERTURBATIONS),
    "FeatureAblation 50": Row("FeatureAblation", {}, PERTURBATIONS, segments=True),
    "Lime 200": Row("Lime", {"n_samples": 200}, PERTURBATIONS, drawn=True, segments=True),
    "KernelShap 200": Row(
        "KernelShap", {"n_samples": 200}, PERTURBATIONS, drawn=True, segments=True
    ),
    "DeepLift": Row("DeepLift"),
    "GuidedBackprop": Row("GuidedBackprop"),
}


def segments(x: Tensor) -> Tensor:
    """Fifty rectangles."""
    height, width = x.shape[2:]
    rows, columns = torch.arange(height) * 5 // height, torch.arange(width) * 10 // width
    return (rows[:, None] * 10 + columns).view(1, 1, height, width).to(x.device)


def image(size: int, device: str) -> Tensor:
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1)).to(device)


def theirs_of(model: nn.Module) -> nn.Module:
    """A copy without in-place ReLUs, which captum's hooks refuse."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model


def difference(row: Row, build: str) -> str:
    """How far the maps are apart, in float64, on an image of 64 x 64 pixels."""
    model = models.randomize(models.MODELS[build]()).double()
    x = image(64, "cpu").double()
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours, theirs = row.call(attr, model, x)(), row.call(captum, theirs_of(model), x)().detach()
    if row.drawn:
        both = torch.stack([ours.flatten(), theirs.flatten()])
        return f"correlation {float(torch.corrcoef(both)[0, 1]):.2f}"
    return f"{float((ours - theirs).abs().max() / theirs.abs().max()):.0e}"


def tried(run: Callable[[], Tensor]) -> tuple[float, float]:
    """Seconds and MiB of one call."""
    seconds: list[float] = []

    def timed() -> None:
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)

    memory = peak_memory(timed)
    return seconds[0], memory


def one(build: str, name: str, rounds: int, device: str, size: int) -> dict[str, Any]:
    """Measure one method on one model."""
    row, x = ROWS[name], image(size, device)
    model = models.randomize(models.MODELS[build]()).to(device)
    other, run = theirs_of(model), row.call(attr, model, x)
    first, _ = tried(run)
    _, memory = tried(run)
    settings = [{}, *row.settings]
    found = [tried(row.call(captum, other, x, **s)) for s in settings]
    best = min(range(len(found)), key=lambda i: found[i][0])
    functions = {"ours": run, "captum": row.call(captum, other, x)}
    if best:
        functions["best"] = row.call(captum, other, x, **settings[best])
    seconds = interleave(functions, rounds if found[best][0] < LONG else 1, warm_up=0)
    seconds.setdefault("best", seconds["captum"])
    return {
        "model": build,
        "method": name,
        "seconds": {k: statistics.median(v) for k, v in seconds.items()},
        "faster": {k: ratio(seconds, k, "ours") for k in seconds},
        "first": first,
        "memory": {"ours": memory, "captum": found[0][1], "best": found[best][1]},
        "setting": settings[best],
        "difference": difference(row, build),
    }


def as_row(r: dict[str, Any]) -> list[str]:
    s, setting = r["seconds"], ", ".join(f"{v} at once" for v in r["setting"].values())
    return [
        r["model"], r["method"], f"{s['ours']:.2f}", f"{s['captum']:.2f}",
        f"{s['best']:.2f} ({setting or 'the same'})", f"{r['faster']['captum']:.2f}",
        f"{r['faster']['best']:.2f}", f"{r['first']:.2f}",
        ", ".join(f"{v:.0f}" for v in r["memory"].values()), r["difference"],
    ]  # fmt: skip


# ---- adaptive steps ----------------------------------------------------------------------------


def adaptive(count: int) -> list[list[str]]:
    """Evaluations and relative gaps of ours with "auto" and captum with 50 steps."""
    rows = []
    for name, make in trained.MODELS.items():
        model, x, y = make()
        model, x, y = model.double(), x[:count].double(), y[:count]
        evaluated: list[int] = []

        def counted(x: Tensor, model: nn.Module = model, seen: list[int] = evaluated) -> Tensor:
            seen.append(len(x))
            return model(x)

        options = {"target": y, "return_convergence_delta": True}
        evaluated.clear()
        maps, gaps = attr.IntegratedGradients(counted).attribute(x, n_steps="auto", **options)
        ours = sum(evaluated) / len(x)
        evaluated.clear()
        explainer = captum.IntegratedGradients(counted)
        their_maps, their_gaps = explainer.attribute(x, n_steps=50, **options)
        theirs = (sum(evaluated) - 2 * len(x)) / len(x)  # its delta costs two more
        exact = attr.IntegratedGradients(model).attribute(x, n_steps=5000, target=y)
        with torch.no_grad():
            change = (model(x) - model(torch.zeros_like(x))).gather(1, y[:, None])[:, 0].abs()

        def median_of(gap: Tensor, change: Tensor = change) -> str:
            return f"{float((gap.abs() / change).median()):.1e}"

        def map_error(R: Tensor, exact: Tensor = exact) -> str:
            error = (R - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
            return f"{float(error.median()):.1e}"

        rows.append(
            [
                name, f"{ours:.1f}", f"{theirs:.0f}", f"{theirs / ours:.1f}", median_of(gaps),
                median_of(their_gaps), map_error(maps), map_error(their_maps),
            ]
        )  # fmt: skip
    return rows


ADAPTIVE_HEAD = [
    "model", "evaluations of auto", "of captum", "captum / auto", "gap of auto", "of captum",
    "error of the map of auto", "of captum",
]  # fmt: skip


def main() -> None:
    p = parser(__doc__, rounds=5)
    p.add_argument("--models", nargs="+", choices=models.MODELS, default=["VGG-16", "ResNet-18"])
    p.add_argument("--methods", nargs="+", choices=ROWS, default=list(ROWS))
    p.add_argument("--size", type=int, default=224, help="pixels along an edge")
    p.add_argument("--adaptive", action="store_true", help='compare n_steps="auto" alone')
    options = p.parse_args()
    report = Report(options)
    if options.adaptive:
        for row in adaptive(64):
            report.add(row)
        report.finish(ADAPTIVE_HEAD)
        return
    warnings.filterwarnings("ignore", module="captum")
    for build in options.models:
        for name in options.methods:
            result = one(build, name, options.rounds, options.device, options.size)
            report.add(as_row(result), result)
    report.finish(HEAD)


if __name__ == "__main__":
    main()
