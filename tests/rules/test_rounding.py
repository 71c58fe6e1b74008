"""Maps in float32 are as near to float64 as a peer's, on a network built like ResNet-50."""

import copy

import pytest
import torch
from sweep import SWEEP
from torch import nn

from benchmarks import models, peers
from xaifast import composites as c
from xaifast import rules as r
from xaifast.attr import LRP
from xaifast.graph.layers import choice

IMAGES = 9 if SWEEP else 5
SIZE, LOW, HIGH = 64, -4.0, 4.0
OURS = {
    "Epsilon": lambda: c.Uniform(r.Epsilon(1e-6)),
    "EpsilonPlus": c.EpsilonPlus,
    "EpsilonGammaBox": lambda: c.EpsilonGammaBox(LOW, HIGH),
}


@pytest.fixture(scope="module")
def network():
    """One block of each width, batch statistics as the weights make them; in float64; images."""
    generator = torch.Generator().manual_seed(3)
    model = models.randomize(models.ResNet(models.Bottleneck, (1, 1, 1, 1), 4))
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        model.train()(torch.randn(16, 3, SIZE, SIZE, generator=generator))
    for norm in norms:
        norm.eps = 0.0  # the peer's merge of batch norm counts it twice
    x = torch.randn(IMAGES, 3, SIZE, SIZE, generator=generator).clamp(-3.9, 3.9)
    return model.eval(), copy.deepcopy(model).double(), x


def errors(found, exact):
    """|R - R64| / |R64| of each image."""
    difference = (found.double() - exact).flatten(1).norm(dim=1)
    return difference / exact.flatten(1).norm(dim=1)


def one_by_one(explain, x, target):
    """Maps of single images."""
    return torch.cat([explain(u, t) for u, t in zip(x.split(1), target.split(1), strict=True)])


# Forward passes as the model's own, and on weights that are packed for oneDNN and Winograd.
@pytest.mark.sweep(every=True)
@pytest.mark.parametrize("name", OURS)
def test_float32_maps_are_no_further_from_float64_than_a_peers(network, name, monkeypatch):
    model, double, x = network
    with torch.no_grad():
        target = double(x.double()).argmax(1)
    exact = LRP(double, OURS[name]()).attribute(x.double(), target)

    def zennit(u, t):
        composite = peers.zennit_composite(name, LOW, HIGH, u)
        return peers.zennit_attribution(copy.deepcopy(model), composite, u, t)

    peer = errors(one_by_one(zennit, x, target), exact).median()
    for products in (choice.PACKED_PRODUCTS, 0):
        monkeypatch.setattr(choice, "PACKED_PRODUCTS", products)
        ours = one_by_one(LRP(model, OURS[name]()).attribute, x, target)
        # A flipped ReLU decides about one image: hence the median of several.
        assert errors(ours, exact).median() <= 2 * peer
