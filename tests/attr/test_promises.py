"""Promises that models with unusual code once broke: right or refused, and nothing changed."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from xaifast import composites as c
from xaifast import rules as r
from xaifast.attr import LRP
from xaifast.errors import InputError, InputTypeError, ModelError

ZERO = c.Uniform(r.Zero())


class Code(nn.Module):
    """A module from a function f(self, *inputs) and its parts."""

    def __init__(self, f, **parts):
        super().__init__()
        self.f = f
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs):
        return self.f(self, *inputs)


def dense(n: int, m: int, bias: bool = False) -> nn.Linear:
    return nn.Linear(n, m, bias=bias).double()


def points(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


def gradient_times_input(model, x, target):
    """LRP-0 on a piecewise linear network without biases."""
    x = x.clone().requires_grad_()
    return (torch.autograd.grad(model(x)[:, target].sum(), x)[0] * x).detach()


def assert_zero_rule(model, x, explainer=None, **options):
    got = (explainer or LRP(model, ZERO)).attribute(x, target=1, **options)
    torch.testing.assert_close(got, gradient_times_input(model, x, 1), rtol=1e-10, atol=1e-12)


# ---- right, or refused -----------------------------------------------------------------------


def test_a_comparison_sees_the_pre_activation():
    def f(self, x):
        z = self.a(x)
        return self.b(z.relu()) * (z < 0).to(z.dtype).sum(1, keepdim=True)

    model, x = Code(f, a=dense(5, 6, bias=True), b=dense(6, 3)), points(4, 5)
    R, delta = LRP(model, c.EpsilonPlus()).attribute(x, target=1, return_convergence_delta=True)
    torch.testing.assert_close(R.sum(1) + delta, model(x)[:, 1])


@pytest.mark.parametrize(
    ("op", "f"),
    {
        "lstm": lambda self, x: x + self.lstm(x)[0],
        "gru": lambda self, x: x + self.gru(x)[0],
        "sort": lambda self, x: x + x.sort(2)[0],
        "topk": lambda self, x: x[..., :2] + x.topk(2, 2).values,
        "min": lambda self, x: x + x.min(2, keepdim=True)[0],
        "fft": lambda self, x: x + torch.fft.fft(x).real,
        "var_mean": lambda self, x: x + torch.var_mean(x, 2, keepdim=True)[0],
        "batch_norm": lambda self, x: x + F.batch_norm(x, None, None, training=True),
    }.items(),
)
@pytest.mark.parametrize("skip", [True, False])
def test_what_returns_several_or_complex_results_is_refused(op, f, skip):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 3, batch_first=True)
            self.gru = nn.GRU(3, 3, batch_first=True)

        def forward(self, x):
            return (f(self, x) - (0 if skip else x[..., :2] if op == "topk" else x)).sum((1, 2))

    with pytest.raises(ModelError, match=rf"no exact rule(.|\n)*{op}"):
        LRP(Net().double(), c.EpsilonPlus()).attribute(points(2, 3, 3))


def test_bounds_know_the_factor_of_a_difference_and_a_low_ceiling():
    def factor(self, x):
        return self.b(torch.sub(self.a(x).sigmoid() + 1, x.sigmoid(), alpha=2))

    def spelled_out(self, x):
        return self.b((self.a(x).sigmoid() + 1) - x.sigmoid() * 2.0)

    def ceiling(self, x):
        return self.b(self.a(x).relu().clamp(max=-1.0))

    composite = c.Composite([(c.name("b"), r.ZPlus()), *c.EpsilonPlus().entries])
    parts, x = {"a": dense(5, 5), "b": dense(5, 3)}, points(6, 5)
    got, want = (
        LRP(Code(f, **parts), composite).attribute(x, target=1) for f in (factor, spelled_out)
    )
    torch.testing.assert_close(got, want)
    assert "inputs >= 0" not in LRP(Code(ceiling, **parts), composite).plan(x).splitlines()[1]


@pytest.mark.parametrize(
    "f",
    [
        lambda self, y: torch.stack([y, y], 1).flatten(1),
        lambda self, y: torch.cat([torch.where(y > 1, y, y), y], 1),
        lambda self, y: torch.cat([y * 0.1, y / 3], 1),
    ],
)
def test_one_tensor_twice_and_numbers_in_double_precision(f):
    model = Code(lambda self, x: self.b(f(self, self.a(x).relu())), a=dense(6, 6), b=dense(12, 3))
    assert_zero_rule(model, points(3, 6))
    assert all(abs(b.gap) < 1e-12 for b in LRP(model, ZERO).report(points(3, 6), target=1).rows)


def test_samples_that_see_each_other_are_not_taken_apart():
    model = Code(lambda self, x: self.a((x - x.mean(0, keepdim=True)).relu()), a=dense(5, 3))
    explainer = LRP(model, ZERO)
    for n in (2, 8):
        assert_zero_rule(model, points(n, 5), explainer)
    with pytest.raises(InputError, match="fixes its batch size"):
        explainer.attribute(points(8, 5), target=1, internal_batch_size=2)


def test_an_argument_as_long_as_the_batch_is_not_cut():
    model = Code(lambda self, x, w: self.a(x) * w, a=dense(5, 4))
    x, w, explainer = points(4, 5), points(4), LRP(model, ZERO)
    explainer.attribute(x[:3], target=1, additional_forward_args=w)
    want = gradient_times_input(lambda x: model(x, w), x, 1)
    for size in (1, 2, "auto"):
        got = explainer.attribute(x, target=1, additional_forward_args=w, internal_batch_size=size)
        torch.testing.assert_close(got, want)


# ---- the next call sees every change ---------------------------------------------------------


def _forward_anew(model):
    model.forward = lambda x: Code.forward(model, x) * 2


CHANGES = {
    "a number": lambda m: setattr(m, "k", 3.0),
    "a tensor in place": lambda m: m.t.mul_(5),
    "another tensor": lambda m: setattr(m, "t", points(3)),
    "the slope": lambda m: setattr(m.act, "negative_slope", 0.9),
    "the class": lambda m: setattr(m.act, "__class__", nn.ReLU),
    "the forward": _forward_anew,
    "a bias less": lambda m: setattr(m.norm, "bias", None),
    "epsilon": lambda m: setattr(m.norm, "eps", 0.5),
    "more inputs": lambda m: setattr(m.a, "weight", nn.Parameter(points(5, 5) * 3)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_attributes_are_seen_by_the_next_call(change):
    model = Code(
        lambda self, x: self.b(self.act(self.norm(self.a(x)))) * self.k * self.t,
        a=dense(5, 5), norm=nn.BatchNorm1d(5).double(), act=nn.LeakyReLU(), b=dense(5, 3),
        k=1.0, t=points(3),
    ).eval()  # fmt: skip
    explainer, x = LRP(model, ZERO), points(2, 5)
    assert_zero_rule(model, x, explainer)
    CHANGES[change](model)
    assert_zero_rule(model, x, explainer)


# ---- nothing of the user's is changed --------------------------------------------------------


@pytest.mark.parametrize(
    "first",
    [
        nn.ReLU(inplace=True),
        nn.ELU(inplace=True),
        Code(lambda self, x: x.mul_(2)),
        Code(lambda self, x: x.sub_(0.5).div_(0.25)),
    ],
)
def test_the_inputs_stay_as_they_are(first):
    x = points(3, 5)
    before = x.clone()
    got = LRP(nn.Sequential(first, dense(5, 3)), ZERO).attribute(x, target=1)
    assert torch.equal(x, before)
    assert got.abs().sum() > 0


@pytest.mark.parametrize("kind", ["buffer", "attribute", "parameter"])
def test_what_forward_changes_in_place_stays_as_it_is(kind):
    def f(self, x):
        with torch.no_grad():
            self.t.mul_(2)
        return self.a(x) * self.t

    model = Code(f, a=dense(5, 3))
    t = torch.ones((), dtype=torch.float64)
    if kind == "buffer":
        model.register_buffer("t", t)
    else:
        model.t = nn.Parameter(t) if kind == "parameter" else t
    try:
        LRP(model, ZERO).attribute(points(2, 5), target=1)
    except ModelError:
        assert kind != "buffer"
    assert float(model.t.detach()) == 1


# ---- modes and threads -----------------------------------------------------------------------


def test_autocast_is_left_outside():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4))
    x = torch.randn(2, 2, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        inside = LRP(model.eval()).attribute(x, target=0)
    assert torch.equal(inside, LRP(model).attribute(x, target=0))
    assert torch.equal(inside, LRP(copy.deepcopy(model)).attribute(x, target=0))


def test_first_calls_from_several_threads():
    model, x, found = nn.Sequential(dense(4, 6), nn.ReLU(), dense(6, 3)), points(2, 4), []
    work = [
        threading.Thread(target=lambda: found.append(LRP(model, ZERO).attribute(x, target=1)))
        for _ in range(4)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert len(found) == 4
    assert all(torch.equal(R, found[0]) for R in found)


def test_an_explainer_can_be_copied():
    model, x = nn.Sequential(dense(4, 6), nn.ReLU(), dense(6, 3)), points(2, 4)
    explainer = LRP(model, c.EpsilonPlus())
    R = explainer.attribute(x, target=1)
    assert torch.equal(copy.deepcopy(explainer).attribute(x, target=1), R)


# ---- bad input is refused --------------------------------------------------------------------

X = torch.ones(2, 4)
BAD = {
    "an empty report": (lambda e: e.report(X[:0], target=1), "at least one sample"),
    "no targets": (lambda e: e.attribute(X, start=torch.ones(0, 2, 3)), "shape of the output"),
    "NaN to start with": (lambda e: e.attribute(X, start=torch.full((2, 3), torch.nan)), "finite"),
    "a step back": (lambda e: e.attribute(X, target=(slice(None, None, -1),)), "must index"),
    "an empty mask": (lambda e: e.attribute(X, target=torch.zeros(3).bool()), "select some"),
    "layers": (lambda e: e.attribute(X, target=0, layers=3), "list of module paths"),
    "sparse": (lambda e: e.attribute(X.to_sparse(), target=0), "dense"),
    "meta": (lambda e: e.attribute(X.to("meta"), target=0), "hold data"),
    "a word": (lambda e: r.Epsilon("a"), "must be a number; got a"),
    "infinity": (lambda e: r.Gamma(float("inf")), ">= 0 and finite"),
    "an endless box": (lambda e: r.ZBox(0.0, float("inf")), "finite and ordered"),
    "no box": (lambda e: r.ZBox(None, 1.0), "ZBox: low must be a number or a tensor"),
    "a scheme": (lambda e: r.Pool("proportional"), "must be a bool"),
    "no kind": (lambda e: c.kind(), "must be given words"),
    "no class": (lambda e: c.module_type("Conv2d"), "must name classes"),
    "no fraction": (lambda e: c.fraction(0.9, 0.1), "needs low < high"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    call, words = BAD[case]
    with pytest.raises((InputError, InputTypeError), match=words):
        call(LRP(nn.Linear(4, 3)))


def test_a_box_that_does_not_fit_is_refused_at_its_node():
    with pytest.raises(ModelError, match=r"bounds of shape \[7\] do not fit a sample \[4\]"):
        LRP(nn.Linear(4, 3), c.Uniform(r.ZBox(torch.zeros(7), torch.ones(7)))).plan(X)


@pytest.mark.parametrize(
    ("sent", "came"),
    [
        (lambda R: R, r"it returned \(1, 2, 3\)"),
        (lambda R: (R,), r"it returned \[\(1, 2, 3\)\]"),
        (lambda R: None, "it returned NoneType"),
    ],
)
def test_a_rule_that_returns_something_else_is_named(sent, came):
    class Wrong(r.Rule):
        def propagate(self, node, inputs, output, R, balance=None):
            return sent(R)

    composite = c.EpsilonPlus().with_rules((c.kind("linear"), Wrong()))
    with pytest.raises(ModelError, match=rf"Wrong at linear .* must return a tuple.*{came}"):
        LRP(nn.Linear(4, 3), composite).attribute(X, target=0)


def test_a_rule_may_use_a_plain_tensor_as_weight():
    class Ones(r.LinearRule):
        def parts(self, layer, a, z):
            yield r.Part(None, torch.ones_like(layer.weight.plain))

    model = nn.Linear(4, 3)
    got, want = (LRP(model, c.Uniform(q)).attribute(X, target=0) for q in (Ones(), r.Flat()))
    torch.testing.assert_close(got, want)


def test_the_report_as_data():
    rows = LRP(nn.Linear(4, 3)).report(X, target=0).as_dicts()
    assert set(rows[0]) == {
        "node", "module", "received", "passed", "bias", "stabilizer", "filled", "gates", "gap",
    }  # fmt: skip
