"""Occlusion that recomputes only what a window changes: python -m benchmarks.occlusion.

One image, a window of all channels that is moved in steps of half its size, or of --step. Ours as
it comes is timed against captum at the best of some batch settings and against ours on whole maps;
ratios are medians over interleaved rounds in one process. `by operations` is how many times fewer
multiplications the boxes of each single window would need than whole maps, and what the boxes of
the plan need: the limit of the second ratio. Memory is the peak of a call above what was held
before. The difference between the maps is the largest over the largest logit.
"""

from __future__ import annotations

import math
import os
import statistics
import warnings
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # two threads that spin fight over busy cores

import torch
from torch import Tensor

from xaifast import attr
from xaifast.attr.perturbation import incremental
from xaifast.attr.perturbation.windows import Grid, Windows
from xaifast.graph.local.changes import Changes, products_of

from . import models
from .attr import image
from .peers import captum
from .report import Report, parser
from .timing import interleave, peak_memory, ratio

HEAD = [
    "model", "window / step", "windows", "ours s", "whole maps s", "captum s", "captum / ours",
    "whole / ours", "by operations: exact, plan", "memory MiB: ours, whole maps, captum",
    "difference",
]  # fmt: skip


def _windows(x: Tensor, window: int, step: int) -> Windows:
    return Windows([Grid(tuple(x.shape[1:]), (3, window, window), (3, step, step))], (x,))


def on_whole_maps(explainer: attr.Occlusion, x: Tensor, options: dict[str, Any]) -> Tensor:
    """Ours without the boxes."""
    worth, incremental.WORTH = incremental.WORTH, 0.0
    try:
        return explainer.attribute(x, **options)
    finally:
        incremental.WORTH = worth


def products(plan: Changes) -> float:
    """Multiplications of one change on average, in convolutions and dense layers."""
    layers = [n for n in plan.run.steps if n.kind in ("conv", "linear")]
    total = 0.0
    for group in plan.groups:
        for node in layers:
            share = 1.0
            for n, whole in zip(group.sizes.get(node, ()), node.shape[1:], strict=False):
                share *= n / whole
            total += products_of(node) * share * len(group.members)
    return total / sum(len(g.members) for g in plan.groups)


def limits(explainer: attr.Occlusion, x: Tensor, window: int, step: int) -> tuple[float, float]:
    """How many times fewer multiplications: with the boxes of each window, and those planned."""
    built = next(iter(explainer._evaluator._builder._built.values()), None)  # type: ignore[union-attr]
    if built is None:  # so little work that the model was called as it is
        return math.nan, math.nan
    propagation = built.propagation
    source = _windows(x, window, step)
    entry = propagation.graph.inputs[0]
    plan = Changes(propagation, entry, *source.spans())
    whole = sum(products_of(n) for n in plan.run.steps if n.kind in ("conv", "linear"))
    exact = Changes(propagation, entry, *source.spans(), enough=1)
    return whole / products(exact), whole / products(plan)


def one(build: str, window: int, step: int, rounds: int, device: str, size: int) -> dict[str, Any]:
    """Measure one window on one model."""
    model, x = models.randomize(models.MODELS[build]()).to(device), image(size, device)
    options: dict[str, Any] = {
        "sliding_window_shapes": (3, window, window), "strides": (3, step, step), "target": 7,
    }  # fmt: skip
    ours, theirs = attr.Occlusion(model), captum.Occlusion(model)
    ours.attribute(x, **options)  # captures the model
    functions = {
        "ours": lambda: ours.attribute(x, **options),
        "whole": lambda: on_whole_maps(ours, x, options),
    }
    memory = {name: peak_memory(run) for name, run in functions.items()}
    best = min((1, 4, 16), key=lambda n: _seconds_of(theirs, x, options, n))
    functions["captum"] = lambda: theirs.attribute(x, **options, perturbations_per_eval=best)
    memory["captum"] = peak_memory(functions["captum"])
    seconds = interleave(functions, rounds, warm_up=0)
    with torch.no_grad():
        largest = float(model(x).abs().max())
    apart = float((functions["ours"]() - functions["whole"]()).abs().max()) / largest
    return {
        "model": build, "window": window, "step": step,
        "windows": _windows(x, window, step).count,
        "seconds": {k: statistics.median(v) for k, v in seconds.items()},
        "faster": {k: ratio(seconds, k, "ours") for k in seconds},
        "limits": limits(ours, x, window, step), "memory": memory, "setting": best,
        "difference": apart,
    }  # fmt: skip


def _seconds_of(theirs: Any, x: Tensor, options: dict[str, Any], at_once: int) -> float:
    """A few windows of captum's, to find its best setting: those of a quarter of the image."""
    part = {**options, "strides": (3, 2 * options["strides"][1], 2 * options["strides"][2])}
    run = lambda: theirs.attribute(x, **part, perturbations_per_eval=at_once)  # noqa: E731
    return interleave({"it": run}, 1, warm_up=0)["it"][0]


def as_row(r: dict[str, Any]) -> list[str]:
    s, f = r["seconds"], r["faster"]
    return [
        r["model"], f"{r['window']} / {r['step']}", str(r["windows"]), f"{s['ours']:.2f}",
        f"{s['whole']:.2f}", f"{s['captum']:.2f} ({r['setting']} at once)", f"{f['captum']:.2f}",
        f"{f['whole']:.2f}", ", ".join(f"{v:.2f}" for v in r["limits"]),
        ", ".join(f"{v:.0f}" for v in r["memory"].values()), f"{r['difference']:.0e}",
    ]  # fmt: skip


def main() -> None:
    p = parser(__doc__, rounds=3)
    p.add_argument("--models", nargs="+", choices=models.MODELS, default=["VGG-16", "ResNet-50"])
    p.add_argument("--windows", nargs="+", type=int, default=[16])
    p.add_argument("--step", type=int, help="pixels between windows; default: half a window")
    p.add_argument("--size", type=int, default=224, help="pixels along an edge")
    options = p.parse_args()
    report = Report(options)
    warnings.filterwarnings("ignore", module="captum")
    for build in options.models:
        for window in options.windows:
            step = options.step or window // 2
            result = one(build, window, step, options.rounds, options.device, options.size)
            report.add(as_row(result), result)
    report.finish(HEAD)


if __name__ == "__main__":
    main()
