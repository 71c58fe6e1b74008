"""Capture is quiet in its own thread, and changes nothing for others."""

import contextlib
import io
import logging
import sys
import threading
import time
import warnings

import pytest
import torch
from torch import nn

from xaifast import attr
from xaifast.graph.capture.quiet import quiet


class Branching(nn.Module):
    """Cannot be exported at first: torch.export prints its half-made graph."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        return self.linear(x * 2) if x.sum() > 0 else self.linear(x)


def state():
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch._export", "torch.fx")]
    return (
        sys.stderr, sys.stdout, list(warnings.filters), warnings.showwarning,
        [(x.level, x.disabled, list(x.filters), list(x.handlers)) for x in loggers],
    )  # fmt: skip


def test_nothing_is_left_or_redirected():
    before = state()
    with quiet():
        assert sys.stderr is before[0]
        assert warnings.showwarning is before[3]
        warnings.warn("of a capture", stacklevel=1)  # an error in these tests, elsewhere
        logging.getLogger("torch.export").error("of a capture")
    assert state() == before
    with pytest.raises(UserWarning, match="behind it"):
        warnings.warn("behind it", stacklevel=1)


def test_what_fails_within_is_not_printed(capfd):
    attr.LRP(Branching()).attribute(torch.ones(2, 3), 0)
    assert capfd.readouterr() == ("", "")


def test_torch_export_prints_as_ever_for_others(capfd):
    with contextlib.suppress(Exception):
        torch.export.export(Branching(), (torch.ones(2, 3),), strict=False)
    ours = capfd.readouterr().err
    assert "class GraphModule" in ours or "graph" in ours


def test_eight_threads_some_capture_and_some_write():
    before, seen, errors = state(), io.StringIO(), []
    done = threading.Event()
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger("torch.export.test_quiet")
    logger.addHandler(handler)

    def capture(seed):
        try:
            for _ in range(2):
                attr.LRP(Branching()).attribute(torch.ones(2, 3), 0)
        except BaseException as error:
            errors.append(error)

    def write(name):
        count = 0
        try:
            while not done.is_set() or count < 20:
                print(f"{name} {count}", file=sys.stderr)
                logger.error(f"{name} {count}")
                with pytest.raises(UserWarning, match=f"{name} {count}"):
                    warnings.warn(f"{name} {count}", stacklevel=1)
                count += 1
                time.sleep(0.002)
            written[name] = count
        except BaseException as error:
            errors.append(error)

    written = {}
    captures = [threading.Thread(target=capture, args=(i,)) for i in range(4)]
    writers = [threading.Thread(target=write, args=(f"writer{i}",)) for i in range(4)]
    with contextlib.redirect_stderr(seen):
        for thread in (*writers, *captures):
            thread.start()
        for thread in captures:
            thread.join()
        done.set()
        for thread in writers:
            thread.join()
    logger.removeHandler(handler)
    assert not errors
    lines, logged = set(seen.getvalue().splitlines()), set(records)
    wanted = {f"{name} {i}" for name, count in written.items() for i in range(count)}
    assert len(wanted) >= 80
    assert wanted <= lines
    assert wanted <= logged
    assert not any("GraphModule" in line for line in lines)
    assert state() == before
