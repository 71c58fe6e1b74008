"""VGG-16, ResNet-18 and ResNet-50 as published: no torchvision, no weights to fetch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


def vgg16() -> nn.Sequential:
    """VGG-16 (Simonyan and Zisserman 2015)."""
    layers: list[nn.Module] = []
    channels = 3
    for width in VGG16:
        if width == "M":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, int(width), 3, padding=1), nn.ReLU(inplace=True)]
            channels = int(width)
    layers += [nn.AdaptiveAvgPool2d(7), nn.Flatten()]
    for width, out in ((512 * 49, 4096), (4096, 4096)):
        layers += [nn.Linear(width, out), nn.ReLU(inplace=True), nn.Dropout()]
    return nn.Sequential(*layers, nn.Linear(4096, 1000))


class Bottleneck(nn.Module):
    """The block of ResNet-50: 1x1, 3x3 (with the stride) and 1x1 convolutions, and a shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or channels != out:
            shortcut = nn.Conv2d(channels, out, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Basic(nn.Module):
    """The block of ResNet-18: two 3x3 convolutions and a shortcut.

    Each ReLU is a module of its own, which captum's DeepLift needs.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1, self.relu1 = nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or channels != width:
            shortcut = nn.Conv2d(channels, width, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """ResNets as published (He et al. 2016), ResNet-50 with the stride in the 3x3 convolution."""

    def __init__(self, block: type[nn.Module], counts: tuple[int, ...], expansion: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        blocks, channels = [], 64
        for width, count, stride in zip((64, 128, 256, 512), counts, (1, 2, 2, 2), strict=True):
            for i in range(count):
                blocks.append(block(channels, width, stride if i == 0 else 1))
                channels = expansion * width
        self.blocks = nn.Sequential(*blocks)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(channels, 1000)

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        return self.fc(torch.flatten(self.avgpool(y), 1))


def resnet18() -> ResNet:
    """ResNet-18."""
    return ResNet(Basic, (2, 2, 2, 2), 1)


def resnet50() -> ResNet:
    """ResNet-50."""
    return ResNet(Bottleneck, (3, 4, 6, 3), 4)


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights that keep the scale, biases and batch-norm statistics that are not trivial."""
    generator = torch.Generator().manual_seed(seed)

    def draw(p: Tensor, std: float, mean: float = 0.0) -> None:
        p.copy_(torch.randn(p.shape, generator=generator) * std + mean)

    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, (nn.Conv2d, nn.Linear)):
                draw(m.weight, (2.0 / m.weight[0].numel()) ** 0.5)
                if m.bias is not None:
                    draw(m.bias, 0.05)
            elif isinstance(m, nn.BatchNorm2d):
                draw(m.weight, 0.05, 0.8)
                draw(m.bias, 0.05)
                draw(m.running_mean, 0.05)
                m.running_var.copy_(torch.rand(m.running_var.shape, generator=generator) + 0.5)
    return model.eval()


MODELS = {"VGG-16": vgg16, "ResNet-18": resnet18, "ResNet-50": resnet50}
