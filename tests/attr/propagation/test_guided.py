"""GuidedBackprop, Deconvolution and GuidedGradCam as explainers; the rules have their tests."""

import nets
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from xaifast import composites
from xaifast.attr import LRP, Deconvolution, GuidedBackprop, GuidedGradCam, LayerGradCam
from xaifast.errors import InputError

SIGNALS = {GuidedBackprop: composites.GuidedBackprop, Deconvolution: composites.DeconvNet}


@pytest.mark.parametrize("explainer", SIGNALS)
@pytest.mark.parametrize("kind", [nets.ResNet, nets.Reused, nets.Smooth])
def test_it_is_the_composite_started_with_one(explainer, kind, device):
    model, x = nets.shared(kind, device), nets.inputs(kind, 4).to(device)
    got = explainer(model).attribute(x, target=[0, 1, 2, 3])
    lrp = LRP(model, SIGNALS[explainer]())
    torch.testing.assert_close(got, lrp.attribute(x, target=[0, 1, 2, 3], start="one"))
    for size in (1, 3):
        parts = explainer(model).attribute(x, target=[0, 1, 2, 3], internal_batch_size=size)
        torch.testing.assert_close(parts, got, rtol=1e-10, atol=1e-13)
    several = explainer(model).attribute(x, target=[[0, 3]] * 4)
    torch.testing.assert_close(several[1, 3], got[3], rtol=1e-10, atol=1e-13)


def test_modules_and_functions_are_the_same():
    class Functional(nn.Module):
        def __init__(self, layers):
            super().__init__()
            self.a, self.b = layers[0], layers[2]

        def forward(self, x):
            return self.b(F.relu(self.a(x)))

    layers = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3))
    x = torch.randn(5, 4)
    for explainer in SIGNALS:
        want = explainer(layers).attribute(x, target=1)
        torch.testing.assert_close(explainer(Functional(layers)).attribute(x, target=1), want)


def test_guided_grad_cam_is_the_product():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(5 * 9, 3),
    ).double()  # fmt: skip
    x = torch.randn(2, 3, 12, 11).double()
    for layer, mode in ((model[2], "nearest"), ("1", "bilinear")):
        got = GuidedGradCam(model, layer).attribute(x, target=[2, 0], interpolate_mode=mode)
        cam = LayerGradCam(model, layer).attribute(x, target=[2, 0], relu_attributions=True)
        large = F.interpolate(cam, size=(12, 11), mode=mode)
        guided = GuidedBackprop(model).attribute(x, target=[2, 0])
        torch.testing.assert_close(got, guided * large)
        how = {"target": [[2, 0]] * 2, "interpolate_mode": mode}
        several = GuidedGradCam(model, layer).attribute(x, **how)
        torch.testing.assert_close(several[0, 0], got[0])
        torch.testing.assert_close(several[1, 1], got[1])


def test_an_input_without_positions_gets_an_empty_map_and_a_warning():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 2, 3), nn.Linear(2, 2)

        def forward(self, x, y):
            return self.head(self.conv(x).relu().mean((2, 3)) * y[:, :1] + y[:, 1:] * 0)

    model = Two()
    x, y = torch.rand(2, 1, 6, 6), torch.rand(2, 3)
    cam = GuidedGradCam(model, model.conv)
    with pytest.warns(UserWarning, match="cannot be resized to an input .* without such positions"):
        a, b = cam.attribute((x, y[:, :2]), target=0)
    assert a.shape == x.shape
    assert b.numel() == 0


def test_bad_input_is_refused():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    for explainer in SIGNALS:
        assert explainer(model).attribute(torch.zeros(0, 4), target=0).shape == (0, 4)
        with pytest.raises(InputError, match=r"target must lie in \[-3, 2\]"):
            explainer(model).attribute(torch.ones(1, 4), target=9)
        with pytest.raises(TypeError, match=f"{explainer.__name__}: model must be a "):
            explainer(torch.relu)
    with pytest.raises(InputError, match="layer must be a module of the model, or its path"):
        GuidedGradCam(model, "conv")
