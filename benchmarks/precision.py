"""How far low precision moves the maps of LRP, rule by rule: python -m benchmarks.precision.

Each map R is compared with R64, that of the same weights and inputs in float64: `error` is
max |R - R64| / max |R64| of an image, the median over the images, `worst` the largest; `1 - cosine`
is of the two maps, of the worst image. Nothing is timed. Networks: a CNN trained on digits, and a
random one of the shape of VGG-16 (13 convolutions, an eighth of the channels, 64 x 64 pixels), both
explained at their predictions. tf32 exists on CUDA only (--device cuda): on the CPU its columns are
empty.

    python -m benchmarks.precision --beside-zennit 96,224 --images 9

compares float32 maps of ResNet-50 (random weights, batch norm calibrated) with zennit's instead:
|R - R64| / |R64| of an image in the 2-norm, the median over the images and the range, for ours and
for zennit's; `of each` is the median of the
ratios, image by image. `flips` is how many ReLUs of an image take another side in float32, ours.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from torch import Tensor, nn

from xaifast import composites as c
from xaifast import rules as r
from xaifast.attr import LRP

from . import models
from .models import VGG16
from .report import Report, parser
from .trained import digits

RULES: dict[str, Callable[[float, float], c.Composite]] = {
    "Zero": lambda low, high: c.Uniform(r.Zero()),
    "Epsilon(1e-6)": lambda low, high: c.Uniform(r.Epsilon(1e-6)),
    "Epsilon(0.25 std)": lambda low, high: c.Uniform(r.Epsilon(0.25, relative=True)),
    "Gamma(0.25)": lambda low, high: c.Uniform(r.Gamma()),
    "ZPlus": lambda low, high: c.Uniform(r.ZPlus()),
    "AlphaBeta(2, 1)": lambda low, high: c.Uniform(r.AlphaBeta(2, 1)),
    "Flat": lambda low, high: c.Uniform(r.Flat()),
    "WSquare": lambda low, high: c.Uniform(r.WSquare()),
    "LRPStar": lambda low, high: c.LRPStar(),
    "EpsilonPlusFlat": lambda low, high: c.EpsilonPlusFlat(),
    "EpsilonAlpha2Beta1": lambda low, high: c.EpsilonAlpha2Beta1(),
    "EpsilonGammaBox (z-box)": lambda low, high: c.EpsilonGammaBox(low, high),
    "DeepTaylor (w^2)": lambda low, high: c.DeepTaylor(),
    "DeepTaylorBounded (z-box)": lambda low, high: c.DeepTaylorBounded(low, high),
}
BESIDE: dict[str, Callable[[], c.Composite]] = {
    "Epsilon": lambda: c.Uniform(r.Epsilon(1e-6)),
    "EpsilonPlus": c.EpsilonPlus,
    "EpsilonAlpha2Beta1": c.EpsilonAlpha2Beta1,
    "EpsilonGammaBox": lambda: c.EpsilonGammaBox(-4.0, 4.0),
}
PRECISIONS = ("float32", "bfloat16", "tf32")
HEAD = ["network", "rule"] + [
    f"{precision}: {what}" for precision in PRECISIONS for what in ("error", "worst", "1 - cosine")
]


def vgg() -> nn.Sequential:
    """VGG-16's convolutions at an eighth of the width, random as before training (He)."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    channels = 3
    for width in VGG16:
        if width == "M":
            layers.append(nn.MaxPool2d(2))
            continue
        conv = nn.Conv2d(channels, int(width) // 8, 3, padding=1)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        layers += [conv, nn.ReLU()]
        channels = int(width) // 8
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 4, 64), nn.ReLU(), nn.Linear(64, 10))


def compare(R: Tensor, exact: Tensor) -> list[str]:
    """Median and worst error, and the worst 1 - cosine."""
    R, exact = R.double().flatten(1), exact.flatten(1)
    error = (R - exact).abs().amax(1) / exact.abs().amax(1)
    cosine = 1 - torch.cosine_similarity(R, exact)
    return [f"{float(x):.1e}" for x in (error.median(), error.max(), cosine.max())]


def calibrated(seed: int = 0) -> nn.Module:
    """ResNet-50 with random weights and the batch statistics of random images.

    Without batch norm's epsilon, which zennit's merge counts twice.
    """
    model = models.randomize(models.resnet50(), seed)
    generator = torch.Generator().manual_seed(seed + 1)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
    model.train()
    with torch.no_grad():
        for _ in range(4):
            model(torch.randn(8, 3, 96, 96, generator=generator))
    for norm in norms:
        norm.eps = 0.0
    return model.eval()


def error(R: Tensor, exact: Tensor) -> float:
    """|R - R64| / |R64| in the 2-norm."""
    return float((R.double() - exact).norm() / exact.norm())


def flips(model: LRP, double: LRP, x: Tensor) -> int:
    """How many ReLUs are on in one of two precisions only."""
    on = []
    for explainer, u in ((model, x), (double, x.double())):
        built = explainer._builder.build((u,), 1)
        built.weights.refresh()
        run = built.propagation
        values = {run.graph.inputs[0]: u}
        with torch.no_grad():
            run.run_steps(values, run.steps, {})
        on.append([values[n] > 0 for n in run.steps if n.op == "relu"])
    return sum(int((a != b).sum()) for a, b in zip(*on, strict=True))


def beside_zennit(sizes: list[int], images: int, report: Report) -> None:
    """Errors of float32 maps of ResNet-50, ours and zennit's, of the same images."""
    from . import peers

    model = calibrated()
    double = copy.deepcopy(model).double()
    for size in sizes:
        generator = torch.Generator().manual_seed(2)
        x = torch.randn(images, 3, size, size, generator=generator).clamp(-3.9, 3.9)
        for name in ("Epsilon", "EpsilonPlus", "EpsilonAlpha2Beta1", "EpsilonGammaBox"):
            make = BESIDE[name]
            ours, exact = LRP(model, make()), LRP(double, make())
            found, flipped = [], []
            for u in x.split(1):
                with torch.no_grad():
                    target = double(u.double()).argmax(1)
                R64 = exact.attribute(u.double(), target)
                composite = peers.zennit_composite(name, -4.0, 4.0, u)
                theirs = peers.zennit_attribution(copy.deepcopy(model), composite, u, target)
                found.append((error(ours.attribute(u, target), R64), error(theirs, R64)))
                flipped.append(flips(ours, exact, u))
            a, b = torch.tensor(found).T
            shown = [f"{float(v.median()):.1e} ({v.min():.0e} to {v.max():.0e})" for v in (a, b)]
            ratios = [f"{float(v):.2f}" for v in (a.median() / b.median(), (a / b).median())]
            median = f"{float(torch.tensor(flipped, dtype=torch.float).median()):.0f}"
            report.add([str(size), name, *shown, *ratios, median])
    report.finish(["size", "composite", "ours", "zennit", "ours / zennit", "of each", "flips"])


def main() -> None:
    p = parser(__doc__, rounds=1)
    p.add_argument("--images", type=int, default=32)
    p.add_argument("--beside-zennit", metavar="SIZES", help="ResNet-50 at these sizes, float32")
    options = p.parse_args()
    report = Report(options)
    if options.beside_zennit:
        sizes = [int(size) for size in options.beside_zennit.split(",")]
        beside_zennit(sizes, options.images, report)
        return
    trained, x, _ = digits()
    noise = torch.randn(options.images, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    cases = {
        "digits": (trained, x[: options.images], (0.0, 1.0)),
        "VGG, random": (vgg().eval(), noise, (float(noise.min()), float(noise.max()))),
    }
    for network, (model, x, box) in cases.items():
        model, x = model.to(options.device), x.to(options.device)
        double = copy.deepcopy(model).double()
        with torch.no_grad():
            target = double(x.double()).argmax(1)
        for name, make in RULES.items():
            exact = LRP(double, make(*box)).attribute(x.double(), target)
            row = [network, name]
            for precision in PRECISIONS:
                if precision == "tf32" and options.device == "cpu":
                    row += ["", "", ""]
                    continue
                R = LRP(model, make(*box), precision=precision).attribute(x, target)
                row += compare(R, exact)
            report.add(row)
    report.finish(HEAD)


if __name__ == "__main__":
    main()
