"""How a model is evaluated: what a row needs."""

import torch
from torch import nn

from xaifast.engine.arguments import make_call
from xaifast.engine.evaluation import PlainModel, rows_at_once


def test_a_row_needs_what_operations_make():
    # 2000 -> 10 numbers: the transposed weight is a view of the model's own, and not made
    net = nn.Sequential(nn.Linear(2000, 10), nn.ReLU(), nn.Flatten())
    calls = []
    net.register_forward_hook(lambda *_: calls.append(1))
    model = PlainModel(make_call("X", net, torch.zeros(4, 2000), 0, None))
    need = model.need()
    assert need.largest == 10 * 4
    assert need.kept == 2 * 40 + 3 * 40
    assert model.need() is need
    assert len(calls) == 1


def test_rows_at_once_fit_the_block():
    model = PlainModel(make_call("X", nn.Linear(3, 1024), torch.zeros(4, 3), 0, None))
    assert rows_at_once(model, "auto", 10**6, block=8 * 4096) == 8
    assert rows_at_once(model, "auto", 9, block=10 * 4096) == 9
    assert rows_at_once(model, "auto", 9, block=1) == 4
    assert rows_at_once(model, 3, 10**6) == 3
