"""Rehearsal: show that a captured graph is still the model.

What a model returns depends on its tensors, and on everything else that its Python code reads:
attributes of any object, globals, closures, hooks, files. A graph reads the former anew at every
call, and holds the latter as it was at the capture. So the model's code runs again at every call,
without its arithmetic: a mode sees each of its calls of PyTorch, compares it with the call at the
same place in the script of the capture, and answers with a stand-in of the recorded shape. Code
that makes the same calls, in the same order, with the same constants, on the same tensors, is the
same function.

    script: conv2d(input 0, own "conv.weight", None, (1, 1), ...) -> slot 0;  relu(slot 0) -> slot 1

Tensors are told apart by their place: an input, a tensor of the model's modules by its path (its
values are read anew at every call of the graph), what an earlier call returned, or one from outside
(a global, a helper object), whose values the graph holds and whose hash is compared.

Stand-ins have no values. Code that asks for values of constants, or that keeps what it computes (a
hook that collects activations), is rehearsed for real on the rows that were recorded. Code that
does not repeat itself even then has no script: its graph serves one call.
"""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...errors import ModelError
from ..capture.modules import own
from .events import (
    ABOUT,
    HANDLES,
    STATE,
    Event,
    NoScriptError,
    Place,
    frozen,
    hash_of,
    look_of,
    looks_like,
    mode_now,
    new_tensor_defaults,
)
from .recorder import Recorder, young
from .shell import TENSORS, Shell, itself_or_shell, shell_of


@dataclass(eq=False)
class Script:
    """The calls that the code of a model made with some inputs.

    output: the place of what it returned; kinds: path and class of its modules; grad: whether
    gradients were recorded; cut: what gives it another gradient than that of its values (None:
    nothing); inputs: their stand-ins; own: places by path; answers: what a rehearsal returns for
    each event; layouts: what it has asked of the strides of inputs; example: the inputs that were
    recorded; for_real: whether the code runs on them again, because stand-ins do not serve;
    forgotten: whether it is not to be believed any more; with_gradients: what it does where
    gradients are recorded; defaults: of new tensors.
    """

    events: list[Event]
    output: Place
    kinds: tuple
    grad: bool
    cut: str | None
    inputs: list[Tensor]
    own: dict[str, Place]
    stand_ins: dict[Place, Tensor]
    answers: list[Any]
    layouts: list[tuple]
    example: tuple
    for_real: bool
    forgotten: bool = False
    with_gradients: Script | None = None
    defaults: tuple = field(default_factory=new_tensor_defaults)
    lock: Any = field(default_factory=threading.RLock)  # references are counted

    def holds(self, model: nn.Module, args: tuple) -> bool:
        """Whether the code of the model, as it is now, follows the script.

        args: of a call; only what is no tensor counts.
        """
        with self.lock, young():
            return self._holds(model, args)

    @property
    def computes(self) -> list[Event]:
        """The calls that compute something; backward hooks, which a copy loses, only look."""
        return [e for e in self.events if e.func not in ABOUT]

    def gradients_hold(self, model: nn.Module, args: tuple) -> bool:
        """Whether the gradient that autograd gives is that of the values."""
        other = self.with_gradients
        return self.cut is None and other is not None and other.holds(model, args)

    def _holds(self, model: nn.Module, args: tuple) -> bool:
        shell = shell_of(model)
        hooked = self.grad and shell.backward_hooks
        if (
            self.forgotten
            or hooked
            or shell.kinds != self.kinds
            or self.defaults != new_tensor_defaults()
        ):
            return False
        given = [x for x in args if isinstance(x, Tensor)]
        if any(f(given[i], *rest) != answer for f, i, rest, answer in self.layouts):
            return False
        if self.for_real:
            return self._repeats(shell, args) is not None
        references = self._references()
        same = _Rehearsal(self, shell).run(args)
        del shell
        counts = self._references()
        if counts != references and gc.collect(0) >= 0:  # all that is new is young
            counts = self._references()
        kept = [now > before for now, before in zip(counts, references, strict=True)]
        return self._give_values(model, args, kept) and same if any(kept) else same

    def _references(self) -> list[int]:
        """How often each stand-in is referred to."""
        return list(map(sys.getrefcount, self.stand_ins.values()))

    def _repeats(self, shell: Shell, args: tuple, keep: bool = False) -> Recorder | None:
        """Run the code on the example; what it did, if that is what it did before."""
        rows = iter([x for x in self.example if isinstance(x, Tensor)])
        given = tuple(next(rows).clone() if isinstance(x, Tensor) else x for x in args)
        try:
            recorder, other = _record(shell, given, self.grad, keep)
        except Exception:
            return None
        if (self.output, self.events) != (other.output, other.events):
            return None
        return recorder

    def _give_values(self, model: nn.Module, args: tuple, kept: list[bool]) -> bool:
        """Let the user have, for stand-ins that their code keeps, what a real run puts there."""
        self.for_real = True
        recorder = self._repeats(shell_of(model), args, keep=True)
        if recorder is None:
            return False
        for place, given_away in zip(list(self.stand_ins), kept, strict=True):
            if given_away:
                self.stand_ins.pop(place).data = recorder.values[place]
        return True


# ---- rehearsing --------------------------------------------------------------------------------


class _DiffersError(BaseException):
    """The code does something else; not an Exception, which the code could catch."""


class _Rehearsal(TorchFunctionMode):
    """Answers every call of PyTorch from a script, as long as the calls are those of the script."""

    def __init__(self, script: Script, shell: Shell) -> None:
        super().__init__()
        self.script, self.shell = script, shell
        self.known = {id(x): place for place, x in script.stand_ins.items()}
        self.held: list[Tensor] = []
        self.next = self.outside = 0
        self.differs = False

    def place(self, x: Tensor) -> Place:
        """The place of a tensor that a call is given."""
        found = self.known.get(id(x))
        if found is not None:
            return found
        path = self.shell.own.get(id(x))
        if path is not None:
            found = self.script.own.get(path)
            if found is None or not looks_like(x, found.look):
                raise _DiffersError
        elif type(x) in TENSORS and x.layout == torch.strided:
            self.held.append(x)
            found = Place("outside", self.outside, look_of(x), hash_of(x))
            self.outside += 1
        else:
            raise _DiffersError
        self.known[id(x)] = found
        return found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        events = self.script.events
        if self.differs or self.next >= len(events):
            self._differ()
        event = events[self.next]
        try:
            same = (
                func == event.func
                and self._follow(event, args, kwargs or {})
                and mode_now() == event.mode
            )
        except (_DiffersError, NoScriptError):
            same = False
        if not same:
            self._differ()
        answer = self.script.answers[self.next]
        self.next += 1
        if func in STATE:
            return func(*args, **(kwargs or {}))
        return answer if type(answer) not in (list, dict) else answer.copy()

    def _follow(self, event: Event, args: tuple, kwargs: dict[str, Any]) -> bool:
        """Whether arguments are those of an event."""
        given = args[:1] if event.func in HANDLES else (*args, *kwargs.values())
        if len(given) != len(event.given) or tuple(kwargs) != event.names:
            return False
        return all(map(self._same, given, event.raw, event.given))

    def _same(self, x: Any, raw: Any, kept: Any) -> bool:
        """Whether an argument is what it was; by identity where that tells."""
        if x is raw or self.known.get(id(x)) is kept:
            return True
        if type(raw) is list and type(x) is kept[0]:
            return len(x) == len(raw) and all(map(self._same, x, raw, kept[1:]))
        return frozen(x, self.place) == kept

    def _differ(self) -> None:
        self.differs = True
        raise _DiffersError

    def run(self, args: tuple) -> bool:
        """Run the code of the model on stand-ins; whether it followed the script."""
        inputs = iter(self.script.inputs)
        given = [next(inputs) if isinstance(x, Tensor) else x for x in args]
        try:
            with torch.set_grad_enabled(self.script.grad), self:
                output = self.shell.module(*given)
        except (Exception, _DiffersError):
            return False
        whole = not self.differs and self.next == len(self.script.events)
        return whole and self.known.get(id(output)) == self.script.output


# ---- scripts -----------------------------------------------------------------------------------


def _record(
    shell: Shell, args: tuple, grad: bool = False, keep: bool = False
) -> tuple[Recorder, Script]:
    """Run the code of a model and write down what it does.

    grad: where gradients are recorded; keep: keep every tensor that it makes.
    """
    example = tuple(x.clone() if isinstance(x, Tensor) else x for x in args)
    given = tuple(_with_gradient(x) if grad else x for x in args)
    inputs = [x for x in given if isinstance(x, Tensor)]
    recorder = Recorder(shell, inputs, keep)
    with torch.set_grad_enabled(grad), recorder:
        output = shell.module(*given)
    if not isinstance(output, Tensor):
        raise NoScriptError("the output is no tensor")
    output_place = recorder.place(output)
    stand_ins = [recorder.standing_in(recorder.known[id(x)]) for x in inputs]
    kinds = shell.kinds
    del shell, recorder.shell  # and what the code has put there
    for_real = recorder.reads or recorder.wraps
    for_real = for_real or (not grad and recorder.keeps(output))  # a graph of autograd keeps, too
    return recorder, Script(
        recorder.events, output_place, kinds, grad, recorder.cut, stand_ins, recorder.own,
        recorder.stand_ins, recorder.answers, recorder.layouts, example, for_real,
    )  # fmt: skip


def _with_gradient(x: Any) -> Any:
    """A tensor as autograd hands it on; no leaf, so that code may change it in place."""
    if isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex()):
        return x.detach().requires_grad_().clone()
    return x


def _elsewhere(x: Any) -> Any:
    """Other values of an input: what depends on them where no mode can see it has other ones."""
    return x * 1.25 if isinstance(x, Tensor) and x.is_floating_point() else x


@young()
def script_of(model: nn.Module, args: tuple) -> Script | None:
    """The script of a model for some inputs; None if its code does not repeat itself.

    args: in the precision of the computation, not the user's own: code may change them in place.
    """
    try:
        with itself_or_shell(model) as stage:
            _, script = _record(stage, own(args))
        if script.for_real or not script.holds(model, args):
            script.for_real = True
            if not script.holds(model, args):
                return None
        script.cut, script.with_gradients = _gradients(model, script, args)
    except Exception:  # its graph serves one call
        return None
    return script


def _gradients(model: nn.Module, script: Script, args: tuple) -> tuple[str | None, Script | None]:
    """Name what makes the gradient another than that of the values, or give its script."""
    try:
        _, other = _record(shell_of(model), tuple(map(_elsewhere, own(args))), grad=True)
    except Exception:
        return "code that cannot be followed where gradients are recorded", None
    if other.cut is not None:
        return other.cut, None
    same = [e.without_mode for e in script.events] == [e.without_mode for e in other.events]
    if not same or script.output != other.output:
        return "code that looks at more than its calls of PyTorch tell", None
    other.for_real = other.for_real or script.for_real
    return None, other


@young()
def check_copy(model: nn.Module, args: tuple, twin: nn.Module) -> None:
    """Refuse a model whose code does something else in a copy, which is what is captured.

    Raises
    ------
    ModelError
    """
    try:
        with itself_or_shell(model) as stage:
            _, itself = _record(stage, own(args))
        copy = shell_of(twin)  # a closure in it may still refer to the model
        _, other = _record(replace(copy, own={**copy.own, **shell_of(model).own}), own(args))
    except Exception:  # it cannot be followed
        return
    if itself.output != other.output or itself.computes != other.computes:
        raise ModelError(_asks_who_it_is(model))


def _asks_who_it_is(model: nn.Module) -> str:
    return (
        f"The code of {type(model).__name__} does something else in a private copy of its modules, "
        "on which xaifast works to leave yours untouched: it may ask which module it is (a dict "
        "keyed by modules), keep something that its copies lose (__reduce__, __deepcopy__), or "
        "change from call to call. Keep what it looks up in the modules; function methods with "
        "optimize=False call the model itself."
    )


# Models whose code does the same in a shell, with the classes of their modules.
_same_in_shells: weakref.WeakKeyDictionary[nn.Module, tuple] = weakref.WeakKeyDictionary()


@young()
def check_shell(who: str, model: nn.Module, args: tuple) -> None:
    """Refuse a model whose code asks which module it is, so that no shell can stand for it.

    Looked at once for each model in eval mode.

    Raises
    ------
    ModelError
    """
    kinds = shell_of(model).kinds
    if _same_in_shells.get(model) == kinds:
        return
    try:
        with itself_or_shell(model) as stage:
            _, itself = _record(stage, own(args))
        _, other = _record(shell_of(model), own(args))
    except Exception:  # it cannot be followed, or fails: its call will say so
        return
    if (itself.output, itself.events) != (other.output, other.events):
        raise ModelError(f"{who}: {_asks_who_it_is(model)}")
    _same_in_shells[model] = kinds
