"""One door: every method by its name gives what its explainer gives, at the cost that it says."""

import subprocess
import sys

import pytest
import torch
from calls import on_trial
from methods import NAMES, QUARTERS, net, options_of

import xaifast
from xaifast import attr, catalogue, composites, rules
from xaifast.errors import InputError, InputTypeError


@pytest.mark.parametrize("name", NAMES)
def test_every_method_by_its_name(name):
    torch.manual_seed(1)
    model, x = net(name), torch.randn(3, 1, 6, 6)
    before = x.clone()
    R = xaifast.explain(model, x, name, target=[1, 0, 4], **options_of(name))
    assert R.shape[0] == 3
    assert torch.isfinite(R).all()
    assert R.abs().max() > 0
    assert torch.equal(x, before)
    other = name.lower().replace("uniform:", "uniform:-").replace("grad", "_grad_")
    again = xaifast.explain(model, x, other, target=[1, 0, 4], **options_of(name))
    assert torch.equal(R, again)


def test_it_is_what_the_explainers_give():
    model, x = net(), torch.randn(2, 1, 6, 6)
    pairs = [
        (
            xaifast.explain(model, x, "integrated_gradients", 3, baselines=0.5, n_steps=9),
            attr.IntegratedGradients(model).attribute(x, 0.5, target=3, n_steps=9),
        ),
        (
            xaifast.explain(model, x, "IntegratedGradients", 3, multiply_by_inputs=False),
            attr.IntegratedGradients(model, False).attribute(x, target=3),
        ),
        (
            xaifast.explain(model, x, "epsilon-gamma-box", 3, low=-5.0, high=5.0, gamma=0.5),
            attr.LRP(
                model, composites.EpsilonGammaBox(low=-5.0, high=5.0, gamma=0.5)
            ).attribute(x, 3),
        ),
        (
            xaifast.explain(model, x, "Uniform:Gamma", 3, gamma=2.0, start="one"),
            attr.LRP(model, composites.Uniform(rules.Gamma(2.0))).attribute(x, 3, start="one"),
        ),
        (
            xaifast.explain(model, x, "lrp", 3, composite=composites.LRPStar()),
            xaifast.explain(model, x, "LRPStar", 3),
        ),
        (
            xaifast.explain(model, x, "smooth_grad", 3, nt_samples=6, stdevs=0.2, seed=5),
            attr.NoiseTunnel(attr.Saliency(model)).attribute(
                x, target=3, nt_samples=6, stdevs=0.2, seed=5, abs=False
            ),
        ),
        (
            xaifast.explain(
                model, x, "NoiseTunnel", 3, explainer="DeepLift", rule="reveal_cancel",
                baselines=0.1, nt_samples=2, seed=5,
            ),
            attr.NoiseTunnel(attr.DeepLift(model, rule="reveal_cancel")).attribute(
                x, target=3, baselines=0.1, nt_samples=2, seed=5
            ),
        ),
        (
            xaifast.explain(model, x, "LayerActivation", layer=model[0]),
            model[0](x).detach(),
        ),
    ]  # fmt: skip
    for found, expected in pairs:
        torch.testing.assert_close(found, expected)


def test_what_else_an_option_asks_for_is_returned():
    model, x = net(), torch.randn(2, 1, 6, 6)
    R, delta = xaifast.explain(model, x, "DeepLift", 0, return_convergence_delta=True)
    assert (R.shape, delta.shape) == (x.shape, (2,))


# ---- costs ---------------------------------------------------------------------------------------


class _Counted(torch.autograd.Function):
    """Counts rows on their way forward and back, but those that try out whether rows are apart."""

    @staticmethod
    def forward(ctx, x, rows):
        ctx.rows = rows
        rows[0] += 0 if on_trial() else len(x)
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        ctx.rows[0] += len(g)
        return g, None


FACTORS = {"n_steps": 5, "nt_samples": 5, "n_samples": 20, "windows": 9, "features": 4}
COUNTED = [m.name for m in xaifast.methods() if m.needs != "module" and m.family != "layer"]


@pytest.mark.parametrize("name", [n for n in COUNTED if n != "NoiseTunnel"])
def test_costs_are_those_in_the_table(name):
    """Rows of the model's input, forward and back, for each sample."""
    model, x, rows = net().double(), torch.randn(2, 1, 6, 6).double(), [0]
    given = {
        k: v.double() if k in ("baselines", "reference") else v for k, v in options_of(name).items()
    }
    m = catalogue.find(name)
    factors = {**FACTORS, **given}
    if "features" in m.cost:
        given["feature_mask"] = QUARTERS
    if name == "PredictionDifference":
        factors["windows"] = 16
    given["internal_batch_size"] = 4
    if "nt_samples" in m.cost:
        given["nt_samples_batch_size"] = 2
    xaifast.explain(lambda v: model(_Counted.apply(v, rows)), x, name, 1, **given)
    cost = 2 * eval(m.cost, factors)
    # Permutations may begin alike, and equal coalitions are evaluated once.
    coalitions = name in ("ShapleyValueSampling", "Lime", "KernelShap")
    assert rows[0] == cost or (coalitions and 0.7 * cost < rows[0] < cost)


def test_the_cost_of_noise_is_that_of_the_explainer_for_each_draw():
    model, x, rows = net(), torch.randn(2, 1, 6, 6), [0]
    options = {"nt_samples": 3, "explainer": "IntegratedGradients", "n_steps": 4}
    options["internal_batch_size"] = 7
    xaifast.explain(lambda v: model(_Counted.apply(v, rows)), x, "NoiseTunnel", 1, **options)
    assert rows[0] == 2 * 3 * (2 * 4)


# ---- the list ------------------------------------------------------------------------------------


def test_every_explainer_is_listed_once():
    assert len(NAMES) == len(set(NAMES))
    explainers = {
        name
        for name in attr.__all__
        if callable(getattr(getattr(attr, name), "attribute", None))
        and not name.endswith(("Attribution", "Base"))
    }
    assert explainers - set(NAMES) == set()
    assert set(composites.PRESETS) <= set(NAMES)
    assert {m.family for m in xaifast.methods()} >= {"gradient", "path", "layer", "propagation"}
    assert {m.needs for m in xaifast.methods()} == {"function", "gradient", "module"}


def test_what_needs_a_module_refuses_a_function_and_the_others_take_it():
    model, x = net(), torch.randn(3, 1, 6, 6)
    for m in xaifast.methods():
        if m.family == "layer" or m.name == "GuidedGradCam":
            continue  # a function has no layers by name
        if m.needs == "module":
            with pytest.raises((InputError, InputTypeError), match=r"must be a torch\.nn\.Module"):
                xaifast.explain(model.forward, x, m.name, 1, **options_of(m.name))
        else:
            R = xaifast.explain(lambda v: model(v), x, m.name, 1, **options_of(m.name))
            assert R.shape == x.shape


def test_importing_the_package_loads_nothing_native():
    program = (
        "import sys, xaifast; assert 'xaifast.attr' not in sys.modules; "
        "xaifast.explain; assert 'xaifast.attr' in sys.modules; xaifast.viz, xaifast.rules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'explian'"):
        _ = xaifast.explian


# ---- what can go wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("integrated_gradient", {}, "got 'integrated_gradient'. Did you mean IntegratedGradients?"),
        ("xyzzy", {}, r"got 'xyzzy'. xaifast\.methods\(\) has all"),
        (7, {}, "method must be a name; got 7. For example method='Integrated"),
        ("Saliency", {"squares": True}, "squares must be an option of Saliency.*mean squared"),
        ("IntegratedGradients", {"window": 3}, "Allowed: .*baselines.*n_steps.*optimize"),
        ("GuidedGradCam", {}, "layer must be given for GuidedGradCam; got nothing. Allowed: "),
        ("EpsilonGammaBox", {"low": 0.0}, "explain: high must be given for EpsilonGammaBox"),
        ("Occlusion", {}, "sliding_window_shapes must be given for Occlusion"),
        ("SmoothGrad", {"explainer": "salience"}, "explainer must be a known.*mean Saliency"),
        ("NoiseTunnel", {"n_steps": 3}, "n_steps must be an option of NoiseTunnel"),
    ],
)
def test_errors_name_the_option_and_what_is_allowed(method, options, message):
    calls = []
    with pytest.raises((InputError, InputTypeError), match=message):
        xaifast.explain(lambda x: calls.append(x), torch.ones(1, 1, 6, 6), method, 0, **options)
    assert not calls
