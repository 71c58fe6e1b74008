"""The regression ops; their kernels are in csrc/regression, their formulas in `xaifast.reference`.

They solve many small problems at once, as LIME and KernelSHAP pose them: one for each explained
input and output. Letters: X the perturbed samples as the surrogate sees them, y the model's outputs
for them, c the coefficients (the explanation), c0 the intercept. B problems of S samples and M
features; X, weight or both may be shared by all problems, as [1, ...] or expanded: then the work on
them is done once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from .native import is_native, library
from .registration import fake

__all__ = ["weighted_lasso", "weighted_least_squares"]


def weighted_least_squares(
    X: Tensor, y: Tensor, weight: Tensor, ridge: float = 0.0, intercept: bool = True
) -> tuple[Tensor, Tensor]:
    """Fit linear models by weighted least squares, or ridge regression, one for each row of y.

    min over c, c0 of   sum_s weight_s (y_s - x_s c - c0)^2 + ridge |c|^2

    The same as scikit-learn's `LinearRegression` (ridge = 0) and `Ridge(alpha=ridge)` with
    `sample_weight`. Where the samples do not determine c, it is the solution of the smallest norm;
    singular values count as zero below eps max(S, M) times the largest, eps = 2^-52. Computed in
    float64 by a QR with column pivoting, which keeps the digits of light samples beside heavy ones.

    Parameters
    ----------
    X : [B, S, M] or [1, S, M]
        Samples; float32 or float64.
    y : [B, S]
        What the model gives for them, in the dtype of X.
    weight : [B, S] or [1, S]
        Weights, not negative (that gives NaN), in the dtype of X. Samples of weight 0 are ignored.
    ridge : float, default 0
        Penalty on |c|^2; the intercept is not penalized.
    intercept : bool, default True
        Whether to fit c0; else it is 0.

    Returns
    -------
    tuple of Tensor
        c [B, M] and c0 [B], float64. Zeros where all weights are 0; c0 is the weighted mean of y
        where there is no feature. Never NaN for finite inputs.

    Raises
    ------
    TypeError
        For dtypes other than float32 and float64, or that differ.
    ValueError
        For shapes that do not fit, or a ridge that is negative or not finite.

    References
    ----------
    Ribeiro et al. 2016 (LIME); Lundberg and Lee 2017, theorem 2 (KernelSHAP).

    Examples
    --------
    >>> import torch, xaifast.ops
    >>> X = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    >>> y, weight = torch.tensor([[1.0, 3.0, 0.0, 2.0]]), torch.tensor([[1.0, 1.0, 2.0, 1.0]])
    >>> c, c0 = xaifast.ops.weighted_least_squares(X, y, weight)
    >>> torch.allclose(c, torch.tensor([[2.0, -1.0]]).double()), round(c0.item(), 6)
    (True, 1.0)
    """
    if not is_native(X):
        return reference.weighted_least_squares(X, y, weight, ridge, intercept)
    return library.weighted_least_squares(X, y, weight, ridge, intercept)


def weighted_lasso(
    X: Tensor,
    y: Tensor,
    weight: Tensor,
    alpha: float,
    intercept: bool = True,
    tol: float = 1e-12,
    max_iter: int = 100000,
) -> tuple[Tensor, Tensor, Tensor]:
    """Fit sparse linear models by the weighted lasso, one for each row of y.

    min over c, c0 of   1/(2 S) sum_s w_s (y_s - x_s c - c0)^2 + alpha |c|_1,
    w_s = weight_s S / sum(weight)

    The same as scikit-learn's `Lasso(alpha)` with `sample_weight`, by cyclic coordinate descent.
    From time to time all features in use step together, so that it also ends where scikit-learn's
    does not: for features that hang together, as with the weights of KernelSHAP. Nothing is raised
    where max_iter is reached, or where the rounding of large coefficients stops it earlier: compare
    the gap with tol.

    Parameters
    ----------
    X : [B, S, M] or [1, S, M]
        Samples; float32 or float64.
    y : [B, S]
        What the model gives for them, in the dtype of X.
    weight : [B, S] or [1, S]
        Weights, not negative (that gives NaN), in the dtype of X. Samples of weight 0 are ignored.
    alpha : float
        Penalty on |c|_1; 0 gives `weighted_least_squares`.
    intercept : bool, default True
        Whether to fit c0; else it is 0.
    tol : float, default 1e-12
        Ends when no coefficient moves by more than tol times the largest and the duality gap is at
        most tol times the weighted sum of squares of y (around its mean, with an intercept).
    max_iter : int, default 100000
        Most sweeps over the features.

    Returns
    -------
    tuple of Tensor
        c [B, M], c0 [B] and the duality gap [B] in units of that sum of squares, float64. Zeros
        where all weights are 0; c is 0 for columns of zeros, which constant features are with an
        intercept. Never NaN for finite inputs.

    Raises
    ------
    TypeError
        For dtypes other than float32 and float64, or that differ.
    ValueError
        For shapes that do not fit, an alpha or tol that is negative or not finite, or
        max_iter < 1.

    References
    ----------
    Tibshirani 1996; Friedman et al. 2010 (coordinate descent); Ribeiro et al. 2016 (LIME).

    Examples
    --------
    >>> import torch, xaifast.ops
    >>> X = torch.tensor([[[-1.0, 1.0], [1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]]])
    >>> y, weight = torch.tensor([[-2.0, 2.5, -2.5, 2.0]]), torch.ones(1, 4)
    >>> c, c0, gap = xaifast.ops.weighted_lasso(X, y, weight, alpha=0.5)
    >>> c
    tensor([[1.7500, 0.0000]], dtype=torch.float64)
    """
    call = library.weighted_lasso if is_native(X) else reference.weighted_lasso
    return call(X, y, weight, alpha, intercept, tol, max_iter)


# ---- fake kernels: shapes only, for torch.compile and torch.export ---------------------------


@fake("weighted_least_squares", y="B S", X="1|B S M", weight="1|B S")
def _(X, y, weight, ridge, intercept):
    shape = (y.shape[0], X.shape[2])
    return X.new_empty(shape, dtype=torch.float64), y.new_empty(y.shape[:1], dtype=torch.float64)


@fake("weighted_lasso", y="B S", X="1|B S M", weight="1|B S")
def _(X, y, weight, alpha, intercept, tol, max_iter):
    c0, gap = (y.new_empty(y.shape[:1], dtype=torch.float64) for _ in range(2))
    return X.new_empty((y.shape[0], X.shape[2]), dtype=torch.float64), c0, gap
