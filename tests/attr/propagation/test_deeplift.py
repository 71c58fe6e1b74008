"""DeepLift and DeepLiftShap as explainers: batches, baselines, deltas."""

import nets
import pytest
import torch
from torch import nn

from xaifast.attr import DeepLift, DeepLiftShap
from xaifast.errors import InputError


def network(bias=True):
    layers = [nn.Conv2d(2, 4, 3, bias=bias), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    layers += [nn.Linear(36, 6, bias=bias), nn.GELU(), nn.Linear(6, 3, bias=bias)]
    return nn.Sequential(*layers).double()


def images(n):
    return torch.randn(n, 2, 8, 8, dtype=torch.float64)


@pytest.mark.parametrize("size", ["auto", 1, 3])
def test_a_batch_is_its_samples(size, device):
    model, x, baseline = network().to(device), images(5).to(device), images(5).to(device)
    lift = DeepLift(model)
    options = {"internal_batch_size": size, "return_convergence_delta": True}
    got, delta = lift.attribute(x, baseline, [0, 1, 2, 0, 1], **options)
    assert float(delta.abs().max()) < 1e-12
    for n in range(5):
        one = lift.attribute(x[n : n + 1], baseline[n : n + 1], target=[0, 1, 2, 0, 1][n])
        torch.testing.assert_close(got[n : n + 1], one, rtol=1e-10, atol=1e-13)
    shared = lift.attribute(x, baseline[:1], target=2)
    torch.testing.assert_close(shared, lift.attribute(x, baseline[:1].expand_as(x), target=2))


def test_the_forward_passes_that_it_takes(monkeypatch):
    from xaifast.graph.run import Propagation

    rows = []
    original = Propagation.run_model
    monkeypatch.setattr(
        Propagation, "run_model", lambda s, a: rows.append(len(a[0])) or original(s, a)
    )
    model = network()
    DeepLift(model).attribute(images(6), 0.5, target=1)
    assert sorted(rows) == [1, 6]  # one row of the baseline serves all
    rows.clear()
    DeepLiftShap(model).attribute(images(6), images(4), target=1, internal_batch_size=100)
    assert sorted(rows) == [4, 6]  # and not 24 pairs


def test_multipliers_and_functions_of_them():
    model, x, baseline = network(), images(3), images(1)
    got = DeepLift(model).attribute(x, baseline, target=1)
    m = DeepLift(model, multiply_by_inputs=False).attribute(x, baseline, target=1)
    torch.testing.assert_close(m * (x - baseline), got)
    seen = []

    def custom(multipliers, inputs, baselines):
        seen.append([len(multipliers), inputs[0].shape, baselines[0].shape])
        return (multipliers[0] * 2,)

    double = DeepLift(model).attribute(x, baseline, target=1, custom_attribution_func=custom)
    torch.testing.assert_close(double, 2 * m)
    assert seen == [[1, x.shape, x.shape]]


def test_several_targets_baselines_and_inputs():
    model, x = network(), images(4)
    lift = DeepLift(model)
    got = lift.attribute(x, target="all")
    for t in range(3):
        torch.testing.assert_close(got[t], lift.attribute(x, target=t))
    mean = lift.attribute(x, [0, 0.5], target=1)
    each = [lift.attribute(x, b, target=1) for b in (0, 0.5)]
    torch.testing.assert_close(mean, sum(each) / 2)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 5).double(), nn.Linear(2, 5).double()

        def forward(self, u, v, scale):
            return scale * (self.a(u) + self.b(v)).relu().sum(1)

    u, v = torch.randn(4, 3).double(), torch.randn(4, 2).double()
    got, delta = DeepLift(Two()).attribute(
        (u, v), (0, v[:1]), additional_forward_args=2, return_convergence_delta=True
    )
    assert [g.shape for g in got] == [u.shape, v.shape]
    assert float(delta.abs().max()) < 1e-12


def test_models_that_trip_others_up():
    """A reused ReLU, a functional one, in-place ones, a residual sum: captum refuses or errs."""
    for kind in (nets.ResNet, nets.Reused, nets.DenseNet):
        model, x = nets.shared(kind), nets.inputs(kind, 2)
        _, delta = DeepLift(model).attribute(x, 0.1, 3, return_convergence_delta=True)
        assert float(delta.abs().max()) < 1e-12


@pytest.mark.parametrize("size", ["auto", 1, 4, 1000])
def test_shap_is_the_mean_over_the_baselines(size, device):
    model = network().to(device)
    x, distribution = images(3).to(device), images(5).to(device)
    shap = DeepLiftShap(model)
    got, delta = shap.attribute(
        x, distribution, [0, 1, 2], return_convergence_delta=True, internal_batch_size=size
    )
    lift = DeepLift(model)
    each = [lift.attribute(x, b, target=[0, 1, 2]) for b in distribution.split(1)]
    torch.testing.assert_close(got, sum(each) / 5, rtol=1e-10, atol=1e-13)
    assert delta.shape == (15,)
    assert float(delta.abs().max()) < 1e-12


def test_shap_with_rows_of_arguments_and_with_sizes_in_the_model():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 6).double()

        def forward(self, x, shift):
            y = self.a(x).view(x.shape[0] * 2, 3).relu().view(x.shape[0], 6)
            return (y + shift).relu().sum(1)

    x, distribution = torch.randn(3, 4).double(), torch.randn(2, 4).double()
    shift = torch.randn(3, 1).double()
    got, delta = DeepLiftShap(Net()).attribute(
        x, distribution, additional_forward_args=shift, return_convergence_delta=True
    )
    assert got.shape == x.shape
    assert float(delta.abs().max()) < 1e-12


def test_baselines_from_functions_and_those_that_do_not_fit():
    model, x = network(), images(2)
    shap = DeepLiftShap(model)
    want = shap.attribute(x, x.flip(0), target=0)
    torch.testing.assert_close(shap.attribute(x, lambda u: u.flip(0), target=0), want)
    rows = x.flip(0)
    torch.testing.assert_close(shap.attribute(x, lambda: rows, target=0), want)
    with pytest.raises(InputError, match="baselines must be rows like the input"):
        shap.attribute(x, torch.zeros(2, 3), target=0)
    with pytest.raises(TypeError, match="baselines must be tensors; got 0"):
        shap.attribute(x, 0, target=0)
    with pytest.raises(InputError, match="eps must be a number > 0; got 0"):
        DeepLift(model, eps=0)
    with pytest.raises(TypeError, match="composite must be a Composite"):
        DeepLift(model, composite="rescale")
    with pytest.raises(TypeError, match=r"DeepLift: model must be a torch.nn.Module"):
        DeepLift(lambda x: x)


def test_empty_batches_and_targets_out_of_range():
    model = network()
    assert DeepLift(model).attribute(images(0), target=0).shape == (0, 2, 8, 8)
    assert DeepLiftShap(model).attribute(images(0), images(2), target=0).shape == (0, 2, 8, 8)
    with pytest.raises(InputError, match=r"target must lie in \[-3, 2\]"):
        DeepLift(model).attribute(images(1), target=3)
