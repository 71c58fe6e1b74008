"""captum, made importable: the oracle for behaviour that users rely on.

It imports torchvision, whose compiled operators do not load beside every build of PyTorch;
declaring the two that it asks for is enough.
"""

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
