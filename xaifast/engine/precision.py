"""In what precision explainers multiply; PyTorch's settings, held for their runs and put back.

PyTorch has these settings once for the process, not for each thread. So threads that explain in one
precision at the same time share them: the first to come sets them, the last to go puts back what
was there. Threads that want another precision wait for that.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError, describe, wrong_type, wrong_value

PRECISIONS = ("float32", "tf32", "bfloat16")

# Parents first: what still differs once its parents are set was set on its own, and so what is
# read is what must be written to put it back. (cuDNN's convolutions use tf32 unless told otherwise,
# but follow their parents if those are told.)
_SETTINGS = (
    ("generic", "all"), ("cuda", "all"), ("cuda", "matmul"), ("cuda", "conv"), ("cuda", "rnn"),
    ("mkldnn", "all"), ("mkldnn", "matmul"), ("mkldnn", "conv"), ("mkldnn", "rnn"),
)  # fmt: skip


def check_precision(who: str, precision: Any) -> str:
    """Refuse what is not one of PRECISIONS."""
    words = f"must be one of {', '.join(PRECISIONS)}"
    if not isinstance(precision, str):
        raise wrong_type(f"{who}: precision", words, describe(precision), 'Default: "float32".')
    if precision not in PRECISIONS:
        raise wrong_value(f"{who}: precision", words, repr(precision), 'Default: "float32".')
    return precision


def check_dtypes(precision: str | None, tensors: tuple[Tensor, ...]) -> None:
    """Refuse less than float32 for a computation in float64."""
    if precision not in (None, "float32") and any(x.dtype == torch.float64 for x in tensors):
        raise wrong_value(
            "precision", 'must be "float32" (the default) for inputs or a model in float64, which '
            "are computed in float64 throughout", repr(precision),
            "Leave it out, or call model.float() and inputs.float().",
        )  # fmt: skip


def rounds_to(precision: str | None) -> torch.dtype | None:
    """The dtype to which the factors of w^T s are rounded, or None."""
    return torch.bfloat16 if precision == "bfloat16" else None


def _set_all(value: str) -> list[tuple[str, str, str]]:
    """Give all settings a value; what was there, in the order to put it back."""
    before = []
    for place in _SETTINGS:
        found = torch._C._get_fp32_precision_getter(*place)
        if found != value:
            before.append((*place, found))
            torch._C._set_fp32_precision_setter(*place, value)
    return before[::-1]


class _Shared:
    """The settings, held at one value by the threads that explain."""

    def __init__(self) -> None:
        self.turn = threading.Condition()
        self.threads: list[int] = []
        self.value = ""
        self.before: list[tuple[str, str, str]] = []

    def hold(self, value: str) -> None:
        me = threading.get_ident()
        with self.turn:
            if me in self.threads and value != self.value:  # it would wait for itself
                raise ModelError(
                    "An explanation cannot run inside another one of another precision. Give both "
                    "the same."
                )
            self.turn.wait_for(lambda: not self.threads or self.value == value)
            if not self.threads:
                self.value, self.before = value, _set_all(value)
            self.threads.append(me)

    def release(self) -> None:
        with self.turn:
            self.threads.remove(threading.get_ident())
            if not self.threads:
                for place in self.before:
                    torch._C._set_fp32_precision_setter(*place)
                self.turn.notify_all()


_shared = _Shared()


@contextmanager
def products_in(precision: str | None, args: tuple) -> Iterator[None]:
    """Hold PyTorch's settings for float32 products of these arguments; None: leave them alone."""
    if precision is None:
        yield
        return
    on_cuda = any(isinstance(x, Tensor) and x.device.type == "cuda" for x in args)
    _shared.hold("tf32" if precision == "tf32" and on_cuda else "ieee")
    try:
        yield
    finally:
        _shared.release()
