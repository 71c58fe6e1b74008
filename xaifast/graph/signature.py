"""Signatures: the calls that a captured graph is valid for."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .proof.events import NoScriptError, frozen

# ---- what a graph is valid for ----------------------------------------------------------------


def signature_of(args: tuple, rows: tuple[bool, ...] | None) -> tuple:
    """Shapes (without the batch where it is symbolic), dtypes, devices, and what is no tensor.

    Objects count by their type here; what the model's code does with them, the rehearsal compares.
    """

    def part(x: Any, row: bool) -> Any:
        if not isinstance(x, Tensor):
            try:
                return frozen(x)
            except NoScriptError:
                return type(x)
        return (x.dim(), tuple(x.shape[1:] if row else x.shape), x.dtype, x.device)

    return tuple(part(x, row) for x, row in zip(args, rows or (False,) * len(args), strict=True))


def fits(args: tuple, rows: tuple[bool, ...] | None, signature: tuple) -> bool:
    """Whether a graph with these rows and this signature is valid for a call."""
    if len(signature) != len(args):
        return False
    batches = [
        len(x) if isinstance(x, Tensor) and x.dim() else None
        for x, row in zip(args, rows or (), strict=False)
        if row
    ]
    return len(set(batches)) <= 1 and signature_of(args, rows) == signature
