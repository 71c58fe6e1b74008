"""Whatever changes what a model returns is seen by the next explanation of it.

Each test explains a network, changes it, and explains it again, by the explainer that knows it and
by a new one. What must come out is known without a graph: LRP-0 is gradient times input, and
captum calls the model.

By default every second change is tried, with two explainers. XAIFAST_SWEEP=1 tries all of them,
more random sequences, and everything that forward may read, held in each way; XAIFAST_SWEEP=2, for
hours, every change with every explainer.
"""

from __future__ import annotations

import contextlib
import functools
import random
import warnings
from collections.abc import Callable
from contextlib import ExitStack

import mutations
import pytest
import torch
from mutations import (
    CHANGES,
    HELD,
    HELD_KINDS,
    HOLDERS,
    OF_SLIM,
    WITHOUT_EFFECT,
    Museum,
    Rich,
    Slim,
)
from sweep import LONG, SWEEP
from torch import Tensor, nn
from ways import (
    IG,
    OTHERS,
    TARGET,
    TOLERANCE,
    WAYS,
    ZERO,
    Way,
    anew,
    distance,
    forgotten,
    gradient_times_input,
    image,
    made,
)

from xaifast import attr, composites
from xaifast.errors import ModelError, XaifastError

EFFECT = 1e-4  # of the largest value of a map


class Bench:
    """A network between its changes, and the explainers that know it."""

    def __init__(self, net: nn.Module, x: Tensor, ways: dict[str, Way]) -> None:
        self.net, self.x, self.ways = net, x, ways
        self.known: dict[str, Callable] = {}
        self.patched = False  # functions of PyTorch, which its modes then call twice: refused

    def explain(self, names: list[str]) -> None:
        """Explain, so that whatever is kept is kept."""
        for name in names:
            if name not in self.known:
                self.known[name] = self.ways[name].make(self.net, self.x)
            try:
                self.known[name](self.x)
            except ModelError:
                if not self.ways[name].refuses:
                    raise
                self.known[name] = self.ways[name].make(self.net, self.x)

    def wrong(self, names: list[str]) -> list[str]:
        """Which explainers do not explain what the network is now, and how far they are off."""
        found = []
        for name in names:
            way = self.ways[name]
            explainers = {name: self.known[name], f"{name}, new": way.make}
            got = {}
            for who, f in explainers.items():
                result = self._result(f, way)
                if isinstance(result, Tensor):
                    got[who] = result
                elif "_flat_weights" in result or ("be captured" in result and self.patched):
                    continue  # refused in words
                elif not (way.refuses and f is not way.make and "again" in result):
                    found.append(f"{who}: {result}"[:300])
            if not got:
                continue
            want = way.want(self.net, self.x)
            for who, R in got.items():
                error = distance(R, want)
                if error > TOLERANCE:
                    found.append(f"{who}: off by {error:.2g} of the largest value")
        if found:  # what is stale now must not be the next test's
            forgotten(self.net)
            self.known.clear()
        return found

    def _result(self, f: Callable, way: Way) -> Tensor | str:
        """A map, or the words of an error."""
        try:
            return f(self.net, self.x)(self.x) if f is way.make else f(self.x)
        except XaifastError as error:
            return f"{type(error).__name__}: {error}"


def check(bench: Bench, change: Callable[[ExitStack], None], names: list[str], effect=True) -> None:
    """Explain, change, and explain again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's, on how it is used here
        bench.explain(names)
        before = gradient_times_input(bench.net, bench.x)
        with ExitStack() as stack:
            for _ in range(5):  # a change of what a ReLU cuts off changes nothing
                change(stack)
                moved = distance(gradient_times_input(bench.net, bench.x), before) > EFFECT
                if moved or not effect:
                    break
            assert moved == effect
            wrong = bench.wrong(names)
    assert not wrong, "\n" + "\n".join(wrong)


def explainers_for(i: int, others: dict[str, Way] = OTHERS, first: str = "LRP-0") -> list[str]:
    """The explainers that a change is tried with: the first, and one of the others in turn."""
    names = list(others)
    return [first, *(names if LONG else [names[i % len(names)]])]


# ---- what forward reads --------------------------------------------------------------------------


PER_MUSEUM = 9  # things that one network holds


@functools.cache
def museum(holder: str, part: int) -> Bench:
    names = [name for name, by in HELD_KINDS if by == holder]
    torch.manual_seed(part)
    shown = names[part * PER_MUSEUM :][:PER_MUSEUM]
    return Bench(Museum(shown, holder), image(), WAYS)


def museum_of(name: str, holder: str) -> Bench:
    names = [n for n, by in HELD_KINDS if by == holder]
    return museum(holder, names.index(name) // PER_MUSEUM)


def held_cases() -> list[tuple[str, str]]:
    """What is held, and how: all of it in every way in a sweep, else every second in some way."""
    if SWEEP:
        return HELD_KINDS
    cases = []
    for i, (name, held) in enumerate(list(HELD.items())[::2]):
        holder = HOLDERS[i // PER_MUSEUM % len(HOLDERS)]
        cases.append((name, holder if held.copies or holder != "attribute" else "closure"))
    return cases


@pytest.mark.sweep(every=True)
@pytest.mark.parametrize(("name", "holder"), held_cases())
def test_what_forward_reads_is_followed(name, holder):
    bench = museum_of(name, holder)
    names = explainers_for(list(HELD).index(name))
    check(bench, lambda stack: mutations.write(bench.net, name), names)


# ---- weights, modules, hooks, code ---------------------------------------------------------------


def network(kind: type) -> Bench:
    torch.manual_seed(0)
    return Bench(kind(), image(), WAYS)


@pytest.mark.sweep(every=True)
@pytest.mark.parametrize("name", list(CHANGES)[:: 1 if SWEEP else 2])
def test_a_change_of_the_network_is_followed(name):
    bench = network(Slim if name in OF_SLIM else Rich)
    bench.patched = name.startswith("functional") or name == "method of tensors"
    names = explainers_for(list(CHANGES).index(name))
    check(bench, lambda stack: CHANGES[name](bench.net, stack), names, name not in WITHOUT_EFFECT)


# ---- recurrent networks --------------------------------------------------------------------------


def decomposition(net, x):
    explainer = attr.ContextualDecomposition(net)
    return lambda x: explainer.attribute(x, target=TARGET)


LSTM_LRP = made(attr.LRP, composites.Recurrent())
LSTM_FIRST = {"IntegratedGradients": Way(made(attr.IntegratedGradients), IG)}
LSTM_OTHERS = {
    "ContextualDecomposition": Way(decomposition, anew(decomposition)),
    "LRP": Way(LSTM_LRP, anew(LSTM_LRP)),
    "IntegratedGradients, graph": Way(made(attr.IntegratedGradients, optimize=True), IG),
}


@functools.cache
def lstm() -> Bench:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    return Bench(mutations.Recurrent(), x, LSTM_FIRST | LSTM_OTHERS)


@pytest.mark.parametrize("name", mutations.RECURRENT)
def test_a_change_of_a_recurrent_network_is_followed(name):
    bench, change = lstm(), mutations.RECURRENT[name]
    i = list(mutations.RECURRENT).index(name)
    names = explainers_for(i, LSTM_OTHERS, "IntegratedGradients")
    check(bench, lambda stack: change(bench.net, stack), names)


# ---- random networks, random changes -------------------------------------------------------------

RANDOM_OTHERS = {
    name: OTHERS[name]
    for name in (
        "LRP, captured", "IntegratedGradients", "EpsilonPlus", "KernelShap", "FeatureAblation",
        "InputXGradient, graph",
    )
}  # fmt: skip


@pytest.mark.sweep(every=True)
@pytest.mark.parametrize("seed", range(2000 if LONG else 30 if SWEEP else 8))
def test_random_changes_of_random_networks_are_followed(seed):
    torch.manual_seed(seed)
    draw = random.Random(seed)
    bench = Bench(mutations.Grown(draw), image(), WAYS)
    for _ in range(3):
        names = ["LRP-0", draw.choice(list(RANDOM_OTHERS))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bench.explain(names)
            with ExitStack() as stack:
                mutations.random_change(bench.net, draw, stack)
                wrong = bench.wrong(names)
        assert not wrong, "\n" + "\n".join(wrong)


# ---- arguments -----------------------------------------------------------------------------------


class WithArgument(mutations.Body):
    """A network that is told how to read a number, and where from."""

    def forward(self, x: Tensor, read: Callable, thing: object) -> Tensor:
        return self.head(self.out(self.mixed(self.act(self.conv(x)) * read(thing))).flatten(1))


@pytest.mark.parametrize("name", [
    "namespace", "dataclass", "slots", "dict", "list", "list of 10 000", "large array of numpy",
    "array of numpy", "tensor in a list", "tensor in a dict", "tensor of an object", "bytearray",
    "class attribute", "module in a list", "closure",
])  # fmt: skip
def test_an_argument_that_is_no_tensor_is_followed(name):
    held = HELD[name]
    thing = held.make()
    net, x = WithArgument(), image()
    extra = (held.read, thing)
    plain, times = attr.InputXGradient(net), attr.InputXGradient(net, optimize=True)
    explainers = [attr.LRP(net, ZERO), times, attr.LRP(net, ZERO)]
    call = {"target": TARGET, "additional_forward_args": extra}
    for explainer in (plain, *explainers[:2]):
        with contextlib.suppress(ModelError):  # torch.export takes no such arguments
            explainer.attribute(x, **call)
    held.write(thing, mutations.fresh())
    want = gradient_times_input(lambda x: net(x, *extra), x)
    assert distance(plain.attribute(x, **call), want) <= TOLERANCE
    for explainer in explainers:
        with contextlib.suppress(ModelError):
            assert distance(explainer.attribute(x, **call), want) <= TOLERANCE


# ---- models --------------------------------------------------------------------------------------


def test_models_at_one_address_are_different_models():
    x = torch.randn(3, 4, dtype=torch.float64)
    for i in range(6):
        net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
        if i % 2:
            net[1].forward = lambda x: x.relu() * 2
        explainer = attr.LRP(net, ZERO)
        got = explainer.attribute(x, target=TARGET)
        assert distance(got, gradient_times_input(net, x)) <= TOLERANCE
        del net, explainer


def test_an_explainer_keeps_to_the_model_that_it_was_given():
    x = image()
    held = [Rich()]
    explainer = attr.LRP(held[0], ZERO)
    first = explainer.attribute(x, target=TARGET)
    held[0] = Rich()
    assert distance(explainer.attribute(x, target=TARGET), first) == 0
    want = gradient_times_input(held[0], x)
    assert distance(attr.LRP(held[0], ZERO).attribute(x, target=TARGET), want) <= TOLERANCE


def test_a_changed_copy_is_another_model_and_the_original_is_itself():
    net, x = Rich(), image()
    explainer = attr.LRP(net, ZERO)
    first = explainer.attribute(x, target=TARGET)
    twin = mutations.copy.deepcopy(net)
    twin.settings.gain = 3.0
    twin.blocks[0].conv.weight.data.mul_(2)
    want = gradient_times_input(twin, x)
    assert distance(attr.LRP(twin, ZERO).attribute(x, target=TARGET), want) <= TOLERANCE
    assert distance(explainer.attribute(x, target=TARGET), first) == 0


class MakesTensors(mutations.Body):
    def factors(self):
        return [torch.tensor(1 / 3), torch.ones(1) / 3]


def test_the_default_dtype_in_which_forward_makes_tensors_is_followed():
    net, x = MakesTensors(), image()
    explainer = attr.LRP(net, ZERO)
    before = explainer.attribute(x, target=TARGET)
    torch.set_default_dtype(torch.float64)
    try:
        want = gradient_times_input(net, x)
        assert distance(before, want) > 1e-9
        assert distance(explainer.attribute(x, target=TARGET), want) < 1e-12
        assert distance(attr.LRP(net, ZERO).attribute(x, target=TARGET), want) < 1e-12
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("kind", [attr.IntegratedGradients, attr.LRP, attr.DeepLift])
def test_a_training_step_between_two_explanations_is_seen(kind):
    net, x = Rich(), image()
    known = kind(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, foreach=True)
    for _ in range(3):
        net(x).square().sum().backward()
        optimizer.step()
        got = known.attribute(x, target=TARGET)
        again = kind(forgotten(net)).attribute(x, target=TARGET)
        assert distance(got, again) <= TOLERANCE
