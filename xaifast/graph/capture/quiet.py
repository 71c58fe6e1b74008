"""Silence while PyTorch captures: no warnings, log lines and prints, in this thread alone."""

from __future__ import annotations

import logging
import threading
import warnings
from contextlib import contextmanager
from typing import Any

import torch
import torch.export._trace


class _Hush(logging.Filter):
    """Drops warnings, log records and prints of the threads that capture, and of no other.

    Nothing of the process is redirected or set to another level: other threads write and warn as
    ever, and whatever order threads end in, what they leave behind is what they found.
    """

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[int] = []
        self.lock = threading.Lock()
        # An entry of warnings.filters: (action, message, category, module, line).
        self.entry: Any = ("ignore", self, Warning, None, 0)

    def covers_this_thread(self) -> bool:
        return threading.get_ident() in self.threads

    def match(self, text: str) -> bool:
        """As a pattern for the message of a warning."""
        return self.covers_this_thread()

    def filter(self, record: logging.LogRecord) -> bool:
        return not self.covers_this_thread()

    def print(self, *args: Any, **options: Any) -> None:
        """As the function of that name in modules of PyTorch that print what has failed."""
        if not self.covers_this_thread():
            print(*args, **options)

    def __enter__(self) -> None:
        with self.lock:
            self.threads.append(threading.get_ident())
            if self.entry not in warnings.filters[:1]:
                warnings.filters.insert(0, self.entry)  # type: ignore[attr-defined]
            for logger in _loggers():
                logger.addFilter(self)

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.threads.remove(threading.get_ident())
            if self.threads:
                return
            while self.entry in warnings.filters:
                warnings.filters.remove(self.entry)  # type: ignore[attr-defined]
            for logger in _loggers():
                logger.removeFilter(self)


def _loggers() -> list[logging.Logger]:
    """Those of torch.export and what it is made of."""
    names = ("torch.export", "torch._export", "torch.fx")
    known = logging.Logger.manager.loggerDict
    below = [n for n in list(known) if n.startswith(tuple(f"{name}." for name in names))]
    return [logging.getLogger(name) for name in (*names, *below)]


hush = _Hush()
for _module in (torch.export._trace, torch.fx.graph_module):  # a failed export prints its graph
    vars(_module).setdefault("print", hush.print)


@contextmanager
def quiet():
    """No gradient recording, no warnings, log lines and prints of torch.export, in this thread."""
    with torch.no_grad(), hush:
        yield
