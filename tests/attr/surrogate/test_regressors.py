"""Surrogates: ours against scikit-learn, and what the user may bring along."""

import numpy as np
import peers
import pytest
import torch
from captum._utils.models import linear_model as captum_models
from sklearn import linear_model, svm

from xaifast import attr
from xaifast.attr.surrogate.regressors import check_regressor
from xaifast.errors import InputError, InputTypeError

assert peers.captum
PAIRS = {
    "lasso": (attr.Lasso(0.02), linear_model.Lasso(alpha=0.02, tol=1e-12, max_iter=10**6)),
    "ridge": (attr.Ridge(3.0), linear_model.Ridge(alpha=3.0)),
    "linear": (attr.LinearRegression(), linear_model.LinearRegression()),
}
NATIVE = {  # what is solved natively in place of models of scikit-learn and captum
    "lasso": (attr.Lasso(0.02), linear_model.Lasso(alpha=0.02),
              captum_models.SkLearnLasso(alpha=0.02)),
    "ridge": (attr.Ridge(0.5, False), linear_model.Ridge(alpha=0.5, fit_intercept=False),
              captum_models.SkLearnRidge(alpha=0.5, fit_intercept=False)),
    "linear": (attr.LinearRegression(), linear_model.LinearRegression(),
               captum_models.SkLearnLinearRegression()),
    "named": (attr.Ridge(2), linear_model.Ridge(2),
              captum_models.SkLearnLinearModel("linear_model.Ridge", alpha=2)),
}  # fmt: skip


def problem(B=2, S=30, M=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    Z = (torch.rand(1, S, M, generator=generator) < 0.5).double()
    y = torch.randn(B, S, generator=generator).double() + (2 * Z[0, :, 0] - Z[0, :, 1])
    return Z, y, torch.rand(B, S, generator=generator).double() + 0.1


def expected(model, Z, y, weight):
    found = []
    for targets, w in zip(y, weight.expand_as(y), strict=True):
        model.fit(Z[0].numpy(), targets.numpy(), sample_weight=w.numpy())
        found.append(torch.from_numpy(np.array(model.coef_)))
    return torch.stack(found)


@pytest.mark.parametrize("name", PAIRS)
def test_ours_are_scikit_learns(name):
    ours, theirs = PAIRS[name]
    Z, y, weight = problem()
    torch.testing.assert_close(
        ours.solve(Z, y, weight), expected(theirs, Z, y, weight), atol=1e-8, rtol=0
    )
    shared = weight[:1]
    torch.testing.assert_close(
        ours.solve(Z, y, shared), expected(theirs, Z, y, shared), atol=1e-8, rtol=0
    )


@pytest.mark.parametrize("name", PAIRS)
def test_a_repeated_sample_is_one_of_more_weight(name):
    ours, _ = PAIRS[name]
    Z, y, weight = problem()
    Z2, y2, weight2 = (torch.cat([v, v[:, :7]], 1) for v in (Z, y, weight))
    weight[:, :7] *= 2
    torch.testing.assert_close(ours.solve(Z, y, weight), ours.solve(Z2, y2, weight2))


@pytest.mark.parametrize("name", NATIVE)
def test_models_that_stand_for_ours_are_solved_by_ours_and_left_as_fitted(name):
    ours, scikit, captum_model = NATIVE[name]
    Z, y, weight = problem()
    c, c0 = ours.fit(Z, y, weight)
    for model in (scikit, captum_model):
        regressor = check_regressor("Lime", model)
        assert regressor.merges
        assert torch.equal(regressor.solve(Z, y, weight), c)
    assert np.array_equal(scikit.coef_, c[-1].numpy())
    x = np.ones((1, 5))
    assert scikit.predict(x)[0] == pytest.approx(float(c[-1].sum() + c0[-1]))
    torch.testing.assert_close(captum_model.representation(), c[-1:].float())
    torch.testing.assert_close(captum_model.bias(), c0[-1:].float())


@pytest.mark.parametrize(
    "model",
    [
        linear_model.Lasso(alpha=0.02, positive=True),
        linear_model.Lasso(alpha=0.02, tol=1e-9),
        linear_model.ElasticNet(alpha=0.02),
        linear_model.Ridge(alpha=np.ones(1)),
        linear_model.Ridge(alpha=0.0),
        svm.LinearSVR(),
    ],
)
def test_other_estimators_are_fitted_as_they_are(model):
    regressor = check_regressor("Lime", model)
    assert not regressor.merges
    Z, y, weight = problem(B=2)
    got = regressor.solve(Z, y, weight)
    if not isinstance(model, svm.LinearSVR):
        torch.testing.assert_close(got, expected(model, Z, y, weight))
    assert got.shape == (2, 5)


class Mean:
    """A model in captum's form, with a representation of its own."""

    def fit(self, train_data):
        Z, y, w = next(iter(train_data))
        assert {v.dtype for v in (Z, y, w)} == {torch.float32}
        self.found = (w[:, None] * y[:, None] * Z).sum(0) / w.sum()

    def representation(self):
        return self.found


def test_models_in_captums_form():
    Z, y, weight = problem()
    regressor = check_regressor("Lime", Mean())
    got = regressor.solve(Z, y, weight)
    wanted = ((weight * y)[:, :, None] * Z).sum(1) / weight.sum(1, keepdim=True)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    own = captum_models.SkLearnLasso(alpha=0.5, tol=1e-6)
    assert not check_regressor("Lime", own).merges
    patched = captum_models.SkLearnLasso(alpha=0.5)
    patched.fit = patched.fit
    assert not check_regressor("Lime", patched).merges


class Fits:
    def fit(self, X, y):
        pass


class Wide(Mean):
    def representation(self):
        return torch.ones(7)


class Blind:
    def fit(self, X, y, sample_weight=None):
        pass


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("lasso", "must be a surrogate that can be fitted; got 'lasso'"),
        (linear_model.Lasso, "must be a surrogate that can be fitted"),
        (Fits(), "must have a fit that takes sample_weight"),
    ],
)
def test_what_cannot_be_fitted_is_refused(model, message):
    with pytest.raises(InputTypeError, match=f"Lime: interpretable_model {message}"):
        attr.Lime(torch.nn.Linear(2, 1), model)


def test_what_gives_no_coefficients_is_refused():
    Z, y, weight = problem()
    with pytest.raises(InputError, match="must give one coefficient for each of the 5 features"):
        check_regressor("Lime", Wide()).solve(Z, y, weight)
    with pytest.raises(InputTypeError, match="must have coef_ after its fit"):
        check_regressor("Lime", Blind()).solve(Z, y, weight)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: attr.Lasso(0), "Lasso: alpha must be a finite number, above 0; got 0"),
        (lambda: attr.Lasso(-1), "Lasso: alpha must be a finite number, above 0; got -1"),
        (lambda: attr.Ridge(-1), "Ridge: alpha must be a finite number, from 0; got -1"),
        (lambda: attr.Ridge(float("inf")), "Ridge: alpha must be a finite number, from 0; got inf"),
        (lambda: attr.Ridge("1"), "Ridge: alpha must be a finite number, from 0; got '1'"),
    ],
)
def test_wrong_penalties_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
