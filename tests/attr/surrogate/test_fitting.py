"""The fit of one call: what is evaluated together, and similarities that cannot be used."""

import pytest
import torch
from calls import Counting
from torch import nn

from xaifast import attr
from xaifast.errors import InputError, ModelError


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def point(n=1):
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(1)).double()


def test_samples_are_evaluated_together_whatever_their_features():
    model = Counting(net())
    masks = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1], [0, 1, 2, 2]])
    attr.KernelShap(model).attribute(point(3), target=0, feature_mask=masks, n_samples=1000)
    # 2^4 coalitions; the first look at the model is at that of all features. One row to measure.
    assert sum(model.rows) == 3 * 16 + 1
    assert len(model.rows) == 3


@pytest.mark.parametrize(
    ("similarity", "message"),
    [
        (lambda *v, **kwargs: -1.0, "must give finite numbers that are not negative; got numbers"),
        (lambda *v, **kwargs: float("nan"), "must give finite numbers that are not negative"),
        (lambda *v, **kwargs: 0, r"must give some .* a weight; got 0 of \d+ that are not 0"),
        (attr.ExponentialKernel("euclidean", 1e-6), "may need a larger width"),
    ],
)
def test_similarities_that_leave_nothing_to_fit_are_refused(similarity, message):
    for lime in (
        attr.Lime(net(), similarity_func=similarity),
        attr.LimeBase(
            net(), attr.Ridge(), similarity, lambda x: x + 1, False, None, lambda s, x: s
        ),
    ):
        with pytest.raises(InputError, match=message):
            lime.attribute(point(), target=0)


def test_a_similarity_that_is_no_number_is_refused():
    lime = attr.Lime(net(), similarity_func=lambda *v, **kwargs: torch.ones(3))
    with pytest.raises(ModelError, match="similarity_func must return one number"):
        lime.attribute(point(), target=0)
