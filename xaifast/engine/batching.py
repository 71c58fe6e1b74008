"""How many rows to process at once: as many as the free memory holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, describe, wrong_type, wrong_value
from ..graph.run import Propagation

# Of the free memory; the rest is for the library's workspaces and for others.
SHARE = 0.5
# The C library gives blocks above this size back to the kernel at once, and every new one costs a
# page fault per 4 KiB: VGG-16 at batch 8 runs a tenth faster in parts of 2.
CPU_BLOCK = 32 * 2**20
# Where nothing is kept for the way back: ResNet-50 at 112 x 112 runs a tenth slower in parts of 40
# (32 MiB) than of 16 to 24.
CPU_BLOCK_FORWARD = CPU_BLOCK // 2
# Small models run best while their tensors stay in the cache: networks of 4 to 32 channels on 32 x
# 32 pixels take up to twice as long in blocks of CPU_BLOCK. But no fewer rows than MANY_ROWS, which
# share what the weights cost to read.
CPU_CACHE = 8 * 2**20
MANY_ROWS = 32
# Where no more than two large blocks hold them, a few rows share what large weights cost to read
# in any case: integrated gradients of VGG-16 take a tenth less in parts of 4 than of 2.
FEW_ROWS = 4


@dataclass(frozen=True)
class Need:
    """Bytes that one row needs: kept until it is done; and of its largest tensor."""

    kept: int
    largest: int


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


def need_of(propagation: Propagation, targets: int, itemsize: int) -> Need:
    """The memory that one sample needs through a graph and back, for some targets."""
    kept = sum(n.elements for n in propagation.steps if n in propagation.kept)
    own = [propagation.rules[n].keeps(n) for n in propagation.own]
    kept += sum(size for size, _ in own) + targets * max((size for _, size in own), default=0)
    largest = max((n.elements for n in propagation.steps if n.floating), default=1)
    in_flight = (2 + 3 * targets) * largest
    return Need(itemsize * (kept + in_flight), itemsize * targets * largest)


def rows_in_memory(need: Need, device: torch.device) -> int:
    """As many rows as the free memory holds."""
    return int(SHARE * free_memory(device) // max(1, need.kept))


def rows_that_fit(need: Need, device: torch.device, block: int = CPU_BLOCK, shared: int = 1) -> int:
    """As many rows as the free memory holds, and on the CPU as run well.

    block : bytes above which a tensor of all rows should not be; shared : rows that are worth more.
    """
    fitting = rows_in_memory(need, device)
    if device.type == "cpu":
        largest = max(1, need.largest)
        well = max(
            min(CPU_CACHE, block) // largest,
            min(MANY_ROWS, block // largest),
            min(shared, 2 * CPU_BLOCK // largest),
        )
        fitting = min(fitting, well)
    return max(1, fitting)


def check_batch_size(size: int | str, name: str = "internal_batch_size") -> None:
    """Refuse what is neither "auto" nor a positive int."""
    if size == "auto":
        return
    if isinstance(size, bool) or not isinstance(size, int):
        raise wrong_type(name, 'must be an int or "auto"', describe(size), 'Try "auto".')
    if size < 1:
        raise wrong_value(name, "must be at least 1", size, 'Try "auto".')


def batches(batch: int, size: int) -> Iterator[slice]:
    """The batch in slices of at most `size`."""
    for begin in range(0, batch, size):
        yield slice(begin, min(begin + size, batch))


def rows_of(x: Tensor, rows: Any) -> Tensor:
    """Some rows of a tensor that has one for each sample; one row that serves all, as it is."""
    return x if len(x) == 1 else x[rows]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def run_in_batches(
    count: int, size: int, work: Callable[[slice], None], automatic: bool = True
) -> None:
    """Do the work in batches; where memory runs out, go on once with half the size.

    `work` must leave nothing behind when it fails.

    Raises
    ------
    InputError
        If half the size does not fit either, or the size was not ours to choose.
    """
    begin, halved = 0, not automatic
    while begin < count:
        rows = slice(begin, min(begin + size, count))
        try:
            work(rows)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if halved or size == 1:
                raise InputError(
                    f"The device ran out of memory on {rows.stop - begin} rows at once "
                    f"({str(error).splitlines()[0]}). Pass a smaller internal_batch_size, or free "
                    "memory on the device."
                ) from error
            halved, size = True, size // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        begin = rows.stop
