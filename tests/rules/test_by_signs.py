"""Rules at dense layers by zplus_linear: the same maps as by derived weights, and none of these."""

import copy

import nets
import pytest
import torch
from tensors import signed
from torch import nn

from xaifast import composites as c
from xaifast import ops
from xaifast import rules as r
from xaifast.attr import LRP
from xaifast.graph.layers import choice

native = pytest.mark.skipif(
    not ops.is_native(torch.empty(0)), reason="native kernels are switched off"
)
RULES = [
    r.ZPlus(), r.ZPlus(bias=False), r.AlphaBeta(2, 1), r.AlphaBeta(1, 0),
    r.AlphaBeta(1.5, 0.5, bias=False), r.Gamma(), r.Gamma(0.5, bias=False),
]  # fmt: skip


@pytest.fixture
def calls(monkeypatch):
    """Rows of relevance of each call of zplus_linear."""
    found, run = [], ops.zplus_linear

    def zplus_linear(a, R, *rest):
        found.append(len(R) * len(a))
        return run(a, R, *rest)

    monkeypatch.setattr(ops, "zplus_linear", zplus_linear)
    return found


def close(a, b):
    return a.shape == b.shape and float((a - b).abs().max()) <= 1e-10 * float(b.abs().max())


def dense(relu=False, behind=False):
    torch.manual_seed(0)
    parts = [nn.ReLU()] * relu + [nn.Linear(9, 7)] + [nn.ReLU()] * behind + [nn.Linear(7, 4)]
    return nets.prepared(nn.Sequential(*parts))


@native
@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_the_same_map(rule, relu, behind, calls, monkeypatch):
    model, x = dense(relu, behind), signed(1, 9)
    for target in (1, [[0, 2]]):
        calls.clear()
        got = LRP(model, c.Uniform(rule)).attribute(x, target)
        assert calls
        calls.clear()
        with monkeypatch.context() as without:
            without.setattr(choice, "SIGN_ROWS", dict.fromkeys((1, 2, 4), 0))
            assert close(got, LRP(model, c.Uniform(rule)).attribute(x, target))
        assert not calls


@native
@pytest.mark.parametrize("relu", [False, True])
def test_many_rows_go_by_derived_weights(relu, calls):
    model = nets.prepared(nn.Sequential(*[nn.ReLU()] * relu, nn.Linear(9, 7)))
    for rule, most in ((r.ZPlus(), 2 if relu else 8), (r.AlphaBeta(), 8 if relu else 16)):
        lrp = LRP(model, c.Uniform(rule))
        kernel = f"zplus_linear up to {most} rows"
        assert kernel in lrp.plan(signed(1, 9)).splitlines()[1]
        calls.clear()
        for rows in (most, most + 1):
            lrp.attribute(signed(rows, 9), 1)
        lrp.attribute(signed(most // 2, 9), [[0, 1]] * (most // 2))
        assert calls == [most, most]


def test_the_plan_of_other_rules():
    assert "zplus_linear" not in LRP(dense(), c.Uniform(r.Epsilon())).plan(signed(1, 9))


@native
def test_positions_are_rows(calls):
    model = nets.prepared(nn.Sequential(nn.Linear(9, 7)))
    lrp = LRP(model, c.Uniform(r.ZPlus()))
    x, start = signed(2, 3, 9), signed(2, 3, 7)
    got = lrp.attribute(x, start=start)
    assert calls == [6]
    flat = lrp.attribute(x.flatten(0, 1), start=start.flatten(0, 1))
    assert close(got.flatten(0, 1), flat)


@native
@pytest.mark.parametrize("rule", [r.ZPlus(), r.AlphaBeta(), r.Gamma()], ids=repr)
def test_no_weights_are_derived(rule):
    model = nn.Sequential(nn.ReLU(), nn.Linear(50, 40), nn.ReLU(), nn.Linear(40, 3))
    lrp = LRP(model, c.Uniform(rule))
    lrp.attribute(torch.randn(1, 50), 1)
    (built,) = lrp._builder._built.values()
    kept = built.weights._derived.values()
    own = {p.data_ptr() for p in model.parameters()}
    assert {w.plain.data_ptr() for w in kept if hasattr(w, "plain")} <= own


class Own(r.ZPlus):
    """A rule of a user on top of one of ours."""

    def parts(self, layer, a, z):
        yield r.Part(a.abs(), layer.derive("|w|", torch.abs))


@native
def test_a_subclass_with_parts_of_its_own(calls):
    lrp = LRP(dense(), c.Uniform(Own()))
    lrp.attribute(signed(1, 9), 1)
    assert calls == []
    assert "zplus_linear" not in lrp.plan(signed(1, 9))


@native
def test_products_in_bfloat16_are_the_librarys(calls):
    model = copy.deepcopy(dense()).float()
    LRP(model, c.Uniform(r.ZPlus()), precision="bfloat16").attribute(signed(1, 9).float(), 1)
    assert calls == []


@native
def test_recorded_for_any_batch_and_for_one(calls):
    model, target = dense(relu=True), torch.tensor([1])
    x, more = signed(1, 9), signed(5, 9)
    lrp = LRP(model, c.Uniform(r.AlphaBeta()))
    one, five = lrp.attribute(x, target), lrp.attribute(more, 1)
    calls.clear()
    core = lrp.core(torch.cat([x, x]), torch.tensor([1, 1]))
    assert calls == []
    assert close(core(more, torch.ones(5, dtype=torch.int64)), five)
    captured = lrp.capture(x, target)
    assert calls
    assert close(captured(x, target), one)
    with torch.no_grad():
        model[1].weight.mul_(-0.75)
    assert close(captured(x, target), lrp.attribute(x, target))


@native
def test_a_report_counts_step_by_step(calls):
    report = LRP(dense(), c.Uniform(r.ZPlus())).report(signed(1, 9), 1)
    assert calls == []
    assert max(abs(row.gap) for row in report.rows) < 1e-9


@native
@pytest.mark.parametrize("rule", [r.ZPlus(), r.AlphaBeta()], ids=repr)
def test_an_empty_batch(rule):
    model = nets.prepared(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3)))
    lrp = LRP(model, c.Uniform(rule))
    assert lrp.attribute(signed(0, 1, 4, 4), 1).shape == (0, 1, 4, 4)
