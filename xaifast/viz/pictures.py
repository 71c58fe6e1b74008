"""Heatmaps, inputs as images, and grids of both (book, sections 22.2.3 and 22.A.5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import wrong_type, wrong_value
from .optional import need

# From the most negative to the most positive: blue, white, red.
RAMP = np.array(
    [[5, 48, 97], [67, 147, 195], [255, 255, 255], [214, 96, 77], [103, 0, 31]], dtype=np.float64
)
GAP, FONT = 6, 13  # of a grid, in pixels
SHAPES = "Pass one sample, [H, W] or [C, H, W]."


# ---- one picture -----------------------------------------------------------------------------


def heatmap(relevance: Tensor | np.ndarray, limit: float | None = None) -> np.ndarray:
    """Colour a map of relevance: red where positive, white where zero, blue where negative.

    Channels are summed first, r = sum_c R_c; the colour stands for r / limit in [-1, 1].

    Parameters
    ----------
    relevance : Tensor or array [H, W] or [C, H, W]
        Relevance of one sample.
    limit : float, optional
        Relevance of the fullest colours (beyond it they stay); default max |r|. Give several maps
        the same limit to compare them.

    Returns
    -------
    ndarray [H, W, 3] of uint8
        RGB.

    Raises
    ------
    TypeError
        If relevance is neither a tensor nor an array of real numbers.
    ValueError
        If it has another number of dimensions, no elements, or values that are not finite; or if
        limit is not positive.

    References
    ----------
    Book, sections 22.2.3 and 22.A.5 (explanation_to_heatmap, in colours that print well).

    Examples
    --------
    >>> import numpy as np
    >>> from xaifast import viz
    >>> viz.heatmap(np.array([[-2.0, 0.0, 2.0]])).tolist()
    [[[5, 48, 97], [255, 255, 255], [103, 0, 31]]]
    """
    r = _map("heatmap: relevance", relevance).sum(0)
    if limit is None:
        limit = float(np.abs(r).max()) or 1.0
    elif not limit > 0:
        raise wrong_value("heatmap: limit", "must be > 0", limit, "Leave it out for max |R|.")
    place = np.clip(r / limit, -1, 1)
    anchors = np.linspace(-1, 1, len(RAMP))
    colours = [np.interp(place, anchors, RAMP[:, i]) for i in range(3)]
    return np.rint(np.stack(colours, -1)).astype(np.uint8)


def to_image(x: Tensor | np.ndarray) -> np.ndarray:
    """Show an input: three channels as RGB, any other number as the grey of their mean.

    Values in [0, 1] are shown as they are; others are stretched from their minimum to their
    maximum.

    Parameters
    ----------
    x : Tensor or array [H, W] or [C, H, W]
        One sample.

    Returns
    -------
    ndarray [H, W, 3] of uint8
        RGB.

    Raises
    ------
    TypeError
        If x is neither a tensor nor an array of real numbers.
    ValueError
        If x has another number of dimensions, no elements, or values that are not finite.

    Examples
    --------
    >>> import torch
    >>> from xaifast import viz
    >>> viz.to_image(torch.ones(1, 28, 28)).shape
    (28, 28, 3)
    """
    image = _map("to_image: x", x)
    if len(image) != 3:
        image = image.mean(0, keepdims=True).repeat(3, axis=0)
    low, high = image.min(), image.max()
    if low < 0 or high > 1:
        image = (image - low) / max(high - low, 1e-12)
    return np.rint(image * 255).astype(np.uint8).transpose(1, 2, 0)


def _map(who: str, x: Tensor | np.ndarray) -> np.ndarray:
    """Check one sample; as a float64 array [C, H, W]."""
    if isinstance(x, Tensor) and not x.is_complex():
        x = x.detach().cpu().double().numpy()
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "fiub":
        raise wrong_type(who, "must be a tensor or an array of real numbers", x, SHAPES)
    if x.ndim not in (2, 3) or not x.size:
        raise wrong_value(who, "must have 2 or 3 dimensions and some elements", x, SHAPES)
    if not np.isfinite(x).all():
        raise wrong_value(who, "must be finite", "NaN or infinite values", "Clean it first.")
    return x.reshape(-1, *x.shape[-2:]).astype(np.float64)


# ---- many pictures ---------------------------------------------------------------------------


def grid(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    cell: int = 96,
) -> Any:
    """Lay out pictures in rows and columns, as one picture.

    Parameters
    ----------
    rows : list of lists of ndarray [H, W, 3] of uint8
        The pictures (see `heatmap`, `to_image`), row by row; enlarged to the cell, each pixel to
        a square.
    titles : list of str, optional
        One above each column; may have several lines.
    labels : list of str, optional
        One to the left of each row.
    cell : int, default 96
        The longer side of each picture, in pixels; as it is in the largest, if that is more.

    Returns
    -------
    PIL.Image.Image
        `.save("grid.png")` writes it.

    Raises
    ------
    TypeError
        If a picture is not an RGB array of uint8.
    ValueError
        If there is no picture, rows differ in length, titles or labels do not match, or cell < 1.
    ImportError
        If Pillow is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from xaifast import viz
    >>> R = np.array([[1.0, -1.0], [0.0, 2.0]])
    >>> viz.grid([[viz.to_image(R), viz.heatmap(R)]], titles=["input", "relevance"]).size
    (210, 132)
    """
    _check_grid(rows, titles, labels, cell)
    image, draw = (need("grid", f"PIL.{name}", "pillow") for name in ("Image", "ImageDraw"))
    font = need("grid", "PIL.ImageFont", "pillow").load_default(FONT)
    cell = max([cell, *(n for row in rows for x in row for n in x.shape[:2])])
    pictures = [[_enlarged(image, x, cell) for x in row] for row in rows]
    pen = draw.Draw(image.new("RGB", (1, 1)))
    widths = [x.width for row in pictures for x in row]
    wide = max([*widths, *(_size(pen, title, font)[0] for title in titles or ())])
    tall = max(x.height for row in pictures for x in row)
    left = max((_size(pen, label, font)[0] + GAP for label in labels or ()), default=0)
    top = max((_size(pen, title, font)[1] + GAP for title in titles or ()), default=0)
    x = [GAP + left + j * (wide + GAP) for j in range(len(rows[0]) + 1)]
    y = [GAP + top + i * (tall + GAP) for i in range(len(rows) + 1)]
    sheet = image.new("RGB", (x[-1], y[-1]), "white")
    pen = draw.Draw(sheet)
    for at, title in zip(x, titles or (), strict=False):
        pen.text((at + wide // 2, top), title, "black", font, anchor="md", align="center")
    for at, label in zip(y, labels or (), strict=False):
        pen.text((GAP, at + tall // 2), label, "black", font, anchor="lm")
    for i, row in enumerate(pictures):
        for j, picture in enumerate(row):
            _paste(sheet, pen, picture, x[j] + wide // 2, y[i] + tall // 2)
    return sheet


def _check_grid(rows: Any, titles: Any, labels: Any, cell: int) -> None:
    lengths = sorted({len(row) for row in rows})
    if len(lengths) != 1 or not lengths[0]:
        raise wrong_value(
            "grid: rows", "must have the same number of pictures (>= 1)", f"rows of {lengths}",
            "Fill gaps with np.full((1, 1, 3), 255, np.uint8).",
        )  # fmt: skip
    for who, words, of, count in (
        ("titles", titles, "column", lengths[0]),
        ("labels", labels, "row", len(rows)),
    ):
        if words is not None and len(words) != count:
            raise wrong_value(
                f"grid: {who}", f"must be {count}, one for each {of}", str(len(words)),
                "Or leave them out.",
            )  # fmt: skip
    if cell < 1:
        raise wrong_value("grid: cell", "must be at least 1 pixel", cell, "The default is 96.")
    for picture in (x for row in rows for x in row):
        _check_picture(picture)


def _check_picture(x: Any) -> None:
    rgb = isinstance(x, np.ndarray) and x.dtype == np.uint8 and x.ndim == 3 and x.shape[2] == 3
    if not rgb or not x.size:
        raise wrong_type(
            "grid: rows", "must hold RGB pictures, arrays [H, W, 3] of uint8", x,
            "Make them with heatmap or to_image.",
        )  # fmt: skip


def _size(pen: Any, text: str, font: Any) -> tuple[int, int]:
    """Width and height of a text, in whole pixels."""
    left, _, right, _ = pen.textbbox((0, 0), text, font, align="center")
    lines = text.count("\n") + 1
    return int(np.ceil(right - left)), lines * (FONT + 5)


def _enlarged(image: Any, picture: np.ndarray, cell: int) -> Any:
    """The picture with its longer side as long as the cell."""
    scale = cell / max(picture.shape[:2])
    height, width = (max(1, round(n * scale)) for n in picture.shape[:2])
    return image.fromarray(picture).resize((width, height), image.Resampling.NEAREST)


def _paste(sheet: Any, pen: Any, picture: Any, x: int, y: int) -> None:
    """Put a picture around a point, in a thin frame."""
    x, y = x - picture.width // 2, y - picture.height // 2
    sheet.paste(picture, (x, y))
    pen.rectangle((x - 1, y - 1, x + picture.width, y + picture.height), outline=(190, 190, 190))
