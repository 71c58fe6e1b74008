"""Baselines that know the features: the mean of each segment."""

import pytest
import torch

from xaifast import attr
from xaifast.attr.perturbation.features import check_features
from xaifast.attr.perturbation.fills import fill_means, segment_means
from xaifast.errors import InputError


def images(n):
    return torch.randn(n, 2, 4, 4, generator=torch.Generator().manual_seed(1)).double()


def quarters():
    return torch.tensor([[0, 0, 1, 1]] * 2 + [[2, 2, 3, 3]] * 2)


def test_the_mean_of_a_segment_as_baseline():
    x, seen = images(2), []

    def model(x):
        seen.append(x.clone())
        return x.flatten(1).sum(1)

    options = {"feature_mask": quarters(), "n_samples": 2}
    got = attr.KernelShap(model).attribute(x, "mean", **options)
    mean = x.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    expected = mean.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(seen[-1][-2:], expected)
    torch.testing.assert_close(got, torch.zeros_like(x))
    both = attr.KernelShap(lambda x, y: model(x) + y.sum(1)).attribute(
        (x, torch.ones(2, 3).double()), ("mean", 0.0),
        feature_mask=(quarters(), torch.tensor([4, 5, 5])), n_samples=70,
    )  # fmt: skip
    expected = torch.tensor([[1.0, 2, 2]]).double().expand(2, 3)
    torch.testing.assert_close(both[1], expected, rtol=0, atol=1e-7)


def test_masks_of_each_sample_and_of_each_channel():
    x = images(2)
    own = torch.stack([quarters(), 3 - quarters().T]).unsqueeze(1)
    each = torch.cat([quarters()[None], quarters()[None] + 4]).unsqueeze(0)
    for mask in (own, each):
        labels = mask.expand_as(x)
        got = segment_means("Lime", x, mask, 8)
        for n in range(2):
            for c in range(2):
                for m in labels[n, c].unique():
                    part = labels[n, c] == m
                    mean = x[n, c][part].mean().expand(int(part.sum()))
                    torch.testing.assert_close(got[n, c][part], mean)


def test_several_baselines_may_be_means():
    x, mask = (images(1),), quarters()
    features = check_features("Lime", mask, x)
    found = fill_means("Lime", ["mean", 0.5], x, mask, features)
    assert found[1] == 0.5
    assert found[0][0].shape == x[0].shape
    assert fill_means("Lime", ("mean", "mean"), x, mask, features) == ("mean", "mean")


def test_what_has_no_mean_is_refused():
    with pytest.raises(InputError, match='"mean" needs segments; got no feature_mask'):
        attr.Lime(lambda x: x).attribute(images(1), "mean")
    with pytest.raises(InputError, match='"mean" needs floating inputs'):
        attr.Lime(lambda x: x).attribute(
            torch.tensor([[1, 2]]), "mean", feature_mask=torch.tensor(0)
        )
