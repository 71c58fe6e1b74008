"""How far low precision moves the maps of LRP, rule by rule: python -m benchmarks.precision.

Each map R is compared with R64, that of the same weights and inputs in float64: `error` is
max |R - R64| / max |R64| of an image, the median over the images, `worst` the largest; `1 - cosine`
is of the two maps, of the worst image. Nothing is timed. Networks: a CNN trained on digits, and a
random one of the shape of VGG-16 (13 convolutions, an eighth of the channels, 64 x 64 pixels), both
explained at their predictions. tf32 exists on CUDA only (--device cuda): on the CPU its columns are
empty.
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


def main() -> None:
    p = parser(__doc__, rounds=1)
    p.add_argument("--images", type=int, default=32)
    options = p.parse_args()
    report = Report(options)
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
