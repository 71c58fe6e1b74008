"""Optional packages, imported late, and the errors of others in one line."""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import MissingPackageError


def need(who: str, module: str, package: str) -> Any:
    """Import a module of an optional package.

    Parameters
    ----------
    who : what needs it, for the error.
    module : to import, such as "PIL.Image".
    package : the name under which it is installed, such as "pillow".

    Raises
    ------
    MissingPackageError
        If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f'{who} needs the package {package} ({error}). Install it: pip install "xaifast[demo]"'
        ) from error


def short(error: BaseException) -> str:
    """Put another library's error into one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 300 else text[:297] + '...'}"
