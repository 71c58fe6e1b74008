"""What `benchmarks.kernels` measures: one case or two for each native op, with what it replaces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xaifast import ops, reference

native = torch.ops.xaifast
EPS = 1e-3


@dataclass
class Case:
    """One op on one set of tensors."""

    name: str
    shape: str
    ours: Callable[[], Any]
    aten: Callable[[], Any]
    numbers: int  # bytes that must be read or written
    products: float = 0.0  # multiplications and additions
    wide: bool = False  # products in float64
    drawn: bool = False  # results are random
    exact: float = 1e-3  # how far the results may be apart, of the largest value


class Maker:
    """Tensors of a case; `small` ones are for a quick look, not for figures."""

    def __init__(self, device: str, small: bool) -> None:
        self.device, self.small = device, small
        self.generator = torch.Generator().manual_seed(0)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=self.generator).to(self.device, dtype)

    def integers(self, most: int, *shape: int) -> Tensor:
        return torch.randint(0, most, shape, generator=self.generator).to(self.device)

    def size(self, full: int, small: int) -> int:
        return small if self.small else full


def size_of(*tensors: Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def sizes(*tensors: Tensor) -> str:
    return ", ".join("x".join(map(str, t.shape)) for t in tensors)


CASES: list[Callable[[Maker], Case]] = []


def case(make: Callable[[Maker], Case]) -> Callable[[Maker], Case]:
    """Collect a function that makes a case; its name is that of the op, or begins with it."""
    CASES.append(make)
    return make


# ---- relevance -------------------------------------------------------------------------------


def _maps(m: Maker) -> list[int]:
    return [m.size(8, 1), 64, m.size(112, 14), m.size(112, 14)]


@case
def stabilized_divide(m: Maker) -> Case:
    R, z, b = m.normal(*_maps(m)), m.normal(*_maps(m)), m.normal(64)
    return Case(
        "stabilized_divide", sizes(z), lambda: native.stabilized_divide(R, z, b, EPS),
        lambda: reference.stabilized_divide(R, z, b, EPS), size_of(R, z, z),
    )  # fmt: skip


@case
def stabilized_divide_in_place(m: Maker) -> Case:
    z, R = m.normal(*_maps(m)), m.normal(*_maps(m))
    other = z.clone()
    return Case(
        "stabilized_divide_", sizes(z), lambda: native.stabilized_divide_(z, R, None, EPS),
        lambda: other.copy_(reference.stabilized_divide(R, other, None, EPS)), size_of(R, z, z),
    )  # fmt: skip


@case
def multiply_parts(m: Maker) -> Case:
    n, k, *rest = _maps(m)
    u, c = m.normal(n, 2 * k, *rest), m.normal(n, 2 * k, *rest)
    return Case(
        "multiply_parts", sizes(u), lambda: native.multiply_parts(u, c, 2),
        lambda: reference.multiply_parts(u, c, 2), size_of(u, c) + size_of(c) // 2,
    )  # fmt: skip


@case
def multiply_in_place(m: Maker) -> Case:
    c, u = m.normal(*_maps(m)), m.normal(*_maps(m)).sign()
    other = c.clone()
    return Case(
        "multiply_", sizes(c), lambda: native.multiply_(c, u), lambda: other.mul_(u),
        size_of(c, c, u),
    )  # fmt: skip


@case
def split_signs(m: Maker) -> Case:
    a = m.normal(*_maps(m))
    return Case(
        "split_signs", sizes(a), lambda: native.split_signs(a), lambda: reference.split_signs(a),
        size_of(a, a, a),
    )  # fmt: skip


@case
def add_split(m: Maker) -> Case:
    x, y, R = (m.normal(*_maps(m)) for _ in range(3))
    return Case(
        "add_split", sizes(x), lambda: native.add_split(x, y, R, 1.0, EPS),
        lambda: reference.add_split(x, y, R, 1.0, EPS), size_of(x, y, R, x, y),
    )  # fmt: skip


def _max_pool(a: Tensor, R: Tensor, place: tuple) -> Tensor:
    _, winner = torch.ops.aten.max_pool2d_with_indices(a, *place)
    backward = torch.ops.aten.max_pool2d_with_indices_backward
    return backward(R, a, *place, False, winner)


def _sum_pool(a: Tensor, R: Tensor) -> Tensor:
    """R_i = a_i sum_o s_o; a divisor of 1 makes sums of averages."""
    place = ([2, 2], [2, 2], [0, 0], False, True, 1)
    z = torch.ops.aten.avg_pool2d(a, *place)
    s = reference.stabilized_divide(R, z, None, EPS)
    return a * torch.ops.aten.avg_pool2d_backward(s, a, *place)


@case
def pool_winner(m: Maker) -> Case:
    a = m.normal(*_maps(m))
    R, place = m.normal(*a.shape[:2], *(n // 2 for n in a.shape[2:])), ([3, 3], [2, 2], [1, 1])
    rule = ("winner_take_all", 0.0)
    return Case(
        "pool_redistribute, winner", sizes(a),
        lambda: native.pool_redistribute(a, R, *place, [1, 1], *rule),
        lambda: _max_pool(a, R, (*place, [1, 1])), size_of(a, R, a),
    )  # fmt: skip


@case
def pool_proportional(m: Maker) -> Case:
    a = m.normal(*_maps(m)).abs()
    R, place = m.normal(*a.shape[:2], *(n // 2 for n in a.shape[2:])), ([2, 2], [2, 2], [0, 0])
    rule = ("proportional", EPS)
    return Case(
        "pool_redistribute, proportional", sizes(a),
        lambda: native.pool_redistribute(a, R, *place, [1, 1], *rule),
        lambda: _sum_pool(a, R), size_of(a, R, a),
    )  # fmt: skip


@case
def winograd_conv(m: Maker) -> Case:
    n, c, edge = m.size(8, 1), m.size(256, 32), m.size(56, 14)
    x = m.normal(n, c, edge, edge).contiguous(memory_format=torch.channels_last)
    w = m.normal(c, c, 3, 3).contiguous(memory_format=torch.channels_last)
    there = ops.winograd_weights(w)
    return Case(
        "winograd_conv", sizes(x, w), lambda: native.winograd_conv(x, there, None, False, 1),
        lambda: torch.nn.functional.conv2d(x, w, padding=1), size_of(x, x, there),
        2 * 4 * c * x.numel(),
    )  # fmt: skip


@case
def backward_product_of_one_unit(m: Maker) -> Case:
    s, w = torch.zeros(1, 1000, device=m.device), m.normal(1000, m.size(25088, 512))
    s[0, 7] = 1.0
    return Case(
        "backward_product, one unit", sizes(s, w), lambda: native.backward_product(s, w),
        lambda: s @ w, size_of(s, w[:2]), 2 * w.shape[1],
    )  # fmt: skip


@case
def backward_product(m: Maker) -> Case:
    s, w = m.normal(m.size(16, 4), m.size(4096, 64)), m.normal(m.size(4096, 64), 4096)
    return Case(
        "backward_product, dense", sizes(s, w), lambda: native.backward_product(s, w),
        lambda: s @ w, size_of(s, w) + 4 * len(s) * w.shape[1], 2 * len(s) * w.numel(),
    )  # fmt: skip


@case
def relprop_conv(m: Maker) -> Case:
    u, w = m.normal(m.size(8, 1), 64, *[m.size(56, 14)] * 2), m.normal(64, 64, 3, 3) / 24
    b, R, ones = m.normal(64), m.normal(*u.shape), [1, 1]

    def aten() -> Tensor:
        z = torch.nn.functional.conv2d(u, w, padding=1)
        s = reference.stabilized_divide(R, z, b, EPS)
        return u * torch.nn.functional.conv_transpose2d(s, w, padding=1)

    place = ([3, 3], ones, ones, ones, False, [0, 0], 1)
    return Case(
        "relprop_conv", sizes(u, w),
        lambda: native.relprop_conv(u, R, w, w, b, None, *place, EPS, 1), aten,
        size_of(u, R, w, u), 2 * 2 * u.numel() * 64 * 9, exact=1e-2,
    )  # fmt: skip


@case
def relprop_few(m: Maker) -> Case:
    n, edge, ones = m.size(8, 1), m.size(224, 16), [1, 1]
    u, w = m.normal(n, 6, edge, edge).abs(), m.normal(64, 6, 3, 3).abs()
    R = m.normal(n, 64, edge, edge).contiguous(memory_format=torch.channels_last)
    panels = ops.few_weights(w), ops.few_weights(w, back=True)

    def aten() -> Tensor:
        s = reference.stabilized_divide(R, torch.nn.functional.conv2d(u, w, padding=1), None, EPS)
        c = torch.nn.functional.conv_transpose2d(s, w, padding=1)
        return reference.multiply_parts(u, c, 2)

    return Case(
        "relprop_few, box", sizes(u, w),
        lambda: native.relprop_few(u, R, *panels, None, None, [3, 3], ones, ones, EPS, 2), aten,
        size_of(u, R, u[:, :3]), 2 * 2 * R.numel() * 6 * 9,
    )  # fmt: skip


@case
def relprop_linear(m: Maker) -> Case:
    n, K, J = m.size(64, 4), m.size(4096, 64), m.size(4096, 64)
    u, w, R, b = m.normal(n, J), m.normal(K, J) / J**0.5, m.normal(n, K), m.normal(K)

    def aten() -> Tensor:
        s = reference.stabilized_divide(R, torch.nn.functional.linear(u, w), b, EPS)
        return u * (s @ w)

    return Case(
        "relprop_linear", sizes(u, w), lambda: native.relprop_linear(u, R, w, b, None, EPS, 1),
        aten, size_of(u, R, w, u), 2 * 2 * n * w.numel(), exact=1e-2,
    )  # fmt: skip


@case
def zplus_linear(m: Maker) -> Case:
    """Of one sample, with relevance at half of the units; ATen has W+ and W- at hand."""
    K, J = m.size(4096, 64), m.size(25088, 512)
    a, w, R, b = m.normal(1, J), m.normal(K, J) / J**0.5, m.normal(1, K), m.normal(K)
    R = R * (R > 0)
    u = torch.cat([a.clamp(min=0), a.clamp(max=0)], 1)
    plus, minus = w.clamp(min=0), w.clamp(max=0)
    pairs = (
        (torch.cat([plus, minus], 1), b.clamp(min=0)),
        (torch.cat([minus, plus], 1), b.clamp(max=0)),
    )

    def aten() -> Tensor:
        parts = []
        for v, bound in pairs:
            s = reference.stabilized_divide(R, torch.nn.functional.linear(u, v), bound, EPS)
            parts.append(sum((u * (s @ v)).chunk(2, 1)))
        return 2 * parts[0] - parts[1]

    both = ([2.0, -1.0], [1.0, 0.0], [0.0, 1.0])
    return Case(
        "zplus_linear, alpha-beta", sizes(a, w),
        lambda: native.zplus_linear(a, R, w, b, *both, EPS), aten,
        size_of(a, R, w[: K // 2], a), 2 * w.numel(), exact=1e-2,
    )  # fmt: skip


def _conv(m: Maker, kernel: str, rule: str, channels: int, edge: int) -> Case:
    """By one of our kernels, which are for CUDA; on the CPU by the library. Channels lie inside."""
    last, units = torch.channels_last, m.size(64, 8)
    a = m.normal(m.size(8, 1), channels, edge, edge).contiguous(memory_format=last)
    R = m.normal(len(a), units, edge, edge).contiguous(memory_format=last)
    w = (m.normal(units, channels, 3, 3) / 8).contiguous(memory_format=last)
    w_t = w.transpose(0, 1).contiguous(memory_format=last)
    kernel = kernel if m.device == "cuda" else "library"
    box = ([-4.0] * channels, [4.0] * channels) if rule == "box" else ([], [])
    low, high = (-4.0, 4.0) if rule == "box" else (0.0, 0.0)

    def aten() -> Tensor:
        conv, back = torch.nn.functional.conv2d, torch.nn.functional.conv_transpose2d
        u, v = (a - low, a - high) if rule == "box" else (a.clamp(min=0), a.clamp(max=0))
        plus, minus = w.clamp(min=0), w.clamp(max=0)
        z = conv(u, plus, padding=1) + conv(v, minus, padding=1)
        s = reference.stabilized_divide(R, z, None, EPS)
        return u * back(s, plus, padding=1) + v * back(s, minus, padding=1)

    ones = [1, 1]
    return Case(
        f"zplus_conv, {rule}, {kernel}", sizes(a, w),
        lambda: native.zplus_conv(a, R, w, w_t, None, ones, ones, ones, 1, rule, *box, False, EPS,
                                  kernel),
        aten, size_of(a, R, w, a), 2 * 2 * 2 * R.numel() * channels * 9, exact=1e-2,
    )  # fmt: skip


@case
def zplus_conv(m: Maker) -> Case:
    return _conv(m, "tiles", "positive", m.size(64, 8), m.size(56, 14))


def zplus_conv_on_tensor_cores(m: Maker) -> Case:
    return _conv(m, "tensor_cores", "positive", m.size(64, 8), m.size(56, 14))


if torch.cuda.is_available():  # on the CPU it would be the case above once more
    case(zplus_conv_on_tensor_cores)


@case
def zplus_conv_of_a_first_layer(m: Maker) -> Case:
    return _conv(m, "pixels", "box", 3, m.size(224, 14))


# ---- sampling and windows --------------------------------------------------------------------


def _image(m: Maker, n: int = 8) -> Tensor:
    return m.normal(m.size(n, 1), 3, m.size(224, 16), m.size(224, 16))


def _rows(m: Maker, x: Tensor) -> Tensor:
    return torch.arange(m.size(64, 4), device=m.device) * len(x) // m.size(64, 4)


@case
def path_points(m: Maker) -> Case:
    x, b = _image(m), _image(m)
    sample = _rows(m, x)
    alpha = torch.linspace(0, 1, len(sample), dtype=torch.float64).to(m.device)
    rows = len(sample) * x[0].numel() * 4
    return Case(
        "path_points", f"{len(sample)} rows of {sizes(x[0])}",
        lambda: native.path_points(x, b, sample, alpha, False),
        lambda: reference.path_points(x, b, sample, alpha, False), size_of(x, b) + rows,
    )  # fmt: skip


@case
def accumulate_rows(m: Maker) -> Case:
    total = torch.zeros_like(_image(m))
    sample, other = _rows(m, total), torch.zeros_like(total)
    g, weight = m.normal(len(sample), *total.shape[1:]), m.normal(len(sample), dtype=torch.float64)

    def aten() -> Tensor:
        terms = weight.float().view(-1, 1, 1, 1) * g
        return other.index_add_(0, sample, terms)

    def ours() -> Tensor:
        native.accumulate_rows_(total, g, sample, weight)
        return total

    return Case(
        "accumulate_rows_", f"{len(sample)} rows of {sizes(g[0])}", ours, aten,
        size_of(g, total, total),
    )  # fmt: skip


@case
def add_noise(m: Maker) -> Case:
    x = _image(m)
    sample, draw = _rows(m, x), torch.arange(m.size(64, 4), device=m.device)
    std = torch.full((len(x),), 0.1, dtype=torch.float64, device=m.device)

    def aten() -> Tensor:
        rows = x[sample]
        return rows + std[sample].float().view(-1, 1, 1, 1) * torch.randn_like(rows)

    return Case(
        "add_noise", f"{len(sample)} rows of {sizes(x[0])}",
        lambda: native.add_noise(x, sample, draw, std, 7), aten,
        size_of(x) + len(sample) * x[0].numel() * 4, drawn=True,
    )  # fmt: skip


@case
def occlude_windows(m: Maker) -> Case:
    x = _image(m, 1)
    b, count, edge = torch.zeros_like(x), m.size(64, 4), m.size(16, 4)
    window, stride = [3, edge, edge], [3, edge // 2, edge // 2]
    return Case(
        "occlude_windows", f"{count} windows on {sizes(x)}",
        lambda: native.occlude_windows(x, b, window, stride, 0, count),
        lambda: reference.occlude_windows(x, b, window, stride, 0, count),
        size_of(x, b) + count * size_of(x),
    )  # fmt: skip


@case
def scatter_windows(m: Maker) -> Case:
    size, edge = m.size(224, 16), m.size(16, 4)
    side = (size - edge) // (edge // 2) + 1
    scores = m.normal(m.size(10, 2), side * side)
    ones = torch.ones(1, 1, edge, edge, device=m.device)

    def aten() -> Tensor:
        grid = scores.view(len(scores), 1, side, side)
        one = torch.nn.functional.conv_transpose2d(grid, ones, stride=edge // 2)
        return one.expand(-1, 3, -1, -1).contiguous()

    args = ([3, size, size], [3, edge, edge], [3, edge // 2, edge // 2], False)
    return Case(
        "scatter_windows", f"{sizes(scores)} on 3x{size}x{size}",
        lambda: native.scatter_windows(scores, *args), aten,
        size_of(scores) + len(scores) * 3 * size * size * 4,
    )  # fmt: skip


def _segments(m: Maker, x: Tensor) -> Tensor:
    """Rectangles, 7 by 7."""
    rows = torch.arange(x.shape[2]) * 7 // x.shape[2]
    return (rows[:, None] * 7 + rows)[None, None].to(m.device)


@case
def mask_segments(m: Maker) -> Case:
    x, b = _image(m, 1), _image(m, 1)
    labels, rows = _segments(m, x), m.size(64, 4)
    on, sample = m.integers(2, rows, 49).bool(), torch.zeros(rows, dtype=torch.int64).to(m.device)

    def aten() -> Tensor:
        return torch.where(on[:, labels[0, 0]][:, None], x, b)

    return Case(
        "mask_segments", f"{rows} rows of {sizes(x[0])}",
        lambda: native.mask_segments(x, b, labels, on, sample), aten,
        size_of(x, b, labels, on) + rows * size_of(x),
    )  # fmt: skip


@case
def segment_sums(m: Maker) -> Case:
    x = _image(m, 32)
    labels = _segments(m, x)
    flat = labels.expand_as(x).flatten(2)

    def aten() -> Tensor:
        out = torch.zeros(*x.shape[:2], 49, dtype=torch.float64, device=m.device)
        return out.scatter_add_(2, flat, x.flatten(2).double())

    return Case(
        "segment_sums", sizes(x), lambda: native.segment_sums(x, labels, 49), aten,
        size_of(x, labels),
    )  # fmt: skip


@case
def cut_boxes(m: Maker) -> Case:
    edge, channels, rows = m.size(56, 8), m.size(64, 8), m.size(128, 4)
    x, box = m.normal(edge, edge, channels), m.normal(rows, 6, 6, channels)
    origin = m.integers(edge - 6, 2, rows)
    start = origin - 2
    return Case(
        "cut_boxes", f"{rows} of 10x10x{channels}",
        lambda: native.cut_boxes(x, box, origin, start, [10, 10], 0.0),
        lambda: reference.cut_boxes(x, box, origin, start, [10, 10], 0.0),
        size_of(box) + rows * (100 + 100 - 36) * channels * 4,
    )  # fmt: skip


# ---- recurrent and regression ----------------------------------------------------------------


def _states(m: Maker) -> tuple[Tensor, ...]:
    T, N, H = m.size(100, 5), m.size(64, 4), m.size(128, 8)
    w = m.normal(4 * H, H) / H**0.5
    return m.normal(T, N, 4 * H), w, m.normal(4 * H), m.normal(N, H), m.normal(N, H)


@case
def recurrent_states(m: Maker) -> Case:
    a, w, b, h, c = _states(m)
    T, N, H = len(a), *h.shape
    return Case(
        "recurrent_states", f"LSTM, T {T}, N {N}, H {H}",
        lambda: native.recurrent_states(a, w, b, h, c),
        lambda: reference.recurrent_states(a, w, b, h, c), size_of(a, w, a) + 2 * 4 * T * N * H,
        2 * T * N * w.numel(),
    )  # fmt: skip


@case
def recurrent_relprop(m: Maker) -> Case:
    a, w, b, h, c = _states(m)
    z, h, c = reference.recurrent_states(a, w, b, h, c)
    T, (N, H) = len(a), h.shape[1:]
    R, last = m.normal(1, T, N, H), m.normal(1, N, H)
    args = (z, h, c, w, None, R, last, last, "all", 0.3)
    return Case(
        "recurrent_relprop", f"LSTM, all, T {T}, N {N}, H {H}",
        lambda: native.recurrent_relprop(*args), lambda: reference.recurrent_relprop(*args),
        size_of(z, h, c, R, R), 2 * T * N * H * H, exact=1.0,
    )  # fmt: skip


@case
def lstm_path(m: Maker) -> Case:
    N, T, H, K = m.size(4, 1), m.size(100, 5), m.size(16, 4), m.size(250, 10)
    start, change = m.normal(N, T, 4 * H), m.normal(N, T, 4 * H)
    w, seed = m.normal(4 * H, H) / H**0.5, m.normal(1, N, H)
    alpha = torch.rand(N, K, dtype=torch.float64).to(m.device)
    step = torch.full((1, N), T - 1).to(m.device)
    args = (start, change, w, alpha, torch.ones_like(alpha)[None] / K, seed, seed, step)
    return Case(
        "lstm_path", f"N {N}, T {T}, H {H}, {K} nodes", lambda: native.lstm_path(*args),
        lambda: reference.lstm_path(*args), size_of(start, change, w, start),
        2 * 2 * N * K * T * w.numel(),
    )  # fmt: skip


def _problems(m: Maker) -> tuple[Tensor, Tensor, Tensor]:
    B, S, M = m.size(64, 2), m.size(200, 20), m.size(50, 5)
    X = m.integers(2, B, S, M).double()
    return X, m.normal(B, S, dtype=torch.float64), torch.rand(B, S).double().to(m.device) + 0.05


@case
def weighted_least_squares(m: Maker) -> Case:
    X, y, weight = _problems(m)
    B, S, M = X.shape

    def aten() -> tuple[Tensor, Tensor]:
        share = weight / weight.sum(1, keepdim=True)
        x0, y0 = (share[:, None] @ X)[:, 0], (share * y).sum(1)
        root = weight.sqrt()
        A, b = root[..., None] * (X - x0[:, None]), root * (y - y0[:, None])
        c = torch.linalg.lstsq(A, b[..., None], driver="gels").solution[..., 0]
        return c, y0 - (x0 * c).sum(1)

    return Case(
        "weighted_least_squares", f"{B} of {S}x{M}",
        lambda: native.weighted_least_squares(X, y, weight, 0.0, True), aten,
        size_of(X, y, weight), B * (2 * S * M * M + 4 * S * M), wide=True,
    )  # fmt: skip


@case
def weighted_lasso(m: Maker) -> Case:
    X, y, weight = _problems(m)
    B, S, M = X.shape
    args = (X, y, weight, 0.05, True, 1e-9, 10000)
    return Case(
        "weighted_lasso", f"{B} of {S}x{M}", lambda: native.weighted_lasso(*args)[:2],
        lambda: reference.weighted_lasso(*args)[:2], size_of(X, y, weight),
        B * 2 * S * M * M, wide=True,
    )  # fmt: skip


@case
def fingerprint(m: Maker) -> Case:
    weights = [torch.randn(m.size(2**20, 2**10)) for _ in range(50)]  # of CPU tensors only
    return Case(
        "fingerprint", f"50 of {sizes(weights[0])}", lambda: native.fingerprint(weights),
        lambda: [float(w.sum()) for w in weights], size_of(*weights), drawn=True,
    )  # fmt: skip
