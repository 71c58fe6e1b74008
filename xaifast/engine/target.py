"""Targets: which output is explained, and with how much relevance to start.

All forms become one of two: the position of one output for each (target, sample), or a mask of
outputs whose sum is explained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import describe, wrong_type, wrong_value

FORMS = (
    "Allowed: an int; one int per sample (list or 1-D tensor); a tuple of ints or slices for an "
    "output with more dimensions; a list of such tuples; for several targets per input a list of "
    'lists or a 2-D tensor [N, targets], or "all"; a boolean mask of the output.'
)


@dataclass(frozen=True)
class Selection:
    """The outputs to explain.

    index: [targets, N], positions in the flattened output of a sample; or mask: [1, N or 1,
    *shape].
    several: whether the result keeps its axis of targets.
    """

    shape: tuple[int, ...]  # of the output, without the batch
    index: Tensor | None = None
    mask: Tensor | None = None
    several: bool = False

    @property
    def targets(self) -> int:
        """How many targets each sample has."""
        return 1 if self.index is None else len(self.index)

    def rows(self, rows: slice) -> Selection:
        """The selection for some of the samples."""
        index = None if self.index is None else self.index[:, rows]
        mask = self.mask
        if mask is not None and mask.shape[1] > 1:
            mask = mask[:, rows]
        return Selection(self.shape, index, mask, self.several)

    def rows_of(self, samples: Tensor | None) -> Selection:
        """The selection for rows that belong to these samples (None: each sample, in order)."""
        if samples is None:
            return self
        index = None if self.index is None else self.index[:, samples.to(self.index.device)]
        mask = self.mask
        if mask is not None and mask.shape[1] > 1:
            mask = mask[:, samples.to(mask.device)]
        return Selection(self.shape, index, mask, self.several)

    def values(self, output: Tensor) -> Tensor:
        """The selected outputs, [targets, rows]; a region is summed."""
        if self.mask is not None:
            masked = output * self.mask[0].to(output.device)
            return masked.reshape(len(masked), -1).sum(1).unsqueeze(0)
        flat = output.reshape(len(output), -1)
        return flat.gather(1, self.index.to(output.device).T).T  # type: ignore[union-attr]

    def seed(self, output: Tensor, one: bool) -> Tensor:
        """Relevance of the output: the selected values (or ones), zero elsewhere."""
        values = torch.ones_like(output) if one else output
        if self.mask is not None:
            return values.unsqueeze(0) * self.mask.to(output.device)
        index = self.index.to(output.device)  # type: ignore[union-attr]
        flat = values.reshape(len(values), -1).expand(len(index), -1, -1)
        at = index.unsqueeze(-1)
        seed = torch.zeros_like(flat).scatter_(2, at, flat.gather(2, at))
        return seed.reshape(len(index), *values.shape)


def _fail(target: object, must: str) -> Exception:
    return wrong_value("target", must, describe(target), FORMS)


def _position(target: Any, shape: tuple[int, ...]) -> int:
    """The place of one output in the flattened output of a sample."""
    indices = target if isinstance(target, tuple) else (target,)
    if len(indices) != len(shape):
        raise _fail(
            target, f"must have {len(shape)} indices for an output of shape [N, {_sizes(shape)}]"
        )
    position = 0
    for i, size in zip(indices, shape, strict=True):
        if isinstance(i, bool) or not isinstance(i, int):
            raise wrong_type("target", "must be made of ints", target, FORMS)
        if not -size <= i < size:
            raise _fail(
                target,
                f"must lie in [{-size}, {size - 1}] for an output of shape [N, {_sizes(shape)}]",
            )
        position = position * size + i % size
    return position


def _sizes(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def _region(target: tuple, shape: tuple[int, ...]) -> Tensor:
    """The mask that a tuple with slices selects."""
    mask = torch.zeros(shape, dtype=torch.bool, device="cpu")
    try:
        mask[target] = True
    except (IndexError, TypeError, ValueError) as error:
        raise _fail(
            target, f"must index an output of shape [N, {_sizes(shape)}] ({error})"
        ) from None
    if not mask.any():
        raise _fail(target, "must select some output")
    return mask.view(1, 1, *shape)


def _mask(target: Tensor, shape: tuple[int, ...], batch: int) -> Tensor:
    if tuple(target.shape) not in (shape, (batch, *shape)):
        raise _fail(
            target,
            f"must, as a mask, have the shape of the output, [{_sizes(shape)}] or with the batch",
        )
    if target.numel() and not target.any():
        raise _fail(target, "must, as a mask, select some output")
    return target.reshape(1, batch if target.dim() > len(shape) else 1, *shape)


def check_entries(target: Any, batch: int) -> None:
    """Refuse a list or an array of targets whose length is neither 1 nor that of the batch."""
    rows = _rows_of(target)
    if isinstance(rows, (list, range)) and len(rows) not in (1, batch):
        raise _fail(target, f"must have one entry for each of the {batch} samples")


def _rows_of(target: Any) -> Any:
    """A tensor or numpy array of ints as nested lists; other forms as they are."""
    if isinstance(target, Tensor) and target.dtype != torch.bool:
        if target.is_floating_point() or target.is_complex():
            raise wrong_type("target", "must be made of ints", target, FORMS)
        if target.dim() > 2:
            raise _fail(target, "must have at most 2 dimensions, [N, targets]")
        return target.item() if target.numel() == 1 and target.dim() < 2 else target.tolist()
    if type(target).__module__ == "numpy":
        if target.dtype.kind not in "biu":
            raise wrong_type("target", "must be made of ints", describe(target), FORMS)
        return _rows_of(torch.as_tensor(target, device="cpu"))
    if isinstance(target, list):  # of numpy's or PyTorch's own ints
        return [_rows_of(t) if hasattr(t, "dtype") else t for t in target]
    return target


def select(target: Any, shape: tuple[int, ...], batch: int) -> Selection:
    """Check a target in any of its forms against the output's shape, before any work.

    Parameters
    ----------
    target : see `FORMS`.
    shape : of the output, without the batch.
    batch : number of samples.

    Raises
    ------
    ValueError, TypeError
        If the target does not fit; the message lists the forms.
    """
    check_entries(target, batch)
    target = _rows_of(target)
    if target is None:
        if shape and torch.Size(shape).numel() != 1:
            raise _fail(target, f"is needed for an output of shape [N, {_sizes(shape)}]")
        return Selection(shape, torch.zeros(1, batch, dtype=torch.long, device="cpu"))
    if isinstance(target, str):
        if target != "all":
            raise _fail(target, 'must not be a word other than "all"')
        count = torch.Size(shape).numel()
        return Selection(
            shape, torch.arange(count, device="cpu").unsqueeze(1).expand(-1, batch), several=True
        )
    if isinstance(target, Tensor):  # of bools
        return Selection(shape, mask=_mask(target, shape, batch))
    if isinstance(target, tuple) and any(not isinstance(i, int) for i in target):
        return Selection(shape, mask=_region(target, shape))
    if isinstance(target, (int, tuple)):
        position = _position(target, shape)
        return Selection(shape, torch.full((1, batch), position, device="cpu"))
    if not isinstance(target, (list, range)):
        raise wrong_type("target", "has an unknown form", target, FORMS)
    if len(target) == 1:
        target = list(target) * batch  # one entry serves all samples, as in captum
    if batch and isinstance(target[0], list):
        if (
            any(not isinstance(t, list) or len(t) != len(target[0]) for t in target)
            or not target[0]
        ):
            raise _fail(target, "must have the same number (>= 1) of targets for each sample")
        rows = [[_position(i, shape) for i in t] for t in target]
        return Selection(shape, torch.tensor(rows, device="cpu").T, several=True)
    positions = [_position(t, shape) for t in target]
    return Selection(shape, torch.tensor([positions], dtype=torch.long, device="cpu"))
