"""Expected gradients: their expectation, deltas, draws."""

import nets
import pytest
import torch

from xaifast.attr import GradientShap, IntegratedGradients
from xaifast.errors import InputError


def double(*shape):
    return torch.randn(shape, dtype=torch.float64)


def test_a_linear_model_is_exact_by_one_baseline():
    w = double(4)
    x, baseline = double(5, 4), double(1, 4)
    got, delta = GradientShap(lambda u: u @ w).attribute(
        x, baseline, n_samples=3, return_convergence_delta=True
    )
    torch.testing.assert_close(got, w * (x - baseline))
    assert delta.shape == (15,)
    assert float(delta.abs().max()) < 1e-12


def test_the_expectation_is_integrated_gradients_over_the_baselines(device):
    model, x = nets.shared(nets.Smooth, device), nets.inputs(nets.Smooth, 2).to(device)
    distribution = torch.randn(4, *x.shape[1:], dtype=torch.float64, device=device)
    ig = IntegratedGradients(model)
    want = sum(ig.attribute(x, b, target=1) for b in distribution.split(1)) / 4
    errors = []
    for n in (16, 1024):
        got = GradientShap(model).attribute(x, distribution, n, target=1, seed=0)
        errors.append(float((got - want).abs().sum() / want.abs().sum()))
    assert errors[1] < 0.03
    assert errors[1] < errors[0] / 3


@pytest.mark.parametrize("size", [1, 7, 1000, "auto"])
@pytest.mark.parametrize("optimize", [True, False])
def test_batches_of_any_size_give_the_same(size, optimize):
    model, x = nets.shared(nets.ResNet), nets.inputs(nets.ResNet, 3)
    shap = GradientShap(model, optimize=optimize)
    distribution = nets.inputs(nets.ResNet, 2)
    options = {"n_samples": 6, "stdevs": 0.1, "target": [0, 1, 2], "seed": 3}
    options["return_convergence_delta"] = True
    want, gap = GradientShap(model).attribute(x, distribution, **options)
    got, delta = shap.attribute(x, distribution, internal_batch_size=size, **options)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(delta, gap, rtol=1e-8, atol=1e-11)


def test_a_sample_does_not_depend_on_those_behind_it():
    f, x, distribution = lambda u: u.sin().prod(1), double(4, 3), double(5, 3)
    together = GradientShap(f).attribute(x, distribution, 8, seed=1)
    for n in range(1, 4):
        first = GradientShap(f).attribute(x[:n], distribution, 8, seed=1)
        torch.testing.assert_close(together[:n], first)


def test_samples_have_draws_of_their_own_so_that_a_mean_is_as_sure_as_many_draws():
    f, distribution = lambda u: u.sin().prod(1), double(7, 3)
    x = double(1, 3).expand(64, 3)
    shap = GradientShap(f)
    exact = shap.attribute(x[:1], distribution, 7000, seed=0)[0]
    found = torch.stack([shap.attribute(x, distribution, 3, seed=s) - exact for s in range(30)])
    assert not torch.equal(found[0, 0], found[0, 1])
    one, mean = found[:, 0].square().mean().sqrt(), found.mean(1).square().mean().sqrt()
    assert mean < one / 4  # 1/8 for independent draws
    assert found.mean((0, 1)).abs().max() < 0.2 * one  # unbiased


def test_the_delta_is_that_of_each_draw():
    f = lambda u: (u**3).sum(1)  # noqa: E731
    x, baseline = double(2, 3), double(1, 3)
    got, delta = GradientShap(f).attribute(x, baseline, 4, seed=0, return_convergence_delta=True)
    change = f(x) - f(baseline)
    torch.testing.assert_close(delta.view(2, 4).mean(1), got.sum(1) - change)


def test_the_gradient_alone_and_tuples():
    f = lambda u, v: (u.sum(1) * v.sum(1)).tanh()  # noqa: E731
    inputs, rows = (double(3, 2), double(3, 4)), (double(5, 2), double(5, 4))
    got = GradientShap(f).attribute(inputs, rows, 5, seed=0)
    assert [g.shape for g in got] == [(3, 2), (3, 4)]
    one = (rows[0][:1], rows[1][:1])
    alone = GradientShap(f, multiply_by_inputs=False).attribute(inputs, one, 5, seed=0)
    times = GradientShap(f).attribute(inputs, one, 5, seed=0)
    for g, t, x, b in zip(alone, times, inputs, one, strict=True):
        torch.testing.assert_close(g * (x - b), t)


def test_bad_input_is_refused():
    shap = GradientShap(lambda u: u.sum(1))
    x = torch.ones(2, 3)
    assert shap.attribute(torch.ones(0, 3), x).shape == (0, 3)
    with pytest.raises(TypeError, match="baselines must be tensors; got 0"):
        shap.attribute(x, 0)
    with pytest.raises(InputError, match=r"baselines must be rows like the input \[2, 3\]"):
        shap.attribute(x, torch.ones(2, 4))
    with pytest.raises(InputError, match="baselines must hold one for each of the 1 inputs; got 2"):
        shap.attribute(x, (x, x))
    with pytest.raises(InputError, match="n_samples must be at least 1; got 0"):
        shap.attribute(x, x, 0)
    with pytest.raises(InputError, match="baselines must share one number of rows"):
        GradientShap(lambda u, v: u.sum(1) + v.sum(1)).attribute((x, x), (x, x[:1]))
