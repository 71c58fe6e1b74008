"""Features: groups of input elements that are switched on and off together.

A feature mask gives each element of an input a number; elements with the same number, in one input
or in several, are one feature. Inside, features are counted 0, 1, ... M - 1 in the order of their
numbers, and `labels` hold these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...engine.arguments import as_tuple
from ...errors import MissingPackageError, describe, wrong_type, wrong_value

FORMS = (
    "Allowed: None (each element is a feature), an integer tensor that broadcasts against the "
    'input (one mask for all samples, or one for each), "slic" or "quickshift" (superpixels of '
    "images [N, C, H, W]); a tuple with one for each input."
)
SEGMENTATIONS = ("slic", "quickshift")


@dataclass(frozen=True)
class Features:
    """The features of some inputs.

    labels: for each input int64, [N or 1, ...], each dimension the input's or 1; count: how many
    features there are; numbers: the user's number of each.
    """

    labels: tuple[Tensor, ...]
    count: int
    numbers: tuple[int, ...]

    def rows(self, rows: slice) -> Features:
        """The features of some of the samples."""
        labels = tuple(m if len(m) == 1 else m[rows] for m in self.labels)
        return Features(labels, self.count, self.numbers)

    @property
    def shared(self) -> bool:
        """Whether all samples have the same features."""
        return all(len(m) == 1 for m in self.labels)

    def expanded(self, i: int, x: Tensor) -> Tensor:
        """The labels of input i, one for each element [N or 1, ...]."""
        return self.labels[i].expand(len(self.labels[i]), *x.shape[1:])


def elements(inputs: tuple[Tensor, ...]) -> Features:
    """Each element a feature of its own, counted through all inputs."""
    labels, first = [], 0
    for x in inputs:
        size = x.shape[1:].numel()
        labels.append(torch.arange(first, first + size, device=x.device).view(1, *x.shape[1:]))
        first += size
    return Features(tuple(labels), first, tuple(range(first)))


def _check_mask(who: str, mask: Any, x: Tensor) -> Tensor:
    """A mask as int64 [N or 1, ...] that broadcasts against one input."""
    if not isinstance(mask, Tensor):
        raise wrong_type(f"{who}: feature_mask", "has an unknown form", describe(mask), FORMS)
    if mask.is_complex() or (mask.is_floating_point() and not torch.equal(mask, mask.round())):
        raise wrong_type(f"{who}: feature_mask", "must be made of integers", mask, FORMS)
    m = mask.detach().to(x.device, torch.int64)
    if m.dim() < x.dim():
        m = m.view(*[1] * (x.dim() - m.dim()), *m.shape)
    sizes = zip(m.shape, x.shape, strict=False)
    if m.dim() != x.dim() or any(a not in (1, b) for a, b in sizes):
        raise wrong_value(
            f"{who}: feature_mask", f"must broadcast against the input {list(x.shape)}", mask, FORMS
        )
    return m


def _segments(who: str, word: str, x: Tensor) -> Tensor:
    """Superpixels of each image, [N, 1, H, W], from its colours between its least and greatest."""
    if word not in SEGMENTATIONS:
        raise wrong_value(
            f"{who}: feature_mask", f"must, as a word, be one of {', '.join(SEGMENTATIONS)}",
            describe(word), FORMS,
        )  # fmt: skip
    if x.dim() != 4 or not x.is_floating_point():
        raise wrong_value(
            f"{who}: feature_mask", f'"{word}" needs floating images [N, C, H, W]', x,
            "Pass an integer mask.",
        )  # fmt: skip
    images = x.detach().double()
    low, high = images.amin((1, 2, 3), True), images.amax((1, 2, 3), True)
    return superpixels(who, word, (images - low) / (high - low).clamp(min=1e-12))


def superpixels(who: str, word: str, images: Tensor) -> Tensor:
    """Superpixels of images [N, C, H, W] with colours in [0, 1], as labels [N, 1, H, W].

    Raises
    ------
    MissingPackageError
        Without scikit-image.
    """
    try:
        from skimage import segmentation
    except ImportError as error:
        raise MissingPackageError(
            f'{who}: feature_mask="{word}" needs scikit-image. Install it (pip install '
            "scikit-image), or pass an integer mask."
        ) from error
    found = []
    for image in images.cpu().double():
        colours = image.movedim(0, -1).numpy()
        if word == "slic":
            labels = segmentation.slic(colours, n_segments=50, channel_axis=-1, start_label=0)
        else:  # the book's listing, section 22.2.1
            rgb = colours if colours.shape[-1] == 3 else colours[..., :1].repeat(3, -1)
            labels = segmentation.quickshift(rgb, kernel_size=4, max_dist=200, ratio=0.2)
        found.append(torch.from_numpy(labels).long().unsqueeze(0))
    return torch.stack(found).to(images.device)


def check_features(who: str, mask: Any, inputs: tuple[Tensor, ...], gaps: bool = True) -> Features:
    """Check a feature mask in any of its forms.

    Parameters
    ----------
    who : name of the explainer, for errors.
    mask : see `FORMS`.
    inputs : [N, ...] each.
    gaps : whether numbers between the least and the greatest may be missing; a surrogate would
        fit features that are not there.

    Raises
    ------
    ValueError, TypeError
        If the mask does not fit the inputs.
    """
    if mask is None:
        return elements(inputs)
    if isinstance(mask, str):
        mask = tuple(_segments(who, mask, x) for x in inputs)
    given = as_tuple(mask)
    if len(given) != len(inputs):
        raise wrong_value(
            f"{who}: feature_mask", f"must hold one for each of the {len(inputs)} inputs",
            f"{len(given)}", FORMS,
        )  # fmt: skip
    masks = [_check_mask(who, m, x) for m, x in zip(given, inputs, strict=True)]
    flat = [m.flatten() for m in masks]
    device = flat[0].device
    numbers, counted = torch.unique(torch.cat([m.to(device) for m in flat]), return_inverse=True)
    if not gaps and numbers.numel() and int(numbers[-1] - numbers[0]) + 1 != numbers.numel():
        present = set(numbers.tolist())
        missing = [n for n in range(min(present), max(present)) if n not in present][:5]
        raise wrong_value(
            f"{who}: feature_mask", "must use every number between its least and its greatest",
            f"a mask without {missing}",
            "Number the segments in a row: torch.unique(mask, return_inverse=True)[1].",
        )  # fmt: skip
    parts = counted.split([m.numel() for m in flat])
    labels = tuple(p.view(m.shape).to(m.device) for p, m in zip(parts, masks, strict=True))
    return Features(labels, numbers.numel(), tuple(numbers.tolist()))
