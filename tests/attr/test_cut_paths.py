"""A path without a gradient is an error that names what cuts it; zeros are of what is unused."""

import captum.attr
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils.checkpoint import checkpoint

from xaifast import attr
from xaifast.errors import ModelError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*(not registered|deprecat)"),
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad"),
]


class Nothing(torch.autograd.Function):
    """Doubles, and has no gradient."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return None


class Halved(torch.autograd.Function):
    """Doubles, and says that it halves; set up the newer way."""

    @staticmethod
    def forward(x):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return g / 2


class Net(nn.Module):
    """A layer, a cut behind it, and the rest."""

    def __init__(self, cut):
        super().__init__()
        self.cut = cut
        self.first, self.embedding = nn.Linear(4, 4), nn.Embedding(8, 4)
        self.rest = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))

    def forward(self, x):
        return self.rest(self.cut(self, self.first(x)))


def no_grad(s, h):
    with torch.no_grad():
        return h * 3


def into_a_buffer(s, h):
    found = torch.zeros(len(h), 4)
    for i in range(4):
        found[:, i] = (h[:, i] > 0).float()
    return found


# name: (cut, the operation that is named, what is advised)
CUTS = {
    "long": (
        lambda s, h: s.embedding((3 * h.abs()).long().clamp(0, 7)).mean(1), "long", "embedding",
    ),
    "int": (lambda s, h: s.embedding(h.abs().int().clamp(0, 7)).sum(1), "int", "embedding"),
    "argmax": (lambda s, h: s.embedding(h.argmax(1)), "argmax", "embedding"),
    "bucketize": (
        lambda s, h: s.embedding(torch.bucketize(h, torch.arange(4.0))).sum(1), "bucketize", "LRP",
    ),
    "one_hot": (lambda s, h: F.one_hot(h.argmax(1), 4).float(), "argmax", "embedding"),
    "mask": (lambda s, h: (h > 0).to(h.dtype), "gt", "FeatureAblation"),
    "sign by where": (
        lambda s, h: torch.where(h < 0, -torch.ones(4), torch.ones(4)), "lt", "Layer explainer",
    ),
    "in place": (into_a_buffer, "gt", "FeatureAblation"),
    "numpy": (
        lambda s, h: torch.from_numpy(np.tanh(h.detach().numpy())), "numpy", "FeatureAblation",
    ),
    "array": (
        lambda s, h: torch.from_numpy(np.asarray(h.detach()) * 2), "(array|numpy)", "tensors",
    ),
    "item": (lambda s, h: torch.ones(len(h), 4) * h.sum().item(), "item", "tensors"),
    "float": (lambda s, h: torch.full((len(h), 4), float(h.detach().sum())), "float", "tensors"),
    "tolist": (lambda s, h: torch.tensor(h.tolist()), "tolist", "tensors"),
    "detach": (lambda s, h: h.detach() * 2, "detach", "without it"),
    "data": (lambda s, h: h.data * 2, "data", "without it"),
    "no_grad": (no_grad, "mul` in a no_grad block", "without no_grad"),
    "function": (lambda s, h: Nothing.apply(h), "autograd Function Nothing", "backward"),
    "floor division": (lambda s, h: h // 0.25, "floordiv", "Layer explainer"),
    "reentrant checkpoint": (
        lambda s, h: checkpoint(s.rest[0], h, use_reentrant=True)[:, :4],
        "use_reentrant=True", "use_reentrant=False",
    ),
}  # fmt: skip


def net(name):
    torch.manual_seed(0)
    return Net(CUTS[name][0]).eval(), torch.randn(3, 4)


def noise(model):
    return attr.NoiseTunnel(attr.Saliency(model))


AT_INPUTS = {
    "Saliency": (lambda m: attr.Saliency(m), {}),
    "InputXGradient": (lambda m: attr.InputXGradient(m), {}),
    "IntegratedGradients": (lambda m: attr.IntegratedGradients(m), {"n_steps": 3}),
    "GradientShap": (lambda m: attr.GradientShap(m), {"baselines": torch.zeros(2, 4)}),
    "NoiseTunnel": (noise, {"nt_samples": 2}),
}
AT_LAYERS = {
    "LayerGradientXActivation": (lambda m: attr.LayerGradientXActivation(m, m.first), {}),
    "LayerGradCam": (lambda m: attr.LayerGradCam(m, m.first), {}),
    "LayerIntegratedGradients": (
        lambda m: attr.LayerIntegratedGradients(m, m.first), {"n_steps": 3},
    ),
    "LayerConductance": (lambda m: attr.LayerConductance(m, m.first), {"n_steps": 3}),
}  # fmt: skip
GRAPHS = {
    "LRP": lambda m: attr.LRP(m),
    "DeepLift": lambda m: attr.DeepLift(m),
    "GuidedBackprop": lambda m: attr.GuidedBackprop(m),
    "Deconvolution": lambda m: attr.Deconvolution(m),
}


@pytest.mark.parametrize("name", CUTS)
def test_captum_raises(name):
    model, x = net(name)
    with pytest.raises(RuntimeError):
        captum.attr.Saliency(model).attribute(x.requires_grad_(), target=0)


@pytest.mark.parametrize("explainer", [*AT_INPUTS, *AT_LAYERS])
@pytest.mark.parametrize("name", CUTS)
def test_the_cut_is_named_with_the_line_and_a_way_out(name, explainer):
    model, x = net(name)
    make, options = {**AT_INPUTS, **AT_LAYERS}[explainer]
    with pytest.raises(ModelError, match=rf"(?s){CUTS[name][1]}.*test_cut_paths.py:\d+.*path") as e:
        make(model).attribute(x, target=1, **options)
    assert CUTS[name][2] in str(e.value)
    if explainer in AT_INPUTS and name not in ("floor division", "reentrant checkpoint"):
        assert "does not depend on the inputs by differentiable operations" in str(e.value)


# What the graph of the forward function passes through: as if it were not there.
PASSED = {
    "detach": lambda s, h: h * 2,
    "no_grad": lambda s, h: h * 3,
    "function": lambda s, h: h * 2,
    "reentrant checkpoint": lambda s, h: s.rest[0](h)[:, :4],
}
NAMED = {"int": "to|int", "long": "to", "float": "item|float", "array": "array|numpy"}


@pytest.mark.sweep
@pytest.mark.parametrize("explainer", GRAPHS)
@pytest.mark.parametrize("name", CUTS)
def test_graphs_pass_what_is_no_part_of_the_forward_function_and_name_the_rest(name, explainer):
    model, x = net(name)
    if name in PASSED:
        plain = Net(PASSED[name])
        plain.load_state_dict(model.state_dict())
        want = GRAPHS[explainer](plain.eval()).attribute(x, target=1)
        assert want.any()
        torch.testing.assert_close(GRAPHS[explainer](model).attribute(x, target=1), want)
        return
    operation = {"floor division": "floor_divide", "tolist": "item|tolist"}.get(name, CUTS[name][1])
    with pytest.raises(ModelError, match=rf"(?s)({NAMED.get(name, operation)}).*test_cut_paths.py"):
        GRAPHS[explainer](model).attribute(x, target=1)


def test_a_backward_of_ones_own_is_what_gradients_explain_and_graphs_do_not():
    model, plain = Net(lambda s, h: Halved.apply(h)), Net(lambda s, h: 2 * h)
    plain.load_state_dict(model.state_dict())
    x = torch.randn(3, 4)
    own, forward = (attr.Saliency(m).attribute(x, target=0) for m in (model, plain))
    assert not torch.allclose(own, forward)
    for make in GRAPHS.values():
        got, want = (make(m).attribute(x, target=0) for m in (model, plain))
        torch.testing.assert_close(got, want)


def test_backward_hooks_are_what_gradients_explain_and_graphs_do_not():
    def hooked(s, h):
        if h.requires_grad:
            h.register_hook(lambda g: 0 * g)
        return h * 2

    model, plain = Net(hooked), Net(lambda s, h: 2 * h)
    plain.load_state_dict(model.state_dict())
    x = torch.randn(3, 4)
    assert not attr.Saliency(model).attribute(x, target=0).any()  # as autograd says
    model.first.register_full_backward_hook(lambda m, i, o: (i[0] * 5,))
    for make in GRAPHS.values():
        got, want = (make(m).attribute(x, target=0) for m in (model, plain))
        torch.testing.assert_close(got, want)
    assert len(model.first._backward_hooks) == 1


def test_checkpoints_that_are_not_reentrant_have_gradients():
    model = Net(lambda s, h: checkpoint(torch.tanh, h, use_reentrant=False))
    plain = Net(lambda s, h: torch.tanh(h))
    plain.load_state_dict(model.state_dict())
    x = torch.randn(3, 4)
    for make in (*GRAPHS.values(), attr.Saliency):
        got, want = (make(m).attribute(x, target=0) for m in (model, plain))
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("explainer", [*AT_INPUTS, *GRAPHS])
def test_quantized_layers_are_named_by_their_modules(explainer):
    float_net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    model = torch.ao.quantization.quantize_dynamic(float_net, {nn.Linear}).eval()
    make, options = AT_INPUTS[explainer] if explainer in AT_INPUTS else (GRAPHS[explainer], {})
    with pytest.raises(ModelError, match=r'linear_dynamic` \(module "0", a Linear\).*float model'):
        make(model).attribute(torch.randn(3, 4), target=1, **options)


# ---- what is unused ------------------------------------------------------------------------------

UNUSED = {
    "not at all": lambda x, y: x**2,
    "its shape": lambda x, y: x**2 + torch.zeros(y.shape) + y.new_ones(4) + torch.zeros_like(y),
    "its dtype and device": lambda x, y: (x**2).to(y.dtype).to(y.device),
    "checked in Python": lambda x, y: x**2 if y.abs().max() < 1e9 else x,
}
USED = {
    "long": (lambda x, y: x**2 + y.long(), "long"),
    "a comparison": (lambda x, y: x**2 * (y > 0), "gt"),
    "Python": (lambda x, y: x**2 + float(y.detach().sum()), "float"),
    "numpy": (lambda x, y: x**2 + torch.from_numpy(y.detach().numpy().copy()), "numpy"),
    "detach": (lambda x, y: x**2 + y.detach(), "detach"),
    "out of sight": (torch.jit.trace(lambda x, y: x**2 + y.detach(), (torch.ones(2, 4),) * 2), ""),
}


@pytest.mark.parametrize("name", UNUSED)
def test_an_input_that_is_unused_has_zeros(name):
    x, y = torch.randn(3, 4), torch.randn(3, 4)
    f = UNUSED[name]
    for make, options in list(AT_INPUTS.values())[:3]:
        R, other = make(f).attribute((x, y), target=1, **options)
        torch.testing.assert_close(R, make(lambda x: x**2).attribute(x, target=1, **options))
        assert other.shape == y.shape
        assert not other.any()


@pytest.mark.parametrize("name", USED)
def test_an_input_whose_own_path_is_cut_is_an_error(name):
    f, operation = USED[name]
    x, y = torch.randn(3, 4), torch.randn(3, 4) * 3
    for make, options in list(AT_INPUTS.values())[:3]:
        with pytest.raises(ModelError, match=rf"does not depend on input 1 by .*{operation}"):
            make(f).attribute((x, y), target=1, **options)
        R = make(f).attribute(x, target=1, additional_forward_args=(y,), **options)
        assert R.any()


@pytest.mark.parametrize("explainer", GRAPHS)
def test_graphs_say_the_same_of_inputs(explainer):
    class Two(nn.Module):
        def __init__(self, f):
            super().__init__()
            self.f, self.layer = f, nn.Linear(4, 2)

        def forward(self, x, y):
            return self.layer(self.f(x, y))

    x, y = torch.randn(3, 4), torch.randn(3, 4) * 3
    make = GRAPHS[explainer]
    R, other = make(Two(lambda x, y: x + torch.zeros(y.shape))).attribute((x, y), target=1)
    assert R.any()
    assert not other.any()
    with pytest.raises(ModelError, match=r"does not depend on input 1 by .*`to` .*test_cut_paths"):
        make(Two(lambda x, y: x + y.long())).attribute((x, y), target=1)


def test_several_values_of_a_layer():
    class Split(nn.Module):
        def forward(self, x):
            return x * 1, x * 2

    class Tail(nn.Module):
        def __init__(self, f):
            super().__init__()
            self.split, self.f = Split(), f

        def forward(self, x):
            return self.f(*self.split(x))

    x = torch.randn(3, 4)
    model = Tail(lambda a, b: a.tanh())
    _, unused = attr.LayerGradientXActivation(model, model.split).attribute(x, target=0)
    assert not unused.any()
    model = Tail(lambda a, b: a.tanh() * b.round().long())
    with pytest.raises(ModelError, match=r"value 1 that passes the layer by .*`long`"):
        attr.LayerGradientXActivation(model, model.split).attribute(x, target=0)


# ---- what is zero --------------------------------------------------------------------------------

ZERO = {
    "a dead ReLU": lambda x: torch.relu(-x.abs() - 1),
    "round": lambda x: x.round(),
    "sign": lambda x: x.sign(),
    "floor": lambda x: x.floor(),
    "times zero": lambda x: 0 * x,
}


@pytest.mark.parametrize("name", ZERO)
def test_a_derivative_that_is_zero_stays_zero(name):
    f, x = ZERO[name], torch.randn(3, 4)
    for make, options in AT_INPUTS.values():
        assert not make(f).attribute(x, target=1, **options).any()
    want = captum.attr.Saliency(f).attribute(x.requires_grad_(), target=1)
    assert not want.any()


def test_what_ignores_its_input_is_an_error():
    constant = attr.Saliency(lambda x: torch.ones(len(x), 2, requires_grad=True))
    with pytest.raises(ModelError, match=r"not depend on the inputs by .*No operation was seen"):
        constant.attribute(torch.ones(3, 4), target=0)


# ---- on the graph, and nothing changed -----------------------------------------------------------


class Conv(nn.Module):
    """Convolutional, so that many rows are evaluated on its graph."""

    def __init__(self, cut):
        super().__init__()
        self.cut, self.conv, self.head = cut, nn.Conv2d(3, 4, 3), nn.Linear(16, 2)

    def forward(self, x, *more):
        return self.head(self.cut(self.conv(x), *more).flatten(1))


@pytest.mark.parametrize("optimize", [None, True])
def test_many_rows_and_graphs_say_the_same(optimize):
    x = torch.randn(40, 3, 4, 4)
    model = Conv(lambda h: (h > 0).float()).eval()
    for make in (attr.Saliency, attr.IntegratedGradients):
        with pytest.raises(ModelError, match=r"`gt` \(test_cut_paths.py:\d+.*cuts the path"):
            make(model, optimize=optimize).attribute(x, target=0)
    with pytest.raises(ModelError, match=r"`gt` \(test_cut_paths.py:\d+.*cuts the path"):
        attr.GuidedGradCam(model, model.conv).attribute(x, target=0)
    two = Conv(lambda h, y: h + y.long().float()).eval()
    y = torch.randn(40, 1, 2, 2) * 3
    with pytest.raises(ModelError, match=r"does not depend on input 1 by .*(long|to)` \(test_cut"):
        attr.Saliency(two, optimize=optimize).attribute((x, y), target=0)
    assert attr.FeatureAblation(two, optimize=optimize).attribute((x[:1], y[:1]), target=0)[1].any()
    unused = Conv(lambda h, y: h + torch.zeros_like(h)).eval()
    assert not attr.Saliency(unused, optimize=optimize).attribute((x, y), target=0)[1].any()


def test_the_model_is_left_as_it_was():
    model, x = net("long")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ModelError):
        attr.Saliency(model).attribute(x, target=0)
    with pytest.raises(ModelError):
        attr.LayerGradCam(model, "first").attribute(x, target=0)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not x.requires_grad


def test_grad_kwargs_may_ask_for_zeros():
    model = Net(lambda s, h: h.detach())
    layer = attr.LayerGradientXActivation(model, "first")
    R = layer.attribute(torch.randn(3, 4), target=0, grad_kwargs={"materialize_grads": True})
    assert not R.any()
