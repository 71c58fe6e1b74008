"""Words on stdout and stderr: controls are escaped, and a run outlives a closed pipe."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TextIO

from .failures import RunError, Status


def printable(text: object) -> str:
    """Escape characters that steer a terminal, and bytes of names that are no text."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode()
        for c in str(text)
    )


def say(text: str, stream: TextIO | None = None) -> None:
    """Print lines on stdout; where the reader has gone (`| head`), print nothing more."""
    out = stream or sys.stdout
    if out is None:  # the process was started without it
        return
    lines = "\n".join(map(printable, text.split("\n")))
    coding = getattr(out, "encoding", None) or "utf-8"
    try:
        print(lines.encode(coding, "backslashreplace").decode(coding), file=out, flush=True)
    except BrokenPipeError:
        _silence(out)
    except OSError as error:
        _silence(out)
        message = f"stdout must take what is printed; got {error.strerror}. Free space."
        raise RunError(Status.OUTPUT, message) from error


def warn(text: str) -> None:
    """Print one line on stderr; an stderr that fails cannot be told to anyone."""
    with suppress(RunError):
        say(" ".join(text.split()), sys.stderr)


def _silence(out: TextIO) -> None:
    """Send what is still buffered, and all that follows, nowhere: also the flush at exit."""
    with suppress(OSError, io.UnsupportedOperation, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, out.fileno())
        finally:
            os.close(nowhere)
