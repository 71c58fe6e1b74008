"""RISE against loops over masks and pixels, and known answers."""

import pytest
import torch
from calls import Counting, explained, flat_net
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import ResNet, inputs, shared
from oracle import perturbation as oracle

from xaifast.attr import RISE
from xaifast.attr.perturbation.rise import Masks
from xaifast.errors import ModelError


def one(f, target):
    """A function of one sample as an array, from one of a batch of tensors."""
    return lambda x: float(f(torch.from_numpy(x).unsqueeze(0))[0, target].detach())


def close(got, expected, tolerance=1e-12):
    expected = torch.as_tensor(expected)
    assert got.shape == expected.shape
    scale = max(1.0, float(expected.double().abs().max()))
    assert float((got.double() - expected.double()).abs().max()) <= tolerance * scale


def drawn(count, grid, size, p, seed):
    """The masks that a seed stands for, by the loops of the oracle."""
    generator = torch.Generator().manual_seed(seed)
    grids = (torch.rand(count, *grid, generator=generator) < p).double().numpy()
    cells = [-(-s // h) for s, h in zip(size, grid, strict=True)]
    shifts = [torch.randint(c, (count,), generator=generator).tolist() for c in cells]
    return [
        oracle.rise_mask(g, at, size)
        for g, at in zip(grids, zip(*shifts, strict=True), strict=True)
    ]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_masks_are_the_loops(data):
    grid = tuple(data.draw(st.integers(1, 4)) for _ in range(2))
    size = tuple(data.draw(st.integers(h, 11)) for h in grid)
    seed, p = data.draw(st.integers(0, 10**6)), data.draw(st.sampled_from([0.2, 0.5, 1.0]))
    masks = Masks(5, grid, size, p, torch.Generator().manual_seed(seed))
    like = torch.zeros((), dtype=torch.float64)
    for got, expected in zip(
        masks.made(slice(0, 5), like), drawn(5, grid, size, p, seed), strict=True
    ):
        close(got, expected)


def test_a_mask_by_hand():
    # cells (1, 0) over 4 pixels, enlarged to 3 cells of 2: pixel i is at (i + 1/2) / 3 - 1/2,
    # which gives 1, 1, 2/3, 1/3, 0, 0; cut at 1
    masks = Masks(1, (2,), (4,), 0.5, torch.Generator())
    masks.grids, masks.shifts = torch.tensor([[True, False]]), [torch.tensor([1])]
    made = masks.made(slice(0, 1), torch.zeros((), dtype=torch.float64))
    close(made, torch.tensor([[3, 2, 1, 0]]).double() / 3)


@pytest.mark.parametrize("rows", [1, 7, "auto"])
def test_is_the_loop(rows):
    f = flat_net(2 * 7 * 9)
    x, baseline = torch.randn(2, 2, 2, 7, 9).double()
    found = explained(RISE, f, 
        x, baseline, target=[0, 2], n_samples=12, grid_size=(3, 4), p=0.4, seed=8,
        internal_batch_size=rows,
    )  # fmt: skip
    masks = drawn(12, (3, 4), (7, 9), 0.4, 8)
    for n, target in enumerate([0, 2]):
        expected = oracle.rise(one(f, target), x[n].numpy(), baseline[n].numpy(), masks, 0.4)
        close(found[n], expected)


def test_a_mask_that_hides_nothing_shows_the_score():
    f, x = flat_net(12), torch.randn(2, 1, 3, 4).double()
    r = explained(RISE, f, x, target=1, n_samples=3, grid_size=2, p=1.0)
    close(r, f(x)[:, 1].detach().view(2, 1, 1, 1).expand_as(x))


def test_what_the_model_looks_at_stands_out():
    # S = mean of one quarter: masks that show it have the higher scores
    x = torch.ones(1, 3, 8, 8).double()
    r = explained(RISE, lambda x: x[:, :, :4, 4:].mean((1, 2, 3)), x, n_samples=1500, seed=0)[0]
    assert torch.equal(r[0], r[1])
    quarters = r[0].unflatten(0, (2, 4)).unflatten(2, (2, 4)).mean((1, 3))
    # E[M_q M_i] / p is about 1/2 + correlation; all others are uncorrelated up to what blends over
    assert quarters.argmax() == 1
    assert float(quarters[0, 1]) > float(quarters.sum() - quarters[0, 1]) / 3 + 0.05


def test_the_same_for_every_batch_size_and_alone():
    f, x = flat_net(24), torch.randn(3, 2, 3, 4).double()
    options = {"n_samples": 30, "grid_size": 2, "seed": 4}
    expected = explained(RISE, f, x, target=[0, 1, 2], **options)
    for rows in (1, 2, 7, 1000):
        counting = Counting(f)
        close(
            explained(RISE, counting, x, target=[0, 1, 2], internal_batch_size=rows, **options),
            expected,
        )
        assert max(counting.rows) <= rows
    close(explained(RISE, f, x[1:2], target=1, **options), expected[1:2])
    other = explained(RISE, f, x, target=[0, 1, 2], **options | {"seed": 5})
    assert float((other - expected).abs().max()) > 1e-3


def test_probabilities_several_outputs_and_targets():
    f, x = flat_net(24), torch.randn(2, 2, 3, 4).double()
    options = {"n_samples": 9, "grid_size": 2, "seed": 4}
    p = explained(RISE, f, x, target=1, probability=True, **options)
    close(p, explained(RISE, lambda x: f(x).softmax(1), x, target=1, **options))
    each = [explained(RISE, f, x, target=t, **options) for t in range(3)]
    close(explained(RISE, f, x, target="all", **options), torch.stack(each))
    every = explained(RISE, f, x, **options)
    close(every, torch.stack(each, 1).flatten(0, 1))


@pytest.mark.parametrize("size", [(9,), (4, 5, 6)], ids=["one", "three"])
def test_other_numbers_of_dimensions(size):
    x = torch.randn(2, 3, *size).double()
    f = lambda x: x.flatten(1).sum(1)  # noqa: E731
    r = explained(RISE, f, x, n_samples=5, grid_size=3, seed=2)
    masks = Masks(5, (3,) * len(size), size, 0.5, torch.Generator().manual_seed(2))
    made = masks.made(slice(0, 5), x)
    scores = (made.unsqueeze(1).unsqueeze(1) * x).flatten(2).sum(2)
    expected = torch.einsum("kn,k...->n...", scores, made) / 2.5
    close(r, expected.unsqueeze(1).expand_as(x))


@pytest.mark.parametrize("optimize", [True, None])
def test_the_graph_gives_what_the_model_gives(optimize):
    model, x = shared(ResNet), inputs(ResNet)
    options = {"n_samples": 20, "grid_size": 3, "seed": 0, "target": [1, 3]}
    expected = explained(RISE, model, x, optimize=False, **options)
    assert float(expected.abs().max()) > 1e-3
    close(explained(RISE, model, x, optimize=optimize, **options), expected, 1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_stay(dtype):
    x = torch.rand(1, 2, 6, 5)
    f = lambda x: x.mean((1, 2, 3))  # noqa: E731
    options = {"n_samples": 10, "grid_size": 2, "seed": 0}
    r = explained(RISE, f, x.to(dtype), **options)
    assert r.dtype == dtype
    close(r, explained(RISE, f, x.double(), **options), 0.02)


def test_a_batch_of_none_and_layouts():
    f = flat_net(24)
    x = torch.randn(2, 2, 3, 4).double()
    options = {"target": 1, "n_samples": 4, "grid_size": 2, "seed": 0}
    assert explained(RISE, f, x[:0], **options).shape == (0, 2, 3, 4)
    last = x.to(memory_format=torch.channels_last)
    close(explained(RISE, f, last, **options), explained(RISE, f, x, **options))
    (found,) = explained(RISE, f, (x,), **options)
    close(found, explained(RISE, f, x, **options))


# ---- errors ------------------------------------------------------------------------------------


def never(*_):
    raise AssertionError("the model was called")


X = torch.ones(2, 3, 6, 5)
BAD = {
    "samples": ({"n_samples": 0}, "n_samples must be at least 1; got 0"),
    "grid": ({"grid_size": 6}, r"grid_size must be in \[1, size\] for each of the positions"),
    "grid zero": ({"grid_size": 0}, r"grid_size must be in \[1, size\]"),
    "grid of three": ({"grid_size": (2, 2, 2)}, r"grid_size must be in \[1, size\]"),
    "half a cell": ({"grid_size": 2.5}, "grid_size must be an int or a tuple of ints; got 2.5"),
    "p": ({"p": 0.0}, r"p must be in \(0, 1\]; got 0.0"),
    "word": ({"p": "half"}, "p must be a number; got 'half'"),
    "baseline": ({"baselines": torch.ones(2, 2)}, "baselines must have the shape of the input"),
    "both seeds": ({"seed": 1, "generator": torch.Generator()}, "seed and generator exclude"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_bad_arguments(options, message):
    with pytest.raises((ValueError, TypeError), match=f"RISE: {message}"):
        explained(RISE, never, X, **{"grid_size": 2} | options)


def test_bad_inputs():
    with pytest.raises(ValueError, match="RISE: inputs must be floating images"):
        explained(RISE, never, torch.ones(2, 3))
    with pytest.raises(ValueError, match="RISE: inputs must be floating images"):
        explained(RISE, never, X.long())
    with pytest.raises(ValueError, match="RISE: inputs must be one tensor of images; got 2"):
        explained(RISE, never, (X, X))
    with pytest.raises(ModelError, match="probability=True needs a model that returns floating"):
        explained(RISE, lambda x: x.mean((1, 2, 3)), X, probability=True, grid_size=2)
