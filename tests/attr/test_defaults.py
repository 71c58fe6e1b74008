"""Nothing depends on the default dtype and device, and a failed call leaves nothing behind."""

import contextlib

import pytest
import torch
from methods import EXPLAINERS, accepts, net, options_of
from torch import nn

import xaifast
from xaifast import attr, catalogue, rules


@contextlib.contextmanager
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


DEFAULTS = {"float64": double, "meta": lambda: torch.device("meta")}


@pytest.mark.sweep(every=True)
@pytest.mark.parametrize("name", EXPLAINERS)
def test_every_method_gives_the_same_bits(name):
    torch.manual_seed(1)
    model, x = net(name), torch.randn(3, 1, 6, 6)
    options = options_of(name)
    if accepts(name, "seed"):
        options["seed"] = 3
    want = xaifast.explain(model, x, name, target=[1, 0, 4], **options)
    for default, context in DEFAULTS.items():
        with context():
            got = xaifast.explain(model, x, name, target=[1, 0, 4], **options)
        assert got.dtype == want.dtype, default
        assert torch.equal(got, want), default
    assert torch.equal(xaifast.explain(model, x, name, target=[1, 0, 4], **options), want)


@pytest.mark.parametrize("default", DEFAULTS)
def test_an_explainer_that_is_built_under_other_defaults(default):
    model, x = net(), torch.randn(2, 1, 6, 6)
    want = attr.LRP(model).attribute(x, 1)
    model = net()  # captured anew
    with DEFAULTS[default]():
        lrp = attr.LRP(model)
        got = lrp.attribute(x, 1)
    assert torch.equal(got, want)
    assert torch.equal(lrp.attribute(x, 1), want)


@pytest.mark.parametrize("default", DEFAULTS)
@pytest.mark.parametrize("low", [0.1, -3])
def test_rules_made_under_other_defaults(default, low):
    with DEFAULTS[default]():
        box = rules.ZBox(low, 4.0)
    assert box._numbers == rules.ZBox(low, 4.0)._numbers


class Shifted(nn.Module):
    """Makes a constant without naming its device."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        return self.linear(x * torch.full((3,), 2.0))


@pytest.mark.parametrize("method", ["LRPStar", "DeepLift", "IntegratedGradients", "Saliency"])
def test_a_call_that_failed_leaves_nothing_behind(method):
    torch.manual_seed(0)
    model, x = Shifted(), torch.randn(2, 3)
    explain = catalogue.bind(catalogue.find(method), model, {})
    with torch.device("meta"), pytest.raises(Exception, match=r".+"):
        explain(x, 0)
    same = Shifted()
    same.load_state_dict(model.state_dict())
    assert torch.equal(explain(x, 0), xaifast.explain(same, x, method, 0))


def test_constants_follow_the_default_dtype_as_the_model_does():
    model, x = Shifted().double(), torch.randn(2, 3, dtype=torch.float64)
    lrp = attr.LRP(model)
    first = lrp.attribute(x, 0)
    with double():
        second = lrp.attribute(x, 0)
    torch.testing.assert_close(first, second)
