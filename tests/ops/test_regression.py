"""The regression ops against the reference, scikit-learn, and the conditions of a minimum."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso, LinearRegression, Ridge

from xaifast import ops, reference

DTYPES = [torch.float64, torch.float32]
HEAVY = 1e6  # the weight of KernelSHAP for the samples that are known exactly
# B, S, M: more and fewer samples than features, single ones, none.
SIZES = [
    (1, 30, 7),
    (7, 200, 50),
    (3, 12, 30),
    (2, 40, 1),
    (2, 1, 3),
    (0, 9, 4),
    (2, 0, 3),
    (3, 5, 0),
    (1, 1, 1),
]


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["no intercept", "intercept"])
def intercept(request):
    return request.param


def binary(B, S, M, heavy, seed=0):
    """X, y, weight as LIME draws them, or KernelSHAP: with all features off, and all on."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randint(0, 2, (B, S, M), generator=generator).double()
    weight = torch.rand(B, S, generator=generator).double() + 0.05
    if heavy and S >= 2:
        X[:, 0], X[:, 1] = 0.0, 1.0
        weight[:, :2] = HEAVY
    c = torch.randn(B, M, 1, generator=generator).double()
    y = (X @ c)[..., 0] + torch.randn(B, S, generator=generator).double()
    return X.float().double(), y.float().double(), weight.float().double()  # exact in float32 too


def close(got, want, tolerance=1e-10):
    """Within the tolerance of the largest value of each problem; nothing left unwritten."""
    assert got.dtype == torch.float64
    assert got.shape == want.shape
    assert torch.isfinite(got).all()
    if got.numel():
        got, want = got.reshape(len(got), -1), want.reshape(len(want), -1)
        scale = want.abs().amax(1, keepdim=True).clamp(min=1e-3)
        assert float(((got - want).abs() / scale).max()) <= tolerance


def same(got, want, tolerance=1e-10):
    for a, b in zip(got, want, strict=True):
        close(a.cpu(), torch.as_tensor(b, dtype=torch.float64).cpu(), tolerance)


def fit(make, X, y, weight):
    """Coefficients and intercepts of scikit-learn, a problem after the other."""
    c, c0 = [], []
    for Xb, yb, wb in zip(X.expand(len(y), -1, -1), y, weight.expand(len(y), -1), strict=True):
        model = make()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a single sample has no R^2; max_iter is tested here
            model.fit(Xb.numpy(), yb.numpy(), sample_weight=wb.numpy())
        c.append(model.coef_)
        c0.append(model.intercept_)
    return torch.from_numpy(np.array(c)), torch.tensor(c0, dtype=torch.float64)


def cut(X):
    """The relative size below which a singular value is zero; scikit-learn's own is 1e-6."""
    return 2.0**-52 * max(X.shape[1:])


def centred(X, y, weight, intercept):
    """A and b of the reference."""
    return reference.regression._centre(X, y, weight, intercept)[:2]


# ---- least squares ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 0.7])
def test_least_squares_are_the_reference(size, heavy, ridge, intercept, dtype, device):
    X, y, weight = binary(*size, heavy)
    want = reference.weighted_least_squares(X, y, weight, ridge, intercept)
    inputs = (x.to(device, dtype) for x in (X, y, weight))
    same(ops.weighted_least_squares(*inputs, ridge, intercept), want, 1e-9)


@pytest.mark.parametrize("size", [(1, 30, 7), (3, 200, 50), (2, 40, 1), (2, 300, 120)], ids=str)
@pytest.mark.parametrize("heavy", [False, True])
def test_least_squares_are_those_of_scikit_learn(size, heavy, intercept, device):
    X, y, weight = binary(*size, heavy)
    inputs = [x.to(device) for x in (X, y, weight)]
    want = fit(lambda: LinearRegression(fit_intercept=intercept, tol=cut(X)), X, y, weight)
    same(ops.weighted_least_squares(*inputs, intercept=intercept), want)
    want = fit(lambda: Ridge(0.7, fit_intercept=intercept, solver="svd"), X, y, weight)
    same(ops.weighted_least_squares(*inputs, 0.7, intercept), want)


def spoil(X, kind):
    """Columns that depend on others."""
    X = X.clone()
    if kind == "copy":
        X[..., 3] = X[..., 0]
    elif kind == "sum":
        X[..., 2] = X[..., 0] + X[..., 4] - X[..., 1]
    elif kind == "constant":
        X[..., 1] = 0.1
    elif kind == "zero":
        X[..., 2:] = 0.0
    elif kind == "all constant":
        X[:] = 0.3
    return X


KINDS = ["copy", "sum", "constant", "zero", "all constant"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("samples", [3, 40])
def test_what_samples_do_not_determine_has_the_least_norm(kind, heavy, samples, intercept, device):
    X, y, weight = binary(5, samples, 6, heavy)
    X = spoil(X, kind)
    got = ops.weighted_least_squares(*(x.to(device) for x in (X, y, weight)), 0.0, intercept)
    # Where a heavy sample cannot be met, an SVD loses as many digits as there are in the weight.
    tolerance = 1e-7 if heavy and not intercept else 1e-9
    same(got, reference.weighted_least_squares(X, y, weight, 0.0, intercept), tolerance)
    A, b = centred(X, y, weight, intercept)
    want = torch.linalg.pinv(A, rtol=1e-10) @ b[..., None]
    close(got[0].cpu(), want[..., 0], tolerance)


def test_least_squares_match_scikit_learn_where_the_rank_is_low(intercept):
    X, y, weight = binary(4, 60, 8, False)
    X = spoil(X, "sum")
    want = fit(lambda: LinearRegression(fit_intercept=intercept, tol=cut(X)), X, y, weight)
    same(ops.weighted_least_squares(X, y, weight, 0.0, intercept), want)


def test_light_samples_keep_their_digits_beside_heavy_ones():
    X, y, weight = binary(20, 40, 9, True)
    expected, _ = ops.weighted_least_squares(X, y, weight)
    for power in (1e3, 1e9, 1e15):  # in the limit, heavy samples are met exactly
        heavier = torch.where(weight == HEAVY, HEAVY * power, weight)
        got, c0 = ops.weighted_least_squares(X, y, heavier)
        left = 1e-4 / power + 1e-13
        assert torch.allclose(got.sum(1) + c0, y[:, 1], rtol=0, atol=left)
        assert torch.allclose(c0, y[:, 0], rtol=0, atol=left)
        assert torch.allclose(got, expected, rtol=0, atol=1e-3)


# ---- lasso ------------------------------------------------------------------------------------


@pytest.mark.sweep
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("alpha", [0.0, 0.05, 0.3, 50.0])
def test_lasso_is_the_reference(size, alpha, intercept, dtype, device):
    X, y, weight = binary(*size, heavy=False)
    want = reference.weighted_lasso(X, y, weight, alpha, intercept, 1e-12, 2000)
    inputs = (x.to(device, dtype) for x in (X, y, weight))
    c, c0, gap = ops.weighted_lasso(*inputs, alpha, intercept)
    same((c, c0), want[:2], 1e-7)
    assert gap.shape == want[2].shape
    assert (gap <= 1e-12).all()


@pytest.mark.parametrize("size", [(1, 30, 7), (3, 200, 50), (2, 40, 1)], ids=str)
@pytest.mark.parametrize("alpha", [0.01, 0.2])
def test_lasso_is_that_of_scikit_learn(size, alpha, intercept, device):
    X, y, weight = binary(*size, heavy=False)

    def model():
        return Lasso(alpha, fit_intercept=intercept, tol=1e-12, max_iter=100000)

    got = ops.weighted_lasso(*(x.to(device) for x in (X, y, weight)), alpha, intercept)
    same(got[:2], fit(model, X, y, weight), 1e-9)


def expect_minimum(X, y, weight, alpha, intercept, result):
    """A_j r = penalty sgn c_j where c_j is not 0, else |A_j r| <= penalty; r = b - A c."""
    A, b = centred(X, y, weight, intercept)
    c, _, gap = (t.cpu() for t in result)
    penalty = alpha * weight.expand(y.shape).sum(1, keepdim=True)
    slope = (A.mT @ (b - (A @ c[..., None])[..., 0])[..., None])[..., 0]
    scale = penalty + (A.abs().mT @ b.abs()[..., None])[..., 0]
    assert (slope.abs() <= penalty + 1e-10 * scale).all()
    assert (((slope - penalty * c.sign()).abs() <= 1e-10 * scale) | (c == 0)).all()
    assert ((gap >= 0) & (gap <= 1e-11)).all()  # large coefficients round to no smaller gap


LASSO_SIZES = [(4, 200, 50), (4, 25, 16), (3, 12, 30), (2, 60, 100), (300, 3, 12), (100, 8, 11)]


@pytest.mark.parametrize("size", LASSO_SIZES, ids=str)
@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("alpha", [1e-4, 0.01, 0.3])
def test_lasso_is_at_its_minimum(size, heavy, alpha, intercept, device):
    X, y, weight = binary(*size, heavy)
    inputs = (x.to(device) for x in (X, y, weight))
    got = ops.weighted_lasso(*inputs, alpha, intercept, max_iter=1000)
    expect_minimum(X, y, weight, alpha, intercept, got)


@pytest.mark.parametrize("kind", KINDS)
def test_lasso_of_columns_that_depend_on_others(kind, intercept, device):
    X, y, weight = binary(5, 40, 6, False)
    X = spoil(X, kind)
    got = ops.weighted_lasso(*(x.to(device) for x in (X, y, weight)), 0.01, intercept)
    expect_minimum(X, y, weight, 0.01, intercept, got)
    constant = (X[:, :1] == X).all(1) & intercept
    assert (got[0].cpu()[constant] == 0).all()


def test_lasso_tells_how_far_it_came():
    X, y, weight = binary(4, 30, 12, True)
    gap = ops.weighted_lasso(X, y, weight, 1e-3, tol=1e-15, max_iter=1)[2]
    assert (gap > 1e-12).all()


def test_lasso_without_penalty_is_least_squares(device):
    X, y, weight = (x.to(device) for x in binary(4, 30, 12, True))
    c, c0, gap = ops.weighted_lasso(X, y, weight, 0.0)
    same((c, c0), ops.weighted_least_squares(X, y, weight), 1e-12)
    assert (gap == 0).all()


# ---- both: sharing, layouts, extremes ---------------------------------------------------------

CALLS = {
    "least squares": lambda *x: ops.weighted_least_squares(*x),
    "ridge": lambda *x: ops.weighted_least_squares(*x, 0.7),
    "lasso": lambda *x: ops.weighted_lasso(*x, 0.05),
}


@pytest.fixture(params=CALLS)
def call(request):
    return CALLS[request.param]


@pytest.mark.parametrize("shared", ["X", "weight", "both"])
@pytest.mark.parametrize("how", ["once", "expanded"])
def test_problems_may_share_their_design(call, shared, how, dtype, device):
    X, y, weight = (x.to(device, dtype) for x in binary(6, 50, 9, True))
    X = X[:1].expand_as(X) if shared != "weight" else X
    weight = weight[:1].expand_as(weight) if shared != "X" else weight
    apart = call(X.contiguous(), y, weight.contiguous())
    if how == "once":
        X = X[:1] if shared != "weight" else X
        weight = weight[:1] if shared != "X" else weight
    same(call(X, y, weight), apart, 1e-9)
    one_by_one = [call(X[b % len(X)][None], y[b : b + 1], weight[b % len(weight)][None])
                  for b in range(len(y))]  # fmt: skip
    same([torch.cat(parts) for parts in zip(*one_by_one, strict=True)], apart, 1e-9)


def test_any_strides(call, device):
    X, y, weight = (x.to(device) for x in binary(3, 40, 8, False))
    want = call(X, y, weight)
    transposed = (X.mT.contiguous().mT, y.T.contiguous().T, weight.T.contiguous().T)
    strided = (torch.stack([x, x], -1)[..., 0] for x in (X, y, weight))
    same(call(*transposed), want, 0)
    same(call(*strided), want, 0)


def test_the_same_result_every_time(call, device):
    X, y, weight = (x.to(device) for x in binary(9, 80, 20, True))
    for _ in range(3):
        same(call(X, y, weight), call(X, y, weight), 0)


def test_the_number_of_threads_changes_nothing(call):
    X, y, weight = binary(1, 600, 120, True)
    want = call(X, y, weight)
    try:
        torch.set_num_threads(3)
        same(call(X, y, weight), want, 1e-9)
        same(call(X.expand(5, -1, -1), y.expand(5, -1), weight.expand(5, -1)),
             [x.expand(5, *x.shape[1:]) for x in want], 1e-9)  # fmt: skip
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("scale", [(1e200, 1e150, 1e-100), (1e-200, 1e-150, 1e250), (1, 1e300, 1)])
def test_large_and_small_numbers(scale, intercept):
    X, y, weight = binary(3, 40, 6, True)
    x_scale, y_scale, w_scale = scale
    want, want0 = ops.weighted_least_squares(X, y, weight, 0.0, intercept)
    inputs = (X * x_scale, y * y_scale, weight * w_scale)
    c, c0 = ops.weighted_least_squares(*inputs, 0.0, intercept)
    same((c / y_scale * x_scale, c0 / y_scale), (want, want0), 1e-9)
    for result in (ops.weighted_least_squares(*inputs, 0.5), ops.weighted_lasso(*inputs, 0.1)):
        assert all(not torch.isnan(r).any() for r in result)


@pytest.mark.parametrize(("i", "value"), [(0, torch.nan), (1, torch.nan), (2, torch.nan), (2, -1)])
def test_nothing_hides_a_number_that_is_none(call, i, value):
    inputs = list(binary(2, 30, 5, False))
    inputs[i].view(2, -1)[1, 7] = value  # a negative weight has no root
    c, c0, *gap = call(*inputs)
    assert torch.isfinite(c[0]).all()
    assert torch.isnan(c0[1]) or torch.isnan(gap[0][1])


def test_without_samples_that_count_everything_is_zero(call, device):
    X, y, weight = (x.to(device) for x in binary(3, 8, 4, False))
    weight[1] = 0
    c, c0, *_ = call(X, y, weight)
    assert (c[1] == 0).all()
    assert c0[1] == 0
    assert (c[[0, 2]] != 0).any(1).all()


def test_without_features_the_intercept_is_the_weighted_mean(call, device):
    _, y, weight = (x.to(device) for x in binary(3, 8, 4, False))
    _, c0, *_ = call(y.new_empty(3, 8, 0), y, weight)
    close(c0.cpu(), ((weight * y).sum(1) / weight.sum(1)).cpu(), 1e-14)


# ---- properties -------------------------------------------------------------------------------


@st.composite
def problems(draw):
    """X, y, weight of one to three problems, with any of what the fixed cases above have."""
    B, S, M = draw(st.integers(1, 3)), draw(st.integers(1, 40)), draw(st.integers(1, 12))
    seed = draw(st.integers(0, 10**6))
    X, y, weight = binary(B, S, M, draw(st.booleans()), seed)
    if draw(st.booleans()):
        X = torch.randn(X.shape, generator=torch.Generator().manual_seed(seed)).double()
    if M > 5 and draw(st.booleans()):
        X = spoil(X, draw(st.sampled_from(KINDS)))
    if draw(st.booleans()):
        weight[:, :: draw(st.integers(2, 5))] = 0
    return X, y, weight


@settings(deadline=None, max_examples=60)
@given(problems(), st.booleans())
def test_a_linear_function_is_recovered(problem, intercept):
    X, y, weight = problem
    y = X @ torch.linspace(-2, 3, X.shape[2]).double() + 3.0 * intercept
    c, c0 = ops.weighted_least_squares(X, y, weight, 0.0, intercept)
    fitted = (X @ c[..., None])[..., 0] + c0[:, None]
    assert torch.allclose(fitted[weight > 0], y[weight > 0], rtol=0, atol=1e-8)


@settings(deadline=None, max_examples=60)
@given(problems(), st.booleans(), st.sampled_from([0.0, 0.3]))
def test_residuals_are_orthogonal_to_the_columns(problem, intercept, ridge):
    X, y, weight = problem
    c, c0 = ops.weighted_least_squares(X, y, weight, ridge, intercept)
    A, b = centred(X, y, weight, intercept)
    r = b - (A @ c[..., None])[..., 0]
    slope = (A.mT @ r[..., None])[..., 0] - ridge * c
    scale = (A.abs().mT @ b.abs()[..., None])[..., 0].amax(1, keepdim=True) + 1
    assert (slope.abs() <= 1e-9 * scale).all()
    residual = weight.sqrt() * (y - (X @ c[..., None])[..., 0] - c0[:, None])
    assert torch.allclose(residual, r, rtol=0, atol=1e-9 * float(b.abs().max() + 1))


@settings(deadline=None, max_examples=60)
@given(problems(), st.booleans(), st.sampled_from([1e-3, 0.05, 1.0]))
def test_the_lasso_is_at_its_minimum_for_any_problem(problem, intercept, alpha):
    X, y, weight = problem
    got = ops.weighted_lasso(X, y, weight, alpha, intercept)
    expect_minimum(X, y, weight, alpha, intercept, got)


def fitted(X, result):
    """The model's outputs as explained: unlike c, the lasso always determines them."""
    c, c0, *_ = result
    return (X @ c[..., None])[..., 0] + c0[:, None]


@settings(deadline=None, max_examples=40)
@given(problems(), st.booleans(), st.sampled_from([0.25, 4.0, 3.7]))
def test_only_the_proportions_of_weights_matter(problem, intercept, factor):
    X, y, weight = problem
    tolerance = 1e-7 if factor == 3.7 else 0  # a power of two changes no digit
    got = ops.weighted_least_squares(X, y, factor * weight, 0.0, intercept)
    same(got, ops.weighted_least_squares(X, y, weight, 0.0, intercept), tolerance)
    got = ops.weighted_least_squares(X, y, factor * weight, factor * 0.7, intercept)
    same(got, ops.weighted_least_squares(X, y, weight, 0.7, intercept), tolerance or 1e-9)
    got = ops.weighted_lasso(X, y, factor * weight, 0.05, intercept)
    want = ops.weighted_lasso(X, y, weight, 0.05, intercept)
    counts = weight > 0
    close(fitted(X, got) * counts, fitted(X, want) * counts, tolerance)


@settings(deadline=None, max_examples=40)
@given(problems(), st.sampled_from(list(CALLS)), st.integers(0, 99))
def test_the_order_of_samples_does_not_matter(problem, name, seed):
    X, y, weight = problem
    order = torch.randperm(y.shape[1], generator=torch.Generator().manual_seed(seed))
    got = CALLS[name](X[:, order], y[:, order], weight[:, order])
    want, counts = CALLS[name](X, y, weight), weight > 0
    close(fitted(X, got) * counts, fitted(X, want) * counts, 1e-7)
    if name != "lasso":
        same(got, want, 1e-7)


@settings(deadline=None, max_examples=40)
@given(problems(), st.sampled_from(list(CALLS)))
def test_samples_of_weight_zero_are_ignored(problem, name):
    X, y, weight = problem
    weight = weight.clone()
    weight[:, ::2] = 0
    counting = [x[:, 1::2] for x in (X, y, weight)]
    X, y = X.clone(), y.clone()
    X[:, ::2], y[:, ::2] = 1e300, -1e300
    got, want = CALLS[name](X, y, weight), CALLS[name](*counting)
    close(fitted(counting[0], got), fitted(counting[0], want), 1e-7)
    if name != "lasso":
        same(got, want, 1e-9)


# ---- contracts --------------------------------------------------------------------------------


def samples(device):
    X, y, weight = (x.to(device) for x in binary(3, 10, 4, True))
    return {
        "weighted_least_squares": (X, y, weight, 0.5, True),
        "weighted_lasso": (X[:1], y.contiguous(), weight[:1], 0.1, True, 1e-12, 100),
    }


@pytest.mark.parametrize("name", samples("cpu"))
def test_schema_and_fake_kernel(name, device):
    op = getattr(torch.ops.xaifast, name).default
    torch.library.opcheck(
        op,
        samples(device)[name],
        test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"),
    )


@pytest.mark.parametrize("name", samples("cpu"))
def test_a_call_that_autograd_would_record_is_refused(name, device):
    op = getattr(torch.ops.xaifast, name)
    X, *rest = samples(device)[name]
    X.requires_grad_()
    with pytest.raises(RuntimeError, match=f"xaifast::{name}: not differentiable.*no_grad"):
        op(X, *rest)
    with torch.no_grad():
        op(X, *rest)


def test_wrong_arguments_name_the_op_and_what_came():
    X, y, weight = binary(3, 10, 4, False)
    if not ops.is_native(X):
        pytest.skip("native kernels are switched off")
    fit, lasso = ops.weighted_least_squares, ops.weighted_lasso
    cases = [
        (lambda: fit(X.half(), y, weight), TypeError, "squares: X must be float32 or .*got Half"),
        (lambda: fit(X, y.float(), weight), TypeError, "y must have the dtype of X"),
        (lambda: lasso(X, y, weight.int(), 0.1), TypeError, "lasso: weight must have the dtype"),
        (lambda: fit(X, y[0], weight), ValueError, r"y must be \[B, S\], a row for each"),
        (lambda: fit(X[:2], y, weight), ValueError, r"X must be \[B or 1, S, M\] .*got \[2, 10"),
        (lambda: fit(X[0], y, weight), ValueError, r"X must be \[B or 1, S, M\] .*got \[10, 4"),
        (lambda: fit(X, y, weight[:, 1:]), ValueError, r"weight must be \[B or 1, S\].*got \[3, 9"),
        (lambda: fit(X, y, weight[:2]), ValueError, r"weight must be \[B or 1, S\]"),
        (lambda: fit(X, y, weight, -1.0), ValueError, "ridge must be .*not negative, got -1"),
        (lambda: fit(X, y, weight, float("inf")), ValueError, "ridge must be a finite"),
        (lambda: lasso(X, y, weight, -0.5), ValueError, "alpha must be .*not negative, got -0.5"),
        (lambda: lasso(X, y, weight, float("nan")), ValueError, "alpha must be a finite"),
        (lambda: lasso(X, y, weight, 0.1, tol=-1), ValueError, "tol must not be negative, got -1"),
        (lambda: lasso(X, y, weight, 0.1, max_iter=0), ValueError, "max_iter .*1, got 0"),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()
