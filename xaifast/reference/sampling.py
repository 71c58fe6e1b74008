"""The sampling ops of `xaifast.ops` in plain PyTorch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "accumulate_rows_",
    "add_noise",
    "mask_segments",
    "occlude_windows",
    "path_points",
    "scatter_windows",
    "segment_sums",
]


def _compute(x: Tensor) -> torch.dtype:
    """The dtype that kernels compute in: float32 for the 16-bit types, else the dtype itself."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _column(v: Tensor, x: Tensor) -> Tensor:
    """Shape v [R] as one number per row of something shaped like x, in what x is computed in."""
    return v.to(_compute(x)).view(-1, *[1] * (x.dim() - 1))


def _rows(x: Tensor, sample: Tensor) -> Tensor:
    """The sample that each row is made of; x may be one row for all samples."""
    rows = x[sample] if x.shape[0] > 1 else x.expand(len(sample), *x.shape[1:])
    return rows.to(_compute(x))


def path_points(x: Tensor, baseline: Tensor, sample: Tensor, alpha: Tensor, relu: bool) -> Tensor:
    """X' + alpha (x - x'), counted from the nearer end."""
    out = torch.lerp(_rows(baseline, sample), _rows(x, sample), _column(alpha, x))
    return (out.clamp(min=0) if relu else out).to(x.dtype)


def accumulate_rows_(total: Tensor, g: Tensor, sample: Tensor, weight: Tensor) -> Tensor:
    """total[n] += weight[r] g[r] for each row r of sample n, one after the other."""
    terms = _column(weight, total) * g.to(total.dtype)
    for n, term in zip(sample.tolist(), terms, strict=True):
        total[n] += term
    return total


# ---- noise: every step is rounded to float32, so that each device makes the same numbers ---------

_WORD = 2**32 - 1


def _philox(counter: list[Tensor], seed: int) -> list[Tensor]:
    """Philox4x32-10: four random words of a counter of four words, all as int64 in [0, 2^32)."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed & _WORD, seed >> 32 & _WORD
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2  # modulo 2^64
        c0, c1 = (b >> 32 & _WORD) ^ c1 ^ k0, b & _WORD
        c2, c3 = (a >> 32 & _WORD) ^ c3 ^ k1, a & _WORD
        k0, k1 = k0 + 0x9E3779B9 & _WORD, k1 + 0xBB67AE85 & _WORD
    return [c0, c1, c2, c3]


def _polynomial(x: Tensor, *coefficients: float) -> Tensor:
    """c0 + c1 x + c2 x^2 + ..., by Horner's rule."""
    y = torch.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        y = y * x + c
    return y


def _logarithm(p: Tensor) -> Tensor:
    """Ln p = k ln 2 + 2 artanh s for p = m 2^k, s = (m - 1) / (m + 1), m around 1."""
    root_half, one = 0x3F3504F3, 0x3F800000  # the bits of sqrt(1/2) and 1
    bits = p.view(torch.int32) + (one - root_half)
    k = ((bits >> 23) - 127).float()
    m = ((bits & 0x7FFFFF) + root_half).view(torch.float32)
    s = (m - 1) / (m + 1)
    return k * 0.693147180559945 + s * _polynomial(s * s, 2, 2 / 3, 2 / 5, 2 / 7, 2 / 9)


def _standard_normal(word: Tensor) -> Tensor:
    """Phi^-1 of a random word, by Wichura's PPND7: one bit is the sign, the others the tail."""
    p = ((word & 0x7FFFFFFF).float() + 0.5) * 2.0**-32
    q = 0.5 - p
    central = q <= 0.425
    # PyTorch's own float32 root is not always the nearest number; that of a float64 root is.
    root = (-_logarithm(p)).double().sqrt().float()
    r = torch.where(central, 0.180625 - q * q, root - 1.6)
    a = q * _polynomial(r, 3.3871327179e0, 5.0434271938e1, 1.5929113202e2, 5.9109374720e1)
    b = _polynomial(r, 1, 1.7895169469e1, 7.8757757664e1, 6.7187563600e1)
    c = _polynomial(r, 1.4234372777e0, 2.7568153900e0, 1.3067284816e0, 1.7023821103e-1)
    d = _polynomial(r, 1, 7.3700164250e-1, 1.2021132975e-1)
    z = torch.where(central, a, c) / torch.where(central, b, d)
    return torch.where(word > 0x7FFFFFFF, -z, z)


def add_noise(x: Tensor, sample: Tensor, draw: Tensor, std: Tensor, seed: int) -> Tensor:
    """x + std z, where z[e] is word e mod 4 of the group e / 4 of this sample and draw."""
    size = x[0:1].numel() if len(x) else 0
    group = torch.arange((size + 3) // 4, device=x.device)
    counter = torch.broadcast_tensors(group, draw[:, None], sample[:, None], group.new_zeros(1, 1))
    z = _standard_normal(torch.stack(_philox(list(counter), seed), -1)).flatten(1)
    noise = z[:, :size].reshape(len(sample), *x.shape[1:]).to(_compute(x))
    return (_rows(x, sample) + _column(std[sample], x) * noise).to(x.dtype)


# ---- windows ----------------------------------------------------------------------------------


def _starts(size: int, window: int, stride: int) -> range:
    """Where windows start along a dimension: ceil((size - window) / stride) + 1 of them, or one."""
    count = 1 if size <= window else -((window - size) // stride) + 1
    return range(0, count * stride, stride)


def _windows(
    shape: Sequence[int], window: Sequence[int], stride: Sequence[int]
) -> list[tuple[slice, ...]]:
    """Places of a sample that each window covers, the last dimension counted fastest."""
    axes = [
        [slice(start, start + w) for start in _starts(size, w, s)]
        for size, w, s in zip(shape, window, stride, strict=True)
    ]
    return list(itertools.product(*axes))


def occlude_windows(
    x: Tensor,
    baseline: Tensor,
    window: Sequence[int],
    stride: Sequence[int],
    first: int,
    count: int,
) -> Tensor:
    """x, but x' inside of one window after the other."""
    out = x.repeat(count, *[1] * (x.dim() - 1))
    rows = out.view(count, *x.shape)
    windows = _windows(x.shape[1:], window, stride)[first : first + count]
    for row, inside in zip(rows, windows, strict=True):
        row[(slice(None), *inside)] = baseline[(slice(None), *inside)]
    return out


def scatter_windows(
    scores: Tensor,
    shape: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    average: bool,
) -> Tensor:
    """Each element's sum of the scores of the windows that cover it, or their average."""
    out = torch.zeros(len(scores), *shape, dtype=_compute(scores), device=scores.device)
    count = out.new_zeros(tuple(shape))
    for score, inside in zip(scores.T, _windows(shape, window, stride), strict=True):
        out[(slice(None), *inside)] += _column(score, out)
        count[inside] += 1
    return (out / count.clamp(min=1) if average else out).to(scores.dtype)


# ---- segments ---------------------------------------------------------------------------------


def mask_segments(
    x: Tensor, baseline: Tensor, labels: Tensor, on: Tensor, sample: Tensor
) -> Tensor:
    """Take x where the segment is on, x' where it is off; elements of any other label are on."""
    label = labels.expand_as(x)[sample].reshape(len(sample), math.prod(x.shape[1:]))
    known = (label >= 0) & (label < on.shape[1])
    always = on.new_ones(len(on), 1)
    keep = torch.cat([on, always], 1).gather(1, torch.where(known, label, on.shape[1]))
    rows = len(sample), *x.shape[1:]
    return torch.where(keep.view(rows), x[sample], baseline.expand_as(x)[sample])


def segment_sums(x: Tensor, labels: Tensor, segments: int) -> Tensor:
    """Sums of x over the positions of each label, in float64; a label that is none is left out."""
    label = labels.expand_as(x).flatten(2) if x.dim() > 2 else labels.expand_as(x).unsqueeze(2)
    known = (label >= 0) & (label < segments)
    out = x.new_zeros(*x.shape[:2], segments + 1, dtype=torch.float64)  # the last is for the others
    out.scatter_add_(2, torch.where(known, label, segments), x.double().view_as(label))
    return out[..., :segments].contiguous()
