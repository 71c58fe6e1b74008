"""Rehearsals: the script of a model's code, and what follows it or does not."""

from __future__ import annotations

import copy
import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from xaifast.graph.proof.events import frozen
from xaifast.graph.proof.rehearsal import script_of
from xaifast.graph.proof.shell import shell_of


class Code(nn.Module):
    """A module from a function f(self, *inputs) and its parts."""

    def __init__(self, f, **parts):
        super().__init__()
        self.f = f
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs):
        return self.f(self, *inputs)


class Reversal(torch.autograd.Function):
    """The identity, with a gradient of its own."""

    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, g):
        return -g


X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


def follow(model: nn.Module, *args):
    """The script of a model that repeats itself."""
    script = script_of(model, tuple(x.clone() if isinstance(x, torch.Tensor) else x for x in args))
    assert script is not None
    assert script.holds(model, args)
    return script


# ---- the arithmetic is not done ----------------------------------------------------------------


class Operations(TorchDispatchMode):
    """Lists the operations that are done."""

    def __init__(self):
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.done.append(func)
        return func(*args, **(kwargs or {}))


def test_a_rehearsal_computes_nothing():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.BatchNorm1d(5), nn.Linear(5, 3))
    script = follow(model, X)
    assert not script.for_real
    with Operations() as seen:
        assert script.holds(model, (X,))
        assert not seen.done
        model.eval()(X)
        assert len(seen.done) >= 4


@pytest.mark.parametrize(
    ("f", "why"),
    [
        (lambda self, x: x * self.s.item(), "values of constants"),
        (lambda self, x: x * 2 if bool(self.s > 0) else x, "values of constants"),
        (lambda self, x: self.kept.append(x * 2) or x * 3, "what is computed is kept"),
    ],
)
def test_what_needs_values_is_run_for_real(f, why):
    class Box(list):  # a list of a class of its own is the user's, not the shell's
        pass

    model = Code(f, s=torch.tensor(3.0), kept=Box())
    script = follow(model, X)
    assert script.for_real, why
    model.s.fill_(-2.0)
    assert script.holds(model, (X,)) == (why == "what is computed is kept")


def test_code_that_does_not_repeat_itself_has_no_script():
    numbers = iter(range(100))
    assert script_of(Code(lambda self, x: x * next(numbers)), (X.clone(),)) is None


# ---- what a call of PyTorch is given -----------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, 2), (1, 1.0), (1, True), (0.0, -0.0), ("a", "b"), (None, 0), ((1, 2), [1, 2]),
        ([1, 2], [2, 1]), ({"a": 1}, {"a": 2}), ({1, 2}, {1, 3}), (slice(0, 2), slice(0, 3)),
        (np.arange(1000), np.r_[np.arange(999), 0]), (np.float32(1), np.float64(1)),
        (torch.float32, torch.float64), (len, max), ([[1], [2]], [[1], [3]]),
        (list(range(10_000)), [*range(9_999), 0]),
    ],
)  # fmt: skip
def test_constants_are_compared_by_value(a, b):
    assert frozen(a) == frozen(copy.deepcopy(a))
    assert frozen(a) != frozen(b)


def test_nan_equals_itself():
    assert frozen(float("nan")) == frozen(float("nan"))


def test_a_constant_of_an_unknown_kind_is_not_believed():
    with pytest.raises(Exception, match="SimpleNamespace"):
        frozen(types.SimpleNamespace())


# ---- what follows a script ---------------------------------------------------------------------


OUTSIDE = torch.ones(4)


# What is done to a model, and whether its code still follows the script.
CHANGES = {
    "a parameter in place": (lambda m: m.a.weight.data.mul_(2), True),
    "another parameter": (lambda m: setattr(m.a, "weight", nn.Parameter(torch.ones(4, 4))), True),
    "another shape": (lambda m: setattr(m.a, "weight", nn.Parameter(torch.ones(5, 4))), False),
    "another dtype": (lambda m: m.a.double(), False),
    "what is not read": (lambda m: setattr(m, "unread", object()), True),
    "training mode": (lambda m: m.train(), True),
    "a number": (lambda m: setattr(m, "k", 2.5), False),
    "an element": (lambda m: m.sizes.__setitem__(70, 3), False),
    "a tensor from outside": (lambda m: OUTSIDE.neg_(), False),
    "weights tied": (lambda m: setattr(m.b, "weight", m.a.weight), False),
    "a class": (lambda m: setattr(m.act, "__class__", nn.Tanh), False),
    "the order": (lambda m: setattr(m, "f", lambda s, x: s.a(s.act(s.b(x)))), False),
    "a hook": (lambda m: m.act.register_forward_hook(lambda m, i, o: o * 2), False),
    "a hook that looks": (lambda m: m.act.register_forward_hook(lambda m, i, o: None), True),
    "a backward hook": (lambda m: m.act.register_full_backward_hook(lambda *a: None), False),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_follows_a_script(name):
    def f(self, x):
        return self.b(self.act(self.a(x))) * self.k * self.sizes[70] + OUTSIDE

    model = Code(
        f, a=nn.Linear(4, 4), b=nn.Linear(4, 4), act=nn.ReLU(), k=2.0, sizes=list(range(80))
    )
    script = follow(model, X)
    change, follows = CHANGES[name]
    change(model)
    try:
        assert script.holds(model, (X,)) == follows
    finally:
        OUTSIDE.fill_(1)


# ---- is its gradient that of its values? -------------------------------------------------------


@pytest.mark.parametrize(
    ("f", "cut"),
    [
        (lambda self, x: self.a(x).relu(), None),
        (lambda self, x: self.a(x) * self.a.weight.detach().sum(), None),
        (lambda self, x: self.a(x).detach() * x, "detach"),
        (lambda self, x: self.a(x.data), "__get__"),
        (lambda self, x: Reversal.apply(self.a(x)), "a function with a backward pass of its own"),
        (lambda self, x: self.a(torch.no_grad()(torch.relu)(x)), "a block without gradients"),
        (lambda self, x: _hooked(self.a(x)), "requires_grad_"),
    ],
)
def test_what_cuts_the_gradient(f, cut):
    assert follow(Code(f, a=nn.Linear(4, 4)), X).cut == cut


def _hooked(x):
    x.requires_grad_().register_hook(lambda g: 2 * g)
    return x * 2


# ---- shells ------------------------------------------------------------------------------------


def test_a_shell_leaves_the_model_alone():
    def f(self, x):
        self.count += 1
        self.seen.append(x)
        self.by_name["x"] = x
        self.register_buffer("made", x, persistent=False)
        self.a.register_forward_hook(lambda m, i, o: None)
        return self.a(x)

    model = Code(f, a=nn.Linear(4, 3), count=0, seen=[], by_name={}).train()
    shell = shell_of(model).module
    assert torch.equal(shell(X), model.a(X))
    assert not shell.training
    assert not shell.a.training
    assert shell.count == 1
    assert model.count == 0
    assert model.training
    assert model.seen == []
    assert model.by_name == {}
    assert "made" not in model._buffers
    assert not model._non_persistent_buffers_set
    assert not model.a._forward_hooks


def test_methods_and_shared_modules_belong_to_the_shell():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    model.forward = types.MethodType(lambda self, x: self[0](x) * self.k, model)
    model.k = 3.0
    model.first = shared
    shell = shell_of(model).module
    assert shell[0] is shell[2] is not shared
    assert shell.forward.__self__ is shell
    assert torch.equal(shell(X), shared(X) * 3)


def test_what_a_hook_collects_has_real_values():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    script, seen = follow(model, X), []
    model[1].register_forward_hook(lambda m, i, o: seen.append(o))
    for _ in range(3):
        assert script.holds(model, (X,))
    assert seen
    assert all(torch.equal(x, model[:2](X)) for x in seen[: len(seen)])
