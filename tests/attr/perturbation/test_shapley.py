"""Shapley values: by hand, against all permutations, captum and their axioms."""

from math import factorial

import pytest
import torch
from calls import Counting, flat_net
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import ResNet, Sequence, inputs, shared
from oracle import perturbation as oracle
from peers import captum

from xaifast.attr import ShapleyValues, ShapleyValueSampling
from xaifast.attr.perturbation.shapley import AllCoalitions, draw_prefixes


def one(f, target):
    """A function of one sample as an array, from one of a batch of tensors."""
    return lambda x: float(f(torch.from_numpy(x).unsqueeze(0))[0, target].detach())


def close(got, expected, tolerance=1e-12):
    expected = torch.as_tensor(expected)
    assert got.shape == expected.shape
    scale = max(1.0, float(expected.double().abs().max()))
    assert float((got.double() - expected.double()).abs().max()) <= tolerance * scale


def orders_of(features, n_samples, seed):
    """The permutations that a seed stands for."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(features, generator=generator).tolist() for _ in range(n_samples)]


# ---- by hand and against loops -----------------------------------------------------------------


def test_by_hand():
    # f = x1 x2 + x3 at (2, 3, 4), x' = 0: the product 6 is shared, x3 adds 4 in any order
    r = ShapleyValues(lambda x: x[:, 0] * x[:, 1] + x[:, 2]).attribute(
        torch.tensor([[2.0, 3.0, 4.0]])
    )
    assert r.tolist() == [[3.0, 3.0, 4.0]]


def test_the_glove_game():
    # one left glove, two right ones, a pair is worth 1: 2/3, 1/6, 1/6 (Shapley 1953)
    pair = lambda x: torch.minimum(x[:, 0], (x[:, 1] + x[:, 2]).clamp(max=1))  # noqa: E731
    r = ShapleyValues(pair).attribute(torch.ones(1, 3).double())
    close(r, torch.tensor([[2 / 3, 1 / 6, 1 / 6]]).double(), 1e-7)


MASKS = {
    "none": None,
    "groups": torch.tensor([[0, 0, 3], [3, 3, 5]]),
    "of each sample": torch.tensor([[[0, 0, 1], [1, 2, 2]], [[1, 1, 1], [0, 0, 0]]]),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_exact_values_are_the_mean_over_all_permutations(mask):
    f = flat_net(6)
    x, baseline = torch.randn(2, 2, 2, 3).double()
    found = ShapleyValues(f).attribute(x, baseline, target=[0, 2], feature_mask=mask)
    labels = torch.arange(6).view(1, 2, 3) if mask is None else mask
    labels = labels.expand(2, 2, 3).numpy()
    for n, target in enumerate([0, 2]):
        expected = oracle.shapley(one(f, target), x[n].numpy(), baseline[n].numpy(), labels[n])
        close(found[n], expected)


@pytest.mark.parametrize("features", [6, 70])
def test_sampled_values_are_the_mean_over_the_drawn_permutations(features):
    f = flat_net(features)
    x, baseline = torch.randn(2, 2, features).double()
    found = ShapleyValueSampling(f).attribute(x, baseline, target=1, n_samples=4, seed=9)
    labels = torch.arange(features).numpy()
    for n in range(2):
        expected = oracle.shapley(
            one(f, 1), x[n].numpy(), baseline[n].numpy(), labels, orders_of(features, 4, 9)
        )
        close(found[n], expected)


# ---- as captum ---------------------------------------------------------------------------------

CASES = {
    "plain": {},
    "baseline": {"baselines": 0.3},
    "target of each": {"target": torch.tensor([2, 0])},
    "all outputs": {"target": None},
    "groups": {"feature_mask": torch.tensor([[0, 1, 1, 2, 0]])},
    "own groups": {"feature_mask": torch.tensor([[0, 1, 1, 2, 0], [0, 0, 1, 1, 2]])},
    "several at once": {"perturbations_per_eval": 3},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_exact_values_as_captum(options):
    f, x = flat_net(5), torch.randn(2, 5).double()
    options = {"target": 1} | options
    got = ShapleyValues(f).attribute(x, **options)
    assert got.dtype == torch.float64  # captum's are float32
    close(got, captum.ShapleyValues(f).attribute(x, **options), 1e-6)


def test_sampled_values_as_captum():
    f, x = flat_net(6), torch.randn(2, 6).double()
    theirs = captum.ShapleyValueSampling(f)
    theirs.permutation_generator = lambda features, n: orders_of(features, n, 4)
    expected = theirs.attribute(x, target=2, n_samples=7)
    close(ShapleyValueSampling(f).attribute(x, target=2, n_samples=7, seed=4), expected, 1e-6)


def test_several_inputs_and_a_value_for_the_whole_batch():
    f = flat_net(5)
    x = (torch.randn(2, 2).double(), torch.randn(2, 3).double())
    function = lambda a, b, c: (f(torch.cat([a, b], 1)) * c).sum()  # noqa: E731
    options = {"additional_forward_args": 2.0}
    options["feature_mask"] = (torch.tensor([[0, 1]]), torch.tensor([[1, 2, 3]]))
    got = ShapleyValues(function).attribute(x, **options)
    expected = captum.ShapleyValues(function).attribute(x, **options)
    for g, e in zip(got, expected, strict=True):
        close(g, e, 1e-6)


def test_shapes_of_several_outputs_and_targets():
    f, x = flat_net(5), torch.randn(4, 5).double()
    each = torch.stack([ShapleyValues(f).attribute(x, target=t) for t in range(3)])
    close(ShapleyValues(f).attribute(x), each.movedim(0, 1))
    close(ShapleyValues(f).attribute(x, target="all"), each)
    column = ShapleyValues(lambda x: f(x)[:, 1:2]).attribute(x)
    close(column, each[1].unsqueeze(1))  # [N, 1, ...], as in captum


# ---- axioms ------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.integers(0, 10**6), st.integers(1, 5), st.sampled_from([1, 7, "auto"]))
def test_efficiency(features, seed, n_samples, rows):
    generator = torch.Generator().manual_seed(seed)
    x, baseline = torch.randn(2, 3, features, generator=generator, dtype=torch.float64)
    f = flat_net(features, seed=seed)
    change = (f(x) - f(baseline))[:, 1].detach()
    options = {"target": 1, "internal_batch_size": rows}
    close(ShapleyValues(f).attribute(x, baseline, **options).sum(1), change)
    sampled = ShapleyValueSampling(f)
    found = sampled.attribute(x, baseline, n_samples=n_samples, seed=seed, **options)
    close(found.sum(1), change)


def test_symmetry_and_dummy():
    f = lambda x: (x[:, 0] * x[:, 1] * x[:, 2]).tanh() + x[:, 0] + x[:, 1]  # noqa: E731
    x = torch.tensor([[1.5, 1.5, -2.0, 7.0]]).double()
    r = ShapleyValues(f).attribute(x)[0]
    assert float(abs(r[0] - r[1])) < 1e-14
    assert float(abs(r[3])) < 1e-14
    assert float(abs(r[2])) > 0.1


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 10**6))
def test_on_a_linear_model_features_get_what_they_add(features, n_samples, seed):
    generator = torch.Generator().manual_seed(seed)
    w, x, b = torch.randn(3, 1, features, generator=generator, dtype=torch.float64)
    f = lambda x: (w * x).sum(1)  # noqa: E731
    close(ShapleyValues(f).attribute(x, b), w * (x - b))
    sampling = ShapleyValueSampling(f)
    close(sampling.attribute(x, b, n_samples=n_samples, seed=seed), w * (x - b))


def test_many_permutations_come_close_to_the_exact_values():
    f, x = flat_net(5, seed=1), torch.randn(1, 5).double()
    exact = ShapleyValues(f).attribute(x, target=0)
    sampled = ShapleyValueSampling(f)
    few = sampled.attribute(x, target=0, n_samples=2, seed=0)
    many = sampled.attribute(x, target=0, n_samples=3000, seed=0)
    assert float((many - exact).abs().max()) < 0.02 * float(exact.abs().max())
    assert float((many - exact).abs().max()) < float((few - exact).abs().max())


# ---- evaluations -------------------------------------------------------------------------------


def test_each_coalition_is_evaluated_once():
    counting = Counting(flat_net(5))
    x = torch.randn(2, 5).double()
    ShapleyValues(counting).attribute(x, target=0, perturbations_per_eval=100)
    assert counting.rows == [2, 2 * 31]  # x, and all coalitions but the full one
    counting.rows.clear()
    sampling = ShapleyValueSampling(counting)
    sampling.attribute(x, target=0, n_samples=500, perturbations_per_eval=100, seed=0)
    assert counting.rows == [2, 2 * 31]  # captum: 5 x 500 evaluations
    counting.rows.clear()
    sampling.attribute(x, target=0, n_samples=1, perturbations_per_eval=100, seed=0)
    assert counting.rows == [2, 2 * 5]


@pytest.mark.parametrize("features", [1, 2, 5, 62, 63, 100])
def test_equal_prefixes_are_found(features):
    prefixes = draw_prefixes(features, 40, torch.Generator().manual_seed(0))
    on = prefixes.on(slice(0, prefixes.count))
    sets = {tuple(row.tolist()) for row in on}
    wanted = {tuple((rank <= j).tolist()) for rank in prefixes.rank for j in range(features - 1)}
    assert sets == wanted
    if features <= 62:
        assert len(on) == len(sets)
    else:
        ends = on.sum(1) <= 1, on.sum(1) >= features - 1
        for end in ends:
            assert len(on[end]) == len(torch.unique(on[end], dim=0))
    for p, rank in enumerate(prefixes.rank):
        for j in range(features - 1):
            assert torch.equal(on[prefixes.row[p, j]], rank <= j)


def test_the_weights_of_coalitions():
    # a game that is worth 1 for one coalition only: its members gain |S|-1! (M-|S|)! / M!
    M = 4
    coalitions = AllCoalitions(M)
    for c in range(1, 2**M - 1):
        v = torch.zeros(2**M, 1).double()
        v[c] = 1
        found = coalitions.values(v[0], v[1:-1], v[-1])[:, 0]
        inside = torch.tensor([c >> f & 1 for f in range(M)]).bool()
        s = int(inside.sum())
        gain = factorial(s - 1) * factorial(M - s) / factorial(M)
        loss = -factorial(s) * factorial(M - s - 1) / factorial(M)
        expected = torch.where(inside, gain, loss).double()
        close(found, expected, 1e-7)


def test_the_same_for_every_batch_size():
    f, x = flat_net(8), torch.randn(3, 2, 4).double()
    for method, options in (
        (ShapleyValueSampling, {"n_samples": 6, "seed": 3}),
        (ShapleyValues, {}),
    ):
        expected = method(f).attribute(x, target=[0, 1, 2], **options)
        for rows in (1, 2, 7, 10000):
            counting = Counting(f)
            found = method(counting).attribute(
                x, target=[0, 1, 2], internal_batch_size=rows, **options
            )
            close(found, expected)
            assert max(counting.rows) <= rows


def test_seeds():
    f, x = flat_net(6), torch.randn(2, 6).double()

    def sample(**options):
        return ShapleyValueSampling(f).attribute(x, target=0, n_samples=3, **options)

    assert torch.equal(sample(seed=1), sample(seed=1))
    assert not torch.equal(sample(seed=1), sample(seed=2))
    generator = torch.Generator().manual_seed(1)
    assert not torch.equal(sample(generator=generator), sample(generator=generator))
    torch.manual_seed(4)
    first = sample()
    torch.manual_seed(4)
    assert torch.equal(sample(), first)


def test_a_sample_gets_the_same_alone():
    f, x = flat_net(6), torch.randn(4, 6).double()
    sampling = ShapleyValueSampling(f)
    together = sampling.attribute(x, target=0, n_samples=3, seed=0)
    for n in range(4):
        close(sampling.attribute(x[n : n + 1], target=0, n_samples=3, seed=0)[0], together[n])


# ---- models and dtypes -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ResNet, Sequence])
def test_the_graph_gives_what_the_model_gives(kind):
    model, x = shared(kind), inputs(kind)
    positions = torch.arange(x[0, 0].numel()).view(x.shape[2:])
    mask = positions * 5 // positions.numel()
    expected = ShapleyValues(model, optimize=False).attribute(x, target=[1, 3], feature_mask=mask)
    assert float(expected.abs().max()) > 1e-3
    for optimize in (True, None):
        found = ShapleyValues(model, optimize=optimize).attribute(
            x, target=[1, 3], feature_mask=mask
        )
        close(found, expected, 1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_stay(dtype):
    x = torch.tensor([[2.0, 3.0, 4.0]], dtype=dtype)
    r = ShapleyValues(lambda x: x[:, 0] * x[:, 1] + x[:, 2]).attribute(x)
    assert r.dtype == dtype
    assert r.tolist() == [[3.0, 3.0, 4.0]]


def test_integers_and_booleans():
    f = lambda x: x[:, 0].long() * 2 + x[:, 1].long()  # noqa: E731
    for x in (torch.tensor([[1, 0, 1]]), torch.tensor([[True, False, True]])):
        r = ShapleyValues(f).attribute(x)
        assert r.dtype == torch.float32
        assert r.tolist() == [[2.0, 0.0, 0.0]]


def test_batches_of_none_and_inputs_without_features():
    f = lambda x: x.sum(1)  # noqa: E731
    assert ShapleyValues(f).attribute(torch.zeros(0, 3)).shape == (0, 3)
    assert ShapleyValueSampling(f).attribute(torch.zeros(2, 0)).shape == (2, 0)


def test_layouts():
    f = flat_net(12)
    x = torch.randn(2, 4, 3).double()
    mask = torch.arange(12).view(3, 4) // 4
    expected = ShapleyValues(f).attribute(x.mT.contiguous(), target=1, feature_mask=mask)
    close(ShapleyValues(f).attribute(x.mT, target=1, feature_mask=mask), expected)


# ---- errors ------------------------------------------------------------------------------------


def never(*_):
    raise AssertionError("the model was called")


BAD = {
    "samples": ({"n_samples": 0}, "n_samples must be at least 1; got 0"),
    "half samples": ({"n_samples": 2.5}, "n_samples must be an int; got 2.5"),
    "baseline": ({"baselines": torch.ones(2, 3)}, "baselines must have the shape of the input"),
    "mask": ({"feature_mask": torch.ones(3).long()}, "feature_mask must broadcast against"),
    "both seeds": ({"seed": 1, "generator": torch.Generator()}, "seed and generator exclude"),
    "both sizes": ({"internal_batch_size": 4, "perturbations_per_eval": 2}, "exclude each other"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_bad_arguments(options, message):
    with pytest.raises((ValueError, TypeError), match=f"ShapleyValueSampling: .*{message}"):
        ShapleyValueSampling(never).attribute(torch.ones(2, 4), **options)


def test_too_many_features_for_exact_values():
    with pytest.raises(
        ValueError, match=r"inputs must have at most 20 features, .*; got 21\. Group"
    ):
        ShapleyValues(never).attribute(torch.ones(1, 21))


def test_masks_of_each_sample_for_a_value_of_the_whole_batch():
    with pytest.raises(ValueError, match="feature_mask must be one for all samples"):
        ShapleyValues(lambda x: x.sum()).attribute(
            torch.ones(2, 2), feature_mask=torch.tensor([[0, 1], [1, 0]])
        )
