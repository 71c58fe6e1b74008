"""Where the oracle meets PyTorch and xaifast: its only file that knows of them.

The pairs of rules, PyTorch layers as connections, and what the tests of rules share.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from xaifast import composites, rules
from xaifast.attr import LRP

from . import linear, pooling, taps

# So large that a stabilizer in the wrong place, or of the wrong sign, cannot hide.
EPS = 0.03
LOW, HIGH = -1.0, 1.5
TOLERANCE = 1e-12  # of the largest relevance; everything here is float64

Oracle = linear.Rule


# Our rule, and the book's formula with the same parameters.
RULES: dict[str, tuple[rules.Rule, Oracle]] = {
    "zero": (rules.Zero(), lambda c, a, R: linear.epsilon(c, a, R, 0.0)),
    "zero, no bias": (
        rules.Zero(bias=False),
        lambda c, a, R: linear.epsilon(c, a, R, 0.0, bias=False),
    ),
    "epsilon": (rules.Epsilon(EPS), lambda c, a, R: linear.epsilon(c, a, R, EPS)),
    "epsilon, no bias": (
        rules.Epsilon(EPS, bias=False),
        lambda c, a, R: linear.epsilon(c, a, R, EPS, bias=False),
    ),
    "relative": (
        rules.Epsilon(0.25, relative=True),
        lambda c, a, R: linear.epsilon_relative(c, a, R, 0.25),
    ),
    "relative, no bias": (
        rules.Epsilon(0.25, relative=True, bias=False),
        lambda c, a, R: linear.epsilon_relative(c, a, R, 0.25, bias=False),
    ),
    "gamma": (rules.Gamma(0.5, stabilizer=EPS), lambda c, a, R: linear.gamma(c, a, R, 0.5, EPS)),
    "gamma, no bias": (
        rules.Gamma(0.5, bias=False, stabilizer=EPS),
        lambda c, a, R: linear.gamma(c, a, R, 0.5, EPS, bias=False),
    ),
    "alpha2 beta1": (
        rules.AlphaBeta(2, 1, stabilizer=EPS),
        lambda c, a, R: linear.alpha_beta(c, a, R, 2.0, 1.0, EPS),
    ),
    "alpha2 beta1, no bias": (
        rules.AlphaBeta(2, 1, bias=False, stabilizer=EPS),
        lambda c, a, R: linear.alpha_beta(c, a, R, 2.0, 1.0, EPS, bias=False),
    ),
    "z+": (rules.ZPlus(stabilizer=EPS), lambda c, a, R: linear.z_plus(c, a, R, EPS)),
    "z+, no bias": (
        rules.ZPlus(bias=False, stabilizer=EPS),
        lambda c, a, R: linear.z_plus(c, a, R, EPS, bias=False),
    ),
    "z-box": (
        rules.ZBox(LOW, HIGH, stabilizer=EPS),
        lambda c, a, R: linear.z_box(c, a, R, np.array(LOW), np.array(HIGH), EPS),
    ),
    "w^2": (rules.WSquare(stabilizer=EPS), lambda c, a, R: linear.w_square(c, a, R, EPS)),
    "w^2, bias": (
        rules.WSquare(bias=True, stabilizer=EPS),
        lambda c, a, R: linear.w_square(c, a, R, EPS, bias=True),
    ),
    "flat": (rules.Flat(stabilizer=EPS), lambda c, a, R: linear.flat(c, a, R, EPS)),
}


def explain(
    model: nn.Module, how: rules.Rule | composites.Composite, x: Tensor, R: Tensor
) -> Tensor:
    """Relevance of x for the relevance R of the model's output."""
    composite = composites.Uniform(how) if isinstance(how, rules.Rule) else how
    return LRP(model, composite).attribute(x, start=R)


def assert_close(got: Tensor, want: np.ndarray | Tensor, tolerance: float = TOLERANCE) -> None:
    want = np.asarray(want)
    assert tuple(got.shape) == want.shape, f"{tuple(got.shape)} instead of {want.shape}"
    scale = float(np.abs(want).max())
    difference = float(np.abs(got.numpy() - want).max())
    assert np.isfinite(scale)
    assert difference <= tolerance * scale, f"off by {difference}, where the largest is {scale}"


def per_sample(rule: Oracle, connections: taps.Connections, a: Tensor, R: Tensor) -> np.ndarray:
    """The oracle's relevance, one sample after the other."""
    return np.stack([rule(connections, x, y) for x, y in zip(a.numpy(), R.numpy(), strict=True)])


def uniform(
    generator: torch.Generator, *shape: int, low: float = LOW, high: float = HIGH
) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float64) * (high - low) + low


def randomize(module: nn.Module, seed: int) -> nn.Module:
    """Weights and biases of both signs; some weights are exactly zero, yet connections."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(uniform(generator, *p.shape, low=-1.0, high=1.0))
            if name.endswith("weight"):
                p[torch.rand(p.shape, generator=generator) < 0.15] = 0.0
    return module.eval()


def array(t: Tensor | None) -> np.ndarray | None:
    return None if t is None else t.detach().numpy()


class Einsum(nn.Module):
    """x times a constant tensor, by letters such as "ti,tio->to" (for one sample)."""

    def __init__(self, letters: str, *shape: int) -> None:
        super().__init__()
        self.letters, self.weight = letters, nn.Parameter(torch.empty(shape))

    def forward(self, x: Tensor) -> Tensor:
        first, rest = self.letters.split(",")
        second, out = rest.split("->")
        return torch.einsum(f"n{first},{second}->n{out}", x, self.weight)


class FromTheLeft(Einsum):
    """W @ x."""

    def __init__(self, outs: int, ins: int) -> None:
        super().__init__("jt,kj->kt", outs, ins)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight @ x


def connections_of(layer: nn.Module, in_shape: tuple[int, ...]) -> taps.Connections:
    """The oracle's list of connections for a PyTorch layer, for one sample of this shape."""
    if isinstance(layer, nn.AvgPool1d):
        return taps.average(in_shape, layer.kernel_size[0])
    if isinstance(layer, Einsum):
        return taps.einsum(in_shape, layer.letters, array(layer.weight))
    w, b = array(layer.weight), array(layer.bias)
    if isinstance(layer, nn.BatchNorm1d):
        scale = w / np.sqrt(array(layer.running_var) + layer.eps)
        return taps.scale_and_shift(in_shape, scale, b - array(layer.running_mean) * scale)
    if isinstance(layer, nn.Linear):
        return taps.dense(w, b, in_shape[:-1])
    if layer.transposed:
        return taps.transposed_convolution(
            in_shape, w, b, layer.stride, layer.padding, layer.output_padding, layer.dilation,
            layer.groups,
        )  # fmt: skip
    if layer.padding == "same":  # PyTorch puts the odd one behind
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        padding = [(t // 2, t - t // 2) for t in totals]
    else:
        padding = [(p, p) for p in layer.padding]
    return taps.convolution(
        in_shape, w, b, layer.stride, padding, layer.dilation, layer.groups, layer.padding_mode
    )


class OneLayer:
    """A layer with signed or non-negative inputs, two samples, and the oracle's view of it."""

    def __init__(
        self, layer: nn.Module, in_shape: tuple[int, ...], nonnegative: bool = False
    ) -> None:
        randomize(layer.double(), seed=len(in_shape))
        generator = torch.Generator().manual_seed(1)
        self.model = nn.Sequential(nn.ReLU(), layer) if nonnegative else layer
        self.connections = connections_of(layer, in_shape)
        self.x = uniform(generator, 2, *in_shape)
        self.a = self.x.relu() if nonnegative else self.x
        self.R = uniform(generator, 2, *self.connections.out_shape, low=-1.0, high=1.0)


def windows_of(pool: nn.Module, in_shape: tuple[int, ...]) -> pooling.Windows:
    dims = len(in_shape) - 1

    def each(n: int | tuple[int, ...]) -> tuple[int, ...]:
        return (n,) * dims if isinstance(n, int) else n

    return pooling.windows(
        in_shape, each(pool.kernel_size), each(pool.stride), each(pool.padding),
        each(pool.dilation), pool.ceil_mode,
    )  # fmt: skip


# ---- for numbers computed by hand ------------------------------------------------------------


def dense(W: list, b: list | None = None) -> nn.Linear:
    layer = nn.Linear(len(W[0]), len(W), bias=b is not None).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(W))
        if b is not None:
            layer.bias.copy_(torch.tensor(b))
    return layer


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


# The layer of the hand-computed numbers. For a = [2 1], contributions to k=1 are 2, 2 (bias 0), to
# k=2 they are 6, -1 (bias 1); z = [4 6].
HAND_MADE = dense([[1.0, 2.0], [3.0, -1.0]], [0.0, 1.0])
