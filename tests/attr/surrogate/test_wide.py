"""More features than samples: against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn import linear_model

from xaifast import attr
from xaifast.attr.surrogate import wide

PAIRS = {
    "ridge": (attr.Ridge(3.0), linear_model.Ridge(alpha=3.0)),
    "plain": (attr.Ridge(3.0, False), linear_model.Ridge(alpha=3.0, fit_intercept=False)),
    "linear": (attr.LinearRegression(), linear_model.LinearRegression()),
}


def wide_problem(M, B=2, S=20):
    generator = torch.Generator().manual_seed(1)
    shapes = ((1, S, M), (B, S))
    Z, y = (torch.randn(shape, generator=generator).double() for shape in shapes)
    return Z, y, torch.rand(B, S, generator=generator).double() + 0.1


def expected(model, Z, y, weight):
    found = []
    for targets, w in zip(y, weight.expand_as(y), strict=True):
        model.fit(Z[0].numpy(), targets.numpy(), sample_weight=w.numpy())
        found.append(torch.from_numpy(np.array(model.coef_)))
    return torch.stack(found)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("M", [60, 3000])
def test_more_features_than_samples(name, M):
    ours, theirs = PAIRS[name]
    Z, y, weight = wide_problem(M)
    for w in (weight, weight[:1]):
        got = ours.solve(Z, y, w)
        torch.testing.assert_close(got, expected(theirs, Z, y, w), atol=1e-9, rtol=0)


@pytest.mark.parametrize("intercept", [True, False])
def test_a_lasso_of_many_features_is_solved_for_those_in_use(monkeypatch, intercept):
    theirs = linear_model.Lasso(alpha=0.3, tol=1e-12, max_iter=10**6, fit_intercept=intercept)
    Z, y, weight = wide_problem(120)
    monkeypatch.setattr(wide, "WIDE_LASSO", 30)
    got = attr.Lasso(0.3, intercept).solve(Z, y, weight)
    assert 0 < int((got[0] != 0).sum()) < 20
    torch.testing.assert_close(got, expected(theirs, Z, y, weight), atol=1e-8, rtol=0)


def test_ends_that_weigh_a_million_are_met():
    Z, y, _ = wide_problem(60)
    weight = torch.ones(1, 20).double()
    weight[:, :2] = 1e6
    c, c0 = attr.LinearRegression().fit(Z, y, weight)
    torch.testing.assert_close(c @ Z[0].T + c0.unsqueeze(1), y, rtol=0, atol=1e-8)
