"""z+, alpha-beta and gamma of a dense layer by signs of contributions, against float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import TOLERANCE, close, signed, strided

from xaifast import ops, reference

native = pytest.mark.skipif(
    not ops.is_native(torch.empty(0)), reason="native kernels are switched off"
)
PARTS = {
    "z+": ([1.0], [1.0], [0.0]),
    "alpha-beta": ([2.0, -1.0], [1.0, 0.0], [0.0, 1.0]),
    "negative": ([-0.5], [0.0], [1.0]),
    "gamma": ([1.0], [1.25], [1.0]),
    "all": ([1.0], [1.0], [1.0]),
}


def contributions(a, R, w, b, share, positive, negative, eps):
    """The formula, contribution by contribution, in float64."""
    a, R, w = a.double(), R.double(), w.double()
    q0 = a[:, None] * w  # [N, out, in]
    total = torch.zeros(*R.shape[:-1], a.shape[1], dtype=torch.float64)
    for c, p, n in zip(share, positive, negative, strict=True):
        q = torch.where(q0 > 0, p * q0, n * q0)
        own = 0 if b is None else torch.where(b > 0, p * b.double(), n * b.double())
        s = reference.stabilized_divide(R, (q.sum(2) + own).expand_as(R), None, eps)
        total += c * (s[..., None] * q).sum(-2)
    return total


def problem(N, K, J, targets=(), dtype=torch.float64, zeros=0.5):
    R = signed(*targets, N, K) * (torch.rand(K) >= zeros)
    return tuple(x.to(dtype) for x in (signed(N, J), R, signed(K, J), signed(K)))


def test_by_hand():
    # contributions 2 and 4: z = 6, s = 1/2; with b = -1 and gamma = 1: 2 (2 + 4) - 1 = 11.
    a, R, w, b = torch.tensor([[2.0, -1.0]]), torch.tensor([[3.0]]), *map(torch.tensor, (
        [[1.0, -4.0]], [-1.0],
    ))  # fmt: skip
    assert ops.zplus_linear(a, R, w, b, eps=0.0).tolist() == [[1.0, 2.0]]
    R[0, 0] = 11
    assert ops.zplus_linear(a, R, w, b, [1.0], [2.0], [1.0], 0.0).tolist() == [[4.0, 8.0]]
    both = ([2.0, -1.0], [1.0, 0.0], [0.0, 1.0])  # nothing but the bias is negative
    assert ops.zplus_linear(a, R[:, :1] * 6 / 11, w, b, *both, 0.0).tolist() == [[4.0, 8.0]]


@settings(max_examples=80, deadline=None)
@given(
    N=st.integers(0, 4), K=st.integers(0, 20), J=st.sampled_from([1, 2, 15, 16, 17, 600, 1100]),
    targets=st.sampled_from([(), (1,), (3,)]), parts=st.sampled_from(list(PARTS)),
    eps=st.sampled_from([0.0, 0.25]), with_bias=st.booleans(), zeros=st.sampled_from([0, 0.5, 1]),
    dtype=st.sampled_from(list(TOLERANCE)), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_problem(N, K, J, targets, parts, eps, with_bias, zeros, dtype, seed):
    torch.manual_seed(seed)
    if parts in ("gamma", "all"):  # whose denominators may cancel
        eps = 512.0
    a, R, w, b = problem(N, K, J, targets, dtype, zeros)
    given = (a, R, w, b if with_bias else None, *PARTS[parts], eps)
    want = contributions(*given)
    wide = [x.double() if isinstance(x, torch.Tensor) else x for x in given]
    close(reference.zplus_linear(*wide), want, torch.float64)
    close(ops.zplus_linear(*given), want, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_strides(dtype):
    a, R, w, b = problem(3, 9, 40, (2,), dtype)
    want = contributions(a, R, w, b, *PARTS["alpha-beta"], 0.25)
    transposed = w.T.contiguous().T
    for w2 in (w, strided(w), transposed):
        given = (strided(a), strided(R), w2, b.repeat_interleave(2)[::2])
        got = ops.zplus_linear(*given, *PARTS["alpha-beta"], 0.25)
        close(got, want, dtype)
    same = ops.zplus_linear(a[:1].expand(3, -1), R, w, None, eps=0.25)
    close(same, contributions(a[:1].expand(3, -1), R, w, None, *PARTS["z+"], 0.25), dtype)


@native
@pytest.mark.parametrize("rows", [1, 16])
def test_weights_that_meet_no_relevance_are_not_read(rows):
    a, R, w, b = problem(rows, 50, 33)
    unused = (R == 0).all(0)
    assert unused.any()
    want = contributions(a, R, w, b, *PARTS["alpha-beta"], 0.25)
    w[unused], b[unused] = torch.nan, torch.nan
    close(ops.zplus_linear(a, R, w, b, *PARTS["alpha-beta"], 0.25), want, torch.float64)


@pytest.mark.parametrize("rows", [2, 20])
def test_a_nan_stays_in_its_sample(rows):
    a, R, w, _ = problem(rows, 8, 40, zeros=0)
    want = contributions(a, R, w, None, *PARTS["z+"], 0.25)
    for x, value in ((a, torch.nan), (R, torch.nan), (a, torch.inf), (R, torch.inf)):
        before = x[1, 3].clone()
        x[1, 3] = value
        got = ops.zplus_linear(a, R, w, eps=0.25)
        x[1, 3] = before
        assert not torch.isfinite(got[1]).all()
        others = [n for n in range(rows) if n != 1]
        close(got[others], want[others], torch.float64)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_input_that_is_no_number_shows_without_relevance(value):
    a, R, w, _ = problem(1, 4, 5, zeros=1)
    a[0, 2] = value
    assert ops.zplus_linear(a, R, w)[0, 2].isnan()


def test_it_rounds_no_coarser_than_the_library():
    a, w, R = torch.randn(1, 25088), torch.randn(40, 25088), torch.randn(1, 40)
    want = contributions(a, R, w, None, *PARTS["z+"], 1e-6)
    library = reference.zplus_linear(a, R, w, None, *PARTS["z+"], 1e-6)
    got = ops.zplus_linear(a, R, w)
    assert (got - want).norm() <= 1.2 * (library - want).norm()


@native
@pytest.mark.parametrize("K", [7, 100, 300])
def test_threads_change_no_bit(K):
    a, R, w, b = problem(3, K, 5000, (2,), torch.float32)
    a, w = a * 1.001, w * 0.999
    threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            found.append(ops.zplus_linear(a, R, w, b, *PARTS["alpha-beta"], 0.25))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@native
def test_schema_fake_kernel_and_refusals():
    a, R, w, b = problem(2, 3, 4, dtype=torch.float32)
    op = torch.ops.xaifast.zplus_linear
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    for relevance in (R, R.expand(3, 2, 3)):
        given = (a, relevance, w, b, *PARTS["alpha-beta"], 0.5)
        torch.library.opcheck(op.default, given, test_utils=checks)
    with pytest.raises(RuntimeError, match=r"xaifast::zplus_linear: not differentiable.*no_grad"):
        op(a.clone().requires_grad_(), R, w, b, *PARTS["z+"], 0.5)
    wrong = [
        ((a.int(), R, w), TypeError, "zplus_linear: a must be float32, float64, .* got Int"),
        ((a, R, w.double()), TypeError, "zplus_linear: w must have the dtype of a"),
        ((a[0], R, w), ValueError, r"a must be \[N, in\], got \[4\]; flatten the leading"),
        ((a, R, w[:, 1:]), ValueError, r"w must be \[out, 4\] for a \[2, 4\], got \[3, 3\]"),
        ((a, R[:1], w), ValueError, r"R must have the shape of the output \[2, 3\] or one leading"),
        ((a, R, w, b[1:]), ValueError, r"zplus_linear: b must be \[3\], got \[2\]"),
        ((a, R, w, b, [], [], []), ValueError, r"one number for each of 1 or 2 parts, got \[\]"),
        ((a, R, w, b, [1.0], [1.0], []), ValueError, r"got \[1\], \[1\] and \[\]"),
        ((a, R, w, b, [1.0] * 3, [1.0] * 3, [1.0] * 3), ValueError, "each of 1 or 2 parts"),
    ]  # fmt: skip
    for arguments, error, message in wrong:
        with pytest.raises(error, match=message):
            ops.zplus_linear(*arguments)
