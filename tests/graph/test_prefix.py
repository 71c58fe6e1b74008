"""The linear prefix: where it ends, and that it computes what the model computes."""

import nets
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from xaifast import composites
from xaifast.engine.builder import Builder
from xaifast.graph.prefix import linear_prefix


def built(model, *x):
    run = Builder(model, composites.Gradient()).build(x, len(x)).propagation
    run.weights.refresh()
    return run


def gradient(model, x, targets):
    x = x.clone().requires_grad_()
    output = model(x)
    return torch.stack(
        [torch.autograd.grad(output[:, t].sum(), x, retain_graph=True)[0] for t in targets]
    )


@pytest.mark.sweep
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("kind", nets.SHAPES, ids=lambda k: k.__name__)
def test_the_prefix_and_the_rest_are_the_model(kind, whole, device):
    model, x = nets.shared(kind, device), nets.inputs(kind, 3).to(device)
    run = built(model, x)
    prefix = linear_prefix(run, whole)
    with torch.no_grad():
        values = prefix.enter((x,))
        through = [prefix.rectifier(s) is not None for s in prefix.stations]
        pairs = zip(prefix.stations, through, strict=True)
        points = [values[s].relu() if relu else values[s] for s, relu in pairs]
        behind = prefix.behind(points, {})
        output = behind[run.graph.output]
        seed = torch.zeros(2, *output.shape, dtype=output.dtype, device=device)
        seed[0, :, 1], seed[1, :, 2] = 1, 1
        found = prefix.back_to_stations(behind, {run.graph.output: seed})
        got = prefix.leave(values, found)[run.graph.inputs[0]]
    torch.testing.assert_close(output, model(x).detach(), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(got, gradient(model, x, (1, 2)), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", nets.SHAPES, ids=lambda k: k.__name__)
def test_values_of_the_stations_move_straight(kind):
    model, x = nets.shared(kind), nets.inputs(kind, 2)
    prefix = linear_prefix(built(model, x))
    with torch.no_grad():
        start, middle, end = (prefix.enter((u,)) for u in (x * 0 + 0.1, x * 0.3 + 0.07, x))
    for station in prefix.stations:
        straight = start[station] + 0.3 * (end[station] - start[station])
        torch.testing.assert_close(middle[station], straight, rtol=1e-11, atol=1e-13)


class Code(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f
        self.a, self.b = nn.Linear(6, 6).double(), nn.Linear(6, 6).double()

    def forward(self, x):
        return self.f(self, x)


def stations(f):
    x = torch.randn(3, 6, dtype=torch.float64)
    prefix = linear_prefix(built(Code(f), x))
    return [(s.op, prefix.rectifier(s) is not None) for s in prefix.stations]


def test_where_the_prefix_ends():
    assert stations(lambda m, x: m.b(m.a(x).relu())) == [("linear", True)]
    assert stations(lambda m, x: m.b(m.a(x).tanh())) == [("linear", False)]
    # Sums, constants, moves of values are affine; the whole model may be.
    assert stations(lambda m, x: F.pad(m.b(m.a(x) * 2 - 1) + x, (1, 1))) == [("pad", False)]
    # What a comparison reads is read, too, and then the ReLU is not all that reads it.
    assert stations(lambda m, x: m.a(x).relu() * (m.a(x) > 0)) != [("linear", True)]
    # Nothing is linear behind the first activation; the input itself is the station.
    assert stations(lambda m, x: m.a(x.sin())) == [("input", False)]
    # Two ends: the input is read on, beside the layer.
    assert stations(lambda m, x: m.a(x).relu() * x) == [("input", False), ("linear", True)]
    # Products of inputs are not linear, gates neither.
    assert stations(lambda m, x: m.a(x) * m.b(x)) == [("linear", False), ("linear", False)]


def test_a_size_is_no_use_of_the_value():
    def f(m, x):
        return m.a(x).view(x.shape[0], 2, 3).flatten(1).relu()

    assert [op for op, _ in stations(f)] == ["flatten"]  # the size reads no station of its own
