"""xaifast: fast, exact explanations of PyTorch models on native kernels."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .errors import XaifastError

if TYPE_CHECKING:
    from .catalogue import Method, explain, methods
    from .graph.model import forget

__version__ = "0.1.0"
__all__ = ["Method", "XaifastError", "__version__", "explain", "forget", "methods"]


def __getattr__(name: str) -> Any:
    """Load what needs the native library when it is first used, so that `xaifast info` can tell."""
    if name in ("Method", "explain", "methods"):
        return getattr(importlib.import_module(".catalogue", __name__), name)
    if name == "forget":
        return importlib.import_module(".graph.model", __name__).forget
    if name in ("attr", "cells", "composites", "ops", "rules", "viz"):
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
