"""Tensors for the tests of ops: dtypes, layouts, values that are exact, and how close is close."""

import torch

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def close(got, expected, dtype):
    """Within the rounding of the dtype, relative to the largest value; nothing left unwritten."""
    assert got.shape == expected.shape
    assert torch.isfinite(got).all()
    scale = max(float(expected.abs().max()), 1e-30) if expected.numel() else 1.0
    error = float((got.double() - expected).abs().max()) if expected.numel() else 0.0
    assert error <= TOLERANCE[dtype] * scale


def signed(*shape, device="cpu"):
    """Random signed numbers that every dtype holds exactly."""
    return (torch.randint(-512, 513, shape, device=device) / 128.0).double()


def strided(x):
    """The same values at every other place of a wider tensor."""
    return torch.stack([x, x], -1).flatten(-2)[..., ::2] if x.dim() > 1 and x.numel() else x


def channels_last(x):
    """Channels inside, where PyTorch has that for the number of dimensions."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.to(memory_format=formats[x.dim()]) if x.dim() in formats else x


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": channels_last,
    "strided": strided,
    "expanded": lambda x: x[:1].expand_as(x) if x.shape[0] > 1 else x,
}
