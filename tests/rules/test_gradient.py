"""Gradients as rules, against autograd; guided backprop and deconvnet, against hand and oracle."""

import nets
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from xaifast import composites, rules
from xaifast.attr import LRP
from xaifast.rules.gradient import is_rectifier


def signal(model, x, composite, target=0):
    return LRP(model, composite).attribute(x, target=target, start="one")


def autograd(model, x, target=0):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x)[:, target].sum(), x)[0]


class Code(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f
        self.a, self.b = nn.Linear(6, 8).double(), nn.Linear(8, 4).double()
        self.norm, self.embed = nn.LayerNorm(8).double(), nn.Linear(2, 8).double()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True).double()

    def forward(self, x):
        return self.f(self, x)


def attention(m, x):
    y = m.embed(x.view(-1, 3, 2))
    return m.b((y + m.attention(y, y, y, need_weights=False)[0]).mean(1))


MODELS = {
    "softmax": lambda m, x: m.b(m.a(x).relu()).softmax(1),
    "layer norm": lambda m, x: m.b(m.norm(m.a(x))),
    "attention": attention,
    "product": lambda m, x: m.b(m.a(x) * m.a(x).sigmoid()),
    "square": lambda m, x: m.b(m.a(x) * m.a(x)),
    "quotient": lambda m, x: m.b(m.a(x) / (1 + m.a(x).square())),
    "broadcast sum": lambda m, x: m.b(m.a(x) + x[:, :1]),
    "difference": lambda m, x: m.b(torch.sub(m.a(x), m.a(x.tanh()), alpha=0.5)),
    "largest": lambda m, x: m.b(torch.maximum(m.a(x), x[:, 2:3])),
    "ties": lambda m, x: m.b(torch.stack([m.a(x), m.a(x)]).amax(0)),
    "norm": lambda m, x: m.b(m.a(x) / m.a(x).norm(dim=1, keepdim=True)),
    "cumulative": lambda m, x: m.b(m.a(x).cumsum(1)),
    "rounding": lambda m, x: m.b(m.a(x).round()) + x[:, :4],
}


@pytest.mark.parametrize("name", MODELS)
def test_the_derivative_of_any_operation(name):
    model, x = Code(MODELS[name]), torch.randn(5, 6, dtype=torch.float64)
    got = signal(model, x, composites.Gradient(), target=2)
    torch.testing.assert_close(got, autograd(model, x, 2), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", nets.SHAPES, ids=lambda k: k.__name__)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_derivative_of_networks(kind, dtype, device):
    model, x = nets.prepared(kind()).to(device, dtype), nets.inputs(kind, 3).to(device, dtype)
    got = LRP(model, composites.Gradient()).attribute(x, target=[[1, 4]] * 3, start="one")
    tolerance = 1e-11 if dtype == torch.float64 else 2e-4
    for t, g in zip((1, 4), got, strict=True):
        want = autograd(model, x, t)
        torch.testing.assert_close(g, want, rtol=0, atol=tolerance * float(want.abs().max()))


def test_large_convolutions_run_packed_and_the_same():
    model = nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 8, 3), nn.ReLU())
    model.append(nn.Flatten())
    x = torch.randn(2, 16, 33, 31)
    want = autograd(model.double(), x.double(), 7)
    got = signal(model.float(), x, composites.Gradient(), target=7)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-5 * float(want.abs().max()))


# ---- bent at the rectifiers --------------------------------------------------------------------


def test_guided_backprop_and_deconvnet_by_hand():
    # z = (x1 - x2, -x1 + 2 x2), y = relu(z), output = y1 - 3 y2; x = (1, 2): z = (-1, 3)
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 2.0]]))
        model[2].weight.copy_(torch.tensor([[1.0, -3.0]]))
    x = torch.tensor([[1.0, 2.0]])
    # gradient: dy = (1, -3), dz = (0, -3), dx = (3, -6)
    assert signal(model, x, composites.Gradient()).tolist() == [[3.0, -6.0]]
    # guided: dz = [z > 0] max(0, dy) = (0, 0);  deconvnet: dz = max(0, dy) = (1, 0), dx = (1, -1)
    assert signal(model, x, composites.GuidedBackprop()).tolist() == [[0.0, 0.0]]
    assert signal(model, x, composites.DeconvNet()).tolist() == [[1.0, -1.0]]


class Bent(torch.autograd.Function):
    """The oracle: an activation with the backward pass of guided backprop or deconvnet."""

    @staticmethod
    def forward(ctx, x, f, guided):
        ctx.f, ctx.guided = f, guided
        ctx.save_for_backward(x)
        return f(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        g = g.clamp(min=0)
        if ctx.guided:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                (slope,) = torch.autograd.grad(ctx.f(x).sum(), x)
            g = g * slope
        return g, None, None


RECTIFIERS = {
    "relu": torch.relu,
    "clamp": lambda x: x.clamp(min=0),
    "relu6": F.relu6,
    "leaky": lambda x: F.leaky_relu(x, 0.1),
    "elu": F.elu,
    "selu": F.selu,
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "softplus": F.softplus,
}


@pytest.mark.parametrize("guided", [True, False], ids=["guided", "deconvnet"])
@pytest.mark.parametrize("name", RECTIFIERS)
def test_rectifiers_in_every_spelling(name, guided, device):
    f = RECTIFIERS[name]

    class Net(nn.Module):
        def __init__(self, act):
            super().__init__()
            self.act, self.a, self.b = act, nn.Linear(5, 7), nn.Linear(7, 7)

        def forward(self, x):
            y = self.act(self.a(x))
            return self.b(self.act(self.b(y)) + y)  # a residual sum, and reused layers

    torch.manual_seed(1)
    ours = Net(f).double().to(device)
    torch.manual_seed(1)
    oracle = Net(lambda x: Bent.apply(x, f, guided)).double().to(device)
    x = torch.randn(4, 5, dtype=torch.float64, device=device)
    composite = composites.GuidedBackprop() if guided else composites.DeconvNet()
    got = signal(ours, x, composite, target=3)
    torch.testing.assert_close(got, autograd(oracle, x, 3), rtol=1e-11, atol=1e-13)
    assert not torch.allclose(got, autograd(ours, x, 3))


def test_what_is_no_rectifier_is_differentiated():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Sigmoid()).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    for composite in (composites.GuidedBackprop(), composites.DeconvNet()):
        torch.testing.assert_close(signal(model, x, composite), autograd(model, x))


def test_which_nodes_are_rectifiers():
    class Net(nn.Module):
        def forward(self, x):
            y = x.clamp(min=0) + x.clamp(-1, 1) + x.clamp(min=0.5) + F.hardtanh(x, 0.0, 6.0)
            return y + x.tanh() + x.relu()

    explainer = LRP(Net(), composites.Gradient())
    graph = explainer._builder.build((torch.ones(2, 3),), 1).graph
    found = [n.args[1] if n.op != "relu" else "relu" for n in graph.nodes if is_rectifier(n)]
    assert found == [0, 0.0, "relu"]


def test_rules_say_where_they_fit():
    class Net(nn.Module):
        def forward(self, x):
            return x * x.sum(1, keepdim=True)

    wrong = composites.Composite([(lambda n: True, rules.LinearGradient())])
    with pytest.raises(ValueError, match="LinearGradient needs constant weights"):
        signal(Net(), torch.ones(2, 3), wrong)
    wrong = composites.Composite([(lambda n: True, rules.SumGradient())])
    with pytest.raises(ValueError, match="SumGradient needs two operands of the shape"):
        signal(Net(), torch.ones(2, 3), wrong)
