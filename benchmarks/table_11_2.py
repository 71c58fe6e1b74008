"""Table 11.2 of the book, trained and explained anew: python -m benchmarks.table_11_2.

An LSTM with one memory cell and a linear output without bias (17 parameters) adds two of up to 14
signed numbers, or subtracts two positive ones. A step is [n_t, 0], but [0, n_a] and [0, n_b] at the
two numbers that count. What a method hands to these steps should be linear in the numbers, and
nothing should be left for the others.

All models of a task are trained side by side, as one batch of models that see the same minibatches.
Each round starts --models new ones; rounds go on until as many have met the book's criterion (MSE
below 1e-4 on longer sequences) or the minutes are over. Only those that meet it are explained.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

from xaifast import attr, composites

from .report import command
from .timing import machine, table

Parameters = list[Tensor]  # w_x [M, 4, 2], w_h [M, 4, 1], b [M, 4, 1], w_y [M, 1]
Explain = Callable[[nn.Module, Tensor], Tensor]
CRITERION = 1e-4  # of the book, for the MSE in validation
LENGTHS = {"train": range(4, 11), "validation": range(11, 13), "test": range(13, 15)}


@dataclass
class Sequences:
    """Sequences of one length: x [N, T, 2], y [N], and the positions a < b, [N, 2]."""

    x: Tensor
    y: Tensor
    marked: Tensor

    def numbers(self) -> Tensor:
        """n_a and n_b, [N, 2]."""
        return self.x[..., 1].gather(1, self.marked)


def sequences(task: str, count: int, length: int, g: torch.Generator) -> Sequences:
    """Signed numbers to add, or positive ones to subtract."""
    n = 0.5 + 0.5 * torch.rand(count, length, generator=g)
    if task == "addition":
        n = n * (2 * torch.randint(2, n.shape, generator=g) - 1)
    # the first two places of a random order, sorted: uniform among all a < b
    marked = torch.rand(count, length, generator=g).argsort(1)[:, :2].sort(1).values
    at = torch.zeros_like(n).scatter_(1, marked, 1.0)
    x = torch.stack([n * (1 - at), n * at], -1)
    n_a, n_b = n.gather(1, marked).unbind(1)
    return Sequences(x, n_a + n_b if task == "addition" else n_a - n_b, marked)


def split(task: str, name: str, count: int, g: torch.Generator) -> list[Sequences]:
    """`count` sequences in equal parts of each length."""
    parts = torch.arange(count).chunk(len(LENGTHS[name]))
    return [sequences(task, len(p), T, g) for p, T in zip(parts, LENGTHS[name], strict=True)]


# ---- training: a batch of models -------------------------------------------------------------


def start(models: int, g: torch.Generator) -> Parameters:
    """Uniform in [-1, 1], as PyTorch starts a layer of one unit."""
    shapes = [(models, 4, 2), (models, 4, 1), (models, 4, 1), (models, 1)]
    return [2 * torch.rand(s, generator=g) - 1 for s in shapes]


def predict(parameters: Parameters, x: Tensor) -> Tensor:
    """Outputs [M, N] of all models at x [N, T, 2]; the gates in PyTorch's order i, f, g, o."""
    w_x, w_h, b, w_y = parameters
    a = torch.einsum("mkf,ntf->tkmn", w_x, x) + b.transpose(0, 1)
    w_h = w_h.transpose(0, 1)
    h = c = torch.zeros(())
    for z in a:
        z = z + w_h * h
        i, f, o = torch.sigmoid(z[0]), torch.sigmoid(z[1]), torch.sigmoid(z[3])
        c = f * c + i * torch.tanh(z[2])
        h = o * torch.tanh(c)
    return w_y * h


def errors(parameters: Parameters, data: list[Sequences]) -> Tensor:
    """MSE of each model over all sequences, [M]."""
    with torch.no_grad():
        squares = [(predict(parameters, s.x) - s.y).square().sum(1) for s in data]
    return torch.stack(squares).sum(0) / sum(len(s.y) for s in data)


def train(parameters: Parameters, data: list[Sequences], steps: int, rate: float, g) -> None:
    """Adam, in place, its rate decayed by half a cosine; gradients of each model cut to norm 1."""
    models = len(parameters[0])
    adam = torch.optim.Adam([p.requires_grad_() for p in parameters], rate, betas=(0.9, 0.99))
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps, rate / 100)
    for _ in range(steps):
        part = data[int(torch.randint(len(data), (), generator=g))]
        rows = torch.randint(len(part.y), (256,), generator=g)
        adam.zero_grad()
        (predict(parameters, part.x[rows]) - part.y[rows]).square().mean(1).sum().backward()
        grads = [p.grad for p in parameters if p.grad is not None]
        norm = torch.stack([d.reshape(models, -1).square().sum(1) for d in grads]).sum(0).sqrt()
        cut = 1 / norm.clamp(min=1)
        for grad in grads:
            grad.mul_(cut.reshape(-1, *[1] * (grad.dim() - 1)))
        adam.step()
        decay.step()


def trained(options, task: str, g: torch.Generator) -> tuple[Parameters, int]:
    """Models that meet the criterion, at most --models, and how many were started for them."""
    data, validation = split(task, "train", 10000, g), split(task, "validation", 2500, g)
    begin, last, found = time.monotonic(), 0.0, []
    while sum(len(f[0]) for f in found) < options.models:
        now = time.monotonic() - begin
        if found and now + last > 60 * options.minutes:
            break
        parameters = start(options.models, g)
        train(parameters, data, options.steps, options.rate, g)
        good = errors(parameters, validation) < options.criterion
        found.append([p.detach()[good] for p in parameters])
        last = time.monotonic() - begin - now
        print(f"{task}: {int(good.sum())} of {options.models}, {last:.0f} s", flush=True)
    if not any(len(f[0]) for f in found):
        raise SystemExit(f"{task}: no model met the criterion; give it more --steps or --minutes")
    together = [torch.cat(parts)[: options.models] for parts in zip(*found, strict=True)]
    return together, options.models * len(found)


# ---- explaining: one model -------------------------------------------------------------------


class Calculator(nn.Module):
    """A trained model as the explainers get it, in float64; bias_hh stays zero."""

    def __init__(self, w_x: Tensor, w_h: Tensor, b: Tensor, w_y: Tensor) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 1, batch_first=True)
        self.head = nn.Linear(1, 1, bias=False)
        values = (w_x, w_h, b[:, 0], torch.zeros(4), w_y[None])
        with torch.no_grad():
            for p, value in zip(self.parameters(), values, strict=True):
                p.copy_(value)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])[:, 0]


def lrp(gate: str) -> Explain:
    composite = composites.Recurrent(gate, epsilon=0.0)
    return lambda model, x: attr.LRP(model, composite=composite).attribute(x)


METHODS: dict[str, Explain] = {
    "Gradient x Input": lambda model, x: attr.InputXGradient(model).attribute(x),
    "Occlusion": lambda model, x: attr.Occlusion(model).attribute(x, (1, 2), baselines=0),
    "LRP-prop": lrp("prop"),
    "LRP-abs": lrp("abs"),
    "LRP-half": lrp("half"),
    "LRP-all": lrp("all"),
    "CD": lambda model, x: attr.ContextualDecomposition(model).attribute(x).unsqueeze(2),
}

# rho(n_a, R_a), rho(n_b, R_b), share of a and b, in %: mean (standard deviation) over 50 models
BOOK = {
    "addition": {
        "Gradient x Input": ("99.960 (0.017)", "99.954 (0.019)", "99.68 (0.53)"),
        "Occlusion": ("99.990 (0.004)", "99.990 (0.004)", "99.82 (0.27)"),
        "LRP-prop": ("0.785 (3.619)", "10.111 (12.362)", "18.14 (4.23)"),
        "LRP-abs": ("7.002 (6.224)", "12.410 (17.440)", "18.01 (4.48)"),
        "LRP-half": ("29.035 (9.478)", "51.460 (19.939)", "54.09 (17.53)"),
        "LRP-all": ("99.995 (0.002)", "99.995 (0.002)", "99.95 (0.05)"),
        "CD": ("99.997 (0.002)", "99.997 (0.002)", "99.92 (0.06)"),
    },
    "subtraction": {
        "Gradient x Input": ("97.9 (1.6)", "-98.8 (0.6)", "98.3 (0.6)"),
        "Occlusion": ("99.0 (2.0)", "-69.0 (19.1)", "25.4 (16.8)"),
        "LRP-prop": ("3.1 (4.8)", "-8.4 (18.9)", "15.0 (2.4)"),
        "LRP-abs": ("1.2 (7.6)", "-23.0 (11.1)", "15.1 (1.6)"),
        "LRP-half": ("7.7 (15.3)", "-28.9 (6.4)", "42.3 (8.3)"),
        "LRP-all": ("98.5 (3.5)", "-99.3 (1.3)", "99.3 (0.6)"),
        "CD": ("-25.9 (39.1)", "-50.0 (29.2)", "49.4 (26.1)"),
    },
}
HEAD = ["ours / book, %", "rho(n_a, R_a)", "rho(n_b, R_b)", "share of a and b"]


def statistics(numbers: Tensor, R: Tensor, size: Tensor) -> Tensor:
    """rho(n_a, R_a), rho(n_b, R_b) and the mean share of a and b in sum_t |R_t|, all in %.

    numbers and R hold a and b, [N, 2]; size is the sum over all steps, [N].
    """
    rho = [torch.corrcoef(torch.stack([numbers[:, k], R[:, k]]))[0, 1] for k in (0, 1)]
    return 100 * torch.stack([*rho, (R.abs().sum(1) / size).mean()])


def explain(model: nn.Module, method: Explain, test: list[Sequences]) -> Tensor:
    """The statistics of a method on a model, [3]."""
    found = []
    for s in test:
        R = method(model, s.x.double()).sum(2)  # R_t, of both inputs of a step
        found.append((s.numbers().double(), R.gather(1, s.marked), R.abs().sum(1)))
    return statistics(*map(torch.cat, zip(*found, strict=True)))


def rows(task: str, models: list[nn.Module], test: list[Sequences]) -> Iterator[list[str]]:
    """The lines of a task."""
    for name, book in BOOK[task].items():
        found = torch.stack([explain(m, METHODS[name], test) for m in models])
        std, mean = torch.std_mean(found, 0, correction=min(1, len(models) - 1))
        ours = [f"{m:.3f} ({s:.3f})" for m, s in zip(mean, std, strict=True)]
        yield [name, *(f"{o} / {b}" for o, b in zip(ours, book, strict=True))]


def at_least(least: float, kind: type = int) -> Callable[[str], float]:
    """A number of at least `least`, for argparse."""

    def number(text: str) -> float:
        if not (value := kind(text)) >= least:  # NaN is refused too
            raise argparse.ArgumentTypeError(f"must be at least {least}; got {text}")
        return value

    number.__name__ = kind.__name__  # which argparse names where the text is no number
    return number


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The options; a correlation needs three sequences to say something."""
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--tasks", nargs="+", choices=tuple(BOOK), default=list(BOOK))
    p.add_argument("--models", type=at_least(1), default=64)
    p.add_argument("--minutes", type=at_least(0, float), default=6, help="of training, for a task")
    p.add_argument("--steps", type=at_least(1), default=20000, help="minibatches of a round")
    p.add_argument("--rate", type=at_least(0, float), default=0.04, help="of Adam, at the start")
    p.add_argument("--criterion", type=at_least(0, float), default=CRITERION, help="for the MSE")
    p.add_argument("--test", type=at_least(3), default=2500, help="sequences to explain")
    return p.parse_args(given)


def main(given: list[str] | None = None) -> None:
    options = arguments(given)
    print(", ".join(f"{key} {value}" for key, value in machine("cpu").items()))
    print("\n    " + command() + "\n", flush=True)
    for task in options.tasks:
        g = torch.Generator().manual_seed(0)
        parameters, started = trained(options, task, g)
        test = split(task, "test", options.test, g)
        worst = float(errors(parameters, test).max())
        models = [Calculator(*one) for one in zip(*parameters, strict=True)]
        print(f"\n{task}: {len(models)} models of {started}, test MSE at most {worst:.1e}\n")
        print(table(HEAD, list(rows(task, models, test))), flush=True)


if __name__ == "__main__":
    main()
