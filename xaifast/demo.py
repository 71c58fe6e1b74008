"""The demonstration: train a small network on handwritten digits, explain it by many methods.

Called by `xaifast demo`. Needs scikit-learn (data) and Pillow (picture).
"""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .attr import LRP
from .catalogue import bind, find
from .composites import PRESETS, Composite, Uniform
from .errors import wrong_value
from .rules import Zero
from .viz import grid, heatmap, to_image
from .viz.optional import need

SEED = 0
MADE_BY = "xaifast demo"  # as its picture says
SIDE = 24  # the digits' 8 x 8 pixels, enlarged
EPOCHS, BATCH, RATE = 4, 64, 4e-3
EXPLAINED, TIMED, REPEATS = 5, 100, 7
TIMED_METHODS = 10  # digits; some methods evaluate each hundreds of times
COMPLETE = ("IntegratedGradients", "DeepLift", "KernelShap")  # their sum is promised
BOX = {"low": 0.0, "high": 1.0}


def methods() -> dict[str, dict[str, Any]]:
    """The other columns of the picture, and the options of each."""
    places = torch.arange(SIDE) // 3
    squares = (places[:, None] * (SIDE // 3) + places).view(1, 1, SIDE, SIDE)
    return {
        "Saliency": {},
        "IntegratedGradients": {},
        "DeepLift": {},
        "Occlusion": {"sliding_window_shapes": (1, 6, 6), "strides": (1, 3, 3)},
        "KernelShap": {"feature_mask": squares, "n_samples": 500, "seed": SEED},
    }


def composites() -> dict[str, Composite]:
    """The first columns of the picture and the lines of the first table, by name."""
    plain = ("EpsilonPlus", "EpsilonPlusFlat", "EpsilonAlpha2Beta1", "ExcitationBackprop")
    boxed = ("EpsilonGammaBox", "ZeroEpsilonGammaBox", "DeepTaylorBounded")
    return {
        "Uniform(Zero)": Uniform(Zero()),
        **{name: PRESETS[name]() for name in plain},
        **{name: PRESETS[name](**BOX) for name in boxed},
    }


# ---- the model -------------------------------------------------------------------------------


class Digits(nn.Module):
    """Three convolutions with batch norm, one of them in a residual block, and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 5, padding=2, bias=False)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(32)
        self.head = nn.Linear(32 * (SIDE // 8) ** 2, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 10] of images [N, 1, 24, 24]."""
        x = functional.max_pool2d(functional.relu(self.norm1(self.conv1(x))), 2)
        x = functional.max_pool2d(functional.relu(self.norm2(self.conv2(x))), 2)
        x = functional.relu(x + self.norm3(self.conv3(x)))
        return self.head(functional.avg_pool2d(x, 2).flatten(1))


def load() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images [N, 1, 24, 24] in [0, 1] and classes [N]: of training, then of testing."""
    digits = need("demo", "sklearn.datasets", "scikit-learn").load_digits()
    split = need("demo", "sklearn.model_selection", "scikit-learn").train_test_split
    parts = split(
        digits.images, digits.target, test_size=0.2, random_state=SEED, stratify=digits.target
    )
    train, test = (
        functional.interpolate(
            torch.tensor(x / 16.0).float().unsqueeze(1), size=SIDE, mode="bilinear"
        )
        for x in parts[:2]
    )
    return train, torch.tensor(parts[2]), test, torch.tensor(parts[3])


def train(x: Tensor, y: Tensor) -> nn.Module:
    """Train the network; the same weights every time, and the global seed stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = Digits()
        optimizer = torch.optim.Adam(model.parameters(), RATE)
        cooling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, EPOCHS - 1)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(x)).split(BATCH):
                optimizer.zero_grad()
                functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
            cooling.step()
    return model.eval()


@torch.no_grad()
def predict(model: nn.Module, x: Tensor) -> Tensor:
    """The predicted classes [N]."""
    return model(x).argmax(1)


# ---- what is shown ---------------------------------------------------------------------------


def measure(
    model: nn.Module, explainers: dict[str, LRP], x: Tensor, target: Tensor
) -> dict[str, tuple[float, float]]:
    """For each composite: time over the plain forward pass, and conservation error.

    The error is |sum R - f| / |f| for the explained output f, its mean over the samples.
    """
    with torch.no_grad():
        f = model(x).gather(1, target.unsqueeze(1)).squeeze(1)
    errors = {}
    for name, lrp in explainers.items():  # the first call captures the graph
        _, delta = lrp.attribute(x, target, return_convergence_delta=True)
        errors[name] = float((delta.abs() / f.abs()).mean())
    calls = {name: _call(lrp, x, target) for name, lrp in explainers.items()}
    times = interleaved({"": torch.no_grad()(lambda: model(x)), **calls})
    return {name: (times[name] / times[""], errors[name]) for name in explainers}


def bound_methods(model: nn.Module) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """The methods, each as a function of images and targets."""
    return {name: bind(find(name), model, options) for name, options in methods().items()}


def measure_methods(
    model: nn.Module, x: Tensor, target: Tensor
) -> dict[str, tuple[float, float | None]]:
    """For each method: time over the plain forward pass, and completeness error.

    The error is |sum R - (f - f')| / |f - f'| with f' the output for a black image, its mean over
    the samples; None where a method does not promise that.
    """
    with torch.no_grad():
        f, f0 = (model(a).gather(1, target.unsqueeze(1)).squeeze(1) for a in (x, x * 0))
    calls = {name: partial(call, x, target) for name, call in bound_methods(model).items()}
    errors: dict[str, float | None] = {}
    for name, call in calls.items():
        total, complete = call().sum((1, 2, 3)), name in COMPLETE
        if name == "KernelShap":  # each pixel of a square has the value of the square
            total = total / 9
        errors[name] = float(((total - (f - f0)) / (f - f0)).abs().mean()) if complete else None
    times = interleaved({"": torch.no_grad()(lambda: model(x)), **calls})
    return {name: (times[name] / times[""], errors[name]) for name in calls}


def _call(lrp: LRP, x: Tensor, target: Tensor) -> Callable[[], object]:
    return lambda: lrp.attribute(x, target)


def interleaved(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The median time of each call, in seconds, all measured in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(REPEATS):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin)
    return {name: median(values) for name, values in times.items()}


def picture(model: nn.Module, explainers: dict[str, LRP], x: Tensor, target: Tensor) -> object:
    """The digits in rows, the composites and the other methods in columns."""
    maps = [lrp.attribute(x, target) for lrp in explainers.values()]
    maps += [call(x, target) for call in bound_methods(model).values()]
    rows = [[to_image(x[i]), *(heatmap(relevance[i]) for relevance in maps)] for i in range(len(x))]
    titles = ["input", *(_broken(name) for name in (*explainers, *methods()))]
    return grid(rows, titles, [f"class {int(c)}" for c in target])


def _broken(name: str, width: int = 13) -> str:
    """A composite's name in short lines, broken at its capitals."""
    lines = [""]
    for word in re.findall(r"\(?[A-Z][^A-Z(]*", name):
        if len(lines[-1] + word) > width:
            lines.append("")
        lines[-1] += word
    return "\n".join(lines)


def table(rows: Mapping[str, tuple[float, float | None]], what: str, error: str) -> str:
    """The measurements as text."""
    lines = [f"{what:22} {'time / forward':>14} {error:>26}"]
    for name, (ratio, e) in rows.items():
        lines.append(f"{name:22} {ratio:14.1f} {'-' if e is None else f'{e:.1e}':>26}")
    return "\n".join(lines)


def run(
    out: Path,
    say: Callable[[str], None] = print,
    write: Callable[[Path, bytes], object] = Path.write_bytes,
) -> Path:
    """Train, explain, measure and draw.

    Parameters
    ----------
    out : Path
        Folder of the picture; made if it is missing.
    say : callable
        Takes the lines that are shown; default print.
    write : callable
        Writes the picture: path, bytes; default Path.write_bytes.

    Returns
    -------
    Path
        Of the picture.

    Raises
    ------
    ImportError
        If scikit-learn or Pillow is missing.
    ValueError
        If the folder holds a digits.png that the demonstration has not made.
    """
    image = need("demo", "PIL.Image", "pillow")
    path = out / "digits.png"
    _check_own(image, path)
    x_train, y_train, x, y = load()
    out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    model = train(x_train, y_train)
    predicted = predict(model, x)
    say(
        f"Trained on {len(x_train)} digits in {time.perf_counter() - begin:.1f} s; "
        f"test accuracy {float((predicted == y).float().mean()):.3f} on {len(x)} more."
    )
    explainers = {name: LRP(model, composite) for name, composite in composites().items()}
    rows = measure(model, explainers, x[:TIMED], predicted[:TIMED])
    say(f"Explained {TIMED} test digits, each for its predicted class:\n")
    say(table(rows, "composite", "|sum R - f| / |f|") + "\n")
    others = measure_methods(model, x[:TIMED_METHODS], predicted[:TIMED_METHODS])
    say(table(others, "method", "|sum R - (f - f')| / |f - f'|") + "\n")
    say(
        "sum R: relevance at the input; f: the output explained, f' that for a black image; "
        "where biases count, the error is the share that they absorb."
    )
    chosen = _examples(predicted, y)
    write(path, _png(picture(model, explainers, x[chosen], predicted[chosen])))
    say(f"Picture: {path}")
    return path


def _check_own(image: Any, path: Path) -> None:
    """Refuse to replace a picture that is not an earlier one of the demonstration."""
    if not os.path.lexists(path):
        return
    try:
        with image.open(path, formats=("PNG",)) as kept:
            made_by = kept.info.get("Software")
    except (OSError, SyntaxError, ValueError, image.DecompressionBombError):
        made_by = None
    if path.is_symlink() or made_by != MADE_BY:
        raise wrong_value(
            "demo: --out", "must hold no other digits.png", str(path), "Name another folder."
        )


def _png(drawn: Any) -> bytes:
    """The bytes of a .png file that says who made it."""
    facts = need("demo", "PIL.PngImagePlugin", "pillow").PngInfo()
    facts.add_text("Software", MADE_BY)
    data = io.BytesIO()
    drawn.save(data, format="png", pnginfo=facts)
    return data.getvalue()


def _examples(predicted: Tensor, y: Tensor) -> list[int]:
    """The first test digit of some classes, predicted rightly."""
    classes = (0, 2, 3, 4, 9)[:EXPLAINED]
    right = (predicted == y).numpy()
    return [int(np.flatnonzero(right & (y.numpy() == c))[0]) for c in classes]
