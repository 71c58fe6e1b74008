"""Sizes at the ends: what would not fit into 64 bits is refused before anything is allocated, and
tensors of more than 2^31 numbers (with XAIFAST_BIG=1, and the memory for them) come out right."""

import os

import pytest
import torch

from xaifast import ops

native = torch.ops.xaifast
HUGE = 2**62


def lasting(*shape, dtype=torch.float32):
    """A tensor of any size that is one number."""
    return torch.zeros((), dtype=dtype).expand(*shape)


def none(*shape, dtype=torch.float32):
    """A tensor without numbers: one size is 0, the others any."""
    return torch.empty(0, dtype=dtype).as_strided(shape, [1] * len(shape))


def pool(kernel=2, stride=2, padding=0, dilation=1, targets=()):
    a, R = torch.ones(1, 1, 4), lasting(*targets, 1, 1, 2)
    return native.pool_redistribute(
        a, R, [kernel], [stride], [padding], [dilation], "winner_take_all", 0.0
    )


def convolve(kernel=1, stride=1, padding=0, dilation=1, z=None):
    u, w = torch.ones(1, 1, 4), torch.ones(1, 1, 1)
    place = ([kernel], [stride], [padding], [dilation], False, [0], 1)
    return native.relprop_conv(u, torch.ones(1, 1, 4), w, w, None, z, *place, 0.0, 1)


def occlude(x, window, stride, first, count):
    return native.occlude_windows(x, x, window, stride, first, count)


def scatter(shape, window, stride, scores=None):
    scores = torch.ones(1, 1) if scores is None else scores
    return native.scatter_windows(scores, shape, window, stride, False)


def cut(size, start=0, origin=None):
    x, at = torch.ones(3, 1), torch.tensor([[start]])
    if origin is None:
        return native.cut_boxes(x, None, None, at, [size], 0.0)
    return native.cut_boxes(x, torch.ones(1, 2, 1), torch.tensor([[origin]]), at, [size], 0.0)


def states(T, N, H):
    given = lasting(T, N, 4 * H), lasting(4 * H, H), None, lasting(N, H), lasting(N, H)
    return native.recurrent_states(*given)


def path(M, N, T, H, K):
    d = torch.float64
    gates, seed = lasting(N, T, 4 * H), lasting(M, N, H)
    step = lasting(M, N, dtype=torch.int64)
    nodes = lasting(N, K, dtype=d), lasting(M, N, K, dtype=d)
    return native.lstm_path(gates, gates, lasting(4 * H, H), *nodes, seed, seed, step)


def fit(M, ridge):
    """A problem without samples, the sizes of which are no allocation yet."""
    given = none(1, 0, M), none(1, 0), none(1, 0)
    if ridge:
        return native.weighted_least_squares(*given, ridge, True)
    return native.weighted_lasso(*given, 0.1, True, 1e-9, 9)


LIST = torch.zeros((), dtype=torch.int64)
X = torch.ones(2, 3, 4)
TOO_MANY = r"less than 2\^60 elements, got the sizes \[.*; work on fewer rows at a time"
GEOMETRY = r"must lie in \[[01], 2\^31\), got \["
REFUSED = {
    # relevance
    "stabilized_divide: targets": (
        lambda: ops.stabilized_divide(lasting(2**58, 2, 3, 4), X),
        f"stabilized_divide: R must have {TOO_MANY}",
    ),
    "multiply_parts: targets": (
        lambda: ops.multiply_parts(X, lasting(2**58, 3, 4)),
        f"multiply_parts: c must have {TOO_MANY}",
    ),
    "split_signs": (
        lambda: ops.split_signs(lasting(2, HUGE // 2)),
        f"split_signs: a must have {TOO_MANY}",
    ),
    "add_split: targets": (
        lambda: ops.add_split(X, X, lasting(2**56, 2, 3, 4)),
        f"add_split: R must have {TOO_MANY}",
    ),
    "pool: targets": (
        lambda: pool(targets=(2**59,)),
        f"pool_redistribute: the result must have {TOO_MANY}",
    ),
    "pool: kernel": (lambda: pool(kernel=HUGE), f"pool_redistribute: kernel {GEOMETRY}{HUGE}"),
    "pool: stride": (lambda: pool(stride=HUGE), f"pool_redistribute: stride {GEOMETRY}"),
    "pool: padding": (lambda: pool(padding=HUGE), f"pool_redistribute: padding {GEOMETRY}"),
    "pool: dilation": (lambda: pool(dilation=HUGE), f"pool_redistribute: dilation {GEOMETRY}"),
    "pool: large, but not too large": (
        lambda: pool(kernel=2**31 - 1, dilation=2**31 - 1, padding=2**31 - 1),
        "is not the size of a pooling",
    ),
    "pool: missing": (
        lambda: native.pool_redistribute(X, X, [1], [], [0], [1], "winner_take_all", 0.0),
        r"pool_redistribute: stride must have 1 values, one for each position dimension, got \[\]",
    ),
    "backward_product": (
        lambda: ops.backward_product(none(2**40, 0), none(0, 2**40)),
        f"backward_product: the result must have {TOO_MANY}",
    ),
    "winograd_conv": (
        lambda: ops.winograd_conv(lasting(2**25, 32, 2**15, 2**15), lasting(4, 4, 1, 32, 32)),
        f"winograd_conv: the result must have {TOO_MANY}",
    ),
    "relprop_few: targets": (
        lambda: ops.relprop_few(
            lasting(1, 1, 2**15, 2**15),
            lasting(2**31, 1, 1, 2**15, 2**15),
            lasting(1, 1, 32),
            lasting(1, 32, 32),
            None,
            None,
            [1, 1],
            [1, 1],
            [0, 0],
            0.0,
        ),
        f"relprop_few: R must have {TOO_MANY}",
    ),
    "zplus_linear": (
        lambda: ops.zplus_linear(lasting(2, 2**40), lasting(2**30, 2, 3), lasting(3, 2**40)),
        f"zplus_linear: the result must have {TOO_MANY}",
    ),
    "conv: kernel": (lambda: convolve(kernel=HUGE), f"relprop_conv: kernel {GEOMETRY}"),
    "conv: padding": (lambda: convolve(padding=HUGE), f"relprop_conv: padding {GEOMETRY}"),
    "conv: dilation": (lambda: convolve(dilation=-1), f"relprop_conv: dilation {GEOMETRY}-1"),
    "conv: missing": (
        lambda: native.relprop_conv(X, X, X, X, None, X, [1], [], [0], [1], False, [0], 1, 0.0, 1),
        "relprop_conv: stride must have 1 values",
    ),
    "conv: z of another kind": (
        lambda: convolve(z=torch.ones(1, 4)),
        r"relprop_conv: z must have the dimensions of u \[1, 1, 4\], got \[1, 4\]",
    ),
    # sampling
    "path_points: rows": (
        lambda: native.path_points(X, X, LIST.expand(HUGE), lasting(1), False),
        f"path_points: the batch must have {TOO_MANY}",
    ),
    "occlude_windows: count": (
        lambda: occlude(X, [1, 1], [1, 1], 0, HUGE),
        "occlude_windows: first and count must name some of the 12 windows, got first=0",
    ),
    "occlude_windows: first": (
        lambda: occlude(X, [1, 1], [1, 1], 2**63 - 1, 1),
        f"occlude_windows: first and count must name some .*got first={2**63 - 1}",
    ),
    "occlude_windows: samples": (
        lambda: occlude(lasting(2, 2**31), [1], [1], 0, 2**31),
        f"occlude_windows: the batch must have {TOO_MANY}",
    ),
    "scatter_windows: shape": (
        lambda: scatter([2**40, 2**40], [1, 1], [1, 1]),
        f"scatter_windows: a sample must have {TOO_MANY}",
    ),
    "scatter_windows: shape beside a 0": (
        lambda: scatter([0, 2**40, 2**40], [1, 2**40, 2**40], [1, 1, 1]),
        f"scatter_windows: a sample must have {TOO_MANY}",
    ),
    "scatter_windows: targets": (
        lambda: scatter([2**40], [2**40], [1], lasting(2**40, 1)),
        f"scatter_windows: the result must have {TOO_MANY}",
    ),
    "segment_sums: segments": (
        lambda: ops.segment_sums(X, LIST.expand(2, 3, 4), HUGE),
        f"segment_sums: the result must have {TOO_MANY}",
    ),
    # windows
    "cut_boxes: size": (lambda: cut(HUGE), f"cut_boxes: the result must have {TOO_MANY}"),
    "cut_boxes: start": (
        lambda: cut(2, start=2**63 - 1),
        rf"cut_boxes: start must lie in \[-2\^61, 2\^61\], got {2**63 - 1}",
    ),
    "cut_boxes: origin": (
        lambda: cut(2, origin=-(2**63)),
        rf"cut_boxes: origin must lie in \[-2\^61, 2\^61\], got -{2**63}",
    ),
    # recurrent and regression
    "recurrent_states": (
        lambda: states(2**30, 2**30, 1),
        f"recurrent_states: the result must have {TOO_MANY}",
    ),
    "lstm_path: targets": (
        lambda: path(2**30, 2**15, 2**10, 2**10, 1),
        f"lstm_path: the result must have {TOO_MANY}",
    ),
    "lstm_path: nodes": (
        lambda: path(2**20, 2**15, 1, 1, 2**26),
        f"lstm_path: weight must have {TOO_MANY}",
    ),
    "least squares: features": (
        lambda: fit(2**33, ridge=1.0),
        f"weighted_least_squares: a design and its factors must have {TOO_MANY}",
    ),
    "lasso: features": (
        lambda: fit(2**33, ridge=0.0),
        f"weighted_lasso: a design and its factors must have {TOO_MANY}",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case):
    if not ops.is_native(X):
        pytest.skip("plain PyTorch has its own errors")
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_far_boxes_are_all_fill():
    far = 2**61 - 1
    for start in (far, -far - 1):
        assert cut(2, start).tolist() == [[[0.0], [0.0]]]
        assert cut(3, start, origin=start + 1).tolist() == [[[0.0], [1.0], [1.0]]]


def test_a_kernel_that_is_mostly_padding_is_not_walked_through():
    """It would take years."""
    n = 2**31 - 1
    a, R = torch.tensor([[[1.0, 3.0, 2.0]]]), torch.ones(1, 1, 1)
    r = ops.pool_redistribute(a, R, [n], [n], [n // 2], [1])
    assert r.tolist() == [[[0.0, 1.0, 0.0]]]


# ---- more than 2^31 numbers ------------------------------------------------------------------

BIG = pytest.mark.skipif(
    os.environ.get("XAIFAST_BIG") != "1", reason="takes minutes and 10 GiB: XAIFAST_BIG=1"
)
ROWS, SIZE = 2**16 + 3, 2**15  # of 16 bits: 4 GiB


def needs(gib):
    """Skip where there is not so much memory."""
    with open("/proc/meminfo") as lines:
        free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    if free < gib * 2**20:
        pytest.skip(f"needs {gib} GiB of memory")


def numbers(*shape):
    return (torch.arange(SIZE) % 251 - 125).to(torch.bfloat16).expand(*shape)


def rows_of(make):
    """What `make` gives for its rows [first, last): all at once, and at the ends of it."""
    whole = make(0, ROWS)
    assert whole.numel() > 2**31
    for first, last in ((0, 2), (2**16 - 2, 2**16 + 1), (ROWS - 2, ROWS)):
        assert torch.equal(whole[first:last], make(first, last))
    assert not torch.equal(whole[0], whole[-1])


SAMPLE = torch.zeros(ROWS, dtype=torch.int64)
ALPHA = torch.linspace(0, 1, ROWS, dtype=torch.float64)
POINT = numbers(1, SIZE)


def big_noise(first, last):
    draw, std = torch.arange(ROWS), torch.ones(1, dtype=torch.float64)
    return native.add_noise(POINT, SAMPLE[first:last], draw[first:last], std, 7)


def big_masks(first, last):
    on = (torch.arange(ROWS)[:, None] >> torch.arange(17)) % 2 == 0
    labels = (torch.arange(SIZE) % 17)[None]
    return native.mask_segments(POINT, -POINT, labels, on[first:last], SAMPLE[first:last])


def big_boxes(first, last):
    start = torch.arange(ROWS)[None] % 77 - 50
    x = numbers(SIZE)[:, None]
    return native.cut_boxes(x, None, None, start[:, first:last], [SIZE], 0.5)


def big_windows(first, last):
    x = numbers(1, 4, SIZE).flatten(1).repeat(1, 2)  # 8 SIZE numbers, ROWS / 8 windows
    out = native.occlude_windows(x, -x, [3], [1], first // 8, -(-last // 8) - first // 8)
    return out.view(-1, SIZE)[first % 8 :][: last - first]


def big_scores(first, last):
    scores = torch.arange(ROWS, dtype=torch.float32)[first:last, None].bfloat16()
    return native.scatter_windows(scores.expand(-1, 1).contiguous(), [SIZE], [SIZE], [1], False)


def big_split(first, last):
    a = numbers(ROWS, SIZE)[first:last, : SIZE // 2] * 1
    a[:, 0] = ALPHA[first:last].bfloat16() - 0.5
    return native.split_signs(a)


def big_divide(first, last):
    R = ALPHA[first:last, None, None].bfloat16()
    return native.stabilized_divide(R.expand(-1, 1, SIZE), POINT, None, 0.5)[:, 0]


def big_path(first, last):
    return native.path_points(POINT, -POINT, SAMPLE[first:last], ALPHA[first:last], False)


@BIG
@pytest.mark.parametrize(
    "make",
    [big_path, big_noise, big_masks, big_boxes, big_windows, big_scores, big_split, big_divide],
)
def test_rows_beyond_two_to_the_31(make):
    needs(11)
    rows_of(make)


@BIG
def test_sums_of_more_than_two_to_the_31():
    needs(7)
    g = torch.ones(ROWS, SIZE, dtype=torch.bfloat16)
    g[-1] = 2
    total = torch.zeros(2, SIZE)
    sample = torch.arange(ROWS) % 2
    native.accumulate_rows_(total, g, sample, torch.ones(ROWS, dtype=torch.float64))
    assert (total[0] == ROWS // 2 + 2).all()
    assert (total[1] == ROWS // 2).all()
    labels = (torch.arange(SIZE) % 3)[None, None]
    sums = native.segment_sums(g[None], labels, 3)
    count = torch.bincount(labels.flatten()).double()
    assert torch.equal(sums[0, 0], count)
    assert torch.equal(sums[0, -1], 2 * count)


@BIG
def test_pooling_of_more_than_two_to_the_31():
    needs(11)
    a = torch.arange(SIZE, dtype=torch.float32).view(1, 1, SIZE)
    R = torch.arange(ROWS, dtype=torch.float32).view(ROWS, 1, 1, 1).expand(-1, 1, 1, SIZE // 64)
    r = native.pool_redistribute(a, R, [64], [64], [0], [1], "winner_take_all", 0.0)
    assert r.numel() > 2**31
    assert (r[-1, 0, 0].view(-1, 64)[:, 63] == ROWS - 1).all()
    assert (r[-1, 0, 0].view(-1, 64)[:, :63] == 0).all()
