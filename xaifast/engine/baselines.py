"""Baselines x': the inputs that stand for the absence of a feature (book, section 9.2.3).

All forms become tensors that broadcast along the batch, [N or 1, ...], one for each input.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import describe, wrong_type, wrong_value
from .arguments import as_tuple

FORMS = (
    'Allowed: None (zero), a number, "blur", a tensor of the shape of the input (or of one sample, '
    "which serves all), a function of the inputs that returns one of these; a tuple with one for "
    "each input; a list of several, over which attributions are averaged."
)
# Standard deviation of the blur, in longer sides: 10 pixels of 224 (section 8.3.1).
BLUR = 10 / 224


def blur(x: Tensor, sigma: float | None = None) -> Tensor:
    """Blur images [N, C, ...] in their positions: a baseline that keeps colours and loses shapes.

    Parameters
    ----------
    x : [N, C, ...] with one to three dimensions of positions
    sigma : float, optional
        Standard deviation of the Gaussian in pixels; default 10 / 224 of the longer side.

    Returns
    -------
    Tensor
        Like x; borders are continued by their last pixel.

    Raises
    ------
    ValueError
        If x has no positions, or sigma is not positive.

    References
    ----------
    Fong and Vedaldi 2017; book, sections 8.3.1 and 9.2.3.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> attr.blur(torch.ones(1, 3, 8, 8)).shape
    torch.Size([1, 3, 8, 8])
    """
    if x.dim() < 3 or not x.is_floating_point():
        raise wrong_value(
            "blur: x", "must be floating images [N, C, ...]", x, "Give another baseline."
        )
    sigma = BLUR * max(x.shape[2:]) if sigma is None else sigma
    if not sigma > 0:
        raise wrong_value("blur: sigma", "must be positive", sigma, "Leave it out.")
    reach = max(1, math.ceil(3 * sigma))
    offsets = torch.arange(-reach, reach + 1, device=x.device, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(torch.float32 if x.element_size() < 4 else x.dtype)
    y = x.to(kernel.dtype)
    for d in range(2, x.dim()):  # a Gaussian is the product of one along each axis
        last = y.movedim(d, -1)
        lines = torch.nn.functional.pad(
            last.reshape(1, -1, last.shape[-1]), (reach, reach), "replicate"
        )
        smooth = torch.nn.functional.conv1d(lines[0].unsqueeze(1), kernel.view(1, 1, -1))
        y = smooth.reshape(last.shape).movedim(-1, d)
    return y.to(x.dtype)


def _one(who: str, baseline: Any, x: Tensor) -> Tensor:
    """One baseline for one input, as a tensor [N or 1, ...]."""
    if baseline is None:
        baseline = 0
    if isinstance(baseline, str):
        if baseline != "blur":
            raise wrong_value(
                f"{who}: baselines",
                'must not be a word other than "blur"',
                describe(baseline),
                FORMS,
            )
        return blur(x)
    if isinstance(baseline, (bool, int, float)):
        dtype = (
            x.dtype if x.is_floating_point() or not isinstance(baseline, float) else torch.float32
        )
        return torch.full((1, *x.shape[1:]), baseline, dtype=dtype, device=x.device)
    if not isinstance(baseline, Tensor):
        raise wrong_type(f"{who}: baselines", "have an unknown form", baseline, FORMS)
    b = baseline.detach().to(x.device)
    if b.is_floating_point() and x.is_floating_point():
        b = b.to(x.dtype)
    if b.dim() < x.dim():
        b = b.expand(x.shape[1:]).unsqueeze(0) if _broadcasts(b, x.shape[1:]) else b
    elif b.dim() == x.dim() and _broadcasts(b[0] if len(b) else b, x.shape[1:]):
        b = b.expand(len(b), *x.shape[1:])
    if b.dim() != x.dim() or tuple(b.shape[1:]) != tuple(x.shape[1:]) or len(b) not in (1, len(x)):
        raise wrong_value(
            f"{who}: baselines",
            f"must have the shape of the input {list(x.shape)} (or of one sample)", baseline, FORMS,
        )  # fmt: skip
    if b.is_floating_point() and not torch.isfinite(b).all():
        raise wrong_value(
            f"{who}: baselines", "must be finite", "NaN or infinite values", "Clean them first."
        )
    return b


def _broadcasts(b: Tensor, shape: torch.Size) -> bool:
    try:
        return torch.broadcast_shapes(b.shape, shape) == shape
    except RuntimeError:
        return False


def called(make: Callable, inputs: tuple[Tensor, ...]) -> Any:
    """Baselines from a function of the inputs (a tensor or the tuple of several), or of nothing."""
    wanted = inspect.signature(make).parameters.values()
    positional = any(p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in wanted)
    return make(inputs if len(inputs) > 1 else inputs[0]) if positional else make()


def check_baselines(
    who: str, baselines: Any, inputs: tuple[Tensor, ...]
) -> list[tuple[Tensor, ...]]:
    """Check baselines in any of their forms; one tuple of tensors for each of several.

    Raises
    ------
    ValueError, TypeError
        If they do not fit the inputs; the message lists the forms.
    """
    if isinstance(baselines, list):
        if not baselines:
            raise wrong_value(f"{who}: baselines", "must not be an empty list", baselines, FORMS)
        return [b for one in baselines for b in check_baselines(who, one, inputs)]
    if isinstance(baselines, Callable):  # type: ignore[arg-type]
        return check_baselines(who, called(baselines, inputs), inputs)
    given = as_tuple(baselines)
    if not isinstance(baselines, tuple):
        alone = isinstance(baselines, Tensor) and baselines.dim() > 0
        if alone and len(inputs) > 1:
            raise wrong_value(
                f"{who}: baselines", f"must be a tuple of {len(inputs)}, one for each input",
                baselines, FORMS,
            )  # fmt: skip
        given = given * len(inputs)
    if len(given) != len(inputs):
        raise wrong_value(
            f"{who}: baselines", f"must hold one for each of the {len(inputs)} inputs",
            f"{len(given)}", FORMS,
        )  # fmt: skip
    return [tuple(_one(who, b, x) for b, x in zip(given, inputs, strict=True))]


def check_distribution(who: str, baselines: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Check baselines that are a distribution: a tensor [B, ...] for each input, one B for all.

    Raises
    ------
    ValueError, TypeError
        If they do not fit the inputs.
    """
    given = as_tuple(called(baselines, inputs) if callable(baselines) else baselines)
    do = "Pass a tensor [B, ...] whose rows are baselines, a tuple of them for several inputs."
    if len(given) != len(inputs):
        raise wrong_value(
            f"{who}: baselines", f"must hold one for each of the {len(inputs)} inputs",
            f"{len(given)}", do,
        )  # fmt: skip
    for b, x in zip(given, inputs, strict=True):
        if not isinstance(b, Tensor):
            raise wrong_type(f"{who}: baselines", "must be tensors", describe(b), do)
        if tuple(b.shape[1:]) != tuple(x.shape[1:]) or not len(b):
            must = f"must be rows like the input {list(x.shape)}"
            raise wrong_value(f"{who}: baselines", must, b, do)
        if not torch.isfinite(b).all():
            raise wrong_value(
                f"{who}: baselines", "must be finite", "NaN or infinite values", "Clean them first."
            )
    if len({len(b) for b in given}) > 1:
        raise wrong_value(
            f"{who}: baselines", "must share one number of rows", f"{[len(b) for b in given]}", do
        )
    return tuple(b.detach().to(x) for b, x in zip(given, inputs, strict=True))
