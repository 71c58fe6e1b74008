"""Recorded explanations: equal to the ordinary call, compiled, exported, captured."""

import copy
import functools

import nets
import pytest
import torch
from torch import nn

from xaifast import composites as c
from xaifast import ops
from xaifast import rules as r
from xaifast.attr import LRP, Deconvolution, GuidedBackprop
from xaifast.errors import InputError, ModelError

PRESETS = [
    c.EpsilonPlus(),
    c.EpsilonPlusFlat(),
    c.EpsilonAlpha2Beta1(),
    c.EpsilonAlpha2Beta1Flat(),
    c.EpsilonGammaBox(-5.0, 5.0),
    c.ZeroEpsilonGammaBox(torch.tensor(-5.0), 5.0),
    c.LRPStar(),
    c.DeepTaylor(),
    c.DeepTaylorBounded(-5.0, 5.0),
    c.ExcitationBackprop(),
    c.Uniform(r.WSquare(bias=True)),
    c.Uniform(r.Epsilon(0.25, relative=True)),
]


class VGG(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2),
            nn.Flatten(), nn.Linear(32, 12), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(12, 5),
        )  # fmt: skip


class MLP(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 5))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.LSTM(4, 6, bidirectional=True, batch_first=True)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        return self.head(self.layer(x)[0][:, -1])


class Gated(Recurrent):
    def __init__(self):
        super().__init__()
        self.layer = nn.GRU(4, 12, batch_first=True)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.layer = nn.Embedding(11, 4), nn.LSTM(4, 6, batch_first=True)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.layer(self.embedding(x))[0].mean(1))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.block(x).mean(1))


SHAPES = {
    VGG: (3, 9, 8),
    MLP: (7,),
    Recurrent: (5, 4),
    Gated: (5, 4),
    Transformer: (5, 8),
    **nets.SHAPES,
}


def prepared(kind, device="cpu", batch=2):
    torch.manual_seed(1)
    model = nets.prepared(kind()).to(device)
    if kind is Tokens:
        return model, torch.randint(0, 11, (batch, 5), device=device)
    return model, torch.randn(batch, *SHAPES[kind], dtype=torch.float64, device=device)


network = functools.cache(prepared)  # that tests share: none changes it


@functools.cache
def core_of(explain, kind, device):
    """An explainer of a network, and its core, which tests share: none changes it."""
    model, x = network(kind, device)
    explainer = explain(model)
    return explainer, explainer.core(x, torch.tensor([3, 1], device=device)), x


def equal(a, b):
    return a.shape == b.shape and float((a - b).abs().max()) <= 1e-12 * float(b.abs().max())


NETS = (nets.ResNet, nets.Depthwise, nets.Smooth, nets.Sequence)
EXPLAINERS = [
    *((lambda m, p=p: LRP(m, p), VGG, repr(p)) for p in PRESETS),
    *((lambda m: LRP(m, c.EpsilonPlusFlat()), kind, "LRP") for kind in (MLP, *NETS)),
    (lambda m: LRP(m, c.Recurrent("all")), Recurrent, "all"),
    (lambda m: LRP(m, c.Recurrent("prop")), Gated, "prop"),
    (lambda m: LRP(m, c.Recurrent("half")), Tokens, "tokens"),
    (GuidedBackprop, VGG, "guided"),
    (GuidedBackprop, Transformer, "guided"),
    (Deconvolution, VGG, "deconvnet"),
]


@pytest.mark.parametrize(
    ("explain", "kind"),
    [pytest.param(e, k, id=f"{getattr(k, '__name__', '')}-{name}") for e, k, name in EXPLAINERS],
)
def test_captured_equals_the_ordinary_call(explain, kind, device):
    model, x = network(kind, device)
    before = copy.deepcopy(model.state_dict())
    target = torch.tensor([3, -1], device=device)
    explainer = explain(model)
    expected = explainer.attribute(x, target)
    captured = explainer.capture(x, target)
    assert equal(captured(x, target), expected)
    other = x.flip(0) if kind is Tokens else -0.5 * x
    assert equal(captured(other, [0, 4]), explainer.attribute(other, [0, 4]))
    assert equal(captured(x, target), expected)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(p.grad is not None or not p.requires_grad for p in model.parameters())


# ---- compiled and exported -----------------------------------------------------------------------

SOME = [
    (lambda m: LRP(m, c.EpsilonAlpha2Beta1Flat()), VGG),
    (lambda m: LRP(m, c.EpsilonPlus()), nets.ResNet),
    (LRP, MLP),
    (lambda m: LRP(m, c.Recurrent()), Recurrent),
    (GuidedBackprop, Transformer),
]


@pytest.mark.parametrize(("explain", "kind"), SOME, ids=lambda x: getattr(x, "__name__", ""))
def test_compiles_without_a_graph_break(explain, kind, device):
    explainer, core, x = core_of(explain, kind, device)
    target = torch.tensor([3, 1], device=device)
    compiled = torch.compile(core, fullgraph=True, backend="aot_eager")
    assert equal(compiled(x, target), explainer.attribute(x, target))


@pytest.mark.parametrize(("explain", "kind"), SOME, ids=lambda x: getattr(x, "__name__", ""))
def test_exports_for_batches_of_any_size(explain, kind, device):
    explainer, core, x = core_of(explain, kind, device)
    n = {0: torch.export.Dim("n", max=64)}
    target = torch.tensor([3, 1], device=device)
    program = torch.export.export(core, (x, target), dynamic_shapes=(n, n)).module()
    more, targets = torch.cat([x, 2 * x, -x]), torch.tensor([0, 1, 2, 3, 4, 0], device=device)
    expected = explainer.attribute(more, targets)
    assert equal(program(more, targets), expected)
    assert equal(core(more, targets), expected)


def test_a_model_that_fixes_its_batch_is_recorded_for_that_batch_only():
    model, x = prepared(nets.Depthwise)
    core = LRP(model).core(x, 1)
    assert equal(core(x, torch.tensor([1, 1])), LRP(model).attribute(x, 1))
    with pytest.raises(InputError, match=r"inputs must have the shape \[2, 3, 9, 8\]"):
        core(x[:1], torch.tensor([1]))


# ---- targets and starts --------------------------------------------------------------------------


class Dense(nn.Module):
    """An output with places."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        return torch.relu(self.conv(x))


SHAPES[Dense] = (3, 5, 4)
FORMS = [
    (VGG, [[0, 1, 2], [4, 3, 2]]),
    (VGG, "all"),
    (VGG, torch.eye(5)[[1, 3]].bool()),
    (Dense, (slice(1, 3), 2, slice(None))),
    (Dense, [(1, 2, 3), (0, 4, 0)]),
    (Dense, torch.rand(4, 5, 4) > 0.5),
]


@pytest.mark.parametrize(("kind", "target"), FORMS)
def test_targets_in_all_forms(kind, target, device):
    model, x = prepared(kind, device)
    start = "one" if kind is Dense else "output"
    lrp = LRP(model)
    expected = lrp.attribute(x, target, start=start)
    assert equal(lrp.capture(x, target, start=start)(x, target), expected)


@pytest.mark.parametrize("targets", [(), (3,)])
def test_a_start_of_ones_own(targets, device):
    model, x = prepared(VGG, device)
    start, other = torch.randn(2, *targets, 2, 5, dtype=torch.float64, device=device)
    lrp = LRP(model)
    captured = lrp.capture(x, start=start)
    assert equal(captured(x, start=other), lrp.attribute(x, start=other))
    assert equal(lrp.core(x, start=start)(x, other), lrp.attribute(x, start=other))


class Two(nn.Module):
    """Two inputs, and further arguments that get no relevance."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, x, y, scale, double):
        z = torch.relu(self.first(x) + self.second(y) * scale)
        return (2 * z if double else z).sum(1)


def test_several_inputs_and_further_arguments(device):
    model = nets.prepared(Two()).to(device)
    x, y, scale = (torch.randn(4, n, dtype=torch.float64, device=device) for n in (3, 2, 1))
    lrp = LRP(model, c.Uniform(r.Epsilon()).with_rules((c.kind("mul"), r.Transpose())))
    expected = lrp.attribute((x, y), None, (scale, True))
    captured = lrp.capture((x, y), None, (scale, True))
    core = lrp.core((x, y), None, (scale, True))
    for got in (captured((x, y), None, (scale, True)), core(x, y, scale)):
        assert all(equal(a, b) for a, b in zip(got, expected, strict=True))
    with pytest.raises(InputError, match="additional_forward_args must hold True, as captured"):
        captured((x, y), None, (scale, False))
    with pytest.raises(InputError, match="inputs must be 2, with 2 additional arguments"):
        captured(x, None, (y, scale, True))
    with pytest.raises(InputError, match="target must be None, as captured"):
        captured((x, y), 0, (scale, True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes(dtype, device):
    model, x = prepared(VGG, device)
    model, x = model.to(dtype), x.to(dtype)
    expected = LRP(model).attribute(x, 1)
    got = LRP(model).capture(x, 1)(x, 1)
    assert got.dtype == dtype
    assert torch.allclose(got.float(), expected.float(), rtol=2e-2, atol=1e-4)


def test_layouts_of_the_inputs_do_not_matter(device):
    model, x = prepared(nets.ResNet, device)
    captured = LRP(model).capture(x, 1)
    other = x.to(memory_format=torch.channels_last)
    assert equal(captured(other, 1), LRP(model).attribute(x, 1))
    assert equal(captured(x.mT.contiguous().mT, 1), LRP(model).attribute(x, 1))


# ---- parameters ----------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["step", "load", "data"])
def test_changed_parameters_are_seen(change, device):
    model, x = prepared(nets.ResNet, device)  # weights derived by rules from folded ones
    target = torch.tensor([0, 1], device=device)
    lrp = LRP(model, c.EpsilonAlpha2Beta1Flat())
    core, captured = lrp.core(x, target), lrp.capture(x, target)
    before = captured(x, target)
    if change == "load":
        model.load_state_dict({k: 0.9 * v for k, v in model.state_dict().items()})
    else:
        with torch.no_grad():
            for p in model.parameters():
                if change == "step":
                    p.add_(0.05 * torch.randn_like(p))
                else:
                    p.data.mul_(0.9)
    expected = LRP(model, c.EpsilonAlpha2Beta1Flat()).attribute(x, target)
    assert not equal(before, expected)
    if change != "data" or device.type == "cpu":  # leaves no trace on CUDA
        assert equal(captured(x, target), expected)
    assert equal(core(x, target), expected)


def test_moved_parameters_are_refused(device):
    model, x = prepared(VGG, device)
    captured = LRP(model).capture(x, 1)
    model[0].weight = nn.Parameter(model[0].weight.detach().clone())
    with pytest.raises(ModelError, match="have moved, or others have taken their place"):
        captured(x, 1)


# ---- what is refused, and what is not looked at --------------------------------------------------


def test_arguments_that_do_not_fit(device):
    model, x = prepared(VGG, device)
    captured = LRP(model).capture(x, [1, 2])
    for other in (x[:1], x.float()):
        with pytest.raises(
            InputError, match=r"inputs must be as captured, of shape \[2, 3, 9, 8\]"
        ):
            captured(other, [1, 2])
    with pytest.raises(InputError, match=r"the form of the captured one \(one for each sample\)"):
        captured(x, [[1, 2], [3, 4]])
    with pytest.raises(InputError, match=r"target must lie in \[-5, 4\]"):
        captured(x, 5)
    with pytest.raises(InputError, match="target must have one entry for each of the 2 samples"):
        captured(x, [1, 2, 3])


def test_what_depends_on_values_is_refused():
    model, x = prepared(VGG)
    with pytest.raises(InputError, match="start must not depend on which classes"):
        LRP(model).capture(x, 1, start="log_odds")
    for target, start in ((1, torch.ones(2, 5)), (None, torch.ones(2, 4))):
        with pytest.raises(InputError, match=r"target must be None when|start must, as a tensor,"):
            LRP(model).core(x, target, start=start)
    with pytest.raises(InputError, match="inputs must hold at least one sample"):
        LRP(model).core(x[:0], 1)

    class Curious(r.Pass):
        def propagate(self, node, inputs, output, R, balance=None):
            return (R if R.sum() > 0 else 2 * R,)

    rule = (c.kind("activation"), Curious())
    with pytest.raises(ModelError, match="cannot be recorded as a graph of tensor operations"):
        LRP(model, c.EpsilonPlus().with_rules(rule)).capture(x, 1)


def test_values_are_not_looked_at_but_never_hidden(device):
    model, x = prepared(VGG, device)
    core = LRP(model).core(x, [1, 2])
    R = core(x, torch.tensor([1, 5], device=device))
    assert torch.isfinite(R[0]).all()
    assert torch.isnan(R[1]).any()
    x[0, 0, 0, 0] = torch.nan
    assert torch.isnan(LRP(model).capture(x.nan_to_num(), 1)(x, 1)[0]).any()


def test_results_are_the_callers_own(device):
    model, x = prepared(MLP, device)
    captured = LRP(model).capture(x, 1)
    first = captured(x, 1)
    kept = first.clone()
    second = captured(2 * x, 1)
    assert torch.equal(first, kept)
    second.zero_()
    assert equal(captured(x, 1), kept)
    assert not first.requires_grad


# ---- large convolutions on a CPU -----------------------------------------------------------------


class Large(nn.Sequential):
    """One convolution of 43 million products: its weights are prepared for the kernels."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 64, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5),
        )  # fmt: skip


@pytest.mark.parametrize("several", [False, True])
def test_large_convolutions_run_on_the_weights_of_the_ordinary_call(several, device):
    torch.manual_seed(2)
    model, x = Large().to(device).eval(), torch.randn(2, 3, 68, 68, device=device)
    lrp, inputs = LRP(model, c.EpsilonAlpha2Beta1Flat()), (x,) if several else x
    captured = lrp.capture(inputs, 1)
    for target in (1, [0, 4]):
        got, expected = captured(inputs, target), lrp.attribute(inputs, target)
        assert isinstance(got, tuple) == several
        got, expected = (got[0], expected[0]) if several else (got, expected)
        if ops.packs_weights(x):
            assert torch.equal(got, expected)
        assert torch.allclose(got, expected, atol=1e-4 * float(expected.abs().max()))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.9)
    got, expected = captured(inputs, 1), lrp.attribute(inputs, 1)
    got, expected = (got[0], expected[0]) if several else (got, expected)
    assert torch.allclose(got, expected, atol=1e-4 * float(expected.abs().max()))
    with pytest.raises(InputError, match="must be as captured, of shape"):
        captured((x[:1],) if several else x[:1], 1)
    model[2].weight = nn.Parameter(model[2].weight.detach().clone())
    with pytest.raises(ModelError, match="have moved, or others have taken their place"):
        captured(inputs, 1)
