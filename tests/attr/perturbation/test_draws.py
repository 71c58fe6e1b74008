"""What is drawn for a patch: conditional Gaussians by hand and by numpy, patches of images."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import perturbation as oracle

from xaifast.attr.perturbation import draws as patches


def close(got, expected, tolerance=1e-10):
    expected = torch.as_tensor(expected)
    assert got.shape == expected.shape
    scale = max(1.0, float(expected.double().abs().max()))
    assert float((got.double() - expected.double()).abs().max()) <= tolerance * scale


def test_conditioning_by_hand():
    # x2 given x1: mean m2 + (V12 / V11) (x1 - m1), variance V22 - V12^2 / V11
    mean = torch.tensor([1.0, 2.0]).double()
    V = torch.tensor([[4.0, 2.0], [2.0, 3.0]]).double()
    rule = patches.condition(mean, V, torch.tensor([False, True]))
    drawn = rule.drawn(torch.tensor([[[5.0, 0.0]]]).double(), torch.tensor([[[0.0], [1.0]]]))
    assert drawn[0, 0].item() == pytest.approx(2 + 0.5 * 4)
    assert abs(drawn[0, 1].item() - 4) == pytest.approx((3 - 1) ** 0.5)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 9), st.integers(0, 10**6))
def test_conditioning_is_numpys(size, seed):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size + 3, generator=generator, dtype=torch.float64)
    mean, x = torch.randn(2, size, generator=generator, dtype=torch.float64)
    inside = torch.rand(size, generator=generator) < 0.5
    inside[0], inside[-1] = True, False
    V = root @ root.T
    rule = patches.condition(mean, V, inside)
    centre, left = oracle.gaussian_given(mean.numpy(), V.numpy(), inside.numpy(), x.numpy())
    no_noise = torch.zeros(1, 1, int(inside.sum()))
    close(rule.drawn(x.view(1, 1, -1), no_noise)[0, 0, 0], centre, 1e-6)
    close(rule.root @ rule.root.T, left, 1e-6)


def test_what_determines_the_patch_leaves_no_choice():
    # x3 = x1 + x2 and x2 = 2 x1 in all reference data: the covariance has rank 1
    x1 = torch.linspace(-1, 1, 9).double()
    data = torch.stack([x1, 2 * x1, 3 * x1], 1)
    rule = patches.condition(data.mean(0), torch.cov(data.T), torch.tensor([False, False, True]))
    drawn = rule.drawn(torch.tensor([[[0.5, 1.0, 99.0]]]).double(), torch.ones(1, 1, 1))
    close(drawn.flatten(), torch.tensor([1.5]).double())
    assert float(rule.root.abs().max()) < 1e-7


def test_patches_come_from_everywhere(monkeypatch):
    images = torch.arange(2 * 2 * 4 * 3).view(2, 2, 4, 3)
    found = {tuple(p.tolist()) for p in patches.patches_of(images, (2, 2))}
    expected = {
        tuple(images[m, :, i : i + 2, j : j + 2].flatten().tolist())
        for m in range(2)
        for i in range(3)
        for j in range(2)
    }
    assert found == expected
    monkeypatch.setattr(patches, "MOST_PATCHES", 5)
    some = {tuple(p.tolist()) for p in patches.patches_of(images, (2, 2))}
    assert len(some) == 5
    assert some < expected
