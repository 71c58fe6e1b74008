"""Derived weights: computed once, thrown away when a parameter changes."""

import torch
from torch import nn

from xaifast.graph.weights import Weights, read


def test_derived_weights_live_until_a_parameter_changes():
    model = nn.Linear(3, 2)
    weights = Weights(model)
    weights.watch(["weight"])
    made = []

    def positive():
        made.append(1)
        return read(model, "weight").clamp(min=0)

    for _ in range(3):
        weights.refresh()
        weights.derived("w+", positive)
    assert len(made) == 1
    changes = (
        lambda: model.weight.grad_fn,  # no change
        lambda: torch.nn.init.ones_(model.weight),
        lambda: model.weight.data.neg_(),
        lambda: setattr(model, "weight", nn.Parameter(torch.ones(2, 3))),
        lambda: model.double(),
    )
    for change, expected in zip(changes, (1, 2, 3, 4, 5), strict=True):
        change()
        weights.refresh()
        weights.derived("w+", positive)
        assert len(made) == expected
