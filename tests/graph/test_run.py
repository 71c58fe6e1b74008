"""The run: what is kept, what is dropped, how messages are summed."""

import copy

import nets
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from sweep import SWEEP
from torch import nn

from xaifast import composites as c
from xaifast import ops
from xaifast import rules as r
from xaifast.attr import LRP
from xaifast.graph.layers import choice


def propagation(model, x, composite):
    explainer = LRP(model, composite)
    return explainer._builder.build((x,), 1).propagation


def test_only_what_a_rule_reads_is_kept():
    model, x = nets.shared(nets.ResNet), nets.inputs(nets.ResNet)
    run = propagation(model, x, c.EpsilonPlus())
    with torch.no_grad():
        values = run.run_model((x,))
    tensors = {n.name for n in values if n.floating}
    assert tensors == {n.name for n in run.kept if n.floating} | {n.name for n in run.graph.inputs}
    # z+ never looks at z: the pre-activation of a convolution is not kept, the ReLU runs with it.
    assert {n.op for n in run.fused} == {"conv2d"}


def test_messages_of_a_branch_are_summed():
    class Branch(nn.Module):
        def forward(self, x):
            y = x * 2
            return torch.cat([y, y * 3, y], 1)

    x = torch.randn(2, 3, dtype=torch.float64)
    R = LRP(Branch(), c.Uniform(r.Zero())).attribute(x, target=[[0, 1, 3, 6]])
    assert torch.allclose(R[0] + 0, F.one_hot(torch.tensor([0, 0]), 3) * x * 2)
    seed = torch.ones(2, 9, dtype=torch.float64)
    assert torch.equal(
        LRP(Branch(), c.Uniform(r.Zero())).attribute(x, start=seed), torch.full_like(x, 3.0)
    )


def test_a_rule_of_ones_own_in_a_few_lines():
    class Absolute(r.LinearRule):
        def parts(self, layer, a, z):
            yield r.Part(a.abs(), layer.derive("abs", torch.abs))

    class Halve(r.Rule):
        needs_inputs = needs_output = False

        def propagate(self, node, inputs, output, R, balance=None):
            return (R / 2,)

    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    composite = c.Composite([(c.kind("linear"), Absolute()), (c.kind("activation"), Halve())])
    R = LRP(model, composite).attribute(x, target=1, start="one")
    assert torch.allclose(R.sum(1), torch.full((5,), 0.5, dtype=torch.float64), rtol=1e-4)
    assert (R >= 0).all()


@pytest.mark.sweep
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("behind", [nn.ReLU(), nn.Tanh()])
@pytest.mark.parametrize(("channels", "kernel"), [(3, 7), (200, 3), (600, 3)])
def test_large_convolutions_are_summed_in_short_pieces(channels, kernel, behind, bias):
    model = nn.Sequential(nn.Conv2d(channels, 96, kernel, padding=1, bias=bias), behind)
    size = 60 if channels == 3 or SWEEP else 30  # as many products as have the weights packed
    x = torch.randn(2, channels, size, size).relu()
    run = propagation(model, x, c.EpsilonPlus())
    layer = next(n.layer for n in run.graph.nodes if n.kind == "conv")
    assert choice.runs_packed(layer, x) == ops.packs_weights(x)
    with torch.no_grad():
        got = run.run_model((x,))[run.graph.output]
        want = copy.deepcopy(model).double()(x.double())
    assert (got - want).square().mean().sqrt() <= 8e-7 * want.std()


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("behind", [nn.ReLU(), nn.Tanh()])
def test_the_output_alone_is_computed_in_one_piece(behind, groups):
    # the two forward passes, in turns: neither takes weights that are cut as the other's
    model = nn.Sequential(
        nn.Conv2d(200, 96, 3, padding=1, groups=groups), behind, nn.Conv2d(96, 5, 1)
    )
    x = torch.randn(2, 200, 30, 30).relu()
    run = propagation(model, x, c.EpsilonPlus())
    with torch.no_grad():
        want = copy.deepcopy(model).double()(x.double())
        for _ in range(2):
            for got in (run.run_output((x,)), run.run_model((x,))[run.graph.output]):
                assert (got - want).square().mean().sqrt() <= 4e-6 * want.std()
