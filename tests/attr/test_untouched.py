"""Explaining changes nothing of a user's model or the process, and shows it real values only."""

from __future__ import annotations

import copy
import logging
import random
import sys
import warnings

import numpy as np
import pytest
import torch
from methods import EXPLAINERS, net, options_of
from torch import Tensor, nn

import xaifast
from xaifast import attr

X = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))


class Watching(nn.Module):
    """A network that writes down what it sees: in lists and attributes."""

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self.net = net(name)
        self.seen: list[tuple[Tensor, Tensor]] = []
        self.calls = 0
        self.last: Tensor | None = None
        self.settings = {"scale": [1.0, 2.0], "array": np.ones(3)}
        self.register_buffer("rows", torch.zeros((), dtype=torch.long))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dropout(self.net(x)) * self.settings["scale"][0]
        self.seen.append((x.detach().clone(), y.detach().clone()))
        self.last = y.detach()
        self.calls += 1
        self.rows += 1
        return y


def watched(name: str) -> tuple[Watching, list, list]:
    """The network, and what the hooks see behind its modules and before them."""
    model = Watching(name).eval()
    seen: list[tuple[str, Tensor, Tensor]] = []
    before: list[Tensor] = []

    def watch(path: str, module: nn.Module) -> None:
        def hook(module, inputs, output):
            output = output[0] if isinstance(output, tuple) else output
            seen.append((path, inputs[0].detach().clone(), output.detach().clone()))

        module.register_forward_hook(hook)
        module.register_forward_pre_hook(lambda module, x: before.append(x[0].detach().clone()))

    for path, module in model.net.named_children():
        watch(path, module)
    return model, seen, before


def is_real(x: Tensor) -> bool:
    """Whether it is a plain tensor with data."""
    return type(x) is Tensor and x.device.type == "cpu" and not x.is_meta and x.data_ptr() != 0


def assert_real(model: Watching, seen: list, before: list) -> None:
    """What was written down belongs together, as it does in a real run."""
    plain = copy.deepcopy(model.net)
    for module in plain.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    with torch.no_grad():
        for x, y in model.seen:
            assert is_real(x)
            assert is_real(y)
            torch.testing.assert_close(plain(x), y, rtol=1e-4, atol=1e-5)
        for path, x, y in seen:
            assert is_real(x)
            assert is_real(y)
            want = plain.get_submodule(path)(x.clone())
            want = want[0] if isinstance(want, tuple) else want
            torch.testing.assert_close(want, y, rtol=1e-4, atol=1e-5)
    assert all(is_real(x) for x in before)
    assert model.last is None or is_real(model.last)
    assert type(model.calls) is int
    assert is_real(model.rows)
    assert len(model.seen) == model.calls


def options(name: str) -> dict:
    given = {"target": [1, 0, 4], **options_of(name)}
    if "layer" in given:
        given["layer"] = "net." + given["layer"]
    if name in ("Lime", "KernelShap"):
        given["seed"] = 0
    return given


def facts(model: nn.Module) -> dict:
    """Everything of a model that a user may look at, but what its own forward writes."""
    found: dict = {"training": [m.training for m in model.modules()]}
    found["modules"] = [(name, id(m), type(m)) for name, m in model.named_modules()]
    own = ("rows",)
    tensors = [*model.named_parameters(), *model.named_buffers()]
    tensors = [(n, x) for n, x in tensors if n.split(".")[-1] not in own]
    found["tensors"] = [
        (n, id(x), type(x), x.data_ptr(), x._version, x.requires_grad, x.grad, x.stride())
        for n, x in tensors
    ]
    found["values"] = {n: x.detach().clone().tolist() for n, x in tensors}
    hooks = [k for k in vars(model) if "hooks" in k]
    found["hooks"] = [
        (k, [(i, id(h)) for i, h in vars(m)[k].items()])
        for m in model.modules()
        for k in hooks
        if isinstance(vars(m).get(k), dict)
    ]
    skip = {"seen", "calls", "last", "_parameters", "_buffers", "_modules"}
    found["attributes"] = [
        (k, id(v), repr(v)) for m in model.modules() for k, v in vars(m).items() if k not in skip
    ]
    found["names"] = [sorted(set(vars(m))) for m in model.modules()]
    return found


def process() -> dict:
    """What belongs to the process."""
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state()),  # noqa: NPY002
        "random": random.getstate(),
        "grad": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "device": str(torch.get_default_device()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "mkldnn": torch.backends.mkldnn.enabled,
        "threads": torch.get_num_threads(),
        "filters": list(warnings.filters),
        "levels": [logging.getLogger(n).level for n in ("torch.export", "torch.fx", "torch")],
        "streams": (id(sys.stdout), id(sys.stderr)),
        "hooks": (
            len(nn.modules.module._global_forward_hooks),
            len(nn.modules.module._global_forward_pre_hooks),
            len(nn.modules.module._global_backward_hooks),
        ),
        "relu": id(torch.nn.functional.relu),
        "cpu autocast": torch.is_autocast_enabled("cpu"),
    }


def assert_same(before: dict, after: dict) -> None:
    for key in before:
        assert before[key] == after[key], key


@pytest.mark.sweep(every=True)
@pytest.mark.parametrize("name", EXPLAINERS)
def test_nothing_of_the_model_or_the_process_is_changed(name):
    torch.manual_seed(0)
    model, seen, written = watched(name)
    x = X.clone()
    model(x)  # whatever PyTorch sets up at the first call
    model.seen.clear(), seen.clear(), written.clear()
    model.calls = 0
    before, around = facts(model), process()
    for _ in range(2):
        xaifast.explain(model, x, name, **options(name))
    assert_same(around, process())
    assert_same(before, facts(model))
    assert torch.equal(x, X)
    assert x.grad is None
    assert not x.requires_grad
    assert_real(model, seen, written)


def captured(model, x):
    explain = attr.LRP(model).capture(x, target=1)
    explain(x, target=1)


@pytest.mark.parametrize(
    "call",
    [
        captured,
        lambda model, x: attr.LRP(model).core(x, target=1),
        lambda model, x: attr.LRP(model).plan(x),
        lambda model, x: attr.LRP(model).report(x, target=1),
        lambda model, x: attr.Saliency(model).attribute(torch.cat([x] * 20), target=1),
        lambda model, x: attr.IntegratedGradients(model).attribute(x, target=1),
        lambda model, x: attr.Occlusion(model, optimize=True).attribute(
            x, target=1, sliding_window_shapes=(1, 2, 2)
        ),
        lambda model, x: attr.LRP(model).attribute(x[:0], target=1),
    ],
)
def test_no_other_call_changes_anything(call):
    model, seen, written = watched("")
    model(X)
    model.seen.clear(), seen.clear(), written.clear()
    model.calls = 0
    before, around = facts(model), process()
    for _ in range(2):
        call(model, X)
    assert_same(around, process())
    assert_same(before, facts(model))
    assert_real(model, seen, written)


@pytest.mark.parametrize(
    "name", ["LRP", "DeepLift", "IntegratedGradients", "Occlusion", "LayerGradCam", "Saliency"]
)
def test_a_model_in_training_mode_stays_in_it(name):
    model, seen, _ = watched(name)
    model.net.insert(1, nn.BatchNorm2d(3))
    model.train()
    model.net[0].eval()  # as a frozen layer is
    before, around = facts(model), process()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        xaifast.explain(model, X, name, **options(name))
    assert_same(around, process())
    assert_same(before, facts(model))
    for _, x, y in seen:
        assert is_real(x)
        assert is_real(y)


class Failing(Watching):
    def forward(self, x: Tensor) -> Tensor:
        super().forward(x)
        raise KeyError("nothing to see")


@pytest.mark.sweep(every=True)
@pytest.mark.parametrize("name", EXPLAINERS)
def test_a_model_that_fails_is_left_as_it_was(name):
    torch.manual_seed(0)
    model = Failing(name).eval()
    before, around = facts(model), process()
    with pytest.raises((xaifast.XaifastError, KeyError)):
        xaifast.explain(model, X, name, **options(name))
    assert_same(around, process())
    assert_same(before, facts(model))
    assert all(is_real(x) and is_real(y) for x, y in model.seen)


class Adapting(nn.Module):
    """A network whose forward keeps a running mean of what it sees, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 3, 3), nn.Linear(48, 5)
        self.register_buffer("mean", torch.zeros(3))
        self.history: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).relu()
        self.mean = 0.9 * self.mean + 0.1 * h.detach().mean((0, 2, 3))
        self.mean.mul_(1.0)
        self.history.append(self.mean.clone())
        return self.head(h.flatten(1))


@pytest.mark.parametrize(
    "name", ["LRP", "DeepLift", "IntegratedGradients", "Occlusion", "Saliency", "KernelShap"]
)
def test_state_that_forward_keeps_holds_real_values(name):
    torch.manual_seed(0)
    model = Adapting().eval()
    xaifast.explain(
        model, X, name, **options(name) | {"layer": "conv"} if "Layer" in name else options(name)
    )
    assert is_real(model.mean)
    assert torch.isfinite(model.mean).all()
    assert all(is_real(x) for x in model.history)
    for before, after in zip([torch.zeros(3), *model.history], model.history, strict=False):
        assert (after - 0.9 * before >= -1e-6).all()  # of what is real, by the ReLU
    assert not model.history or torch.equal(model.history[-1], model.mean)
