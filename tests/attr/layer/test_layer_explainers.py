"""Explainers of layers, against models cut at the layer by hand."""

import nets
import numpy as np
import pytest
import torch
from torch import nn

from xaifast import attr
from xaifast.errors import InputError, ModelError


class Net(nn.Module):
    """In-place ReLUs, a layer with two outputs, a by-pass of the layers."""

    class Split(nn.Module):
        def forward(self, x):
            return x[:, :4] * 1, x[:, 4:] * 2

    def __init__(self):
        super().__init__()
        self.a, self.relu = nn.Linear(5, 8), nn.ReLU(inplace=True)
        self.split = self.Split()
        self.b = nn.Linear(4, 3)

    def forward(self, x, scale=1.0):
        left, right = self.split(self.relu(self.a(x)))
        return self.b(left * scale + right.tanh()) + x[:, :3]


def prepared():
    torch.manual_seed(3)
    return Net().double(), torch.randn(4, 5).double()


def behind(net, x, z, scale=1.0):
    """The output as a function of the pre-activation z of the first layer."""
    left, right = net.split(torch.relu(z))
    return net.b(left * scale + right.tanh()) + x[:, :3]


def gradient(f, *leaves):
    leaves = [v.detach().requires_grad_() for v in leaves]
    return torch.autograd.grad(f(*leaves).sum(), leaves)


@pytest.mark.parametrize("layer", ["module", "path"])
def test_activations_before_anything_changes_them_in_place(layer):
    net, x = prepared()
    at = net.a if layer == "module" else "a"
    z = net.a(x).detach()
    torch.testing.assert_close(attr.LayerActivation(net, at).attribute(x), z)
    for size in (1, 3, "auto"):
        got = attr.LayerActivation(net, at).attribute(x, internal_batch_size=size)
        torch.testing.assert_close(got, z)
    before = attr.LayerActivation(net, net.relu).attribute(x, attribute_to_layer_input=True)
    torch.testing.assert_close(before, z)
    left, right = attr.LayerActivation(net, net.split).attribute(x)
    torch.testing.assert_close(torch.cat([left, right / 2], 1), z.relu())
    several = attr.LayerActivation(net, [net.a, net.split]).attribute(x)
    torch.testing.assert_close(several[0], z)
    torch.testing.assert_close(several[1][0], left)


@pytest.mark.parametrize("size", ["auto", 1, 3])
def test_gradient_times_activation(size):
    net, x = prepared()
    targets = [0, 2, 1, 0]
    z = net.a(x).detach()
    (g,) = gradient(lambda v: behind(net, x, v, 0.5)[range(4), targets], z)
    layer = attr.LayerGradientXActivation(net, net.a)
    got = layer.attribute(x, targets, 0.5, internal_batch_size=size)
    torch.testing.assert_close(got, g * z)
    alone = attr.LayerGradientXActivation(net, net.a, multiply_by_inputs=False)
    torch.testing.assert_close(alone.attribute(x, targets, 0.5), g)
    several = layer.attribute(x, [[0, 1]] * 4, 0.5)
    torch.testing.assert_close(several[0, [0, 3]], got[[0, 3]])
    both = attr.LayerGradientXActivation(net, [net.a, net.relu])  # one behind the other
    first, second = both.attribute(x, targets, 0.5)
    torch.testing.assert_close(first, got)
    torch.testing.assert_close(second, got)  # ReLU: gradient times activation stays


def test_grad_cam_by_its_formula(device):
    model, x = nets.shared(nets.ResNet, device), nets.inputs(nets.ResNet, 3).to(device)
    a = model.stem(x).detach()
    tail = lambda v: model.head(  # noqa: E731
        model.blocks(nn.functional.max_pool2d(v.relu(), 3, 2, 1)).mean((2, 3))
    )
    (g,) = gradient(lambda v: tail(v)[:, 2], a)
    want = (g.mean((2, 3), keepdim=True) * a).sum(1, keepdim=True)
    cam = attr.LayerGradCam(model, model.stem)
    torch.testing.assert_close(cam.attribute(x, 2), want, rtol=1e-9, atol=1e-12)
    positive = cam.attribute(x, 2, relu_attributions=True)
    torch.testing.assert_close(positive, want.relu(), rtol=1e-9, atol=1e-12)
    channels = cam.attribute(x, 2, attr_dim_summation=False)
    torch.testing.assert_close(channels.sum(1, keepdim=True), want, rtol=1e-9, atol=1e-12)
    large = attr.LayerAttribution.interpolate(want, x.shape[2:])
    assert large.shape == (3, 1, *x.shape[2:])


@pytest.mark.parametrize("size", ["auto", 1, 7])
@pytest.mark.parametrize("method", ["gausslegendre", "riemann_trapezoid"])
def test_integrated_gradients_of_a_layer(method, size):
    net, x = prepared()
    z, z0 = net.a(x).detach(), net.a(torch.full_like(x, 0.3)).detach()
    inner = attr.IntegratedGradients(lambda v, u: behind(net, u, v))
    how = {"target": 1, "n_steps": 20, "method": method}
    want = inner.attribute(z, z0, additional_forward_args=x, **how)
    layer = attr.LayerIntegratedGradients(net, net.a)
    got = layer.attribute(x, 0.3, internal_batch_size=size, **how)
    torch.testing.assert_close(got, want)
    alone = attr.LayerIntegratedGradients(net, net.a, multiply_by_inputs=False)
    torch.testing.assert_close(alone.attribute(x, 0.3, **how) * (z - z0), want)
    left, right = attr.LayerIntegratedGradients(net, net.split).attribute(x, 0.3, **how)
    assert left.shape == right.shape == (4, 4)


def test_tokens_by_their_embedding():
    net = nn.Sequential(nn.Embedding(11, 6), nn.Flatten(), nn.Linear(18, 7), nn.GELU())
    net = net.append(nn.Linear(7, 3)).double()
    tokens, padding = torch.randint(1, 11, (4, 3)), torch.zeros(1, 3, dtype=torch.int64)
    layer = attr.LayerIntegratedGradients(net, net[0])
    got, delta = layer.attribute(tokens, padding, target=1, return_convergence_delta=True)
    vectors, zero = net[0](tokens).detach(), net[0](padding).detach()
    want = attr.IntegratedGradients(net[1:]).attribute(vectors, zero, target=1)
    torch.testing.assert_close(got, want)
    assert float(delta.abs().max()) < 1e-6
    with pytest.raises(ModelError, match="what passes the layer must be floating; it is"):
        layer.attribute(tokens, padding, target=1, attribute_to_layer_input=True)


@pytest.mark.parametrize("size", ["auto", 1, 9])
def test_conductance_by_its_formula(size):
    net, x = prepared()
    alphas = torch.from_numpy(np.polynomial.legendre.leggauss(13)[0] + 1) / 2
    want, last = torch.zeros(4, 8, dtype=torch.float64), None
    for alpha in alphas:
        u = 0.2 + alpha * (x - 0.2)
        z = net.a(u).detach()
        (g,) = gradient(lambda v, u=u: behind(net, u, v)[:, 2], z)
        if last is not None:
            want += last[1] * (z - last[0])
        last = (z, g)
    layer = attr.LayerConductance(net, net.a)
    got = layer.attribute(x, 0.2, 2, n_steps=12, internal_batch_size=size)
    torch.testing.assert_close(got, want)


def test_conductance_flows_through_the_layer_alone():
    net = nn.Sequential(nn.Linear(4, 6), nn.Softplus(), nn.Linear(6, 2)).double()
    x = torch.randn(3, 4).double()
    layer = attr.LayerConductance(net, net[1])
    _, delta = layer.attribute(
        x, target=1, n_steps=400, method="riemann_trapezoid", return_convergence_delta=True
    )
    assert float(delta.abs().max()) < 0.01


def test_a_function_is_watched_only_while_it_runs():
    net, x = prepared()
    layer = attr.LayerActivation(lambda u: net(u) * 2, net.a)
    torch.testing.assert_close(layer.attribute(x), net.a(x).detach())
    assert not net.a._forward_hooks
    failing = attr.LayerActivation(lambda u: net(u) / 0 + undefined, net.a)  # noqa: F821
    with pytest.raises(ModelError, match="NameError"):
        failing.attribute(x)
    assert not net.a._forward_hooks


def test_the_users_model_has_no_hook_not_for_a_moment(monkeypatch):
    net, x = prepared()
    seen = []
    original = Net.Split.forward

    def watched(self, v):
        seen.append(any(m._forward_hooks for m in net.modules()))
        return original(self, v)

    monkeypatch.setattr(Net.Split, "forward", watched)
    attr.LayerActivation(net, net.a).attribute(x)
    assert seen
    assert not any(seen)


def test_training_goes_on_between_calls():
    net, x = prepared()
    layer = attr.LayerActivation(net, net.a)
    layer.attribute(x)
    with torch.no_grad():
        net.a.weight.mul_(2)
    torch.testing.assert_close(layer.attribute(x), net.a(x).detach())
    net.a = nn.Linear(5, 8).double()
    torch.testing.assert_close(attr.LayerActivation(net, "a").attribute(x), net.a(x).detach())


def test_what_cannot_be_explained_is_refused():
    net, x = prepared()
    with pytest.raises(InputError, match="layer must be a module of the model, or its path; got"):
        attr.LayerActivation(net, "c")
    with pytest.raises(InputError, match="layer must be a module of the model, or its path; got"):
        attr.LayerActivation(net, nn.Linear(2, 2))
    with pytest.raises(TypeError, match="layer must be a module where forward_func is a function"):
        attr.LayerActivation(lambda u: net(u), "a")
    twice = nets.shared(nets.Reused)
    with pytest.raises(ModelError, match="is called more than once in a run of the model"):
        attr.LayerActivation(twice, "conv").attribute(nets.inputs(nets.Reused))
    net.unused = nn.Linear(2, 2)
    with pytest.raises(ModelError, match="is not called in a run of the model"):
        attr.LayerActivation(net, "unused").attribute(x)
    with pytest.raises(InputError, match="must be one baseline; got a list of 2"):
        attr.LayerIntegratedGradients(net, "a").attribute(x, [0, 1], target=0)
    with pytest.raises(TypeError, match="n_steps must be an int; got"):
        attr.LayerIntegratedGradients(net, "a").attribute(x, target=0, n_steps="auto")


# ---- neurons of a layer as the output ------------------------------------------------------------


def test_a_layer_as_the_output_of_any_explainer():
    net, x = prepared()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    neurons = attr.LayerOutput(net, net.a)
    alone = net.a
    torch.testing.assert_close(neurons(x), alone(x))
    for make in (attr.Saliency, attr.IntegratedGradients, attr.FeatureAblation):
        expected = make(alone).attribute(x, target=6)
        torch.testing.assert_close(make(neurons).attribute(x, target=6), expected)
    for make in (attr.LRP, attr.DeepLift):  # captured: the ReLU behind works in place
        expected = make(alone).attribute(x, target=[1, 2, 3, 4])
        torch.testing.assert_close(make(neurons).attribute(x, target=[1, 2, 3, 4]), expected)
    assert not any(m._forward_hooks for m in net.modules())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_neurons_of_a_layer_that_is_called_twice_are_those_of_its_first_call():
    relu = nn.ReLU()
    net = nn.Sequential(nn.Linear(3, 4), relu, nn.Linear(4, 2), relu).double()
    x = torch.randn(5, 3).double()
    neurons = attr.LayerOutput(net, relu)
    expected = net[:2]
    torch.testing.assert_close(neurons(x), expected(x))
    for make in (attr.InputXGradient, attr.LRP):
        found, wanted = (make(f).attribute(x, target=3) for f in (neurons, expected))
        torch.testing.assert_close(found, wanted)


def test_what_does_not_work_behind_a_layer_does_not_matter():
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("no luck")

    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), Broken())
    x = torch.randn(2, 3)
    found = attr.InputXGradient(attr.LayerOutput(net, "1")).attribute(x, target=0)
    torch.testing.assert_close(found, attr.InputXGradient(net[:2]).attribute(x, target=0))


def test_layers_that_are_no_output():
    net, x = prepared()
    with pytest.raises(InputError, match=r"LayerOutput: layer must be a module.*'c'"):
        attr.LayerOutput(net, "c")
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
        attr.LayerOutput(lambda v: v, "a")
    with pytest.raises(ModelError, match=r"must be called and return a tensor; it has a tuple of"):
        attr.LayerOutput(net, net.split)(x)
    unused = nn.ModuleDict({"used": nn.Linear(5, 2), "idle": nn.Linear(5, 2)})
    unused.forward = unused["used"].forward
    with pytest.raises(ModelError, match=r"not been called.*Choose another layer"):
        attr.LayerOutput(unused, "idle")(x.float())
