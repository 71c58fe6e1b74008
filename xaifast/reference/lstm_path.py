"""The LSTM path op of `xaifast.ops` in plain PyTorch: autograd through the recurrence."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["lstm_path"]


def lstm_path(
    start: Tensor,
    change: Tensor,
    w: Tensor,
    alpha: Tensor,
    weight: Tensor,
    seed_h: Tensor,
    seed_c: Tensor,
    step: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step after the other, all nodes of all samples at once."""
    (N, T, gates), H = change.shape, w.shape[1]
    M, K = len(weight), alpha.shape[1]
    if step.numel() and not ((step >= 0) & (step < T)).all():
        raise ValueError(f"lstm_path: step must lie in [0, T) for T = {T}, got {step}")
    with torch.enable_grad():
        a = start[:, None] + alpha.to(change)[:, :, None, None] * change[:, None]  # [N, K, T, 4H]
        a = a.detach().requires_grad_()
        h = c = a.new_zeros(N, K, H)
        hs, cs = [h.unsqueeze(0)[:0]], [c.unsqueeze(0)[:0]]
        for at in a.unbind(2):
            i, f, g, o = (at + h @ w.T).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            hs.append(h[None])
            cs.append(c[None])
        states = torch.cat(hs), torch.cat(cs)  # [T, N, K, H]
        total = change.new_zeros(M, N, T, gates)
        S, slope = (torch.zeros_like(weight) for _ in range(2))
        n = torch.arange(N, device=change.device)
        for m in range(M if T else 0):
            h, c = (x[step[m], n] for x in states)  # [N, K, H]
            value = (h * seed_h[m][:, None]).sum(-1) + (c * seed_c[m][:, None]).sum(-1)
            (da,) = torch.autograd.grad(value.sum(), a, retain_graph=True)
            total[m] = torch.einsum("nk,nktg->ntg", weight[m], da.double()).to(total)
            S[m], slope[m] = value.detach(), (da * change[:, None]).sum((2, 3), dtype=S.dtype)
    return total, S, slope
