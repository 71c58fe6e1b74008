"""Samples from files: images and numpy arrays, checked as they are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import wrong_type, wrong_value
from .optional import need, short

IMAGES = (".png", ".jpg", ".jpeg")
FILES = (*IMAGES, ".npy")


@dataclass(frozen=True)
class Reader:
    """How files become samples, without the batch dimension.

    size: height and width that images are resized to; mean, std: one number, or one for each
    channel, that normalize images; dtype: of floating samples. Arrays are taken as they are.
    """

    size: tuple[int, int] | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    dtype: torch.dtype = torch.float32

    def __call__(self, path: Path) -> Tensor:
        """The sample as the model takes it."""
        image = path.suffix.lower() in IMAGES
        x = torch.from_numpy(self._image(path) if image else _array(path))
        if x.is_floating_point() and not torch.isfinite(x).all():
            raise wrong_value("input", "must be finite", f"NaN or infinity in {path}", "Clean it.")
        x = x.to(self.dtype) if x.is_floating_point() else x.long()
        return self._normalized(path, x) if image else x

    def _image(self, path: Path) -> np.ndarray:
        """[C, H, W] in [0, 1]."""
        image, ops = (need("explain", f"PIL.{name}", "pillow") for name in ("Image", "ImageOps"))
        try:
            with image.open(path) as opened:
                return _pixels(ops.exif_transpose(opened), self.size)
        except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:
            raise wrong_value(
                "input", f"must be an image that can be read ({short(error)})", str(path),
                "Convert it to png.",
            ) from error  # fmt: skip

    def _normalized(self, path: Path, x: Tensor) -> Tensor:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is None:
                continue
            if len(values) not in (1, len(x)):
                raise wrong_value(
                    name, f"must have one number or {len(x)}, the channels of {path}", values,
                    "Separate them by commas.",
                )  # fmt: skip
            v = x.new_tensor(values).view(-1, 1, 1)
            x = x - v if name == "mean" else x / v
        return x


def _pixels(image: Any, size: tuple[int, int] | None) -> np.ndarray:
    deep = image.mode.startswith("I")  # 16 bits
    grey = deep or image.mode in ("1", "L", "LA")
    image = image.convert("I" if deep else "L" if grey else "RGB")
    if size is not None:
        image = image.resize((size[1], size[0]), 2)  # bilinear
    x = np.asarray(image, np.float32) / (65535 if deep else 255)
    return x[None] if grey else np.ascontiguousarray(x.transpose(2, 0, 1))


def _array(path: Path) -> np.ndarray:
    try:
        x = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise wrong_value(
            "input", f"must be an array that numpy.save wrote ({short(error)})", str(path),
            "Save one array of numbers, without objects.",
        ) from error  # fmt: skip
    if x.dtype.kind not in "fiu" or not x.size or not x.ndim:
        raise wrong_type(
            "input", f"{path} must hold a sample [C, H, W] or [features] of real numbers", x,
            "Leave the batch dimension out.",
        )  # fmt: skip
    return x.astype(x.dtype.newbyteorder("="), copy=False)
