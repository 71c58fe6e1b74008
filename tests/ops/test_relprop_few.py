"""Relevance through few channels in one pass: against relprop_conv's formula in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import DTYPES, LAYOUTS, close, signed

from xaifast import ops, reference

native = pytest.mark.skipif(
    not ops.is_native(torch.empty(0)), reason="native kernels are switched off"
)


def outputs(size, kernel, stride, padding):
    return [
        (n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding, strict=True)
    ]


def problem(N, channels, size, K, kernel, stride, padding, targets=0):
    """u, R, w, b and z in float64; sums of products of these are exact in float32."""
    u, w, b = signed(N, channels, *size), signed(K, channels, *kernel), signed(K)
    shape = (N, K, *outputs(size, kernel, stride, padding))
    R = torch.randn(*([targets] if targets else []), *shape).double()
    return u, R, w, b, signed(*shape) + 0.25


def panels(w):
    return ops.few_weights(w), ops.few_weights(w, back=True)


def formula(u, R, w, b, z, kernel, stride, padding, eps, parts):
    rest = (kernel, stride, padding, [1, 1], False, [0, 0], 1, eps, parts)
    return reference.relprop_conv(u, R, w, w, b, z, *rest)


SHAPES = {
    "box": (2, 6, (13, 17), 64, [3, 3], [1, 1], [1, 1], 2),
    "stem": (1, 3, (29, 31), 64, [7, 7], [2, 2], [3, 3], 1),
    "AlexNet": (1, 3, (35, 31), 5, [11, 11], [4, 4], [2, 2], 1),
    "one channel": (3, 1, (13, 17), 1, [5, 3], [1, 2], [2, 0], 1),
    "eight": (1, 8, (9, 60), 100, [1, 4], [1, 1], [0, 3], 2),
    "stride beyond the kernel": (2, 4, (13, 17), 40, [2, 3], [4, 4], [1, 2], 2),
    "padding beyond the kernel": (1, 2, (5, 4), 33, [2, 1], [1, 2], [3, 3], 1),
    "one output": (1, 3, (4, 5), 32, [4, 5], [1, 1], [0, 0], 1),
    "wide": (1, 3, (3, 203), 64, [3, 3], [1, 1], [1, 1], 1),
}


@pytest.mark.parametrize("targets", [0, 2])
@pytest.mark.parametrize("name", SHAPES)
def test_the_reference_is_relprop_conv(name, targets):
    *shape, parts = SHAPES[name]
    u, R, w, b, z = (x.double() for x in problem(*shape, targets))
    there, back = panels(w)
    for bias, known in ((None, None), (b, None), (None, z)):
        want = formula(u, R, w, bias, known, *shape[4:], 0.25, parts)
        got = reference.relprop_few(u, R, there, back, bias, known, *shape[4:], 0.25, parts)
        close(got, want, torch.float64)


@pytest.mark.sweep
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("targets", [0, 1, 3, 18])
@pytest.mark.parametrize("layouts", ["contiguous", "channels_last", "strided", "mixed"])
def test_it_is_relprop_conv(name, dtype, targets, layouts):
    *shape, parts = SHAPES[name]
    u, R, w, b, z = problem(*shape, targets)
    of_u, of_R = ("strided", "channels_last") if layouts == "mixed" else (layouts, layouts)
    lay = LAYOUTS[of_u], LAYOUTS[of_R]
    u = lay[0](u.to(dtype))
    R = R.to(dtype)
    R = torch.stack([lay[1](x) for x in R]) if targets and layouts == "mixed" else lay[1](R)
    there, back = panels(w.to(dtype))
    for bias, known in ((None, None), (b, None), (None, z)):
        want = formula(u.double(), R.double(), w, bias, known, *shape[4:], 0.25, parts)
        bias, known = (None if x is None else x.to(dtype) for x in (bias, known))
        known = None if known is None else lay[1](known)
        got = ops.relprop_few(u, R, there, back, bias, known, *shape[4:], 0.25, parts)
        close(got, want, dtype)


@settings(max_examples=60, deadline=None)
@given(
    N=st.integers(0, 2), parts=st.integers(1, 2), C=st.integers(1, 4), H=st.integers(1, 13),
    W=st.integers(1, 13), K=st.sampled_from([1, 5, 64, 100]),
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_geometry(N, parts, C, H, W, K, kernel, stride, padding, seed):
    torch.manual_seed(seed)
    if any(n + 2 * p < k for n, p, k in zip((H, W), padding, kernel, strict=True)):
        return
    place = list(kernel), list(stride), list(padding)
    u, R, w, b, _ = problem(N, parts * C, (H, W), K, *place)
    want = formula(u, R, w, b, None, *place, 0.25, parts)
    close(ops.relprop_few(u, R, *panels(w), b, None, *place, 0.25, parts), want, torch.float64)
    single = (u.float(), R.float(), *panels(w.float()), b.float())
    close(ops.relprop_few(*single, None, *place, 0.25, parts), want, torch.float32)


def test_the_panels_hold_the_weights():
    w = torch.arange(2 * 3 * 1 * 2.0).view(2, 3, 1, 2) + 1  # [K, C, rows, columns]
    there, back = panels(w)
    assert there.shape == (1, 6, 32)
    assert back.shape == (1, 32, 6 + 26)
    rows = w.permute(2, 3, 1, 0).reshape(6, 2)
    assert torch.equal(there[0, :, :2], rows)
    assert torch.equal(back[0, :2, :6], rows.T)
    assert there.sum() == back.sum() == w.sum()


def test_nothing_divided_by_nothing_is_nothing():
    u, R, w, _, _ = problem(1, 3, (6, 7), 40, [3, 3], [1, 1], [1, 1])
    w[::2] = 0  # z = 0 of every other unit
    u[:, :, :, :3] = 0  # and of all there
    got = ops.relprop_few(u, R, *panels(w), None, None, [3, 3], [1, 1], [1, 1], 0.0)
    want = formula(u, R, w, None, None, [3, 3], [1, 1], [1, 1], 0.0, 1)
    assert (got[:, :, :, :3] == 0).all()
    assert torch.allclose(got, want, rtol=1e-9, atol=1e-9 * float(want.abs().max()))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["u", "R"])
def test_what_is_not_finite_reaches_what_it_reaches_in_the_formula(value, where):
    u, R, w, _, _ = problem(1, 3, (9, 8), 5, [3, 3], [1, 1], [1, 1])
    w[w == 0] = 1
    {"u": u, "R": R}[where][0, 1, 4, 3] = value
    place = ([3, 3], [1, 1], [1, 1], 0.25)
    got = ops.relprop_few(u, R, *panels(w), None, None, *place)
    want = formula(u, R, w, None, None, *place, 1)
    assert not torch.isfinite(want).all()
    assert torch.equal(torch.isfinite(got), torch.isfinite(want))
    fine = torch.isfinite(want)
    assert torch.allclose(got[fine], want[fine])


@native
@pytest.mark.parametrize("name", SHAPES)
def test_threads_change_no_bit(name):
    *shape, parts = SHAPES[name]
    u, R, w, b, _ = (x.float() for x in problem(*shape, 2))
    arguments = (u, R, *panels(w), b, None, *shape[4:], 0.25, parts)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = ops.relprop_few(*arguments)
        for n in (2, 3, 7):
            torch.set_num_threads(n)
            assert torch.equal(ops.relprop_few(*arguments), alone)
    finally:
        torch.set_num_threads(threads)


@native
def test_many_threads_share_a_large_map():
    u, R, w, _, _ = (x.float() for x in problem(2, 3, (41, 120), 64, [3, 3], [1, 1], [1, 1]))
    arguments = (u, R, *panels(w), None, None, [3, 3], [1, 1], [1, 1], 0.25)
    threads = torch.get_num_threads()
    one_by_one = torch.cat(
        [ops.relprop_few(u[i : i + 1], R[i : i + 1], *arguments[2:]) for i in range(2)]
    )
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            assert torch.equal(ops.relprop_few(*arguments), one_by_one)
    finally:
        torch.set_num_threads(threads)


@native
def test_it_rounds_no_coarser_than_the_composition():
    place = ([3, 3], [1, 1], [1, 1])
    u, R, w = torch.rand(1, 6, 40, 40), torch.randn(1, 64, 40, 40), torch.rand(64, 6, 3, 3)
    want = formula(u.double(), R.double(), w.double(), None, None, *place, 1e-6, 2)
    plain = (formula(u, R, w, None, None, *place, 1e-6, 2) - want).norm()
    got = ops.relprop_few(u, R, *panels(w), None, None, *place, 1e-6, 2)
    assert (got - want).norm() <= 1.1 * plain


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_the_result_lies_as_u(layout):
    u, R, w, _, _ = problem(2, 4, (5, 6), 8, [3, 3], [1, 1], [1, 1], 2)
    u = LAYOUTS[layout](u)
    got = ops.relprop_few(u, R, *panels(w), None, None, [3, 3], [1, 1], [1, 1], 0.25, 2)
    if ops.is_native(u):
        assert got[0].stride() == u[:, :2].contiguous(memory_format=FORMATS[layout]).stride()


FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@native
def test_schema_fake_kernel_and_refusals():
    place = ([3, 3], [1, 1], [1, 1])
    u, R, w, b, z = (x.float() for x in problem(2, 4, (6, 5), 40, *place, 3))
    there, back = panels(w)
    op = torch.ops.xaifast.relprop_few
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    for known in ((b, None), (None, z)):
        for x in (u, u.contiguous(memory_format=torch.channels_last)):
            arguments = (x, R, there, back, *known, *place, 0.25, 2)
            torch.library.opcheck(op.default, arguments, test_utils=checks)
    with pytest.raises(RuntimeError, match=r"xaifast::relprop_few: not differentiable.*no_grad"):
        op(u.clone().requires_grad_(), R, there, back, None, None, *place, 0.25, 2)
    good = {
        "u": u, "R": R, "w": there, "w_back": back, "b": None, "z": None,
        "kernel": [3, 3], "stride": [1, 1], "padding": [1, 1], "eps": 0.25, "parts": 1,
    }  # fmt: skip
    ops.relprop_few(**good)
    wrong = [
        ({"u": u.half()}, TypeError, "relprop_few: u must be float32 or float64, got Half"),
        ({"R": R.double()}, TypeError, "relprop_few: R must have the dtype of u"),
        ({"w": there.double()}, TypeError, "relprop_few: w must have the dtype of u"),
        ({"u": u[0]}, ValueError, r"relprop_few: u must be \[N, C, H, W\], got \[4, 6, 5\]"),
        ({"parts": 3}, ValueError, "relprop_few: parts must be 1 or 2, got 3"),
        ({"u": u[:, :3], "parts": 2}, ValueError, r"at most 8 channels, a multiple of parts=2"),
        ({"u": u.repeat(1, 3, 1, 1)}, ValueError, r"got \[2, 12, 6, 5\]; take relprop_conv"),
        ({"kernel": [17, 1]}, ValueError, r"kernel must have at most 16 rows, got \[17, 1\]"),
        ({"kernel": [3]}, ValueError, "relprop_few: kernel must have 2 values"),
        ({"stride": [0, 1]}, ValueError, r"relprop_few: stride must lie in \[1"),
        ({"R": R[0, 0]}, ValueError, r"relprop_few: R must be \[N, K, rows, columns\] or"),
        ({"R": R[..., 1:]}, ValueError, r"R must have the shape of the output \[2, 40, 6, 5\]"),
        ({"w": there[:, 1:]}, ValueError, r"w must be \[2, 36, 32\], got .*few_weights makes it"),
        ({"w_back": back[1:]}, ValueError, r"w_back must be \[2, 64, 32\], got \[1, 64, 32\]"),
        ({"b": b[1:]}, ValueError, r"relprop_few: b must be \[40\], got \[39\]"),
        ({"z": z[None]}, ValueError, r"relprop_few: z must be \[2, 40, 6, 5\], got \[1, 2,"),
        ({"z": z.double()}, TypeError, "relprop_few: z must have the dtype of u"),
    ]  # fmt: skip
    for change, error, message in wrong:
        with pytest.raises(error, match=message):
            ops.relprop_few(**(good | change))
