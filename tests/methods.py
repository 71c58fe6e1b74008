"""Every method by its name, with a network and options that make it quick."""

import inspect

import torch
from sweep import SWEEP
from torch import nn

import xaifast
from xaifast import catalogue, composites

NAMES = [m.name for m in xaifast.methods()]
SEEN = torch.randn(20, 1, 6, 6, generator=torch.Generator().manual_seed(0))
OPTIONS = {  # what has no default, or takes long with it
    "GuidedGradCam": {"layer": "0"},
    "LayerActivation": {"layer": "0"},
    "LayerGradientXActivation": {"layer": "0"},
    "LayerGradCam": {"layer": "0"},
    "LayerIntegratedGradients": {"layer": "0", "n_steps": 5},
    "LayerConductance": {"layer": "0", "n_steps": 5},
    "GradientShap": {"baselines": torch.zeros(3, 1, 6, 6), "n_samples": 4, "seed": 0},
    "DeepLiftShap": {"baselines": torch.zeros(2, 1, 6, 6)},
    "IntegratedGradients": {"n_steps": 5},
    "Occlusion": {"sliding_window_shapes": (1, 2, 2), "strides": (1, 2, 2)},
    "ShapleyValueSampling": {"n_samples": 3, "seed": 0},
    "FeaturePermutation": {"seed": 0},
    "RISE": {"n_samples": 20, "grid_size": 3, "seed": 0},
    "PredictionDifference": {"window": 3, "n_samples": 2, "seed": 0, "reference": SEEN},
    "Lime": {"n_samples": 20},
    "LimeImage": {"n_samples": 20, "seed": 0, "feature_mask": torch.arange(36).view(1, 1, 6, 6)},
    "KernelShap": {"n_samples": 20},
    **{name: {"low": -4.0, "high": 4.0} for name in NAMES if name.endswith(("Box", "Bounded"))},
    **{n: {"stdevs": 0.1, "seed": 0} for n in ("SmoothGrad", "SmoothGradSquared", "VarGrad")},
    "NoiseTunnel": {"seed": 0},
}
QUARTERS = torch.arange(36).view(1, 1, 6, 6) // 9  # a mask of four features


class Steps(nn.Module):
    """For methods of sequences: the image is one step, whose features are its pixels."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(36, 4, batch_first=True), nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.lstm(x.flatten(2))[0][:, -1])


def net(name=""):
    torch.manual_seed(0)
    if name == "ContextualDecomposition":
        return Steps().eval()
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 5)
    ).eval()  # fmt: skip


def options_of(name):
    given = dict(OPTIONS.get(name, {}))
    if name in ("ShapleyValues", "ShapleyValueSampling", "Lime", "KernelShap"):
        given["feature_mask"] = QUARTERS
    return given


# Presets of LRP differ in their rules alone: what has nothing to do with rules is tried with two.
PRESETS = [n for n in NAMES if n in composites.PRESETS or n.startswith("Uniform:")]
EXPLAINERS = NAMES if SWEEP else [n for n in NAMES if n not in PRESETS or n == "EpsilonPlusFlat"]


def accepts(name, option):
    """Whether `attribute` of a method has an option."""
    make = catalogue.find(name).make
    return option in inspect.signature(getattr(make, "explainer", make).attribute).parameters
