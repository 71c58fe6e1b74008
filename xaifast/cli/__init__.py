"""The command `xaifast`: info, methods, demo, explain.

An error is one line on stderr and an exit status that says where it came from (`failures.Status`).
What loads the native library is imported by the commands, so that a library that does not fit is
such a line too.
"""

from __future__ import annotations

import argparse
import sys
import traceback

from ..errors import XaifastError
from . import arguments
from .arguments import BOUNDS
from .failures import RunError, Status, TerminatedError, failing, terminable
from .results import make_folder, replace
from .words import say, warn


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        Its words; default those of the process.

    Returns
    -------
    int
        The exit status: 0 when all is done, otherwise one of those that `xaifast --help` lists.

    Examples
    --------
    >>> from xaifast import cli
    >>> cli.main(["methods"])  # doctest: +ELLIPSIS
    Deconvolution ...
    0
    """
    words = sys.argv[1:] if argv is None else argv
    try:
        with terminable():
            args = arguments.parser(COMMANDS).parse_args(words)
            return int(args.run(args) or Status.DONE)
    except (Exception, KeyboardInterrupt) as error:
        if "--traceback" in words:
            traceback.print_exception(error)
        return _ended(error)


def _ended(error: BaseException) -> int:
    """Say why the command ended; return its exit status."""
    if isinstance(error, KeyboardInterrupt):
        terminated = isinstance(error, TerminatedError)
        warn(f"xaifast: {'terminated' if terminated else 'interrupted'}")
        return Status.TERMINATED if terminated else Status.INTERRUPTED
    if isinstance(error, RunError):
        warn(f"xaifast: error: {error}")
        return error.status
    if isinstance(error, XaifastError):
        warn(f"xaifast: error: {error}")
        return Status.USAGE
    warn(
        f"xaifast: error: the command must not fail by itself; got {type(error).__name__}: {error}."
        " Run it with --traceback and report what it prints."
    )
    return Status.INTERNAL


def _info(args: argparse.Namespace) -> None:
    from .. import build

    facts = build.info()
    width = max(map(len, facts))
    for name, value in facts.items():
        say(f"{name:{width}}  {value}")


def _methods(args: argparse.Namespace) -> None:
    from ..catalogue import methods

    lines = []
    for m in methods():
        needs = " ".join(f"--{n}" if n in BOUNDS else f"--option {n}=..." for n in m.required)
        lines.append(f"{m} Needs {needs}." if needs else str(m))
    say("\n".join(lines))


def _demo(args: argparse.Namespace) -> None:
    from .. import demo

    with failing(Status.OUTPUT):
        make_folder(args.out)
    try:
        demo.run(args.out, say, replace)
    except OSError as error:
        raise RunError(Status.OUTPUT, f"demo: {error}. Free space, or change --out.") from error


def _explain(args: argparse.Namespace) -> Status:
    from . import explaining

    return explaining.run(args)


COMMANDS = {"info": _info, "methods": _methods, "demo": _demo, "explain": _explain}
