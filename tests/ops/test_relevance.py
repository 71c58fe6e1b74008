"""The native ops against their formulas in plain PyTorch (float64): dtypes, layouts, devices."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import DTYPES, close, signed
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from xaifast import composites, ops, reference, rules
from xaifast.attr import LRP
from xaifast.errors import InputError

# ---- elementwise ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 5, 7, 4), (2, 6), (0, 3, 2, 2), (1, 1, 1, 1), (2, 130, 3)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_stabilized_divide(shape, with_bias, dtype, layout, device):
    z = layout(signed(*shape, device=device)).to(dtype)
    b = signed(shape[1], device=device).to(dtype) if with_bias else None
    for R in (signed(*shape, device=device), signed(3, *shape, device=device)):
        R = R.to(dtype)
        wide = None if b is None else b.double()
        expected = reference.stabilized_divide(R.double(), z.double(), wide, 0.25)
        close(ops.stabilized_divide(R, z, b, 0.25), expected, dtype)


def test_stabilized_divide_at_zero(dtype, device):
    z = torch.tensor([0.0, -0.0, 0.0], device=device, dtype=dtype)
    R = torch.tensor([0.0, 3.0, -3.0], device=device, dtype=dtype)
    assert ops.stabilized_divide(R, z, eps=0.0).tolist() == [0.0, 0.0, 0.0]  # R/0 = 0
    assert ops.stabilized_divide(R, z, eps=0.5).tolist() == [0.0, 6.0, -6.0]  # sgn 0 = +1


INF = float("inf")


@pytest.mark.parametrize("b", [None, 0.0, 1.0])
@pytest.mark.parametrize("eps", [0.0, 0.5])
def test_no_relevance_is_lost_over_an_infinite_denominator(b, eps, dtype, layout, device):
    few = torch.tensor([INF, -INF, INF, -INF, 2.0, float("nan")], dtype=dtype, device=device)
    gone = torch.tensor([3.0, 3.0, -1.0, 0.0, 0.0, 0.0], dtype=dtype, device=device)
    many = 7  # longer than the vectors of any machine
    z, R = (layout(x.repeat(many, 1)[..., None, None].expand(-1, 6, 3, 1)) for x in (few, gone))
    b = None if b is None else torch.full((6,), b, dtype=dtype, device=device)
    for s in (ops.stabilized_divide(R, z, b, eps), reference.stabilized_divide(R, z, b, eps)):
        assert s[:, :3].isnan().all()  # R/inf
        assert (s[:, 3:5] == 0).all()  # 0/inf, 0/2
        assert s[:, 5].isnan().all()
    several = ops.stabilized_divide(torch.stack([R, R * 0]), z, b, eps)
    assert several[0, :, :3].isnan().all()
    assert (several[1, :, :5] == 0).all()


def test_a_sum_that_overflows_is_no_denominator(dtype, device):
    most = torch.finfo(dtype).max
    R = torch.tensor([[1.0, 0.0]], dtype=dtype, device=device)
    z = torch.full((1, 2), INF, dtype=dtype, device=device)
    for op in (ops, reference):
        x, y = op.add_split(z, z, R, 1.0, 0.0)
        assert x[0, 0].isnan()
        assert y[0, 0].isnan()
    u, w = torch.full((1, 2), most, dtype=dtype, device=device), torch.ones_like(z)
    one = (u, R[:, :1], w, None, None, 1e-6, 1)
    assert ops.relprop_linear(*one).isnan().all()
    assert reference.relprop_linear(*one).isnan().all()
    signs = (u, R[:, :1], w, None, [1.0], [1.0], [0.0], 1e-6)
    assert not ops.zplus_linear(*signs).isfinite().any()
    assert not reference.zplus_linear(*signs).isfinite().any()


@pytest.mark.parametrize("rule", [rules.ZPlus(), rules.AlphaBeta(2, 1), rules.Gamma(1.0)], ids=repr)
@pytest.mark.parametrize("conv", [False, True])
def test_lrp_refuses_a_denominator_that_overflows(rule, conv):
    layer = nn.Conv2d(3, 2, 1) if conv else nn.Linear(3, 2)
    model = nn.Sequential(layer, nn.Flatten()).eval()
    with torch.no_grad():
        row = torch.tensor([2e19, -3e19, 2e19])
        layer.weight.copy_(torch.stack([row / 1e19, row]).view_as(layer.weight))
        layer.bias.zero_()
    x = torch.full((1, 3, 1, 1) if conv else (1, 3), 1e19)
    assert model(x).isfinite().all()  # 2e38 + 2e38 - 3e38, one after the other
    lrp = LRP(model, composites.Uniform(rule))
    assert lrp.attribute(x, start=torch.tensor([[1.0, 0.0]])).sum() != 0
    with pytest.raises(InputError, match="has NaN or infinite values"):
        lrp.attribute(x, start=torch.tensor([[0.0, 1.0]]))


def test_divide_in_place_writes_over_z(dtype, layout, device):
    z, R = (
        layout(signed(2, 3, 4, 5, device=device)).to(dtype).clone(),
        signed(2, 3, 4, 5, device=device),
    )
    R = R.to(dtype)
    expected = reference.stabilized_divide(R.double(), z.double(), None, 0.25)
    if not ops.is_native(z):
        pytest.skip("native kernels are switched off")
    result = torch.ops.xaifast.stabilized_divide_(z, R, None, 0.25)
    assert result.data_ptr() == z.data_ptr()
    close(z, expected, dtype)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("tail", [(), (5, 7), (3,)])
def test_split_and_multiply(parts, tail, dtype, layout, device):
    a = layout(signed(4, 6, *tail, device=device)).to(dtype)
    u = ops.split_signs(a) if parts == 2 else a
    if parts == 2:
        close(u, reference.split_signs(a.double()), dtype)
    c = signed(2 * 4, 6 * parts, *tail, device=device).to(dtype)
    close(
        ops.multiply_parts(u, c, parts),
        reference.multiply_parts(u.double(), c.double(), parts),
        dtype,
    )


@pytest.mark.parametrize("beta", [1.0, -1.0, 0.5])
def test_add_split(beta, dtype, layout, device):
    x, y = (layout(signed(3, 4, 5, 6, device=device)).to(dtype) for _ in range(2))
    R = signed(2, 3, 4, 5, 6, device=device).to(dtype)
    expected = reference.add_split(x.double(), y.double(), R.double(), beta, 0.25)
    for got, want in zip(ops.add_split(x, y, R, beta, 0.25), expected, strict=True):
        close(got, want, dtype)


# ---- pooling ----------------------------------------------------------------------------------

POOLS = [  # in, kernel, stride, padding, dilation
    ((7,), (3,), (2,), (1,), (1,)),
    ((8, 9), (2, 2), (2, 2), (0, 0), (1, 1)),
    ((9, 7), (3, 3), (2, 2), (1, 1), (1, 1)),
    ((9, 8), (3, 2), (1, 3), (1, 0), (2, 1)),
    ((4, 5, 6), (2, 3, 2), (2, 1, 2), (0, 1, 1), (1, 1, 2)),
]
MAX_POOL = {
    1: torch.nn.functional.max_pool1d,
    2: torch.nn.functional.max_pool2d,
    3: torch.nn.functional.max_pool3d,
}


@pytest.mark.sweep
@pytest.mark.parametrize("rule", ["winner_take_all", "proportional"])
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("pool", POOLS, ids=lambda p: f"{len(p[0])}d-{p[1]}")
def test_pool_redistribute(pool, ceil_mode, rule, dtype, layout, device):
    size, *geometry = pool
    a = layout(torch.randint(-2, 3, (2, 70, *size), device=device).double()).to(dtype)  # with ties
    out = MAX_POOL[len(size)](a.float(), *geometry, ceil_mode=ceil_mode)
    R = signed(2, *out.shape, device=device).to(dtype)
    expected = reference.pool_redistribute(a.double(), R.double(), *geometry, rule, 0.25)
    close(ops.pool_redistribute(a, R, *geometry, rule, 0.25), expected, dtype)


@pytest.mark.parametrize("pool", POOLS, ids=lambda p: f"{len(p[0])}d-{p[1]}")
def test_winner_take_all_is_the_gradient_of_max_pooling(pool, device):
    size, *geometry = pool
    a = torch.randint(-2, 3, (2, 3, *size), device=device).double().requires_grad_()
    out = MAX_POOL[len(size)](a, *geometry)
    R = torch.randn_like(out)
    (expected,) = torch.autograd.grad(out, a, R)
    assert torch.allclose(ops.pool_redistribute(a.detach(), R, *geometry), expected)


# ---- the four steps ---------------------------------------------------------------------------


def convolution(dims, transposed, groups, parts, device):
    """(u, w, geometry, output) of a random convolution with odd sizes."""
    size = (9, 8, 5)[:dims]
    inside, outside = 2 * groups, 3 * groups
    kernel, stride = [3, 2, 2][:dims], [2, 1, 2][:dims]
    padding, dilation = [1, 0, 1][:dims], [1, 2, 1][:dims]
    output_padding = [1, 0, 0][:dims] if transposed else [0] * dims
    if groups > 1 and parts == 2:  # each part has groups of its own
        shape = (2 * inside, outside // groups) if transposed else (2 * outside, inside // groups)
    else:
        shape = (
            (inside * parts, outside // groups)
            if transposed
            else (outside, inside * parts // groups)
        )
    w = signed(*shape, *kernel, device=device)
    u = signed(2, inside * parts, *size, device=device)
    geometry = (kernel, stride, padding, dilation, transposed, output_padding, groups)
    apart = 2 if groups > 1 and parts == 2 else 1
    z = torch.ops.aten.convolution(
        u, w, None, stride, padding, dilation, transposed, output_padding, groups * apart
    )
    z = z[:, : z.shape[1] // apart].contiguous()
    return u, w, geometry, z


@pytest.mark.sweep
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("groups", "parts"), [(1, 1), (2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_relprop_conv(dims, transposed, groups, parts, dtype, layout, device):
    u, w, geometry, z = convolution(dims, transposed, groups, parts, device)
    b = signed(z.shape[1], device=device)
    for R in (torch.randn_like(z), torch.randn(3, *z.shape, device=device, dtype=z.dtype)):
        expected = reference.relprop_conv(layout(u), R, w, w, b, None, *geometry, 0.25, parts)
        u_, R_, w_, b_ = (x.to(dtype) for x in (layout(u), R, w, b))
        got = ops.relprop_conv(u_, R_, w_, w_, b_, None, *geometry, 0.25, parts)
        close(got, expected, dtype)
        given = reference.relprop_conv(layout(u), R, w, w, None, z + 1, *geometry, 0.25, parts)
        got = ops.relprop_conv(u_, R_, w_, w_, None, (z + 1).to(dtype), *geometry, 0.25, parts)
        close(got, given, dtype)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("groups", "parts"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_relprop_conv_with_a_product_in_bfloat16(dims, transposed, groups, parts, layout, device):
    u, w, geometry, z = convolution(dims, transposed, groups, parts, device)
    w_t = w.bfloat16()
    u, w, z = layout(u).float(), w_t.float(), z.float()
    R = torch.randn(3, *z.shape, device=device).bfloat16().float()

    def both(z, eps):
        rest = (None, z, *geometry, eps, parts)
        got = ops.relprop_conv(u, R, w, w_t, *rest)
        assert got.dtype == torch.float32
        close(got, reference.relprop_conv(u, R, w, w_t, *rest).double(), torch.bfloat16)
        return got, reference.relprop_conv(u, R, w, w, *rest)

    got, full = both(None, 4.0)
    close(got, full.double(), torch.bfloat16)
    got, full = both(torch.ones_like(z), 0.0)  # s = R and w have few digits: only c is rounded
    if parts == 1:
        assert ((got - full).abs() <= 2**-8 * full.abs() + 1e-5).all()
    assert ((got - full).abs() > 2**-12 * full.abs()).any()


@pytest.mark.sweep
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("groups", "parts"), [(1, 1), (2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("lasts", ["", "u", "w", "z", "u w"])
def test_the_fake_relprop_conv_foretells_the_layout(
    dims, transposed, groups, parts, lasts, layout, device
):
    u, w, geometry, z = convolution(dims, transposed, groups, parts, device)
    u, w, z = (layout(x) if n in lasts else x for n, x in zip("uwz", (u, w, z), strict=True))
    op = torch.ops.xaifast.relprop_conv.default
    choices = ((torch.float32, torch.float64), (z, torch.stack([z, z, z])), (None, z))
    for dtype, R, denominator in itertools.product(*choices):
        given = [None if x is None else x.to(dtype) for x in (u, R, w, w, None, denominator)]
        real = op(*given, *geometry, 0.25, parts)
        with FakeTensorMode() as mode:
            fakes = [None if x is None else mode.from_tensor(x) for x in given]
            fake = op(*fakes, *geometry, 0.25, parts)
        assert (fake.shape, fake.stride()) == (real.shape, real.stride())


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_relprop_linear(rows, parts, dtype, device):
    u, w, b = (
        signed(rows, 7 * parts, device=device),
        signed(9, 7 * parts, device=device),
        signed(9, device=device),
    )
    for R in (
        torch.randn(rows, 9, device=device).double(),
        torch.randn(2, rows, 9, device=device).double(),
    ):
        R[..., ::2] = 0  # rows of w that meet only zeros
        expected = reference.relprop_linear(u, R, w, b, None, 0.25, parts)
        got = ops.relprop_linear(*(x.to(dtype) for x in (u, R, w, b)), None, 0.25, parts)
        close(got, expected, dtype)


@settings(deadline=None, max_examples=60)
@given(
    m=st.integers(0, 20),
    K=st.integers(1, 33),
    J=st.integers(1, 70),
    zeros=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_backward_product_reads_only_what_counts(m, K, J, zeros, seed):
    generator = torch.Generator().manual_seed(seed)
    s = torch.randn(m, K, generator=generator, dtype=torch.float64)
    s[:, torch.rand(K, generator=generator) < zeros] = 0
    w = torch.randn(K, J, generator=generator, dtype=torch.float64)
    w[(s == 0).all(0)] = torch.nan  # rows that meet only zeros must not be read
    expected = s @ torch.where((s == 0).all(0)[:, None], 0.0, w)
    if m <= 16 and ops.is_native(s):
        assert torch.allclose(ops.backward_product(s, w), expected)


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(0, 3),
    c=st.integers(1, 5),
    k=st.integers(1, 5),
    h=st.integers(1, 9),
    w=st.integers(1, 9),
    kh=st.integers(1, 3),
    kw=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
)
def test_relprop_conv_for_any_geometry(n, c, k, h, w, kh, kw, stride, padding, dilation):
    kernel = [kh, kw]
    if any(s + 2 * padding < dilation * (q - 1) + 1 for s, q in zip((h, w), kernel, strict=True)):
        return
    u, weight = signed(n, c, h, w), signed(k, c, kh, kw)
    geometry = (kernel, [stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], 1)
    z = torch.nn.functional.conv2d(u, weight, None, stride, padding, dilation)
    R = torch.randn_like(z)
    got = ops.relprop_conv(u, R, weight, weight, None, None, *geometry, 0.25)
    close(
        got,
        reference.relprop_conv(u, R, weight, weight, None, None, *geometry, 0.25, 1),
        torch.float64,
    )


# ---- contracts --------------------------------------------------------------------------------


def samples(device):
    x = torch.randn(2, 4, 6, 6, device=device)
    w = torch.randn(3, 4, 3, 3, device=device)
    one = [1, 1]
    conv = (None, None, [3, 3], one, one, one, False, [0, 0], 1, 1e-6, 1)
    s = torch.randn(5, 4, device=device)
    return {
        "stabilized_divide": (x, x + 1, None, 1e-6),
        "multiply_parts": (x, torch.randn_like(x), 2),
        "split_signs": (x,),
        "add_split": (x, x + 1, torch.randn(3, *x.shape, device=device), 1.0, 1e-6),
        "pool_redistribute": (
            x,
            x[:, :, ::2, ::2].contiguous(),
            [2, 2],
            [2, 2],
            [0, 0],
            one,
            "proportional",
            1e-6,
        ),
        "backward_product": (s, torch.randn(4, 7, device=device)),
        "relprop_conv": (x, torch.randn(2, 3, 6, 6, device=device), w, w, *conv),
        "relprop_linear": (
            s,
            torch.randn(5, 7, device=device),
            torch.randn(7, 4, device=device),
            None,
            None,
            1e-6,
            1,
        ),
    }


@pytest.mark.parametrize("name", samples("cpu"))
def test_schema_and_fake_kernel(name, device):
    op = getattr(torch.ops.xaifast, name).default
    args = samples(device)[name]
    torch.library.opcheck(
        op, args, test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    )


@pytest.mark.parametrize("name", samples("cpu"))
def test_a_call_that_autograd_would_record_is_refused(name, device):
    op = getattr(torch.ops.xaifast, name)
    args = samples(device)[name]
    args = (args[0].requires_grad_(), *args[1:])
    with pytest.raises(RuntimeError, match=f"xaifast::{name}: not differentiable.*no_grad"):
        op(*args)
    with torch.no_grad():
        op(*args)


def test_wrong_arguments_name_the_op_and_what_came():
    x = torch.ones(2, 4, 3, 3)
    if not ops.is_native(x):
        pytest.skip("native kernels are switched off")
    cases = [
        (lambda: ops.split_signs(x.int()), TypeError, "split_signs: a must be float32.*got Int"),
        (lambda: ops.stabilized_divide(x, x.double()), TypeError, "R must have the dtype of z"),
        (lambda: ops.stabilized_divide(x[:1], x), ValueError, r"shape of z \[2, 4, 3, 3\]"),
        (lambda: ops.stabilized_divide(x, x, torch.ones(3)), ValueError, "one value per channel"),
        (lambda: ops.multiply_parts(x, x, 3), ValueError, "parts must be 1 or 2, got 3"),
        (lambda: ops.multiply_parts(x[:, :3], x[:, :3], 2), ValueError, "with parts=2"),
        (lambda: ops.multiply_parts(x, x[:1]), ValueError, "c must be"),
        (lambda: ops.split_signs(x[0, 0, 0]), ValueError, "split_signs: a must be"),
        (lambda: ops.add_split(x, x[:1], x), ValueError, "must have the same shape"),
        (
            lambda: ops.pool_redistribute(x, x, [2, 2], [2, 2], [0, 0], [1, 1]),
            ValueError,
            "not the size",
        ),
        (
            lambda: ops.pool_redistribute(x, x, [1, 1], [1, 1], [0, 0], [1, 1], "all"),
            ValueError,
            "'all'",
        ),
        (
            lambda: ops.pool_redistribute(x, x, [2], [2], [0], [1]),
            ValueError,
            "positions dimensions",
        ),
        (lambda: ops.backward_product(x[0, 0], x[0]), ValueError, r"s must be \[m, K\]"),
        (lambda: ops.relprop_linear(x, x, x), ValueError, "flatten the leading dimensions"),
        (
            lambda: ops.relprop_conv(
                x, x, x, x.half(), None, x, [1, 1], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, 0.0
            ),
            TypeError,
            "relprop_conv: w_t must have the dtype of u .* or be bfloat16, got Half",
        ),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()


def test_packed_weights_give_the_same():
    u, w = torch.randn(2, 4, 9, 8), torch.randn(6, 2, 3, 3)
    if not ops.packs_weights(u):
        pytest.skip("no oneDNN")
    kernel, stride, padding, dilation, groups = [3, 3], [2, 1], [1, 2], [1, 2], 2
    z = torch.nn.functional.conv2d(u, w, None, stride, padding, dilation, groups)
    place = (padding, stride, dilation, groups, list(u.shape))
    packed = torch.ops.mkldnn._reorder_convolution_weight(w, *place)
    place = (padding, [0, 0], stride, dilation, groups, list(z.shape))
    packed_t = torch.ops.mkldnn._reorder_convolution_transpose_weight(w, *place)
    packed_low = torch.ops.mkldnn._reorder_convolution_transpose_weight(w.bfloat16(), *place)
    R = torch.randn(3, *z.shape)
    rest = (None, None, kernel, stride, padding, dilation, False, [0, 0], groups, 1e-3)
    for w_t, packed_w_t in ((w, packed_t), (w.bfloat16(), packed_low)):
        plain = ops.relprop_conv(u, R, w, w_t, *rest)
        got = ops.relprop_conv(u, R, packed, packed_w_t, *rest)
        close(got, plain.double(), w_t.dtype)


# ---- what is written over ----------------------------------------------------------------------


def divide_over(z, R):
    torch.ops.xaifast.stabilized_divide_(z, R, None, 0.5)


def multiply_over(z, R):
    torch.ops.xaifast.multiply_(z, R)


@pytest.mark.parametrize("op", [divide_over, multiply_over])
def test_ops_in_place_are_noticed_and_refuse_shared_memory(op):
    x = torch.randn(2, 6)
    for z in (x.clone(), x.repeat(1, 2)[:, ::2]):  # written over, or by way of a copy
        before = z._version
        op(z, x)
        assert z._version > before
    memory = torch.randn(20)
    with pytest.raises(ValueError, match=r"must not share a part of the memory.*clone\(\) one"):
        op(memory[:12].view(2, 6), memory[2:14].view(2, 6))
    with pytest.raises(ValueError, match="must have a place for each of its elements"):
        op(torch.randn(1, 6).expand(2, 6), x)
    same, apart = x.clone(), x.clone()
    op(same, same)
    op(apart, x)
    assert torch.equal(same, apart)
    with torch.inference_mode():
        op(x.clone(), x)


def test_a_nan_is_in_both_parts(dtype):
    a = torch.tensor([[torch.nan, -1.0, 2.0, -0.0, 0.0, torch.inf]], dtype=dtype)
    u = ops.split_signs(a)
    want = torch.cat([a.clamp(min=0), a.clamp(max=0)], 1)
    torch.testing.assert_close(u, want, equal_nan=True, rtol=0, atol=0)
