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
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .. import ops
from ..errors import ModelError
from .capture import own
from .shell import TENSORS, Shell, itself_or_shell, shell_of

HALF = (torch.float16, torch.bfloat16)

# ---- places: which tensor a call of PyTorch is given ------------------------------------------


@dataclass(frozen=True)
class Place:
    """What a tensor is to the code of a model.

    kind: "input", "own" (of the modules), "slot" (made by an earlier call) or "outside"; key: its
    number or path; look: shape, dtype and device; values: a hash of those of an outside tensor.
    """

    kind: str
    key: Hashable
    look: tuple
    values: int | None = None


def _look(x: Tensor) -> tuple:
    return (x.shape, x.dtype, x.device)


def _looks(x: Tensor, look: tuple) -> bool:
    return x.shape == look[0] and x.dtype is look[1] and x.device == look[2]


def _hash(x: Tensor) -> int:
    return ops.fingerprint([x.detach()])[0]


# ---- constants: everything else that it is given ----------------------------------------------


@dataclass(frozen=True)
class _Same:
    """An object that is compared by identity."""

    what: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.what is other.what

    def __hash__(self) -> int:
        return id(self.what)


_NOTHING = object()


def _is_constant(x: Any) -> bool:
    """Whether an object has the same value for ever."""
    return type(x) in _BY_VALUE or (type(x) is tuple and all(map(_is_constant, x)))


class NoScriptError(Exception):
    """The code of a model cannot be followed."""


_BY_VALUE = {
    int, bool, str, bytes, complex, type(None), type(Ellipsis), torch.dtype, torch.device,
    torch.layout, torch.memory_format, torch.Size,
}  # fmt: skip
_SEQUENCES = (list, tuple, set, frozenset)


def frozen(x: Any, place: Callable[[Tensor], Place] | None = None) -> Any:
    """An argument by its value now, to be compared later; tensors become their places."""
    kind = type(x)
    if kind in _BY_VALUE:
        return (kind, x)
    if kind is float:
        return (kind, x.hex())  # NaN equals NaN, and -0 is not 0
    if isinstance(x, Tensor):
        if place is None:
            raise NoScriptError("a tensor among the constants")
        return place(x)
    if isinstance(x, (list, tuple)):
        return (kind, *[frozen(y, place) for y in x])
    if isinstance(x, (set, frozenset)):
        return (kind, frozenset(frozen(y, place) for y in x))
    if isinstance(x, dict):
        return (kind, *[(frozen(k, place), frozen(y, place)) for k, y in x.items()])
    if isinstance(x, slice):
        return (kind, *[frozen(y, place) for y in (x.start, x.stop, x.step)])
    if isinstance(x, (np.ndarray, np.generic)):
        array = np.asarray(x)
        if array.dtype.hasobject:
            raise NoScriptError("an array of objects")
        return (kind, array.dtype.str, array.shape, array.tobytes())
    if callable(x) or isinstance(x, torch.Generator):
        return _Same(x)
    raise NoScriptError(f"an argument of type {kind.__name__}")


# ---- the script --------------------------------------------------------------------------------

# What tells about a tensor without a look at its values.
_ABOUT = {
    *(getattr(Tensor, name).__get__ for name in (
        "shape", "dtype", "device", "layout", "ndim", "is_cuda", "is_cpu", "is_meta", "is_sparse",
        "is_quantized", "is_nested", "is_leaf", "requires_grad", "grad_fn", "grad", "itemsize",
        "nbytes", "is_mkldnn", "is_mps", "is_xla", "names", "_version",
    ) if hasattr(Tensor, name)),
    *(getattr(Tensor, name) for name in (
        "size", "dim", "stride", "numel", "nelement", "ndimension", "is_contiguous", "__len__",
        "is_floating_point", "is_complex", "is_signed", "is_inference", "element_size",
        "storage_offset", "get_device", "type", "has_names", "is_same_size", "is_set_to",
    ) if hasattr(Tensor, name)),
    torch.is_floating_point, torch.is_complex, torch.numel, torch.is_inference, torch.is_tensor,
    torch.is_same_size, torch.is_signed, torch.is_conj, torch.is_neg, torch.result_type,
}  # fmt: skip
# What depends on how an input lies in memory.
_LAYOUT = {Tensor.is_contiguous, Tensor.stride, Tensor.storage_offset}
# What has no tensor to stand in for, and is done in a rehearsal as well.
_STATE = {torch._C._set_grad_enabled}
_HANDLES = {Tensor.register_hook, Tensor.register_post_accumulate_grad_hook}
# Functions that put another gradient in the place of that of their values.
_CUTS = {
    Tensor.detach, Tensor.detach_, torch.detach, torch.detach_, Tensor.data.__get__,  # type: ignore[attr-defined]
    Tensor.register_hook, Tensor.register_post_accumulate_grad_hook, Tensor.requires_grad_,
    torch.autograd.grad, torch.autograd.backward, Tensor.backward,
    torch.nn.functional.gumbel_softmax,
}  # fmt: skip
# They may write into tensors that are not their first argument.
_WRITERS = {
    torch.nn.functional.batch_norm, torch.batch_norm, torch.nn.functional.instance_norm,
    torch.instance_norm, torch.nn.functional.embedding, torch.nn.functional.embedding_bag,
    torch.nn.functional.rrelu,
}  # fmt: skip


def _writes(func: Any, kwargs: dict) -> bool:
    """Whether a call may change one of its arguments."""
    name = getattr(func, "__name__", "")
    if name.startswith("__"):
        return name in ("__setitem__", "__set__", "__delete__") or name[:3] == "__i"
    return name.endswith("_") or func in _WRITERS or "out" in kwargs or bool(kwargs.get("inplace"))


@dataclass(frozen=True)
class Event:
    """One call of PyTorch: its function, what it was given and returned, and in which mode.

    given: its arguments, frozen; raw: those of them that cannot change, as they were, for a
    comparison by identity; names: of the keyword arguments, which are the last ones.
    """

    func: Any
    given: tuple
    names: tuple[str, ...]
    result: Any
    mode: tuple
    raw: tuple = field(compare=False)

    @property
    def without_mode(self) -> tuple:
        """What it does, whether gradients are recorded or not."""
        return (self.func, self.given, self.names, self.result)


def _defaults() -> tuple:
    """What new tensors are when nothing is said."""
    return (torch.get_default_dtype(), torch.get_default_device())


@dataclass(eq=False)
class Script:
    """What the code of a model did with some inputs.

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
    defaults: tuple = field(default_factory=_defaults)
    lock: Any = field(default_factory=threading.RLock)  # references are counted

    def holds(self, model: nn.Module, args: tuple) -> bool:
        """Whether the code of the model, as it is now, follows the script.

        args: of a call; only what is no tensor counts.
        """
        with self.lock:
            return self._holds(model, args)

    @property
    def computes(self) -> list[Event]:
        """The calls that compute something; backward hooks, which a copy loses, only look."""
        return [e for e in self.events if e.func not in _ABOUT]

    def gradients_hold(self, model: nn.Module, args: tuple) -> bool:
        """Whether the gradient that autograd gives is that of the values."""
        other = self.with_gradients
        return self.cut is None and other is not None and other.holds(model, args)

    def _holds(self, model: nn.Module, args: tuple) -> bool:
        shell = shell_of(model)
        hooked = self.grad and shell.backward_hooks
        if self.forgotten or hooked or shell.kinds != self.kinds or self.defaults != _defaults():
            return False
        given = [x for x in args if isinstance(x, Tensor)]
        if any(f(given[i], *rest) != answer for f, i, rest, answer in self.layouts):
            return False
        if self.for_real:
            return self._repeats(shell, args) is not None
        references = self._references()
        same = _Rehearsal(self, shell).run(args)
        del shell
        if self._references() != references and gc.collect() >= 0:
            counts = zip(self._references(), references, strict=True)
            kept = [now > before for now, before in counts]
            if any(kept):
                return self._give_values(model, args, kept) and same
        return same

    def _references(self) -> list[int]:
        """How often each stand-in is referred to."""
        return list(map(sys.getrefcount, self.stand_ins.values()))

    def _repeats(self, shell: Shell, args: tuple, keep: bool = False) -> _Recorder | None:
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


OWN_BACKWARD = "a function with a backward pass of its own"
_HOOKED = "a backward hook of a module"


def _mode() -> tuple:
    """What calls of PyTorch depend on beside their arguments."""
    grad = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    if not torch._C._is_any_autocast_enabled():
        return (grad,)
    devices = ("cpu", "cuda")
    on = [(torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in devices]
    return (grad, *on)


# ---- recording ---------------------------------------------------------------------------------


def _alias(x: Tensor) -> tuple | None:
    """What two objects of one tensor share; None where it has no memory of its own."""
    if x.layout != torch.strided or not x.numel():
        return None
    return (x.data_ptr(), tuple(x.shape), x.stride(), x.dtype)


def _stand_in(look: tuple) -> Tensor:
    """A tensor of some shape, dtype and device in the memory of one number."""
    shape, dtype, device = look
    return torch.zeros((), dtype=dtype, device=device).expand(shape)


def _mapped(x: Any, f: Callable[[Tensor], Any]) -> Any:
    """The same structure of lists, tuples and dicts, with f of its tensors."""
    if isinstance(x, Tensor):
        return f(x)
    if isinstance(x, tuple) and type(x) is not torch.Size:
        parts = [_mapped(y, f) for y in x]
        return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
    if isinstance(x, list):
        return [_mapped(y, f) for y in x]
    if isinstance(x, dict):
        return {k: _mapped(y, f) for k, y in x.items()}
    if isinstance(x, slice):
        return slice(*(_mapped(y, f) for y in (x.start, x.stop, x.step)))
    return x


def _places(x: Any) -> Iterator[Place]:
    """The places in a frozen argument."""
    if isinstance(x, Place):
        yield x
    elif isinstance(x, (tuple, frozenset)):
        for y in x:
            yield from _places(y)


class _Recorder(TorchFunctionMode):
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
        self.cut = _HOOKED if shell.backward_hooks else None
        self.reads = self.wraps = False
        self.inputs = inputs
        for i, x in enumerate(inputs):
            place = Place("input", i, _look(x))
            self._know(x, place)
            self.from_inputs.add(place)

    # -- places --

    def _know(self, x: Tensor, place: Place) -> None:
        """Remember the place of a tensor for as long as the tensor lives."""
        key, alias = id(x), _alias(x)

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
        alias = None if path is not None else self.aliases.get(_alias(x) or ())
        if alias is not None:  # a custom function hands on what it was given in a new object
            self.wraps = True
            if alias in self.from_inputs:
                self.cut = self.cut or OWN_BACKWARD
            self.known[id(x)] = alias
            return alias
        if path is not None:
            found = self.own[path] = Place("own", path, _look(x))
        else:
            found = Place("outside", self.outside, _look(x), _hash(x))
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
        place = Place("slot", self.slots, _look(x))
        self.slots += 1
        self._know(x, place)
        return place

    def standing_in(self, place: Place) -> Tensor:
        """What stands for a tensor in rehearsals."""
        if place not in self.stand_ins:
            self.stand_ins[place] = _stand_in(place.look)
        return self.stand_ins[place]

    # -- a call --

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        mode = _mode()
        whole = args[:1] if func in _HANDLES else (*args, *kwargs.values())
        given = tuple(frozen(x, self.place) for x in whole)
        places = list(_places(given))
        raw = tuple(map(self._raw, whole, given))

        def mine(x: Tensor) -> Tensor:
            return self.copies.get(self.known[id(x)], x)

        result = func(*_mapped(args, mine), **_mapped(kwargs, mine))
        handle = func in _HANDLES
        what = None if handle else frozen(result, lambda x: self._new(x, func))
        came = [] if handle else list(_places(what))
        self.answers.append(
            result if handle else _mapped(result, lambda x: self.standing_in(self.known[id(x)]))
        )
        if any(p in self.from_inputs for p in places):
            self.from_inputs.update(came)
            if places and _writes(func, kwargs):
                self.from_inputs.add(places[0])
            if self.cut is None and func not in _ABOUT:
                self.cut = _cut_by(func, args, mode)
            if func in _LAYOUT and given[0].kind == "input":
                self.layouts.append((partial(func, **kwargs), given[0].key, args[1:], result))
        elif places and not came and func not in _ABOUT and result is not None:
            self.reads = True
        self.events.append(Event(func, given, tuple(kwargs), what, mode, raw))
        return result

    def _raw(self, x: Any, given: Any) -> Any:
        """What an argument that follows the script is, if that is always the same object.

        A list for a sequence, with what its elements are.
        """
        if isinstance(given, Place):
            return self.stand_ins.get(given, _NOTHING)
        if _is_constant(x):
            return x
        if type(x) in (list, tuple):
            return list(map(self._raw, x, given[1:]))
        return _NOTHING

    # -- the end --

    def keeps(self, output: Tensor) -> bool:
        """Whether something that was computed outlives the run."""

        def outliving() -> bool:
            known = {id(x) for x in (*self.inputs, output, output._base)}
            found = [r() for r in self.made]
            return any(x is not None and id(x) not in known for x in found)

        return outliving() and gc.collect() >= 0 and outliving()


def _cut_by(func: Any, args: tuple, mode: tuple) -> str | None:
    """What a call on something that depends on the inputs does to the gradient."""
    if func == Tensor.view_as and args[0] is args[1]:  # how PyTorch wraps what a function hands on
        return OWN_BACKWARD
    if func in _CUTS:
        return str(getattr(func, "__name__", func))
    if torch._C._autograd._top_saved_tensors_default_hooks(False) is not None:
        return "hooks on saved tensors"
    return None if mode[0] else "a block without gradients"


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
            if found is None or not _looks(x, found.look):
                raise _DiffersError
        elif type(x) in TENSORS and x.layout == torch.strided:
            self.held.append(x)
            found = Place("outside", self.outside, _look(x), _hash(x))
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
                and _mode() == event.mode
            )
        except (_DiffersError, NoScriptError):
            same = False
        if not same:
            self._differ()
        answer = self.script.answers[self.next]
        self.next += 1
        if func in _STATE:
            return func(*args, **(kwargs or {}))
        return answer if type(answer) not in (list, dict) else answer.copy()

    def _follow(self, event: Event, args: tuple, kwargs: dict[str, Any]) -> bool:
        """Whether arguments are those of an event."""
        given = args[:1] if event.func in _HANDLES else (*args, *kwargs.values())
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
) -> tuple[_Recorder, Script]:
    """Run the code of a model and write down what it does.

    grad: where gradients are recorded; keep: keep every tensor that it makes.
    """
    example = tuple(x.clone() if isinstance(x, Tensor) else x for x in args)
    given = tuple(_with_gradient(x) if grad else x for x in args)
    inputs = [x for x in given if isinstance(x, Tensor)]
    recorder = _Recorder(shell, inputs, keep)
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
    """What gives the model another gradient than that of its values, or else its script there."""
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
