"""An explainer explains what it was made for, as that is at each call; and nothing else."""

import inspect
from dataclasses import dataclass

import peers
import pytest
import torch
from torch import nn

from xaifast import attr, composites, rules
from xaifast.errors import FixedError, InputError, InputTypeError, ModelError, XaifastError

DOUBLE = torch.float64


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def network():
    layers = nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)
    return nn.Sequential(*layers).to(DOUBLE).eval()


def rows(n=2):
    return torch.randn(n, 5, dtype=DOUBLE)


def by_autograd(function, x, target=1):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x)[:, target].sum(), x)[0]


def double(module, args, output):
    return output * 2


# ---- wrappers ------------------------------------------------------------------------------------

WRAPPERS = {
    "compile": lambda net: torch.compile(net, backend="eager"),
    "parallel": nn.DataParallel,
    "both": lambda net: nn.DataParallel(torch.compile(net, backend="eager")),
}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_hook_that_a_wrapper_gets_later_is_seen(kind):
    net, x = network(), rows()
    wrapper = WRAPPERS[kind](net)
    lrp = attr.LRP(wrapper, composites.Uniform(rules.Epsilon(1e-12)))
    saliency = attr.Saliency(wrapper, optimize=True)
    assert lrp.model is net
    before = lrp.attribute(x, 1)
    want = by_autograd(net, x)
    torch.testing.assert_close(saliency.attribute(x, 1, abs=False), want)
    handle = wrapper.register_forward_hook(double)
    for _ in range(2):
        torch.testing.assert_close(lrp.attribute(x, 1), 2 * before)
        torch.testing.assert_close(saliency.attribute(x, 1, abs=False), 2 * want)
    with torch.no_grad():
        net[2].weight.mul_(3)
    torch.testing.assert_close(saliency.attribute(x, 1, abs=False), 6 * want)
    handle.remove()
    torch.testing.assert_close(saliency.attribute(x, 1, abs=False), 3 * want)


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_captured_call_refuses_a_wrapper_with_a_new_hook(kind):
    net, x = network(), rows()
    wrapper = WRAPPERS[kind](net)
    explain = attr.LRP(wrapper).capture(x, 1)
    torch.testing.assert_close(explain(x, 1), attr.LRP(net).attribute(x, 1))
    wrapper.register_forward_hook(double)
    with pytest.raises(ModelError, match="Call capture again"):
        explain(x, 1)


def test_a_wrapper_in_training_mode_keeps_its_hook():
    net, x = network().train(), rows()
    wrapper = torch.compile(nn.Sequential(net, nn.Dropout()), backend="eager")
    wrapper.register_forward_hook(double)
    with pytest.warns(UserWarning, match="training mode"):
        got = attr.Saliency(wrapper).attribute(x, 1, abs=False)
    torch.testing.assert_close(got, 2 * by_autograd(net, x))


def test_a_hook_on_every_module_runs_for_the_wrapper_too():
    net, x = network(), rows()
    wrapper = nn.DataParallel(net)
    handle = nn.modules.module.register_module_forward_hook(double)
    try:
        want = by_autograd(wrapper, x)
        got = attr.Saliency(wrapper).attribute(x, 1, abs=False)
        at_layer = attr.LayerGradientXActivation(wrapper, net[0]).attribute(x, 1)
        with peers.float64():
            of_captum = peers.captum.LayerGradientXActivation(wrapper, net[0]).attribute(x, 1)
        with pytest.raises(ModelError):  # torch.export calls modules of its own
            attr.LRP(wrapper).attribute(x, 1)
    finally:
        handle.remove()
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(at_layer, of_captum.detach())


def test_a_compiled_module_with_a_forward_of_its_own():
    net, x = network(), rows()
    compiled = torch.compile(net, backend="eager")
    compiled.forward = lambda x: net(x) * 2
    torch.testing.assert_close(
        attr.Saliency(compiled).attribute(x, 1, abs=False), 2 * by_autograd(net, x)
    )
    with pytest.raises(InputTypeError, match="a compiled module with a forward of its own"):
        attr.LRP(compiled)


# ---- methods -------------------------------------------------------------------------------------


def test_a_method_without_hooks_is_the_module():
    net, x = network(), rows()
    explainer = attr.Saliency(net.forward, optimize=True)
    torch.testing.assert_close(explainer.attribute(x, 1, abs=False), by_autograd(net, x))
    net.register_forward_hook(double)  # which a plain call of forward does not run
    with pytest.raises(ModelError, match="optimize=True needs a module"):
        explainer.attribute(x, 1, abs=False)
    got = attr.Saliency(net.forward).attribute(x, 1, abs=False)
    torch.testing.assert_close(got, by_autograd(net.forward, x))


@pytest.mark.parametrize("how", ["hook", "pre-hook", "global hook", "own forward", "base class"])
def test_layers_of_a_method_that_is_not_the_module(how):
    class Tripled(nn.Sequential):
        def forward(self, x):
            return super().forward(x) * 3

    net, x, handle = network(), rows(), None
    function = net.forward
    if how == "hook":
        net.register_forward_hook(double)
    elif how == "pre-hook":
        net.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    elif how == "global hook":
        handle = nn.modules.module.register_module_forward_hook(double)
    elif how == "own forward":
        net.forward = lambda x: function(x) * 3
    else:
        net = Tripled(*net)
        function = super(Tripled, net).forward
    try:
        got = attr.LayerGradientXActivation(function, net[0]).attribute(x, 1)
        with peers.float64():
            want = peers.captum.LayerGradientXActivation(function, net[0]).attribute(x, 1)
    finally:
        if handle is not None:
            handle.remove()
    torch.testing.assert_close(got, want.detach())


# ---- layers --------------------------------------------------------------------------------------


def test_a_layer_by_its_path_is_what_is_there():
    net, x = network(), rows()
    first, other = net[0], nn.Linear(5, 6, dtype=DOUBLE)
    by_path, by_module = attr.LayerActivation(net, "0"), attr.LayerActivation(net, first)
    net[0] = other
    torch.testing.assert_close(by_path.attribute(x), other(x).detach())
    with pytest.raises(InputError, match="must be a module of the model"):
        by_module.attribute(x)
    net[0] = first
    torch.testing.assert_close(by_module.attribute(x), first(x).detach())


# ---- what is fixed -------------------------------------------------------------------------------

NET = network()
EXPLAINERS = [
    attr.LRP(NET), attr.DeepLift(NET), attr.DeepLiftShap(NET), attr.GuidedBackprop(NET),
    attr.Deconvolution(NET), attr.IntegratedGradients(NET), attr.Saliency(NET),
    attr.InputXGradient(NET), attr.GradientShap(NET), attr.Occlusion(NET),
    attr.FeatureAblation(NET),
    attr.FeaturePermutation(NET), attr.ShapleyValues(NET), attr.ShapleyValueSampling(NET),
    attr.Lime(NET), attr.KernelShap(NET), attr.LimeImage(NET), attr.RISE(NET),
    attr.PredictionDifference(NET), attr.NoiseTunnel(attr.Saliency(NET)),
    attr.ContextualDecomposition(NET), attr.GuidedGradCam(NET, NET[0]),
    attr.LayerActivation(NET, NET[0]), attr.LayerGradCam(NET, NET[0]),
    attr.LayerIntegratedGradients(NET, NET[0]), attr.LayerConductance(NET, NET[0]),
    attr.LayerGradientXActivation(NET, NET[0]),
]  # fmt: skip
NAMES = (
    "model", "forward_func", "composite", "layer", "attribution_method", "precision", "verify",
    "optimize", "per_sample", "dialect",
)  # fmt: skip


@pytest.mark.parametrize("explainer", EXPLAINERS, ids=lambda e: type(e).__name__)
def test_what_is_explained_and_how_cannot_be_set_later(explainer):
    held = [name for name in NAMES if hasattr(explainer, name)]
    assert "model" in held or "forward_func" in held
    for name in held:
        before = getattr(explainer, name)
        with pytest.raises(FixedError, match=f"{name} is fixed .* make a new one") as caught:
            setattr(explainer, name, network())
        assert isinstance(caught.value, (XaifastError, AttributeError))
        assert getattr(explainer, name) is before
    explainer.note = 3  # what a user adds is theirs
    explainer.note += 1
    assert explainer.note == 4


def test_every_explainer_is_among_them():
    bases = {"Attribution", "GradientAttribution", "PerturbationAttribution", "LayerAttribution"}
    classes = {n for n in attr.__all__ if inspect.isclass(getattr(attr, n))}
    explainers = {n for n in classes if hasattr(getattr(attr, n), "attribute")} - bases
    assert explainers - {"LimeBase"} == {type(e).__name__ for e in EXPLAINERS}


# ---- recurrent layers ----------------------------------------------------------------------------


class Last(nn.Module):
    def __init__(self, kind=nn.LSTM):
        super().__init__()
        self.layer = kind(3, 4, batch_first=True).to(DOUBLE)

    def forward(self, x):
        return self.layer(x)[0][:, -1]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_weights_that_are_not_those_that_are_named(kind):
    net, x = Last(kind).eval(), torch.randn(2, 5, 3, dtype=DOUBLE)
    lrp, ig = attr.LRP(net, composites.Recurrent()), attr.IntegratedGradients(net)
    saliency = attr.Saliency(net, optimize=True)
    lrp.attribute(x, 1)
    explain = lrp.capture(x, 1)
    saliency.attribute(x, 1)
    net.layer._flat_weights[0] = net.layer.weight_ih_l0.detach() * 2
    for call in (lrp.attribute, explain, saliency.attribute):
        with pytest.raises(ModelError, match="_flat_weights must hold the weights"):
            call(x, 1)
    with peers.float64():
        want = peers.captum.IntegratedGradients(net).attribute(x, target=1)
    got = ig.attribute(x, target=1)
    torch.testing.assert_close(got, want.detach(), rtol=1e-6, atol=1e-8)
    net.layer.weight_ih_l0 = nn.Parameter(net.layer.weight_ih_l0.detach() * 2)
    torch.testing.assert_close(ig.attribute(x, target=1), got, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("how", ["hook", "subclass"])
def test_a_recurrent_layer_that_does_something_more(how):
    class Doubled(nn.LSTM):
        def forward(self, x, state=None):
            return super().forward(x * 2, state)

    net, x = Last(nn.LSTM if how == "hook" else Doubled).eval(), torch.randn(2, 5, 3, dtype=DOUBLE)
    ig = attr.IntegratedGradients(net, optimize=True)
    if how == "hook":
        ig.attribute(x, target=1)
        net.layer.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    with peers.float64():
        want = peers.captum.IntegratedGradients(net).attribute(x, target=1)
    torch.testing.assert_close(ig.attribute(x, target=1), want.detach(), rtol=1e-6, atol=1e-8)


def test_a_copy_in_eval_mode_refuses_them_too():
    net = Last().train()
    net.drop = nn.Dropout()
    net.layer._flat_weights[0] = net.layer.weight_ih_l0.detach() * 2
    x = torch.randn(2, 5, 3, dtype=DOUBLE)
    with (
        pytest.warns(match="training mode"),
        pytest.raises(ModelError, match="layer: _flat_weights"),
    ):
        attr.Saliency(net).attribute(x, 1)


def test_cells_of_a_layer_that_does_something_else_are_refused():
    class Doubled(nn.LSTM):
        def forward(self, x, state=None):
            return super().forward(x * 2, state)

    with pytest.raises(ModelError, match="no forward but nn"):
        attr.CellStates(Doubled(3, 4))
    lstm, x = nn.LSTM(3, 4, batch_first=True), torch.randn(2, 5, 3)
    ig = attr.IntegratedGradients(attr.CellStates(lstm))
    ig.attribute(x, target=(-1, 1))
    handle = lstm.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    with pytest.raises(ModelError, match="must have no forward pre-hook"):
        ig.attribute(x, target=(-1, 1))
    handle.remove()
    lstm._flat_weights[0] = lstm.weight_ih_l0.detach() * 2
    with pytest.raises(ModelError, match="_flat_weights must hold"):
        ig.attribute(x, target=(-1, 1))


# ---- captured calls ------------------------------------------------------------------------------


@dataclass
class Setting:
    factor: float

    def __repr__(self):
        return "a setting"


torch.export.register_dataclass(Setting)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3, dtype=DOUBLE)

    def forward(self, x, setting):
        return self.layer(x) * (setting.factor if isinstance(setting, Setting) else setting[0])


def test_a_captured_call_compares_what_its_own_arguments_do():
    net, x = Scaled(), rows()
    one, same, other = Setting(2.0), Setting(2.0), Setting(3.0)
    explain = attr.LRP(net).capture(x, 1, one)
    want = attr.LRP(net).attribute(x, 1, one)
    torch.testing.assert_close(explain(x, 1, one), want)
    torch.testing.assert_close(explain(x, 1, same), want)
    with pytest.raises(ModelError, match="an additional argument"):
        explain(x, 1, other)  # the same words, another value
    one.factor = 5.0
    with pytest.raises(ModelError, match="an additional argument"):
        explain(x, 1, one)


def test_a_captured_call_that_proves_nothing_takes_the_same_object_alone():
    net, x, one = Scaled(), rows(), Setting(2.0)
    explain = attr.LRP(net, verify="never").capture(x, 1, one)
    explain(x, 1, one)
    with pytest.raises(InputError, match="additional_forward_args"):
        explain(x, 1, Setting(2.0))


def test_a_captured_call_sees_a_list_that_has_changed():
    net, x, factors = Scaled(), rows(), [2.0]
    explain = attr.LRP(net).capture(x, 1, factors)
    explain(x, 1, [2.0])
    factors[0] = 3.0
    with pytest.raises(InputError, match="additional_forward_args"):
        explain(x, 1, factors)


def test_a_captured_call_sees_rules_of_captums():
    from captum.attr._utils.lrp_rules import EpsilonRule, GammaRule

    net, x = network(), rows()
    explain = attr.LRP(net).capture(x, 1)
    with_composite = attr.LRP(net, composites.EpsilonPlus()).capture(x, 1)
    explain(x, 1)
    net[0].rule = GammaRule()
    net[2].rule = EpsilonRule()
    with pytest.raises(ModelError, match=r"rules of captum's .* Call capture again"):
        explain(x, 1)
    with pytest.raises(InputError, match="composite"):
        with_composite(x, 1)
