"""Surrogates: what is fitted to the scores of perturbed inputs, and whose coefficients explain.

    y_s ~ c0 + z_s c,   z_s [M] which features were on, y_s the score, weight_s the similarity

Ours are solved natively, many problems in one call. captum's models, scikit-learn's estimators and
anything that fits like one of these are taken too, one problem after the other; those that stand
for one of ours are solved as such.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ... import ops
from ...errors import describe, wrong_type, wrong_value
from . import wide

FORMS = (
    "Allowed: Lasso(alpha), Ridge(alpha), LinearRegression() of xaifast.attr; a scikit-learn "
    "regressor, whose fit takes sample_weight; an object with fit(dataloader) and "
    "representation(), as captum's models have."
)


class Regressor:
    """A surrogate: `solve` gives the coefficients of several problems.

    merges: whether a sample of weight 2 is the same as two of weight 1; speaks: whether
    `representation` gives what a model of the user says of itself, not coefficients.
    """

    merges: ClassVar[bool] = True
    speaks: ClassVar[bool] = False

    def fit(self, Z: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients [B, M] and c0 [B] for Z [B or 1, S, M], y [B, S], weight [B or 1, S]."""
        raise NotImplementedError

    def solve(self, Z: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """Only the coefficients; everything is float64."""
        return self.fit(Z, y, weight)[0]

    def representation(self, Z: Tensor, y: Tensor, weight: Tensor) -> Any:
        """The coefficients [1, M] of one fitted problem (B = 1)."""
        return self.solve(Z, y, weight)


# ---- ours --------------------------------------------------------------------------------------


def _check_alpha(who: str, alpha: Any, least: str) -> None:
    """Refuse a penalty that is not a finite number, above zero or from it."""
    number = isinstance(alpha, (int, float)) and not isinstance(alpha, bool)
    if not number or not math.isfinite(alpha) or alpha < 0 or (alpha == 0 and least == "above"):
        raise wrong_value(
            f"{who}: alpha", f"must be a finite number, {least} 0", describe(alpha),
            "For no penalty take LinearRegression().",
        )  # fmt: skip


@dataclass(frozen=True)
class LinearRegression(Regressor):
    """Weighted linear regression, the surrogate of KernelSHAP.

    min over c, c0 of  sum_s weight_s (y_s - z_s c - c0)^2;  of several solutions the smallest c

    Parameters
    ----------
    intercept : bool, default True
        Whether there is a c0.

    References
    ----------
    Lundberg and Lee 2017, theorem 2.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> lime = attr.Lime(torch.nn.Linear(4, 1), attr.LinearRegression())
    >>> lime.attribute(torch.rand(2, 4), seed=0).shape
    torch.Size([2, 4])
    """

    intercept: bool = True

    def fit(self, Z: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Solve natively, by QR."""
        return _least_squares(Z, y, weight, 0.0, self.intercept)


@dataclass(frozen=True)
class Ridge(Regressor):
    """Weighted ridge regression, the surrogate of the book's listing.

    min over c, c0 of  sum_s weight_s (y_s - z_s c - c0)^2 + alpha |c|^2

    Parameters
    ----------
    alpha : float, default 1.0
        The penalty, scikit-learn's.
    intercept : bool, default True
        Whether there is a c0.

    Raises
    ------
    ValueError
        If alpha is negative or not a number.

    References
    ----------
    Book, section 22.2.1.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> lime = attr.Lime(torch.nn.Linear(4, 1), attr.Ridge(alpha=0.5))
    >>> lime.attribute(torch.rand(2, 4), seed=0).shape
    torch.Size([2, 4])
    """

    alpha: float = 1.0
    intercept: bool = True

    def __post_init__(self) -> None:
        _check_alpha("Ridge", self.alpha, "from")

    def fit(self, Z: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Solve natively, by QR."""
        return _least_squares(Z, y, weight, float(self.alpha), self.intercept)


@dataclass(frozen=True)
class Lasso(Regressor):
    """Weighted lasso, the surrogate of LIME, to its minimum.

    min over c, c0 of  sum_s w_s (y_s - z_s c - c0)^2 / (2 S) + alpha |c|_1,
    w = weight S / sum_s weight_s

    Parameters
    ----------
    alpha : float, default 1.0
        The penalty, scikit-learn's.
    intercept : bool, default True
        Whether there is a c0.

    Raises
    ------
    ValueError
        If alpha is not positive.

    References
    ----------
    Ribeiro et al. 2016; the objective is scikit-learn's.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> lime = attr.Lime(torch.nn.Linear(4, 1), attr.Lasso(alpha=0.001))
    >>> lime.attribute(torch.rand(2, 4), seed=0).shape
    torch.Size([2, 4])
    """

    alpha: float = 1.0
    intercept: bool = True

    def __post_init__(self) -> None:
        _check_alpha("Lasso", self.alpha, "above")

    def fit(self, Z: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Solve natively, by coordinate descent."""
        if Z.shape[2] > wide.WIDE_LASSO:
            return wide.lasso(Z, y, weight, float(self.alpha), self.intercept)
        c, c0, _ = ops.weighted_lasso(Z, y, weight, float(self.alpha), self.intercept)
        return c, c0


def _least_squares(
    Z: Tensor, y: Tensor, weight: Tensor, ridge: float, intercept: bool
) -> tuple[Tensor, Tensor]:
    """Weighted least squares, by the smaller of samples and features."""
    solve = wide.least_squares if Z.shape[2] > Z.shape[1] else ops.weighted_least_squares
    return solve(Z, y, weight, ridge, intercept)


# ---- the user's --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Foreign(Regressor):
    """A model of the user, fitted to one problem after the other."""

    model: Any
    merges: ClassVar[bool] = False

    def solve(self, Z: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        count, S = y.shape
        problems = zip(Z.expand(count, -1, -1), y, weight.expand(count, S), strict=True)
        return torch.stack([self._one(*problem) for problem in problems])

    def _one(self, Z: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """Coefficients [M] of one problem."""
        raise NotImplementedError

    def _checked(self, given: Any, M: int) -> Tensor:
        """The coefficients of one problem as float64 [M]."""
        coefficients = given if isinstance(given, Tensor) else torch.as_tensor(given, device="cpu")
        if coefficients.numel() != M:
            raise wrong_value(
                "interpretable_model", f"must give one coefficient for each of the {M} features",
                coefficients, FORMS,
            )  # fmt: skip
        return coefficients.detach().reshape(M).to("cpu", torch.float64)


class _CaptumModel(_Foreign):
    """A model with fit(dataloader) and representation(); it is given float32, as captum does."""

    speaks: ClassVar[bool] = True

    def _fit(self, Z: Tensor, y: Tensor, weight: Tensor) -> Any:
        data = TensorDataset(Z.float(), y.float(), weight.float())
        with torch.device("cpu"):  # where a loader draws, whatever the default
            self.model.fit(DataLoader(data, batch_size=max(1, len(y))))
        return self.model.representation()

    def _one(self, Z: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        return self._checked(self._fit(Z, y, weight), Z.shape[1])

    def representation(self, Z: Tensor, y: Tensor, weight: Tensor) -> Any:
        return self._fit(Z[0], y[0], weight[0])


class _Estimator(_Foreign):
    """A scikit-learn regressor: fit(X, y, sample_weight=...), coef_."""

    def _one(self, Z: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        self.model.fit(Z.numpy(), y.numpy(), sample_weight=weight.numpy())
        if not hasattr(self.model, "coef_"):
            raise wrong_type(
                "interpretable_model", "must have coef_ after its fit", describe(self.model), FORMS
            )
        return self._checked(self.model.coef_, Z.shape[1])


@dataclass(frozen=True)
class _Adopted(Regressor):
    """One of ours in place of a model of the user, which is left as if it had been fitted."""

    ours: Lasso | Ridge | LinearRegression
    model: Any

    def fit(self, Z: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        coefficients, intercept = self.ours.fit(Z, y, weight)
        self._write(coefficients[-1], float(intercept[-1]))
        return coefficients, intercept

    def _write(self, coefficients: Tensor, intercept: float) -> None:
        if hasattr(self.model, "_construct_model_params"):
            self.model._construct_model_params(
                weight_values=coefficients.float().unsqueeze(0),
                bias_value=torch.tensor([intercept], dtype=torch.float32, device="cpu"),
            )
            return
        self.model.coef_ = coefficients.numpy()
        self.model.intercept_ = intercept
        self.model.n_features_in_ = len(coefficients)


# ---- which is which ----------------------------------------------------------------------------

_OURS = {"Lasso": Lasso, "Ridge": Ridge, "LinearRegression": LinearRegression}


def _same_as_ours(name: str, options: dict) -> Lasso | Ridge | LinearRegression | None:
    """Ours for a class of sklearn.linear_model, if nothing but these options was chosen."""
    known = {"Lasso": {"alpha"}, "Ridge": {"alpha"}, "LinearRegression": set()}
    if name not in known or not set(options) <= known[name] | {"fit_intercept"}:
        return None
    alpha, intercept = options.get("alpha", 1.0), options.get("fit_intercept", True)
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not alpha > 0:
        return None
    penalty = {"alpha": float(alpha)} if "alpha" in known[name] else {}
    return _OURS[name](intercept=bool(intercept), **penalty)


def _is(value: Any, default: Any) -> bool:
    """Whether an option has its default value (and is no array of values)."""
    return isinstance(value, (bool, int, float, str, type(None))) and value == default


def _adopt(model: Any) -> _Adopted | None:
    """Ours for a model of captum or scikit-learn that is solved by the same formula."""
    module = type(model).__module__
    if module.startswith("captum.") and "fit" not in vars(model):
        path, _, name = getattr(model, "sklearn_module", "").rpartition(".")
        ours = _same_as_ours(name, model.construct_kwargs) if path == "linear_model" else None
        return None if ours is None else _Adopted(ours, model)
    if module.startswith("sklearn.linear_model."):
        default = {k: p.default for k, p in inspect.signature(type(model)).parameters.items()}
        chosen = {k: v for k, v in model.get_params().items() if not _is(v, default[k])}
        ours = _same_as_ours(type(model).__name__, chosen)
        return None if ours is None else _Adopted(ours, model)
    return None


def check_regressor(who: str, model: Any) -> Regressor:
    """Check an interpretable model in any of its forms (see `FORMS`).

    Raises
    ------
    TypeError
        If it cannot be fitted.
    """
    if isinstance(model, Regressor):
        return model
    if isinstance(model, type) or not callable(getattr(model, "fit", None)):
        raise wrong_type(
            f"{who}: interpretable_model", "must be a surrogate that can be fitted",
            describe(model), FORMS,
        )  # fmt: skip
    adopted = _adopt(model)
    if adopted is not None:
        return adopted
    if callable(getattr(model, "representation", None)):
        return _CaptumModel(model)
    parameters = inspect.signature(model.fit).parameters
    if "sample_weight" not in parameters and not any(
        p.kind is p.VAR_KEYWORD for p in parameters.values()
    ):
        raise wrong_type(
            f"{who}: interpretable_model", "must have a fit that takes sample_weight",
            describe(model), FORMS,
        )  # fmt: skip
    return _Estimator(model)
