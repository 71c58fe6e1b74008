"""Small networks with the features that trip explainers up, and their inputs."""

import functools

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class Residual(nn.Module):
    """A block with batch norm, a reused in-place ReLU and an addition in the forward code."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x
        return self.relu(y)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(Residual(8), Residual(8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2, 1)
        return self.head(self.blocks(x).mean((2, 3)))


class DenseNet(nn.Module):
    """Batch norm before the ReLU and the convolution: nothing to fold it into."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(6 + 4 * i) for i in range(3)])
        self.convs = nn.ModuleList([nn.Conv2d(6 + 4 * i, 4, 3, padding=1) for i in range(2)])
        self.pool = nn.AvgPool2d(2)
        self.head = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.pool(F.relu(self.stem(x)))]
        for norm, conv in zip(self.norms, self.convs, strict=False):
            features.append(conv(F.relu(norm(torch.cat(features, 1)))))
        y = F.relu(self.norms[-1](torch.cat(features, 1)))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(y, 1), 1))


class Inception(nn.Module):
    """Parallel branches: dilated, 1x1, pooled; concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2)
        self.a = nn.Sequential(nn.Conv2d(6, 3, 1), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(6, 4, 3, padding=2, dilation=2), nn.ReLU())
        self.c = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(6, 2, 1), nn.ReLU())
        self.head = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        y = torch.cat([self.a(x), self.b(x), self.c(x)], dim=1)
        return self.head(y.amax((2, 3)))


class Depthwise(nn.Module):
    """A depthwise separable block with ReLU6, a shuffle of channels and a squeeze gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pointwise = nn.Conv2d(8, 8, 1, groups=2)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.bn(self.stem(x)))
        y = self.pointwise(F.relu6(self.depthwise(x)))
        y = y.view(len(y), 2, 4, *y.shape[2:]).transpose(1, 2).reshape(y.shape)
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        x = x + y * gate
        left, right = x.chunk(2, 1)
        return self.head(torch.cat([right, left], 1).mean(dim=(-1, -2)))


class Reused(nn.Module):
    """One convolution and one ReLU used three times; functional calls between."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.relu = nn.ReLU()
        self.head = nn.Linear(3 * 5 * 5, 5)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.relu(self.conv(x))
        x = F.adaptive_max_pool2d(x, 5)
        return self.head(x.reshape(x.size(0), -1))


class Smooth(nn.Module):
    """Activations that can be negative, and an affine input normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1))
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding_mode="reflect")
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / 0.5
        x = F.silu(self.conv2(F.pad(F.gelu(self.conv1(x)), (1, 1, 1, 1), mode="circular")))
        return self.head(F.elu(self.up(x)).mean((2, 3)))


class Volume(nn.Module):
    """Three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 4, 3, padding=1)
        self.bn = nn.BatchNorm3d(4)
        self.pool = nn.MaxPool3d((1, 2, 2))
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(F.relu(self.bn(self.conv(x)))).mean((2, 3, 4)))


class Sequence(nn.Module):
    """One dimension, dense layers over features, batch norm behind a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 6, 3, padding=1)
        self.mix = nn.Linear(6, 9)
        self.up = nn.ConvTranspose1d(9, 12, 3, stride=2)
        self.out = nn.Sequential(nn.Linear(12, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x)).transpose(1, 2)
        x = F.relu(self.mix(x)).permute(0, 2, 1)
        return self.out(F.max_pool1d(F.relu(self.up(x)), 2, ceil_mode=True).sum(-1))


def prepared(model: nn.Module, biases: bool = True) -> nn.Module:
    """In float64 and eval mode, with batch norms as after training."""
    generator = torch.Generator().manual_seed(1)

    def draw(p: Tensor, low: float, high: float) -> None:
        p.copy_(torch.rand(p.shape, generator=generator) * (high - low) + low)

    model = model.double().eval()
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, nn.modules.batchnorm._BatchNorm):
                draw(m.running_var, 0.5, 2.0)
                if m.affine:
                    draw(m.weight, 0.5, 1.5)
                if biases:
                    draw(m.running_mean, -0.2, 0.2)
                    if m.affine:
                        draw(m.bias, -0.2, 0.2)
        for name, p in model.named_parameters():
            if not biases and name.endswith("bias"):
                p.zero_()
        if not biases and isinstance(model, Smooth):
            model.mean.zero_()
    return model


@functools.cache
def _made(kind: type, device: str, biases: bool) -> tuple[nn.Module, list]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = prepared(kind(), biases).to(device)
    return model, _state(model)


def _state(model: nn.Module) -> list:
    """All that a test could change of a network, and the next test would see."""
    tensors = [
        (id(x), x._version, x.requires_grad) for x in model.state_dict(keep_vars=True).values()
    ]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    return [tensors, hooks, [(type(m), m.training) for m in model.modules()]]


def shared(kind: type, device: object = "cpu", biases: bool = True) -> nn.Module:
    """A prepared network that tests share, and the graphs captured of it: no test changes it."""
    model, state = _made(kind, str(device), biases)
    assert _state(model) == state, f"a test has changed the shared {kind.__name__}"
    return model


SHAPES = {
    ResNet: (3, 13, 10),
    DenseNet: (3, 12, 10),
    Inception: (3, 15, 14),
    Depthwise: (3, 9, 8),
    Reused: (3, 11, 9),
    Smooth: (3, 9, 9),
    Volume: (2, 4, 6, 5),
    Sequence: (4, 9),
}
RECTIFIED = [ResNet, DenseNet, Inception, Reused, Volume, Sequence]


def inputs(kind: type, batch: int = 2) -> Tensor:
    """Signed inputs in float64."""
    return torch.randn(batch, *SHAPES[kind], dtype=torch.float64)
