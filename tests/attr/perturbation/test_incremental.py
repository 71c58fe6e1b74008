"""Perturbations evaluated only where they change something: as on whole maps, in every case."""

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import SHAPES, ResNet, inputs, prepared, shared
from torch import nn

from xaifast.attr import FeatureAblation, Occlusion
from xaifast.attr.perturbation import incremental


class Code(nn.Module):
    """A module from a function f(self, *inputs) and its parts."""

    def __init__(self, f, **parts):
        super().__init__()
        self.f = f
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs):
        return self.f(self, *inputs)


@pytest.fixture(autouse=True)
def plans(monkeypatch):
    """The plans that were made; small models take part, too."""
    made = []
    found = incremental.Incremental.scores

    def scores(self, baseline):
        made.append(self.plan)
        return found(self, baseline)

    monkeypatch.setattr(incremental, "STARTED", 0)
    monkeypatch.setattr(incremental, "WORTH", 10.0)
    monkeypatch.setattr(incremental.Incremental, "scores", scores)
    return made


def whole(method, model, x, *args, **options):
    return method(model, optimize=False).attribute(x, *args, **options)


def close(got, expected, tolerance=1e-12):
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    assert float((got - expected).abs().max()) <= tolerance * scale if got.numel() else True


def on_boxes(plans):
    """Operations that ran on boxes in some group."""
    return {node.op for plan in plans for g in plan.groups for node in g.sizes if node.inputs}


def check(model, x, window, *args, method=Occlusion, **options):
    options = {"target": 1, "baselines": 0.3, **options}
    got = method(model, optimize=True).attribute(x, window, *args, **options)
    close(got, whole(method, model, x, window, *args, **options))


# ---- the networks that trip explainers up ------------------------------------------------------

BATCHED = {kind: shape for kind, shape in SHAPES.items() if kind.__name__ != "Depthwise"}


@pytest.mark.parametrize("kind", BATCHED)
@pytest.mark.parametrize("target", [1, None, [[0, 1], [1, 2]]], ids=["one", "all", "several"])
def test_networks_that_trip_explainers_up(kind, target, plans):
    model, x, shape = shared(kind), inputs(kind), SHAPES[kind]
    dims = len(shape) - 1
    for window in ((shape[0], *(3,) * dims), (1, *(2,) * dims), shape):
        check(model, x, window, target=target)
    assert on_boxes(plans)


def test_a_model_of_one_batch_size_runs_as_it_is(plans):
    kind = next(k for k in SHAPES if k.__name__ == "Depthwise")
    model, x = shared(kind), inputs(kind)
    got = Occlusion(model).attribute(x, (3, 2, 2), target=1)
    close(got, whole(Occlusion, model, x, (3, 2, 2), target=1))
    assert not plans


def test_float32_on_boxes_by_winograds_convolution(plans):
    torch.manual_seed(3)
    model = nn.Sequential(
        conv(3, 32, padding=1), nn.ReLU(), conv(32, 32, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        conv(32, 64), nn.ReLU(), conv(64, 64, padding=1), nn.Flatten(), nn.LazyLinear(3),
    )  # fmt: skip
    x = torch.randn(1, 3, 37, 30)
    with torch.no_grad():
        largest = float(model(x).abs().max())
    wide = copy.deepcopy(model).double()
    for window, stride in ((4, 3), (9, 5)):
        sizes = {"sliding_window_shapes": (3, window, window), "strides": (3, stride, stride)}
        want = whole(Occlusion, wide, x.double(), target=1, **sizes)
        got = Occlusion(model, optimize=True).attribute(x, target=1, **sizes)
        assert float((got - want).abs().max()) <= 1e-5 * largest
    assert "conv2d" in on_boxes(plans)


# ---- operations --------------------------------------------------------------------------------


def conv(i, o, k=3, **options):
    return nn.Conv2d(i, o, k, **options)


OPERATIONS = {
    "stride": lambda: conv(4, 5, 3, stride=2, padding=1),
    "stride beyond the kernel": lambda: conv(4, 5, 2, stride=3),
    "rest": lambda: conv(4, 5, (4, 3), stride=(3, 2)),
    "padding": lambda: conv(4, 5, 3, padding=(4, 0)),
    "same": lambda: conv(4, 5, (5, 3), padding="same"),
    "dilation": lambda: conv(4, 5, 3, padding=2, dilation=(2, 3)),
    "groups": lambda: conv(4, 6, 3, groups=2, padding=1),
    "depthwise": lambda: conv(4, 8, 3, groups=4, stride=2, padding=1),
    "without bias": lambda: conv(4, 5, bias=False),
    "reflect": lambda: conv(4, 5, padding=1, padding_mode="reflect"),
    "transposed": lambda: nn.ConvTranspose2d(4, 5, 3, stride=2),
    "zero pad": lambda: nn.Sequential(nn.ZeroPad2d((0, 1, 2, 1)), conv(4, 5, stride=2)),
    "max": lambda: nn.MaxPool2d(2),
    "max padded": lambda: nn.MaxPool2d(3, 2, 1),
    "max dilated": lambda: nn.MaxPool2d(2, 1, 1, dilation=2),
    "max ceil": lambda: nn.MaxPool2d(3, 2, ceil_mode=True),
    "max ceil padded": lambda: nn.MaxPool2d(3, 4, 1, ceil_mode=True),
    "average": lambda: nn.AvgPool2d(2),
    "average padded": lambda: nn.AvgPool2d(3, 2, 1),
    "average of inputs alone": lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "average ceil": lambda: nn.AvgPool2d((3, 2), 2, 1, ceil_mode=True),
    "average ceil of inputs alone": lambda: nn.AvgPool2d(3, 2, 1, True, count_include_pad=False),
    "average divided": lambda: nn.AvgPool2d(3, 2, 1, divisor_override=5),
    "batch norm": lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU()),
    "batch norm before padding": lambda: nn.Sequential(
        nn.ReLU(), nn.BatchNorm2d(4), conv(4, 5, padding=1), nn.ReLU()
    ),
    "prelu": lambda: nn.PReLU(4),
    "smooth": lambda: nn.Sequential(nn.GELU(), nn.Hardswish(), nn.Tanh()),
    "group norm": lambda: nn.GroupNorm(2, 4),
    "shuffle": lambda: nn.PixelShuffle(2),
    "upsample": lambda: nn.Upsample(scale_factor=2),
    "softmax": lambda: nn.Softmax2d(),
    "flatten": lambda: nn.Flatten(2),
    "residual": lambda: Code(lambda s, x: x + s.a(x), a=conv(4, 4, padding=1)),
    "strided residual": lambda: Code(
        lambda s, x: s.b(x) - s.a(x) * 2,
        a=conv(4, 4, padding=1, stride=2), b=conv(4, 4, 1, stride=2),
    ),
    "branches": lambda: Code(
        lambda s, x: torch.cat([s.a(x), x, s.b(x)], 1),
        a=conv(4, 2, 5, padding=2), b=nn.MaxPool2d(3, 1, 1),
    ),
    "along a spatial axis": lambda: Code(lambda s, x: torch.cat([x, x.relu()], 2)),
    "pieces": lambda: Code(lambda s, x: x[:, 1:3] * x.chunk(2, 1)[0]),
    "shape": lambda: Code(lambda s, x: x + x.new_ones(x.shape[1:]) * x.shape[2]),
    "map": lambda: Code(lambda s, x: x * torch.arange(11.0, dtype=x.dtype) + 1),
    "one channel": lambda: Code(lambda s, x: x * s.a(x).sigmoid(), a=conv(4, 1, padding=1)),
    "gate": lambda: Code(lambda s, x: x * x.mean((2, 3), keepdim=True)),
    "dropped corner": lambda: Code(lambda s, x: x[:, :, 1:, 2:]),
    "comparison": lambda: Code(lambda s, x: x * (x > 0)),
    "flipped": lambda: Code(lambda s, x: x.flip(3)),
    "transposed map": lambda: Code(lambda s, x: x.transpose(2, 3)),
    "division": lambda: Code(lambda s, x: (x / (1 + x.abs())).pow(2) + 1 / (3 + x.exp())),
}  # fmt: skip


class Net(nn.Module):
    """An operation between two convolutions, and a sum over the positions."""

    def __init__(self, part):
        super().__init__()
        self.stem, self.part = nn.Conv2d(2, 4, 3, padding=1), part

    def forward(self, x):
        y = self.part(F.relu(self.stem(x)))
        y = y.flatten(2) if y.dim() > 3 else y
        return (y.cumsum(2) * 0.1).sin().sum(1)[:, :7]  # order and position matter


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name, plans):
    model, x = prepared(Net(OPERATIONS[name]())), torch.randn(2, 2, 13, 11).double()
    check(model, x, (2, 3, 3), (2, 2, 2), target=[[0, 6], [5, 2]])
    check(model, x, (1, 2, 5), (1, 2, 2), target=3)
    assert "conv2d" in on_boxes(plans)


def test_what_slides_and_what_is_local_runs_on_boxes(plans):
    expected = {
        "max padded": "max_pool2d", "average ceil": "avg_pool2d", "batch norm": "affine",
        "prelu": "prelu", "residual": "add", "branches": "cat", "pieces": "narrow", "map": "affine",
        "one channel": "mul", "zero pad": "cropped", "batch norm before padding": "with_bias_map",
    }  # fmt: skip
    x = torch.randn(1, 2, 13, 11).double()
    for name, op in expected.items():
        plans.clear()
        Occlusion(prepared(Net(OPERATIONS[name]())), optimize=True).attribute(
            x, (2, 2, 2), target=0
        )
        assert op in on_boxes(plans), name


# ---- perturbations -----------------------------------------------------------------------------


def small():
    return prepared(Net(nn.Sequential(nn.MaxPool2d(2), conv(4, 4, padding=1), nn.ReLU())))


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("size", [1, 7, "auto"])
def test_batches_of_samples_and_of_windows(batch, size, plans):
    model, x = small(), torch.randn(batch, 2, 13, 11).double()
    options = {"target": [2, 4, 5][:batch] if batch else 1, "internal_batch_size": size}
    check(model, x, (2, 4, 3), 2, **options)
    assert len(plans) == (batch if size == 1 else min(1, batch))  # for each block of samples


def test_no_more_windows_at_once_than_asked_for(monkeypatch, plans):
    counts = []
    found = incremental.Changes.output

    def output(self, group, rows, *rest):
        counts.append(len(rows))
        return found(self, group, rows, *rest)

    monkeypatch.setattr(incremental.Changes, "output", output)
    model, x = small(), torch.randn(2, 2, 13, 11).double()
    check(model, x, (2, 2, 2), internal_batch_size=5)
    assert max(counts) <= 5
    assert sum(counts) == 2 * 12 * 10


BASELINES = {
    "number": 0.5,
    "samples": torch.linspace(-1, 1, 3 * 2 * 13 * 11).double().view(3, 2, 13, 11),
    "one sample": torch.linspace(-1, 1, 2 * 13 * 11).double().view(1, 2, 13, 11),
    "blur": "blur",
    "several": [0.0, 1.0],
}


@pytest.mark.parametrize("baseline", BASELINES.values(), ids=BASELINES)
@pytest.mark.parametrize("stat", ["difference", "score"])
def test_baselines_and_what_is_attributed(baseline, stat, plans):
    x = torch.randn(3, 2, 13, 11).double()
    check(small(), x, (1, 4, 3), (1, 3, 2), baselines=baseline, stat=stat)
    check(small(), x, (2, 4, 3), (2, 3, 2), baselines=baseline, stat=stat, probability=True)
    assert len(plans) == 2 * (2 if isinstance(baseline, list) else 1)


@pytest.mark.parametrize("method", [FeatureAblation, Occlusion])
def test_additional_arguments_belong_to_their_samples(method, plans):
    def f(self, x, scale, factor):
        y = F.max_pool2d(F.relu(self.a(x)), 3, 1)
        return (y.sum((2, 3)) * scale + y.flatten(1)[:, :4]) * factor

    model, x = prepared(Code(f, a=conv(2, 4))), torch.randn(3, 2, 9, 8).double()
    more = {"additional_forward_args": (torch.randn(3, 4).double(), 2.0), "target": [0, 1, 3]}
    window = {"sliding_window_shapes": (2, 2, 2)} if method is Occlusion else {}
    got = method(model, optimize=True).attribute(x, **window, **more)
    close(got, whole(method, model, x, **window, **more))
    assert plans


MASKS = {
    "elements": None,
    "rectangles": torch.arange(13)[:, None] // 4 * 3 + torch.arange(11) // 4,
    "rows": torch.arange(13)[:, None] // 2,
    "any": torch.arange(13 * 11).view(13, 11) * 7 % 5,
    "channels": torch.arange(2)[:, None, None] * 2 + torch.arange(11) // 6,
    "gaps": torch.arange(13)[:, None] // 4 * 10 - 7,
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_segments(mask, plans):
    x = torch.randn(2, 2, 13, 11).double()
    model = small()
    got = FeatureAblation(model, optimize=True).attribute(x, 0.2, 3, feature_mask=mask)
    close(got, whole(FeatureAblation, model, x, 0.2, 3, feature_mask=mask))
    assert len(plans) == 1


def test_segments_of_each_sample_run_on_whole_maps(plans):
    x, mask = torch.randn(2, 2, 13, 11).double(), torch.arange(2 * 13 * 11).view(2, 1, 13, 11) // 40
    model = small()
    got = FeatureAblation(model, optimize=True).attribute(x, target=1, feature_mask=mask)
    close(got, whole(FeatureAblation, model, x, target=1, feature_mask=mask))
    assert not plans


def test_maps_as_outputs(plans):
    model = prepared(nn.Sequential(conv(2, 4, padding=1), nn.ReLU(), conv(4, 3, stride=2)))
    x = torch.randn(2, 2, 9, 8).double()
    check(model, x, (2, 2, 2), target=None)
    check(model, x, (2, 2, 2), target=(1, 2, 0))
    assert all(plan.graph.output in g.sizes for plan in plans for g in plan.groups)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_single_and_half_precision(dtype, plans):
    torch.manual_seed(0)
    model = small().to(dtype)
    x = torch.randn(2, 2, 13, 11).to(dtype)
    got = Occlusion(model, optimize=True).attribute(x, (2, 3, 3), target=2, baselines=0.3)
    exact = small()
    exact.load_state_dict({k: v.double() for k, v in model.state_dict().items()})
    base = torch.tensor(0.3).to(dtype).double().item()
    expected = whole(Occlusion, exact, x.double(), (2, 3, 3), target=2, baselines=base)
    assert got.dtype == dtype
    close(got.double(), expected, 1e-5 if dtype == torch.float32 else 1e-2)
    assert plans


# ---- what pays ---------------------------------------------------------------------------------


def test_nothing_to_gain_runs_on_whole_maps(monkeypatch, plans):
    monkeypatch.setattr(incremental, "WORTH", 0.8)

    def attend(self, x):
        y = self.a(x).flatten(2).transpose(1, 2)
        y = F.scaled_dot_product_attention(self.b(y), self.c(y), y)
        return self.d(y.mean(1))

    parts = {"b": nn.Linear(8, 8), "c": nn.Linear(8, 8), "d": nn.Linear(8, 5)}
    model = prepared(Code(attend, a=conv(3, 8, 4, stride=4), **parts))
    x = torch.randn(2, 3, 16, 16).double()
    check(model, x, (3, 4, 4), (3, 4, 4))
    assert not plans
    flat = prepared(nn.Sequential(nn.Flatten(), nn.Linear(48, 3)))
    check(flat, x[:, :, :4, :4], (3, 2, 2))
    assert not plans


def test_optimize_false_and_functions_run_as_they_are(plans):
    model, x = small(), torch.randn(1, 2, 13, 11).double()
    whole(Occlusion, model, x, (2, 3, 3), target=0)
    Occlusion(lambda x: model(x)).attribute(x, (2, 3, 3), target=0)
    assert not plans


def test_the_plan_says_what_runs_on_boxes(monkeypatch):
    model, x = small(), torch.randn(1, 2, 13, 11).double()
    plan = Occlusion(model, optimize=True).plan(x, (2, 2, 2), (2, 2, 2)).splitlines()
    assert plan[0].startswith("42 perturbations in 1 groups, ")
    (stem,) = (line for line in plan if " stem " in line)
    assert stem.endswith(" 4 x 13 x 11          boxes 4 x 4")
    assert plan[-1].endswith(" whole maps")
    monkeypatch.setattr(incremental, "WORTH", 0.0)
    assert "boxes would need" in Occlusion(model, optimize=True).plan(x, (2, 2, 2))
    assert "called as it is" in Occlusion(model, optimize=False).plan(x, (2, 2, 2))
    flat = prepared(nn.Sequential(nn.Flatten(), nn.Linear(6, 3)))
    plan = Occlusion(flat, optimize=True).plan(torch.randn(2, 6).double(), (2,))
    assert plan == "The graph of the model is run on whole maps."


def test_training_goes_on(plans):
    model, x = small(), torch.randn(1, 2, 13, 11).double()
    explainer = Occlusion(model, optimize=True)
    for _ in range(2):
        got = explainer.attribute(x, (2, 3, 3), target=0)
        close(got, whole(Occlusion, model, x, (2, 3, 3), target=0))
        with torch.no_grad():
            model.stem.weight.mul_(-1)


def test_changes_of_like_sizes_form_groups(plans):
    # windows that begin on an even position change one place less behind the pooling
    model, x = prepared(Net(nn.MaxPool2d(2))), torch.randn(1, 2, 32, 32).double()
    check(model, x, (2, 2, 2))
    (plan,) = plans
    assert len(plan.groups) > 1
    members = torch.cat([g.members for g in plan.groups])
    assert torch.equal(members.sort().values, torch.arange(31 * 31))


# ---- any stack of layers -----------------------------------------------------------------------


def _layer(draw, channels):
    k, s, p = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(0, 2))
    kind = draw(st.sampled_from(["conv", "depthwise", "max", "average", "residual", "branches"]))
    if kind == "conv":
        return nn.Conv2d(channels, channels, k, s, p, draw(st.integers(1, 2)))
    if kind == "depthwise":
        return nn.Conv2d(channels, channels, k, s, p, groups=channels, bias=False)
    p, ceil = min(p, k // 2), draw(st.booleans())
    if kind == "max":
        return nn.MaxPool2d(k, s, p, ceil_mode=ceil)
    if kind == "average":
        return nn.AvgPool2d(k, s, p, ceil, count_include_pad=draw(st.booleans()))
    odd = 2 * (k // 2) + 1
    a = nn.Conv2d(channels, channels, odd, padding=odd // 2)
    if kind == "residual":
        return Code(lambda s, x: F.relu(s.a(x)) + x, a=a)
    b = nn.Conv2d(2 * channels, channels, 1)
    return Code(lambda s, x: s.b(torch.cat([x, s.a(x).tanh()], 1)), a=a, b=b)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_any_stack_of_layers(data):
    torch.manual_seed(data.draw(st.integers(0, 100)))
    size = data.draw(st.tuples(st.integers(9, 17), st.integers(9, 17)))
    x = torch.randn(data.draw(st.integers(1, 2)), 2, *size).double()
    y, layers = x, []
    for _ in range(data.draw(st.integers(1, 4))):
        layer = _layer(data.draw, 2).double()
        try:
            y = layer(y)
        except RuntimeError:  # the map is too small for the kernel by now
            break
        layers += [layer, nn.ReLU()] if data.draw(st.booleans()) else [layer]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(y[0].numel(), 3)).double().eval()
    window = tuple(data.draw(st.integers(1, n)) for n in (2, *size))
    stride = tuple(data.draw(st.integers(1, w)) for w in window)
    options = {"baselines": 0.7, "target": data.draw(st.sampled_from([None, 2]))}
    got = Occlusion(model, optimize=True).attribute(x, window, stride, **options)
    close(got, whole(Occlusion, model, x, window, stride, **options))


def test_the_plan_is_made_once_for_windows_of_one_kind(plans):
    model, x = shared(ResNet), inputs(ResNet)
    explainer = Occlusion(model, optimize=True)
    want = {
        size: Occlusion(model, optimize=False).attribute(x, (3, size, size), target=1)
        for size in (3, 4)
    }
    for size in (3, 4, 3, 4, 3):
        found = explainer.attribute(x, (3, size, size), target=1)
        assert torch.allclose(found, want[size], atol=1e-12)
    assert len({id(plan) for plan in plans}) == 2
