"""Explanations by Winograd's convolution: as in float64, and not where its rounding would show."""

import copy

import pytest
import torch
from torch import nn

from xaifast import composites, ops, rules
from xaifast.attr import LRP

PRESETS = {
    "Epsilon": composites.Uniform(rules.Epsilon(1e-3)),
    "EpsilonPlusFlat": composites.EpsilonPlusFlat(),
    "EpsilonAlpha2Beta1": composites.EpsilonAlpha2Beta1(),
    "EpsilonGammaBox": composites.EpsilonGammaBox(-4.0, 4.0),
    "no bias": composites.Uniform(rules.ZPlus(bias=False)),
}


def worst(model, x, composite):
    """Largest difference to the map in float64, over the largest value."""
    want = LRP(copy.deepcopy(model).double(), composite).attribute(x.double(), target=1)
    got = LRP(model, composite).attribute(x, target=1)
    return float((got - want).abs().max() / want.abs().max())


@pytest.fixture
def network():
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(64, 96, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(96 * 99, 4),
    )  # fmt: skip
    return model, torch.randn(3, 3, 23, 19)


@pytest.mark.parametrize("name", PRESETS)
def test_as_in_float64(network, name):
    model, x = network
    assert worst(model, x, PRESETS[name]) <= 3e-5


@pytest.mark.parametrize("name", ["EpsilonPlusFlat", "EpsilonAlpha2Beta1"])
def test_what_sees_nothing_gets_nothing(network, name):
    model, x = network
    for layer in model:
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.bias)
    x[:, :, :, :11] = 0
    R = LRP(model, PRESETS[name]).attribute(x, target=1)
    assert (R[:, :, :, :6] == 0).all()
    assert worst(model, x, PRESETS[name]) <= 3e-5


def test_the_plan_names_it(network):
    model, x = network
    lines = [n for n in LRP(model, PRESETS["EpsilonPlusFlat"]).plan(x).splitlines() if "conv" in n]
    named = ["Winograd" in line for line in lines]
    pays = ops.packs_weights(x) and ops.winograd_pays()
    assert named == ([True, True, False] if pays else [False] * 3)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_denominator_far_below_the_products_around_it(sign):
    # Through the middle of the kernel alone comes what the part counts, and next to nothing there.
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 32, 3, padding=1)
    with torch.no_grad():
        conv.weight.abs_().mul_(-sign)
        conv.weight[:, :, 1, 1] *= -1
        conv.bias.fill_(20.0)
    model = nn.Sequential(nn.ReLU(), conv, nn.ReLU(), nn.Conv2d(32, 2, 1), nn.Flatten(1))
    x = torch.rand(1, 32, 12, 12) + 1
    x[:, :, 4:8:2, 4:8:2] = 1e-5
    rule = rules.ZPlus(bias=False) if sign > 0 else rules.AlphaBeta(2, 1)
    composite = composites.Uniform(rule)
    seed = torch.ones(1, 2 * 12 * 12)
    want = LRP(copy.deepcopy(model).double(), composite).attribute(x.double(), start=seed.double())
    got = LRP(model, composite).attribute(x, start=seed)
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()
