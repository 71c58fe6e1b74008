"""LRP against zennit 0.5.1 and captum 0.9.0, side by side: python -m benchmarks.lrp.

For each composite: the time over the plain forward pass (model(x) under no_grad), how many times
faster than the peer, the time of a captured explanation over ours, the peak memory (resident, and
of tensors) beside that of forward + input gradient, and the largest difference of the map to
zennit's in float64. `products` counts the convolution-like products that the method needs, forward
pass included: the limit for the first column. All run in one process with one allocator;
OMP_WAIT_POLICY=passive keeps two threads from fighting over busy cores.
"""

from __future__ import annotations

import copy
import os
import warnings

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from torch import Tensor, nn

from xaifast import composites, rules
from xaifast.attr import LRP

from . import models, peers
from .report import Report, parser
from .timing import interleave, peak_allocated, peak_memory, ratio

LOW, HIGH = -4.0, 4.0
MODELS = ("VGG-16", "ResNet-50")
OURS = {
    "Epsilon": (2, lambda: composites.Uniform(rules.Epsilon(1e-6))),
    "EpsilonPlusFlat": (3, composites.EpsilonPlusFlat),
    "EpsilonAlpha2Beta1": (5, composites.EpsilonAlpha2Beta1),
    "EpsilonGammaBox": (3, lambda: composites.EpsilonGammaBox(LOW, HIGH)),
}
HEAD = [
    "model", "batch", "composite", "products", "ours / forward", "zennit / forward",
    "zennit / ours", "captum / ours", "captured / ours",
    "memory ours / gradient", "tensors ours / gradient", "difference in float64",
]  # fmt: skip


def image(batch: int, device: str, size: int) -> Tensor:
    """Signed pixels, as after the usual normalization."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 3, size, size, generator=generator).clamp(LOW + 0.1, HIGH - 0.1)
    return x.to(device)


def forward(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def gradient(model: nn.Module, x: Tensor, targets: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x).gather(1, targets[:, None]).sum(), x)[0]


def difference(build: str, name: str) -> float:
    """Largest difference of the maps over the largest value, in float64, at 64 x 64 pixels.

    Batch norm without its epsilon: zennit's merge leaves that in and changes the model by it.
    """
    model = models.randomize(models.MODELS[build]()).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    x, targets = image(1, "cpu", 64).double(), torch.tensor([7])
    composite = peers.zennit_composite(name, LOW, HIGH, x)
    theirs = peers.zennit_attribution(copy.deepcopy(model), composite, x, targets)
    ours = LRP(model, OURS[name][1]()).attribute(x, target=7)
    return float((ours - theirs).abs().max() / theirs.abs().max())


def one(build: str, batch: int, name: str, rounds: int, device: str, size: int) -> dict:
    """Measure one composite on one model."""
    model = models.randomize(models.MODELS[build]()).to(device)
    x, targets = image(batch, device, size), torch.full((batch,), 7, device=device)
    products, make = OURS[name]
    explainer = LRP(model, make())
    composite = peers.zennit_composite(name, LOW, HIGH, x)
    captum = peers.captum_explainer(copy.deepcopy(model), name) if device == "cpu" else None
    captured = explainer.capture(x, target=targets)
    functions = {
        "forward": lambda: forward(model, x),
        "gradient": lambda: gradient(model, x, targets),
        "ours": lambda: explainer.attribute(x, target=targets),
        "captured": lambda: captured(x, targets),
        "zennit": lambda: peers.zennit_attribution(model, composite, x, targets),
    }
    if captum is not None:
        functions["captum"] = lambda: captum.attribute(x, target=targets)
    seconds = interleave(functions, rounds)
    memory = {key: peak_memory(functions[key]) for key in ("gradient", "ours", "zennit")}
    tensors = {key: peak_allocated(functions[key]) for key in ("gradient", "ours")}
    return {
        "model": build,
        "batch": batch,
        "composite": name,
        "products": products,
        "seconds": {key: sorted(values)[len(values) // 2] for key, values in seconds.items()},
        "over forward": {key: ratio(seconds, key, "forward") for key in seconds},
        "faster than": {key: ratio(seconds, key, "ours") for key in seconds},
        "memory MiB": memory,
        "tensors MiB": tensors,
        "difference": difference(build, name),
    }


def many_targets(build: str, rounds: int, device: str, size: int, count: int = 16) -> dict:
    """Many targets of one input from one forward pass, against as many calls."""
    model = models.randomize(models.MODELS[build]()).to(device)
    x, explainer = image(1, device, size), LRP(model, composites.EpsilonPlusFlat())
    functions = {
        "together": lambda: explainer.attribute(x, target=[list(range(count))]),
        "one by one": lambda: [explainer.attribute(x, target=t) for t in range(count)],
    }
    seconds = interleave(functions, rounds)
    share = ratio(seconds, "together", "one by one")
    return {"model": build, "targets": count, "together / one by one": share}


def as_row(result: dict) -> list[str]:
    over, faster, memory = result["over forward"], result["faster than"], result["memory MiB"]
    tensors = result["tensors MiB"]
    captum = f"{faster['captum']:.2f}" if "captum" in faster else "-"
    return [
        result["model"], str(result["batch"]), result["composite"], str(result["products"]),
        f"{over['ours']:.2f}", f"{over['zennit']:.2f}", f"{faster['zennit']:.2f}", captum,
        f"{faster['captured']:.2f}",
        f"{memory['ours']:.0f} / {memory['gradient']:.0f} MiB",
        f"{tensors['ours']:.0f} / {tensors['gradient']:.0f} MiB", f"{result['difference']:.0e}",
    ]  # fmt: skip


def main() -> None:
    p = parser(__doc__, rounds=7)
    p.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    p.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    p.add_argument("--composites", nargs="+", choices=OURS, default=list(OURS))
    p.add_argument("--size", type=int, default=224, help="pixels along an edge")
    options = p.parse_args()
    warnings.filterwarnings("ignore", message="Input Tensor 0 did not already require")  # captum
    report = Report(options)
    for build in options.models:
        for batch in options.batches:
            for name in options.composites:
                rounds = options.rounds if batch == 1 else max(3, options.rounds // 2)
                result = one(build, batch, name, rounds, options.device, options.size)
                report.add(as_row(result), result)
    shares = [many_targets(build, 3, options.device, options.size) for build in options.models]
    report.finish(HEAD, targets=shares)
    for share in shares:
        print(
            f"{share['model']}: {share['targets']} targets of one input take "
            f"{share['together / one by one']:.0%} of as many calls (EpsilonPlusFlat)"
        )


if __name__ == "__main__":
    main()
