"""Small networks trained in seconds on data that scikit-learn and scikit-image carry."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPOCHS = 15


def _fit(model: nn.Module, x: Tensor, y: Tensor) -> None:
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    order = torch.Generator().manual_seed(0)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x), generator=order).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    model.eval()


def _network(channels: int, classes: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, classes),
    )  # fmt: skip


def _held_out(model: nn.Module, x: Tensor, y: Tensor) -> tuple[nn.Module, Tensor, Tensor]:
    """Train on four fifths; the model, and what is left."""
    held = torch.arange(len(x)) % 5 == 0
    _fit(model, x[~held], y[~held])
    return model, x[held], y[held]


def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A CNN on the digits of 8 x 8 pixels; held-out images [N, 1, 8, 8] and their classes."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    return _held_out(_network(1, 10), x, torch.tensor(data.target))


def digits_dense() -> tuple[nn.Module, Tensor, Tensor]:
    """The same images flattened, three dense layers."""
    from sklearn.datasets import load_digits

    data = load_digits()
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )
    x = torch.tensor(data.data, dtype=torch.float32) / 16
    return _held_out(model, x, torch.tensor(data.target))


def textures(size: int = 32) -> tuple[nn.Module, Tensor, Tensor]:
    """A CNN that tells brick, grass and gravel apart; held-out patches [N, 1, 32, 32]."""
    from skimage import data

    patches, classes = [], []
    for label, name in enumerate(("brick", "grass", "gravel")):
        picture = torch.tensor(getattr(data, name)(), dtype=torch.float32) / 255
        tiles = picture.unfold(0, size, size).unfold(1, size, size).reshape(-1, 1, size, size)
        patches.append(tiles)
        classes += [label] * len(tiles)
    return _held_out(_network(1, 3), torch.cat(patches), torch.tensor(classes))


MODELS = {"digits, CNN": digits, "digits, dense": digits_dense, "textures, CNN": textures}
