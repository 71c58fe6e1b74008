"""Ways to explain a network: how each is made, and what it must give, known without a graph.

LRP-0 is gradient times input, captum calls the model, and the rest is compared with the explainer
itself where nothing is known of the model.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import peers
import torch
from torch import Tensor, nn

from xaifast import attr, composites, rules
from xaifast.graph.model import forget

TARGET = 1
TOLERANCE = 1e-6  # of the largest value of a map


@dataclass(frozen=True)
class Way:
    """An explainer: make(net, x) returns a function of x; want(net, x) is what it must give."""

    make: Callable[[nn.Module, Tensor], Callable[[Tensor], Tensor]]
    want: Callable[[nn.Module, Tensor], Tensor]
    refuses: bool = False  # whether it may ask to be made again


def gradient_times_input(net: nn.Module, x: Tensor) -> Tensor:
    return gradient(net, x) * x


def gradient(net: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        (found,) = torch.autograd.grad(net(x)[:, TARGET].sum(), x)
    return found.detach()


def forgotten(net: nn.Module) -> nn.Module:
    """The model, of which nothing is known any more."""
    forget(net)
    return net


def made(kind: Callable, *args, call=None, **options) -> Callable:
    """A maker of explainers."""

    def make(net, x):
        explainer = kind(net, *args, **options)
        return lambda x: explainer.attribute(x, target=TARGET, **(call or {}))

    return make


def by_captum(name: str, call=None, layer: str | None = None) -> Callable:
    def want(net, x):
        kind = getattr(peers.captum, name)
        explainer = kind(net, net.get_submodule(layer)) if layer else kind(net)
        with warnings.catch_warnings(), peers.float64():
            warnings.simplefilter("ignore")
            found = explainer.attribute(x.clone(), target=TARGET, **(call or {}))
        return found.detach()

    return want


def anew(make: Callable) -> Callable:
    """What the explainer itself gives where nothing is known of the model."""
    return lambda net, x: make(forgotten(net), x)(x)


def captured(net, x):
    explain = attr.LRP(net, composites.Uniform(rules.Zero())).capture(x, target=TARGET)
    return lambda x: explain(x, target=TARGET)


WINDOWS = {"sliding_window_shapes": (1, 2, 2)}
QUARTERS = {
    "feature_mask": (torch.arange(6)[:, None] // 2 * 3 + torch.arange(6) // 2)[None, None],
    "n_samples": 40,
    "seed": 3,
}


def shap(**options) -> Callable:
    return made(attr.KernelShap, call=QUARTERS, **options)


def plain_shap(net, x):
    return shap(optimize=False)(net, x)(x)


def layer_activation(net, x):
    explainer = attr.LayerActivation(net, "mixed")
    return lambda x: explainer.attribute(x)


def captum_layer_activation(net, x):
    return peers.captum.LayerActivation(net, net.mixed).attribute(x).detach()


ZERO = composites.Uniform(rules.Zero())
PLUS = made(attr.LRP, composites.EpsilonPlus())
IG = by_captum("IntegratedGradients")
OCCLUSION = by_captum("Occlusion", WINDOWS)
ABLATION = by_captum("FeatureAblation")
FIRST = {"LRP-0": Way(made(attr.LRP, ZERO), gradient_times_input)}
OTHERS = {
    "LRP, captured": Way(captured, gradient_times_input, refuses=True),
    "IntegratedGradients": Way(made(attr.IntegratedGradients), IG),
    # captum's own is incomplete where a module is used again, as changes here may have it.
    "DeepLift": Way(made(attr.DeepLift), anew(made(attr.DeepLift))),
    "Occlusion": Way(made(attr.Occlusion, call=WINDOWS), OCCLUSION),
    "EpsilonPlus": Way(PLUS, anew(PLUS)),
    "GuidedBackprop": Way(made(attr.GuidedBackprop), anew(made(attr.GuidedBackprop))),
    "KernelShap": Way(shap(), plain_shap),
    "IntegratedGradients, graph": Way(made(attr.IntegratedGradients, optimize=True), IG),
    "FeatureAblation": Way(made(attr.FeatureAblation), ABLATION),
    "InputXGradient, graph": Way(made(attr.InputXGradient, optimize=True), gradient_times_input),
    "LayerIntegratedGradients": Way(
        made(attr.LayerIntegratedGradients, "mixed"),
        by_captum("LayerIntegratedGradients", layer="mixed"),
    ),
    "LayerGradCam": Way(made(attr.LayerGradCam, "mixed"), by_captum("LayerGradCam", layer="mixed")),
    "LayerActivation": Way(layer_activation, captum_layer_activation),
    "Occlusion, graph": Way(made(attr.Occlusion, optimize=True, call=WINDOWS), OCCLUSION),
    "FeatureAblation, graph": Way(made(attr.FeatureAblation, optimize=True), ABLATION),
}
WAYS = FIRST | OTHERS


def distance(got: Tensor, want: Tensor) -> float:
    """The largest difference, as a part of the largest value."""
    assert got.shape == want.shape
    return float((got - want).abs().max() / want.abs().max().clamp(min=1e-300))


@functools.cache
def image() -> Tensor:
    return torch.randn(2, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
