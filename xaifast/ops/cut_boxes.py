"""Boxes of maps: what is recomputed when a part of an input changes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .. import reference
from .native import is_native, library
from .registration import fake

__all__ = ["cut_boxes"]


def cut_boxes(
    x: Tensor, box: Tensor | None, origin: Tensor | None, start: Tensor, size: Sequence[int],
    fill: float = 0.0,
) -> Tensor:  # fmt: skip
    """Cut boxes out of one map that each row has changed in a box of its own.

    out[r, p, :] = box[r, start[r] + p - origin[r], :] where that is in the box, else
                   x[start[r] + p, :] where that is in the map, else fill

    Parameters
    ----------
    x : Tensor [*shape, channels]
        The map without changes, with 1 to 3 spatial axes; its channels are last.
    box : Tensor [rows, *any size, channels], optional
        What is changed in each row.
    origin : Tensor [axes, rows] of int64, optional
        Where each changed box begins in the map.
    start : Tensor [axes, rows] of int64
        Where each box to cut out begins; it may reach beyond the map. Neither is beyond 2^61.
    size : ints, one for each axis
        Its size.
    fill : float, default 0
        What is beyond the map.

    Returns
    -------
    Tensor [rows, *size, channels]

    Raises
    ------
    TypeError, ValueError
        For dtypes, shapes or numbers that do not fit.

    Examples
    --------
    >>> import torch
    >>> from xaifast import ops
    >>> x, box = torch.arange(5.0).view(5, 1), torch.tensor([[[9.0]], [[9.0]]])
    >>> origin, start = torch.tensor([[1, 4]]), torch.tensor([[0, 3]])
    >>> ops.cut_boxes(x, box, origin, start, [3]).view(2, 3)
    tensor([[0., 9., 2.],
            [3., 9., 0.]])
    """
    call = library.cut_boxes if is_native(x) else reference.cut_boxes
    return call(x, box, origin, start, size, fill)


# ---- fake kernels: shapes only, for torch.compile and torch.export ---------------------------


@fake("cut_boxes", x="*S C", start="int64 A R", box="R *_ C", origin="int64 A R")
def _(x, box, origin, start, size, fill):
    return x.new_empty((start.shape[1], *size, x.shape[-1]))
