"""The arguments that all explainers share: inputs, additional arguments, the mode they run in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..errors import wrong_type, wrong_value


def as_tuple(inputs: Any) -> tuple:
    """One input or several, as a tuple."""
    return inputs if isinstance(inputs, tuple) else (inputs,)


def extra_arguments(additional: Any) -> tuple:
    """`additional_forward_args` as a tuple."""
    if additional is None:
        return ()
    return additional if isinstance(additional, tuple) else (additional,)


@contextmanager
def plain_mode() -> Iterator[None]:
    """Neither inference mode nor autocast: relevance is computed in the inputs' own precision."""
    cpu, cuda = (torch.autocast(device, enabled=False) for device in ("cpu", "cuda"))
    with torch.inference_mode(False), cpu, cuda:
        yield


def check_inputs(inputs: tuple) -> int:
    """Check the inputs to explain; return the batch size."""
    if not inputs:
        raise wrong_value(
            "inputs", "must hold at least one tensor", "an empty tuple", "Pass x or (x, y)."
        )
    for x in inputs:
        if not isinstance(x, Tensor):
            raise wrong_type(
                "inputs", "must be a tensor or a tuple of tensors", x, "Use torch.as_tensor."
            )
        if x.layout != torch.strided or x.is_meta:
            raise wrong_type("inputs", "must be dense and hold data", x, "Use x.to_dense().")
        if x.dim() < 1:
            raise wrong_value(
                "inputs", "must have the batch as first dimension", x, "Use x.unsqueeze(0)."
            )
        if x.is_floating_point() and not torch.isfinite(x).all():
            raise wrong_value(
                "inputs", "must be finite", "NaN or infinite values", "Clean them first."
            )
    sizes = {len(x) for x in inputs}
    if len(sizes) > 1:
        raise wrong_value(
            "inputs", "must share one batch size", f"{sorted(sizes)}", "Give all the same N."
        )
    return sizes.pop()
