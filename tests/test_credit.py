"""The experiments on recurrent credit: what an episode pays, and which words are deleted."""

import random

import pytest
import torch

from benchmarks import moneybag, word_deletion
from benchmarks.sentences import sentences


@pytest.mark.parametrize("width", [3, 5])
def test_the_return_counts_the_coins_after_the_moneybag(width):
    episode, chance = moneybag.episode, random.Random(0)
    returns, found = [], 0
    for _ in range(300):
        rows, total = episode(20, width, chance)
        agent, owns, want = width // 2, False, 0
        for bag, coin, left, right in rows:
            assert left + right == 1
            agent = min(max(agent + right - left, 0), width - 1)
            assert bag == (agent == 0 and not owns)
            assert not (coin and agent == 0)
            owns = owns or bag == 1
            if owns:
                want += coin
        assert total == want
        returns.append(total)
        found += owns
    assert 0 < found < 300 or width == 3
    assert len(set(returns)) > 3


def test_every_step_of_an_episode_has_one_place():
    chance = random.Random(1)
    x = torch.tensor([moneybag.episode(20, 5, chance)[0] for _ in range(100)])
    totals = [moneybag.episode(20, 5, random.Random(seed)) for seed in range(100)]
    where = moneybag.places(x)
    assert (torch.stack(list(where.values())).sum(0) == 1).all()
    again = moneybag.places(torch.tensor([rows for rows, _ in totals]))
    assert again["coins after"].sum(1).tolist() == [total for _, total in totals]
    assert where["coins before"].any()


def test_deletion_takes_the_words_it_says_and_keeps_the_order_of_the_rest():
    delete = word_deletion.delete
    row, R = [7, 5, 7, 3], [0.5, -1.0, 2.0, 0.0]
    assert delete(row, R, 0, True) == row
    assert delete(row, R, 1, True) == [7, 5, 3]  # the second 7, not the first
    assert delete(row, R, 2, True) == [5, 3]
    assert delete(row, R, 2, False) == [7, 7]
    assert delete(row, R, 3, False) == [7]
    assert row == [7, 5, 7, 3]


def test_sentences_are_prose_without_the_names_of_libraries():
    text = "Sum of `numpy.ndarray` x.\n\nSee :func:`torch.sum`. Fast!\n\nExamples\n---\n>>> np.sum"
    assert sentences(text) == [["sum", "of", "ndarray", "x"], ["see", "sum"], ["fast"]]


def test_a_prediction_does_not_depend_on_the_company():
    torch.manual_seed(0)
    model = word_deletion.Reader(20, 4, 5).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(2 * torch.randn(p.shape))
    rows = [torch.randint(20, (n,)).tolist() for n in (3, 1, 3, 5, 1, 2)]
    alone = [int(model(torch.tensor([row])).argmax()) for row in rows]
    assert word_deletion.predictions(model, rows).tolist() == alone
    assert len(set(alone)) > 1
