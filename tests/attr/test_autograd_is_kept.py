"""Gradient methods explain the function as autograd sees it, whatever the number of rows.

Each network has a convolution and batch norm, so that a graph of it would pay, and does something
with its gradient that no graph of plain operations shows. What must come out is autograd's
gradient by hand, or captum's explanation, or that of a function behind which no module is seen.
"""

from __future__ import annotations

import functools
import warnings

import peers
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xaifast import attr
from xaifast.errors import XaifastError

TARGET = 1


# ---- what networks do with their gradient --------------------------------------------------------


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, g):
        return g


class Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return -3 * g


class Same(torch.autograd.Function):
    """Returns its very argument."""

    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, g):
        return g.clamp(-0.01, 0.01)


class Apart(torch.autograd.Function):
    """With its context set up apart."""

    @staticmethod
    def forward(x):
        return x * 1

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].sigmoid()


@torch.library.custom_op("xaifast_tests::doubled", mutates_args=())
def doubled(x: Tensor) -> Tensor:
    return x * 2


@doubled.register_fake
def _(x):
    return torch.empty_like(x)


doubled.register_autograd(lambda ctx, g: g * 7)


def blocked(h: Tensor) -> Tensor:
    with torch.no_grad():
        scale = h.abs().mean(1, keepdim=True) + 0.1
    return h / scale


def switched_off(h: Tensor) -> Tensor:
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    scale = h.sigmoid()
    torch.set_grad_enabled(before)
    return h * scale


@torch.no_grad()
def attention(h: Tensor) -> Tensor:
    return h.flatten(2).softmax(2).view_as(h)


def detached_in_place(h: Tensor) -> Tensor:
    return h * h.clone().sigmoid().detach_()


def hooked(change):
    def f(h: Tensor) -> Tensor:
        h = h * 1
        if h.requires_grad:
            h.register_hook(change)
        return h.tanh()

    return f


def hooked_node(h: Tensor) -> Tensor:
    h = h * 1
    if h.grad_fn is not None:
        h.grad_fn.register_prehook(lambda gradients: (gradients[0].clamp(min=0),))
    return h.tanh()


def saved_rounded(h: Tensor) -> Tensor:
    with torch.autograd.graph.saved_tensors_hooks(torch.round, lambda x: x):
        return h * h


def asked(h: Tensor) -> Tensor:
    """Another function where gradients are asked for."""
    return h * h.detach() if h.requires_grad else h * h


def mode(h: Tensor) -> Tensor:
    return h * 2 if torch.is_grad_enabled() else h * 3


def inner_gradient(h: Tensor) -> Tensor:
    """Multiplied by the derivative of a potential, as a constant."""
    with torch.enable_grad():
        z = h.detach().requires_grad_()
        (slope,) = torch.autograd.grad((z**3).sum(), z)
    return h * slope


@torch.jit.script
def scripted(h: Tensor) -> Tensor:
    return h / (h.abs().mean(1, keepdim=True).detach() + 0.1)


def by_rows(h: Tensor) -> Tensor:
    return torch.vmap(lambda row: row * row.detach().sigmoid())(h)


MIDDLES = {
    "nothing": torch.tanh,
    "detach": lambda h: h / (h.abs().mean(1, keepdim=True).detach() + 0.1),
    "detach of a part": lambda h: torch.cat([h[:, :1].detach(), h[:, 1:]], 1),
    "detach in place": detached_in_place,
    "detach of the largest": lambda h: (h - h.amax((1, 2, 3), keepdim=True).detach()).exp(),
    "data": lambda h: h * h.data.sigmoid(),
    "no_grad block": blocked,
    "no_grad function": lambda h: h * attention(h),
    "set_grad_enabled": switched_off,
    "grad mode": mode,
    "gradient inside": inner_gradient,
    "rounding straight through": lambda h: h + ((4 * h).round() / 4 - h).detach(),
    "straight through": StraightThrough.apply,
    "reversal": Reversal.apply,
    "the same": lambda h: Same.apply(h).tanh(),
    "set up apart": Apart.apply,
    "custom operator": doubled,
    "tensor hook": hooked(lambda g: g * 2),
    "tensor hook that cuts": hooked(lambda g: g.clamp(min=0)),
    "hook of a node": hooked_node,
    "saved tensors rounded": saved_rounded,
    "where gradients are asked for": asked,
    "checkpoint": lambda h: checkpoint(torch.tanh, h, use_reentrant=False),
    "detach in a checkpoint": lambda h: checkpoint(
        lambda z: z * z.detach(), h, use_reentrant=False
    ),
    "reentrant checkpoint": lambda h: checkpoint(torch.tanh, h, use_reentrant=True),
    "scripted": scripted,
    "vmap": by_rows,
}


class Net(nn.Module):
    def __init__(self, middle="nothing"):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.act = nn.ReLU()
        self.head = nn.Linear(4 * 16, 3)
        self.middle = middle

    def forward(self, x):
        h = self.act(self.norm(self.conv(x)))
        return self.head(MIDDLES[self.middle](h).flatten(1))


def detaching_hook(module, inputs, output):
    return output * output.detach()


def hooking_hook(module, inputs, output):
    if output.requires_grad:
        output.register_hook(lambda g: g * 0.5)


def on(path, register, hook):
    def add(net):
        getattr(net.get_submodule(path), register)(hook)

    return add


class Binary(nn.Module):
    def forward(self, w):
        return w + (w.sign() - w).detach()


def binary(net):
    nn.utils.parametrize.register_parametrization(net.conv, "weight", Binary())


HOOKS = {
    "hook that detaches": on("norm", "register_forward_hook", detaching_hook),
    "hook that hooks": on("norm", "register_forward_hook", hooking_hook),
    "backward hook": on(
        "norm", "register_full_backward_hook", lambda module, given, got: (given[0] * 2,)
    ),
    "backward hook of a ReLU": on(
        "act", "register_full_backward_hook", lambda module, given, got: (given[0].clamp(min=0),)
    ),
    "backward hook before": on(
        "act", "register_full_backward_pre_hook", lambda module, got: (got[0] * 3,)
    ),
    "backward hook of the network": on(
        "", "register_full_backward_pre_hook", lambda module, got: (got[0] * 4,)
    ),
    "binary weights": binary,
}
# Registered for every module of the process, in one test each.
EVERYWHERE = {
    "global backward hook": (
        nn.modules.module.register_module_full_backward_hook,
        lambda module, given, got: (
            (given[0] * 2,) if isinstance(module, nn.BatchNorm2d) and given[0] is not None else None
        ),
    ),
    "global backward hook before": (
        nn.modules.module.register_module_full_backward_pre_hook,
        lambda module, got: (got[0] * 3,) if isinstance(module, nn.BatchNorm2d) else None,
    ),
}
KINDS = [kind for kind in (*MIDDLES, *HOOKS) if kind != "reentrant checkpoint"]


@functools.cache
def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    net = Net(kind if kind in MIDDLES else "nothing").double().eval()
    with torch.no_grad():
        net.norm.running_mean.normal_()
        net.norm.running_var.uniform_(0.5, 2)
    if kind in HOOKS:
        HOOKS[kind](net)
    return net


def points(rows: int) -> Tensor:
    return torch.randn(
        rows, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(rows)
    )


def gradient(net, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(net(x)[:, TARGET].sum(), x)
    return found.detach()


def assert_same(got: Tensor, want: Tensor) -> None:
    scale = float(want.abs().max())
    assert scale > 0
    torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-9 * scale)


# ---- gradients -----------------------------------------------------------------------------------


@pytest.mark.sweep
@pytest.mark.parametrize("rows", [1, 2, 32, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_autograd(kind, rows):
    net, x = network(kind), points(rows)
    want = gradient(net, x)
    assert_same(attr.Saliency(net).attribute(x, target=TARGET), want.abs())
    assert_same(attr.InputXGradient(net).attribute(x, target=TARGET), want * x)


@pytest.mark.parametrize("kind", EVERYWHERE)
def test_hooks_of_all_modules_are_kept(kind):
    register, hook = EVERYWHERE[kind]
    net, x = network("nothing"), points(40)
    attr.Saliency(net).attribute(x, target=TARGET)
    before = gradient(net, x)
    handle = register(hook)
    try:
        want = gradient(net, x)
        assert (want - before).abs().max() > 0.1 * before.abs().max()
        assert_same(attr.Saliency(net).attribute(x, target=TARGET), want.abs())
    finally:
        handle.remove()
    assert_same(attr.Saliency(net).attribute(x, target=TARGET), before.abs())


def test_rows_do_not_change_what_a_gradient_is():
    net, x = network("detach"), points(64)
    explainer = attr.Saliency(net)
    whole = explainer.attribute(x, target=TARGET)
    for rows in (1, 7, 31, 32, 33):
        assert_same(explainer.attribute(x[:rows], target=TARGET), whole[:rows])


@pytest.mark.parametrize("rows", [2, 40])
def test_reentrant_checkpoints_are_refused_or_right(rows):
    net, x = Net("reentrant checkpoint").double().eval(), points(rows)
    plain = Net().double().eval()
    plain.load_state_dict(net.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            got = attr.Saliency(net).attribute(x, target=TARGET)
        except (XaifastError, RuntimeError) as error:
            got = str(error)
    if isinstance(got, str):
        assert "use_reentrant=False" in got or "checkpoint" in got
    else:
        assert_same(got, gradient(plain, x).abs())


# ---- methods -------------------------------------------------------------------------------------


def by_captum(name, layer=None, **call):
    def want(net, x):
        kind = getattr(peers.captum, name)
        explainer = kind(net, getattr(net, layer)) if layer else kind(net)
        with warnings.catch_warnings(), peers.float64():
            warnings.simplefilter("ignore")
            return explainer.attribute(x.clone(), target=TARGET, **call).detach()

    return want


def ours(name, layer=None, **call):
    def got(net, x):
        kind = getattr(attr, name)
        explainer = kind(net, getattr(net, layer)) if layer else kind(net)
        with warnings.catch_warnings():  # PyTorch's, of a backward hook that fires early
            warnings.simplefilter("ignore")
            return explainer.attribute(x, target=TARGET, **call)

    return got


def of_a_function(explain):
    """The same explainer, of a function behind which it sees no module."""
    return lambda net, x: explain(lambda *inputs: net(*inputs), x)


def smoothed(kind):
    def got(net, x):
        noisy = attr.NoiseTunnel(kind(net))
        return noisy.attribute(x, target=TARGET, nt_samples=3, stdevs=0.1, seed=0)

    return got


SHAP = ours("GradientShap", baselines=torch.zeros(2, 3, 4, 4).double(), n_samples=3, seed=0)
SMOOTH = smoothed(attr.Saliency)
TIMES = smoothed(attr.InputXGradient)
PAIRS = {
    "IntegratedGradients": (
        ours("IntegratedGradients", n_steps=9), by_captum("IntegratedGradients", n_steps=9)
    ),
    "GradientShap": (SHAP, of_a_function(SHAP)),
    "SmoothGrad": (SMOOTH, of_a_function(SMOOTH)),
    "NoiseTunnel of InputXGradient": (TIMES, of_a_function(TIMES)),
    "LayerGradCam": (ours("LayerGradCam", "conv"), by_captum("LayerGradCam", "conv")),
    "LayerGradientXActivation": (
        ours("LayerGradientXActivation", "conv"), by_captum("LayerGradientXActivation", "conv")
    ),
    "LayerIntegratedGradients": (
        ours("LayerIntegratedGradients", "conv", n_steps=9),
        by_captum("LayerIntegratedGradients", "conv", n_steps=9),
    ),
    "LayerConductance": (
        ours("LayerConductance", "conv", n_steps=9),
        by_captum("LayerConductance", "conv", n_steps=9),
    ),
}  # fmt: skip


@pytest.mark.sweep
@pytest.mark.parametrize("rows", [2, 40])
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("kind", KINDS)
def test_methods_by_gradients_are_those_of_captum(kind, name, rows):
    got, want = PAIRS[name]
    net, x = network(kind), points(rows)
    assert_same(got(net, x), want(net, x))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "grad mode"])
def test_the_sum_of_integrated_gradients_is_that_of_captum(kind):
    """Not the difference of outputs: of another gradient it is another sum."""
    net, x = network(kind), points(3)
    R, delta = attr.IntegratedGradients(net).attribute(
        x, target=TARGET, n_steps=50, return_convergence_delta=True
    )
    with peers.float64():
        want, gap = peers.captum.IntegratedGradients(net).attribute(
            x.clone(), target=TARGET, n_steps=50, return_convergence_delta=True
        )
    assert_same(R, want.detach())
    torch.testing.assert_close(delta, gap.to(delta), rtol=1e-6, atol=1e-8)


def test_values_are_those_without_gradients():
    """A network that is another under no_grad: what it returns there is what is perturbed."""
    net, x = network("grad mode"), points(2)
    with torch.no_grad():
        first = net(x)[:, TARGET]
        want = torch.stack([first - net(_without(x, c))[:, TARGET] for c in range(3)], 1)
    mask = torch.arange(3).view(1, 3, 1, 1)
    got = attr.FeatureAblation(net).attribute(x, target=TARGET, feature_mask=mask)
    torch.testing.assert_close(got[:, :, 0, 0], want)


def _without(x: Tensor, channel: int) -> Tensor:
    return x * (F.one_hot(torch.tensor(channel), 3) == 0).view(1, 3, 1, 1)
