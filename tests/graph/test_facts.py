"""Facts: signs, positions, kinds and places, each on a network where it is known."""

import nets
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from xaifast.graph.model import model_graph


def nodes(model, x):
    return {n.name: n for n in model_graph(nets.prepared(model), (x,), 1).nodes}


class Chain(nn.Module):
    """One node for each function, one after the other."""

    def __init__(self, *functions):
        super().__init__()
        self.functions = functions

    def forward(self, x):
        for f in self.functions:
            x = f(x)
        return x


RANGES = [
    (F.relu, 0, float("inf")),
    (torch.sigmoid, 0, 1),
    (F.relu6, 0, 6),
    (lambda x: F.hardtanh(x, -2, 3), -2, 3),
    (lambda x: x.clamp(min=0.5), 0.5, float("inf")),
    (F.gelu, -float("inf"), float("inf")),
    (lambda x: F.relu6(x + 3) / 6, 0, 1),
    (lambda x: 1 - torch.sigmoid(x), 0, 1),
    (lambda x: F.relu(x) * -2, -float("inf"), 0),
    (lambda x: F.max_pool2d(F.relu(x), 2), 0, float("inf")),
    (lambda x: F.pad(F.relu(x), (1, 1), value=-1.0), -1, float("inf")),
    (lambda x: torch.cat([F.relu(x), torch.sigmoid(x)], 1), 0, float("inf")),
    (lambda x: torch.cat([F.relu(x), x], 1), -float("inf"), float("inf")),
    (lambda x: F.relu(x) + F.relu6(x), 0, float("inf")),
    (lambda x: F.relu(x) - F.relu(x), -float("inf"), float("inf")),
    (lambda x: F.relu(x).mean((2, 3)), 0, float("inf")),
    (lambda x: F.avg_pool2d(x, 2), -float("inf"), float("inf")),
    (lambda x: F.softplus(x) * torch.sigmoid(x), 0, float("inf")),
]


@pytest.mark.parametrize("case", range(len(RANGES)))
def test_the_range_of_the_output(case):
    function, low, high = RANGES[case]
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    output = model_graph(Chain(function), (x,), 1).output
    assert (output.low, output.high) == (low, high)
    assert output.nonnegative == (low >= 0)


def test_first_last_and_depth():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.c(F.relu(self.b(F.relu(self.a(x / 2)))) + x)

    found = {
        n.module: n for n in nodes(Two(), torch.randn(2, 4).double()).values() if n.kind == "linear"
    }
    assert [found[k].first for k in "abc"] == [True, False, False]
    assert [found[k].last for k in "abc"] == [False, False, True]
    assert [found[k].depth for k in "abc"] == [0, 1 / 3, 2 / 3]


@pytest.mark.parametrize("kind", nets.SHAPES)
def test_every_operation_of_the_networks_has_a_kind(kind):
    from xaifast.composites import KINDS

    graph = model_graph(nets.shared(kind), (nets.inputs(kind),), 1)
    assert {n.kind for n in graph.nodes if n.inputs} <= set(KINDS)


def test_a_node_knows_its_module_type_and_line():
    graph = model_graph(nets.shared(nets.ResNet), (nets.inputs(nets.ResNet),), 1)
    add = next(n for n in graph.nodes if n.kind == "add")
    assert (add.module, add.module_type) == ("blocks.0", nets.Residual)
    assert "nets.py" in add.source
    assert add.source.endswith("y += x")
    assert repr(add) == f"{add.name} (add in blocks.0)"


def test_the_outputs_of_modules_one_for_each_call():
    graph = model_graph(nets.shared(nets.Reused), (nets.inputs(nets.Reused),), 1)
    assert len(graph.outputs_of["conv"]) == len(graph.outputs_of["relu"]) == 3
    assert graph.outputs_of[""] == [graph.output]
