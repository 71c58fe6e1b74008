"""Features that are switched off or permuted, and scores on their elements."""

import pytest
import torch

from xaifast.attr import FeaturePermutation
from xaifast.attr.perturbation.features import check_features
from xaifast.attr.perturbation.segments import Segments

X = torch.arange(1, 13).view(2, 2, 3)
MASKS = {
    "shared": torch.tensor([[0, 0, 1], [2, 1, 1]]),
    "rows": torch.tensor([[0], [1]]),
    "of each sample": torch.tensor([[[0, 0, 1], [2, 1, 1]], [[2, 2, 2], [1, 1, 1]]]),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.uint8])
@pytest.mark.parametrize("each", [True, False], ids=["baseline of each", "one for all"])
def test_coalitions_keep_what_is_on(mask, dtype, each):
    x = X.to(dtype)
    baseline = (100 + torch.arange(12).view(2, 2, 3))[: 2 if each else 1].to(dtype)
    segments = Segments(check_features("X", mask, (x,)), (x,))
    on = torch.tensor([[True, False, True], [False, False, True]])[:, : segments.count]
    (rows,) = segments.coalitions((baseline,), on)
    labels = mask.expand(2, 2, 3)
    assert rows.dtype == dtype
    for k in range(2):
        for n in range(2):
            expected = torch.where(on[k][labels[n]], x[n], baseline[n if each else 0])
            assert torch.equal(rows[2 * k + n], expected)


def test_scores_go_to_the_elements_of_their_features():
    scores = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])  # [M, L]
    for name, expected in (
        ("shared", [[[1, 1, 2], [3, 2, 2]], [[10, 10, 20], [30, 20, 20]]]),
        ("of each sample", [[[1, 1, 2], [3, 2, 2]], [[30, 30, 30], [20, 20, 20]]]),
    ):
        segments = Segments(check_features("X", MASKS[name], (X,)), (X,))
        (found,) = segments.spread(scores, torch.tensor([0, 1]))
        assert found.tolist() == expected


def test_permutations_are_fair_and_never_the_identity():
    seen = []

    def f(x):
        seen.append(tuple(x[:, 0].long().tolist()))
        return x[:, 0]

    x = torch.arange(3.0).view(3, 1)
    for seed in range(300):
        FeaturePermutation(f).attribute(x, seed=seed, internal_batch_size=3)
    drawn = [s for s in seen if s != (0, 1, 2)]
    assert len(seen) == 600
    assert len(drawn) == 300  # the other half are the evaluations of x itself
    counts = [drawn.count(p) for p in set(drawn)]
    assert len(counts) == 5
    assert min(counts) > 30  # of 60 expected: 4 standard deviations


def test_a_permutation_function_returns_what_it_was_given():
    with pytest.raises(ValueError, match=r"perm_func must return a tensor of shape \[2, 3, 4\]"):
        FeaturePermutation(lambda x: x.sum(2), lambda x, m: x[:1]).attribute(
            torch.ones(2, 3, 4), target=0
        )
