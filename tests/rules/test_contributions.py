"""Rules through zplus_conv, where a kernel is said to be faster: the same maps as without it."""

import copy
import functools

import nets
import pytest
import torch
from tensors import signed
from torch import nn

from xaifast import composites as c
from xaifast import ops
from xaifast import rules as r
from xaifast.attr import LRP
from xaifast.ops import conv_table

# in, convolution
GEOMETRIES = {
    "1d": ((7,), lambda: nn.Conv1d(3, 5, 3, stride=2, padding=1)),
    "2d": ((9, 8), lambda: nn.Conv2d(3, 6, (3, 2), stride=(1, 2), padding=(1, 0), dilation=(2, 1))),
    "groups": ((7, 7), lambda: nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2)),
    "no bias": ((6, 5), lambda: nn.Conv2d(4, 3, 1, bias=False)),
    "3d": ((4, 5, 3), lambda: nn.Conv3d(2, 3, (2, 3, 2), stride=(2, 1, 1), padding=(0, 1, 1))),
}
BOUND = torch.tensor([4.5, 5.0, 5.5, 4.25], dtype=torch.float64)

# rule, its calls where inputs may be negative, and behind a ReLU
CALLS = [
    (r.ZPlus(), ["positive"], ["all"]),
    (r.ZPlus(bias=False), ["positive"], ["all"]),
    (r.AlphaBeta(2, 1), ["positive", "negative"], ["all", "all"]),
    (r.AlphaBeta(1.5, 0.5, bias=False), ["positive", "negative"], ["all", "all"]),
    (r.Epsilon(0.1), ["all"], ["all"]),
    (r.Epsilon(0.1, bias=False), ["all"], ["all"]),
    (r.Epsilon(0.25, relative=True), [], []),  # a stabilizer for each sample
    (r.Gamma(), [], ["all", "all"]),  # two products of two different pairs of weights
    (r.Gamma(0.5, bias=False), [], ["all", "all"]),
    (r.ZBox(-4.25, 4.5), ["box"], ["box"]),
    (r.WSquare(), ["square"], ["square"]),
    (r.WSquare(bias=True), ["square"], ["square"]),
    (r.Flat(), [], []),  # cheaper without a product of all channels
]


@pytest.fixture
def calls(monkeypatch):
    """The rules of the calls of zplus_conv, which computes by the library."""
    found, run = [], ops.zplus_conv

    def zplus_conv(*args, kernel, **rest):
        assert kernel == "tiles"
        found.append(rest["rule"])
        return run(*args, kernel="library", **rest)

    monkeypatch.setattr(ops, "zplus_conv", zplus_conv)
    return found


@pytest.fixture
def forced(calls, monkeypatch):
    """Say of every convolution that a kernel of ours is faster."""

    def force(kernel="tiles"):
        monkeypatch.setattr(conv_table, "choose", lambda *_: kernel)
        calls.clear()
        return calls

    return force


def close(a, b):
    return a.shape == b.shape and float((a - b).abs().max()) <= 1e-10 * float(b.abs().max())


def explained(model, rule, x, start):
    return LRP(model, c.Uniform(rule)).attribute(x, start=start)


@functools.cache  # a model is captured once
def model_of(geometry, relu):
    torch.manual_seed(0)
    size, make = GEOMETRIES[geometry]
    conv = make()
    x = signed(3, conv.in_channels, *size)
    return nets.prepared(nn.Sequential(nn.ReLU(), conv) if relu else nn.Sequential(conv)), x


@pytest.mark.parametrize(("rule", "signed_calls", "relu_calls"), CALLS, ids=repr)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_rule_gives_the_same_map(rule, signed_calls, relu_calls, geometry, forced):
    for relu, targets in ((False, (2,)), (True, ())):
        model, x = model_of(geometry, relu)
        start = signed(*targets, *model(x).shape)
        lrp = LRP(model, c.Uniform(rule))
        forced("library")
        expected = lrp.attribute(x, start=start)
        found = forced()
        assert close(lrp.attribute(x, start=start), expected)
        assert found == (relu_calls if relu else signed_calls)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("rule", "signed_calls", "relu_calls"), CALLS, ids=repr)
def test_a_kernel_on_cuda_gives_the_same_map(rule, signed_calls, relu_calls, monkeypatch):
    model, x = model_of("no bias", relu=False)
    model, x = copy.deepcopy(model).float().cuda(), x.float().cuda()
    lrp, start = LRP(model, c.Uniform(rule)), signed(2, *model(x).shape, device="cuda").float()
    with torch.backends.cudnn.flags(allow_tf32=False):
        expected = lrp.attribute(x, start=start)
        monkeypatch.setattr(conv_table, "WISH", "own")
        torch.testing.assert_close(lrp.attribute(x, start=start), expected, rtol=1e-4, atol=1e-4)


def test_gamma_below_a_relu_is_one_product(forced):
    model = nets.prepared(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU()))
    x = signed(2, 3, 6, 5)
    start = signed(2, 4, 4, 3)
    start = start * (model(x) > 0)
    expected = explained(model, r.Gamma(), x, start)
    found = forced()
    assert close(explained(model, r.Gamma(), x, start), expected)
    assert found in (["all"], ["all", "all"])


BOUNDS = [
    (torch.full((), -6.0), BOUND[:3].view(3, 1, 1), 1),
    (-BOUND[:3].view(1, 3, 1, 1), 5.0, 1),
    (-BOUND[:3].view(3, 1, 1).expand(3, 5, 4), 5.0, 0),  # one for each position
    (-5.0, torch.full((5, 1), 5.0), 0),
]


@pytest.mark.parametrize(("low", "high", "calls_of"), BOUNDS)
def test_boxes_with_bounds_for_each_channel(low, high, calls_of, forced):
    model = nets.prepared(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)))
    x, start = signed(2, 3, 5, 4), signed(2, 4, 5, 4)
    expected = explained(model, r.ZBox(low, high), x, start)
    found = forced()
    assert close(explained(model, r.ZBox(low, high), x, start), expected)
    assert found == ["box"] * calls_of


class Own(r.LinearRule):
    """A rule of a user: |a| |w|, and one with a denominator of its own."""

    def __init__(self, own_z):
        self.own_z = own_z

    def parts(self, layer, a, z):
        w = layer.derive("|w|", torch.abs)
        yield r.Part(a.abs(), w, z=layer.forward(a.abs(), w) + 1 if self.own_z else None)


@pytest.mark.parametrize("own_z", [False, True])
def test_rules_of_a_user(own_z, forced):
    model = nets.prepared(nn.Sequential(nn.Conv2d(3, 4, 3)))
    x, start = signed(2, 3, 5, 4), signed(2, 4, 3, 2)
    expected = explained(model, Own(own_z), x, start)
    found = forced()
    assert close(explained(model, Own(own_z), x, start), expected)
    assert found == ([] if own_z else ["all"])


def padded_after_batch_norm():  # folded into one bias for each position
    return nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1))


OTHERS = [
    lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 3, stride=2)),
    lambda: nn.Sequential(nn.Linear(4, 3)),
    lambda: nn.Sequential(nn.AvgPool2d(2)),
    padded_after_batch_norm,
]


@pytest.mark.parametrize("make", OTHERS, ids=["transposed", "linear", "sum", "bias map"])
def test_what_is_no_plain_convolution_is_left_alone(make, forced):
    torch.manual_seed(0)
    model = nets.prepared(make())
    x = signed(2, 3, 5, 4)
    start = signed(*model(x).shape)
    expected = explained(model, r.Epsilon(0.1), x, start)
    found = forced()
    assert close(explained(model, r.Epsilon(0.1), x, start), expected)
    assert found == []


@pytest.mark.parametrize("kind", [nets.ResNet, nets.Smooth])
def test_whole_networks(kind, forced):
    torch.manual_seed(0)
    model = nets.shared(kind)
    x = torch.randn(2, *nets.SHAPES[kind], dtype=torch.float64)
    for composite in (c.EpsilonPlus(), c.EpsilonAlpha2Beta1(), c.EpsilonGammaBox(-5.0, 5.0)):
        lrp = LRP(model, composite)
        forced("library")
        expected = lrp.attribute(x, [[0, 1], [2, 3]])
        found = forced()
        assert close(lrp.attribute(x, [[0, 1], [2, 3]]), expected)
        assert found


@pytest.mark.parametrize("rule", [r.Epsilon(), r.Gamma()], ids=repr)
def test_a_relu_that_is_computed_with_its_convolution(rule, forced):
    conv, head = nn.Conv2d(3, 4, 3), nn.Linear(24, 5)
    model = nets.prepared(nn.Sequential(conv, nn.ReLU(), nn.Flatten(), head))
    lrp, x = LRP(model, c.Uniform(rule)), signed(2, 3, 5, 4)
    expected = lrp.attribute(x, 1)
    forced()
    assert close(lrp.attribute(x, 1), expected)


def test_a_report_counts_step_by_step(forced):
    model = nets.prepared(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()))
    x = signed(2, 3, 5, 4)
    found = forced()
    LRP(model, c.Uniform(r.ZPlus())).report(x, 1)
    assert found == []


# ---- by the table ----------------------------------------------------------------------------


def test_products_in_bfloat16_are_the_librarys(forced):
    model, x = model_of("2d", relu=True)
    x = x.float()
    model = copy.deepcopy(model).float()
    found = forced()
    LRP(model, c.Uniform(r.ZPlus()), precision="bfloat16").attribute(x, start=model(x))
    assert found == []
    LRP(model, c.Uniform(r.ZPlus())).attribute(x, start=model(x))
    assert found == ["all"]


def test_the_table_that_is_here_sends_nothing_on_the_cpu(calls):
    model = nets.shared(nets.ResNet)
    x = torch.randn(2, *nets.SHAPES[nets.ResNet], dtype=torch.float64)
    for composite in (c.EpsilonPlus(), c.EpsilonAlpha2Beta1(), c.EpsilonGammaBox(-5.0, 5.0)):
        LRP(model, composite).attribute(x, 1)
    assert calls == []


@pytest.fixture
def table(monkeypatch):
    """A table for float64 on the CPU, of 3x3 convolutions from 3 to 4 channels by ZPlus."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(conv_table, "DEVICE", "cpu")
    found = {}
    monkeypatch.setattr(conv_table, "FASTER", found)
    key = ((9, 0), "float64", "positive", False, 3, 4, 1, (3, 3), (1, 1), (1, 1))

    def fill(*spans):
        found[key] = spans

    return fill


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(),
            nn.Linear(48, 5),
        )  # fmt: skip


def explainer(model):
    return LRP(model, c.EpsilonPlus())


def prepared():
    torch.manual_seed(0)
    return nets.prepared(Net()), signed(2, 3, 6, 5), torch.tensor([3, 1])


@pytest.mark.parametrize(("spans", "by_kernel"), [
    ([("tiles", 1, None)], True), ([("tiles", 60, 60)], True), ([("tiles", 61, None)], False),
    ([("tiles", 1, 59)], False),
])  # fmt: skip
def test_the_number_of_positions_decides(spans, by_kernel, table, calls):
    model, x, target = prepared()
    expected = explainer(model).attribute(x, target)
    table(*spans)
    assert close(explainer(model).attribute(x, target), expected)
    assert calls == ["positive"] * by_kernel


def test_a_graph_for_any_batch_is_tied_to_none(table, calls):
    model, x, target = prepared()
    more, targets = torch.cat([x, -x, 2 * x]), torch.tensor([0, 1, 2, 3, 4, 0])
    expected = explainer(model).attribute(more, targets)
    for span, by_kernel in ((("tiles", 30, None), True), (("tiles", 31, None), False),
                            (("tiles", 1, 10**6), False)):  # fmt: skip
        table(span)
        calls.clear()
        core = explainer(model).core(x, target)
        assert calls == ["positive"] * by_kernel
        assert close(core(more, targets), expected)
        n = {0: torch.export.Dim("n", max=64)}
        program = torch.export.export(core, (x, target), dynamic_shapes=(n, n)).module()
        assert close(program(more, targets), expected)


def test_compiled_and_captured(table, calls):
    model, x, target = prepared()
    expected = explainer(model).attribute(x, target)
    table(("tiles", 60, 60))
    captured = explainer(model).capture(x, target)
    assert close(captured(x, target), expected)
    assert calls
    assert close(captured(-0.5 * x, target), explainer(model).attribute(-0.5 * x, target))
    with torch.no_grad():
        model[0].weight.mul_(-0.75)  # weights that were made ready for the kernel follow
    assert close(captured(x, target), explainer(model).attribute(x, target))
    table(("tiles", 1, None))
    compiled = torch.compile(explainer(model).core(x, target), fullgraph=True, backend="aot_eager")
    assert close(compiled(x, target), explainer(model).attribute(x, target))
