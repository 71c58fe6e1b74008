"""SmoothGrad and its kin: by their formulas, reproducible, over any explainer."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from xaifast import attr, ops
from xaifast.engine import randomness
from xaifast.errors import InputError, InputTypeError


class Recorder:
    """An explainer that shows what it is given."""

    forward_func = staticmethod(lambda x, *more: x + sum(y for y in more if y != "word"))

    def __init__(self):
        self.calls = []

    def attribute(self, inputs, **kwargs):
        self.calls.append((inputs, kwargs))
        return inputs

    def has_convergence_delta(self):
        return False


def double(*shape):
    return torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("batch_size", [None, 1, 3, 100])
def test_by_the_formulas(batch_size, device):
    x = double(4, 3, 5).to(device)
    recorder = Recorder()
    tunnel = attr.NoiseTunnel(recorder)
    how = {"nt_samples": 7, "stdevs": 0.3, "seed": 5, "nt_samples_batch_size": batch_size}
    mean = tunnel.attribute(x, "smoothgrad", **how)
    copies = torch.cat([c[0].unflatten(0, (4, -1)) for c in recorder.calls], 1)
    assert copies.shape == (4, 7, 3, 5)
    torch.testing.assert_close(mean, copies.mean(1))
    square = tunnel.attribute(x, "smoothgrad_sq", **how)
    torch.testing.assert_close(square, copies.square().mean(1))
    variance = tunnel.attribute(x, "vargrad", **how)
    torch.testing.assert_close(variance, copies.var(1, unbiased=False))
    noise = ((copies - x.unsqueeze(1)) / 0.3).flatten()
    assert abs(float(noise.mean())) < 0.2
    assert 0.8 < float(noise.std()) < 1.2


def test_the_noise_does_not_depend_on_batches_layout_or_dtype():
    x = torch.randn(3, 4, 6, 5)
    saliency = attr.NoiseTunnel(Recorder())
    want = saliency.attribute(x, seed=1, nt_samples=6)
    for size in (1, 4):
        got = saliency.attribute(x, seed=1, nt_samples=6, nt_samples_batch_size=size)
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
    last = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(saliency.attribute(last, seed=1, nt_samples=6), want)
    wide = saliency.attribute(x.double(), seed=1, nt_samples=6)
    torch.testing.assert_close(wide.float(), want, rtol=1e-5, atol=1e-5)
    assert not torch.equal(saliency.attribute(x, seed=2, nt_samples=6), want)
    torch.manual_seed(9)
    first = saliency.attribute(x)
    torch.manual_seed(9)
    assert torch.equal(saliency.attribute(x), first)
    generator = torch.Generator().manual_seed(4)
    drawn = saliency.attribute(x, generator=generator)
    assert not torch.equal(saliency.attribute(x, generator=generator), drawn)
    with pytest.raises(InputError, match="seed and generator exclude each other"):
        saliency.attribute(x, seed=1, generator=generator)


@settings(max_examples=20, deadline=None)
@given(shift=st.floats(-1e6, 1e6), seed=st.integers(0, 2**40))
def test_the_variance_cancels_nothing(shift, seed):
    class Shifted(Recorder):
        def attribute(self, inputs, **kwargs):
            return inputs + shift

    x = torch.zeros(2, 3)
    got = attr.NoiseTunnel(Shifted()).attribute(x.double(), "vargrad", 12, 5, 1e-3, seed=seed)
    want = attr.NoiseTunnel(Recorder()).attribute(x.double(), "vargrad", 12, 5, 1e-3, seed=seed)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-12)
    assert (got >= 0).all()


def test_inputs_have_noise_of_their_own():
    recorder = Recorder()
    x, y = torch.zeros(2, 3), torch.zeros(2, 3)
    attr.NoiseTunnel(recorder).attribute((x, y), nt_samples=4, stdevs=(1.0, 0.0), seed=0)
    (a, b), _ = recorder.calls[0]
    assert a.std() > 0.5
    assert torch.equal(b, torch.zeros(8, 3))
    attr.NoiseTunnel(recorder).attribute((x, y), nt_samples=4, seed=0)
    (a, b), _ = recorder.calls[1]
    assert not torch.equal(a, b)


def test_arguments_go_along_with_their_samples():
    recorder = Recorder()
    x = torch.zeros(2, 3)
    extra, mask = torch.tensor([[10.0], [20.0]]), torch.tensor([[0, 1, 2]])
    attr.NoiseTunnel(recorder).attribute(
        x, nt_samples=3, target=[0, 1], additional_forward_args=(extra, "word"),
        feature_mask=mask, baselines=torch.ones(2, 3),
    )  # fmt: skip
    _, kwargs = recorder.calls[0]
    assert kwargs["target"] == [0, 0, 0, 1, 1, 1]
    assert kwargs["additional_forward_args"][0].flatten().tolist() == [10] * 3 + [20] * 3
    assert kwargs["additional_forward_args"][1] == "word"
    assert torch.equal(kwargs["feature_mask"], mask)
    assert kwargs["baselines"].shape == (6, 3)
    attr.NoiseTunnel(recorder).attribute(x, nt_samples=3, target=np.array([0, 1]))
    assert recorder.calls[1][1]["target"].tolist() == [0, 0, 0, 1, 1, 1]
    attr.NoiseTunnel(recorder).attribute(x, nt_samples=3, target=(1, 2))
    assert recorder.calls[2][1]["target"] == (1, 2)
    rows = torch.arange(5.0).view(5, 1).expand(5, 3)
    attr.NoiseTunnel(recorder).attribute(
        x, nt_samples=40, baselines=rows, draw_baseline_from_distrib=True
    )
    drawn = recorder.calls[3][1]["baselines"]
    assert drawn.shape == (80, 3)
    assert set(drawn.flatten().tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}


EXPLAINERS = {
    "saliency": lambda m: attr.Saliency(m),
    "integrated gradients": lambda m: attr.IntegratedGradients(m),
    "lrp": lambda m: attr.LRP(m),
    "deep lift": lambda m: attr.DeepLift(m),
    "guided": lambda m: attr.GuidedBackprop(m),
    "layer": lambda m: attr.LayerGradientXActivation(m, m[0]),
}


@pytest.mark.parametrize("name", EXPLAINERS)
def test_over_any_explainer_without_noise_nothing_changes(name):
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    explainer, x = EXPLAINERS[name](model), double(3, 4)
    tunnel = attr.NoiseTunnel(explainer)
    want = explainer.attribute(x, target=[0, 2, 1])
    got = tunnel.attribute(x, nt_samples=3, stdevs=0, target=[0, 2, 1])
    torch.testing.assert_close(got, want)
    assert tunnel.has_convergence_delta() == explainer.has_convergence_delta()
    if name == "layer":
        return
    several = tunnel.attribute(x, nt_samples=3, stdevs=0, target=[[0, 2]] * 3)
    torch.testing.assert_close(several, explainer.attribute(x, target=[[0, 2]] * 3))


def test_deltas_come_sample_by_sample():
    ig = attr.IntegratedGradients(lambda x: x[:, 0] ** 5)
    x = double(3, 2)
    for size in (None, 2):
        got, delta = attr.NoiseTunnel(ig).attribute(
            x, nt_samples=5, nt_samples_batch_size=size, stdevs=0.1, n_steps=1, seed=3,
            return_convergence_delta=True,
        )  # fmt: skip
        assert got.shape == x.shape
        assert delta.shape == (15,)
        noisy = ops.add_noise(
            x, torch.arange(3).repeat_interleave(5), torch.arange(5).repeat(3),
            torch.full((3,), 0.1, dtype=torch.float64), randomness.seeds_for((x,), seeded(3))[0],
        )  # fmt: skip
        _, want = ig.attribute(noisy, n_steps=1, return_convergence_delta=True)
        torch.testing.assert_close(delta, want)


def seeded(seed):
    return randomness.generator_of("test", seed)


ERRORS = [
    ({"nt_type": "mean"}, InputError, "nt_type must be one of smoothgrad, .*; got 'mean'"),
    ({"nt_samples": 0}, InputError, "nt_samples must be at least 1; got 0"),
    ({"nt_samples": 1.5}, InputTypeError, "nt_samples must be an int; got 1.5"),
    ({"stdevs": -1.0}, InputError, "stdevs must be >= 0 and finite; got -1.0"),
    ({"stdevs": "1"}, InputTypeError, "stdevs must be numbers; got '1'"),
    ({"stdevs": (1.0, 2.0)}, InputError, "stdevs must hold one for each of the 1 inputs; got 2"),
    ({"nt_samples_batch_size": 0}, InputError, "nt_samples_batch_size must be at least 1; got 0"),
    ({"draw_baseline_from_distrib": True}, InputError, "needs baselines that are tensors of rows"),
    ({"seed": 0.5}, InputTypeError, "seed must be an int; got 0.5"),
]


@pytest.mark.parametrize(("options", "error", "match"), ERRORS)
def test_bad_input_is_refused(options, error, match):
    with pytest.raises(error, match=match):
        attr.NoiseTunnel(Recorder()).attribute(torch.ones(2, 3), **options)


def test_what_has_no_noise_is_refused():
    with pytest.raises(InputTypeError, match="attribution_method must be an explainer"):
        attr.NoiseTunnel(nn.Linear(2, 2))
    with pytest.raises(InputTypeError, match="inputs must be floating"):
        attr.NoiseTunnel(Recorder()).attribute(torch.ones(2, 3, dtype=torch.int64))

    class Whole(Recorder):
        def attribute(self, inputs, **kwargs):
            return inputs[:1]

    with pytest.raises(InputError, match="attribution_method must explain each sample by itself"):
        attr.NoiseTunnel(Whole()).attribute(torch.ones(2, 3))
