"""Precision of products: how far maps move; PyTorch's settings during a call, and after it."""

import copy
import threading
from functools import cache

import nets
import pytest
import torch
from torch import nn

import xaifast
from xaifast import composites as c
from xaifast import rules as r
from xaifast.attr import LRP
from xaifast.engine.precision import _SETTINGS, _shared, products_in
from xaifast.errors import InputError, InputTypeError, ModelError

RULES = {
    "zero": c.Uniform(r.Zero()),
    "epsilon": c.Uniform(r.Epsilon(0.25, relative=True)),
    "gamma": c.Uniform(r.Gamma()),
    "z+": c.Uniform(r.ZPlus()),
    "alpha-beta": c.Uniform(r.AlphaBeta(2, 1)),
    "w-square": c.Uniform(r.WSquare()),
    "flat": c.EpsilonPlusFlat(),
    "z-box": c.EpsilonGammaBox(-5.0, 5.0),
    "LRP-*": c.LRPStar(),
}


class VGG(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(), nn.Flatten(),
            nn.Linear(32 * 9, 24), nn.ReLU(), nn.Linear(24, 5),
        )  # fmt: skip


@cache
def shared(device="cpu"):
    """A model, its double, and inputs: captured once, for tests that change none of them."""
    model = VGG().eval().to(device)
    return model, copy.deepcopy(model).double(), torch.randn(3, 3, 16, 16).to(device)


def error(got, exact):
    """Largest difference of a map, over the largest value of the exact one; the worst sample's."""
    differs, scale = (got.double() - exact).abs(), exact.abs()
    return float((differs.flatten(1).amax(1) / scale.flatten(1).amax(1)).max())


def settings():
    return [torch._C._get_fp32_precision_getter(*place) for place in _SETTINGS]


# ---- how far maps move -------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_error_of_each_rule(rule, device):
    (model, double, x), target = shared(device), [0, 3, 4]
    exact = LRP(double, RULES[rule]).attribute(x.double(), target)
    maps = {
        p: LRP(model, RULES[rule], precision=p).attribute(x, target)
        for p in ("float32", "bfloat16")
    }
    assert error(maps["float32"], exact) < 2e-5
    low = maps["bfloat16"]
    assert low.dtype == torch.float32
    assert 1e-4 < error(low, exact) < 0.02  # it is rounded, and no more than that
    assert torch.cosine_similarity(low.flatten(1).double(), exact.flatten(1)).min() > 0.9995


@pytest.mark.parametrize("kind", [nets.ResNet, nets.Depthwise, nets.Smooth, nets.Sequence])
def test_layers_of_every_kind(kind, device):
    model, x = nets.shared(kind, device), nets.inputs(kind).to(device)
    exact = LRP(model, c.EpsilonPlus()).attribute(x, target=[[0, 1], [2, 0]])
    low = LRP(copy.deepcopy(model).float(), c.EpsilonPlus(), precision="bfloat16")
    got = low.attribute(x.float(), target=[[0, 1], [2, 0]])
    assert 1e-4 < error(got.flatten(0, 1), exact.flatten(0, 1)) < 0.04


def test_products_with_constants_and_log_odds(device):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.head = nn.Parameter(torch.randn(8, 6)), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(torch.relu(torch.einsum("bi,ij->bj", x, self.w)))

    model, x = Net().to(device), torch.randn(4, 8, device=device)
    exact = LRP(copy.deepcopy(model).double()).attribute(x.double(), 1, start="log_odds")
    got = LRP(model, precision="bfloat16").attribute(x, 1, start="log_odds")
    assert 1e-4 < error(got, exact) < 0.02


@pytest.mark.parametrize("rule", RULES)
def test_the_default_changes_no_bit(rule):
    model, _, x = shared()
    plain = LRP(model, RULES[rule])
    plain._builder.precision = None  # products as PyTorch is set
    assert torch.equal(LRP(model, RULES[rule]).attribute(x, 1), plain.attribute(x, 1))


def test_tf32_is_float32_on_the_cpu():
    model, _, x = shared()
    got = LRP(model, c.EpsilonPlus(), precision="tf32").attribute(x, 1)
    assert torch.equal(got, LRP(model, c.EpsilonPlus()).attribute(x, 1))


@pytest.mark.parametrize("form", ["report", "layers", "explain"])
def test_every_way_to_ask(form):
    model, _, x = shared()
    lrp = LRP(model, c.EpsilonPlus(), precision="bfloat16")
    expected = lrp.attribute(x, 1)
    if form == "report":
        rows = lrp.report(x, 1).rows
        assert float(rows[-1].passed) == pytest.approx(float(expected.sum()), rel=1e-2, abs=1e-3)
        assert max(abs(row.gap) for row in rows) < 1e-4 + 2e-2 * abs(rows[0].received)
        return
    if form == "layers":
        assert torch.equal(lrp.attribute(x, 1, layers=["2"])[0], expected)
        assert "precision bfloat16" in lrp.plan(x).splitlines()[0]
        return
    assert torch.equal(xaifast.explain(model, x, "EpsilonPlus", 1, precision="bfloat16"), expected)


def test_weights_are_rounded_again_after_a_step():
    model, x = VGG().eval(), shared()[2]
    lrp = LRP(model, c.EpsilonPlus(), precision="bfloat16")
    before = lrp.attribute(x, 1)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.9).add_(0.01)
    after = lrp.attribute(x, 1)
    assert not torch.equal(before, after)
    assert torch.equal(after, LRP(model, c.EpsilonPlus(), precision="bfloat16").attribute(x, 1))


# ---- recorded ----------------------------------------------------------------------------------


def test_capture_and_core(device):
    model, _, x = shared(device)
    target = torch.tensor([0, 3, 4], device=device)
    lrp = LRP(model, c.EpsilonPlus(), precision="bfloat16")
    expected, full = lrp.attribute(x, target), LRP(model, c.EpsilonPlus()).attribute(x, target)
    core = lrp.core(x, target)
    exported = torch.export.export(core, (x, target)).module()
    for explain in (lrp.capture(x, target), core, exported):
        got = explain(x, target)
        assert error(got, expected.double()) < 1e-3 < error(got, full.double())


def test_a_captured_explanation_runs_at_its_settings():
    model, _, x = shared()
    seen = []
    captured = LRP(model, c.EpsilonPlus()).capture(x, 1)
    captured._run.register_forward_pre_hook(lambda *_: seen.append(settings()))
    before = settings()
    captured(x, 1)
    assert seen == [["ieee"] * len(_SETTINGS)]
    assert settings() == before


# ---- PyTorch's settings ------------------------------------------------------------------------


class Spy(r.Epsilon):
    """Writes down the settings; fails on demand."""

    def __init__(self):
        super().__init__()
        self.seen, self.fails = [], False

    def propagate(self, *args):
        self.seen.append(settings())
        if self.fails:
            raise RuntimeError("on demand")
        return super().propagate(*args)


@pytest.fixture
def spied():
    """An explainer that has been called, its inputs and its spy."""
    spy, x = Spy(), torch.randn(2, 4)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    lrp = LRP(model, c.Uniform(spy))
    lrp.attribute(x, 1)
    spy.seen.clear()
    return lrp, x, spy


@pytest.fixture(params=["default", "all tf32", "all ieee", "matmul tf32", "matmul tf32, all ieee"])
def user(spied, request):
    """What a user may have set; unset again behind the test.

    Not before the first call: torch.export itself leaves settings behind where there are any.
    """
    if "all" in request.param:
        torch.backends.fp32_precision = request.param.split()[-1]
    if "matmul" in request.param:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        torch._C._set_fp32_precision_setter("mkldnn", "matmul", "bf16")
    yield settings()
    torch.backends.cuda.matmul.fp32_precision = "none"
    torch._C._set_fp32_precision_setter("mkldnn", "matmul", "none")
    torch.backends.fp32_precision = "none"


def follow(value):
    """The settings if the user turned to another one."""
    torch.backends.fp32_precision, before = value, torch.backends.fp32_precision
    found = settings()
    torch.backends.fp32_precision = before
    return found


@pytest.mark.parametrize("fails", [False, True])
def test_settings_are_held_and_put_back(user, spied, fails):
    lrp, x, spy = spied
    spy.fails = fails
    later = [follow(value) for value in ("ieee", "tf32", "none")]
    if fails:
        with pytest.raises(RuntimeError, match="on demand"):
            lrp.attribute(x, 1)
    else:
        lrp.attribute(x, 1)
    assert spy.seen == [["ieee"] * len(_SETTINGS)] * (1 if fails else 2)
    assert settings() == user
    assert [follow(value) for value in ("ieee", "tf32", "none")] == later
    assert not _shared.threads


def test_the_forward_pass_is_held_too(user, spied):
    lrp, x, _ = spied
    seen, layer = [], lrp._builder.build((x,), 1).graph.nodes[-1].layer
    run = layer.run
    layer.run = lambda *args, **more: (seen.append(settings()), run(*args, **more))[1]
    lrp.attribute(x, 1)
    assert seen == [["ieee"] * len(_SETTINGS)]
    assert settings() == user


def test_tf32_on_cuda_is_a_setting(user):
    class OnCuda(torch.Tensor):
        device = torch.device("cuda")

    x = torch.zeros(1).as_subclass(OnCuda)
    with products_in("tf32", (3, x)):
        assert settings() == ["tf32"] * len(_SETTINGS)
    for precision in ("float32", "bfloat16"):
        with products_in(precision, (x,)):
            assert settings() == ["ieee"] * len(_SETTINGS)
    with products_in(None, (x,)):
        assert settings() == user
    assert settings() == user


def test_threads_share_or_wait(user):
    steps, begun, end = [], threading.Event(), threading.Event()

    def first():
        with products_in("float32", ()):
            begun.set()
            end.wait(10)
            steps.append("first")

    def second():  # the same precision: at once, and still held when the first has gone
        with products_in("bfloat16", ()):
            steps.append(("second", settings()[0]))
            end.set()
            one.join(10)
            steps.append(("second", settings()[0]))

    def third():
        _shared.hold("tf32")
        steps.append(("third", settings()[0]))
        _shared.release()

    one, two, three = (threading.Thread(target=f) for f in (first, second, third))
    one.start()
    begun.wait(10)
    three.start()
    two.start()
    for thread in (one, two, three):
        thread.join(10)
    assert steps == [("second", "ieee"), "first", ("second", "ieee"), ("third", "tf32")]
    assert settings() == user


def test_another_precision_inside_is_refused():
    with products_in("float32", ()):
        with products_in("bfloat16", ()):
            assert settings()[0] == "ieee"
        with pytest.raises(ModelError, match="cannot run inside another one of another precision"):
            _shared.hold("tf32")
    assert not _shared.threads


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("rule", RULES)
def test_tf32_rounds_on_cuda(rule):
    model, double, x = shared("cuda")
    exact = LRP(double, RULES[rule]).attribute(x.double(), 1)
    assert error(LRP(model, RULES[rule], precision="tf32").attribute(x, 1), exact) < 0.02


# ---- a forward pass in low precision -----------------------------------------------------------


def test_a_model_in_bfloat16_is_computed_in_float32():
    model, x = VGG().eval().bfloat16(), shared()[2].bfloat16()
    wide = copy.deepcopy(model).float()
    for precision in ("float32", "bfloat16"):
        got = LRP(model, precision=precision).attribute(x, 1)
        assert got.dtype == torch.bfloat16
        want = LRP(wide, precision=precision).attribute(x.float(), 1)
        assert torch.equal(got, want.bfloat16())


class Casts(nn.Module):
    """Half of it in bfloat16, by its own code."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 40, bias=False), nn.Linear(40, 3, bias=False)

    def forward(self, x):
        w = self.first.weight.bfloat16()
        return self.second(torch.relu(nn.functional.linear(x.bfloat16(), w)).float())


class Autocast(nn.Sequential):
    """All of it in bfloat16, by its own code."""

    def __init__(self, *behind):
        super().__init__(nn.Conv1d(1, 8, 3), *behind, nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x.unsqueeze(1)).float()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", [Casts, Autocast])
def test_low_precision_in_the_models_code_runs_as_written(kind, precision):
    model, x = kind().eval(), torch.randn(4, 6)
    if kind is Casts:
        full = nn.Sequential(model.first, nn.ReLU(), model.second)(x)[:, 1]
    else:
        full = nn.Sequential(*model)(x.unsqueeze(1))[:, 1]
    lrp = LRP(model, precision=precision)
    R, delta = lrp.attribute(x, 1, return_convergence_delta=True)
    assert R.dtype == torch.float32
    started = R.sum(1) + delta
    assert torch.allclose(started, model(x)[:, 1], rtol=1e-5)
    assert not torch.allclose(started, full, rtol=1e-5)


def test_batch_norm_behind_a_layer_in_low_precision_is_refused():
    model = Autocast(nn.BatchNorm1d(8)).eval()
    with pytest.raises(ModelError, match="cannot be captured as a graph that computes"):
        LRP(model).attribute(torch.randn(4, 6), 1)


# ---- refused -----------------------------------------------------------------------------------


def test_wrong_precisions_are_refused():
    model = nn.Linear(3, 2)
    words = "LRP: precision must be one of float32, tf32, bfloat16; got "
    with pytest.raises(InputError, match=words + "'float16'"):
        LRP(model, precision="float16")
    with pytest.raises(InputTypeError, match=words + "torch.bfloat16"):
        LRP(model, precision=torch.bfloat16)
    with pytest.raises(InputError, match=words):
        xaifast.explain(model, torch.ones(1, 3), "LRP", 0, precision="half")


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_float64_stays_float64(precision):
    model, x = nn.Linear(3, 2).double(), torch.ones(1, 3, dtype=torch.float64)
    lrp = LRP(model, precision=precision)
    for call in (lrp.attribute, lrp.capture, lrp.core, lrp.report):
        with pytest.raises(InputError, match=r'precision must be "float32" .*float64'):
            call(x, 0)
    assert LRP(model, precision="float32").attribute(x, 0).dtype == torch.float64
