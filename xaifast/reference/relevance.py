"""The relevance ops of `xaifast.ops` in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "add_split",
    "backward_product",
    "multiply_parts",
    "pool_redistribute",
    "relprop_conv",
    "relprop_linear",
    "split_signs",
    "stabilize",
    "stabilized_divide",
]


def stabilize(z: Tensor, eps: float | Tensor) -> Tensor:
    """z + eps sgn z, with sgn 0 = +1; NaN where that is infinite: no R / inf becomes 0."""
    d = torch.where(z >= 0, z + eps, z - eps)
    return d - (d - d)


def stabilized_divide(R: Tensor, z: Tensor, b: Tensor | None, eps: float) -> Tensor:
    """s = R / (z + b + eps sgn(z + b)), with 0/0 = 0/inf = 0; NaN for any other R/inf."""
    if b is not None:
        z = z + b.view(-1, *[1] * (z.dim() - 2))
    return quotient(R, z, stabilize(z, eps))


def quotient(R: Tensor, z: Tensor, d: Tensor) -> Tensor:
    """R / d for d of `stabilize(z)`: 0 where d is 0, and where R is 0 and z infinite."""
    return torch.where((d == 0) | ((R == 0) & z.isinf()), 0, R / d)


def multiply_parts(u: Tensor, c: Tensor, parts: int) -> Tensor:
    """R_j = sum_p u_pj c_pj, where c has targets x N rows for the N of u."""
    targets = c.shape[0] // u.shape[0] if u.shape[0] else 0
    R = u.repeat(targets, *[1] * (u.dim() - 1)) * c
    return sum(R.chunk(parts, 1))  # type: ignore[return-value]


def split_signs(a: Tensor) -> Tensor:
    """Put both parts of a side by side, u = [max(a, 0), min(a, 0)]."""
    return torch.cat([a.clamp(min=0), a.clamp(max=0)], 1)


def add_split(x: Tensor, y: Tensor, R: Tensor, beta: float, eps: float) -> tuple[Tensor, Tensor]:
    """Rx = x s and Ry = beta y s with s = R / (z + eps sgn z), z = x + beta y."""
    s = stabilized_divide(R, x + beta * y, None, eps)
    return x * s, beta * y * s


def _windows(a: Tensor, kernel, stride, padding, dilation, out, fill: float) -> Tensor:
    """The windows of a pooling as [N, C, *out, prod(kernel)], `fill` outside of a."""
    d = len(kernel)
    # Far enough for every window that ceil mode lets overhang.
    need = [
        (o - 1) * s + (k - 1) * w + 1
        for o, s, k, w in zip(out, stride, kernel, dilation, strict=True)
    ]
    after = [max(0, n - size - p) for n, size, p in zip(need, a.shape[2:], padding, strict=True)]
    x = a
    # Not by pad, which asks for the memory format: that would fix the batch of a recorded graph.
    for i, (p, q) in enumerate(zip(padding, after, strict=True), start=2):
        first, last = (x.new_full((*x.shape[:i], n, *x.shape[i + 1 :]), fill) for n in (p, q))
        x = torch.cat([first, x, last], i)
    for i in range(d):
        x = x.unfold(2 + i, (kernel[i] - 1) * dilation[i] + 1, stride[i]).narrow(2 + i, 0, out[i])
    for i in range(d):  # of the windows, which are the last dimensions, every dilation-th element
        taps = torch.arange(kernel[i], device=x.device) * dilation[i]
        x = x.index_select(2 + d + i, taps)
    return x.flatten(-d)


def pool_redistribute(
    a: Tensor,
    R: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    rule: str,
    eps: float,
) -> Tensor:
    """Winner-take-all: R to the first largest input; proportional: R_i = a_i R / (z + eps)."""
    geometry = (tuple(kernel), tuple(stride), tuple(padding), tuple(dilation))
    dims = a.dim()
    out = R.shape[R.dim() - dims + 2 :]
    targets = R.unsqueeze(0) if R.dim() == dims else R
    # Where each window element comes from: index + 1, 0 for the padding.
    index = torch.arange(1, a[0, 0].numel() + 1, device=a.device, dtype=torch.float64)
    index = index.view(1, 1, *a.shape[2:])
    source = _windows(index, *geometry, out, 0.0).long().expand(*a.shape[:2], *out, -1)
    if rule == "winner_take_all":
        windows = _windows(a, *geometry, out, float("-inf")).double()
        windows = torch.where(windows.isnan(), torch.inf, windows).masked_fill(
            source == 0, -torch.inf
        )
        # The first largest element, and never the padding.
        order = torch.arange(windows.shape[-1], 0, -1, device=a.device, dtype=torch.float64)
        first = (windows == windows.amax(-1, keepdim=True)) & (source > 0)
        winner = torch.zeros_like(windows).scatter(
            -1, (first * order).argmax(-1, keepdim=True), 1.0
        )
        shares = winner.to(R.dtype) * targets.unsqueeze(-1)
    else:
        windows = _windows(a, *geometry, out, 0.0)
        z = windows.sum(-1)
        shares = (
            windows
            * torch.stack([stabilized_divide(Rt, z, None, eps) for Rt in targets])[..., None]
        )
    r = a.new_zeros(len(targets), *a.shape[:2], a[0, 0].numel() + 1)
    for t, share in enumerate(shares):
        r[t].scatter_add_(2, source.flatten(2), share.flatten(2))
    r = r[..., 1:].unflatten(-1, a.shape[2:])
    return r[0] if R.dim() == dims else r


def backward_product(s: Tensor, w: Tensor) -> Tensor:
    """c = s w."""
    return s @ w


def _per_target(R: Tensor, dims: int, propagate) -> Tensor:
    """Apply propagate to R, or to each entry of its leading axis of targets."""
    return propagate(R) if R.dim() == dims else torch.stack([propagate(Rt) for Rt in R])


def relprop_conv(
    u: Tensor,
    R: Tensor,
    w: Tensor,
    w_t: Tensor,
    b: Tensor | None,
    z: Tensor | None,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    eps: float,
    parts: int,
) -> Tensor:
    """Eq. 10.2 in its four steps: z = w u + b, s = R / (z + eps sgn z), c = w^T s, R_j = u c."""
    place = (list(stride), list(padding), list(dilation), transposed, list(output_padding))
    grouped = parts == 2 and groups > 1  # then each part has groups of its own

    def forward(u: Tensor, w: Tensor) -> Tensor:
        z = torch.ops.aten.convolution(u, w, None, *place, groups * (2 if grouped else 1))
        return sum(z.chunk(2, 1)) if grouped else z

    def propagate(R: Tensor) -> Tensor:
        s = stabilized_divide(R, denominator, bias, eps)
        low, s = u.to(w_t.dtype), s.to(w_t.dtype)
        c = torch.autograd.functional.vjp(lambda u: forward(u, w_t), low, s)[1].to(u.dtype)
        return multiply_parts(u, c, parts)

    denominator, bias = (forward(u, w), b) if z is None else (z, None)
    return _per_target(R, u.dim(), propagate)


def relprop_linear(
    u: Tensor, R: Tensor, w: Tensor, b: Tensor | None, z: Tensor | None, eps: float, parts: int
) -> Tensor:
    """Eq. 10.2 for z = u w^T + b."""
    denominator, bias = (u @ w.T, b) if z is None else (z, None)

    def propagate(R: Tensor) -> Tensor:
        return multiply_parts(u, stabilized_divide(R, denominator, bias, eps) @ w, parts)

    return _per_target(R, u.dim(), propagate)
