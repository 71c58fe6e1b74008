"""How many samples to process at once: as many as the free memory holds."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import torch
from torch import Tensor

from ..errors import describe, wrong_type, wrong_value
from ..graph.run import Propagation

# Of the free memory; the rest is for the library's workspaces and for others.
SHARE = 0.5
# The C library gives blocks above this size back to the kernel at once, and every new one costs a
# page fault per 4 KiB: VGG-16 at batch 8 runs a tenth faster in parts of 2.
CPU_BLOCK = 32 * 2**20


def free_memory(device: torch.device) -> int:
    """Bytes that a device has to give now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as lines:
            available = next(line for line in lines if line.startswith("MemAvailable"))
        return int(available.split()[1]) * 1024
    except (OSError, StopIteration):  # not Linux: half of what is installed
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def bytes_per_sample(propagation: Propagation, targets: int, itemsize: int) -> int:
    """Memory of one sample: what is kept for the way back, and the largest tensors in flight."""
    kept = sum(math.prod(n.shape) for n in propagation.steps if n in propagation.kept)
    return itemsize * (kept + (2 + 3 * targets) * largest_tensor(propagation))


def largest_tensor(propagation: Propagation) -> int:
    """Numbers in the largest tensor of one sample."""
    return max((math.prod(n.shape) for n in propagation.steps if n.floating), default=1)


def batch_size_for(
    size: int | str, propagation: Propagation, args: tuple, targets: int, batch: int
) -> int:
    """Check internal_batch_size and turn "auto" into a number.

    Raises
    ------
    ValueError, TypeError
        If it is neither "auto" nor a positive int.
    """
    if size == "auto":
        if not propagation.graph.batched:
            return max(1, batch)
        x = next(a for a in args if isinstance(a, Tensor))
        itemsize = 8 if x.dtype == torch.float64 else 4
        need = bytes_per_sample(propagation, targets, itemsize)
        fitting = int(SHARE * free_memory(x.device) // max(1, need))
        if x.device.type == "cpu":
            block = itemsize * targets * largest_tensor(propagation)
            fitting = min(fitting, CPU_BLOCK // max(1, block))
        return max(1, min(batch, fitting))
    if isinstance(size, bool) or not isinstance(size, int):
        raise wrong_type(
            "internal_batch_size", 'must be an int or "auto"', describe(size), 'Try "auto".'
        )
    if size < 1:
        raise wrong_value("internal_batch_size", "must be at least 1", size, 'Try "auto".')
    if not propagation.graph.batched and size < batch:
        raise wrong_value(
            "internal_batch_size", f"must be at least the batch size ({batch}) for a model that "
            "fixes its batch size", size, "Pass fewer samples per call.",
        )  # fmt: skip
    return size


def batches(batch: int, size: int) -> Iterator[slice]:
    """The batch in slices of at most `size`."""
    for begin in range(0, batch, size):
        yield slice(begin, min(begin + size, batch))
