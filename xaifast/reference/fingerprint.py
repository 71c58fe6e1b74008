"""The hash of `xaifast.ops.fingerprint` in plain PyTorch; formula in csrc/fingerprint."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["fingerprint"]

LANES, STRIPES = 64, 128  # words of 8 bytes side by side, and one after the other in a chunk


def _signed(x: int) -> int:
    """The number of 64 bits with a sign that has the lower bits of x."""
    x %= 1 << 64
    return x - (1 << 64) if x >> 63 else x


FACTOR = _signed(0x9E3779B97F4A7C15)


def _right(h: Tensor, bits: int) -> Tensor:
    """Shift a number of 64 bits as if it had no sign."""
    return (h >> bits) & ((1 << (64 - bits)) - 1)


def _step(h: Tensor, w: Tensor | int) -> Tensor:
    h = h ^ w
    return ((h << 29) | _right(h, 35)) * FACTOR


def _mix(h: Tensor) -> Tensor:
    h = (h ^ _right(h, 33)) * _signed(0xFF51AFD7ED558CCD)
    h = (h ^ _right(h, 33)) * _signed(0xC4CEB9FE1A85EC53)
    return h ^ _right(h, 33)


def _bytes_of(x: Tensor) -> Tensor:
    """The memory of a dense tensor, in its own order."""
    return x.as_strided((x.numel(),), (1,), x.storage_offset()).view(torch.uint8)


def _is_dense(x: Tensor) -> bool:
    """Whether the axes of x, in some order, fill its memory without gaps."""
    axes = sorted((stride, n) for n, stride in zip(x.shape, x.stride(), strict=True) if n != 1)
    expected = 1
    for stride, n in axes:
        if stride != expected:
            return False
        expected *= n
    return True


def _hash(x: Tensor) -> int:
    x = x.detach().resolve_conj().resolve_neg()
    x = x if _is_dense(x) else x.contiguous()
    data = _bytes_of(x)
    size = len(data)
    data = torch.nn.functional.pad(data, (0, -size % (LANES * STRIPES * 8)))
    words = data.view(torch.int64).view(-1, STRIPES, LANES)
    lanes = torch.arange(words.shape[0] * LANES, device=x.device).view(-1, LANES)
    chunk, lane = lanes // LANES, lanes % LANES
    rest = -(-size // 8) - chunk * LANES * STRIPES  # words from the chunk on
    counts = (rest - lane + LANES - 1) // LANES  # of them in each lane
    h, s = (lanes + 1) * FACTOR, words.sum(1)
    for i in range(STRIPES):
        h = torch.where(i < counts, _step(h, words[:, i]), h)
    total = _step(_mix(_step(h, s)).sum(), size)
    for n, stride in zip(x.shape, x.stride(), strict=True):
        total = _step(total, n)
        total = total if n == 1 else _step(total, stride)
    return int(_mix(total))


def fingerprint(tensors: Sequence[Tensor]) -> list[int]:
    """One hash of 64 bits for each tensor: of its bytes, sizes and strides."""
    return [_hash(x) for x in tensors]
