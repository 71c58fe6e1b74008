"""What holds for every method: any batch size gives the same, bad input is refused beforehand."""

import pytest
import torch
from methods import NAMES, accepts, net, options_of
from torch import nn

import xaifast
from xaifast.errors import InputError, InputTypeError, ModelError


@pytest.mark.parametrize("name", [n for n in NAMES if accepts(n, "internal_batch_size")])
def test_any_batch_size_gives_the_same(name):
    torch.manual_seed(2)
    model, x = net(name).double(), torch.randn(6, 6, 1, 3, dtype=torch.float64).permute(3, 2, 0, 1)
    options = {"target": [1, 0, 4], **options_of(name)}
    if accepts(name, "seed"):
        options["seed"] = 3
    found = [
        xaifast.explain(model, x, name, internal_batch_size=size, **options)
        for size in ("auto", 1, 7)
    ]
    for R in found[1:]:
        torch.testing.assert_close(R, found[0], rtol=1e-12, atol=1e-14)
    assert all(R.is_contiguous() for R in found)  # whatever the layout of the inputs


@pytest.mark.parametrize("name", ["IntegratedGradients", "RISE", "LRP", "FeatureAblation"])
def test_maps_can_be_viewed_and_keep_channels_last(name):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5))
    x = torch.randn(3, 2, 6, 6).contiguous(memory_format=torch.channels_last)
    R = xaifast.explain(model, x, name, 1, **options_of(name))
    assert R.is_contiguous() or R.is_contiguous(memory_format=torch.channels_last)
    many = xaifast.explain(model, x, name, [[0, 1]] * 3, **options_of(name))
    assert many.view(2, -1).shape == (2, x.numel())


# ---- bad input -----------------------------------------------------------------------------------

X = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
BEFORE = {  # refused before the model is called
    "NaN": ({"inputs": X * float("nan")}, "inputs must be finite"),
    "infinity": ({"inputs": X / 0}, "inputs must be finite"),
    "a number": ({"inputs": 3.0}, "inputs must be a tensor or a tuple of tensors; got 3.0"),
    "no dimension": ({"inputs": X.sum()}, "inputs must have the batch as first dimension"),
    "a small baseline": ({"baselines": X[..., :5]}, "must (have the shape of|be rows like) the in"),
    "a baseline with NaN": ({"baselines": X * float("nan")}, "baselines must be finite"),
    "no size": ({"internal_batch_size": 0}, "must be at least 1; got 0"),
    "a mask with gaps in a word": ({"feature_mask": "circles"}, "feature_mask"),
    "floating segments": ({"feature_mask": X[:1] + 0.5}, "feature_mask must be made of integers"),
    "segments of another size": ({"feature_mask": torch.zeros(5).long()}, "must broadcast against"),
    "a seed that is no number": ({"seed": "a"}, "seed must be"),
    "no steps": ({"n_steps": 0}, "n_steps must be at least 1"),
    "no samples": ({"n_samples": 0}, "n_samples must be at least"),
}
AT_THE_FIRST_OUTPUT = {
    "a class too high": ({"target": 5}, r"target must lie in \[-5, 4\] for an output of shape"),
    "a class too low": ({"target": -6}, r"target must lie in \[-5, 4\] for an output of shape"),
    "two targets": ({"target": [1, 2]}, "one entry for each of the 3 samples"),
    "a word": ({"target": "cat"}, "target must not be a word other than"),
}


def refused(name, options, match, model):
    given = {"inputs": X, "target": 1, **options_of(name), **options}
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises((InputError, InputTypeError, ModelError), match=match) as error:
        xaifast.explain(model, given.pop("inputs"), name, given.pop("target"), **given)
    assert "got" in str(error.value) or error.type is ModelError
    return len(calls)


def asked(case, cases):
    """The methods that have the option which a case is about."""
    option = next(iter(cases[case][0]))
    always = {"inputs": True, "target": True}
    return [n for n in NAMES if always.get(option) or accepts(n, option)]


@pytest.mark.parametrize(("name", "case"), [(n, c) for c in BEFORE for n in asked(c, BEFORE)])
def test_bad_input_is_refused_before_any_work(name, case):
    options, match = BEFORE[case]
    assert refused(name, options, match, net(name)) == 0


@pytest.mark.sweep
@pytest.mark.parametrize("case", AT_THE_FIRST_OUTPUT)
@pytest.mark.parametrize("name", [n for n in NAMES if n != "LayerActivation"])
def test_bad_targets_are_refused_at_the_first_output(name, case):
    # A capture runs the model's code up to four times: for its output, to write down what it does
    # with and without gradients, and to see that it does so again.
    captures = 2 if name == "LayerIntegratedGradients" else 1
    options, match = AT_THE_FIRST_OUTPUT[case]
    assert refused(name, options, match, net(name)) <= 4 * captures + 2


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_without_a_batch_is_refused(name):
    refused(name, {"inputs": X[0]}, "batch as first dimension|must|one row for each", net(name))


class Returning(nn.Module):
    """A network whose output is handed out as something else."""

    def __init__(self, change, name=""):
        super().__init__()
        self.net, self.change = net(name), change

    def forward(self, x):
        return self.change(self.net(x))


OUTPUTS = {
    "tuple": (lambda y: (y, y), "must return one tensor.*(a tuple of 2|a tuple)"),
    "dict": (lambda y: {"logits": y}, "must return one tensor.*(a dict of 1|a dict)"),
    "None": (lambda y: None, "must return one tensor.*None"),
    "array": (lambda y: y.detach().numpy(), "must return one tensor.*ndarray"),
}


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_returns_no_tensor_is_refused(name, kind):
    change, match = OUTPUTS[kind]
    options = {"layer": "net.0"} if "layer" in options_of(name) else {}
    refused(name, options, match, Returning(change, name))


@pytest.mark.parametrize("name", [n for n in NAMES if n != "LayerActivation"])
def test_a_model_that_fails_says_what_to_check(name):
    def broken(y):
        raise KeyError("weights")

    options = {"layer": "net.0"} if "layer" in options_of(name) else {}
    refused(name, options, r"fails on these inputs itself \(KeyError", Returning(broken, name))
