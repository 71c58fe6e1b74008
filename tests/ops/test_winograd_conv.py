"""Winograd's convolution against the plain one in float64, and what it promises about rounding."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import LAYOUTS, close

from xaifast import ops, reference

native = pytest.mark.skipif(
    not ops.is_native(torch.empty(0)), reason="native kernels are switched off"
)


def convolution(N, H, W, C, K, dtype=torch.float32):
    x, w, b = torch.randn(N, C, H, W), torch.randn(K, C, 3, 3), torch.randn(K)
    return x.to(dtype), w.to(dtype), b.to(dtype)


@settings(max_examples=40, deadline=None)
@given(
    N=st.integers(0, 3), H=st.integers(1, 11), W=st.integers(1, 11), C=st.integers(1, 3),
    K=st.integers(1, 3), wide=st.booleans(), with_bias=st.booleans(), relu=st.booleans(),
    layout=st.sampled_from(list(LAYOUTS)), padding=st.integers(0, 1), seed=st.integers(0, 99),
)  # fmt: skip
def test_it_is_the_convolution(N, H, W, C, K, wide, with_bias, relu, layout, padding, seed):
    torch.manual_seed(seed)
    dtype, panel = (torch.float64, 16) if wide else (torch.float32, 32)
    H, W = H + 2 - 2 * padding, W + 2 - 2 * padding
    x, w, b = convolution(N, H, W, C * panel // 2, K * panel, dtype)
    b = b if with_bias else None
    wide_b = b if b is None else b.double()
    want = F.conv2d(LAYOUTS[layout](x).double(), w.double(), wide_b, 1, padding)
    want = want.relu() if relu else want
    for made in (ops, reference):
        got = made.winograd_conv(LAYOUTS[layout](x), made.winograd_weights(w), b, relu, padding)
        close(got, want, dtype)
        assert got.is_contiguous(memory_format=torch.channels_last)


@native
def test_it_rounds_no_coarser_than_the_plain_convolution():
    x, w, _ = convolution(1, 20, 20, 256, 64)
    want = F.conv2d(x.relu().double(), w.double(), padding=1)
    plain = (F.conv2d(x.relu(), w, padding=1) - want).norm()
    got = ops.winograd_conv(x.relu(), ops.winograd_weights(w))
    assert (got - want).norm() <= 1.5 * plain


@given(H=st.integers(1, 9), W=st.integers(1, 9), place=st.integers(0, 80), seed=st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_an_output_depends_on_its_own_inputs_alone(H, W, place, seed):
    torch.manual_seed(seed)
    x, w, b = convolution(1, H, W, 32, 32)
    w = ops.winograd_weights(w)
    i, j = place % (H * W) // W, place % W
    changed = x.clone()
    changed[:, :, i, j] = 1e20
    same = (ops.winograd_conv(x, w, b) == ops.winograd_conv(changed, w, b)).all(1)[0]
    near = torch.zeros(H, W, dtype=torch.bool)
    near[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2] = True
    assert torch.equal(~same, near)


@native
def test_neither_batch_nor_threads_change_a_bit():
    x, w, b = convolution(5, 33, 18, 32, 64)
    w = ops.winograd_weights(w)
    one_by_one = torch.cat([ops.winograd_conv(x[i : i + 1], w, b) for i in range(5)])
    threads = torch.get_num_threads()
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            assert torch.equal(ops.winograd_conv(x, w, b), one_by_one)
    finally:
        torch.set_num_threads(threads)


@native
def test_a_nan_is_kept():
    x, w, b = convolution(1, 4, 4, 32, 32)
    x[0, 3, 1, 1] = torch.nan
    y = ops.winograd_conv(x, ops.winograd_weights(w), b, relu=True)
    assert y[:, :, :3, :3].isnan().all()
    assert not y[:, :, 3, 3].isnan().any()


@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("z_is_given", [True, False])
@native
def test_relprop_on_transformed_weights(targets, z_is_given):
    u, w, b = convolution(2, 7, 6, 32, 64)
    z = F.conv2d(u, w, b, padding=1) if z_is_given else None
    R = torch.randn(targets, 2, 64, 7, 6)
    one = [1, 1]
    rest = (None if z_is_given else b, z, [3, 3], one, one, one, False, [0, 0], 1, 1.0)
    there, back = ops.winograd_weights(w), ops.winograd_weights(w.transpose(0, 1).flip(2, 3))
    got = ops.relprop_conv(u, R, w if z_is_given else there, back, *rest)
    wide = [x.double() if isinstance(x, torch.Tensor) else x for x in (u, R, w, w, *rest)]
    close(got, ops.relprop_conv(*wide), torch.float32)


@native
def test_schema_fake_kernel_and_refusals():
    x, w, b = convolution(2, 5, 4, 32, 32)
    w = ops.winograd_weights(w)
    op = torch.ops.xaifast.winograd_conv
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(op.default, (x, w, b, True, 1), test_utils=checks)
    with pytest.raises(RuntimeError, match=r"xaifast::winograd_conv: not differentiable.*no_grad"):
        op(x.clone().requires_grad_(), w, b, False, 1)
    wrong = [
        ((x.half(), w.half()), TypeError, "winograd_conv: x must be float32 or float64, got Half"),
        ((x, w.double()), TypeError, "winograd_conv: w must have the dtype of x"),
        ((x[0], w), ValueError, r"winograd_conv: x must be \[N, C, H, W\], got \[32, 5, 4\]"),
        ((x[:, :16], w), ValueError, r"w must be \[4, 4, K / 32, C, 32\], C = 16 .*_weights makes"),
        ((x, w, b[1:]), ValueError, r"b must be \[32\], got \[31\]"),
        ((x, w, b, True, 2), ValueError, "winograd_conv: padding must be 0 or 1, got 2"),
        ((x[:, :, :1], w, b, True, 0), ValueError, "without padding x must have 2 rows"),
    ]  # fmt: skip
    for arguments, error, message in wrong:
        with pytest.raises(error, match=message):
            ops.winograd_conv(*arguments)
