"""Feature ablation, permutation and occlusion: by hand, against loops, captum and known answers."""

import numpy as np
import pytest
import torch
from calls import Counting, flat_net
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import DenseNet, ResNet, Smooth, inputs, prepared, shared
from oracle import perturbation as oracle
from peers import captum
from torch import nn

from xaifast.attr import FeatureAblation, FeaturePermutation, Occlusion
from xaifast.errors import ModelError

METHODS = {
    "ablation": lambda f, x, **o: FeatureAblation(f).attribute(x, **o),
    "segments": lambda f, x, **o: FeatureAblation(f).attribute(
        x, feature_mask=torch.arange(x.shape[-1]) // 2, **o
    ),
    "permutation": lambda f, x, **o: FeaturePermutation(f).attribute(x, seed=5, **o),
    "occlusion": lambda f, x, **o: Occlusion(f).attribute(
        x, (1,) * (x.dim() - 2) + (2,), baselines=0.3, **o
    ),
}


def one(f, target):
    """A function of one sample as an array, from one of a batch of tensors."""
    return lambda x: float(f(torch.from_numpy(x).unsqueeze(0))[0, target].detach())


def close(got, expected, tolerance=1e-12):
    expected = torch.as_tensor(expected)
    assert got.shape == expected.shape
    scale = max(1.0, float(expected.double().abs().max()))
    assert float((got.double() - expected.double()).abs().max()) <= tolerance * scale


# ---- by hand -----------------------------------------------------------------------------------


def test_ablation_by_hand():
    # f = x1 x2 + x3 at (2, 3, 4), x' = (1, 1, 1): without x1: 3 + 4, x2: 2 + 4, x3: 6 + 1; f = 10
    x = torch.tensor([[2.0, 3.0, 4.0]])
    r = FeatureAblation(lambda x: x[:, 0] * x[:, 1] + x[:, 2]).attribute(x, baselines=1)
    assert r.tolist() == [[3.0, 4.0, 3.0]]


def test_occlusion_by_hand():
    # f = x1 + ... + x6; windows of 4 in steps of 3: [1, 4] and, cut off, [4, 6]
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    r = Occlusion(lambda x: x.sum(1)).attribute(x, (4,), strides=3)
    assert r.tolist() == [[10.0, 10.0, 10.0, 12.5, 15.0, 15.0]]


def test_permutation_by_hand():
    # two samples can only be exchanged: f = x1 x2, x = (1, 2), (3, 5): f = 2, 15
    # x1 exchanged: 6, 5; x2 exchanged: 5, 6
    x = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    r = FeaturePermutation(lambda x: x[:, 0] * x[:, 1]).attribute(x)
    assert r.tolist() == [[-4.0, -3.0], [10.0, 9.0]]


# ---- against loops -----------------------------------------------------------------------------

MASKS = {
    "none": None,
    "one number": torch.tensor(3),
    "broadcast": torch.tensor([0, 0, 1, 4]),
    "for all samples": torch.tensor([[[0, 1, 1, 2], [2, 2, 0, 5], [7, 7, 7, 7]]]),
    "of each sample": torch.arange(24).view(2, 3, 4) // 5,
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("rows", [1, 5, "auto"])
def test_ablation_is_the_loop(mask, rows):
    f = flat_net(12)
    x, baseline = torch.randn(2, 2, 3, 4).double()
    found = FeatureAblation(f).attribute(
        x, baseline, target=[1, 2], feature_mask=mask, internal_batch_size=rows
    )
    labels = torch.arange(12).view(1, 3, 4) if mask is None else mask
    labels = labels.expand(2, 3, 4).numpy()
    for n, target in enumerate([1, 2]):
        expected = oracle.ablation(one(f, target), x[n].numpy(), baseline[n].numpy(), labels[n])
        close(found[n], expected)


WINDOWS = {
    "one dimension": ((7,), (3,), (2,)),
    "cut off": ((6,), (4,), (3,)),
    "elements": ((3, 4), (1, 1), (1, 1)),
    "whole": ((3, 4), (3, 4), (1, 1)),
    "channels": ((3, 5, 4), (3, 2, 2), (1, 2, 1)),
    "three dimensions": ((2, 3, 5, 4), (2, 2, 3, 1), (2, 1, 2, 1)),
}


@pytest.mark.parametrize(("shape", "window", "stride"), WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("stat", ["difference", "score"])
def test_occlusion_is_the_loop(shape, window, stride, stat):
    f = flat_net(int(np.prod(shape)))
    x, baseline = torch.randn(2, *shape).double(), torch.randn(1, *shape).double()
    found = Occlusion(f).attribute(x, window, stride, baseline, target=1, stat=stat)
    for n in range(2):
        expected = oracle.occlusion(
            one(f, 1), x[n].numpy(), baseline[0].numpy(), window, stride, stat == "score"
        )
        close(found[n], expected)


def test_patches_side_by_side_are_the_books_listing():
    f = flat_net(3 * 7 * 9)
    x = torch.randn(1, 3, 7, 9).double()
    found = Occlusion(f).attribute(x, (3, 4, 4), strides="window", target=2)
    close(found[0], oracle.book_listing(one(f, 2), x[0].numpy(), 4))
    same = Occlusion(f).attribute(x, (3, 4, 4), strides=(3, 4, 4), target=2)
    assert torch.equal(found, same)


def test_occlusion_of_probabilities():
    f = flat_net(8)
    x = torch.randn(2, 8).double()
    found = Occlusion(f).attribute(x, (3,), target=[0, 2], probability=True)
    expected = Occlusion(lambda x: f(x).softmax(-1)).attribute(x, (3,), target=[0, 2])
    close(found, expected)
    plain = Occlusion(f).attribute(x, (3,), target=[0, 2])
    assert float((found - plain).abs().max()) > 0.01


def test_permutation_exchanges_what_the_mask_says():
    f = flat_net(12)
    x = torch.randn(5, 3, 4).double()
    mask = torch.tensor([[0, 0, 1, 1], [2, 0, 1, 1], [2, 2, 2, 2]])
    found = FeaturePermutation(f, lambda x, m: torch.where(m, x.roll(1, 0), x)).attribute(
        x, target=1, feature_mask=mask
    )
    rolled = x.roll(1, 0).numpy()
    for n in range(5):
        expected = oracle.ablation(one(f, 1), x[n].numpy(), rolled[n], mask.numpy())
        close(found[n], expected)


def test_a_feature_of_several_inputs_is_permuted_as_one():
    # the sum of what belongs together is only moved; permuted apart it would be mixed
    x = torch.tensor([[1.0], [10.0], [100.0], [1000.0]])
    sums = []

    def f(a, b):
        sums.append(sorted((a[:, 0] + b[:, 0]).tolist()))
        return (a * b)[:, 0]

    mask = (torch.tensor([[0]]), torch.tensor([[0]]))
    FeaturePermutation(f).attribute((x, 2 * x), feature_mask=mask, seed=1, internal_batch_size=4)
    assert sums[0] == sums[1] == [3.0, 30.0, 300.0, 3000.0]


# ---- as captum ---------------------------------------------------------------------------------


def ours_and_theirs(name, f, x, **options):
    ours = {"FeatureAblation": FeatureAblation, "Occlusion": Occlusion}[name]
    return ours(f).attribute(x, **options), getattr(captum, name)(f).attribute(x, **options)


ABLATIONS = {
    "plain": {},
    "number": {"baselines": 0.7},
    "one for all": {"baselines": torch.linspace(-1, 1, 12).double().view(1, 3, 4)},
    "broadcast": {"baselines": torch.linspace(-1, 1, 4).double()},
    "target of each": {"target": torch.tensor([0, 2, 1])},
    "all outputs": {"target": None},
    "shared mask": {"feature_mask": torch.tensor([[0, 1, 1, 6]])},
    "own masks": {"feature_mask": torch.arange(36).view(3, 3, 4) % 7},
    "several at once": {"perturbations_per_eval": 5},
}


@pytest.mark.parametrize("options", ABLATIONS.values(), ids=ABLATIONS)
def test_ablation_as_captum(options):
    x = torch.randn(3, 3, 4).double()
    got, expected = ours_and_theirs("FeatureAblation", flat_net(12), x, **{"target": 1} | options)
    assert got.dtype == expected.dtype
    close(got, expected, 1e-10)


OCCLUSIONS = {
    "elements": {"sliding_window_shapes": (1, 1)},
    "steps": {"sliding_window_shapes": (2, 3), "strides": (1, 2)},
    "one step": {"sliding_window_shapes": (2, 2), "strides": 2},
    "one step in a tuple": {"sliding_window_shapes": (2, 2), "strides": (2,)},
    "beyond a full window": {"sliding_window_shapes": (3, 2), "strides": (5, 1)},
    "baseline": {"sliding_window_shapes": (2, 2), "baselines": 0.4},
    "target of each": {"sliding_window_shapes": (2, 2), "target": [0, 2, 1]},
    "all outputs": {"sliding_window_shapes": (2, 2), "target": None},
    "several at once": {"sliding_window_shapes": (2, 2), "perturbations_per_eval": 4},
}


@pytest.mark.parametrize("options", OCCLUSIONS.values(), ids=OCCLUSIONS)
def test_occlusion_as_captum(options):
    x = torch.randn(3, 3, 5).double()
    got, expected = ours_and_theirs("Occlusion", flat_net(15), x, **{"target": 1} | options)
    assert got.dtype == torch.float64  # captum rounds to float32
    close(got, expected, 3e-7)


def test_several_inputs_as_captum():
    f = flat_net(9)
    x = (torch.randn(2, 4).double(), torch.randn(2, 5).double())
    options = {"target": 1, "baselines": (0.5, torch.ones(1, 5).double())}
    function = lambda a, b, c: f(torch.cat([a, b], 1)) * c  # noqa: E731
    options["additional_forward_args"] = torch.tensor([[1.0], [3.0]]).double()
    masks = (torch.tensor([[0, 0, 1, 2]]), torch.tensor([[2, 0, 3, 3, 4], [0, 1, 2, 3, 4]]))
    for more in ({}, {"feature_mask": masks}):
        got, expected = ours_and_theirs("FeatureAblation", function, x, **options, **more)
        assert isinstance(got, tuple)
        for g, e in zip(got, expected, strict=True):
            close(g, e, 1e-10)
    got, expected = ours_and_theirs(
        "Occlusion", function, x, sliding_window_shapes=((2,), (3,)), strides=(1, 2), **options
    )
    for g, e in zip(got, expected, strict=True):
        close(g, e, 3e-7)


def test_permutation_as_captum():
    f = flat_net(12)
    x = torch.randn(4, 3, 4).double()

    def roll(x, mask):
        return x.roll(1, 0) * mask + x * ~mask

    for mask in (None, torch.tensor([[0, 1, 1, 2]])):
        got = FeaturePermutation(f, roll).attribute(x, target=2, feature_mask=mask)
        expected = captum.FeaturePermutation(f, roll).attribute(x, target=2, feature_mask=mask)
        close(got, expected, 1e-10)


# ---- known answers -----------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_on_a_linear_model_features_get_what_they_add(data):
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    batch = data.draw(st.integers(1, 3))
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    w, x, b = torch.randn(shape), torch.randn(batch, *shape), torch.randn(batch, *shape)
    w, x, b = w.double(), x.double(), b.double()

    def f(x):
        return (x * w).flatten(1).sum(1)

    each = w * (x - b)
    close(FeatureAblation(f).attribute(x, b), each)
    close(Occlusion(f).attribute(x, (1,) * len(shape), baselines=b), each)
    labels = torch.randint(0, 3, (batch, *shape))
    sums = torch.zeros(batch, 3).double().scatter_add_(1, labels.flatten(1), each.flatten(1))
    expected = sums.gather(1, labels.flatten(1)).view_as(x)
    close(FeatureAblation(f).attribute(x, b, feature_mask=labels), expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10))
def test_sensitivity_n_on_linear_models(seed, n):
    # Ancona et al. 2018: for any n features, the sum of attributions is the change of the output
    # when all n are removed
    generator = torch.Generator().manual_seed(seed)
    w, x = torch.randn(2, 10, generator=generator, dtype=torch.float64)
    removed = torch.randperm(10, generator=generator)[:n]
    f = lambda x: x @ w  # noqa: E731
    without = x.clone()
    without[removed] = 0
    for r in (FeatureAblation(f).attribute(x[None]), Occlusion(f).attribute(x[None], (1,))):
        close(r[0, removed].sum(), (f(x) - f(without)).clone())


def test_a_feature_the_model_does_not_look_at_gets_nothing():
    x = torch.randn(4, 5)
    f = lambda x: x[:, 0] * x[:, 3]  # noqa: E731
    for r in (
        FeatureAblation(f).attribute(x),
        Occlusion(f).attribute(x, (1,)),
        FeaturePermutation(f).attribute(x),
    ):
        assert not r[:, [1, 2, 4]].any()
        assert r[:, [0, 3]].any()


# ---- batching ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_the_same_for_every_batch_size(method):
    f = flat_net(10)
    x = torch.randn(3, 2, 5).double()
    expected = method(f, x, target=[0, 1, 2])
    for rows in (1, 2, 7, 1000):
        counting = Counting(f)
        close(method(counting, x, target=[0, 1, 2], internal_batch_size=rows), expected)
        assert max(counting.rows) <= rows
    for at_once in (1, 4):
        counting = Counting(f)
        close(method(counting, x, target=[0, 1, 2], perturbations_per_eval=at_once), expected)
        assert max(counting.rows) <= 3 * at_once


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("target", [None, [[0, 2], [1, 1], [2, 0]], "all"], ids=str)
def test_blocks_of_samples_keep_outputs_and_targets_apart(method, target):
    f = flat_net(10)
    x = torch.randn(3, 2, 5).double()
    expected = method(f, x, target=target)
    close(method(f, x, target=target, internal_batch_size=2), expected)


def test_no_evaluation_is_done_twice():
    counting = Counting(flat_net(10))
    FeatureAblation(counting).attribute(
        torch.randn(2, 10).double(), target=0, internal_batch_size=6
    )
    assert counting.rows == [2, 6, 6, 6, 2]  # x, and 10 features of 2 samples
    counting = Counting(flat_net(10))
    Occlusion(counting).attribute(
        torch.randn(2, 10).double(), (4,), strides=3, target=0, internal_batch_size=100
    )
    assert counting.rows == [2, 6]  # x, and windows [0, 4), [3, 7), [6, 10)


def test_additional_arguments_go_with_their_samples():
    f = lambda x, scale, power: (x * scale.unsqueeze(1)).pow(power).sum(1)  # noqa: E731
    x, scale = torch.rand(4, 3).double(), torch.tensor([1.0, 2.0, 3.0, 4.0]).double()
    expected = (x * scale.unsqueeze(1)) ** 2
    for rows in (1, 3, "auto"):
        options = {"additional_forward_args": (scale, 2), "internal_batch_size": rows}
        close(FeatureAblation(f).attribute(x, **options), expected)
        close(Occlusion(f).attribute(x, (1,), **options), expected)


# ---- models, dtypes, layouts -------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ResNet, DenseNet, Smooth])
def test_the_graph_gives_what_the_model_gives(kind):
    model, x = shared(kind), inputs(kind)
    mask = torch.arange(x[0, 0].numel()).view(x.shape[2:]) // 9
    for method in (
        lambda o: Occlusion(model, optimize=o).attribute(x, (3, 4, 3), (3, 2, 3), target=[1, 3]),
        lambda o: FeatureAblation(model, optimize=o).attribute(x, 0.1, [1, 3], feature_mask=mask),
        lambda o: FeaturePermutation(model, optimize=o).attribute(x, 2, feature_mask=mask, seed=0),
    ):
        expected = method(False)
        assert float(expected.abs().max()) > 1e-3
        close(method(True), expected, 1e-10)
        close(method(None), expected, 1e-10)


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_stay(dtype, optimize):
    model, x = prepared(ResNet()), inputs(ResNet)
    expected = Occlusion(model).attribute(x, (3, 4, 4), (3, 4, 4), target=1)
    found = Occlusion(model.to(dtype), optimize=optimize).attribute(
        x.to(dtype), (3, 4, 4), (3, 4, 4), target=1
    )
    assert found.dtype == dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-4}.get(dtype, 0.05)
    close(found, expected, tolerance)


def test_integers_and_booleans():
    table = torch.randn(7, 3)
    f = lambda i: table[i].prod(1).sum(1)  # noqa: E731
    i = torch.tensor([[1, 2], [3, 6]])
    r = FeatureAblation(f).attribute(i, baselines=5)
    assert r.dtype == torch.float32
    close(r[0, 0], f(i)[0] - f(torch.tensor([[5, 2]]))[0], 1e-6)
    close(Occlusion(f).attribute(i, (1,), baselines=5), r, 1e-6)
    close(FeatureAblation(f).attribute(i, 5, feature_mask=torch.tensor([0, 1])), r, 1e-6)

    on = torch.tensor([[True, False, True]])
    count = lambda x: (x.long() * torch.tensor([1, 2, 4])).sum(1)  # noqa: E731
    for mask in (None, torch.tensor([0, 1, 2])):
        r = FeatureAblation(count).attribute(on, baselines=True, feature_mask=mask)
        assert r.dtype == torch.int64
        assert r.tolist() == [[0, -2, 0]]
    windows = Occlusion(count).attribute(on, (2,))
    assert windows.dtype == torch.float32
    assert windows.tolist() == [[1.0, 2.5, 4.0]]
    above = lambda x: x.sum(1) > 1  # noqa: E731
    assert FeatureAblation(above).attribute(torch.tensor([[1.0, 0.5]])).tolist() == [[1, 1]]


def test_integers_with_a_floating_baseline():
    f = lambda x: x.double().pow(2).sum(1)  # noqa: E731
    i = torch.tensor([[1, 2], [3, 6]])
    expected = i.double() ** 2 - 0.25
    close(FeatureAblation(f).attribute(i, 0.5), expected, 1e-6)
    close(FeatureAblation(f).attribute(i, 0.5, feature_mask=torch.tensor([0, 1])), expected, 1e-6)
    close(Occlusion(f).attribute(i, (1,), baselines=0.5), expected, 1e-6)


def test_layouts_and_devices(device):
    f = flat_net(3 * 4 * 6).to(device)
    x = torch.randn(2, 3, 4, 6, device=device).double()
    mask = torch.arange(24, device=device).view(4, 6) // 5

    def explain(x):
        ablation = FeatureAblation(f).attribute(x, target=1, feature_mask=mask)
        return ablation, Occlusion(f).attribute(x, (2, 3, 2), 2, target=1)

    expected = explain(x)
    wide = torch.stack([x, x], -1).flatten(-2)[..., ::2]
    assert not wide.is_contiguous()
    for other in (x.to(memory_format=torch.channels_last), wide):
        for got, e in zip(explain(other), expected, strict=True):
            assert got.device.type == device.type
            close(got.cpu(), e.cpu())


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_batch_of_none(method):
    assert method(flat_net(10), torch.zeros(0, 2, 5).double(), target=1).shape == (0, 2, 5)


def test_inputs_without_further_dimensions():
    f = lambda x: x**2  # noqa: E731
    x = torch.tensor([1.0, 2.0, 3.0])
    assert FeatureAblation(f).attribute(x).tolist() == [1.0, 4.0, 9.0]
    assert Occlusion(f).attribute(x, ()).tolist() == [1.0, 4.0, 9.0]
    mask = torch.tensor([0])
    assert FeatureAblation(f).attribute(x, feature_mask=mask).tolist() == [1.0, 4.0, 9.0]


def test_models_that_write_into_their_input():
    def f(x, y):
        return x.relu_().sum(1) + y.mul_(2).sum(1)

    x, y = torch.tensor([[-1.0, 2.0]]), torch.tensor([[3.0]])
    for rows in (1, 10):
        rx, ry = FeatureAblation(f).attribute((x, y), internal_batch_size=rows)
        assert (rx.tolist(), ry.tolist()) == ([[0.0, 2.0]], [[6.0]])
    assert (x.tolist(), y.tolist()) == ([[-1.0, 2.0]], [[3.0]])


def test_futures():
    def f(x):
        future = torch.futures.Future()
        future.set_result(x.sum(1))
        return future

    for method, options in ((FeatureAblation, {}), (Occlusion, {"sliding_window_shapes": (1,)})):
        future = method(f).attribute_future(torch.tensor([[1.0, 2.0]]), **options)
        assert isinstance(future, torch.Future)
        assert future.wait().tolist() == [[1.0, 2.0]]


def test_several_targets():
    f = flat_net(10)
    x = torch.randn(3, 10).double()
    for method in (
        FeatureAblation(f).attribute,
        lambda x, **o: Occlusion(f).attribute(x, (2,), **o),
    ):
        both = method(x, target=[[0, 2], [1, 1], [2, 0]])
        assert both.shape == (2, 3, 10)
        close(both[0], method(x, target=[0, 1, 2]))
        close(both[1], method(x, target=[2, 1, 0]))
        every = method(x, target=None)
        assert every.shape == (9, 10)
        close(every.view(3, 3, 10)[:, 1], method(x, target=1))


# ---- values for the whole batch ----------------------------------------------------------------


def test_inputs_of_different_sizes():
    f = lambda x, s: (x.sum(1) * (s[0] if len(s) else 1)).sum()  # noqa: E731
    x, s = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([2.0, 7.0, 9.0])
    rx, rs = FeatureAblation(f).attribute((x, s))
    assert (rx.tolist(), rs.tolist()) == ([[8.0, 12.0]], [20.0])
    rx, rs = FeatureAblation(f).attribute((x, torch.zeros(0)))
    assert (rx.tolist(), rs.tolist()) == ([[4.0, 6.0]], [0.0])
    rx, rs = Occlusion(f).attribute((x, s), ((2,), ()))
    assert (rx.tolist(), rs.tolist()) == ([[20.0, 20.0]], [20.0])
    rx, rs = FeaturePermutation(f).attribute((x, s), seed=0)
    assert rx.tolist() == [[0.0, 0.0]]
    assert rs.tolist() in ([-50.0], [-70.0], [0.0])
    with pytest.raises(ValueError, match=r"inputs must share one batch size; got \[2, 3\]"):
        FeatureAblation(lambda x, s: x.sum(1)).attribute((x, s))


# ---- errors ------------------------------------------------------------------------------------


def never(*_):
    raise AssertionError("the model was called")


X = torch.ones(2, 3, 4)
BAD = {
    "baseline": ({"baselines": torch.ones(2, 3, 3)}, "baselines must have the shape of the input"),
    "baselines": ({"baselines": (0, 0)}, "baselines must hold one for each of the 1 inputs; got 2"),
    "NaN baseline": ({"baselines": torch.full((3, 4), torch.nan)}, "baselines must be finite"),
    "mask": ({"feature_mask": torch.ones(2, 2, 4).long()}, "feature_mask must broadcast against"),
    "mask of reals": ({"feature_mask": torch.tensor(0.5)}, "feature_mask must be made of integers"),
    "masks": ({"feature_mask": (torch.tensor(0),) * 2}, "feature_mask must hold one for each of"),
    "none at once": ({"perturbations_per_eval": 0}, "perturbations_per_eval must be at least 1"),
    "half at once": ({"perturbations_per_eval": 0.5}, "perturbations_per_eval must be an int"),
    "rows": ({"internal_batch_size": 0}, "internal_batch_size must be at least 1; got 0"),
    "both": (
        {"internal_batch_size": 4, "perturbations_per_eval": 2},
        "perturbations_per_eval and internal_batch_size exclude each other; got 2 and 4",
    ),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_bad_arguments(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        FeatureAblation(never).attribute(X, **options)


def test_bad_inputs():
    with pytest.raises(ValueError, match="inputs must be finite; got NaN"):
        FeatureAblation(never).attribute(torch.tensor([[torch.nan]]))
    with pytest.raises(ValueError, match="inputs must have at least two samples, to be permuted"):
        FeaturePermutation(never).attribute(X[:1])
    with pytest.raises(ValueError, match="must have the batch as first dimension"):
        Occlusion(never).attribute(torch.tensor(1.0), ())


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda x: (x, x), "must return one tensor; it returned"),
        (lambda x: {"out": x}, "must return one tensor; it returned"),
        (lambda x: x.sum(2) / 0, "output has NaN or infinite values"),
    ],
    ids=["tuple", "dict", "infinite"],
)
def test_bad_outputs(output, message):
    for method in (FeatureAblation(output).attribute, FeaturePermutation(output).attribute):
        with pytest.raises(ValueError, match=message):
            method(X, target=1)


def test_bad_targets():
    f = lambda x: x.sum(2)  # noqa: E731
    with pytest.raises(ValueError, match=r"target must lie in \[-3, 2\] for an output"):
        FeatureAblation(f).attribute(X, target=3)
    with pytest.raises(ModelError, match="FeatureAblation: target must be None for a model"):
        FeatureAblation(lambda x: x.sum()).attribute(X, target=0)


def test_what_needs_rows_of_outputs():
    whole = lambda x: x.sum()  # noqa: E731
    with pytest.raises(ValueError, match="perturbations_per_eval must be 1 for a model that"):
        FeatureAblation(whole).attribute(X, perturbations_per_eval=2)
    with pytest.raises(ValueError, match="feature_mask must be one for all samples"):
        FeatureAblation(whole).attribute(X, feature_mask=torch.arange(24).view(2, 3, 4))
    with pytest.raises(ValueError, match="internal_batch_size must be at least 3, the size of the"):
        FeatureAblation(whole).attribute(torch.ones(3, 4), internal_batch_size=2)
    with pytest.raises(ModelError, match="probability=True needs a model that returns floating"):
        Occlusion(whole).attribute(X, (1, 1), probability=True)


def test_a_module_of_the_whole_batch():
    class Mean(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x)[:, 1].mean()

    net, x = prepared(ResNet()), inputs(ResNet, 3)
    mask = torch.arange(x[0, 0].numel()).view(x.shape[2:]) // 2
    found = FeatureAblation(Mean(net).eval()).attribute(x, feature_mask=mask)
    each = FeatureAblation(net).attribute(x, target=1, feature_mask=mask)
    close(found, each.mean(0, keepdim=True), 1e-10)
