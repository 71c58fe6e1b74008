"""Rules at a first convolution by `relprop_few`: as in float64, and as without it."""

import copy

import pytest
import torch
from torch import nn

from xaifast import composites, ops, rules
from xaifast.attr import LRP
from xaifast.graph.layers import choice

RULES = {
    "Epsilon": rules.Epsilon(1e-2),
    "Epsilon relative": rules.Epsilon(0.25, relative=True),
    "no bias": rules.Epsilon(1e-2, bias=False),
    "ZPlus": rules.ZPlus(),
    "AlphaBeta": rules.AlphaBeta(2, 1),
    "Gamma": rules.Gamma(0.25, stabilizer=1e-2),
    "ZBox": rules.ZBox(-4.0, 4.0),
    "ZBox by pixel": rules.ZBox(torch.full((3, 19, 23), -4.0), torch.full((3, 1, 1), 4.0)),
    "WSquare": rules.WSquare(),
}
CONVS = {
    "VGG": {"kernel_size": 3, "padding": 1},
    "ResNet": {"kernel_size": 7, "stride": 2, "padding": 3, "bias": False},
    "rectangle": {"kernel_size": (2, 5), "stride": (1, 3), "padding": (0, 2)},
}


@pytest.fixture(params=CONVS)
def network(request):
    torch.manual_seed(1)
    first = nn.Conv2d(3, 40, **CONVS[request.param])
    rows, columns = first(torch.zeros(1, 3, 19, 23)).shape[2:]
    model = nn.Sequential(first, nn.ReLU(), nn.Flatten(), nn.Linear(40 * rows * columns, 4))
    return model, torch.randn(3, 3, 19, 23)


def explain(model, x, rule, target):
    entries = [(composites.kind("conv"), rule), (composites.kind("linear"), rules.Epsilon(1e-2))]
    return LRP(model, composites.Composite([*entries, *composites.base()])).attribute(x, target)


@pytest.mark.sweep
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("target", [1, [[0, 3]] * 3], ids=["one", "two"])
def test_as_in_float64_and_as_without(network, rule, target, monkeypatch):
    model, x = network
    for of in (lambda x: x, lambda x: x.contiguous(memory_format=torch.channels_last)):
        got = explain(model, of(x), rule, target)
        want = explain(copy.deepcopy(model).double(), x.double(), rule, target)
        with monkeypatch.context() as context:
            context.setattr(choice, "runs_few", lambda layer, u: False)
            without = explain(model, of(x), rule, target)
        scale = want.abs().max()
        assert (got - want).abs().max() <= 3e-5 * scale
        assert (got - without).abs().max() <= 3e-5 * scale


def runs(conv, x):
    """Whether the plan says that relevance goes back through a first layer in one pass."""
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten())
    lines = LRP(model, composites.Uniform(rules.ZPlus())).plan(x).splitlines()
    return "relprop_few" in next(line for line in lines if "conv" in line)


def test_where_it_runs():
    x = torch.randn(1, 3, 9, 9)
    pays = ops.few_pays(x)
    assert runs(nn.Conv2d(3, 24, 3), x) == pays
    assert not runs(nn.Conv2d(3, 23, 3), x)
    assert not runs(nn.Conv2d(3, 24, 3, dilation=2), x)
    assert not runs(nn.Conv2d(3, 24, 3, groups=3), x)
    assert not runs(nn.Conv2d(3, 24, (17, 1), padding=8), x)
    assert not runs(nn.Conv2d(9, 24, 3), torch.randn(1, 9, 9, 9))
    assert not runs(nn.ConvTranspose2d(3, 24, 3), x)
    assert not runs(nn.Conv1d(3, 24, 3), x[:, :, 0])


def test_a_product_in_bfloat16_goes_the_general_way():
    x, model = torch.randn(1, 3, 9, 9), nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Flatten())
    assert "relprop_few" not in LRP(model, precision="bfloat16").plan(x)


def test_a_recorded_run_goes_the_general_way(network):
    model, x = network
    lrp = LRP(model, composites.Uniform(rules.ZBox(-4.0, 4.0)))
    core = lrp.core(x, torch.tensor([1, 0, 2]))
    assert "relprop_few" not in str(getattr(core, "graph", core))
    want = lrp.attribute(x, target=[1, 0, 2])
    assert torch.allclose(core(x, torch.tensor([1, 0, 2])), want, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("targets", [1, 3])
def test_the_gradient_at_a_first_layer(network, targets):
    model, x = network
    target = torch.randint(4, (len(x), targets))
    got = LRP(model, composites.Gradient()).attribute(x, target.tolist(), start="one")
    inputs = x.double().requires_grad_()
    scores = copy.deepcopy(model).double()(inputs).gather(1, target)
    want = torch.stack(
        [torch.autograd.grad(y.sum(), inputs, retain_graph=True)[0] for y in scores.T]
    )
    assert got.shape == want.shape
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()
