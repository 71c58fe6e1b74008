"""It is the user's own model that is explained, as it is given: not a copy, nor what it wraps."""

from __future__ import annotations

import contextlib
import typing
from collections.abc import Callable

import mutations
import peers
import pytest
import torch
from mutations import Rich
from torch import Tensor, nn
from ways import (
    FIRST,
    OTHERS,
    TARGET,
    TOLERANCE,
    ZERO,
    distance,
    gradient_times_input,
    image,
    made,
)

from xaifast import attr, composites
from xaifast.errors import ModelError

# ---- what stands for the model: wrappers, copies, other names for it -----------------------------


class Wrapper(nn.Module):
    """It calls what it wraps as torch.compile's modules do, and does something more."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self._orig_mod = net

    def forward(self, x: Tensor) -> Tensor:
        return self._orig_mod(x) * 2


class Parallel(nn.DataParallel):
    def forward(self, x: Tensor) -> Tensor:
        return self.module(x) * 2


def hooked(net: nn.Module) -> nn.Module:
    net.register_forward_hook(lambda module, x, y: y * 2)
    return net


class Known(mutations.Body):
    """What is known of the network by itself, somewhere else."""

    scales: typing.ClassVar[dict[nn.Module, float]] = {}

    def factors(self) -> list:
        return [self.scales.get(self, 1.0)]


def known() -> nn.Module:
    net = Known()
    Known.scales[net] = 3.0
    return net


class Itself(mutations.Body):
    def factors(self) -> list:
        return [2.0 if any(self is net for net in mutations.KEPT) else 1.0]


def itself() -> nn.Module:
    mutations.KEPT.append(Itself())
    return mutations.KEPT[-1]


class Forgetful:
    """A copy of it is as it was at first."""

    def __init__(self) -> None:
        self.value = 1.0

    def __reduce__(self) -> tuple:
        return Forgetful, ()


class WithForgetful(mutations.Body):
    def __init__(self) -> None:
        super().__init__()
        self.settings = Forgetful()
        self.settings.value = 4.0

    def factors(self) -> list:
        return [self.settings.value]


STANDING = {
    "a wrapper": lambda: Wrapper(mutations.Body()),
    "a subclass of DataParallel": lambda: Parallel(mutations.Body()),
    "a hook of DataParallel": lambda: hooked(nn.DataParallel(mutations.Body())),
    "a hook of a compiled module": lambda: hooked(torch.compile(mutations.Body(), backend="eager")),
    "a key of a dict": known,
    "its identity": itself,
    "a copy that forgets": WithForgetful,
}


# No copy and no shell can stand for them: they are explained by the model itself, or refused.
ALONE = ["a key of a dict", "its identity", "a copy that forgets"]


@pytest.mark.parametrize("name", STANDING)
def test_it_is_the_users_own_model_that_is_explained(name):
    net, x = STANDING[name](), image()
    want = gradient_times_input(net, x)
    for make in (FIRST["LRP-0"].make, made(attr.InputXGradient, optimize=True)):
        if name in ALONE:
            with pytest.raises(ModelError, match="ask which module it is"):
                make(net, x)(x)
        else:
            assert distance(make(net, x)(x), want) <= TOLERANCE
    got = attr.InputXGradient(net).attribute(torch.cat([x] * 20), target=TARGET)[:2]
    assert distance(got, want) <= TOLERANCE


@pytest.mark.parametrize("name", ALONE)
def test_layers_are_those_of_the_users_own_model(name):
    net, x = STANDING[name](), image()
    for way in ("LayerIntegratedGradients", "LayerGradCam", "LayerActivation"):
        if name == "a copy that forgets":  # a shell does not copy what its modules refer to
            got = OTHERS[way].make(net, x)(x)
            assert distance(got, OTHERS[way].want(net, x)) <= TOLERANCE
        else:
            with pytest.raises(ModelError, match="ask which module it is"):
                OTHERS[way].make(net, x)(x)


class Tripled(mutations.Body):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 3


@pytest.mark.parametrize("rows", [2, 40])
@pytest.mark.parametrize(
    "function",
    [lambda: hooked(mutations.Body()).forward, lambda: super(Tripled, Tripled()).forward],
    ids=["forward without the hooks", "forward of the base class"],
)
def test_a_method_is_not_the_module(function, rows):
    f, x = function(), torch.cat([image()] * (rows // 2))
    want = gradient_times_input(f, x)
    assert distance(attr.InputXGradient(f).attribute(x, target=TARGET), want) <= TOLERANCE
    with contextlib.suppress(ModelError):  # only a module has a graph
        got = attr.InputXGradient(f, optimize=True).attribute(x, target=TARGET)
        assert distance(got, want) <= TOLERANCE


def test_a_layer_that_moves_is_the_same_layer():
    net, x = Rich(), image()
    block = net.blocks[0]
    explainer = attr.LayerActivation(net, block)
    explainer.attribute(x)
    net.blocks[0], net.blocks[1] = net.blocks[1], net.blocks[0]
    want = peers.captum.LayerActivation(net, block).attribute(x).detach()
    assert distance(explainer.attribute(x), want) <= TOLERANCE


@pytest.mark.parametrize("how", ["hook", "subclass"])
def test_cells_that_are_changed_are_explained_as_they_are(how):
    class Doubled(attr.CellStates):
        def forward(self, x):
            return super().forward(x) * 2

    lstm = nn.LSTM(3, 4, batch_first=True).double()
    cells = Doubled(lstm) if how == "subclass" else hooked(attr.CellStates(lstm))
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    got = attr.IntegratedGradients(cells).attribute(x, target=(4, 1))
    with peers.float64():
        want = peers.captum.IntegratedGradients(cells).attribute(x.clone(), target=(4, 1))
    assert distance(got, want.detach()) <= TOLERANCE


# ---- what forward sees of an input ---------------------------------------------------------------


class Looks(mutations.Body):
    """A network whose code looks at something else of its input than its values."""

    def __init__(self, look: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.look = look

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (3.0 if self.look(x) else 1.0)


LOOKS = {
    "rows": (lambda x: len(x) > 16, lambda x: torch.cat([x] * 10)),
    "one row": (lambda x: len(x) == 1, lambda x: x[:1]),
    "odd rows": (lambda x: len(x) % 2 == 1, lambda x: torch.cat([x, x[:1]])),
    "no rows of the example": (lambda x: len(x) == 11, lambda x: torch.cat([x] * 6)[:11]),
    "layout": (lambda x: not x.is_contiguous(), lambda x: x.transpose(2, 3)),
    "channels last": (
        lambda x: x.is_contiguous(memory_format=torch.channels_last),
        lambda x: x.contiguous(memory_format=torch.channels_last),
    ),
    "strides": (lambda x: x.stride(-1) != 1, lambda x: x.transpose(2, 3)),
    "values": (lambda x: x.sum() > 0, torch.abs),
    "size": (lambda x: x.shape[-1] == 6, lambda x: x),
}


@pytest.mark.parametrize("name", LOOKS)
def test_what_forward_sees_of_an_input_is_what_it_is_given(name):
    look, change = LOOKS[name]
    net, x = Looks(look), image() - 1
    other = change(x)
    explainers = [attr.LRP(net, ZERO), attr.InputXGradient(net)]
    for explainer in explainers:
        for some in (x, other, x):
            want = gradient_times_input(net, some)
            assert distance(explainer.attribute(some, target=TARGET), want) <= TOLERANCE


# ---- what an explainer is told later -------------------------------------------------------------


def test_what_an_explainer_holds_may_be_replaced_or_not():
    """What is put in the place of an explainer's attribute is followed, or cannot be put there."""
    net, x = mutations.Body(), image()
    other = mutations.Body()
    lrp, times = attr.LRP(net, ZERO), attr.InputXGradient(net, optimize=True)
    cases = (
        (lrp, "model", other, gradient_times_input(other, x)),
        (times, "forward_func", other, gradient_times_input(other, x)),
        (
            attr.LRP(net, ZERO), "composite", composites.EpsilonPlus(),
            attr.LRP(net, composites.EpsilonPlus()).attribute(x, target=TARGET),
        ),
    )  # fmt: skip
    for explainer, name, value, want in cases:
        explainer.attribute(x, target=TARGET)
        try:
            setattr(explainer, name, value)
        except AttributeError:
            continue
        assert distance(explainer.attribute(x, target=TARGET), want) <= TOLERANCE
