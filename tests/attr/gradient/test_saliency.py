"""Saliency and gradient x input: against autograd, in every form of input and target."""

import nets
import pytest
import torch
from calls import Counting
from torch import nn

from xaifast.attr import InputXGradient, Saliency
from xaifast.errors import InputError, InputTypeError, ModelError


def autograd(f, *x):
    x = [v.clone().requires_grad_() for v in x]
    return torch.autograd.grad(f(*x).sum(), x)


def points(*shape):
    return torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("optimize", [None, True, False])
@pytest.mark.parametrize("kind", [k for k in nets.SHAPES if k is not nets.Depthwise])
def test_the_gradient_by_either_way_to_evaluate(kind, optimize, device):
    model, x = nets.shared(kind, device), nets.inputs(kind, 3).to(device)
    (want,) = autograd(lambda u: model(u)[torch.arange(3), [0, 3, 1]], x)
    saliency = Saliency(model, optimize=optimize)
    got = saliency.attribute(x, target=[0, 3, 1], abs=False)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-13)
    assert torch.equal(saliency.attribute(x, target=[0, 3, 1]), got.abs())
    times = InputXGradient(model, optimize=optimize).attribute(x, target=torch.tensor([0, 3, 1]))
    torch.testing.assert_close(times, want * x, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("size", ["auto", 1, 2, 100])
def test_several_targets_share_a_forward_pass(size):
    model, x = nets.shared(nets.ResNet), nets.inputs(nets.ResNet, 5)
    f = Counting(model)
    together = Saliency(f).attribute(x, target=[[0, 4, 2]] * 5, internal_batch_size=size)
    assert together.shape == (3, *x.shape)
    assert sum(f.rows) <= 6  # and one sample that tells how much memory a row needs
    for t, got in zip((0, 4, 2), together, strict=True):
        torch.testing.assert_close(got, Saliency(f).attribute(x, target=t), rtol=1e-10, atol=1e-13)


def test_squares_and_the_largest_over_channels():  # book, section 8.4.1
    w = torch.tensor([[1.0, -2.0, 3.0], [-4.0, 5.0, -6.0]])
    f = lambda x: (x * w.view(1, 2, 3)).sum((1, 2))  # noqa: E731
    x = torch.zeros(1, 2, 3)
    saliency = Saliency(f)
    assert saliency.attribute(x, squared=True).tolist() == [(w**2).tolist()]
    assert saliency.attribute(x, over_channels=True).tolist() == [[[4.0, 5.0, 6.0]]]
    assert saliency.attribute(x, squared=True, over_channels=True).tolist() == [[[16, 25, 36]]]
    with pytest.raises(InputError, match="over_channels needs abs or squared; got abs=False"):
        saliency.attribute(x, abs=False, over_channels=True)
    with pytest.raises(InputError, match=r"over_channels needs inputs \[N, C, ...\]"):
        Saliency(lambda u: u).attribute(torch.zeros(2), over_channels=True)


def test_tuples_and_additional_arguments_go_along_with_their_samples():
    a, b, c = points(5, 3), points(5, 2, 2), points(5, 1)
    weight = points(3, 3)  # not a row for each sample: goes as it is

    def f(x, y, z, w, factor):
        return factor * ((x @ w) * z).sum(1) * (y**2).sum((1, 2))

    more = (c, weight, 2)
    want = autograd(lambda x, y: f(x, y, *more), a, b)
    for size in ("auto", 1, 3):
        got = InputXGradient(f).attribute(
            (a, b), additional_forward_args=more, internal_batch_size=size
        )
        for g, w, x in zip(got, want, (a, b), strict=True):
            torch.testing.assert_close(g, w * x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_attributions_have_the_dtype_of_the_input(dtype, device):
    model = nn.Linear(4, 3).to(device, dtype)
    got = Saliency(model).attribute(torch.ones(2, 4, dtype=dtype, device=device), target=1)
    assert got.dtype == dtype
    torch.testing.assert_close(got[0], model.weight[1].detach().abs())


@pytest.mark.parametrize("explainer", [Saliency, InputXGradient])
def test_empty_single_strided_and_inference_inputs(explainer):
    model = nn.Linear(4, 3)
    assert explainer(model).attribute(torch.zeros(0, 4), target=1).shape == (0, 4)
    wide = torch.randn(2, 8)
    strided = wide[:, ::2]
    want = explainer(model).attribute(strided.contiguous(), target=1)
    torch.testing.assert_close(explainer(model).attribute(strided, target=1), want)
    with torch.inference_mode():
        got = explainer(model).attribute(strided.clone(), target=1)
    torch.testing.assert_close(got.clone(), want)
    one = explainer(lambda x: x**2).attribute(torch.tensor([3.0, -1.0]))  # no dimension behind N
    assert one.shape == (2,)


def test_nothing_of_the_users_is_touched():
    model, x = nets.prepared(nets.ResNet()).train(), nets.inputs(nets.ResNet, 40)
    x.requires_grad_()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.warns(UserWarning, match="explained as in eval mode"):
        got = Saliency(model).attribute(x, target=0, abs=False)
    (want,) = autograd(lambda u: nets.prepared(model).eval()(u)[:, 0], x.detach())
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-13)
    model.train()
    assert x.grad is None
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


ERRORS = [
    (torch.ones(2, 4), {"target": 7}, r"target must lie in \[-3, 2\] for an output of shape"),
    (torch.ones(2, 4), {}, "target is needed for an output of shape"),
    (torch.ones(2, 4), {"target": [0, 1, 2]}, "target must have one entry for each of the 2"),
    (torch.full((2, 4), torch.nan), {"target": 0}, "inputs must be finite; got NaN"),
    (torch.tensor([[0, torch.inf, -torch.inf, 0]]), {"target": 0}, "inputs must be finite; got"),
    (torch.ones(2, 4), {"target": 0, "internal_batch_size": 0}, "must be at least 1; got 0"),
    ((torch.ones(2, 4), torch.ones(3, 4)), {}, "inputs must share one batch size"),
]


@pytest.mark.parametrize(("x", "options", "match"), ERRORS)
def test_bad_input_is_refused(x, options, match):
    with pytest.raises(InputError, match=match):
        Saliency(nn.Linear(4, 3)).attribute(x, **options)


def test_finite_inputs_may_have_a_sum_that_is_not():
    x = torch.full((2, 4), 3e38)
    assert torch.isinf(x.sum())
    assert (Saliency(lambda x: x).attribute(x, target=1) == torch.eye(4)[1]).all()


def test_what_has_no_gradient_is_refused():
    linear = nn.Linear(4, 3)
    x = torch.ones(2, 4)
    with pytest.raises(InputTypeError, match="inputs must be floating, for there is no gradient"):
        Saliency(linear).attribute(torch.ones(2, 4, dtype=torch.int64), target=0)
    with pytest.raises(ModelError, match="does not depend on the inputs by differentiable"):
        Saliency(lambda u: linear(u.detach()).detach()).attribute(x, target=0)
    with pytest.raises(InputError, match="the gradient has NaN or infinite values"):
        Saliency(lambda u: u.sqrt().sum(1)).attribute(torch.zeros(1, 2))
    with pytest.raises(InputError, match="output has NaN or infinite values"):
        Saliency(lambda u: u.log().sum(1)).attribute(torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("f", "match"),
    [
        (lambda x: (x, x), "must return one tensor; it returned"),
        (lambda x: {"out": x}, "must return one tensor; it returned"),
        (lambda x: x.sum(), "needs a model that returns one row for each sample; for the batch"),
    ],
)
def test_a_model_that_returns_something_else_is_refused(f, match):
    with pytest.raises(ModelError, match=match):
        Saliency(f).attribute(torch.ones(2, 4), target=0)


def test_what_cannot_be_called_is_refused():
    with pytest.raises(TypeError, match="Saliency: forward_func must be a module or a function"):
        Saliency("model")
    with pytest.raises(ValueError, match="optimize must be True, False or None; got 3"):
        Saliency(nn.Linear(2, 2), optimize=3)
    with pytest.raises(ModelError, match="optimize=True needs a module, and forward_func is a"):
        Saliency(lambda x: x.sum(1), optimize=True).attribute(torch.ones(1, 2))
    with pytest.raises(NotImplementedError, match="Saliency has no attribute_future"):
        Saliency(nn.Linear(2, 2)).attribute_future(torch.ones(1, 2))
