"""LIME and KernelSHAP: against loops over samples and pixels, captum, games that can be solved."""

import numpy as np
import peers
import pytest
import torch
from calls import Counting, on_trial
from captum._utils.models import linear_model as captum_models
from captum.attr._core.lime import get_exp_kernel_similarity_function
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import surrogates as oracle
from sklearn import linear_model
from torch import nn

from xaifast import attr
from xaifast.errors import InputError, InputTypeError, ModelError

captum = peers.captum
ESTIMATORS = {
    "lasso": (attr.Lasso(0.001), lambda: oracle.lasso(0.001)),
    "ridge": (attr.Ridge(0.7), lambda: linear_model.Ridge(alpha=0.7)),
    "linear": (attr.LinearRegression(), linear_model.LinearRegression),
}
KERNELS = [("cosine", 0.5), ("euclidean", 2.0)]


def small_net(channels=2, seed=0):
    """A network with interactions: images [N, channels, 4, 4] -> [N, 3]."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(channels, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)]
    return nn.Sequential(*layers).double()


def images(n, channels=2, seed=1):
    return torch.randn(n, channels, 4, 4, generator=torch.Generator().manual_seed(seed)).double()


def quarters():
    return torch.tensor([[0, 0, 1, 1]] * 2 + [[2, 2, 3, 3]] * 2)


def stripes(n, features):
    """A mask for each of n samples, with a number of features for each, [n, 1, 4, 4]."""
    masks = [torch.arange(16).view(1, 4, 4) % features[i] for i in range(n)]
    return torch.stack(masks)


def drawn(S, M, seed=3):
    """Coalitions [S, M], all features and none among them."""
    z = torch.rand(S, M, generator=torch.Generator().manual_seed(seed)) < 0.5
    z[0], z[1] = True, False
    return z


def giving(Z):
    """A perturbation function that yields these coalitions, of the features that there are."""

    def perturb(original, **kwargs):
        for z in Z[:, : kwargs["num_interp_features"]]:
            yield z.unsqueeze(0).long()

    return perturb


def explainer(kind, model, Z=None):
    """Ours, with given coalitions."""
    made = attr.KernelShap(model) if kind is None else attr.Lime(model, kind)
    if Z is not None:
        made.perturb_func = giving(Z)
    return made


def assert_equal(got, expected, tolerance=1e-10):
    assert got.shape == expected.shape
    scale = max(1.0, float(expected.abs().max()))
    assert float((got - expected).abs().max()) <= tolerance * scale


# ---- against loops -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize(("distance", "width"), KERNELS)
def test_lime_is_its_definition(name, distance, width):
    ours, theirs = ESTIMATORS[name]
    model, x, Z = small_net(), images(3), drawn(60, 4)
    b = torch.full((1, 2, 4, 4), 0.3, dtype=torch.float64)
    lime = attr.Lime(model, ours, attr.ExponentialKernel(distance, width), giving(Z))
    got = lime.attribute(x, b, 2, None, quarters(), 60, return_input_shape=False)
    for n in range(3):
        expected = oracle.lime(
            model, [x[n : n + 1]], [b], [quarters()], Z.numpy(), 2, theirs(), distance, width
        )
        assert_equal(got[n], expected, 1e-9 if name == "lasso" else 1e-11)


def test_kernel_shap_is_its_definition():
    model, x, Z = small_net(), images(3), drawn(60, 4)
    shap = explainer(None, model, Z)
    got = shap.attribute(x, None, 1, None, quarters(), 60, return_input_shape=False)
    zero = torch.zeros(1, 2, 4, 4).double()
    for n in range(3):
        expected = oracle.kernel_shap(model, [x[n : n + 1]], [zero], [quarters()], Z.numpy(), 1)
        assert_equal(got[n], expected)


def test_several_inputs_share_features_and_keep_their_own():
    torch.manual_seed(0)
    first, second = nn.Linear(4, 3).double(), nn.Linear(3, 3, bias=False).double()

    def model(x, y):
        return (first(x) * second(y).sigmoid()).tanh()

    x, y = torch.randn(2, 4).double(), torch.randn(2, 3).double()
    masks = (torch.tensor([[0, 0, 1, 2]]), torch.tensor([[2, 3, 3]]))
    bases = (torch.zeros(1, 4).double(), torch.full((1, 3), 0.5).double())
    Z = drawn(40, 4)
    lime = attr.Lime(model, attr.Ridge(), attr.ExponentialKernel("euclidean"), giving(Z))
    options = {"target": 1, "feature_mask": masks, "n_samples": 40}
    got = lime.attribute((x, y), (None, 0.5), return_input_shape=False, **options)
    shaped = lime.attribute((x, y), (None, 0.5), **options)
    for n in range(2):
        one = [x[n : n + 1], y[n : n + 1]]
        ridge = linear_model.Ridge()
        expected = oracle.lime(model, one, bases, masks, Z.numpy(), 1, ridge, "euclidean")
        assert_equal(got[n], expected)
    assert isinstance(shaped, tuple)
    for part, mask in zip(shaped, masks, strict=True):
        torch.testing.assert_close(part, got[:, mask[0]])


def test_samples_with_their_own_numbers_of_features():
    model, x, numbers = small_net(), images(3), [3, 5, 3]
    masks, Z = stripes(3, numbers), drawn(60, 5)
    shap = explainer(None, model, Z)
    options = {"target": 0, "n_samples": 60}
    got = shap.attribute(x, feature_mask=masks, return_input_shape=False, **options)
    shaped = shap.attribute(x, feature_mask=masks, **options)
    zero = torch.zeros(1, 2, 4, 4).double()
    for n, M in enumerate(numbers):
        arguments = [x[n : n + 1]], [zero], [masks[n]], Z[:, :M].numpy(), 0
        assert_equal(got[n, :M], oracle.kernel_shap(model, *arguments))
        assert not got[n, M:].any()
        torch.testing.assert_close(shaped[n], got[n][masks[n]].expand(2, 4, 4))


def test_features_in_the_middle_that_a_sample_does_not_have():
    weight = torch.arange(1.0, 5.0).double()
    masks = torch.tensor([[0, 0, 2, 2], [0, 1, 2, 2]])
    shap = attr.KernelShap(lambda x: x @ weight)
    got = shap.attribute(
        torch.ones(2, 4).double(), feature_mask=masks, n_samples=8, return_input_shape=False
    )
    assert_equal(got, torch.tensor([[3.0, 0, 7], [1, 2, 7]]).double(), 1e-8)


# ---- against captum ----------------------------------------------------------------------------


CAPTUM = {
    "ridge": (attr.Ridge(0.7), lambda: captum_models.SkLearnRidge(alpha=0.7)),
    "linear": (attr.LinearRegression(), captum_models.SkLearnLinearRegression),
    "lasso": (attr.Lasso(0.003), lambda: captum_models.SkLearnLasso(
        alpha=0.003, tol=1e-13, max_iter=10**6)),
}  # fmt: skip


@pytest.mark.parametrize("name", CAPTUM)
@pytest.mark.parametrize(("distance", "width"), KERNELS)
def test_lime_is_captums_on_the_same_coalitions(name, distance, width):
    ours, theirs = CAPTUM[name]
    model, x, Z = small_net(), images(1), drawn(50, 4)
    options = {"target": 2, "feature_mask": quarters(), "n_samples": 50, "baselines": 0.2}
    kernel = get_exp_kernel_similarity_function(distance, width)
    with peers.float64():
        expected = captum.Lime(model, theirs(), kernel, giving(Z)).attribute(
            x, return_input_shape=False, **options
        )
    lime = attr.Lime(model, ours, kernel, giving(Z))
    got = lime.attribute(x, return_input_shape=False, **options)
    assert_equal(got, expected, 1e-8 if name == "lasso" else 1e-10)


@pytest.mark.filterwarnings("ignore:You are providing multiple inputs")
def test_kernel_shap_is_captums_on_the_same_coalitions():
    model, x, Z = small_net(), images(2), drawn(50, 4)
    options = {"target": [2, 0], "feature_mask": quarters()[None, None], "n_samples": 50}
    theirs = captum.KernelShap(model)
    theirs.perturb_func = giving(Z)
    with peers.float64():
        expected = theirs.attribute(x, return_input_shape=False, **options)
    got = explainer(None, model, Z).attribute(x, return_input_shape=False, **options)
    assert_equal(got, expected)
    shaped = theirs.attribute(x, **options)
    torch.testing.assert_close(
        explainer(None, model, Z).attribute(x, **options).float(), shaped, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", ["Lime", "KernelShap"])
def test_draws_agree_with_captums_on_average(name):
    model, x = small_net().float(), images(1).float()
    mask = torch.arange(16).view(1, 1, 4, 4) % 7
    ours, theirs = getattr(attr, name)(model), getattr(captum, name)(model)
    options = {"target": 0, "feature_mask": mask, "return_input_shape": False, "n_samples": 60}
    got = torch.cat([ours.attribute(x, seed=s, **options) for s in range(60)]).double()
    torch.manual_seed(0)
    expected = torch.cat(
        [theirs.attribute(x, perturbations_per_eval=60, **options) for _ in range(60)]
    ).double()
    error = ((got.var(0) + expected.var(0)) / 60).sqrt()
    assert ((got.mean(0) - expected.mean(0)).abs() < 4.5 * error + 1e-4).all()
    assert got.std(0).mean() <= 1.2 * expected.std(0).mean()


# ---- known answers -----------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 3), st.integers(0, 10**6))
def test_kernel_shap_of_a_linear_model(M, N, seed):
    generator = torch.Generator().manual_seed(seed)
    w, x, b = (torch.randn(N, M, generator=generator).double() for _ in range(3))
    shap = attr.KernelShap(lambda x: x @ w[0] + 3)
    got = shap.attribute(x, b, n_samples=4 * M + 30, seed=seed)
    assert_equal(got, w[0] * (x - b), 1e-8)


def test_with_enough_samples_kernel_shap_is_the_shapley_value():
    model, x = small_net(), images(1)
    options = {"target": 1, "feature_mask": quarters(), "return_input_shape": False}
    got = attr.KernelShap(model).attribute(x, n_samples=16, **options)

    def value(z):
        on = torch.from_numpy(z)[quarters()]
        return float(model(torch.where(on, x, 0.0))[0, 1].detach())

    assert_equal(got[0], oracle.shapley_values(value, 4), 1e-5)  # the ends weigh 1e6, not infinity


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 12), st.integers(0, 10**6))
def test_kernel_shap_sums_to_the_difference_of_scores(M, seed):
    model, x = small_net(seed=seed), images(2, seed=seed)
    mask = torch.arange(16).view(4, 4) % M
    options = {"target": 0, "feature_mask": mask, "n_samples": 3 * M + 20, "seed": seed}
    got = attr.KernelShap(model).attribute(x, return_input_shape=False, **options)
    with torch.no_grad():
        difference = (model(x) - model(torch.zeros_like(x)))[:, 0]
    assert_equal(got.sum(1), difference, 1e-4)


def test_one_feature_gets_the_whole_difference():
    model, x = small_net(), images(2)
    got = attr.KernelShap(model).attribute(x, target=2, feature_mask=torch.zeros(1).long())
    with torch.no_grad():
        difference = (model(x) - model(torch.zeros_like(x)))[:, 2]
    assert_equal(got, difference.view(2, 1, 1, 1).expand_as(x).clone())


def test_lime_with_samples_for_all_coalitions_does_not_depend_on_the_seed():
    model, x = small_net(), images(2)
    options = {"target": 0, "feature_mask": quarters(), "n_samples": 200}
    first, second = (attr.Lime(model).attribute(x, seed=s, **options) for s in (0, 1))
    assert torch.equal(first, second)
    Z = torch.tensor(list(np.ndindex(2, 2, 2, 2)))
    given_all = attr.Lime(model, perturb_func=giving(Z))
    assert_equal(first, given_all.attribute(x, **{**options, "n_samples": 16}))


# ---- the same result, however it is computed ---------------------------------------------------


@pytest.mark.parametrize("name", ["Lime", "KernelShap"])
@pytest.mark.parametrize("masks", ["shared", "own"])
def test_neither_batching_nor_batch_mates_matter(name, masks):
    model, x = small_net(), images(3)
    mask = torch.arange(16).view(1, 1, 4, 4).expand(3, 1, 4, 4)
    mask = mask if masks == "shared" else stripes(3, [9, 8, 9])
    method = getattr(attr, name)(model)
    options = {"target": 1, "n_samples": 40, "seed": 5}
    all_at_once = method.attribute(x, feature_mask=mask, **options)
    for size in (1, 7, 1000):
        again = method.attribute(x, feature_mask=mask, internal_batch_size=size, **options)
        assert_equal(again, all_at_once, 1e-9)
    for per_eval in (1, 3):
        again = method.attribute(x, feature_mask=mask, perturbations_per_eval=per_eval, **options)
        assert_equal(again, all_at_once, 1e-9)
    for n in range(3):
        alone = method.attribute(x[n : n + 1], feature_mask=mask[n : n + 1], **options)
        assert_equal(alone[0], all_at_once[n], 1e-9)


def test_seeds_and_generators():
    model, x = small_net(), images(1)
    shap = attr.KernelShap(model)
    first = shap.attribute(x, target=0, seed=7)
    assert torch.equal(first, shap.attribute(x, target=0, seed=7))
    assert not torch.equal(first, shap.attribute(x, target=0, seed=8))
    by_generator = [
        shap.attribute(x, target=0, generator=torch.Generator().manual_seed(1)) for _ in range(2)
    ]
    assert torch.equal(*by_generator)
    torch.manual_seed(3)
    free = [shap.attribute(x, target=0) for _ in range(2)]
    torch.manual_seed(3)
    assert torch.equal(free[0], shap.attribute(x, target=0))
    assert not torch.equal(*free)


def test_what_draws_nothing_leaves_pytorchs_generator_where_it_is():
    shap, x = attr.KernelShap(lambda x: x.sum(1)), torch.ones(1, 3)
    before = torch.get_rng_state()
    shap.attribute(x, n_samples=8)
    assert torch.equal(torch.get_rng_state(), before)
    shap.attribute(x, n_samples=7)
    assert not torch.equal(torch.get_rng_state(), before)


def test_equal_coalitions_are_evaluated_once():
    model = Counting(lambda x: x.sum(1))
    attr.KernelShap(model).attribute(torch.ones(1, 3), n_samples=500, internal_batch_size=100)
    assert sum(model.rows) == 8  # 2^3, the one with all features as the first look at the model


def test_many_targets_share_their_evaluations():
    model, x = small_net(), images(2)
    lime, options = attr.Lime(model), {"feature_mask": quarters(), "seed": 0}
    every = lime.attribute(x, target="all", **options)
    assert every.shape == (3, 2, 2, 4, 4)
    for t in range(3):
        assert_equal(every[t], lime.attribute(x, target=t, **options))
    pairs = lime.attribute(x, target=[[0, 1], [2, 0]], return_input_shape=False, **options)
    assert_equal(
        pairs[1, 1], lime.attribute(x[1:], target=0, return_input_shape=False, **options)[0]
    )


def test_the_graph_gives_the_same():
    model, x = small_net(), images(2)
    options = {"target": 1, "feature_mask": quarters(), "seed": 0, "n_samples": 50}
    results = [attr.Lime(model, optimize=o).attribute(x, **options) for o in (True, False)]
    assert_equal(*results, 1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_results_have_the_dtype_of_the_input(dtype):
    model, x = small_net().to(dtype), images(2).to(dtype)
    shap = attr.KernelShap(model)
    assert shap.attribute(x, target=0).dtype == dtype
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert shap.attribute(x, target=0, return_input_shape=False).dtype == wide


def test_integers_and_bools_are_switched_too():
    table = torch.randn(10, 3, generator=torch.Generator().manual_seed(0)).double()
    tokens = torch.tensor([[1, 4, 4, 7]])
    got = attr.KernelShap(lambda ids: table[ids].sum(1)).attribute(tokens, target=0, n_samples=20)
    assert_equal(got.double(), (table[tokens, 0] - table[0, 0]), 1e-6)
    flags = torch.tensor([[True, False, True]])
    got = attr.KernelShap(lambda b: b.float() @ torch.tensor([1.0, 2, 3])).attribute(flags)
    assert_equal(got, torch.tensor([[1.0, 0, 3]]), 1e-5)


def test_a_model_may_write_into_its_input():
    x = torch.randn(2, 3)
    before = x.clone()
    got = attr.KernelShap(lambda v: v.mul_(2).sum(1)).attribute(x, seed=0)
    assert torch.equal(x, before)
    assert_equal(got, 2 * x, 1e-5)


def test_samples_that_are_one_number_each():
    x = torch.randn(5)
    assert_equal(attr.KernelShap(lambda v: v * 2).attribute(x), 2 * x, 1e-5)


# ---- batches, arguments, baselines -------------------------------------------------------------


@pytest.mark.parametrize("name", ["Lime", "KernelShap", "LimeImage"])
def test_an_empty_batch_gives_nothing_and_calls_nothing(name):
    def model(x):
        raise AssertionError

    method = getattr(attr, name)(model)
    options = {"feature_mask": quarters(), "target": 0}
    assert method.attribute(torch.zeros(0, 2, 4, 4), **options).shape == (0, 2, 4, 4)
    coefficients = method.attribute(torch.zeros(0, 2, 4, 4), return_input_shape=False, **options)
    assert coefficients.shape == (0, 4)


@pytest.mark.parametrize(
    "whole", [lambda y: y.sum(), lambda y: y.sum().view(1), lambda y: y.sum().item()]
)
def test_a_model_with_one_value_for_the_batch(whole):
    x, w = torch.randn(3, 4).double(), torch.arange(1.0, 5).double()
    shap = attr.KernelShap(lambda x: whole(x @ w))
    got = shap.attribute(x, n_samples=60, seed=0)
    assert_equal(got, ((x @ torch.diag(w)).sum(0, keepdim=True)), 1e-8)
    own = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1], [1, 1, 1, 1]])
    assert shap.attribute(x, feature_mask=own).shape == (3, 4)
    got = shap.attribute(x, feature_mask=own, return_input_shape=False)
    sums = torch.zeros(2).double().index_add_(0, own.flatten(), (x * w).flatten())
    assert_equal(got, sums[None], 1e-8)


def test_additional_arguments_go_along_with_their_samples():
    w = torch.arange(1.0, 4).double()
    x, scale = torch.randn(3, 3).double(), torch.tensor([1.0, 2, 3]).double()
    shap = attr.KernelShap(lambda x, s, k: (x @ w) * s * k)
    got = shap.attribute(x, additional_forward_args=(scale, 10.0), internal_batch_size=4)
    assert_equal(got, x * w * scale[:, None] * 10, 1e-8)


def test_baselines_in_their_forms():
    w = torch.arange(1.0, 4).double()
    shap, x = attr.KernelShap(lambda x: x @ w), torch.randn(2, 3).double()
    own = torch.randn(2, 3).double()
    several = [torch.zeros(3).double(), own]
    for baseline, x0 in ((2.0, 2.0), (own, own), (several, own / 2)):
        assert_equal(shap.attribute(x, baseline), w * (x - x0), 1e-8)


def test_the_progress_bar_comes_to_its_end(capsys):
    options = {"n_samples": 40, "show_progress": True}
    attr.KernelShap(lambda x: x.sum(1)).attribute(torch.rand(1, 8), **options)
    assert "Kernel Shap attribution: 100%" in capsys.readouterr().err


# ---- the book's listing ------------------------------------------------------------------------


def listing(model, x, image, Z, target):
    """Section 22.2.1, with given features; x [C, H, W] and image [H, W, 3] as numpy arrays."""
    from skimage.segmentation import quickshift
    from sklearn.metrics import pairwise_distances

    segments = quickshift(image, kernel_size=4, max_dist=200, ratio=0.2)
    features = Z[:, : np.max(segments) + 1].astype(float)
    labels = []
    for sample in features:
        tmp = x.copy()
        for segment_id, segment_on in enumerate(sample):
            if segment_on == 0:
                tmp[:, segments == segment_id] = 0
        labels.append(float(model(torch.from_numpy(tmp)[None])[0, target]))
    distances = pairwise_distances(features, features[:1], metric="cosine").ravel()
    weights = np.sqrt(np.exp(-(distances**2) / 0.25**2))
    regressor = linear_model.Ridge(alpha=1, fit_intercept=True)
    regressor.fit(features, labels, sample_weight=weights)
    return torch.from_numpy(regressor.coef_[segments])


def picture(seed):
    """A picture with soft regions, uint8 [3, 48, 48]."""
    colours = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    smooth = nn.functional.interpolate(colours, size=(48, 48), mode="bicubic")
    return (smooth[0].clamp(0, 1) * 255).to(torch.uint8)


def test_lime_image_is_the_books_listing():
    pictures = torch.stack([picture(0), picture(1)])
    x = pictures.double() / 128 - 1
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 5, 4), nn.Tanh(), nn.Flatten(), nn.Linear(484, 2))
    model = model.double().requires_grad_(False)
    Z = drawn(100, 40)
    lime = attr.LimeImage(model, lambda x: ((x + 1) * 128).to(torch.uint8))
    lime.perturb_func = giving(Z)
    got = lime.attribute(x, target=1, n_samples=100)
    for n in range(2):
        image = pictures[n].movedim(0, -1).numpy()
        expected = listing(model, x[n].numpy(), image, Z.numpy(), 1)
        assert expected.unique().numel() > 3
        assert_equal(got[n], expected.expand(3, -1, -1).clone())
    floating = attr.LimeImage(model, lambda x: (x + 1) * 128 / 255)
    floating.perturb_func = giving(Z)
    assert_equal(floating.attribute(x, target=1, n_samples=100), got)


def test_lime_image_draws_as_the_listing_does():
    seen = []

    def model(x):
        if not on_trial():
            seen.append(x.clone())
        return x.flatten(1).sum(1)

    lime, mask = attr.LimeImage(model), torch.arange(16).view(4, 4)
    lime.attribute(torch.ones(1, 1, 4, 4), feature_mask=mask, n_samples=300, seed=0)
    rows = torch.cat(seen).flatten(1)
    assert torch.equal(rows[0], torch.ones(16))
    assert 290 < len(rows) <= 300  # without those that were drawn twice
    assert abs(float(rows[1:].mean()) - 0.5) < 0.03


# ---- bad input ---------------------------------------------------------------------------------


def untouched(*inputs):
    raise RuntimeError("the model was called")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_samples": 0}, InputError, r"n_samples must be at least \d; got 0"),
        ({"n_samples": 2.5}, InputTypeError, "n_samples must be an int; got 2.5"),
        ({"feature_mask": torch.tensor([[0, 0, 2, 2]] * 4)}, InputError,
         r"must use every number between its least and its greatest; got a mask without \[1\]"),
        ({"feature_mask": torch.zeros(3, dtype=torch.long)}, InputError, "must broadcast"),
        ({"baselines": torch.zeros(1, 3, 3, 3)}, InputError, "baselines must have the shape"),
        ({"baselines": "mean"}, InputError, '"mean" needs segments; got no feature_mask'),
        ({"baselines": "grey"}, InputError, "must not be a word"),
        ({"perturbations_per_eval": 0}, InputError, "perturbations_per_eval must be at least 1"),
        ({"perturbations_per_eval": 2, "internal_batch_size": 2}, InputError, "exclude each other"),
        ({"seed": 1, "generator": torch.Generator()}, InputError, "exclude each other"),
        ({"seed": "x"}, InputTypeError, "seed must be an int"),
        ({"inputs": torch.full((1, 2, 4, 4), float("nan"))}, InputError, "inputs must be finite"),
        ({"inputs": [1.0]}, InputTypeError, "inputs must be a tensor"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["Lime", "KernelShap"])
def test_bad_arguments_are_refused_before_the_model_is_called(name, options, error, message):
    arguments = {"inputs": images(1), **options}
    with pytest.raises(error, match=message):
        getattr(attr, name)(untouched).attribute(**arguments)


def test_kernel_shap_needs_both_ends():
    with pytest.raises(InputError, match="KernelShap: n_samples must be at least 2; got 1"):
        attr.KernelShap(untouched).attribute(torch.ones(1, 3), n_samples=1)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (lambda x: torch.zeros(3, 4, 4), r"images must be \[N, C, H, W\]"),
        (lambda x: torch.full((1, 3, 4, 4), 255.0), r"must lie in \[0, 1\]; got values from 255"),
        (torch.zeros(1, 3, 4, 4), "images must be a function of the inputs"),
    ],
)
def test_lime_image_refuses_wrong_images(images, message):
    with pytest.raises((InputError, InputTypeError), match=message):
        attr.LimeImage(untouched, images).attribute(torch.zeros(1, 3, 4, 4), target=0)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (lambda x: x.flatten(1), {}, "is needed for an output of shape"),
        (lambda x: x.flatten(1), {"target": 40}, r"must lie in \[-32, 31\]"),
        (lambda x: (x, x), {}, "must return one tensor"),
        (lambda x: x.flatten(1)[:, 0] / 0, {}, "NaN or infinite"),
        (
            lambda x: x.sum(),
            {"perturbations_per_eval": 2},
            "must be 1 for a model that returns one",
        ),
        (
            lambda x: x.flatten()[:3],
            {},
            "one row for each sample, or one value for the whole batch",
        ),
        (lambda x: x.flatten()[:2], {}, "for as many samples|does not grow with the batch"),
    ],
)
def test_models_that_do_not_fit_are_refused(model, options, message):
    with pytest.raises((InputError, InputTypeError, ModelError), match=message):
        attr.Lime(model).attribute(images(2), **options)


def test_too_many_features_are_warned_of():
    lime = attr.Lime(lambda x: x.sum(1), attr.Ridge())
    with pytest.warns(UserWarning, match="has 10001 features, and 3 samples will not tell them"):
        lime.attribute(torch.ones(1, 10001), n_samples=3)


@pytest.mark.parametrize("method", [attr.Lime, attr.KernelShap])
def test_futures_are_not_there_as_in_captum(method):
    with pytest.raises(NotImplementedError, match="call attribute"):
        method(untouched).attribute_future()
