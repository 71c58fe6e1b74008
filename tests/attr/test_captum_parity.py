"""The same numbers as captum 0.9.0, in float64, where no draws are involved and captum is right.

Perturbation methods, surrogates and DeepLIFT have theirs in their own files. captum's steps of
integrated gradients are rounded to float32; with its casts lifted they are compared as well.
"""

from __future__ import annotations

import peers
import pytest
import torch
from torch import nn

from xaifast import attr

captum = peers.captum


class Net(nn.Module):
    """Modules for everything nonlinear, each used once, none in place: what captum can explain."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(6 * 4, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    net = Net().double()
    net(torch.randn(16, 2, 8, 8).double())  # statistics of the batch norm
    return net.eval()


def images(n: int = 3, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, 8, 8, generator=generator, dtype=torch.float64)


TARGET = [2, 0, 1]
OF_THE_INPUT = {
    "Saliency": ({}, {}),
    "Saliency, signed": ({}, {"abs": False}),
    "InputXGradient": ({}, {}),
    "GuidedBackprop": ({}, {}),
    "Deconvolution": ({}, {}),
    "FeatureAblation": ({}, {"feature_mask": torch.arange(128).view(1, 2, 8, 8) // 16}),
    **{
        f"IntegratedGradients, {method}": ({}, {"method": method, "n_steps": 7})
        for method in ("gausslegendre", "riemann_left", "riemann_middle", "riemann_right")
    },
    "IntegratedGradients, multipliers": ({"multiply_by_inputs": False}, {"n_steps": 5}),
    "IntegratedGradients, baselines": ({}, {"n_steps": 5, "baselines": images(seed=2)}),
}
OF_LAYERS = {
    "LayerActivation": {},
    "LayerActivation, input": {"attribute_to_layer_input": True},
    "LayerGradientXActivation": {},
    "LayerGradCam": {},
    "LayerGradCam, rectified": {"relu_attributions": True},
    "LayerIntegratedGradients": {"n_steps": 5},
    "LayerConductance": {"n_steps": 5},
    "GuidedGradCam": {},
}


def close(got, expected):
    assert got.dtype == expected.dtype == torch.float64
    torch.testing.assert_close(got, expected.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("optimize", [None, True])
@pytest.mark.parametrize("case", OF_THE_INPUT)
@pytest.mark.filterwarnings("ignore:Setting:UserWarning")
@pytest.mark.filterwarnings("ignore:Input Tensor:UserWarning")
def test_attributions_of_the_input(model, case, optimize):
    name = case.split(",")[0]
    build, options = OF_THE_INPUT[case]
    ours = getattr(attr, name)
    if optimize and name in ("GuidedBackprop", "Deconvolution"):
        pytest.skip("always runs on the graph")
    made = ours(model, **build, **({"optimize": True} if optimize else {}))
    got = made.attribute(images(), target=TARGET, **options)
    with peers.float64():
        theirs = getattr(captum, name)(model, **build)
        close(got, theirs.attribute(images(), target=TARGET, **options))


@pytest.mark.parametrize("path", ["features.3", "features.5"])
@pytest.mark.parametrize("case", OF_LAYERS)
@pytest.mark.filterwarnings("ignore:Setting:UserWarning")
@pytest.mark.filterwarnings("ignore:Input Tensor:UserWarning")
def test_attributions_of_a_layer(model, case, path):
    name, options = case.split(",")[0], dict(OF_LAYERS[case])
    if name != "LayerActivation":
        options["target"] = TARGET
    layer = model.get_submodule(path)
    got = getattr(attr, name)(model, layer).attribute(images(), **options)
    with peers.float64():
        close(got, getattr(captum, name)(model, layer).attribute(images(), **options))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_where_two_nonlinear_modules_touch_captums_deeplift_is_incomplete(model):
    options = {"target": TARGET, "return_convergence_delta": True}
    theirs, missing = captum.DeepLift(model).attribute(images(), images(seed=2), **options)
    ours, delta = attr.DeepLift(model).attribute(images(), images(seed=2), **options)
    assert delta.abs().max() < 1e-12
    assert missing.abs().max() > 1e-3
    assert (ours - theirs).abs().max() > 1e-3


@pytest.mark.parametrize("nt_type", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_noise_of_captum_through_its_own_formula(model, nt_type, monkeypatch):
    """The statistics over copies, with the same copies on both sides."""
    noise = torch.randn(4, 3, 2, 8, 8, generator=torch.Generator().manual_seed(3)).double() * 0.2

    def ours(inputs, sample, draw, levels, seeds):
        return tuple(x[sample] + noise[draw, sample] for x in inputs)

    def theirs(mean, std):  # one draw for all copies, sample by sample
        return mean + noise.movedim(0, 1).reshape(std.shape)

    monkeypatch.setattr("xaifast.attr.gradient.noise_tunnel.noisy", ours)
    monkeypatch.setattr(torch, "normal", theirs)
    options = {"nt_type": nt_type, "nt_samples": 4, "stdevs": 0.2, "target": TARGET}
    got = attr.NoiseTunnel(attr.Saliency(model)).attribute(images(), **options)
    close(got, captum.NoiseTunnel(captum.Saliency(model)).attribute(images(), **options))
