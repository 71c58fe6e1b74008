"""Coalitions: drawn by their distribution, or all of them; the features of each sample."""

import math

import pytest
import torch

from xaifast.attr.perturbation.features import Features
from xaifast.attr.surrogate.coalitions import (
    AfterOnes,
    ShapleyShares,
    Uniform,
    _distinct,
    ask_coalitions,
    draw_coalitions,
    players_of,
    samples_of,
)
from xaifast.errors import InputError

DRAWS = 20000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def features(*masks):
    labels = tuple(torch.tensor(m) for m in masks)
    count = max(int(m.max()) for m in labels) + 1
    return Features(labels, count, tuple(range(count)))


def shares(M):
    """p(k) of KernelSHAP's sizes, by hand."""
    weights = [(M - 1) / (k * (M - k)) for k in range(1, M)]
    return torch.tensor([w / sum(weights) for w in weights], dtype=torch.float64)


def within(observed, expected, draws):
    """Frequencies within five standard errors of probabilities."""
    error = (expected * (1 - expected) / draws).sqrt()
    return bool(((observed - expected).abs() < 5 * error + 1e-12).all())


def test_uniform_draws():
    z = Uniform().draw(4, DRAWS, generator())
    assert z.shape == (DRAWS, 4)
    cells = (z * torch.tensor([1, 2, 4, 8])).sum(1).bincount(minlength=16) / DRAWS
    assert within(cells.double(), torch.full((16,), 1 / 16).double(), DRAWS)


def test_the_listing_begins_with_all_features():
    z = AfterOnes().draw(5, 100, generator())
    assert z[0].all()
    assert not z[1:].all()
    assert not AfterOnes().enumerates(5, 100)


@pytest.mark.parametrize("M", [2, 3, 6, 11])
def test_shapley_draws_sizes_by_their_share_and_subsets_alike(M):
    z = ShapleyShares().draw(M, DRAWS + 2, generator())
    assert z[0].all()
    assert not z[1].any()
    drawn = z[2:]
    sizes = drawn.sum(1).bincount(minlength=M + 1)[1:M] / DRAWS
    assert within(sizes.double(), shares(M), DRAWS / 2)  # they come in pairs
    for k in range(1, M):
        of_size = drawn[drawn.sum(1) == k]
        each = torch.full((M,), k / M).double()
        assert within(of_size.double().mean(0), each, max(1, len(of_size) // 2))
    assert torch.equal(drawn[::2], ~drawn[1::2])


@pytest.mark.parametrize("S", [2, 3, 4, 5])
def test_shapley_draws_of_few_samples(S):
    z = ShapleyShares().draw(3, S, generator())
    assert z.shape == (S, 3)
    assert z[0].all()
    assert not z[1].any()


def test_all_coalitions_weigh_as_many_draws():
    z, repeats = ShapleyShares().enumerate(4, 102)
    k = z.sum(1)
    assert len(z) == 16
    assert repeats[k == 4].item() == repeats[k == 0].item() == 1
    for size, share in enumerate(shares(4), 1):
        of_size = repeats[k == size]
        assert len(of_size) == math.comb(4, size)
        assert torch.allclose(of_size, 100 * share / len(of_size))
    z, repeats = Uniform().enumerate(3, 20)
    assert len(z.unique(dim=0)) == 8
    assert (repeats == 2.5).all()


@pytest.mark.parametrize("source", [Uniform(), ShapleyShares()])
def test_coalitions_depend_on_the_seed_and_the_number_of_features_alone(source):
    one = players_of(features([[0, 1, 2, 3, 4]]), 1, False)
    both = players_of(features([[0, 1, 2, 3, 4], [0, 1, 2, 3, 3]]), 2, False)
    alone = draw_coalitions(one, 20, source, 3, True)
    together = draw_coalitions(both, 20, source, 3, True)
    assert [z.shape[1] for z in together.z] == [4, 5]
    assert together.group.tolist() == [1, 0]
    rows = len(alone.z[0])
    assert torch.equal(together.z[1][:rows], alone.z[0])
    assert torch.equal(together.repeats[1][:rows], alone.repeats[0])
    assert not together.repeats[1][rows:].any()
    assert not torch.equal(alone.z[0], draw_coalitions(one, 20, source, 4, True).z[0])


def test_equal_draws_are_kept_once_with_their_number():
    players = players_of(features([[0, 1]]), 1, False)
    c = draw_coalitions(players, 50, Uniform(), 0, False)
    assert c.count == 4
    assert c.repeats[0].sum() == 50
    drawn = Uniform().draw(2, 50, generator(0))
    assert torch.equal(c.z[0][c.rows[0]], drawn.double())
    assert c.full_row() == 0


@pytest.mark.parametrize("M", [3, 62, 63, 200])
def test_equal_rows_are_found_whatever_their_length(M):
    z = torch.rand(30, M, generator=generator()) < 0.5
    z = torch.cat([z, z[:11], torch.ones(2, M, dtype=torch.bool), z[:5, :1].expand(-1, M)])
    found, repeats, rows = _distinct(z)
    assert torch.equal(found[rows], z)
    assert len(found) == len(z.unique(dim=0))
    assert torch.equal(repeats, rows.bincount().double())
    assert found[0].all()


def test_players_count_the_features_of_each_sample():
    mask = [[0, 0, 2], [3, 1, 1], [2, 2, 2]]
    players = players_of(features(mask, [[3, 3]]), 3, False)
    assert players.counts == [3, 2, 2]
    assert players.labels[0].tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert players.labels[1].tolist() == [[2, 2], [1, 1], [1, 1]]
    spread = players.spread(torch.tensor([[[1.0, 2, 3], [4, 5, 0], [6, 7, 0]]]))
    assert spread.tolist() == [[[1, 0, 2, 3], [0, 4, 0, 5], [0, 0, 6, 7]]]
    whole = players_of(features(mask), 3, True)
    assert whole.counts == [4]
    assert whole.own is None


# ---- the user's --------------------------------------------------------------------------------


def test_samples_come_from_functions_and_generators():
    def yields(x, n):
        yield from range(n)

    calls = iter(range(100))
    assert list(samples_of(yields, None, {"n": 3})) == [0, 1, 2]
    assert list(samples_of(lambda x, n: iter_of(n), None, {"n": 3})) == [0, 1, 2]
    drawn = samples_of(lambda x: next(calls), None, {})
    assert [next(drawn) for _ in range(3)] == [0, 1, 2]


def iter_of(n):
    return (i for i in range(n))


def ask(function, S=5):
    players = players_of(features([[0, 1, 2]]), 1, False)
    told = [(torch.ones(1, 3), {"num_interp_features": 3})]
    return ask_coalitions("Lime", players, S, function, told)


def test_a_generator_that_ends_early_is_warned_of():
    def two(x, **kwargs):
        yield from torch.eye(3)[:2].split(1)

    with pytest.warns(UserWarning, match="completed after 2 of n_samples=5"):
        assert ask(two).count == 2

    def none(x, **kwargs):
        yield from ()

    with pytest.raises(InputError, match="must give at least one sample"):
        ask(none)


def test_coalitions_of_another_size_are_refused():
    for wrong in (torch.ones(1, 2), [1, 0, 1]):
        with pytest.raises(InputError, match=r"perturb_func must return a tensor \[1, 3\]"):
            ask(lambda x, wrong=wrong, **kwargs: wrong)
