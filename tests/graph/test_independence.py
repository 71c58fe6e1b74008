"""The proof that rows are apart, asked directly: what mixes rows is never shown to keep them."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from xaifast.graph.canonize import to_canonical
from xaifast.graph.capture.export import ways
from xaifast.graph.capture.quiet import quiet
from xaifast.graph.proof.independence import rows_apart


class Of(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.linear, self.conv = nn.Linear(4, 4), nn.Conv1d(3, 2, 2)

    def forward(self, x):
        return self.function(self, x)


def shown(function):
    """Whether rows of the function of x [N, 3, 4] are shown to be apart."""
    model, x = Of(function).eval(), torch.rand(5, 3, 4)
    with quiet():
        captured = dict(ways(model, (x,), False))["symbolic batch"]()
        to_canonical(captured)
    inputs = {name: True for name, leaf in captured.leaves.items() if leaf.kind == "input"}
    assert len(inputs) == 1
    return rows_apart(captured.graph, inputs)


MIXED = {
    "mean of the batch": lambda m, x: x - x.mean(0),
    "sum of the batch": lambda m, x: x * x.sum(0, keepdim=True),
    "largest of the batch": lambda m, x: x / x.amax(0),
    "softmax over the batch": lambda m, x: x.softmax(0),
    "running sum": lambda m, x: x.cumsum(0),
    "turned round": lambda m, x: x.flip(0),
    "rolled": lambda m, x: x.roll(1, 0),
    "sorted": lambda m, x: x.sort(0).values,
    "the first row": lambda m, x: x + x[:1],
    "one row": lambda m, x: x + x[0],
    "products of rows": lambda m, x: x.flatten(1) @ x.flatten(1).T,
    "norm of all": lambda m, x: x / x.norm(),
    "standardized over the batch": lambda m, x: (
        (x - x.mean((0, 2), True)) / x.std((0, 2), keepdim=True)
    ),
    "batch in training": lambda m, x: F.batch_norm(x, None, None, training=True),
    "the batch is a length": lambda m, x: m.conv(
        x.permute(1, 0, 2)[..., 0].unsqueeze(0).expand(2, 3, -1)
    ),
    "mixed behind a layer": lambda m, x: m.linear(x) - m.linear(x).mean(0),
    "folded and summed": lambda m, x: x.flatten(0, 1).sum(0),
}
APART = {
    "itself": lambda m, x: x.clone(),
    "a layer": lambda m, x: m.linear(x).relu(),
    "a convolution": lambda m, x: m.conv(x),
    "softmax of a row": lambda m, x: x.softmax(-1),
    "mean of a row": lambda m, x: x - x.mean((1, 2), keepdim=True),
    "folded and unfolded": lambda m, x: m.linear(x.flatten(0, 1)).view(-1, 3, 4),
    "moved": lambda m, x: x.transpose(0, 1).relu().transpose(0, 1),
}


@pytest.mark.parametrize("name", MIXED)
def test_what_mixes_rows_is_not_shown(name):
    assert not shown(MIXED[name])


@pytest.mark.parametrize("name", APART)
def test_what_keeps_rows_apart_is_shown(name):
    assert shown(APART[name])
