"""Every native op against its formula in float64, on tensors of any shape, stride and alignment.

What lies between and around the numbers of an argument is NaN, and so is what an op allocates
before it writes: an element that is read from elsewhere, or left unwritten, shows.
"""

import contextlib
import itertools
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import DTYPES, TOLERANCE, close

from xaifast import ops, reference

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
FLOATS = DTYPES[:2]
native = torch.ops.xaifast


@contextlib.contextmanager
def poison(device):
    """NaN in all memory that is not written yet."""
    if device == "cpu":
        before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(True)  # fills what torch.empty gives
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)
    else:
        for numbers in (1 << 16, 1 << 21):  # of which the allocator hands parts out again
            torch.full((numbers,), torch.nan, device=device)
        yield


class Maker:
    """Draws arguments of one call."""

    def __init__(self, data, device):
        self.data, self.device = data, device
        self.generator = torch.Generator().manual_seed(self.size(0, 999))

    def size(self, low, high):
        return self.data.draw(st.integers(low, high))

    def one_of(self, *values):
        return self.data.draw(st.sampled_from(values))

    def order(self, n):
        return self.data.draw(st.permutations(range(n)))

    def shape(self, low, high, most=5):
        """Sizes of so many dimensions; one of them may be 0."""
        sizes = [self.size(1, most) for _ in range(self.size(low, high))]
        if sizes and self.size(0, 9) == 0:
            sizes[self.size(0, len(sizes) - 1)] = 0
        return sizes

    def place(self, x, expand=True):
        """The same numbers with other strides: axes in any order, gaps, an offset; or expanded."""
        x, spare = x.to(self.device), 0 if x.dtype != torch.bool else True
        if x.is_floating_point():
            spare = torch.nan
        if expand and x.dim() and x.numel() and self.size(0, 4) == 0:
            d = self.size(0, x.dim() - 1)
            return self.place(x.narrow(d, 0, 1), expand=False).expand_as(x)
        order = self.order(x.dim())
        steps, stride = [0] * x.dim(), 1
        for d in order:
            step = self.one_of(1, 1, 2)
            steps[d] = stride * step
            stride *= max(x.shape[d], 1) * step
        offset = self.size(0, 3)
        memory = torch.full((stride + offset,), spare, dtype=x.dtype, device=self.device)
        return memory.as_strided(x.shape, steps, offset).copy_(x)

    def signed(self, dtype, *shape, expand=True):
        """Numbers that every dtype holds, and float32 sums, exactly."""
        x = torch.randint(-256, 257, shape, generator=self.generator) / 64
        return self.place(x.to(dtype), expand)

    def normal(self, dtype, *shape):
        return self.place(torch.randn(shape, generator=self.generator).to(dtype))

    def integers(self, low, high, *shape):
        return self.place(torch.randint(low, high, shape, generator=self.generator))

    def targets(self, shape):
        """A shape of relevance for it."""
        return [self.size(1, 3), *shape] if self.size(0, 1) else shape


# ---- relevance: arguments of each op ---------------------------------------------------------


def stabilized_divide(m):
    t, shape = m.one_of(*DTYPES), m.shape(2, 5)
    b = m.signed(t, shape[1]) if m.size(0, 1) else None
    return m.signed(t, *m.targets(shape)), m.signed(t, *shape), b, 0.25


def stabilized_divide_(m):
    t, shape = m.one_of(*DTYPES), m.shape(1, 5)
    b = m.signed(t, shape[1]) if len(shape) > 1 and m.size(0, 1) else None
    return m.signed(t, *shape, expand=False), m.signed(t, *shape), b, 0.25


def multiply_parts(m):
    t, parts = m.one_of(*DTYPES), m.size(1, 2)
    n, c, *rest = m.shape(2, 5)
    u = m.signed(t, n, c * parts, *rest)
    return u, m.signed(t, n * m.size(1, 3), c * parts, *rest), parts


def multiply_(m):
    t, shape = m.one_of(*DTYPES), m.shape(2, 5)
    return m.signed(t, *shape, expand=False), m.signed(t, *shape)


def split_signs(m):
    return (m.signed(m.one_of(*DTYPES), *m.shape(2, 5)),)


def add_split(m):
    t, shape = m.one_of(*DTYPES), m.shape(1, 5)
    x, y = m.signed(t, *shape), m.signed(t, *shape)
    return x, y, m.signed(t, *m.targets(shape)), m.one_of(1.0, -1.0, 0.5), 0.25


def pool_redistribute(m):
    t, d = m.one_of(*DTYPES), m.size(1, 3)
    kernel, stride, dilation = ([m.size(1, 3) for _ in range(d)] for _ in range(3))
    padding = [m.size(0, k // 2) for k in kernel]
    size = [m.size(1, 6) + w * (k - 1) for k, w in zip(kernel, dilation, strict=True)]
    out = [
        (n + 2 * p - w * (k - 1) - 1) // s + 1
        for n, k, s, p, w in zip(size, kernel, stride, padding, dilation, strict=True)
    ]
    sample = [m.size(0, 2), m.one_of(1, 3, 17)]
    a, R = m.signed(t, *sample, *size), m.signed(t, *m.targets([*sample, *out]))
    rule = m.one_of("winner_take_all", "proportional")
    return a, R, kernel, stride, padding, dilation, rule, 0.25


def backward_product(m):
    t = m.one_of(*FLOATS)
    rows, K, J = m.one_of(0, 1, 3, 17), m.size(0, 9), m.size(0, 40)
    s = m.signed(t, rows, K)
    keep = torch.rand(K, generator=m.generator) < 0.6
    return s * keep.to(s), m.signed(t, K, J)


def winograd_conv(m):
    t = m.one_of(*FLOATS)
    panel = 128 // t.itemsize
    C, K = panel // 2 * m.size(0, 2), panel * m.size(0, 2)
    x, w = (
        m.signed(t, m.size(0, 2), C, m.size(2, 6), m.size(2, 6)),
        m.signed(t, 4, 4, K // panel, C, panel),
    )
    return x, w, m.signed(t, K) if m.size(0, 1) else None, bool(m.size(0, 1)), m.size(0, 1)


def relprop_conv(m):
    t, d, groups, transposed = m.one_of(*FLOATS), m.size(1, 3), m.size(1, 2), bool(m.size(0, 1))
    parts = m.size(1, 2)
    kernel, stride, dilation = ([m.size(1, 2) for _ in range(d)] for _ in range(3))
    padding = [m.size(0, k - 1) for k in kernel]
    size = [m.size(1, 4) + w * (k - 1) for k, w in zip(kernel, dilation, strict=True)]
    n, inside, outside = m.size(0, 2), groups * m.size(1, 2), groups * m.size(1, 2)
    apart = 2 if parts == 2 and groups > 1 else 1  # parts that are groups of their own
    together = parts // apart
    w = (
        (apart * inside * together, outside // groups)
        if transposed
        else (apart * outside, inside * together // groups)
    )
    u, w = m.signed(t, n, inside * parts, *size), m.signed(t, *w, *kernel)
    place = (stride, padding, dilation, transposed, [0] * d)
    z = torch.ops.aten.convolution(u, w, None, *place, groups * apart)
    z_shape = [n, outside, *z.shape[2:]]
    b = m.signed(t, outside) if m.size(0, 1) else None
    z = m.signed(t, *z_shape) if m.size(0, 1) else None
    R = m.signed(t, *m.targets(z_shape))
    return u, R, w, w, b, z, kernel, *place, groups, 0.25, parts


def relprop_few(m):
    t, parts = m.one_of(*FLOATS), m.size(1, 2)
    kernel, stride = ([m.size(1, 3) for _ in range(2)] for _ in range(2))
    padding = [m.size(0, 2) for _ in range(2)]
    size = [m.size(1, 5) + k - 1 for k in kernel]
    n, channels, K = m.size(0, 2), parts * m.size(1, 4), m.one_of(1, 5, 33)
    u, w = m.signed(t, n, channels, *size), m.signed(t, K, channels, *kernel)
    z_shape = list(torch.nn.functional.conv2d(u, w, None, stride, padding).shape)
    b = m.signed(t, K) if m.size(0, 1) else None
    z = m.signed(t, *z_shape) if m.size(0, 1) else None
    R, panels = m.signed(t, *m.targets(z_shape)), (ops.few_weights(w), ops.few_weights(w, True))
    return u, R, *map(m.place, panels), b, z, kernel, stride, padding, 0.25, parts


def zplus_conv(m):
    t, d, groups = m.one_of(*FLOATS), m.size(1, 3), m.size(1, 2)
    kernel, stride, dilation = ([m.size(1, 2) for _ in range(d)] for _ in range(3))
    padding = [m.size(0, k - 1) for k in kernel]
    size = [m.size(1, 4) + w * (k - 1) for k, w in zip(kernel, dilation, strict=True)]
    n, inside, outside = m.size(0, 2), groups * m.size(1, 2), groups * m.size(1, 2)
    nonnegative, rule = bool(m.size(0, 1)), m.one_of("all", "positive", "negative", "box", "square")
    bounds = ([-4.0] * inside, [3.0] * inside) if rule == "box" else ([], [])
    a, w = m.signed(t, n, inside, *size), m.signed(t, outside, inside // groups, *kernel)
    a = m.place(a.abs()) if nonnegative else a
    z = torch.ops.aten.convolution(a, w, None, stride, padding, dilation, False, [0] * d, groups)
    b = m.signed(t, outside) if m.size(0, 1) else None
    R = m.signed(t, *m.targets(list(z.shape)))
    place = (stride, padding, dilation, groups, rule, *bounds)
    return a, R, w, None, b, *place, nonnegative, 0.25, "library"


def relprop_linear(m):
    t, parts, n, K, J = m.one_of(*FLOATS), m.size(1, 2), m.size(0, 3), m.size(1, 5), m.size(1, 9)
    b = m.signed(t, K) if m.size(0, 1) else None
    z = m.signed(t, n, K) if m.size(0, 1) else None
    u, w = m.signed(t, n, parts * J), m.signed(t, K, parts * J)
    return u, m.signed(t, *m.targets([n, K])), w, b, z, 0.25, parts


def zplus_linear(m):
    t, n, K, J = m.one_of(*FLOATS), m.size(0, 3), m.size(1, 9), m.size(1, 40)
    parts = m.one_of(([1.0], [1.0], [0.0]), ([2.0, -1.0], [1.0, 0.0], [0.0, 1.0]))
    b = m.signed(t, K) if m.size(0, 1) else None
    R = m.signed(t, *m.targets([n, K]))
    keep = torch.rand(K, generator=m.generator) < 0.6
    return m.signed(t, n, J), R * keep.to(R), m.signed(t, K, J), b, *parts, 0.25


# ---- sampling and windows --------------------------------------------------------------------


def batch(m, samples):
    """Which sample each row is made of."""
    return m.integers(0, max(samples, 1), m.size(0, 6) if samples else 0)


def baseline_of(m, x):
    return m.signed(x.dtype, m.one_of(1, len(x)), *x.shape[1:])


def path_points(m):
    x = m.signed(m.one_of(*DTYPES), *m.shape(1, 5))
    sample = batch(m, len(x))
    return x, baseline_of(m, x), sample, m.signed(torch.float64, len(sample)), bool(m.size(0, 1))


def accumulate_rows_(m):
    total = m.one_of(*FLOATS)
    g = m.one_of(*(t for t in DTYPES if t.itemsize <= total.itemsize))
    shape = m.shape(1, 5)
    sample = batch(m, shape[0])
    rows = m.signed(g, len(sample), *shape[1:])
    sums = m.signed(total, *shape, expand=False)
    return sums, rows, sample, m.signed(torch.float64, len(sample))


def add_noise(m):
    x = m.signed(m.one_of(*DTYPES), *m.shape(1, 5, most=7))
    sample = batch(m, len(x))
    draw, std = m.integers(0, 2**32, len(sample)), m.signed(torch.float64, len(x))
    return x, sample, draw, std, m.size(-(2**63), 2**63 - 1)


def windows(m, shape):
    """window, stride and how many there are."""
    window = [m.size(1, max(n, 1)) for n in shape]
    stride = [m.size(1, 4) for _ in shape]
    count = math.prod(
        1 if n <= w else -((w - n) // s) + 1 for n, w, s in zip(shape, window, stride, strict=True)
    )
    return window, stride, count


def occlude_windows(m):
    x = m.signed(m.one_of(*DTYPES), *m.shape(1, 5, most=4))
    window, stride, count = windows(m, x.shape[1:])
    first = m.size(0, count)
    return x, baseline_of(m, x), window, stride, first, m.size(0, min(count - first, 20))


def scatter_windows(m):
    shape = m.shape(0, 4)
    window, stride, count = windows(m, shape)
    scores = m.signed(m.one_of(*DTYPES), m.size(0, 3), count)
    return scores, shape, window, stride, bool(m.size(0, 1))


def labels_of(m, x):
    """Some are no segment."""
    return m.integers(-1, 5, *(m.one_of(n, n, 1) for n in x.shape))


def mask_segments(m):
    x = m.signed(m.one_of(*DTYPES), *m.shape(1, 5))
    sample = batch(m, len(x))
    on = m.integers(0, 2, len(sample), m.size(0, 6)).bool()
    return x, baseline_of(m, x), labels_of(m, x), m.place(on), sample


def segment_sums(m):
    x = m.signed(m.one_of(*DTYPES), *m.shape(2, 5))
    return x, labels_of(m, x), m.size(0, 6)


def cut_boxes(m):
    t, axes, rows, channels = m.one_of(*DTYPES), m.size(1, 3), m.size(0, 3), m.one_of(0, 1, 3, 8)
    shape, size, changed = ([m.size(0, 5) for _ in range(axes)] for _ in range(3))
    x = m.signed(t, *(max(n, 1) for n in shape), channels)
    pair = (None, None)
    if m.size(0, 2):
        pair = m.signed(t, rows, *changed, channels), m.integers(-4, 7, axes, rows)
    return x, *pair, m.integers(-4, 7, axes, rows), size, m.one_of(0.0, -1.5)


# ---- recurrent and regression ----------------------------------------------------------------


def recurrent_states(m, t=None):
    t, lstm = t or m.one_of(*FLOATS), bool(m.size(0, 1))
    T, N, H = m.size(1, 4), m.size(0, 5), m.size(1, 9)
    gates = (4 if lstm else 3) * H
    b = m.normal(t, gates) if m.size(0, 1) else None
    h, c = m.normal(t, N, H), m.normal(t, N, H) if lstm else None
    return m.normal(t, T, N, gates), m.normal(t, gates, H), b, h, c


def recurrent_relprop(m):
    t = torch.float64  # near zero, a denominator magnifies the rounding of float32 without bound
    given = recurrent_states(m, t)
    z, h, c = reference.recurrent_states(*given)
    (T, N, H), lstm, targets = (len(h) - 1, *h.shape[1:]), given[4] is not None, m.size(1, 2)
    c, R_c = (m.place(c, False), m.normal(t, targets, N, H)) if lstm else (None, None)
    b = m.normal(t, 4 * H) if m.size(0, 1) else None
    R, R_h = m.normal(t, targets, T, N, H), m.normal(t, targets, N, H)
    z, h, gate = m.place(z, False), m.place(h, False), m.one_of(*reference.GATES)
    return z, h, c, given[1], b, R, R_h, R_c, gate, 0.3


def lstm_path(m):
    t, N, T, H, M, K = m.one_of(*FLOATS), *(m.size(0, n) for n in (3, 5, 5, 2, 20))
    T = max(T, 1)
    start, change = m.normal(t, m.one_of(1, N), T, 4 * H), m.normal(t, N, T, 4 * H)
    alpha, weight = m.normal(torch.float64, N, K), m.normal(torch.float64, M, N, K)
    seeds = m.normal(t, M, N, H), m.normal(t, M, N, H)
    return start, change, m.normal(t, 4 * H, H), alpha, weight, *seeds, m.integers(0, T, M, N)


def problems(m):
    t, B, S, M = m.one_of(*FLOATS), m.size(0, 3), m.size(0, 9), m.size(0, 5)
    x, y = m.normal(t, m.one_of(1, B), S, M), m.normal(t, B, S)
    return x, y, m.place(torch.rand(m.one_of(1, B), S, generator=m.generator).to(t) + 0.125)


def weighted_least_squares(m):
    return *problems(m), m.one_of(0.0, 0.5), bool(m.size(0, 1))


def weighted_lasso(m):
    return *problems(m), m.one_of(0.05, 0.5), bool(m.size(0, 1)), 1e-12, 100000


CASES = [
    stabilized_divide, stabilized_divide_, multiply_parts, multiply_, split_signs, add_split,
    pool_redistribute, backward_product, winograd_conv, relprop_conv, relprop_few, relprop_linear,
    zplus_conv, zplus_linear, path_points, accumulate_rows_, add_noise, occlude_windows,
    scatter_windows, mask_segments, segment_sums, cut_boxes, recurrent_states, recurrent_relprop,
    lstm_path,
    weighted_least_squares, weighted_lasso,
]  # fmt: skip


# ---- what they must give ---------------------------------------------------------------------


def pooled(a, R, *rest):
    """Without a sample there is nothing for the formula to look at."""
    shape = (*R.shape[: R.dim() - a.dim()], *a.shape)
    return reference.pool_redistribute(a, R, *rest) if a.numel() else a.new_zeros(shape)


def added(total, *rest):
    return reference.accumulate_rows_(total.clone(), *rest)


FORMULAS = {
    "stabilized_divide_": lambda z, R, b, eps: reference.stabilized_divide(R, z, b, eps),
    "multiply_": lambda c, u: u * c,
    "pool_redistribute": pooled,
    "accumulate_rows_": added,
}


def wide(x):
    if not isinstance(x, torch.Tensor):
        return x
    return x.double().contiguous() if x.is_floating_point() else x.contiguous()


def tensors_of(result):
    return [result] if isinstance(result, torch.Tensor) else list(result)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_shape_stride_and_alignment(case, device, data):
    if not ops.is_native(torch.empty(0, device=device)):
        pytest.skip("native kernels are switched off")
    name = case.__name__
    arguments = case(Maker(data, device))
    expected = FORMULAS.get(name, getattr(reference, name, None))(*map(wide, arguments))
    with poison(device):
        got = getattr(native, name)(*arguments)
    tensors = [x for x in arguments if isinstance(x, torch.Tensor) and x.is_floating_point()]
    dtype = min((x.dtype for x in tensors), key=lambda t: t.itemsize)
    if name == "accumulate_rows_":  # returns nothing
        got, dtype = arguments[0], arguments[0].dtype
    if name in ("weighted_least_squares", "weighted_lasso"):
        return same_fit(name, got, expected)
    for a, b in itertools.zip_longest(tensors_of(got), tensors_of(expected)):
        close(a, b, dtype)
    return None


def same_fit(name, got, expected):
    """In float64 from the same numbers; a lasso to within its gap."""
    tolerance = 1e-7 if name == "weighted_least_squares" else 1e-4
    for a, b in zip(got[:2], expected[:2], strict=True):
        assert torch.isfinite(a).all()
        assert torch.allclose(a, b, rtol=tolerance, atol=tolerance)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_fingerprint_is_that_of_the_values(data):
    made = Maker(data, "cpu")
    x = made.signed(made.one_of(*DTYPES), *made.shape(0, 4), expand=False)
    places = 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
    same = torch.zeros(max(places, 1), dtype=x.dtype).as_strided(x.shape, x.stride()).copy_(x)
    assert native.fingerprint([x]) == native.fingerprint([same])
    assert native.fingerprint([x, x]) != native.fingerprint([x])
    if x.numel():
        assert native.fingerprint([x + 1]) != native.fingerprint([x])


def test_every_op_is_here():
    names = {n.split("::")[1] for n in torch._C._dispatch_get_all_op_names() if "xaifast::" in n}
    # The last two stand for layers while a model is captured; they are made of the others.
    others = {"fingerprint", "packed_rnn", "sequence_lengths"}
    assert names - others == {case.__name__ for case in CASES}


def test_what_is_not_written_shows():
    with poison("cpu"):
        assert all(torch.empty(3, dtype=t).isnan().all() for t in TOLERANCE)


# ---- what fake kernels say, and what is refused ------------------------------------------------


class Seeded(Maker):
    """Draws by a seed, quickly."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        super().__init__(None, "cpu")

    def size(self, low, high):
        return self.random.randint(low, high)

    def one_of(self, *values):
        return self.random.choice(values)

    def order(self, n):
        return self.random.sample(range(n), n)


def on_meta(x):
    """The same strides without memory."""
    if not isinstance(x, torch.Tensor):
        return x
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")


def layout(x):
    """Shape, dtype, and the strides that matter."""
    strides = [s for n, s in zip(x.shape, x.stride(), strict=True) if n > 1]
    return list(x.shape), x.dtype, strides if x.numel() else None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_fake_kernels_say_what_comes(case):
    call = getattr(native, case.__name__)
    for seed in range(40):
        arguments = case(Seeded(seed))
        wanted, got = call(*map(on_meta, arguments)), call(*arguments)
        if got is None:
            assert wanted is None
            continue
        for a, b in zip(tensors_of(got), tensors_of(wanted), strict=True):
            assert layout(a) == layout(b), f"seed {seed}"


def spoiled(x):
    """The tensor on another device, of another dtype, of other shapes."""
    yield "device", x.to("meta")
    yield "dtype", (x.to(torch.int32) if x.dtype.is_floating_point else x.to(torch.float64))
    yield "rank", x[None, None, None, None]
    if x.dim():
        yield "shape", x.new_ones(*x.shape[:-1], x.shape[-1] + 13)


NAMES = {
    n: [a.name for a in getattr(native, n).default._schema.arguments]
    for n in (case.__name__ for case in CASES)
}
# What may have any size: the result, or another argument that is then refused, goes by it.
FREE = {
    ("add_noise", "x"), ("backward_product", "w"), ("cut_boxes", "start"), ("cut_boxes", "x"),
    ("mask_segments", "on"), ("split_signs", "a"), ("weighted_least_squares", "X"),
    ("weighted_lasso", "X"), ("winograd_conv", "x"), ("segment_sums", "x"),
}  # fmt: skip
# What follows from the geometry of windows or layers: the kernels check it.
GEOMETRY = {
    ("pool_redistribute", "a"), ("pool_redistribute", "R"), ("relprop_conv", "u"),
    ("relprop_conv", "R"), ("relprop_conv", "w"), ("relprop_conv", "w_t"), ("relprop_conv", "z"),
    ("relprop_few", "u"), ("relprop_few", "R"), ("relprop_few", "w"), ("relprop_few", "w_back"),
    ("zplus_conv", "a"), ("zplus_conv", "R"), ("zplus_conv", "w"), ("winograd_conv", "w"),
    ("winograd_conv", "b"), ("recurrent_states", "b"), ("recurrent_relprop", "b"),
    ("recurrent_relprop", "z"), ("scatter_windows", "scores"),
}  # fmt: skip


@pytest.mark.parametrize("meta", [False, True], ids=["cpu", "meta"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_one_wrong_tensor_is_refused_by_name(case, meta):
    """Each in turn: on another device, of another dtype or shape; an error, never a result."""
    for seed in range(6):
        arguments = case(Seeded(seed))
        for i, x in enumerate(arguments):
            for kind, wrong in spoiled(x) if isinstance(x, torch.Tensor) else ():
                given = [*arguments[:i], wrong, *arguments[i + 1 :]]
                if meta:
                    given = [on_meta(v) for v in given]
                if meta and kind == "device":
                    given[i] = x
                if kind in ("rank", "shape") and is_free(case.__name__, i, x, meta):
                    continue
                if kind == "device" and sum(isinstance(v, torch.Tensor) for v in given) == 1:
                    continue  # it is there
                refuses(case.__name__, i, kind, given)


def is_free(op, i, x, meta):
    """Whether a tensor may have another shape."""
    at = op, NAMES[op][i]
    whole = x.dim() == 1 and at[1] in ("x", "total")  # samples without sizes of their own
    return whole or at in FREE or (meta and at in GEOMETRY)


def refuses(op, i, kind, given):
    what = f"{op}: {NAMES[op][i]}, {kind}"
    words = "no error"
    try:
        getattr(native, op)(*given)
    except (TypeError, ValueError) as error:
        if f"{op.rstrip('_')}" in str(error):
            return
        words = f"an error that does not name the op: {error}"
    except (RuntimeError, NotImplementedError) as error:
        words = f"another error: {error}"
    pytest.fail(f"{what}: {words}")
