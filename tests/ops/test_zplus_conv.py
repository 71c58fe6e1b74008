"""Relevance through a convolution by contribution: every kernel against float64, on each device."""

import itertools
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import DTYPES, TOLERANCE, close, signed

from xaifast import ops, reference
from xaifast.ops import conv_table

KERNELS = ["library", "tiles", "tensor_cores", "pixels"]
CLAMPED = ["all", "positive", "negative"]
RULES = [*CLAMPED, "box", "square"]
TF32 = 2e-3  # 10 bits of fraction, in both products

# in, kernel, stride, padding, dilation, (channels, units, groups)
GEOMETRIES = [
    ((7,), (3,), (2,), (1,), (1,), (3, 5, 1)),
    ((9, 8), (3, 2), (1, 2), (1, 0), (2, 1), (3, 6, 1)),
    ((7, 7), (3, 3), (2, 2), (1, 1), (1, 1), (4, 8, 2)),
    ((6, 11), (1, 1), (2, 3), (0, 0), (1, 1), (40, 24, 1)),
    ((5, 6), (5, 3), (1, 1), (3, 2), (1, 3), (2, 2, 1)),
    ((4, 5, 3), (2, 3, 2), (2, 1, 1), (0, 1, 1), (1, 1, 2), (2, 3, 1)),
]


@pytest.fixture(params=["cpu", *(f"cuda {kernel}" for kernel in KERNELS)])
def where(request):
    """A device and a kernel that it has."""
    name, *kernel = request.param.split()
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(name), *(kernel or ["library"])


def problem(geometry, batch, device, targets=None):
    """(a, R, w, b, keywords) of a random signed convolution in float64."""
    size, kernel, stride, padding, dilation, (channels, units, groups) = geometry
    a = signed(batch, channels, *size, device=device)
    w = signed(units, channels // groups, *kernel, device=device)
    place = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    z = torch.ops.aten.convolution(
        a, w, None, stride, padding, dilation, False, [0] * len(size), groups
    )
    R = signed(*(() if targets is None else (targets,)), *z.shape, device=device)
    return a, R, w, signed(units, device=device), place


def takes(kernel, rule, geometry, dtype):
    """Whether a kernel is for such a problem."""
    channels, _, groups = geometry[-1]
    few = channels <= 4 and groups == 1
    if kernel == "library":
        return True
    if len(geometry[0]) > 2 or (rule == "box" and not few):
        return False
    return {
        "tiles": rule in CLAMPED and dtype == torch.float32,
        "tensor_cores": rule in CLAMPED and dtype != torch.float64,
        "pixels": few and dtype != torch.float64,
    }[kernel]


def bounds(rule, a):
    n = a.shape[1] if rule == "box" else 0
    return {"low": [-4.5 - c for c in range(n)], "high": [4.25 + c for c in range(n)]}


def wide(a, R, w, b, place, rule, low, high, nonnegative=False):
    """The reference in float64."""
    b = None if b is None else b.double()
    tensors = (a.double(), R.double(), w.double(), None, b)
    return reference.zplus_conv(
        *tensors, *place.values(), rule, low, high, nonnegative, 0.25, "library"
    )


@pytest.mark.sweep
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda g: f"{len(g[0])}d-{g[1]}-{g[5]}")
def test_every_kernel(geometry, where, dtype, layout):
    device, kernel = where
    rules = [rule for rule in RULES if takes(kernel, rule, geometry, dtype)]
    for rule, (batch, targets) in itertools.product(rules, ((1, None), (3, 2), (0, None))):
        a, R, w, b, place = problem(geometry, batch, device, targets)
        a, R, w, b = (x.to(dtype) for x in (layout(a), R, layout(w), b))
        box = bounds(rule, a)
        got = ops.zplus_conv(a, R, w, b, **place, rule=rule, **box, eps=0.25, kernel=kernel)
        expected = wide(a, R, w, b, place, rule, **box)
        assert got.shape == expected.shape
        assert torch.isfinite(got).all()
        error, scale = (got.double() - expected).abs().sum(), expected.abs().sum()
        rounds = kernel == "tensor_cores" and dtype == torch.float32
        assert error <= max(TOLERANCE[dtype], TF32 if rounds else 0) * scale


@pytest.mark.parametrize("rule", ["positive", "negative"])
def test_one_term_is_enough_where_no_input_is_negative(rule, where):
    device, kernel = where
    if kernel == "pixels":
        pytest.skip("too many channels")
    a, R, w, _, place = problem(GEOMETRIES[3], 2, device)
    a, R, w = (x.float() for x in (a.clamp(min=0), R, w))
    calls = [
        ops.zplus_conv(a, R, w, **place, rule=rule, nonnegative=n, eps=0.25, kernel=kernel)
        for n in (False, True)
    ]
    assert torch.allclose(*calls, rtol=1e-3, atol=1e-3 * float(calls[0].abs().max()))


@pytest.mark.parametrize("geometry", GEOMETRIES[1:4], ids=lambda g: f"{g[1]}-{g[5]}")
def test_no_kernel_is_further_from_float64_than_the_library(geometry, where):
    device, kernel = where
    if not takes(kernel, "positive", geometry, torch.float32):
        pytest.skip("not for this kernel")
    a, R, w, b, place = problem(geometry, 3, device)
    a, R, w, b = (x.float() * 1.001 for x in (a, R, w, b.abs()))  # not exact in few bits
    expected = wide(a, R, w, b, place, "positive", [], [])

    def error(kernel):
        got = ops.zplus_conv(a, R, w, b, **place, eps=0.25, kernel=kernel)
        return float((got.double() - expected).norm() / expected.norm())

    with torch.backends.cudnn.flags(allow_tf32=False):
        limit = TF32 if kernel == "tensor_cores" else 3 * error("library") + 1e-7
        assert error(kernel) <= limit


def test_the_exchanged_weight_may_be_given(where):
    device, kernel = where
    if kernel == "pixels":
        pytest.skip("several groups")
    a, R, w, _, place = problem(GEOMETRIES[2], 2, device)
    a, R, w = a.float(), R.float(), w.float()
    w_t = w.unflatten(0, (2, 4)).transpose(1, 2).flatten(0, 1)
    plain = ops.zplus_conv(a, R, w, **place, kernel=kernel)
    w_t = w_t.contiguous(memory_format=torch.channels_last)
    assert torch.equal(ops.zplus_conv(a, R, w, **place, kernel=kernel, w_t=w_t), plain)


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(0, 2),
    per_group=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    groups=st.integers(1, 2),
    size=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    rule=st.sampled_from(RULES),
)
def test_any_geometry(n, per_group, groups, size, kernel, stride, padding, dilation, rule):
    spans = zip(size, kernel, padding, dilation, strict=True)
    if any(s + 2 * p < d * (k - 1) + 1 for s, k, p, d in spans):
        return
    channels, units = (groups * x for x in per_group)
    geometry = (size, kernel, stride, padding, dilation, (channels, units, groups))
    for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
        a, R, w, b, place = problem(geometry, n, device)
        box = bounds(rule, a)
        expected = wide(a, R, w, b, place, rule, **box)
        names = KERNELS if device == "cuda" else KERNELS[:1]
        for name in names:
            for dtype in DTYPES[:2]:
                if takes(name, rule, geometry, dtype) and name != "tensor_cores":
                    tensors = (x.to(dtype) for x in (a, R, w, b))
                    rest = {**place, **box, "rule": rule, "eps": 0.25, "kernel": name}
                    close(ops.zplus_conv(*tensors, **rest), expected, dtype)


# ---- the choice -------------------------------------------------------------------------------


@pytest.fixture
def table(monkeypatch):
    """An empty table, as a GPU of capability 9.0 would read it, here for CPU tensors."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(conv_table, "DEVICE", "cpu")
    monkeypatch.setattr(conv_table, "FASTER", {})
    return conv_table.FASTER


def test_only_what_was_measured_leaves_the_library(table):
    a, R, w, _, place = problem(GEOMETRIES[2], 3, "cpu")
    a, positions = a.bfloat16(), R.numel() // 8
    key = ((9, 0), "bfloat16", "positive", False, 4, 8, 2, (3, 3), (2, 2), (1, 1))
    assert conv_table.describe(a, w, place["stride"], place["dilation"], 2, "positive") == key
    assert conv_table.positions(R, 4) == (positions, positions)

    def choose(rule="positive", R=R, a=a, **changes):
        p = {**place, **changes}
        return conv_table.choose(a, R, w, p["stride"], p["dilation"], p["groups"], rule)

    assert choose() == "library"  # nothing is measured
    table[key] = (("tensor_cores", positions, None),)
    assert choose() == choose(R=R[None]) == "tensor_cores"
    assert choose(R=torch.stack([R, R])) == "library"  # several targets were not measured
    last = choose(a=a.contiguous(memory_format=torch.channels_last))
    assert choose("negative") == choose(stride=(1, 2)) == choose(a=a.half()) == last == "library"
    assert choose(R=R[:2]) == "library"  # fewer positions
    assert choose(R=torch.cat([R, R])) == "tensor_cores"
    table[key] = (("tiles", 1, positions - 1), ("tensor_cores", positions, positions))
    assert choose() == "tensor_cores"
    assert choose(R=R[:2]) == "tiles"
    assert choose(R=torch.cat([R, R])) == choose(R=R[:0]) == "library"


def test_only_tensors_on_the_device_of_the_kernels_leave_the_library(table, monkeypatch):
    a, R, w, _, place = problem(GEOMETRIES[2], 2, "cpu", 1)
    key = conv_table.describe(a, w, place["stride"], place["dilation"], 2, "all")
    table[key] = (("tiles", 1, None),)
    args = (a, R, w, place["stride"], place["dilation"], 2, "all")
    assert conv_table.choose(*args) == "tiles"
    monkeypatch.setattr(conv_table, "DEVICE", "cuda")
    assert conv_table.choose(*args) == "library"


@pytest.mark.parametrize(
    ("changes", "kernel"),
    [
        ({}, "tensor_cores"),
        ({"rule": "negative"}, "tensor_cores"),
        ({"rule": "all z"}, "tensor_cores"),
        ({"dtype": torch.float32}, "tiles"),
        ({"dtype": torch.float64}, "library"),
        ({"rule": "box"}, "library"),
        ({"geometry": 0}, "pixels"),  # few channels, one dimension
        ({"geometry": 1, "rule": "square"}, "pixels"),
        ({"geometry": 4, "rule": "box"}, "pixels"),
        ({"geometry": 5}, "library"),  # three dimensions
        ({"geometry": 0, "stride": (2**16,)}, "library"),
        ({"geometry": 1, "dilation": (2, 2**20)}, "library"),
    ],
)
def test_own_takes_our_kernels_wherever_they_can_run(changes, kernel, table, monkeypatch):
    asked = {"geometry": 2, "rule": "positive", "dtype": torch.bfloat16} | changes
    a, R, w, _, place = problem(GEOMETRIES[asked["geometry"]], 2, "cpu", 3)
    place |= {k: v for k, v in changes.items() if k in place}
    args = (place["stride"], place["dilation"], place["groups"], asked["rule"])
    tensors = [x.to(asked["dtype"]) for x in (a, R, w)]
    monkeypatch.setattr(conv_table, "WISH", "own")
    with torch.backends.cudnn.flags(allow_tf32=False):
        assert conv_table.choose(*tensors, *args) == kernel
        assert conv_table.choose_and_tell(*tensors, *args)[1]
    monkeypatch.setattr(conv_table, "DEVICE", "cuda")
    assert conv_table.choose(*tensors, *args) == "library"


def test_pixels_whose_outputs_do_not_fit_a_block_go_to_tiles(table, monkeypatch):
    monkeypatch.setattr(conv_table, "WISH", "own")
    for size, kernel in ((11, "pixels"), (12, "tiles")):  # (7 + size) (15 + size) <= 512
        a, w = torch.zeros(1, 3, 40, 40), torch.zeros(4, 3, size, size)
        R = torch.zeros(1, 4, 41 - size, 41 - size)
        with torch.backends.cudnn.flags(allow_tf32=False):
            assert conv_table.choose(a, R, w, (1, 1), (1, 1), 1, "positive") == kernel


def test_library_overrules_the_table(table, monkeypatch):
    a, R, w, _, place = problem(GEOMETRIES[2], 2, "cpu")
    args = (a, R, w, place["stride"], place["dilation"], 2, "all")
    table[conv_table.describe(*args[:1], *args[2:])] = (("tiles", 1, None),)
    assert conv_table.choose_and_tell(*args) == ("tiles", "measured faster")
    monkeypatch.setattr(conv_table, "WISH", "library")
    assert conv_table.choose_and_tell(*args) == ("library", "XAIFAST_ZPLUS=library")


@pytest.mark.parametrize("wish", ["library", "own", ""])
def test_the_wish_is_read_from_the_environment(wish):
    read = "from xaifast.ops import conv_table; print(conv_table.WISH)"
    found = subprocess.run(
        [sys.executable, "-c", read], capture_output=True, text=True, check=True,
        env={**os.environ, "XAIFAST_ZPLUS": wish},
    )  # fmt: skip
    assert found.stdout.strip() == wish


def test_a_wrong_wish_says_what_to_set():
    found = subprocess.run(
        [sys.executable, "-c", "import xaifast.ops"], capture_output=True, text=True, check=False,
        env={**os.environ, "XAIFAST_ZPLUS": "ours"},
    )  # fmt: skip
    assert found.returncode
    assert "XAIFAST_ZPLUS must be 'library' or 'own'; got 'ours'" in found.stderr


def test_auto_asks_the_table(table, monkeypatch):
    a, R, w, b, place = problem(GEOMETRIES[2], 2, "cpu")
    if not ops.is_native(a):
        pytest.skip("native kernels are switched off")
    asked = []
    monkeypatch.setattr(conv_table, "choose", lambda *args: asked.append(args[-1]) or "library")
    for rule, nonnegative in (("positive", False), ("negative", True), ("square", True)):
        ops.zplus_conv(a, R, w, b, **place, rule=rule, nonnegative=nonnegative)
    assert asked == ["positive", "all", "square"]  # one product of what cannot be negative


def test_the_precision_is_what_convolutions_may_use():
    x = torch.zeros(1)
    with torch.backends.cudnn.flags(allow_tf32=True):
        assert conv_table.precision_of(x) == "tf32"
    with torch.backends.cudnn.flags(allow_tf32=False):
        assert conv_table.precision_of(x) == "float32"
    assert conv_table.precision_of(x.half()) == "float16"


def test_the_table_that_is_here_can_be_run():
    for key, spans in conv_table.FASTER.items():
        conv = conv_table.Conv(*key)
        assert conv.precision in ("tf32", "float32", "bfloat16", "float16")
        for kernel, first, last in spans:
            assert kernel in ("tiles", "tensor_cores", "pixels")
            assert 0 < first <= (first if last is None else last)
            assert not (kernel == "tensor_cores" and conv.precision == "float32")  # it would round


# ---- contracts --------------------------------------------------------------------------------


def sample(device):
    a, R, w, b, place = problem(GEOMETRIES[1], 2, device, 2)
    return (a, R, w, None, b, *map(list, list(place.values())[:3]), 1, "positive", [], [], False,
            0.25, "library")  # fmt: skip


def test_schema_and_fake_kernel(device):
    torch.library.opcheck(
        torch.ops.xaifast.zplus_conv.default,
        sample(device),
        test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"),
    )


def test_a_call_that_autograd_would_record_is_refused(device):
    a, *rest = sample(device)
    with pytest.raises(RuntimeError, match=r"xaifast::zplus_conv: not differentiable.*no_grad"):
        torch.ops.xaifast.zplus_conv(a.requires_grad_(), *rest)


def test_wrong_arguments_name_the_op_and_what_came(device):
    a, R, w, b, place = problem(GEOMETRIES[1], 2, device)
    if not ops.is_native(a):
        pytest.skip("native kernels are switched off")

    def call(a=a, R=R, w=w, b=b, **changes):
        return lambda: ops.zplus_conv(a, R, w, b, **{**place, **changes})

    cases = [
        (call(a=a.int()), TypeError, "zplus_conv: a must be float32.*got Int"),
        (call(w=w.float()), TypeError, "w must have the dtype of a"),
        (call(a=a[0, 0]), ValueError, r"a must be \[N, C, \*positions\]"),
        (call(w=w[:, :2]), ValueError, r"w must be \[K, C / groups"),
        (call(R=R[:, :2]), ValueError, "R must have the shape of the output"),
        (call(b=b[:2]), ValueError, "one value per output channel"),
        (call(stride=(1,)), ValueError, "one number for each position dimension"),
        (call(stride=(0, 1)), ValueError, "at least 1, 0 and 1"),
        (call(rule="half"), ValueError, "'square', got 'half'"),
        (call(rule="box"), ValueError, "one number for each channel"),
        (call(low=[1.0, 2.0, 3.0]), ValueError, "none for others, got 3 and 0"),
        (call(kernel="fast"), ValueError, "kernel must be.*got 'fast'"),
    ]
    for wrong, error, message in cases:
        with pytest.raises(error, match=message):
            wrong()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_kernel_that_does_not_take_a_problem_says_what_to_do():
    a, R, w, b, place = problem(GEOMETRIES[1], 2, "cuda")
    cases = [
        (dict(kernel="tiles"), TypeError, "takes float32, got Double.*'library'"),
        (dict(kernel="tensor_cores"), TypeError, "does not take float64.*'library'"),
        (dict(kernel="tiles", rule="square"), ValueError, "takes the rules.*'library'"),
    ]
    for changes, error, message in cases:
        with pytest.raises(error, match=message):
            ops.zplus_conv(a, R, w, b, **place, **changes)
    a, R, w, b, place = problem(GEOMETRIES[5], 2, "cuda")
    with pytest.raises(ValueError, match="one or two position dimensions"):
        ops.zplus_conv(a, R, w, b, **place, kernel="tiles")
    a, R, w, b, place = problem(GEOMETRIES[3], 2, "cuda")
    with pytest.raises(ValueError, match="at most 4 channels"):
        ops.zplus_conv(a.float(), R.float(), w.float(), None, **place, kernel="pixels")
