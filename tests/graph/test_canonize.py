"""Canonizing keeps the function, and folds batch norm wherever that is exact."""

import nets
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from xaifast.graph.model import model_graph
from xaifast.graph.proof.verify import _evaluate

BN = nn.BatchNorm2d


def graph_of(model, x):
    """The canonical graph, checked to compute the model."""
    model = nets.prepared(model)
    graph = model_graph(model, (x,), 1)
    assert torch.allclose(_evaluate(graph, model, (x,)), model(x), rtol=1e-12, atol=1e-12)
    return graph


def ops_of(graph):
    return [n.op for n in graph.nodes if n.carries and n.kind != "input"]


def image(channels=4):
    return torch.randn(2, channels, 9, 7, dtype=torch.float64)


# ruff: noqa: E501 (a table reads better with long rows)
FOLDED = {
    "behind conv": (nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), BN(6, eps=0.1)), ["conv2d"]),
    "behind conv, no affine": (nn.Sequential(nn.Conv2d(4, 6, 3), BN(6, affine=False)), ["conv2d"]),
    "behind transposed": (nn.Sequential(nn.ConvTranspose2d(4, 6, 3, 2, groups=2), BN(6)), ["conv_transpose2d"]),
    "before conv": (nn.Sequential(BN(4), nn.Conv2d(4, 6, 3, groups=2)), ["conv2d"]),
    "before padded conv": (nn.Sequential(BN(4), nn.Conv2d(4, 6, 3, 2, 1, bias=False)), ["with_bias_map"]),
    "before transposed": (nn.Sequential(BN(4), nn.ConvTranspose2d(4, 6, 3, groups=2)), ["with_bias_map"]),
    "across a relu": (nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), BN(6), nn.ReLU()), ["conv2d", "relu", "affine", "relu"]),
    "relu, then conv": (nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), BN(6), nn.Conv2d(6, 2, 1)), ["conv2d", "relu", "conv2d"]),
    "between two convs": (nn.Sequential(nn.Conv2d(4, 6, 3), BN(6), nn.Conv2d(6, 2, 3, padding=1)), ["conv2d", "conv2d"]),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDED)
def test_batch_norm_folds_in_all_positions(case):
    model, expected = FOLDED[case]
    assert ops_of(graph_of(model, image())) == expected


def test_batch_norm_folds_around_dense_layers():
    x = torch.randn(5, 6, dtype=torch.float64)
    behind = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, eps=0.3), nn.ReLU())
    before = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 4, bias=False))
    assert ops_of(graph_of(behind, x)) == ["linear", "relu"]
    assert ops_of(graph_of(before, x)) == ["linear"]
    # Over [N, L, C] the norm's channels are not the layer's features: nothing to fold.
    sequence = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(5))
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    assert ops_of(graph_of(sequence, x)) == ["linear", "affine"]


def test_a_convolution_that_others_read_too_is_not_folded():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(4, 4, 3, padding=1), BN(4)

        def forward(self, x):
            y = self.conv(x)
            return y + self.bn(y)

    assert ops_of(graph_of(Shared(), image())) == ["conv2d", "affine", "add"]


PADDED = {
    "symmetric": (nn.ZeroPad2d(2), nn.Conv2d(4, 3, 3, padding=1), "conv2d"),
    "one side, strided": (nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(4, 3, 3, 2), "cropped"),
    "left, strided": (nn.ZeroPad2d((3, 0, 0, 0)), nn.Conv2d(4, 3, 3, 2, dilation=2), "cropped"),
    "other value": (nn.ConstantPad2d(1, 0.5), nn.Conv2d(4, 3, 3), "pad conv2d"),
}


@pytest.mark.parametrize("case", PADDED)
def test_zero_padding_joins_the_convolution(case):
    pad, conv, expected = PADDED[case]
    model = nn.Sequential(pad, conv, nn.BatchNorm2d(3), nn.ReLU())
    assert ops_of(graph_of(model, image())) == [*expected.split(), "relu"]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_spellings_of_one_operation():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.b = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(3))
            self.conv = nn.Conv2d(4, 4, (3, 2), padding="same", dilation=(2, 1))

        def forward(self, x):
            a, b = F.dropout(self.conv(x), 0.5, self.training).chunk(2, 1)
            c, d = torch.split(b, 1, dim=1)
            y = torch.cat([a, c, d], 1).clone().contiguous()
            y = y.unbind(2)[1].max(dim=2)[0]
            y = torch.addmm(self.b, y, self.w) + (y @ self.w) * 2 - 1
            return (1 - y / 4).neg()

    words = "cropped narrow narrow narrow narrow cat select amax"
    arithmetic = "linear linear affine add affine affine affine affine"
    assert ops_of(graph_of(Words(), image())) == [*words.split(), *arithmetic.split()]


def test_assignments_in_place():
    class Assigning(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 5)

        def forward(self, x):
            y = self.linear(x).clone()
            y[:, 0] = 0
            y[:, 1:3] += 1.0
            y[:, 3] = x[:, 0]
            return y

    x = torch.randn(3, 6, dtype=torch.float64)
    graph = graph_of(Assigning(), x)
    from xaifast import composites as c
    from xaifast import rules as r
    from xaifast.attr import LRP

    model = nets.prepared(Assigning())
    explainer = LRP(model, c.Uniform(r.Zero(bias=False)))
    R = explainer.attribute(x, target="all")
    assert torch.equal(R[0], torch.zeros_like(x))
    assert torch.allclose(R[3], F.one_hot(torch.zeros(3).long(), 6) * x)
    assert "slice_scatter" in ops_of(graph)


@pytest.mark.parametrize("kind", nets.SHAPES)
def test_every_network_keeps_its_function(kind):
    graph_of(kind(), nets.inputs(kind))


def test_reparametrized_weights_are_constants():
    with pytest.warns(FutureWarning):
        old = nn.utils.weight_norm(nn.Linear(4, 3))
    new = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    x = torch.randn(2, 4, dtype=torch.float64)
    assert ops_of(graph_of(nn.Sequential(old, nn.ReLU(), new), x)) == ["linear", "relu", "linear"]
