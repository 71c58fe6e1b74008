"""Winograd's convolution in plain PyTorch: its matrices, its weights, its three steps."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["winograd_conv", "winograd_weights"]

# F(2, 3): y = A^T [(G w) . (B^T x)], by interpolation at 0, 1, -1 and infinity.
A_T = [[1, 1, 1, 0], [0, 1, -1, -1]]
G = [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]]
B_T = [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]


def winograd_weights(w: Tensor) -> Tensor:
    """G w G^T, computed in float64, in panels of 128 bytes of outputs."""
    panel = 128 // w.element_size()
    g = torch.tensor(G, dtype=torch.float64, device=w.device)
    u = torch.einsum("ia,kcab,jb->ijkc", g, w.double(), g).to(w.dtype)
    return u.unflatten(2, (-1, panel)).transpose(3, 4).contiguous()


def winograd_conv(x: Tensor, w: Tensor, b: Tensor | None, relu: bool, padding: int) -> Tensor:
    """A^T [(G w G^T) . (B^T x B)] A + b for each tile."""
    H, W = (n + 2 * padding - 2 for n in x.shape[2:])
    a_t, b_t = (torch.tensor(m, dtype=x.dtype, device=x.device) for m in (A_T, B_T))
    p = padding
    # Up to whole tiles, and one where there is no output.
    right, below = (max(n % 2, 2 - n) for n in (W, H))
    around = torch.nn.functional.pad(x, (p, p + right, p, p + below))
    tiles = around.unfold(2, 4, 2).unfold(3, 4, 2)
    v = torch.einsum("ip,nchwpq,jq->ijnhwc", b_t, tiles, b_t)
    m = torch.einsum("ijnhwc,ijpck->ijnhwpk", v, w).flatten(5)
    y = torch.einsum("pi,ijnhwk,qj->nkhpwq", a_t, m, a_t)
    y = y.reshape(*y.shape[:2], y.shape[2] * 2, y.shape[4] * 2)[:, :, :H, :W]
    y = y if b is None else y + b.view(-1, 1, 1)
    return (y.relu() if relu else y).contiguous(memory_format=torch.channels_last)
