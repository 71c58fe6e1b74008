"""The peers, made runnable: zennit 0.5.1 and captum 0.9.0.

Both import torchvision, whose compiled operators do not load beside a CPU build of PyTorch;
declaring the two that it asks for is enough.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import models


def declare_torchvision_operators() -> None:
    """Let `import torchvision` succeed without its compiled operators."""
    box_suppression = "Tensor dets, Tensor scores, float iou_threshold"
    for name in ("nms", "qnms"):
        try:
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(f"{name}({box_suppression}) -> Tensor")
        except RuntimeError:  # the real ones are there
            return
        _libraries.append(library)


_libraries: list[
    torch.library.Library
] = []  # a library that is collected takes its operators along
declare_torchvision_operators()

from captum import attr as captum  # noqa: E402, F401
from captum.attr import LRP as CaptumLRP  # noqa: E402, N811
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule  # noqa: E402
from zennit import canonizers, composites, layer, rules, types  # noqa: E402
from zennit.attribution import Gradient  # noqa: E402


class BottleneckCanonizer(canonizers.AttributeCanonizer):
    """zennit needs to be told where our Bottleneck adds; its own canonizer knows torchvision's."""

    def __init__(self) -> None:
        super().__init__(self._attributes)

    @staticmethod
    def _attributes(name: str, module: nn.Module) -> dict | None:
        if not isinstance(module, models.Bottleneck):
            return None
        return {
            "forward": BottleneckCanonizer.forward.__get__(module),
            "canonizer_sum": layer.Sum(),
        }

    @staticmethod
    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.canonizer_sum(torch.stack([shortcut, y], dim=-1)))


def _canonizers() -> list:
    return [canonizers.SequentialMergeBatchNorm(), BottleneckCanonizer()]


def zennit_composite(name: str, low: float, high: float, x: Tensor):
    """The zennit composite that corresponds to one of ours."""
    options = {"canonizers": _canonizers()}
    if name == "Epsilon":
        layers = [
            (types.Activation, rules.Pass()),
            (types.AvgPool, rules.Norm()),
            (layer.Sum, rules.Norm()),
            (types.BatchNorm, rules.Pass()),
            (types.Linear, rules.Epsilon()),
        ]
        return composites.LayerMapComposite(layers, **options)
    if name == "EpsilonGammaBox":
        bounds = {"low": torch.full_like(x[:1], low), "high": torch.full_like(x[:1], high)}
        return composites.EpsilonGammaBox(**bounds, **options)
    return getattr(composites, name)(**options)


def zennit_attribution(model: nn.Module, composite, x: Tensor, targets: Tensor) -> Tensor:
    """Relevance that starts from the target's output, as ours does."""

    def start(output: Tensor) -> Tensor:
        return output * torch.nn.functional.one_hot(targets, output.shape[1])

    with Gradient(model=model, composite=composite) as attributor:
        return attributor(x, start)[1].detach()


def captum_explainer(model: nn.Module, name: str) -> CaptumLRP | None:
    """LRP of captum with the rules of a composite, on a model that it can explain; else None."""
    known = {"Epsilon": EpsilonRule, "EpsilonPlusFlat": Alpha1_Beta0_Rule}
    if name not in known or any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        return None
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
        if isinstance(module, nn.Conv2d):
            module.rule = known[name]()
    # captum has no rule for nn.Flatten; a reshape in between it does not see.
    return CaptumLRP(_Reshaped(model))


class _Reshaped(nn.Module):
    """A sequential model with its Flatten as a call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        parts = list(model)  # type: ignore[call-overload]
        at = next(i for i, m in enumerate(parts) if isinstance(m, nn.Flatten))
        self.features, self.classifier = nn.Sequential(*parts[:at]), nn.Sequential(*parts[at + 1 :])

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))
