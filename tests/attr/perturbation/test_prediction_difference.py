"""Prediction difference analysis against loops and known answers."""

import numpy as np
import pytest
import torch
from calls import Counting, explained, flat_net
from nets import ResNet, inputs, shared
from oracle import perturbation as oracle

from xaifast.attr import PredictionDifference
from xaifast.errors import ModelError


def close(got, expected, tolerance=1e-10):
    expected = torch.as_tensor(expected)
    assert got.shape == expected.shape
    scale = max(1.0, float(expected.double().abs().max()))
    assert float((got.double() - expected.double()).abs().max()) <= tolerance * scale


def smooth_images(count, channels, *size, seed=0):
    """Images whose neighbouring pixels, and channels, are correlated."""
    x = torch.randn(
        count, channels, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    for d in range(1, x.dim()):
        x = x + 0.6 * x.roll(1, d)
    return x


# ---- against loops -----------------------------------------------------------------------------


def around(place, outer, window, size):
    """Where the surrounding of a patch is, along one dimension: centred, inside the image."""
    begin = place.start - (outer - window) // 2
    return min(max(begin, 0), size - outer)


def conditional_draws(data, x, place, w, window, outer, draws, seed):
    """Draws for one patch of one image [C, H, W], by numpy."""
    every = [
        image[:, i : i + outer, j : j + outer].ravel()
        for image in data.numpy()
        for i in range(image.shape[1] - outer + 1)
        for j in range(image.shape[2] - outer + 1)
    ]
    mean, V = np.mean(every, 0), np.cov(np.array(every).T)
    i, j = (around(p, outer, window, s) for p, s in zip(place[1:], x.shape[1:], strict=True))
    inside = np.zeros((x.shape[0], outer, outer), dtype=bool)
    rows, columns = place[1], place[2]
    inside[:, rows.start - i : rows.stop - i, columns.start - j : columns.stop - j] = True
    surrounding = x[:, i : i + outer, j : j + outer].ravel()
    centre, left = oracle.gaussian_given(mean, V, inside.ravel(), surrounding)
    values, vectors = np.linalg.eigh(left)
    generator = torch.Generator().manual_seed(seed + w)
    z = torch.randn(draws, len(centre), generator=generator, dtype=torch.float64).numpy()
    drawn = centre + z @ (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return drawn.reshape(draws, *x[place].shape)


def marginal_draws(data, x, place, w, window, outer, draws, seed):
    """Draws for one patch: what reference images have there."""
    generator = torch.Generator().manual_seed(seed + w)
    which = torch.randint(len(data), (draws,), generator=generator)
    return data.numpy()[which.numpy()][(slice(None), *place)]


def loop(p, data, x, window, stride, outer, draws, seed, difference):
    """R = mean over the patches of difference(p(x), mean of p over the draws)."""
    make = marginal_draws if outer is None else conditional_draws
    number = [0]

    def value(mask):
        where = np.where(mask)
        place = tuple(slice(i.min(), i.max() + 1) for i in where)
        values = make(data, x, place, number[0], window, outer, draws, seed)
        number[0] += 1
        without = 0
        for v in values:
            y = x.copy()
            y[place] = v
            without += p(y) / draws
        return difference(p(x), without)

    full = (x.shape[0], window, window), (1, stride, stride)
    return oracle.covering_mean(x.shape, *full, value)


MEASURES = {
    "weight_of_evidence": lambda p, q: oracle.odds_bits(p, 30, 3) - oracle.odds_bits(q, 30, 3),
    "probability": lambda p, q: p - q,
    "score": lambda p, q: p - q,
}


@pytest.mark.parametrize("outer", [None, 4], ids=["marginal", "conditional"])
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("stride", [1, 2])
def test_is_the_loop(outer, measure, stride):
    data, x = smooth_images(30, 2, 6, 7), smooth_images(2, 2, 6, 7, seed=1)
    f = flat_net(84)
    found = PredictionDifference(f, data, measure).attribute(
        x, 2, outer, stride, target=[1, 2], n_samples=3, seed=6
    )
    for n, target in enumerate([1, 2]):

        def p(x, target=target):
            output = f(torch.from_numpy(x).unsqueeze(0))[0].detach()
            return float((output if measure == "score" else output.softmax(0))[target])

        expected = loop(p, data, x[n].numpy(), 2, stride, outer, 3, 6, MEASURES[measure])
        close(found[n], expected, 1e-8)


def test_odds_by_hand():
    # p = 3/4 with two classes and n = 6: (6 * 3/4 + 1) / 8 = 11/16, odds 11/5;
    # without, p = 1/2: odds 1
    x = torch.ones(1, 1, 2).double()
    data = torch.zeros(6, 1, 2).double()
    f = lambda x: torch.stack([0.5 + x.sum((1, 2)) / 8, 0.5 - x.sum((1, 2)) / 8], 1)  # noqa: E731
    r = PredictionDifference(f, logits=False).fit(data).attribute(x, 2, target=0)
    close(r, torch.full((1, 1, 2), 11 / 5, dtype=torch.float64).log2())
    one_column = PredictionDifference(lambda x: f(x)[:, 0], data, logits=False)
    close(one_column.attribute(x, 2), r)
    more = PredictionDifference(f, data, logits=False, n_train=14).attribute(x, 2, target=0)
    odds = (14 * 3 / 4 + 1) / (14 / 4 + 1)
    close(more, torch.full((1, 1, 2), odds, dtype=torch.float64).log2())


# ---- known answers -----------------------------------------------------------------------------


def test_what_the_surroundings_tell_gets_nothing():
    # images of stripes: a pixel is known from its row, so that hiding it changes nothing, although
    # the model looks at it; the values of other images change much
    rows = torch.randn(200, 1, 6, 1, generator=torch.Generator().manual_seed(0)).double()
    data = rows.expand(-1, -1, -1, 6)
    f = lambda x: x[:, 0, 2, 2] * 3  # noqa: E731
    options = {"n_samples": 5, "seed": 0}
    pda = PredictionDifference(f, data, "score")
    conditional = pda.attribute(data[:4], 1, 3, **options)
    marginal = pda.attribute(data[:4], 1, **options)
    assert float(conditional.abs().max()) < 1e-6
    assert float(marginal[:, 0, 2, 2].abs().min()) > 0.1


def test_on_a_linear_model_a_patch_gets_what_it_differs_by():
    data, x = smooth_images(40, 1, 5, 5), smooth_images(3, 1, 5, 5, seed=2)
    w = torch.randn(5, 5).double()
    pda = PredictionDifference(lambda x: (x * w).sum((1, 2, 3)), data, "score")
    many = pda.attribute(x, 1, n_samples=4000, seed=0)
    close(many, w * (x - data.mean(0)), 0.1)


def test_draws_stay_in_the_range():
    seen = []

    def f(x):
        seen.append((float(x.min()), float(x.max())))
        return x.sum((1, 2, 3))

    data = smooth_images(20, 1, 5, 5)
    x = data[:1].clamp(-0.5, 0.5)
    pda = PredictionDifference(f, data, "score", value_range=(-0.5, 0.5))
    pda.attribute(x, 2, 4)
    assert min(low for low, _ in seen) == -0.5
    assert max(high for _, high in seen) == 0.5


# ---- batching, shapes --------------------------------------------------------------------------


@pytest.mark.parametrize("outer", [None, 3], ids=["marginal", "conditional"])
def test_the_same_for_every_batch_size_and_alone(outer):
    data, x = smooth_images(20, 2, 4, 5), smooth_images(3, 2, 4, 5, seed=1)
    f = flat_net(40)
    options = {"surround": outer, "n_samples": 3, "seed": 2}
    expected = PredictionDifference(f, data, "probability").attribute(
        x, 2, target=[0, 1, 2], **options
    )
    for rows in (1, 2, 7, 1000):
        counting = Counting(f)
        found = PredictionDifference(counting, data, "probability").attribute(
            x, 2, target=[0, 1, 2], internal_batch_size=rows, **options
        )
        close(found, expected)
        assert max(counting.rows) <= rows
    alone = PredictionDifference(f, data, "probability").attribute(x[1:2], 2, target=1, **options)
    close(alone, expected[1:2])
    drawn = PredictionDifference(f, data, "probability")
    other = drawn.attribute(x, 2, target=[0, 1, 2], **options | {"seed": 3})
    assert float((other - expected).abs().max()) > 1e-4


def test_several_outputs_and_targets():
    data = smooth_images(20, 2, 4, 5)
    pda = PredictionDifference(flat_net(40), data)
    options = {"window": 2, "surround": 3, "n_samples": 2, "seed": 0}
    each = torch.stack([pda.attribute(data[:2], target=t, **options) for t in range(3)])
    close(pda.attribute(data[:2], target="all", **options), each)
    close(pda.attribute(data[:2], **options), each.movedim(0, 1).flatten(0, 1))


@pytest.mark.parametrize("size", [(8,), (4, 5, 4)], ids=["one", "three"])
def test_other_numbers_of_dimensions(size):
    data = smooth_images(30, 2, *size)
    f = lambda x: x.flatten(1).square().sum(1)  # noqa: E731
    pda = PredictionDifference(f, data, "score")
    r = pda.attribute(data[:2], 2, 3, "window", n_samples=2, seed=0)
    assert r.shape == data[:2].shape
    patch = r[(0, 0, *[slice(0, 2)] * len(size))]
    assert float((patch - patch.flatten()[0]).abs().max()) == 0
    assert float(r.abs().min()) > 0


@pytest.mark.parametrize("optimize", [True, None])
def test_the_graph_gives_what_the_model_gives(optimize):
    model, x = shared(ResNet), inputs(ResNet)
    data = inputs(ResNet, 40)
    options = {"window": 4, "surround": 5, "strides": 3, "n_samples": 2, "seed": 0}
    options["target"] = [1, 3]
    expected = PredictionDifference(model, data, optimize=False).attribute(x, **options)
    assert float(expected.abs().max()) > 1e-3
    found = PredictionDifference(model, data, optimize=optimize).attribute(x, **options)
    close(found, expected, 1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes_stay(dtype):
    data = smooth_images(30, 1, 5, 5)
    pda = PredictionDifference(lambda x: x.sum((1, 2, 3)), data, "score")
    options = {"window": 2, "surround": 4, "seed": 0}
    r = pda.attribute(data[:2].to(dtype), **options)
    assert r.dtype == dtype
    close(r, pda.attribute(data[:2], **options), 1e-4 if dtype == torch.float32 else 0.1)


def test_a_batch_of_none_and_layouts():
    data = smooth_images(20, 2, 4, 5)
    pda = PredictionDifference(flat_net(40), data)
    options = {"window": 2, "surround": 3, "target": 1, "seed": 0}
    assert pda.attribute(data[:0], **options).shape == (0, 2, 4, 5)
    last = data[:2].to(memory_format=torch.channels_last)
    close(pda.attribute(last, **options), pda.attribute(data[:2], **options))


# ---- errors ------------------------------------------------------------------------------------


def never(*_):
    raise AssertionError("the model was called")


X = torch.rand(4, 3, 6, 5)
BAD = {
    "window": ({"window": 6}, r"window must be in \[1, size\] for each of the positions \[6, 5\]"),
    "surround": ({"surround": 7}, r"surround must be in \[1, size\]"),
    "no surround": ({"surround": 2}, r"surround must be larger than the window \[2, 2\]; got 2"),
    "strides": ({"strides": 3}, r"strides must not be beyond the window \(3, 2, 2\)"),
    "samples": ({"n_samples": 0}, "n_samples must be at least 1; got 0"),
    "training": ({"n_train": 0.5}, "n_train must be an int; got 0.5"),
    "measure": ({"measure": "odds"}, "measure must be one of weight_of_evidence, probability, sc"),
    "range": ({"value_range": (1, 0)}, r"value_range must have low < high; got \(1, 0\)"),
    "ranges": ({"value_range": 1}, r"value_range must be \(low, high\); got 1"),
    "both seeds": ({"seed": 1, "generator": torch.Generator()}, "seed and generator exclude"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_bad_arguments(options, message):
    with pytest.raises((ValueError, TypeError), match=f"PredictionDifference: {message}"):
        explained(PredictionDifference, never, reference=X, inputs=X, **{"window": 2} | options)


def test_bad_references():
    with pytest.raises(ValueError, match="reference must be given before attribute"):
        PredictionDifference(never).attribute(X, 2)
    with pytest.raises(ValueError, match=r"reference must hold images of shape \[3, 6, 5\]"):
        PredictionDifference(never, X[:, :2]).attribute(X, 2)
    with pytest.raises(ValueError, match="reference must hold at least two finite images"):
        PredictionDifference(never, X[:1])
    with pytest.raises(TypeError, match=r"reference must be a floating tensor \[M, C, ...\]"):
        PredictionDifference(never).fit(X.long())


def test_outputs_that_are_no_probabilities():
    scores = lambda x: x.sum((2, 3)) + 5  # noqa: E731
    with pytest.raises(ModelError, match="logits=False needs a model that returns probabilities"):
        PredictionDifference(scores, X, logits=False).attribute(X, 2, target=0)
    with pytest.raises(ModelError, match="probability=True needs a model that returns floating"):
        PredictionDifference(lambda x: x.sum((1, 2, 3)), X).attribute(X, 2)
