"""The sampling ops against their formulas in plain PyTorch (float64): dtypes, layouts, devices."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import channels_last, close, signed

from xaifast import ops, reference

SHAPES = [(4,), (3, 5), (2, 130, 3), (4, 3, 6, 5), (2, 3, 4, 5, 6), (1, 1, 1, 1)]
SHAPES += [(0, 3, 2, 2), (3, 0, 2)]
BATCHES = [(shape, rows) for shape in SHAPES for rows in (0, 1, 7) if shape[0] or not rows]


@pytest.fixture(params=BATCHES, ids=str)
def batch(request):
    return request.param


def some_samples(rows, samples, device="cpu"):
    """In no order, with repeats, and not all of them."""
    return torch.arange(rows, device=device) ** 2 * 7 % max(samples, 1)


def eighths(rows, device="cpu"):
    """Numbers in [-1/8, 9/8], one per row."""
    return (torch.arange(rows, device=device) % 11 - 1).double() / 8


def baselines(x):
    """Of the same shape, one row for all, and one row that is expanded."""
    b = signed(*x.shape, device=x.device).to(x.dtype)
    return (b, b[:1], b[:1].expand_as(x)) if len(x) else (b,)


def has_layout_of(out, x):
    """Dense, and channels last where x is; plain PyTorch makes no such promise."""
    if not ops.is_native(x):
        return True
    last = channels_last(torch.empty(out.shape)).stride()
    is_last = x.dim() >= 4 and x.numel() and x.stride() == channels_last(x).stride()
    return out.stride() == (last if is_last else torch.empty(out.shape).stride())


# ---- path_points ------------------------------------------------------------------------------


def test_path_points(batch, dtype, layout, device):
    shape, rows = batch
    x = layout(signed(*shape, device=device).to(dtype))
    sample, alpha = some_samples(rows, shape[0], device), eighths(rows, device)
    for b, relu in itertools.product(baselines(x), (False, True)):
        out = ops.path_points(x, b, sample, alpha, relu)
        assert out.dtype == dtype
        assert has_layout_of(out, x)
        expected = reference.path_points(x.double(), b.double(), sample, alpha, relu)
        close(out, expected, dtype)


def test_path_points_ends_where_it_should(dtype, device):
    x, b = torch.randn(2, 3, 50, device=device).to(dtype), torch.randn(1, 3, 50, device=device)
    b = 300 * b.to(dtype)
    sample = torch.tensor([0, 1, 0, 1], device=device)
    alpha = torch.tensor([0.0, 0.0, 1.0, 1.0], device=device, dtype=torch.float64)
    out = ops.path_points(x, b, sample, alpha)
    assert torch.equal(out[:2], b.expand(2, 3, 50))
    assert torch.equal(out[2:], x)


def test_path_points_keeps_a_nan(device):
    x = torch.tensor([[float("nan"), 1.0]], device=device)
    sample = torch.zeros(2, dtype=torch.int64, device=device)
    out = ops.path_points(x, -torch.ones_like(x), sample, eighths(2, device), relu=True)
    assert out.isnan().tolist() == [[True, False], [True, False]]


# ---- accumulate_rows_ -------------------------------------------------------------------------


@pytest.mark.sweep
@pytest.mark.parametrize("sums", [torch.float64, torch.float32], ids=str)
def test_accumulate_rows(batch, sums, dtype, layout, device):
    shape, rows = batch
    if dtype == torch.float64 and sums == torch.float32:
        pytest.skip("g is wider than total")
    g = layout(signed(rows, *shape[1:], device=device).to(dtype))
    sample, weight = some_samples(rows, shape[0], device), eighths(rows, device)
    for layout_of_total in (torch.Tensor.contiguous, channels_last):
        total = layout_of_total(signed(*shape, device=device).to(sums))
        expected = reference.accumulate_rows_(total.double(), g.double(), sample, weight)
        strides = total.stride()
        assert ops.accumulate_rows_(total, g, sample, weight) is total
        assert total.dtype == sums
        assert total.stride() == strides
        close(total, expected, sums)


def test_accumulate_rows_in_any_place(layout, device):
    shape, sample, weight = (4, 3, 6, 5), some_samples(9, 4, device), eighths(9, device)
    total = layout(signed(*shape, device=device)) if layout(torch.empty(2)).numel() else None
    if total.stride(0) == 0:
        pytest.skip("has no place for each element")
    g = signed(9, *shape[1:], device=device)
    expected = reference.accumulate_rows_(total.clone(), g, sample, weight)
    version = total._version
    ops.accumulate_rows_(total, g, sample, weight)
    assert torch.equal(total, expected)
    assert total._version > version


def test_accumulate_rows_of_the_sums_themselves(device):
    total = signed(3, 5, device=device)
    sample = torch.tensor([1, 2, 0], device=device)
    weight = torch.ones(3, device=device, dtype=torch.float64)
    expected = total + total[[2, 0, 1]]
    assert torch.equal(ops.accumulate_rows_(total, total, sample, weight), expected)


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(0, 20), samples=st.integers(1, 4), size=st.integers(0, 70),
    cut=st.floats(0, 1), threads=st.integers(1, 3), seed=st.integers(0, 99),
)  # fmt: skip
def test_sums_do_not_depend_on_batches_or_threads(rows, samples, size, cut, threads, seed):
    generator = torch.Generator().manual_seed(seed)
    g = torch.randn(rows, size, generator=generator)
    sample = torch.randint(samples, (rows,), generator=generator)
    weight = torch.randn(rows, generator=generator, dtype=torch.float64)
    total = torch.randn(samples, size, generator=generator)
    whole = ops.accumulate_rows_(total.clone(), g, sample, weight)
    assert torch.equal(whole, reference.accumulate_rows_(total.clone(), g, sample, weight))
    parts, k = total.clone(), int(cut * rows)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    for part in (slice(None, k), slice(k, None)):
        ops.accumulate_rows_(parts, g[part], sample[part], weight[part])
    torch.set_num_threads(before)
    assert torch.equal(parts, whole)


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(0, 9), a=st.integers(-4, 4), b=st.integers(-4, 4), seed=st.integers(0, 99))
def test_accumulating_is_linear(rows, a, b, seed):
    torch.manual_seed(seed)
    g, h, sample = signed(rows, 3, 5), signed(rows, 3, 5), some_samples(rows, 2)
    weight = eighths(rows)

    def total(g, weight):
        return ops.accumulate_rows_(torch.zeros(2, 3, 5, dtype=g.dtype), g, sample, weight)

    both = a * total(g, weight) + b * total(h, weight)
    assert torch.equal(total(a * g + b * h, weight), both)
    assert torch.equal(total(g, a * weight), a * total(g, weight))


# ---- add_noise --------------------------------------------------------------------------------


def spread(samples, device="cpu"):
    """A standard deviation for each sample."""
    return (torch.arange(samples, device=device).double() + 1) / 8


@pytest.mark.sweep
def test_add_noise_bit_for_bit(batch, dtype, layout, device):
    shape, rows = batch
    x = layout(signed(*shape, device=device).to(dtype))
    sample, draw = some_samples(rows, shape[0], device), some_samples(rows, 5, device)
    draw[-1:] = 2**32 - 1
    std = spread(shape[0], device)
    for seed in (0, -1, 2**63 - 1):
        out = ops.add_noise(x, sample, draw, std, seed)
        assert out.dtype == dtype
        assert has_layout_of(out, x)
        assert torch.equal(out, reference.add_noise(x, sample, draw, std, seed))


def test_the_generator_is_philox():
    """The known answers of Random123, the authors' own implementation."""
    last = 2**32 - 1
    known = [
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((last, last, last, last), -1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]
    for counter, key, want in known:
        words = reference.sampling._philox([torch.tensor(c) for c in counter], key)
        assert tuple(map(int, words)) == want


def test_the_numbers_are_as_exact_as_their_dtype():
    word = torch.cat([torch.arange(10_000), torch.randint(2**31, (100_000,))])
    z = reference.sampling._standard_normal(word).double()
    exact = -torch.special.ndtri(((word.float() + 0.5) * 2.0**-32).double())
    assert ((z - exact).abs() <= 4e-7 * exact.abs() + 1e-12).all()


@settings(deadline=None, max_examples=40)
@given(
    size=st.integers(0, 5000),
    samples=st.integers(1, 3),
    rows=st.integers(1, 9),
    threads=st.integers(1, 3),
    seed=st.integers(-(2**63), 2**63 - 1),
    order=st.randoms(use_true_random=False),
)
def test_noise_does_not_depend_on_its_company(size, samples, rows, threads, seed, order):
    x, std = torch.randn(samples, size), spread(samples)
    sample, draw = some_samples(rows, samples), torch.arange(rows)
    whole = ops.add_noise(x, sample, draw, std, seed)
    place = list(range(rows))
    order.shuffle(place)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    shuffled = ops.add_noise(x, sample[place], draw[place], std, seed)
    torch.set_num_threads(before)
    assert torch.equal(shuffled, whole[place])
    single = ops.add_noise(x, sample[-1:], draw[-1:], std, seed)
    assert torch.equal(single, whole[-1:])


def test_every_dtype_and_layout_sees_the_same_noise(dtype, layout, device):
    x = layout(torch.zeros(2, 3, 5, 7, device=device))
    sample, draw = some_samples(4, 2, device), torch.arange(4, device=device)
    std = torch.ones(2, device=device, dtype=torch.float64)
    noise = ops.add_noise(torch.zeros(2, 105, device=device), sample, draw, std, 3)
    out = ops.add_noise(x.to(dtype), sample, draw, std, 3)
    assert torch.equal(out.flatten(1), noise.to(dtype))


def test_seed_sample_and_draw_each_make_other_noise(device):
    x, std = torch.zeros(2, 1000, device=device), torch.ones(2, device=device).double()
    zero, one = (torch.full((1,), i, device=device) for i in (0, 1))
    calls = [
        (zero, zero, 0),
        (one, zero, 0),
        (zero, one, 0),
        (zero, zero, 1),
        (zero, zero, 1 << 32),
    ]
    rows = torch.cat([ops.add_noise(x, n, draw, std, seed) for n, draw, seed in calls]).double()
    correlation = torch.corrcoef(rows) - torch.eye(len(calls), device=device)
    assert correlation.abs().max() < 5 / 1000**0.5


def test_noise_is_standard_normal(device):
    n = 1 << 20
    x, zero = torch.zeros(1, n, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    one = torch.ones(1, dtype=torch.float64, device=device)
    z = ops.add_noise(x, zero, zero, one, 11).double().flatten().cpu()
    sigma = n**-0.5
    assert abs(z.mean()) < 4 * sigma
    assert abs(z.square().mean() - 1) < 4 * 2**0.5 * sigma
    assert abs(z.pow(3).mean()) < 4 * 15**0.5 * sigma
    assert abs(z.pow(4).mean() - 3) < 4 * 96**0.5 * sigma
    uniform = torch.special.ndtr(z.sort().values)  # Kolmogorov and Smirnov's test
    steps = torch.arange(n + 1).double() / n
    assert torch.maximum(steps[1:] - uniform, uniform - steps[:-1]).max() < 1.63 * sigma
    for tail in (z > 4, z < -4):  # 33 expected on each side
        assert 15 < int(tail.sum()) < 55
    for lag in (1, 2, 3, 4, 5, 8, 64, 1024):
        for f in (lambda v: v, torch.square):
            pair = torch.stack([f(z[:-lag]), f(z[lag:])])
            assert abs(torch.corrcoef(pair)[0, 1]) < 4 * sigma


# ---- windows ----------------------------------------------------------------------------------

WINDOWS = [  # sample, window, stride
    ((), (), ()),
    ((13,), (4,), (3,)),
    ((13,), (5,), (3,)),  # the last window is cut off
    ((9,), (2,), (4,)),  # gaps
    ((9,), (1,), (2**62,)),  # a window beyond the border
    ((4, 20), (2, 7), (2, 1)),
    ((3, 6, 7), (3, 2, 3), (1, 2, 2)),
    ((4, 5, 5), (2, 4, 2), (1, 3, 3)),
    ((2, 3, 4, 5), (1, 3, 2, 5), (1, 1, 2, 1)),
    ((2, 3, 2, 3, 2, 4), (1, 2, 1, 2, 1, 3), (1, 1, 1, 2, 1, 1)),
    ((1, 1, 1), (1, 1, 1), (1, 1, 1)),
    ((3, 0, 2), (2, 1, 1), (1, 1, 1)),
]


@pytest.fixture(params=WINDOWS, ids=str)
def windows(request):
    return request.param


def positions(shape, window, stride):
    """How many windows there are along each dimension."""
    return [
        1 if size <= w else -((w - size) // s) + 1
        for size, w, s in zip(shape, window, stride, strict=True)
    ]


def cover(shape, window, stride):
    """Whether window k covers element e, [K, *shape], from the coordinates of e alone."""
    counts = positions(shape, window, stride)
    inside = torch.ones((*counts, *shape), dtype=torch.bool)
    for d, (size, w, s, count) in enumerate(zip(shape, window, stride, counts, strict=True)):
        start, e = torch.arange(count)[:, None] * s, torch.arange(size)
        along = [1] * inside.dim()
        along[d], along[len(shape) + d] = count, size
        inside &= ((start <= e) & (e < start + w)).view(along)
    return inside.view(math.prod(counts), *shape)


@pytest.mark.sweep
@pytest.mark.parametrize("samples", [0, 3])
def test_occlude_windows(windows, samples, dtype, layout, device):
    shape, window, stride = windows
    x = layout(signed(samples, *shape, device=device).to(dtype))
    inside = cover(*windows).to(device)
    count = len(inside)
    for b, first in zip(baselines(x), (0, count // 2, count), strict=False):
        part = (window, stride, first, count - first)
        out = ops.occlude_windows(x, b, *part)
        assert out.dtype == dtype
        assert has_layout_of(out, x)
        assert torch.equal(out, torch.where(inside[first:, None], b, x).flatten(0, 1))
        assert torch.equal(out, reference.occlude_windows(x, b, *part))


def test_occlusion_only_copies(device):
    x = torch.tensor([[float("nan"), 1.0, float("inf"), -0.0]], device=device)
    out = ops.occlude_windows(x, x + 1, [1], [3], 0, 2)
    assert str(out.tolist()) == "[[nan, 1.0, inf, -0.0], [nan, 1.0, inf, 1.0]]"


def test_scatter_windows(windows, dtype, layout, device):
    inside = cover(*windows).double().to(device)
    for targets, average in itertools.product((0, 1, 3), (False, True)):
        scores = layout(signed(targets, len(inside), device=device).to(dtype))
        count = inside.sum(0).clamp(min=1) if average else 1
        expected = torch.tensordot(scores.double(), inside, 1) / count
        out = ops.scatter_windows(scores, *windows, average)
        assert out.dtype == dtype
        assert out.is_contiguous()
        close(out, expected, dtype)
        close(
            reference.scatter_windows(scores.double(), *windows, average), expected, torch.float64
        )


def test_scattered_ones_are_ones_or_the_coverage(windows, dtype, device):
    inside = cover(*windows).to(device)
    ones = torch.ones(2, len(inside), dtype=dtype, device=device)
    coverage = inside.sum(0).expand(2, *windows[0])
    assert torch.equal(ops.scatter_windows(ones, *windows, average=False), coverage.to(dtype))
    assert torch.equal(ops.scatter_windows(ones, *windows), (coverage > 0).to(dtype))


@st.composite
def any_windows(draw):
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    window = [draw(st.integers(1, size)) for size in shape]
    stride = [draw(st.integers(1, 7)) for _ in shape]
    return tuple(shape), window, stride


@settings(deadline=None, max_examples=60)
@given(windows=any_windows(), threads=st.integers(1, 3), seed=st.integers(0, 99))
def test_scattering_is_adjoint_to_occluding(windows, threads, seed):
    """What hiding takes away, weighted by scores, is the sample weighted by their scatter."""
    torch.manual_seed(seed)
    x, y = signed(1, *windows[0]), signed(*windows[0])
    count = torch.tensor(positions(*windows)).prod().item()
    scores = signed(1, count)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    hidden = x - ops.occlude_windows(x, torch.zeros_like(x), *windows[1:], 0, count)
    on_elements = ops.scatter_windows(scores, *windows, average=False)
    torch.set_num_threads(before)
    assert torch.allclose((scores @ (hidden * y).flatten(1)).sum(), (x * y * on_elements).sum())
    single = ops.occlude_windows(x, torch.zeros_like(x), *windows[1:], count - 1, 1)
    assert torch.equal(x - single, hidden[-1:])


# ---- segments ---------------------------------------------------------------------------------

LABELLED = [  # x, labels
    ((3,), (1,)),
    ((3,), (3,)),
    ((3, 7), (3, 7)),
    ((3, 7), (1, 7)),
    ((3, 7), (1, 1)),
    ((2, 3, 5, 7), (1, 1, 5, 7)),
    ((2, 3, 5, 7), (2, 3, 5, 7)),
    ((2, 3, 5, 7), (2, 3, 1, 1)),
    ((2, 3, 5, 7), (1, 3, 1, 7)),
    ((2, 3, 5, 7), (2, 1, 5, 1)),
    ((2, 70, 3, 4), (2, 1, 3, 4)),
    ((2, 2, 3, 4, 5), (1, 2, 1, 4, 1)),
    ((2, 1, 3, 1, 90), (2, 1, 3, 1, 1)),
    ((0, 3, 4), (1, 1, 4)),
    ((2, 3, 0), (1, 3, 0)),
    ((2, 0, 4), (2, 1, 4)),
]


@pytest.fixture(params=LABELLED, ids=str)
def labelled(request):
    return request.param


def some_labels(shape, segments, device="cpu"):
    """Mostly in [0, segments), and some far outside."""
    labels = torch.randint(-1, segments + 1, shape, device=device)
    return torch.where(torch.rand(shape, device=device) < 0.05, 2**62, labels)


def test_mask_segments(labelled, dtype, layout, device):
    shape, label_shape = labelled
    x = layout(signed(*shape, device=device).to(dtype))
    for rows, segments in ((0, 2), (1, 0), (2, 1), (5, 6)) if shape[0] else ((0, 2),):
        labels = layout(some_labels(label_shape, segments, device))
        sample = some_samples(rows, shape[0], device)
        on = torch.rand(rows, segments, device=device) < 0.5
        for b in baselines(x):
            out = ops.mask_segments(x, b, labels, on, sample)
            assert out.dtype == dtype
            assert has_layout_of(out, x)
            assert torch.equal(out, reference.mask_segments(x, b, labels, on, sample))
        assert torch.equal(out, ops.mask_segments(x, b, labels.expand(shape), on, sample))


def test_masking_only_copies(device):
    x = torch.tensor([[float("nan"), 1.0, float("inf"), -0.0]], device=device)
    labels = torch.tensor([[0, 1, 2, 3]], device=device)
    on = torch.tensor([[True, False, True, True]], device=device)
    out = ops.mask_segments(x, x + 1, labels, on, labels[0, :1])
    assert str(out.tolist()) == "[[nan, 2.0, inf, -0.0]]"


def test_segment_sums(labelled, dtype, layout, device):
    shape, label_shape = labelled if len(labelled[0]) > 1 else ((3, 1), (*labelled[1], 1))
    x = layout(signed(*shape, device=device).to(dtype))
    for segments in (0, 1, 6):
        labels = layout(some_labels(label_shape, segments, device))
        out = ops.segment_sums(x, labels, segments)
        assert out.dtype == torch.float64
        assert out.is_contiguous()
        # The sums of these numbers are exact, whatever the order.
        assert torch.equal(out, reference.segment_sums(x, labels, segments))
        assert torch.equal(out, ops.segment_sums(x, labels.expand(shape), segments))


@st.composite
def any_labels(draw):
    """A shape, and labels that some of its dimensions share."""
    shape = draw(st.lists(st.integers(1, 6), min_size=2, max_size=5))
    shared = [draw(st.booleans()) for _ in shape]
    return shape, [1 if s else n for n, s in zip(shape, shared, strict=True)]


@settings(deadline=None, max_examples=60)
@given(
    labelled=any_labels(), segments=st.integers(1, 5), threads=st.integers(1, 3),
    last=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_masks_and_sums_see_the_same_segments(labelled, segments, threads, last, seed):
    """What is switched off one by one is what is summed; with the rest it is the whole."""
    torch.manual_seed(seed)
    shape, label_shape = labelled
    x = signed(1, *shape[1:])
    x = channels_last(x) if last else x
    labels = some_labels([1, *label_shape[1:]], segments)
    off = ~torch.eye(segments, dtype=torch.bool)
    sample = torch.zeros(segments, dtype=torch.int64)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    lost = x - ops.mask_segments(x, torch.zeros_like(x), labels, off, sample)
    sums = ops.segment_sums(x, labels, segments)
    torch.set_num_threads(before)
    assert torch.equal(lost.reshape(segments, shape[1], -1).sum(-1).T, sums[0])
    rest = torch.where((labels < 0) | (labels >= segments), x, 0.0).reshape(shape[1], -1).sum(-1)
    assert torch.equal(sums[0].sum(-1) + rest, x.reshape(shape[1], -1).sum(-1))


# ---- contracts --------------------------------------------------------------------------------


def samples(device):
    x = channels_last(torch.randn(2, 4, 6, 6, device=device))
    sample, alpha = some_samples(5, 2, device), eighths(5, device)
    batch = torch.randn(5, 4, 6, 6, device=device)
    labels = torch.randint(6, (1, 1, 6, 6), device=device)
    return {
        "path_points": (x, x[:1], sample, alpha, True),
        "accumulate_rows_": (x, batch, sample, alpha),
        "add_noise": (x, sample, sample, alpha[:2], 7),
        "occlude_windows": (x, x[:1], [4, 2, 2], [1, 2, 2], 1, 3),
        "scatter_windows": (batch[:, :, 0, 0], [5, 5], [3, 4], [2, 2], True),
        "mask_segments": (x, x[:1], labels, labels[0, 0, :5] > 2, sample),
        "segment_sums": (x, labels, 4),
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
    three = torch.tensor([0, 1, 0])
    w = torch.ones(3, dtype=torch.float64)
    many = torch.zeros(1, dtype=torch.int64).expand(2**58)
    path, accumulate, noise = ops.path_points, ops.accumulate_rows_, ops.add_noise
    occlude, scatter = ops.occlude_windows, ops.scatter_windows
    mask, sums = ops.mask_segments, ops.segment_sums
    labels, on = torch.zeros(1, 1, 3, 3, dtype=torch.int64), torch.ones(3, 2, dtype=torch.bool)
    huge = torch.ones(1, 1).expand(1, 2**34 + 1)
    cases = [
        (lambda: path(x.int(), x, three, w), TypeError, "path_points: x must be float32.*got Int"),
        (lambda: path(w[0], x, three, w), ValueError, r"x must be \[N, ...\], got a number"),
        (
            lambda: path(x, x[:, :1], three, w),
            ValueError,
            r"baseline must have the shape of x \[2, 4, 3, 3\], or one row.*got \[2, 1, 3, 3\]",
        ),
        (lambda: path(x, x, three.int(), w), TypeError, "sample must be int64, got Int"),
        (lambda: path(x, x, three[None], w), ValueError, r"sample must have.*shape \[1, 3\]"),
        (
            lambda: path(x, x, three + 1, w),
            ValueError,
            r"sample must lie in \[0, 2\), got 2",
        ),
        (lambda: path(x, x, three - 1, w), ValueError, r"got -1 at row 0"),
        (lambda: path(x, x, three, w.float()), TypeError, "alpha must be float64, got Float"),
        (
            lambda: path(x, x, three, w[:2]),
            ValueError,
            r"number per row.*\[3\], got shape \[2\]",
        ),
        (
            lambda: path(x, x, many, w),
            ValueError,
            r"path_points: the batch must have less than 2\^60.*work on fewer rows",
        ),
        (lambda: accumulate(x.half(), x, three, w), TypeError, "total must be float32 or float64"),
        (lambda: accumulate(x, x.double(), three, w), TypeError, "g must not be wider.*float64"),
        (
            lambda: accumulate(x, x, three, w),
            ValueError,
            r"g must have 3 rows .* total \[2, 4, 3, 3\], got \[2, 4, 3, 3\]",
        ),
        (
            lambda: accumulate(x[:1].expand(2, 4, 3, 3), x[three], three, w),
            ValueError,
            r"accumulate_rows_: total must have a place for each.*clone\(\) it",
        ),
        (lambda: accumulate(x, x[three], three, w[:1]), ValueError, "weight must have one number"),
        (
            lambda: path(torch.empty(0, 2**31, 2**30), x, three, w),
            ValueError,
            r"path_points: a sample must have less than 2\^60 elements",
        ),
        (lambda: noise(x, three, three - 1, w[:2], 0), ValueError, r"draw must lie in.*got -1"),
        (
            lambda: noise(x, three, three + 2**32, w[:2], 0),
            ValueError,
            r"draw must lie in \[0, 4294967296\), got 4294967296 at row 0",
        ),
        (lambda: noise(x, three, three, w, 0), ValueError, r"std must have one.*sample \[2\]"),
        (
            lambda: noise(huge, three, three, w[:1], 0),
            ValueError,
            r"add_noise: x must have at most 2\^32 samples of at most 2\^34 elements, got \[1, 17",
        ),
        (
            lambda: occlude(x, x, [4, 2], [1, 1, 1], 0, 1),
            ValueError,
            r"occlude_windows: window and stride must have one entry.*\[4, 3, 3\], got \[4, 2\]",
        ),
        (
            lambda: occlude(x, x, [4, 4, 1], [1, 1, 1], 0, 1),
            ValueError,
            r"window must lie in \[1, 3\] along dimension 1.*got \[4, 4, 1\]",
        ),
        (lambda: occlude(x, x, [4, 0, 1], [1, 1, 1], 0, 1), ValueError, r"window must lie in"),
        (lambda: occlude(x, x, [4, 1, 1], [1, 0, 1], 0, 1), ValueError, r"stride must be positive"),
        (
            lambda: occlude(x, x, [4, 1, 1], [1, 1, 1], 8, 2),
            ValueError,
            "must name some of the 9 windows, got first=8 and count=2",
        ),
        (lambda: occlude(x, x, [4, 1, 1], [1, 1, 1], -1, 2), ValueError, "got first=-1"),
        (
            lambda: occlude(huge, huge[:, :1].expand_as(huge), [1], [1], 0, 2**34),
            ValueError,
            r"the batch must have less than 2\^60 elements.*fewer rows",
        ),
        (lambda: scatter(x[0, 0], [], [], []), ValueError, r"scores must be \[T, 1\].*got \[3, 3"),
        (lambda: scatter(x[0, 0], [-1], [1], [1]), ValueError, r"negative sizes, got \[-1\]"),
        (lambda: scatter(x[0, 0].int(), [3], [1], [1]), TypeError, "scores must be float32"),
        (
            lambda: scatter(x[0, 0], [5], [2], [1]),
            ValueError,
            r"scores must be \[T, 4\], one for each window.*in \[5\], got \[3, 3\]",
        ),
        (
            lambda: scatter(x[0, 0], [2**40, 2**40], [1, 1], [1, 1]),
            ValueError,
            r"scatter_windows: a sample must have less than 2\^60 elements",
        ),
        (lambda: mask(x, x, labels.int(), on, three), TypeError, "labels must be int64, got Int"),
        (
            lambda: mask(x, x, labels[0], on, three),
            ValueError,
            r"labels must have the shape of x \[2, 4, 3, 3\], with 1 for.*got \[1, 3, 3\]",
        ),
        (lambda: mask(x, x, labels[..., :2], on, three), ValueError, r"got \[1, 1, 3, 2\]"),
        (lambda: mask(x, x, labels, on.float(), three), TypeError, "on must be bool, got Float"),
        (lambda: mask(x, x, labels, on[:2], three), ValueError, r"on must be \[3, M\].*\[2, 2\]"),
        (lambda: sums(x.int(), labels, 2), TypeError, "segment_sums: x must be float32"),
        (lambda: sums(x[0, 0, 0], labels, 2), ValueError, r"x must be \[N, C, ...\], got \[3\]"),
        (lambda: sums(x, labels, -2), ValueError, "segments must not be negative, got -2"),
        (
            lambda: sums(x, labels, 2**60),
            ValueError,
            r"segment_sums: the result must have less than 2\^60 elements",
        ),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()
