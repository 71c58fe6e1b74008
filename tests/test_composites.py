"""Composites: conditions, order, presets against zennit, refusals."""

import importlib.util
import sys

import nets
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from xaifast import composites as c
from xaifast import rules as r
from xaifast.attr import LRP
from xaifast.errors import InputError, InputTypeError, ModelError

# ---- conditions ---------------------------------------------------------------------------------


def test_the_first_condition_that_matches_decides():
    model, x = nets.shared(nets.ResNet), nets.inputs(nets.ResNet)
    entries = [
        ((c.first, c.kind("conv")), r.Flat()),
        (c.name("blocks.1.*"), r.Gamma()),
        ((c.module_type(nn.Conv2d), c.fraction(0.0, 0.3)), r.AlphaBeta()),
        (c.kind("conv"), r.ZPlus()),
        ((c.last, lambda node: node.kind == "linear"), r.Zero()),
        *c.base(),
    ]
    # Gamma takes a whole block, so its activations and sums need an entry in front of it.
    composite = c.Composite([*c.base()[:4], *entries])
    rules = LRP(model, composite)._builder.build((x,), 1).propagation.rules
    found = {
        n.module: type(rule).__name__ for n, rule in rules.items() if n.kind in ("conv", "linear")
    }
    assert found == {
        "stem": "Flat",
        "blocks.0.conv1": "AlphaBeta",
        "blocks.0.conv2": "ZPlus",
        "blocks.1.conv1": "Gamma",
        "blocks.1.conv2": "Gamma",
        "head": "Epsilon",
    }


def test_entries_of_ones_own_come_first():
    composite = c.EpsilonPlus().with_rules((c.kind("conv"), r.Gamma()))
    assert repr(composite) == "EpsilonPlus + 1 entry"
    rules = LRP(nets.shared(nets.ResNet), composite)
    rules = rules._builder.build((nets.inputs(nets.ResNet),), 1).propagation.rules
    assert {type(rule) for n, rule in rules.items() if n.kind == "conv"} == {r.Gamma}


@pytest.mark.parametrize("entry", [r.ZPlus(), ("conv", r.ZPlus()), (c.first, "ZPlus")])
def test_what_is_no_entry_is_refused(entry):
    with pytest.raises(InputTypeError, match=r"\(condition, Rule\) pairs"):
        c.Composite([entry])


def test_presets_by_name():
    assert repr(c.preset("EpsilonGammaBox", low=0.0, high=1.0)) == "EpsilonGammaBox"
    with pytest.raises(InputError, match="must be one of EpsilonPlus"):
        c.preset("epsilonplus")
    with pytest.raises(InputTypeError, match="must be a Rule"):
        c.Uniform("epsilon")


# ---- refusals where a theory does not hold ------------------------------------------------------


@pytest.mark.parametrize("activation", [nn.ELU(), nn.GELU(), nn.LeakyReLU(), nn.Tanh()], ids=str)
@pytest.mark.parametrize("composite", [c.DeepTaylor(), c.DeepTaylorBounded(-3.0, 3.0)], ids=repr)
def test_deep_taylor_refuses_activations_that_can_be_negative(activation, composite):
    model = nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 2)).double()
    with pytest.raises(ModelError, match=r"rectified networks") as error:
        LRP(model, composite).attribute(torch.randn(2, 3, dtype=torch.float64), target=0)
    assert "activations >= 0" in str(error.value)


@pytest.mark.parametrize("kind", [nets.Reused, nets.Inception])
def test_deep_taylor_is_non_negative_and_complete(kind):
    model, x = nets.shared(kind), nets.inputs(kind)
    lows = {"low": float(x.min()), "high": float(x.max())}
    for composite in (
        c.DeepTaylor(stabilizer=1e-12),
        c.DeepTaylorBounded(**lows, stabilizer=1e-12),
    ):
        R = LRP(model, composite).attribute(x, target=1, start="one")
        assert (R >= 0).all()
        # What a unit without a positive contribution received is all that may be missing.
        assert (R.flatten(1).sum(1) <= 1 + 1e-9).all()


def test_products_need_a_gate():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, x):
            return self.a(x) * self.b(x)

    model, x = Product().double(), torch.randn(2, 3, dtype=torch.float64)
    with pytest.raises(ModelError, match="neither operand is known to be a gate"):
        LRP(model, c.EpsilonPlus()).attribute(x, target=0)


def test_an_operation_is_never_mistaken_for_a_kind():
    class Smaller(nn.Module):
        def forward(self, x):
            return torch.minimum(x[:, :1], x[:, 1:])

    with pytest.raises(ModelError, match="no entry of the composite matches kind 'minimum'"):
        LRP(Smaller(), c.EpsilonPlus()).attribute(torch.randn(2, 2), target=0)


# ---- the same numbers as zennit -----------------------------------------------------------------


@pytest.fixture(scope="module")
def zennit():
    """Import zennit, declaring the torchvision operators it asks for where they are missing."""
    if importlib.util.find_spec("zennit") is None:
        pytest.skip("zennit is not installed")
    libraries = []
    for name in ("nms", "qnms"):
        try:
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            libraries.append(library)
        except RuntimeError:  # noqa: PERF203
            break
    for part in ("attribution", "composites", "rules", "types"):
        importlib.import_module(f"zennit.{part}")
    yield sys.modules["zennit"]
    del libraries


def plain(*layers):
    """Layers with a dense head of 30 units behind them."""
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(30), nn.ReLU(), nn.Linear(30, 5))


# ruff: noqa: E501 (a table reads better with long rows)
NETWORKS = {
    "2d": lambda: (
        plain(
            nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1, groups=2), nn.ReLU(),
            nn.MaxPool2d(2), nn.Conv2d(8, 8, 2, dilation=2), nn.ELU(), nn.AvgPool2d(2),
        ),
        (3, 16, 15),
    ),
    "1d": lambda: (
        plain(nn.Conv1d(3, 6, 3, padding=1), nn.ReLU(), nn.ConvTranspose1d(6, 4, 3, 2, groups=2), nn.GELU(), nn.MaxPool1d(2)),
        (3, 9),
    ),
    "3d": lambda: (
        plain(nn.Conv3d(2, 3, 3, padding=1), nn.ReLU(), nn.ConvTranspose3d(3, 4, 2, 2, 1), nn.Tanh(), nn.MaxPool3d(2)),
        (2, 4, 4, 5),
    ),
}  # fmt: skip
PAIRS = {
    "EpsilonPlus": (c.EpsilonPlus(), lambda z, x: z.composites.EpsilonPlus()),
    "EpsilonPlus, no bias": (c.EpsilonPlus(bias=False), lambda z, x: z.composites.EpsilonPlus(zero_params="bias")),
    "EpsilonPlusFlat": (c.EpsilonPlusFlat(), lambda z, x: z.composites.EpsilonPlusFlat()),
    "EpsilonAlpha2Beta1": (c.EpsilonAlpha2Beta1(), lambda z, x: z.composites.EpsilonAlpha2Beta1()),
    "EpsilonAlpha2Beta1Flat": (c.EpsilonAlpha2Beta1Flat(), lambda z, x: z.composites.EpsilonAlpha2Beta1Flat()),
    "EpsilonGammaBox": (c.EpsilonGammaBox(-4.0, 4.0), lambda z, x: box(z, x)),
    "EpsilonGammaBox, no bias": (c.EpsilonGammaBox(-4.0, 4.0, bias=False), lambda z, x: box(z, x, zero_params="bias")),
    "Epsilon": (c.Uniform(r.Epsilon(0.1)), lambda z, x: uniform(z, z.rules.Epsilon(0.1))),
    "Gamma": (c.Uniform(r.Gamma(0.5)), lambda z, x: uniform(z, z.rules.Gamma(0.5))),
    "ZPlus": (c.Uniform(r.ZPlus()), lambda z, x: uniform(z, z.rules.ZPlus())),
    "AlphaBeta": (c.Uniform(r.AlphaBeta(3, 2)), lambda z, x: uniform(z, z.rules.AlphaBeta(3, 2))),
    "WSquare": (c.Uniform(r.WSquare(bias=True)), lambda z, x: uniform(z, z.rules.WSquare())),
    "Flat": (c.Uniform(r.Flat()), lambda z, x: uniform(z, z.rules.Flat())),
}  # fmt: skip


def box(z, x, **options):
    low, high = torch.full_like(x[:1], -4.0), torch.full_like(x[:1], 4.0)
    return z.composites.EpsilonGammaBox(low=low, high=high, **options)


def uniform(z, rule):
    layers = [
        (z.types.Activation, z.rules.Pass()),
        (z.types.AvgPool, z.rules.Norm()),
        (z.types.Linear, rule),
    ]
    return z.composites.LayerMapComposite(layers)


def rectified():
    """With ReLUs only: through others, zennit's ExcitationBackprop takes the gradient."""
    return plain(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU()), (
        3,
        9,
        9,
    )


def test_the_same_excitation_backprop_as_zennit(zennit):
    theirs = lambda z, x: z.composites.ExcitationBackprop()  # noqa: E731
    compare(zennit, *rectified(), c.ExcitationBackprop(), theirs)


@pytest.mark.sweep
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_same_map_as_zennit(zennit, network, pair):
    compare(zennit, *NETWORKS[network](), *PAIRS[pair])


def compare(zennit, model, shape, ours, theirs):
    x = torch.randn(2, *shape)
    model(x)  # gives the lazy layer its size
    model, x = model.double().eval(), x.double()
    start = F.one_hot(torch.tensor([1, 3]), 5).double()
    with zennit.attribution.Gradient(model=model, composite=theirs(zennit, x)) as attributor:
        expected = attributor(x, start)[1]
    got = LRP(model, ours).attribute(x, target=[1, 3], start="one")
    assert float(expected.abs().max()) > 0
    assert float((got - expected).abs().max()) < 1e-10 * float(expected.abs().max())
