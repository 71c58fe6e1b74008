"""Calls in place become calls that return, by the short way where it may be taken."""

import copy

import pytest
import torch
from torch import Tensor, nn

from xaifast.graph.capture.functional import functional


class Keeps(nn.Module):
    """A network with buffers, two of which share their memory."""

    def __init__(self, code):
        super().__init__()
        self.code = code
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.tensor([0.5, -1.0, 2.0]))
        self.register_buffer("first", torch.tensor([1.0, 2.0, 3.0]))
        self.register_buffer("same", self.first[:])

    def forward(self, x: Tensor) -> Tensor:
        return self.code(self, x)


def counts(m, x):
    m.count += 1
    return x * 2


def reads_before_and_after(m, x):
    before = m.mean * 1
    m.mean.mul_(0.5).add_(1)
    return x * before + m.mean


def sums_twice(m, x):
    y = x * 2
    z = y + 1
    y += x
    u = y * z
    y.relu_()
    return y + u


def compares(m, x):
    return (x * 1).gt_(0.5) / 2


def changes_a_view(m, x):
    y = x * 2
    y[:, 0].mul_(3)
    return y + 0


def reads_through_a_view(m, x):
    y = x * 2
    view = y[:, :2]
    y.mul_(3)
    return view + 0


def changes_shared_memory(m, x):
    m.first.mul_(2)
    return x + m.same


def changes_its_input(m, x):
    y = x + 1
    x.mul_(2)
    return x * y


def returns_what_it_changed(m, x):
    y = x * 2
    y.mul_(3)
    return y


@pytest.mark.parametrize(
    ("code", "short"),
    [
        (counts, True), (reads_before_and_after, True), (sums_twice, True), (compares, False),
        (changes_a_view, False), (reads_through_a_view, False), (changes_shared_memory, False),
        (changes_its_input, False), (returns_what_it_changed, None),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)  # fmt: skip
def test_it_computes_what_the_code_does(code, short, monkeypatch):
    x = torch.tensor([[0.3, -1.0, 2.0], [1.5, 0.0, -0.4]])
    model = Keeps(code)
    long = []
    decompose = torch.export.ExportedProgram.run_decompositions

    def counted(*args):
        long.append(args)
        return decompose(*args)

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", counted)
    program = torch.export.export(copy.deepcopy(model), (x.clone(),), strict=False)
    if code is changes_shared_memory:  # PyTorch has no long way for it, either
        with pytest.raises(AssertionError):
            functional(program)
        return
    program = functional(program)
    assert short is None or bool(long) != short
    assert not any(
        getattr(n.target, "_schema", None) and n.target._schema.is_mutable
        for n in program.graph.nodes
    )
    assert torch.equal(program.module()(x.clone()), model(x.clone()))
