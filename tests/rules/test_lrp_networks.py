"""Rules on layers in a row, beside a batch norm, and below the log-odds of a class."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from oracle import linear, pooling, taps
from oracle.compare import (
    EPS,
    HAND_MADE,
    RULES,
    OneLayer,
    Oracle,
    array,
    assert_close,
    connections_of,
    dense,
    explain,
    per_sample,
    randomize,
    row,
    uniform,
    windows_of,
)
from oracle.log_odds import log_odds, min_take_most
from torch import Tensor, nn

from xaifast import composites, rules
from xaifast.attr import LRP

# ---- layers in a row -------------------------------------------------------------------------
# Below a ReLU a rule may be computed in a cheaper way, where the rule above lets it.


class Row:
    """lower layer, ReLU, perhaps a max pooling, upper layer; and what the oracle knows of them."""

    def __init__(self, kind: str) -> None:
        lower, pool, upper, in_shape = {
            "dense": (nn.Linear(5, 6), None, nn.Linear(6, 3), (5,)),
            "conv": (nn.Conv2d(2, 3, 2), None, nn.Conv2d(3, 2, 2, padding=1), (2, 3, 4)),
            "pool": (
                nn.Conv2d(2, 3, 2),
                nn.MaxPool2d(2, stride=1),
                nn.Conv2d(3, 2, 2, padding=1),
                (2, 4, 5),
            ),
        }[kind]
        layers = {"lower": lower, "relu": nn.ReLU(), "pool": pool or nn.Identity(), "upper": upper}
        self.model = randomize(nn.Sequential(OrderedDict(layers)).double(), seed=3)
        generator = torch.Generator().manual_seed(4)
        self.x = uniform(generator, 2, *in_shape)
        self.lower = connections_of(lower, in_shape)
        self.rectified = np.stack([self.lower.forward(a) for a in self.x.numpy()]).clip(min=0)
        assert (self.rectified == 0).any()
        assert (self.rectified > 0).any()
        self.windows = None if pool is None else windows_of(pool, self.lower.out_shape)
        self.a = self._pooled(pool)
        self.upper = connections_of(upper, tuple(self.a.shape[1:]))
        self.R = uniform(generator, 2, *self.upper.out_shape, low=-1.0, high=1.0)

    def _pooled(self, pool: nn.Module | None) -> Tensor:
        """What enters the upper layer."""
        a = torch.from_numpy(self.rectified)
        if pool is None:
            return a
        assert (pool(a) == 0).any()  # windows that are off, in which the first one wins
        return pool(a)

    def relevance(self, lower: Oracle, upper: Oracle) -> np.ndarray:
        R = per_sample(upper, self.upper, self.a, self.R)
        if self.windows is not None:
            pairs = zip(self.rectified, R, strict=True)
            R = np.stack([pooling.winner_take_all(self.windows, a, r) for a, r in pairs])
        return per_sample(lower, self.lower, self.x, torch.from_numpy(R))


in_a_row = cache(Row)

# Without those that differ in nothing that concerns another layer.
SOME_RULES = [
    "zero", "epsilon", "epsilon, no bias", "relative", "gamma", "gamma, no bias", "alpha2 beta1",
    "z+", "z-box", "w^2", "flat",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["dense", "conv", "pool"])
@pytest.mark.parametrize("upper", SOME_RULES)
@pytest.mark.parametrize("lower", SOME_RULES)
def test_two_layers(lower: str, upper: str, kind: str) -> None:
    case = in_a_row(kind)
    composite = composites.Composite(
        [
            (composites.name("lower"), RULES[lower][0]),
            (composites.name("upper"), RULES[upper][0]),
            *composites.base(),
        ]
    )
    want = case.relevance(RULES[lower][1], RULES[upper][1])
    assert_close(explain(case.model, composite, case.x, case.R), want)


@cache
def one_conv() -> tuple[OneLayer, nn.Module]:
    case = OneLayer(nn.Conv2d(3, 4, 3, padding=1), (3, 5, 4))
    return case, nn.Sequential(case.model, nn.ReLU())


@pytest.mark.parametrize("rule", RULES)
def test_relevance_of_rectified_outputs_that_are_off(rule: str) -> None:
    # The start may put relevance where the ReLU at the end is off; it is handed on all the same.
    case, model = one_conv()
    want = per_sample(RULES[rule][1], case.connections, case.a, case.R)
    assert_close(explain(model, RULES[rule][0], case.x, case.R), want)


@pytest.mark.parametrize("rule", ["epsilon", "gamma", "alpha2 beta1", "flat"])
def test_a_layer_used_twice(rule: str) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x).relu())

    model = randomize(Twice().double(), seed=5)
    generator = torch.Generator().manual_seed(6)
    x, R = uniform(generator, 2, 4), uniform(generator, 2, 4)
    ours, oracle = RULES[rule]
    layer = connections_of(model.layer, (4,))
    middle = np.stack([layer.forward(a) for a in x.numpy()]).clip(min=0)
    R_middle = per_sample(oracle, layer, torch.from_numpy(middle), R)
    want = per_sample(oracle, layer, x, torch.from_numpy(R_middle))
    assert_close(explain(model, ours, x, R), want)


# ---- batch norms are part of the layer beside them --------------------------------------------

BATCH_NORMS: dict[str, tuple[Callable[[], list[nn.Module]], tuple[int, ...]]] = {
    "behind a conv": (lambda: [nn.Conv2d(2, 3, 2, padding=1), nn.BatchNorm2d(3)], (2, 3, 4)),
    "behind a conv, no bias": (
        lambda: [nn.Conv1d(2, 3, 2, bias=False), nn.BatchNorm1d(3)],
        (2, 5),
    ),
    "behind a transposed conv": (
        lambda: [nn.ConvTranspose2d(2, 4, 2, stride=2, groups=2), nn.BatchNorm2d(4)],
        (2, 2, 3),
    ),
    "behind a dense layer": (lambda: [nn.Linear(5, 4), nn.BatchNorm1d(4)], (5,)),
    "in front of a conv": (lambda: [nn.BatchNorm2d(2), nn.Conv2d(2, 3, 2)], (2, 3, 4)),
    "in front of a padded conv": (
        lambda: [nn.BatchNorm3d(2), nn.Conv3d(2, 3, 2, padding=1)],
        (2, 2, 3, 2),
    ),
    "in front of a transposed conv": (
        lambda: [nn.BatchNorm1d(2), nn.ConvTranspose1d(2, 3, 3, stride=2, padding=1)],
        (2, 4),
    ),
    "in front of a dense layer": (lambda: [nn.BatchNorm1d(5), nn.Linear(5, 4, bias=False)], (5,)),
}


class Normalized:
    """A layer beside a batch norm, and the one layer that they make together."""

    def __init__(self, name: str) -> None:
        make, in_shape = BATCH_NORMS[name]
        generator = torch.Generator().manual_seed(15)
        self.model = randomize(nn.Sequential(*make()).double(), seed=16)
        norm = next(m for m in self.model if isinstance(m, nn.modules.batchnorm._BatchNorm))
        layer = next(m for m in self.model if m is not norm)
        with torch.no_grad():
            norm.running_mean.copy_(uniform(generator, norm.num_features))
            norm.running_var.copy_(uniform(generator, norm.num_features, low=0.5, high=2.0))
            norm.weight.copy_(uniform(generator, norm.num_features, low=0.5, high=2.0))
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            shift = norm.bias - norm.running_mean * scale
        fold = taps.with_affine_behind if norm is self.model[1] else taps.with_affine_in_front
        self.connections = fold(connections_of(layer, in_shape), array(scale), array(shift))
        self.x = uniform(generator, 2, *in_shape)
        self.R = uniform(generator, 2, *self.connections.out_shape)


normalized = cache(Normalized)


@pytest.mark.parametrize("name", BATCH_NORMS)
@pytest.mark.parametrize("rule", SOME_RULES)
def test_batch_norm(rule: str, name: str) -> None:
    case = normalized(name)
    want = per_sample(RULES[rule][1], case.connections, case.x, case.R)
    assert_close(explain(case.model, RULES[rule][0], case.x, case.R), want)


# ---- the log-odds of a class -----------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_log_odds(rule: str) -> None:
    case = in_a_row("dense")
    upper = case.model.upper
    ours, oracle = RULES[rule]
    lrp = LRP(case.model, composites.Uniform(ours))
    targets = [0, 2]
    got, delta = lrp.attribute(
        case.x, target=targets, start="log_odds", return_convergence_delta=True
    )
    want, starts = [], []
    for n, c in enumerate(targets):
        a = case.rectified[n]
        R, start, _ = log_odds(array(upper.weight), array(upper.bias), a, c, oracle)
        want.append(oracle(case.lower, case.x[n].numpy(), R))
        starts.append(start)
    assert_close(got, np.stack(want))
    assert_close(delta + got.sum(1), np.array(starts), tolerance=1e-10)


def test_log_odds_where_the_logits_are_no_dense_layer() -> None:
    # There is no layer of differences then: z_c and -z_c' share the relevance of their sum.
    case = OneLayer(nn.Linear(7, 5), (7,))
    model = nn.Sequential(case.model, nn.ReLU())
    lrp = LRP(model, composites.Uniform(rules.ZPlus(stabilizer=EPS)))
    got = lrp.attribute(case.x, target=1, start="log_odds")
    want = []
    for a in case.x.numpy():
        z = case.connections.forward(a).clip(min=0)
        R = np.zeros_like(z)
        for k, R_pair in zip([0, 2, 3, 4], min_take_most(z[1] - z[[0, 2, 3, 4]]), strict=True):
            first, second = pooling.sum_of_two(z[[1]], z[[k]], np.array([R_pair]), 1e-6, -1.0)
            R[1] += first[0]
            R[k] += second[0]
        want.append(linear.z_plus(case.connections, a, R, EPS))
    assert_close(got, np.stack(want))


def test_log_odds_of_two_classes_by_hand() -> None:
    # eta_0 = z_0 - z_1 = 4 - 6 = -2 = 2 (1 - 3) + 1 (2 + 1) + (0 - 1): the bias keeps -1
    lrp = LRP(HAND_MADE, composites.Uniform(rules.Zero()))
    assert_close(lrp.attribute(row(2.0, 1.0), target=0, start="log_odds"), row(-4.0, 3.0))


def test_log_odds_start_where_one_class_competes() -> None:
    # With one competitor far ahead of the rest, min takes all: the start is eta itself.
    W, b = np.array([[1.0, 2.0], [3.0, -1.0], [0.0, -50.0]]), np.zeros(3)
    a = np.array([2.0, 1.0])
    _, start, eta = log_odds(W, b, a, 0, lambda c, a, R: linear.epsilon(c, a, R, 0.0))
    assert start == pytest.approx(eta, rel=1e-9)
    lrp = LRP(dense(W.tolist(), b.tolist()), composites.Uniform(rules.Zero()))
    got = lrp.attribute(row(2.0, 1.0), target=0, start="log_odds")
    assert got.sum().item() == pytest.approx(eta, rel=1e-9)
