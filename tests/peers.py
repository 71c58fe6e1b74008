"""captum, made importable: the oracle for behaviour that users rely on.

It imports torchvision, whose compiled operators do not load beside every build of PyTorch;
declaring the two that it asks for is enough.
"""

import contextlib
from unittest import mock

import torch

libraries = []  # a library that is collected takes its operators along


def declare_torchvision_operators():
    box_suppression = "Tensor dets, Tensor scores, float iou_threshold"
    for name in ("nms", "qnms"):
        try:
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(f"{name}({box_suppression}) -> Tensor")
        except RuntimeError:  # the real ones are there
            return
        libraries.append(library)


declare_torchvision_operators()

from captum import attr as captum  # noqa: E402, F401


@contextlib.contextmanager
def float64():
    """Captum without its casts to float32, so that its formulas can be compared in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with (
            mock.patch.object(torch.Tensor, "float", torch.Tensor.double),
            mock.patch.object(torch, "FloatTensor", torch.DoubleTensor),
        ):
            yield
    finally:
        torch.set_default_dtype(before)
