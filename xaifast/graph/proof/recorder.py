"""The recorder: a mode that writes down what the code of a model calls."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .events import (
    ABOUT,
    CUTS,
    HALF,
    HANDLES,
    HOOKED,
    LAYOUT,
    NOTHING,
    OWN_BACKWARD,
    Event,
    NoScriptError,
    Place,
    alias_of,
    frozen,
    hash_of,
    is_constant,
    look_of,
    mapped,
    mode_now,
    places_in,
    stand_in,
    writes,
)
from .shell import TENSORS, Shell


@contextmanager
def young() -> Iterator[None]:
    """Leave what is made inside in the youngest generation: one quick collection finds its cycles.

    A full one would look at everything in the user's process, at every call.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Recorder(TorchFunctionMode):
    """Sees every call of PyTorch while the code of a model runs.

    Calls get copies of the tensors of the model and of those from outside: code that changes them
    in place changes the copies.
    """

    def __init__(self, shell: Shell, inputs: list[Tensor], keep: bool = False) -> None:
        super().__init__()
        self.shell = shell
        self.layouts: list[tuple] = []
        self.keep = keep
        self.values: dict[Place, Tensor] = {}
        self.events: list[Event] = []
        self.answers: list[Any] = []
        self.stand_ins: dict[Place, Tensor] = {}
        self.known: dict[int, Place] = {}
        self.made: list[weakref.ref] = []
        self.aliases: dict[tuple, Place] = {}
        self.copies: dict[Place, Tensor] = {}
        self.held: list[Tensor] = []  # no other tensor may get the id of one that was seen
        self.own: dict[str, Place] = {}
        self.slots = self.outside = 0
        self.from_inputs: set[Place] = set()
        self.cut = HOOKED if shell.backward_hooks else None
        self.reads = self.wraps = False
        self.inputs = inputs
        for i, x in enumerate(inputs):
            place = Place("input", i, look_of(x))
            self._know(x, place)
            self.from_inputs.add(place)

    # -- places --

    def _know(self, x: Tensor, place: Place) -> None:
        """Remember the place of a tensor for as long as the tensor lives."""
        key, alias = id(x), alias_of(x)

        def forget(_: Any) -> None:
            self.known.pop(key, None)
            if alias is not None and self.aliases.get(alias) is place:
                del self.aliases[alias]

        self.known[key] = place
        if self.keep:
            self.values[place] = x
        if alias is not None:
            self.aliases.setdefault(alias, place)
        self.made.append(weakref.ref(x, forget))

    def place(self, x: Tensor) -> Place:
        """The place of a tensor that a call is given."""
        found = self.known.get(id(x))
        if found is not None:
            return found
        if type(x) not in TENSORS or x.layout != torch.strided:
            raise NoScriptError(f"a tensor of class {type(x).__name__}, {x.layout}")
        self.held.append(x)
        path = self.shell.own.get(id(x))
        alias = None if path is not None else self.aliases.get(alias_of(x) or ())
        if alias is not None:  # a custom function hands on what it was given in a new object
            self.wraps = True
            if alias in self.from_inputs:
                self.cut = self.cut or OWN_BACKWARD
            self.known[id(x)] = alias
            return alias
        if path is not None:
            found = self.own[path] = Place("own", path, look_of(x))
        else:
            found = Place("outside", self.outside, look_of(x), hash_of(x))
            self.outside += 1
        copy = x.detach().clone()
        copy = copy.float() if copy.dtype in HALF else copy
        if x.requires_grad and torch.is_grad_enabled():
            copy.requires_grad_()
        self.copies[found] = copy
        self.known[id(x)] = self.known[id(copy)] = found
        return found

    def _new(self, x: Tensor, func: Any) -> Place:
        """The place of a tensor that a call returned."""
        if id(x) in self.known:
            return self.known[id(x)]
        if type(x) not in TENSORS or x.layout != torch.strided:
            raise NoScriptError(f"{func} returns a {type(x).__name__}, {x.layout}")
        place = Place("slot", self.slots, look_of(x))
        self.slots += 1
        self._know(x, place)
        return place

    def standing_in(self, place: Place) -> Tensor:
        """The stand-in of a tensor in rehearsals."""
        if place not in self.stand_ins:
            self.stand_ins[place] = stand_in(place.look)
        return self.stand_ins[place]

    # -- a call --

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        mode = mode_now()
        whole = args[:1] if func in HANDLES else (*args, *kwargs.values())
        given = tuple(frozen(x, self.place) for x in whole)
        places = list(places_in(given))
        raw = tuple(map(self._raw, whole, given))

        def mine(x: Tensor) -> Tensor:
            return self.copies.get(self.known[id(x)], x)

        result = func(*mapped(args, mine), **mapped(kwargs, mine))
        handle = func in HANDLES
        what = None if handle else frozen(result, lambda x: self._new(x, func))
        came = [] if handle else list(places_in(what))
        self.answers.append(
            result if handle else mapped(result, lambda x: self.standing_in(self.known[id(x)]))
        )
        if any(p in self.from_inputs for p in places):
            self.from_inputs.update(came)
            if places and writes(func, kwargs):
                self.from_inputs.add(places[0])
            if self.cut is None and func not in ABOUT:
                self.cut = _cut_by(func, args, mode)
            if func in LAYOUT and given[0].kind == "input":
                self.layouts.append((partial(func, **kwargs), given[0].key, args[1:], result))
        elif places and not came and func not in ABOUT and result is not None:
            self.reads = True
        self.events.append(Event(func, given, tuple(kwargs), what, mode, raw))
        return result

    def _raw(self, x: Any, given: Any) -> Any:
        """The object that an argument always is, if there is one.

        A list for a sequence, with what its elements are.
        """
        if isinstance(given, Place):
            return self.stand_ins.get(given, NOTHING)
        if is_constant(x):
            return x
        if type(x) in (list, tuple):
            return list(map(self._raw, x, given[1:]))
        return NOTHING

    # -- the end --

    def keeps(self, output: Tensor) -> bool:
        """Whether something that was computed outlives the run."""

        def outliving() -> bool:
            known = {id(x) for x in (*self.inputs, output, output._base)}
            found = [r() for r in self.made]
            return any(x is not None and id(x) not in known for x in found)

        return outliving() and gc.collect(0) >= 0 and outliving()


def _cut_by(func: Any, args: tuple, mode: tuple) -> str | None:
    """Name the cut that a call makes in the gradient of what depends on the inputs."""
    if func == Tensor.view_as and args[0] is args[1]:  # how PyTorch wraps what a function hands on
        return OWN_BACKWARD
    if func in CUTS:
        return str(getattr(func, "__name__", func))
    if torch._C._autograd._top_saved_tensors_default_hooks(False) is not None:
        return "hooks on saved tensors"
    return None if mode[0] else "a block without gradients"
