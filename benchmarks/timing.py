"""Measure side by side: interleaved rounds, medians, ratios within a round, peak memory."""

from __future__ import annotations

import ctypes
import datetime
import gc
import importlib.metadata
import itertools
import platform
import statistics
import time
from collections.abc import Callable

import torch

Function = Callable[[], object]
PEERS = ("captum", "zennit", "scikit-learn")


def synchronize() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def seconds_of(run: Function) -> float:
    """Wall seconds of a call, until the device is done with it."""
    synchronize()
    begin = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - begin


def seconds_of_many(run: Function, times: int, device: str) -> float:
    """The same for one of so many calls in a row; on CUDA by events, without what launching costs.

    As long as a call takes longer than its launch, that is: the device must not wait.
    """
    if device != "cuda":
        return seconds_of(lambda: [run() for _ in range(times)]) / times
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(times):
        run()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000 / times


def interleave(
    functions: dict[str, Function],
    rounds: int,
    warm_up: int = 1,
    timer: Callable[[Function], float] = seconds_of,
) -> dict[str, list]:
    """Seconds of each function, run A B C A B C ... so that other load hits all alike."""
    for _ in range(warm_up):
        for run in functions.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, run in functions.items():
            seconds[name].append(timer(run))
    return seconds


def ratio(seconds: dict[str, list], name: str, to: str) -> float:
    """Median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[to], strict=True))


def _status(key: str) -> float:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def peak_memory(run: Function) -> float:
    """MiB that a call needs at its peak, above what was held before."""
    gc.collect()
    if torch.cuda.is_initialized():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # resets the high-water mark
        before = _status("VmRSS")
        run()
        return _status("VmHWM") - before
    except OSError:  # not Linux
        return float("nan")


def peak_allocated(run: Function) -> float:
    """MiB of tensors at the peak of a call, as PyTorch's allocator counts them.

    What is resident beyond that are holes that the C library leaves, and scratch of oneDNN.
    """
    if torch.cuda.is_initialized():
        return peak_memory(run)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        run()
    events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns())
    return max(itertools.accumulate((e.nbytes() for e in changes), initial=0)) / 2**20


def machine(device: str) -> dict[str, str]:
    """What the figures belong to."""
    about = {
        "date": datetime.date.today().isoformat(),
        "hardware": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    installed = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    return about | {name: installed[name] for name in PEERS if name in installed}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


def table(head: list[str], rows: list[list[str]]) -> str:
    """Rows as a Markdown table with aligned columns."""
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    return "\n".join([line(head), line(["-" * w for w in widths]), *map(line, rows)])
