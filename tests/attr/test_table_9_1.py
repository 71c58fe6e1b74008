"""Chapter 9's table 9.1 and propositions 1 to 3: methods as modified gradients.

With g in place of the derivative f' of each nonlinearity in the chain rule:

    Gradient x Input       x dS/dx
    LRP-0                  x d^gS/dx           g = f(z) / z
    DeepLIFT (Rescale)     (x - x') d^gS/dx    g = (f(z) - f(z')) / (z - z')
    Integrated Gradients   (x - x') times the mean of dS/dx on the way from x' to x
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from xaifast import attr, composites, rules

FUNCTIONS = {
    "ReLU": nn.ReLU(),
    "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(),
    "softplus": nn.Softplus(),
    "ELU": nn.ELU(),
}
ODD = ("ReLU", "tanh", "ELU")  # f(0) = 0


def network(f: nn.Module, bias: bool, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [(nn.Linear(a, b, bias=bias), f) for a, b in pairwise((5, 7, 6))]
    return nn.Sequential(*[m for pair in layers for m in pair], nn.Linear(6, 3, bias)).double()


def modified_gradient(model: nn.Sequential, x: torch.Tensor, target: int, ratio) -> torch.Tensor:
    """d^gS/dx by the chain rule, layer by layer; ratio(f, z, layer) gives g."""
    z, ratios = x, []
    for i, layer in enumerate(model):
        if not isinstance(layer, nn.Linear):
            ratios.append(ratio(layer, z, i))
        z = layer(z)
    m = torch.zeros_like(z)
    m[:, target] = 1
    for layer in reversed(model):
        m = m @ layer.weight if isinstance(layer, nn.Linear) else m * ratios.pop()
    return m.detach()


def points(n: int = 4, seed: int = 3) -> torch.Tensor:
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed)).double()


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def lrp_0(model, x, target):
    return attr.LRP(model, composites.Uniform(rules.Zero())).attribute(x, target)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_proposition_1_lrp_is_a_modified_gradient_times_input(name, bias):
    model, x = network(FUNCTIONS[name], bias), points()
    g = modified_gradient(model, x, 1, lambda f, z, i: f(z) / z)
    close(lrp_0(model, x, 1), x * g)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_proposition_2_deeplift_is_a_modified_gradient_times_the_difference(name, bias):
    model, x, x0 = network(FUNCTIONS[name], bias), points(), points(seed=4)

    def ratio(f, z, i):
        z0 = model[:i](x0)
        return (f(z) - f(z0)) / (z - z0)

    g = modified_gradient(model, x, 1, ratio)
    close(attr.DeepLift(model).attribute(x, x0, 1), (x - x0) * g)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), bias=st.booleans())
def test_proposition_3_lrp_is_gradient_times_input_with_relu_alone(seed, bias):
    model, x = network(nn.ReLU(), bias, seed), points(seed=seed + 1)
    close(lrp_0(model, x, 2), attr.InputXGradient(model).attribute(x, 2))


@pytest.mark.parametrize("name", ODD)
def test_proposition_3_lrp_is_deeplift_without_biases_and_through_the_origin(name):
    model, x = network(FUNCTIONS[name], bias=False), points()
    close(lrp_0(model, x, 2), attr.DeepLift(model).attribute(x, target=2))


def test_the_conditions_of_proposition_3_are_needed():
    x = points()
    apart = [
        lambda: (network(nn.Tanh(), False), attr.InputXGradient),  # not only ReLUs
        lambda: (network(nn.ReLU(), True), attr.DeepLift),  # biases
        lambda: (network(nn.Softplus(), False), attr.DeepLift),  # f(0) > 0
    ]
    for make in apart:
        model, other = make()
        assert (lrp_0(model, x, 2) - other(model).attribute(x, target=2)).abs().max() > 1e-3


def test_integrated_gradients_average_the_gradient():
    model, x, x0 = network(nn.Softplus(), True), points(), points(seed=4)
    mean = torch.zeros_like(x)
    for alpha in (torch.arange(2000) + 0.5) / 2000:
        at = (x0 + alpha * (x - x0)).requires_grad_()
        mean += torch.autograd.grad(model(at)[:, 1].sum(), at)[0] / 2000
    ig = attr.IntegratedGradients(model).attribute(x, x0, 1, n_steps=100)
    torch.testing.assert_close(ig, (x - x0) * mean, rtol=0, atol=1e-6)


LINEAR = {
    "gradient x input": lambda f: attr.InputXGradient(f).attribute,
    "LRP-0": lambda f: attr.LRP(f, composites.Uniform(rules.Zero())).attribute,
    "DeepLIFT": lambda f: attr.DeepLift(f).attribute,
    "integrated gradients": lambda f: attr.IntegratedGradients(f).attribute,
    "occlusion": lambda f: lambda x, target: attr.Occlusion(f).attribute(x, (1,), target=target),
    "ablation": lambda f: attr.FeatureAblation(f).attribute,
    "Shapley values": lambda f: attr.ShapleyValues(f).attribute,
    "kernel SHAP": lambda f: attr.KernelShap(f).attribute,
}


@pytest.mark.parametrize("method", LINEAR)
def test_on_a_linear_model_all_agree_and_have_sensitivity_n(method):
    """Any n features removed change the output by the sum of what they were given."""
    torch.manual_seed(0)
    model, x = nn.Linear(5, 3).double(), points()
    R = LINEAR[method](model)(x, target=1)
    close(R, x * model.weight[1].detach())
    generator = torch.Generator().manual_seed(1)
    for n in range(1, 6):
        removed = torch.randperm(5, generator=generator)[:n]
        without = x.index_fill(1, removed, 0.0)
        close(R[:, removed].sum(1), (model(x) - model(without))[:, 1].detach())
