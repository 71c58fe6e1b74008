"""DeepLIFT's rules: by hand, complete on networks, against an oracle that goes neuron by neuron."""

import nets
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from xaifast import composites
from xaifast.attr import DeepLift, IntegratedGradients
from xaifast.errors import ModelError


class Code(nn.Module):
    def __init__(self, f, **parts):
        super().__init__()
        self.f = f
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.f(self, x)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


# ---- by hand -----------------------------------------------------------------------------------


def test_rescale_by_hand():
    # z = 2 x - 1, y = relu(z); x = 3, x' = 0: z = 5, z' = -1, m = (5 - 0) / (5 + 1), R = 3 * 2 m
    model = Code(lambda m, x: F.relu(2 * x - 1))
    got, delta = DeepLift(model).attribute(double([3.0]), return_convergence_delta=True)
    assert got.item() == pytest.approx(3 * 2 * 5 / 6)
    assert delta.item() == pytest.approx(0.0)


def test_a_sum_of_functions_of_one_value():  # book, section 9.3.1
    model = Code(lambda m, x: x[:, 0] + x[:, 1].sqrt())
    got = DeepLift(model).attribute(double([4.0, 4.0]))
    assert got.tolist() == [pytest.approx([4.0, 2.0])]


def test_products_take_the_derivative_at_the_input_and_are_not_complete():  # book, section 9.3.2
    model = Code(lambda m, x: F.relu(x[:, 0] - 1) * F.relu(x[:, 1]))
    x = double([3.0, 2.0])
    # d relu(x1 - 1) = 2 over 3, times relu(x2) = 2, times 3; d relu(x2) = 1, times 2, times 2
    got, delta = DeepLift(model).attribute(x, return_convergence_delta=True)
    assert got.tolist() == [pytest.approx([4.0, 4.0])]
    assert delta.tolist() == pytest.approx([4.0])
    ig = IntegratedGradients(model)
    _, gap = ig.attribute(x, n_steps="auto", tolerance=1e-4, return_convergence_delta=True)
    assert abs(gap.item()) < 4e-4


def test_reveal_cancel_shares_a_minimum():  # Shrikumar et al. 2017, section 3.5.3
    a = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        a.weight.copy_(double(1.0, -1.0).view(1, 2))
    model = Code(lambda m, x: x[:, 0] - m.a(x).relu()[:, 0], a=a)
    x = double([3.0, 2.0], [1.0, 4.0])
    assert DeepLift(model).attribute(x).tolist() == [[0.0, 2.0], [1.0, 0.0]]
    cancel = DeepLift(model, rule="reveal_cancel").attribute(x)
    torch.testing.assert_close(cancel, double([1.0, 1.0], [0.5, 0.5]))


def test_max_pooling_by_hand():
    # a = (1, 5), a' = (4, 0): y = 5, y' = 4; the winner in a gains max(5, 4) - 4 = 1, over 5 - 0.
    model = nn.Sequential(nn.MaxPool1d(2), nn.Flatten())
    x, baseline = double([[1.0, 5.0]]), double([[4.0, 0.0]])
    assert DeepLift(model).attribute(x, baseline).tolist() == [[[0.0, pytest.approx(1.0)]]]
    # a = (1, 2), a' = (4, 0): y = 2, y' = 4; what is lost, 2 - 4, was won by the first, over 1 - 4
    x = double([[1.0, 2.0]])
    assert DeepLift(model).attribute(x, baseline).tolist() == [[[pytest.approx(-2.0), 0.0]]]


def test_softmax_by_hand():
    # p = (0.8, 0.2), p' = (0.5, 0.5): s = dp / dlog p; a shift of all z changes nothing.
    z, z0 = double([0.8, 0.2]).log(), double([0.5, 0.5]).log()
    s = (double(0.8, 0.2) - 0.5) / (double(0.8, 0.2).log() - double(0.5, 0.5).log())
    want = s[0] * (double(1.0, 0.0) - s[0] / s.sum())
    want[1] = s[1] * (0 - s[0] / s.sum())
    for shift in (0.0, 7.0):
        explainer = DeepLift(nn.Softmax(1), multiply_by_inputs=False)
        got = explainer.attribute(z + shift, z0, target=0)
        torch.testing.assert_close(got[0], want)


# ---- complete ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["rescale", "reveal_cancel"])
@pytest.mark.parametrize("kind", [k for k in nets.SHAPES if k is not nets.Depthwise])
def test_networks_without_products_are_complete(kind, rule, device):
    model, x = nets.shared(kind, device), nets.inputs(kind, 3).to(device)
    baseline = torch.randn_like(x[:1])
    explainer = DeepLift(model, rule=rule)
    got, delta = explainer.attribute(
        x, baseline, target=[[0, 4]] * 3, return_convergence_delta=True
    )
    output, start = model(x).detach(), model(baseline).detach()
    total = got.flatten(2).sum(2)
    torch.testing.assert_close(total, (output - start)[:, [0, 4]].T, rtol=1e-9, atol=1e-12)
    assert float(delta.abs().max()) < 1e-12


FUNCTIONS = {
    "gelu": F.gelu, "silu": F.silu, "elu": F.elu, "tanh": torch.tanh, "sigmoid": torch.sigmoid,
    "softplus": F.softplus, "relu6": F.relu6, "exp": lambda x: (x / 4).exp(),
    "square": lambda x: x * x, "power": lambda x: x**3, "root": lambda x: x.abs().sqrt(),
    "softmax": lambda x: x.softmax(1), "log_softmax": lambda x: x.log_softmax(1),
    "maximum": lambda x: torch.maximum(x, x.flip(1)),
    "minimum": lambda x: torch.min(x, x.roll(1, 1)),
    "clipped": lambda x: torch.maximum(x, torch.tensor(0.2, dtype=x.dtype)),
    "amax": lambda x: x.view(-1, 2, 3).amax(2), "pool": lambda x: F.adaptive_max_pool1d(x, 2),
}  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), name=st.sampled_from(sorted(FUNCTIONS)))
def test_every_function_is_complete(seed, name):
    torch.manual_seed(seed)
    f, a = FUNCTIONS[name], nn.Linear(4, 6).double()
    model = Code(lambda m, x: f(m.a(x)).sum(1), a=a)
    x, baseline = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    x[0, :2] = baseline[0, :2]  # some differences are zero
    got, delta = DeepLift(model).attribute(x, baseline, return_convergence_delta=True)
    assert torch.isfinite(got).all()
    assert float(delta.abs().max()) < 1e-9 * (1 + float(model(x).detach().abs().max()))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_at_the_baseline_the_multiplier_is_the_derivative(name):
    f = FUNCTIONS[name]
    model = Code(lambda m, x: f(m.a(x)).sum(1), a=nn.Linear(4, 6).double())
    x = torch.randn(3, 4).double()
    got = DeepLift(model, multiply_by_inputs=False).attribute(x, x.clone())
    leaf = x.clone().requires_grad_()
    want = torch.autograd.grad(model(leaf).sum(), leaf)[0]
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


def test_without_biases_at_zero_it_is_lrp_epsilon():  # book, proposition 3
    from xaifast import rules
    from xaifast.attr import LRP

    layers = [nn.Linear(5, 7, bias=False), nn.ReLU(), nn.Linear(7, 3, bias=False), nn.Tanh()]
    model = nn.Sequential(*layers).double()
    x = torch.randn(6, 5).double()
    lrp = LRP(model, composites.Uniform(rules.Zero())).attribute(x, target=1)
    torch.testing.assert_close(DeepLift(model).attribute(x, target=1), lrp, rtol=1e-9, atol=1e-12)


# ---- neuron by neuron --------------------------------------------------------------------------


def neuron_by_neuron(w1, b1, w2, f, x, x0, reveal):
    """Contributions through x -> f(w1 x + b1) -> w2, by loops over the paper's definitions."""
    contributions = [0.0] * len(x)
    for k in range(len(w1)):
        parts = [float(w1[k, i] * (x[i] - x0[i])) for i in range(len(x))]
        z0 = float(w1[k] @ x0 + b1[k])
        up, down = sum(p for p in parts if p > 0), sum(p for p in parts if p < 0)
        y0, y = f(z0), f(z0 + up + down)
        if reveal:
            y_up = ((f(z0 + up) - y0) + (y - f(z0 + down))) / 2
            y_down = ((f(z0 + down) - y0) + (y - f(z0 + up))) / 2
            m_up, m_down = (y_up / up if up else 0.0), (y_down / down if down else 0.0)
        else:
            m_up = m_down = (y - y0) / (up + down)
        for i, p in enumerate(parts):
            contributions[i] += float(w2[k]) * p * (m_up if p > 0 else m_down)
    return contributions


@pytest.mark.parametrize("reveal", [False, True])
@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid"])
def test_against_the_definitions(name, reveal):
    f = getattr(torch, name)
    a, b = nn.Linear(5, 9).double(), nn.Linear(9, 1, bias=False).double()
    model = Code(lambda m, x: m.b(f(m.a(x))), a=a, b=b)
    x, x0 = torch.randn(4, 5).double(), torch.randn(1, 5).double()
    rule = "reveal_cancel" if reveal else "rescale"
    got = DeepLift(model, rule=rule).attribute(x, x0, target=0)
    weights = (a.weight.detach(), a.bias.detach(), b.weight.detach()[0])
    for row, u in zip(got, x, strict=True):
        want = neuron_by_neuron(*weights, lambda z: float(f(double(z))), u, x0[0], reveal)
        assert row.tolist() == pytest.approx(want, rel=1e-9, abs=1e-12)


# ---- refused -----------------------------------------------------------------------------------


def test_an_operation_without_a_rule_is_refused_and_can_be_given_one():
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)).double()
    x = torch.randn(3, 4).double()
    with pytest.raises(ModelError, match=r"DeepLift\(rescale\) has no exact rule for 1 operation"):
        DeepLift(model).attribute(x, target=0)
    from xaifast import rules

    composite = composites.DeepLift().with_rules((composites.kind("layer_norm"), rules.Gradient()))
    assert DeepLift(model, composite=composite).attribute(x, target=0).shape == x.shape


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="DeepLift: rule must be one of rescale, reveal_"):
        composites.DeepLift("rescal")
