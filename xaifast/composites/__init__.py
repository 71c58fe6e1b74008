"""Composites: which rule goes where.

A composite is a list of (condition, rule); for each node the first condition that matches decides.
Conditions look at the node: `kind`, `module_type`, `name`, `first`, `last`, `fraction`, any
function of a node, or a tuple of these that must all hold. A node has: name, kind, op (its ATen
operation), module (its path), module_type, source (the line of code), shape (without the batch),
inputs (nodes), nonnegative, first, last, depth (0 to 1); `LRP.plan` shows them.

>>> import torch
>>> from xaifast import composites as c, rules as r
>>> mine = c.Composite([
...     ((c.first, c.kind("conv")), r.ZBox(0.0, 1.0)),
...     (c.name("features.*"), r.Gamma(0.1)),
...     (c.module_type(torch.nn.Linear), r.Epsilon(0.25, relative=True)),
...     *c.base(),
... ])

The presets that zennit has keep its names and its defaults.
"""

from .conditions import KINDS as KINDS
from .conditions import (
    Composite,
    base,
    first,
    fraction,
    kind,
    last,
    module_type,
    name,
)
from .deeplift import DeepLift
from .gradient import DeconvNet, Gradient, GuidedBackprop
from .lrp import (
    PRESETS,
    DeepTaylor,
    DeepTaylorBounded,
    EpsilonAlpha2Beta1,
    EpsilonAlpha2Beta1Flat,
    EpsilonGammaBox,
    EpsilonPlus,
    EpsilonPlusFlat,
    ExcitationBackprop,
    LRPStar,
    Recurrent,
    Uniform,
    ZeroEpsilonGammaBox,
)
from .lrp import preset as preset

__all__ = [
    "PRESETS",
    "Composite",
    "DeconvNet",
    "DeepLift",
    "DeepTaylor",
    "DeepTaylorBounded",
    "EpsilonAlpha2Beta1",
    "EpsilonAlpha2Beta1Flat",
    "EpsilonGammaBox",
    "EpsilonPlus",
    "EpsilonPlusFlat",
    "ExcitationBackprop",
    "Gradient",
    "GuidedBackprop",
    "LRPStar",
    "Recurrent",
    "Uniform",
    "ZeroEpsilonGammaBox",
    "base",
    "first",
    "fraction",
    "kind",
    "last",
    "module_type",
    "name",
]
