"""Pooling and sums of two, against hand-computed numbers and the oracle's loops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from oracle import linear, pooling, taps
from oracle.compare import (
    EPS,
    HAND_MADE,
    assert_close,
    connections_of,
    explain,
    per_sample,
    randomize,
    row,
    uniform,
    windows_of,
)
from torch import Tensor, nn

from xaifast import composites, rules
from xaifast.attr import LRP

# ---- pooling ---------------------------------------------------------------------------------

MAX_POOLS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "1-D": (nn.MaxPool1d(2), (2, 7)),
    "1-D, all options": (nn.MaxPool1d(3, 2, 1, 2, ceil_mode=True), (2, 8)),
    "2-D": (nn.MaxPool2d(2), (2, 4, 5)),
    "2-D, overlapping": (nn.MaxPool2d(3, stride=1), (2, 4, 5)),
    "2-D, padded": (nn.MaxPool2d(3, stride=2, padding=1), (2, 5, 4)),
    "2-D, all options": (
        nn.MaxPool2d((2, 3), (2, 1), (1, 1), (2, 1), ceil_mode=True),
        (2, 5, 4),
    ),
    "2-D, ceil": (nn.MaxPool2d(2, ceil_mode=True), (1, 3, 5)),
    # Here a last window would start in the padding behind the input, and PyTorch drops it.
    "2-D, ceil, dropped window": (nn.MaxPool2d(2, 3, padding=1, ceil_mode=True), (1, 5, 8)),
    "3-D": (nn.MaxPool3d((1, 2, 2)), (2, 3, 4, 5)),
    "3-D, all options": (
        nn.MaxPool3d((2, 3, 2), (1, 2, 2), (1, 1, 0), (1, 1, 2), ceil_mode=True),
        (2, 3, 4, 5),
    ),
}


def pooled(proportional: bool) -> composites.Composite:
    rule = rules.Pool(proportional=proportional, stabilizer=EPS)
    return composites.Composite(composites.base(pool=rule))


# Few distinct values make ties; a quarter of the windows' values are below zero or zero.
VALUES = {"signed": uniform, "ties": lambda g, *s: torch.randint(-1, 3, s, generator=g).double()}


@pytest.mark.parametrize("proportional", [False, True], ids=["winner", "proportional"])
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("pool", MAX_POOLS)
def test_max_pooling(pool: str, values: str, proportional: bool) -> None:
    module, in_shape = MAX_POOLS[pool]
    generator = torch.Generator().manual_seed(7)
    x = VALUES[values](generator, 2, *in_shape)
    windows = windows_of(module, in_shape)
    R = uniform(generator, *module(x).shape)
    assert len(windows) == R[0].numel()
    want = np.stack(
        [
            pooling.proportional(windows, a, r, EPS)
            if proportional
            else pooling.winner_take_all(windows, a, r)
            for a, r in zip(x.numpy(), R.numpy(), strict=True)
        ]
    )
    assert_close(explain(module, pooled(proportional), x, R), want)


def test_max_pooling_by_hand() -> None:
    pool = nn.MaxPool1d(3, stride=2)
    x = torch.tensor([[[1.0, 3.0, 3.0, 0.0, 1.0]]]).double()  # windows 1 3 3 and 3 0 1
    R = torch.tensor([[[7.0, 4.0]]]).double()
    # The first 3 wins the first window, the second 3 the second one.
    assert_close(explain(pool, pooled(False), x, R), [[[0.0, 7.0, 4.0, 0.0, 0.0]]])
    # 1/7 and 3/7 of 7, then 3/4, 0 and 1/4 of 4
    composite = composites.Composite(
        composites.base(pool=rules.Pool(proportional=True, stabilizer=0.0))
    )
    assert_close(explain(pool, composite, x, R), [[[1.0, 3.0, 6.0, 0.0, 1.0]]])


class Largest(nn.Module):
    """The largest value of each channel, in one of PyTorch's ways to say so."""

    def __init__(self, way: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(x)


# A module, and how many rows of its four a window has.
MAXIMA: dict[str, tuple[nn.Module, int]] = {
    "adaptive": (nn.AdaptiveMaxPool2d((2, 1)), 2),
    "adaptive, global": (nn.AdaptiveMaxPool2d(1), 4),
    "amax": (Largest(lambda x: x.amax((2, 3))), 4),
    "max": (Largest(lambda x: x.flatten(2).max(2).values), 4),
}


@pytest.mark.parametrize("maximum", MAXIMA)
@pytest.mark.parametrize("values", VALUES)
def test_maxima_have_one_winner(maximum: str, values: str) -> None:
    model, rows = MAXIMA[maximum]
    generator = torch.Generator().manual_seed(8)
    x = VALUES[values](generator, 2, 2, 4, 3)
    R = uniform(generator, *model(x).shape)
    windows = pooling.windows((2, 4, 3), (rows, 3), (rows, 3), (0, 0), (1, 1))
    pairs = zip(x.numpy(), R.numpy(), strict=True)
    want = np.stack([pooling.winner_take_all(windows, a, r) for a, r in pairs])
    assert_close(explain(model, pooled(False), x, R), want)


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def _average(
    *geometry: tuple[int, ...], **options: bool | int
) -> Callable[[tuple[int, ...]], taps.Connections]:
    return lambda shape: taps.average_pooling(shape, *geometry, **options)


AVERAGES: dict[str, tuple[nn.Module, tuple[int, ...], Callable]] = {
    "1-D": (nn.AvgPool1d(3, 2, 1), (2, 6), _average((3,), (2,), (1,))),
    "2-D": (nn.AvgPool2d(2), (2, 4, 5), _average((2, 2), (2, 2), (0, 0))),
    "2-D, padding not counted": (
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        (2, 4, 5),
        _average((3, 3), (2, 2), (1, 1), ceil_mode=True, count_include_pad=False),
    ),
    "2-D, ceil": (
        nn.AvgPool2d((2, 3), (2, 2), (1, 1), ceil_mode=True),
        (2, 4, 5),
        _average((2, 3), (2, 2), (1, 1), ceil_mode=True),
    ),
    "2-D, divisor": (
        nn.AvgPool2d(2, 1, divisor_override=3),
        (2, 3, 3),
        _average((2, 2), (1, 1), (0, 0), divisor_override=3),
    ),
    "3-D": (
        nn.AvgPool3d((1, 2, 3), (1, 2, 1)),
        (2, 2, 4, 4),
        _average((1, 2, 3), (1, 2, 1), (0, 0, 0)),
    ),
    "adaptive 1-D": (
        nn.AdaptiveAvgPool1d(3),
        (2, 7),
        lambda shape: taps.adaptive_average_pooling(shape, (3,)),
    ),
    "adaptive 2-D": (
        nn.AdaptiveAvgPool2d((3, 2)),
        (2, 4, 5),
        lambda shape: taps.adaptive_average_pooling(shape, (3, 2)),
    ),
    "mean": (
        nn.Sequential(Mean(), nn.Unflatten(1, (2, 1, 1))),
        (2, 3, 4),
        lambda shape: taps.adaptive_average_pooling(shape, (1, 1)),
    ),
}


@pytest.mark.parametrize("average", AVERAGES)
def test_average_pooling_shares_in_proportion(average: str) -> None:
    model, in_shape, connections = AVERAGES[average]
    generator = torch.Generator().manual_seed(9)
    x = uniform(generator, 2, *in_shape)
    R = uniform(generator, *model(x).shape)
    want = per_sample(lambda c, a, r: linear.epsilon(c, a, r, EPS), connections(in_shape), x, R)
    assert_close(explain(model, composites.Composite(composites.base(EPS)), x, R), want)


# ---- sums of two -----------------------------------------------------------------------------


class Residual(nn.Module):
    """How two branches are combined is the case."""

    def __init__(self, combine: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.combine = combine

    def forward(self, x: Tensor) -> Tensor:
        return self.combine(x, self.layer(x))


SUMS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float]] = {
    "x + f(x)": (lambda x, y: x + y, 1.0),
    "x - f(x)": (lambda x, y: x - y, -1.0),
    "x + 3 f(x)": (lambda x, y: torch.add(x, y, alpha=3), 3.0),
    "x - 2 f(x)": (lambda x, y: torch.sub(x, y, alpha=2), -2.0),
    "in place": (lambda x, y: y.add_(x), 1.0),
}


@pytest.mark.parametrize("how", SUMS)
def test_residual_sum(how: str) -> None:
    combine, beta = SUMS[how]
    model = randomize(Residual(combine).double(), seed=10)
    generator = torch.Generator().manual_seed(11)
    x, R = uniform(generator, 2, 4), uniform(generator, 2, 4)
    layer = connections_of(model.layer, (4,))
    want = []
    for a, r in zip(x.numpy(), R.numpy(), strict=True):
        past, through = pooling.sum_of_two(a, layer.forward(a), r, EPS, beta)
        want.append(past + linear.z_plus(layer, a, through, EPS))
    assert_close(explain(model, rules.ZPlus(stabilizer=EPS), x, R), np.stack(want))


def test_residual_sum_by_hand() -> None:
    model = Residual(lambda x, y: x + y)
    model.layer = HAND_MADE
    # x = [2 1], f(x) = [4 6], sum [6 7]. R = [6 7] gives each summand its value.
    # Past the layer: [2 1]. Through it: R = [4 6], 4 (2/4) + 6 (6/6) = 8, 4 (2/4) + 6 (-1/6) = 1.
    got = explain(model, rules.Zero(), row(2.0, 1.0), row(6.0, 7.0))
    assert_close(got, row(10.0, 2.0))


def test_two_inputs_share_a_broadcast_sum() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    generator = torch.Generator().manual_seed(12)
    x, y, R = (uniform(generator, *shape) for shape in ((2, 3, 4), (2, 1, 4), (2, 3, 4)))
    lrp = LRP(Sum(), composites.Composite(composites.base(EPS)))
    got_x, got_y = lrp.attribute((x, y), start=R)
    shares = [
        pooling.sum_of_two(a, np.broadcast_to(b, a.shape), r, EPS)
        for a, b, r in zip(x.numpy(), y.numpy(), R.numpy(), strict=True)
    ]
    assert_close(got_x, np.stack([s for s, _ in shares]))
    assert_close(got_y, np.stack([s.sum(0, keepdims=True) for _, s in shares]))


def test_the_larger_of_two_takes_all_by_hand() -> None:
    class Larger(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.maximum(x, y)

    x, y = torch.tensor([[[2.0, 1.0], [3.0, 0.0]]]), torch.tensor([[[1.0, 1.0]]])
    R = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    got_x, got_y = LRP(Larger(), composites.EpsilonPlus()).attribute((x, y), start=R)
    # y = 1 wins over 0 alone; the first of equals wins
    assert_close(got_x, torch.tensor([[[1.0, 2.0], [3.0, 0.0]]]))
    assert_close(got_y, torch.tensor([[[0.0, 4.0]]]))
