"""How a run ends: exit statuses, failures with a status, and signals that end a run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

from ..errors import XaifastError


class Status(IntEnum):
    """Exit statuses of the command, each for one place where a run can fail."""

    DONE = 0
    SOME_FAILED = 1
    USAGE = 2
    MODEL = 3
    INPUT = 4
    EXPLAINER = 5
    OUTPUT = 6
    INTERNAL = 70
    INTERRUPTED = 130
    TERMINATED = 143


EXPLAINED = """exit status:
  0    everything was explained
  1    some inputs failed and --keep-going went on; the manifest says which
  2    the command was not given rightly, or a package is missing
  3    the model could not be loaded
  4    an input could not be found or read, or the model does not take it
  5    the method refused the model or the input
  6    a result could not be written, or would replace a file (see --force, --resume)
  70   an unexpected error of xaifast itself
  130  interrupted (Ctrl-C), 143 terminated; --resume goes on"""


class RunError(Exception):
    """An error with the exit status that it leads to."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def of_one_input(self) -> bool:
        """Whether other inputs may be explained all the same."""
        return self.status in (Status.INPUT, Status.EXPLAINER)


@contextmanager
def failing(
    status: Status, *kinds: type[BaseException], say: Callable[[BaseException], str] = str
) -> Iterator[None]:
    """Give errors of xaifast the status, and errors of these kinds, which `say` puts into words."""
    try:
        yield
    except RunError:
        raise
    except XaifastError as error:
        raise RunError(status, str(error)) from error
    except kinds as error:
        raise RunError(status, say(error)) from error


class TerminatedError(KeyboardInterrupt):
    """The process was asked to end by SIGTERM."""


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM unwind the run as Ctrl-C does, so that no half file stays."""

    def stop(*_: Any) -> None:
        raise TerminatedError

    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
