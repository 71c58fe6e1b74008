"""Changes of what a model returns, made between two explanations of it.

`HELD` are things that `forward` reads a number from: what they are, how it reads them, how one of
them is changed. `CHANGES` are changes of a network's weights, modules, hooks and code. All can be
made any number of times, in any order: each gives a value that was not there before.
"""

from __future__ import annotations

import array
import collections
import configparser
import contextvars
import copy
import ctypes
import dataclasses
import decimal
import enum
import fractions
import functools
import gc
import io
import itertools
import logging
import mmap
import multiprocessing
import os
import queue
import random
import sqlite3
import string
import sys
import tempfile
import threading
import types
import typing
import uuid
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

_numbers = itertools.count(1)


def fresh() -> float:
    """Some number from 0.6 to 1.6 that did not come before."""
    return 0.6 + next(_numbers) * 0.6180339887498949 % 1.0


# ---- what forward reads a number from ------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """Something that a model holds: how to make it, to read a number from it, and to change it."""

    make: Callable[[], Any]
    read: Callable[[Any], Any]
    write: Callable[[Any, float], Any]
    copies: bool = True  # whether deepcopy takes it


@dataclass
class Plain:
    value: Any = 1.0


@dataclass(frozen=True)
class Frozen:
    value: float = 1.0


@dataclass(slots=True)
class SlotsData:
    value: float = 1.0


class Slots:
    __slots__ = ("value",)

    def __init__(self):
        self.value = 1.0


class Named(typing.NamedTuple):
    value: float = 1.0


class Mode(enum.Enum):
    ONE = 1.0
    TWO = 1.25
    THREE = 0.75


class Dynamic:
    def __init__(self):
        self.__dict__["store"] = {"value": 1.0}

    def __getattr__(self, name):
        try:
            return self.__dict__["store"][name]
        except KeyError:
            raise AttributeError(name) from None


class Descriptor:
    def __init__(self):
        self.value = 1.0

    def __get__(self, owner, kind):
        return self.value


class Callback:
    def __init__(self):
        self.value = 1.0

    def __call__(self):
        return self.value

    def method(self):
        return self.value


class UserList(collections.UserList):
    pass


class Structure(ctypes.Structure):
    _fields_ = [("value", ctypes.c_double)]


def new_class(**members: Any) -> Any:
    """An object of a class of its own."""
    return type("Own", (), members)()


def with_property() -> Any:
    return new_class(value=property(lambda self: 1.0))


def with_metaclass() -> Any:
    meta = type("Meta", (type,), {"value": 1.0})
    return meta("Own", (), {})()


def new_module() -> types.ModuleType:
    module = types.ModuleType(f"settings_{uuid.uuid4().hex}")
    module.value = 1.0
    sys.modules[module.__name__] = module
    return module


def new_function() -> Callable:
    def number(base=1.0, *, factor=1.0):
        return base * factor * getattr(number, "more", 1.0)

    return number


def closing() -> tuple[Callable, Callable]:
    value = 1.0

    def read():
        return value

    def write(new):
        nonlocal value
        value = new

    return read, write


def replace_code(f: Callable, value: float) -> None:
    """A function that returns another number from now on."""

    def number(base=1.0, *, factor=1.0):
        return 12345.5

    constants = tuple(value if c == 12345.5 else c for c in number.__code__.co_consts)
    box = f.box
    box.__code__ = number.__code__.replace(co_consts=constants)


def code_box() -> Any:
    def number(base=1.0, *, factor=1.0):
        return 1.0

    return types.SimpleNamespace(box=number)


def cached_helper() -> Any:
    store = {"value": 1.0}
    return types.SimpleNamespace(store=store, read=functools.lru_cache(lambda: store["value"]))


def clear_cached(h: Any, v: float) -> None:
    h.store["value"] = v
    h.read.cache_clear()


def steady_generator() -> Any:
    def numbers():
        value = 1.0
        while True:
            sent = yield value
            value = value if sent is None else sent

    generator = numbers()
    next(generator)
    return generator


def environment() -> str:
    name = f"SCALE_{uuid.uuid4().hex}"
    os.environ[name] = "1.0"
    return name


def new_file() -> str:
    file, name = tempfile.mkstemp()
    os.close(file)
    Path(name).write_text("1.0")
    return name


def new_local() -> threading.local:
    local = threading.local()
    local.value = 1.0
    return local


def weak_pair() -> Any:
    target = Plain()
    KEPT.append(target)
    return weakref.ref(target)


KEPT: list[Any] = []


def weak_values() -> Any:
    target = Plain()
    KEPT.append(target)
    found = weakref.WeakValueDictionary()
    found["value"] = target
    return found


def database() -> sqlite3.Connection:
    base = sqlite3.connect(":memory:", check_same_thread=False)
    base.execute("create table settings (value real)")
    base.execute("insert into settings values (1.0)")
    return base


def mapped() -> mmap.mmap:
    memory = mmap.mmap(-1, 8)
    memory[:8] = np.float64(1.0).tobytes()
    return memory


def number_in(memory: Any) -> float:
    return float(np.frombuffer(memory, dtype=np.float64, count=1)[0])


def number_into(memory: Any, v: float) -> None:
    memory[:8] = np.float64(v).tobytes()


def mapped_array() -> np.memmap:
    made = np.memmap(new_file(), dtype=np.float64, mode="w+", shape=4)
    made[:] = 1.0
    return made


def in_another_process(f: Callable) -> None:
    """Run something in a child process."""
    child = multiprocessing.get_context("fork").Process(target=f)
    child.start()
    child.join()
    assert child.exitcode == 0


def shared_number() -> Any:
    return multiprocessing.get_context("fork").Value("d", 1.0, lock=False)


def write_shared(h: Any, v: float) -> None:
    def write():
        h.value = v

    in_another_process(write)


def configuration() -> configparser.ConfigParser:
    made = configparser.ConfigParser()
    made["net"] = {"scale": "1.0"}
    return made


def dispatching() -> Any:
    @functools.singledispatch
    def number(x):
        return 1.0

    return number


def tensor(v: float = 1.0) -> Tensor:
    return torch.tensor(v, dtype=torch.float64)


def outside_module() -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        layer.weight.fill_(1.0)
    return layer


def next_mode(h: Any) -> None:
    modes = list(Mode)
    h.value = modes[(modes.index(h.value) + 1) % 3]


def one_attribute(name: str = "value") -> tuple[Callable, Callable]:
    return (lambda h: getattr(h, name)), (lambda h, v: setattr(h, name, v))


def new_version(h: Any, v: float) -> None:
    """Put another object of its type, with another number, into the place of the first."""
    h[0] = dataclasses.replace(h[0], value=v)


READ, WRITE = one_attribute()
SPACE = types.SimpleNamespace


def item(key: Any) -> tuple[Callable, Callable]:
    return (lambda h: h[key]), (lambda h, v: h.__setitem__(key, v))


def at_class(h: Any, v: float) -> None:
    type(h).value = v


def scaled_code(h: Any) -> float:
    return {"a": 1.0, "b": 1.25, "c": 0.75}[h.value]


def next_letter(h: Any, _: float) -> None:
    h.value = {"a": "b", "b": "c", "c": "a"}[h.value]


HELD: dict[str, Held] = {
    "namespace": Held(lambda: SPACE(value=1.0), READ, WRITE),
    "string": Held(lambda: SPACE(value="a"), scaled_code, next_letter),
    "bool": Held(
        lambda: SPACE(value=False),
        lambda h: 1.25 if h.value else 1.0,
        lambda h, v: setattr(h, "value", not h.value),
    ),
    "None": Held(
        lambda: SPACE(value=None),
        lambda h: 1.0 if h.value is None else 1.25,
        lambda h, v: setattr(h, "value", 1 if h.value is None else None),
    ),
    "int": Held(
        lambda: SPACE(value=100),
        lambda h: h.value / 100,
        lambda h, v: setattr(h, "value", int(v * 1e6)),
    ),
    "complex": Held(
        lambda: SPACE(value=1j), lambda h: h.value.imag, lambda h, v: setattr(h, "value", v * 1j)
    ),
    "bytes": Held(
        lambda: SPACE(value=b"1.0"),
        lambda h: float(h.value),
        lambda h, v: setattr(h, "value", str(v).encode()),
    ),
    "dataclass": Held(Plain, READ, WRITE),
    "frozen dataclass replaced": Held(lambda: [Frozen()], lambda h: h[0].value, new_version),
    "dataclass with slots": Held(SlotsData, READ, WRITE),
    "slots": Held(Slots, READ, WRITE),
    "named tuple replaced": Held(
        lambda: [Named()], lambda h: h[0].value, lambda h, v: h.__setitem__(0, Named(v))
    ),
    "namespace of namespaces": Held(
        lambda: SPACE(a=SPACE(b=SPACE(c=1.0))),
        lambda h: h.a.b.c,
        lambda h, v: setattr(h.a.b, "c", v),
    ),
    "dict": Held(lambda: {"value": 1.0}, *item("value")),
    "dict of dicts": Held(
        lambda: {"a": {"b": [{"c": 1.0}]}},
        lambda h: h["a"]["b"][0]["c"],
        lambda h, v: h["a"]["b"][0].__setitem__("c", v),
    ),
    "dict of 10 000": Held(lambda: dict.fromkeys(range(10000), 1.0), *item(7777)),
    "ordered dict": Held(lambda: collections.OrderedDict(value=1.0), *item("value")),
    "default dict": Held(lambda: collections.defaultdict(lambda: 1.0), *item("value")),
    "counter": Held(
        lambda: collections.Counter(a=100),
        lambda h: h["a"] / 100,
        lambda h, v: h.update(a=int(v * 100)),
    ),
    "chain map": Held(lambda: collections.ChainMap({}, {"value": 1.0}), *item("value")),
    "user dict": Held(lambda: collections.UserDict(value=1.0), *item("value")),
    "user list": Held(lambda: UserList([1.0]), *item(0)),
    "list": Held(lambda: [1.0, 2.0], *item(0)),
    "list of 65": Held(lambda: [1.0] * 65, *item(64)),
    "list of 10 000": Held(lambda: [1.0] * 10000, *item(5003)),
    "length of a list": Held(
        lambda: [0] * 100, lambda h: len(h) / 100, lambda h, v: h.extend([0] * int(10 * v))
    ),
    "list in a tuple": Held(
        lambda: ((1, [1.0]),), lambda h: h[0][1][0], lambda h, v: h[0][1].__setitem__(0, v)
    ),
    "set": Held(lambda: {1.0}, max, lambda h, v: (h.clear(), h.add(v))),
    "deque": Held(
        lambda: collections.deque([1.0], maxlen=3), lambda h: h[-1], lambda h, v: h.append(v)
    ),
    "array of numpy": Held(lambda: np.ones(5), lambda h: float(h.mean()), *[item(2)[1]]),
    "large array of numpy": Held(
        lambda: np.ones(20000), lambda h: float(h[13000]), *[item(13000)[1]]
    ),
    "array of numpy as a tensor": Held(
        lambda: np.ones(1), lambda h: torch.from_numpy(h), *[item(0)[1]]
    ),
    "copy of an array of numpy": Held(lambda: np.ones(1), lambda h: torch.tensor(h), *[item(0)[1]]),
    "array of numpy, as_tensor": Held(
        lambda: np.ones(1), lambda h: torch.as_tensor(h), *[item(0)[1]]
    ),
    "array of numpy of no dimension": Held(lambda: np.array(1.0), float, lambda h, v: h.fill(v)),
    "scalar of numpy": Held(
        lambda: SPACE(value=np.float64(1)), READ, lambda h, v: setattr(h, "value", np.float64(v))
    ),
    "array of records": Held(
        lambda: np.ones(2, dtype=[("a", "f8"), ("b", "i4")]),
        lambda h: float(h["a"][1]),
        lambda h, v: h["a"].__setitem__(1, v),
    ),
    "array of objects": Held(
        lambda: np.array([SPACE(value=1.0)], dtype=object),
        lambda h: h[0].value,
        lambda h, v: setattr(h[0], "value", v),
    ),
    "mapped array of numpy": Held(
        mapped_array, lambda h: float(h[3]), lambda h, v: h.__setitem__(3, v), copies=False
    ),
    "mapped memory": Held(mapped, number_in, number_into, copies=False),
    "array": Held(lambda: array.array("d", [1.0]), *item(0)),
    "bytearray": Held(lambda: bytearray(np.float64(1).tobytes()), number_in, number_into),
    "view of memory": Held(
        lambda: memoryview(bytearray(np.float64(1).tobytes())), number_in, number_into, copies=False
    ),
    "ctypes": Held(lambda: ctypes.c_double(1.0), READ, WRITE),
    "structure of C": Held(lambda: Structure(1.0), READ, WRITE),
    "number shared with a process": Held(shared_number, READ, write_shared, copies=False),
    "enum": Held(lambda: SPACE(value=Mode.ONE), lambda h: h.value.value, lambda h, v: next_mode(h)),
    "decimal": Held(
        lambda: SPACE(value=decimal.Decimal(1)),
        lambda h: float(h.value),
        lambda h, v: setattr(h, "value", decimal.Decimal(v)),
    ),
    "fraction": Held(
        lambda: SPACE(value=fractions.Fraction(1)),
        lambda h: float(h.value),
        lambda h, v: setattr(h, "value", fractions.Fraction(v)),
    ),
    "slice": Held(
        lambda: SPACE(value=slice(0, 100)),
        lambda h: len(range(1000)[h.value]) / 100,
        lambda h, v: setattr(h, "value", slice(0, int(v * 500))),
    ),
    "class attribute": Held(lambda: new_class(value=1.0), READ, at_class),
    "property": Held(
        with_property, READ, lambda h, v: setattr(type(h), "value", property(lambda self: v))
    ),
    "metaclass attribute": Held(
        with_metaclass,
        lambda h: type(type(h)).value,
        lambda h, v: setattr(type(type(h)), "value", v),
    ),
    "attribute of a base class": Held(
        lambda: type("Child", (type("Base", (), {"value": 1.0}),), {})(),
        READ,
        lambda h, v: setattr(type(h).__bases__[0], "value", v),
    ),
    "bases replaced": Held(
        lambda: type("Child", (type("Base", (), {"value": 1.0}),), {})(),
        READ,
        lambda h, v: setattr(type(h), "__bases__", (type("Base", (), {"value": v}),)),
    ),
    "class of an object replaced": Held(
        lambda: new_class(value=1.0),
        READ,
        lambda h, v: setattr(h, "__class__", type("Other", (), {"value": v})),
    ),
    "descriptor": Held(
        lambda: new_class(value=Descriptor()),
        READ,
        lambda h, v: setattr(vars(type(h))["value"], "value", v),
    ),
    "dynamic attribute": Held(Dynamic, READ, lambda h, v: h.store.update(value=v)),
    "callable object": Held(Callback, lambda h: h(), WRITE),
    "method of an object replaced": Held(
        Callback, lambda h: h.method(), lambda h, v: setattr(h, "method", lambda: v)
    ),
    "method of a class replaced": Held(
        lambda: new_class(method=lambda self: 1.0),
        lambda h: h.method(),
        lambda h, v: setattr(type(h), "method", lambda self: v),
    ),
    "attribute of a function": Held(
        lambda: SPACE(f=new_function()),
        lambda h: h.f(),
        lambda h, v: setattr(h.f, "more", v),
    ),
    "defaults of a function": Held(
        lambda: SPACE(f=new_function()),
        lambda h: h.f(),
        lambda h, v: setattr(h.f, "__defaults__", (v,)),
    ),
    "keyword defaults of a function": Held(
        lambda: SPACE(f=new_function()),
        lambda h: h.f(),
        lambda h, v: setattr(h.f, "__kwdefaults__", {"factor": v}),
    ),
    "contents of a default argument": Held(
        lambda: SPACE(f=(lambda box=[1.0]: box[0])),
        lambda h: h.f(),
        lambda h, v: h.f.__defaults__[0].__setitem__(0, v),
    ),
    "code of a function": Held(code_box, lambda h: h.box(), replace_code),
    "lambda replaced": Held(
        lambda: {"f": lambda: 1.0},
        lambda h: h["f"](),
        lambda h, v: h.__setitem__("f", lambda: v),
    ),
    "arguments of a partial": Held(
        lambda: SPACE(f=functools.partial(max, 0.1, 1.0)),
        lambda h: h.f(),
        lambda h, v: h.f.__setstate__((max, (0.1, v), {}, {})),
    ),
    "keywords of a partial": Held(
        lambda: SPACE(f=functools.partial(dict, value=1.0)),
        lambda h: h.f()["value"],
        lambda h, v: h.f.keywords.update(value=v),
    ),
    "closure": Held(closing, lambda h: h[0](), lambda h, v: h[1](v)),
    "cell of a closure": Held(
        closing,
        lambda h: h[0](),
        lambda h, v: setattr(h[0].__closure__[0], "cell_contents", v),
    ),
    "function by type": Held(
        dispatching, lambda h: h(3), lambda h, v: h.register(int, lambda x: v)
    ),
    "cached function": Held(cached_helper, lambda h: h.read(), clear_cached),
    "generator": Held(steady_generator, next, lambda h, v: h.send(v), copies=False),
    "weak reference": Held(weak_pair, lambda h: h().value, lambda h, v: setattr(h(), "value", v)),
    "weak values": Held(
        weak_values, lambda h: h["value"].value, lambda h, v: setattr(h["value"], "value", v)
    ),
    "proxy of a dict": Held(
        lambda: SPACE(inner=(d := {"value": 1.0}), view=types.MappingProxyType(d)),
        lambda h: h.view["value"],
        lambda h, v: h.inner.update(value=v),
        copies=False,
    ),
    "context variable": Held(
        lambda: contextvars.ContextVar("scale", default=1.0),
        lambda h: h.get(),
        lambda h, v: h.set(v),
        copies=False,
    ),
    "environment": Held(
        environment,
        lambda h: float(os.environ[h]),
        lambda h, v: os.environ.__setitem__(h, str(v)),
    ),
    "file": Held(
        new_file,
        lambda h: float(Path(h).read_text()),
        lambda h, v: Path(h).write_text(str(v)),
    ),
    "text in memory": Held(
        lambda: io.StringIO("1.0"),
        lambda h: float(h.getvalue()),
        lambda h, v: (h.seek(0), h.truncate(), h.write(str(v))),
    ),
    "database": Held(
        database,
        lambda h: h.execute("select value from settings").fetchone()[0],
        lambda h, v: h.execute("update settings set value = ?", (v,)),
        copies=False,
    ),
    "configuration": Held(
        configuration,
        lambda h: h.getfloat("net", "scale"),
        lambda h, v: h.set("net", "scale", str(v)),
    ),
    "local of a thread": Held(new_local, READ, WRITE, copies=False),
    "global of a module": Held(new_module, READ, WRITE, copies=False),
    "module by its name": Held(
        lambda: new_module().__name__,
        lambda h: sys.modules[h].value,
        lambda h, v: setattr(sys.modules[h], "value", v),
    ),
    "queue": Held(
        lambda: queue.deque([1.0]), lambda h: h[0], lambda h, v: (h.clear(), h.append(v))
    ),
    "level of a logger": Held(
        lambda: uuid.uuid4().hex,
        lambda h: (logging.getLogger(h).level or 100) / 100,
        lambda h, v: logging.getLogger(h).setLevel(int(v * 1000)),
    ),
    "template": Held(
        lambda: SPACE(value=string.Template("1.0")),
        lambda h: float(h.value.substitute()),
        lambda h, v: setattr(h.value, "template", str(v)),
    ),
    "state of random": Held(
        lambda: random.Random(0),
        lambda h: h.getstate()[1][-1] / 1000,
        lambda h, v: [h.random() for _ in range(1 + next(_numbers) % 7)],
    ),
    # -- tensors outside the tree of modules --
    "tensor in a list": Held(lambda: [tensor()], lambda h: h[0], lambda h, v: h[0].fill_(v)),
    "tensor in a list, replaced": Held(
        lambda: [tensor()], lambda h: h[0], lambda h, v: h.__setitem__(0, tensor(v))
    ),
    "tensor in a dict": Held(
        lambda: {"a": tensor()}, lambda h: h["a"], lambda h, v: h["a"].data.fill_(v)
    ),
    "tensor in a tuple": Held(lambda: (tensor(),), lambda h: h[0], lambda h, v: h[0].fill_(v)),
    "tensor of an object": Held(
        lambda: SPACE(value=tensor()), READ, lambda h, v: h.value.data.fill_(v)
    ),
    "tensor of an object, replaced": Held(
        lambda: SPACE(value=tensor()), READ, lambda h, v: setattr(h, "value", tensor(v))
    ),
    "tensor, by data": Held(
        lambda: SPACE(value=tensor()), READ, lambda h, v: setattr(h.value, "data", tensor(v))
    ),
    "tensor, by numpy": Held(
        lambda: SPACE(value=torch.ones(1).double()),
        READ,
        lambda h, v: h.value.numpy().__setitem__(0, v),
    ),
    "tensor in a default argument": Held(
        lambda: (lambda t: SPACE(f=(lambda t=t: t)))(tensor()),
        lambda h: h.f(),
        lambda h, v: h.f.__defaults__[0].data.fill_(v),
    ),
    "tensor read by item": Held(
        lambda: SPACE(value=tensor()), lambda h: h.value.item(), lambda h, v: h.value.data.fill_(v)
    ),
    "tensor read by tolist": Held(
        lambda: SPACE(value=torch.ones(3).double()),
        lambda h: h.value.tolist()[1],
        lambda h, v: h.value.data.fill_(v),
    ),
    "tensor in an array of objects": Held(
        lambda: np.array([tensor(), None], dtype=object),
        lambda h: h[0],
        lambda h, v: h[0].data.fill_(v),
    ),
    "parameter in a list": Held(
        lambda: [nn.Parameter(tensor())], lambda h: h[0].detach(), lambda h, v: h[0].data.fill_(v)
    ),
    "module in a list": Held(
        lambda: [outside_module()],
        lambda h: h[0].weight.detach().squeeze(),
        lambda h, v: h[0].weight.data.fill_(v),
    ),
    "module in a list, replaced": Held(
        lambda: [outside_module()],
        lambda h: h[0].weight.detach().squeeze(),
        lambda h, v: setattr(h[0], "weight", nn.Parameter(tensor(v).reshape(1, 1))),
    ),
    "module of an object, called": Held(
        lambda: SPACE(value=outside_module()),
        lambda h: h.value(torch.ones(1, 1).double()).detach().squeeze(),
        lambda h, v: h.value.weight.data.fill_(v),
    ),
}


# ---- where it is held ----------------------------------------------------------------------------

GLOBAL: dict[str, Any] = {}


def _from_global(name: str, read: Callable) -> Any:
    return read(GLOBAL[name])


class Body(nn.Module):
    """A small convolutional network: all of a layer's values are multiplied by some numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.act = nn.ReLU()
        self.mixed = nn.Conv2d(4, 3, 2, bias=False)
        self.out = nn.ReLU()
        self.head = nn.Linear(75, 3, bias=False)
        self.double().eval()

    def factors(self) -> list[Any]:
        return []

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.conv(x))
        for factor in self.factors():
            h = h * factor
        return self.head(self.out(self.mixed(h)).flatten(1))


def _from_attribute(name: str, read: Callable) -> Callable:
    return lambda net: read(getattr(net, name))


def _from_closure(thing: Any, read: Callable) -> Callable:
    return lambda net: read(thing)


def _from_global(name: str, read: Callable) -> Callable:
    return lambda net: read(GLOBAL[name])


THINGS: weakref.WeakKeyDictionary[nn.Module, dict[str, Any]] = weakref.WeakKeyDictionary()


def hold(net: nn.Module, name: str, holder: str) -> Callable:
    """Let a network hold one of `HELD`; a function of the network that reads it."""
    held = HELD[name]
    thing = THINGS.setdefault(net, {})[name] = held.make()
    if holder == "attribute":
        at = "held_" + name.replace(" ", "_")
        setattr(net, at, thing)
        return _from_attribute(at, held.read)
    if holder == "closure":
        return _from_closure(thing, held.read)
    at = f"{name} {next(_numbers)}"
    GLOBAL[at] = thing
    return _from_global(at, held.read)


def write(net: nn.Module, name: str) -> None:
    """Change what a network holds."""
    HELD[name].write(THINGS[net][name], fresh())


class Museum(Body):
    """A network that reads some of `HELD`, held as attributes, in closures, or in a global."""

    def __init__(self, names: list[str], holder: str) -> None:
        super().__init__()
        self.readers = [hold(self, name, holder) for name in names]

    def factors(self) -> list[Any]:
        return [read(self) for read in self.readers]


HOLDERS = ("attribute", "closure", "global")
HELD_KINDS = [
    (name, holder)
    for name, held in HELD.items()
    for holder in HOLDERS
    if held.copies or holder != "attribute"
]


# ---- weights, modules, hooks and code ------------------------------------------------------------


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding="same", bias=False)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class Shift(nn.Module):
    """A parametrization with a state of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = 1.0

    def forward(self, w: Tensor) -> Tensor:
        return w * self.factor


class Settings:
    def __init__(self) -> None:
        self.gain = 1.0
        self.where = "here"


class Slim(nn.Module):
    """A convolutional network whose hooks and code are changed."""

    gain = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding="same", bias=False)
        self.act = nn.ReLU()
        self.leaky = nn.LeakyReLU(0.2)
        self.pool = nn.AvgPool2d(2, padding=1)
        self.mixed = nn.Identity()
        self.final = nn.ReLU()
        self.head = nn.Linear(64, 3)
        self.settings = Settings()
        self.double().eval()

    def _gain(self, by: float = 1.0, *, more: float = 1.0) -> float:
        return by * more * self.settings.gain * type(self).gain

    def forward(self, x: Tensor) -> Tensor:
        h = self.leaky(self.act(self.conv(x))) * self._gain()
        return self.head(self.final(self.mixed(self.pool(h))).flatten(1))


class Rich(Slim):
    """A residual network whose weights, attributes and modules are changed."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.normed = parametrizations.weight_norm(nn.Conv2d(4, 4, 1, bias=False))
        self.older = nn.Conv2d(4, 4, 1, bias=False)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("scale", torch.ones(4, 1, 1))
        self.register_buffer("passing", torch.ones(4, 1, 1), persistent=False)
        self.plain = torch.ones(4, 1, 1, dtype=torch.float64)
        self.double().eval()
        with torch.no_grad():
            self.norm.running_var.uniform_(0.5, 2)
            self.norm.running_mean.normal_()
            self.norm.bias.normal_()

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.norm(self.conv(x)))
        for block in self.blocks:
            h = h + block(h)
        h = self.leaky(self.older(self.normed(h)))
        h = self.drop(h) * self.scale * self.passing * self.plain * self._gain()
        h = self.mixed(self.pool(h))
        return self.head(self.final(h).flatten(1))


Change = Callable[[Any, ExitStack], None]
CHANGES: dict[str, Change] = {}
OF_SLIM: set[str] = set()  # what is done to this network, the rest to the rich one
WITHOUT_EFFECT: set[str] = set()


def _name(f: Change) -> str:
    return f.__name__.replace("_", " ")


def change(f: Change) -> Change:
    CHANGES[_name(f)] = f
    return f


def change_of_slim(f: Change) -> Change:
    OF_SLIM.add(_name(f))
    return change(f)


def no_change(f: Change) -> Change:
    WITHOUT_EFFECT.add(_name(f))
    return change(f)


def no_change_of_slim(f: Change) -> Change:
    OF_SLIM.add(_name(f))
    return no_change(f)


def _weight(m: Any) -> Tensor:
    return m.conv.weight


def _values(like: Tensor) -> Tensor:
    return torch.randn(like.shape, dtype=like.dtype, generator=_draws)


_draws = torch.Generator().manual_seed(5)


def _place(w: Tensor) -> tuple[int, ...]:
    """Some element of a weight."""
    i = int(torch.randint(w.numel(), (), generator=_draws))
    return tuple(int(n) for n in np.unravel_index(i, w.shape))


# -- weights --


@change
def weight_in_place(m, stack):
    with torch.no_grad():
        _weight(m).mul_(fresh())


@change
def weight_by_data(m, stack):
    _weight(m).data.mul_(fresh())


@change
def element_of_a_weight_by_data(m, stack):
    m.conv.weight.data[_place(m.conv.weight)] += 1 + fresh()


@change
def element_of_a_large_weight_by_data(m, stack):
    w = m.head.weight.data
    w[int(torch.randint(3, (), generator=_draws)), _place(w)[1]] += 1 + fresh()
    w[1, _place(w)[1]] += 1 + fresh()


@change
def elements_that_keep_the_sum(m, stack):
    w = m.blocks[0].conv.weight.data
    a = _place(w)
    b = (a[0], (a[1] + 1) % 4, *a[2:])
    w[a] += (d := 1 + fresh())
    w[b] -= d


@change
def elements_of_a_weight_exchanged(m, stack):
    w = m.blocks[0].conv.weight.data
    w.copy_(w.flip(1) if fresh() > 0.5 else w)


@change
def weight_by_detach(m, stack):
    m.blocks[0].conv.weight.detach()[1] *= fresh()


@change
def weight_by_numpy(m, stack):
    _weight(m).detach().numpy()[...] *= fresh()


@change
def element_of_a_weight_by_numpy(m, stack):
    _weight(m).detach().numpy()[_place(_weight(m))] += 1 + fresh()


@change
def weight_by_dlpack(m, stack):
    np.from_dlpack(_weight(m).detach())  # a reader alone changes nothing
    torch.from_dlpack(_weight(m).detach().numpy()).mul_(fresh())


@change
def weight_in_memory_of_numpy(m, stack):
    if not hasattr(m, "memory"):
        memory = _weight(m).detach().numpy().copy()
        m.__dict__["memory"] = memory
        _weight(m).data = torch.from_numpy(memory)
    m.memory[...] = _values(_weight(m)).numpy()
    _weight(m).data = torch.from_numpy(m.memory)


@change
def weight_by_its_storage(m, stack):
    w = m.blocks[1].conv.weight
    w.untyped_storage().copy_(_values(w).untyped_storage())


@change
def weight_by_its_address(m, stack):
    w = m.blocks[1].conv.weight
    new = _values(w)
    ctypes.memmove(w.data_ptr(), new.data_ptr(), w.numel() * w.element_size())


@change
def weight_from_another_process(m, stack):
    w = m.blocks[1].conv.weight
    w.data = w.data.clone().share_memory_()
    by = fresh()
    in_another_process(lambda: w.data.mul_(by))


@change
def weight_of_another_storage(m, stack):
    with torch.no_grad():
        m.blocks[0].conv.weight.set_(_values(m.blocks[0].conv.weight))


@change
def data_of_a_weight_replaced(m, stack):
    m.blocks[0].conv.weight.data = _values(m.blocks[0].conv.weight)


@change
def data_of_a_weight_at_a_used_address(m, stack):
    w = m.head.weight
    before = w.data_ptr()
    values = w.detach() * fresh()
    w.data = torch.zeros(0, dtype=w.dtype)  # the old memory is free now
    kept = []
    for _ in range(200):
        new = torch.empty(3, 64, dtype=w.dtype)
        if new.data_ptr() == before:
            break
        kept.append(new)
    new.numpy()[...] = values.numpy()
    w.data = new


@change
def parameter_replaced(m, stack):
    m.conv.weight = nn.Parameter(_values(m.conv.weight))


@change
def parameter_of_another_shape(m, stack):
    k = 8 - m.blocks[0].conv.weight.shape[-1]
    m.blocks[0].conv.weight = nn.Parameter(_values(torch.empty(4, 4, k, k).double()) / 4)


@change
def parameters_tied(m, stack):
    m.blocks[1].conv.weight = nn.Parameter(_values(m.blocks[1].conv.weight))
    m.blocks[0].conv.weight = m.blocks[1].conv.weight


@change
def parameters_untied(m, stack):
    m.blocks[1].conv.weight = m.blocks[0].conv.weight
    m.blocks[1].conv.weight = nn.Parameter(_values(m.blocks[0].conv.weight))


@change
def parameters_swapped(m, stack):
    m.blocks[0] = Block().double()
    a, b = m.blocks[0].conv, m.blocks[1].conv
    a.weight, b.weight = nn.Parameter(b.weight.data * fresh()), nn.Parameter(a.weight.data.clone())


@change
def tensors_swapped(m, stack):
    gc.collect()
    other = nn.Parameter(_values(m.norm.weight))
    try:
        torch.utils.swap_tensors(m.norm.weight, other)
    except RuntimeError:  # someone holds it weakly
        m.norm.weight.data = other.data


@change
def parameter_as_a_plain_tensor(m, stack):
    w = m.older.weight.detach() * fresh()
    del m.older.weight
    m.older.weight = w if next(_numbers) % 2 else nn.Parameter(w)


@change
def parameter_in_its_dict(m, stack):
    m.conv._parameters["weight"] = nn.Parameter(_values(m.conv.weight))


@change
def state_loaded(m, stack):
    m.load_state_dict({k: v * fresh() for k, v in m.state_dict().items()})


@change
def state_loaded_by_assignment(m, stack):
    m.load_state_dict({k: v * fresh() for k, v in m.state_dict().items()}, assign=True)


@change
def step_of_training(m, stack):
    m.head.weight.grad = _values(m.head.weight)
    torch.optim.SGD([m.head.weight], lr=0.1).step()


@change
def weights_by_a_vector(m, stack):
    new = nn.utils.parameters_to_vector(m.blocks.parameters()) * fresh()
    nn.utils.vector_to_parameters(new.detach(), m.blocks.parameters())


@change
def weights_by_foreach(m, stack):
    torch._foreach_mul_([p.data for p in m.blocks.parameters()], fresh())


@change
def weight_in_inference_mode(m, stack):
    with torch.inference_mode():
        m.head.weight.mul_(fresh())


@change
def weight_as_a_view_of_others(m, stack):
    flat = torch.cat(
        [m.blocks[0].conv.weight.detach().flatten() * fresh(), torch.zeros(7).double()]
    )
    m.blocks[0].conv.weight.data = flat[:-7].view_as(m.blocks[0].conv.weight)
    flat.data.mul_(fresh())


@change
def weight_of_infinite_norm_then_back(m, stack):
    with torch.no_grad():
        m.head.weight.mul_(1e300)
        m.head.weight.mul_(1e-300 * fresh())


@change
def negative_zero_and_sign(m, stack):
    m.head.weight.data.neg_()


@change
def bias_of_the_norm_by_data(m, stack):
    m.norm.bias.data += fresh()


@change
def buffer_in_place(m, stack):
    m.scale.mul_(fresh())


@change
def buffer_by_data(m, stack):
    m.scale.data[-1] *= fresh()


@change
def buffer_replaced(m, stack):
    m.scale = torch.full((4, 1, 1), fresh(), dtype=torch.float64)


@change
def buffer_of_another_shape(m, stack):
    m.scale = torch.full((1,) if m.scale.dim() > 1 else (4, 1, 1), fresh(), dtype=torch.float64)


@change
def passing_buffer_by_data(m, stack):
    m.passing.data[1:] *= fresh()


@change
def passing_buffer_replaced(m, stack):
    m.passing = m.passing * fresh()


@change
def tensor_as_an_attribute_by_data(m, stack):
    m.plain.data[1:] *= fresh()


@change
def tensor_as_an_attribute_by_numpy(m, stack):
    m.plain.numpy()[1:] *= fresh()


@change
def tensor_as_an_attribute_replaced(m, stack):
    m.plain = m.plain * fresh()


@change
def running_mean(m, stack):
    m.norm.running_mean.data[1] += fresh()


@change
def running_variance(m, stack):
    m.norm.running_var.data[:2] *= fresh()


@change
def statistics_updated_by_training(m, stack):
    m.norm.train()
    m.norm(torch.randn(5, 4, 3, 3, generator=_draws).double() * 3)
    m.norm.eval()


@change
def epsilon_of_the_norm(m, stack):
    m.norm.eps = fresh()


@change
def norm_without_weights(m, stack):
    m.norm.weight = m.norm.bias = None
    stack.callback(setattr, m.norm, "bias", nn.Parameter(_values(m.norm.running_var)))
    stack.callback(setattr, m.norm, "weight", nn.Parameter(_values(m.norm.running_var) + 2))


@no_change
def momentum_of_the_norm(m, stack):
    m.norm.momentum = fresh()


@no_change
def count_of_batches(m, stack):
    m.norm.num_batches_tracked += 1


@no_change
def requires_grad(m, stack):
    m.requires_grad_(not m.head.weight.requires_grad)
    stack.callback(m.requires_grad_, True)


@no_change
def gradient_of_a_weight(m, stack):
    m.head.weight.grad = torch.ones_like(m.head.weight)


@no_change
def layout_in_memory(m, stack):
    m.to(memory_format=torch.channels_last)
    stack.callback(m.to, memory_format=torch.contiguous_format)


@no_change
def weight_copied_onto_itself(m, stack):
    m.head.weight.data = m.head.weight.data.clone()


@no_change
def weight_changed_and_back(m, stack):
    m.head.weight.data.mul_(2)
    m.head.weight.data.mul_(0.5)


# -- attributes of layers --


@change
def slope_of_leaky_relu(m, stack):
    m.leaky.negative_slope = fresh() / 2


@change
def padding_mode(m, stack):
    modes = ["zeros", "circular", "reflect", "replicate"]
    m.conv.padding_mode = modes[(modes.index(m.conv.padding_mode) + 1) % 4]


@change
def dilation(m, stack):
    d = 3 - m.blocks[0].conv.dilation[0]
    m.blocks[0].conv.dilation = (d, d)


@change
def pooling_counts_padding(m, stack):
    m.pool.divisor_override = None
    m.pool.count_include_pad = not m.pool.count_include_pad


@change
def divisor_of_pooling(m, stack):
    m.pool.divisor_override = 1 + next(_numbers) % 7 if m.pool.divisor_override != 3 else 8


@no_change
def layer_in_place(m, stack):
    m.act.inplace = not m.act.inplace


@no_change
def probability_of_dropout(m, stack):
    m.drop.p = 0.9


@no_change
def an_attribute_that_nobody_reads(m, stack):
    m.comment = fresh()


@no_change
def a_tensor_that_nobody_reads(m, stack):
    m.note = torch.randn(3, generator=_draws)


@change
def attribute_of_settings(m, stack):
    m.settings.gain = fresh()


@change
def settings_replaced(m, stack):
    m.settings = Settings()
    m.settings.gain = fresh()


@change
def settings_at_a_used_id(m, stack):
    before = id(m.settings)
    del m.settings
    kept = []
    for _ in range(1000):
        new = Settings()
        if id(new) == before:
            break
        kept.append(new)
    new.gain = fresh()
    m.settings = new


@change
def class_of_settings(m, stack):
    by = fresh()
    m.settings.__dict__.pop("gain", None)
    m.settings.__class__ = type("Settings", (Settings,), {"gain": by})


# -- modules --


@change
def module_replaced(m, stack):
    m.conv = nn.Conv2d(2, 4, 3, padding="same", bias=False).double()


@change
def module_at_a_used_id(m, stack):
    before = id(m.leaky)
    del m.leaky
    gc.collect()
    kept = []
    for _ in range(1000):
        new = nn.LeakyReLU(fresh() / 2)
        if id(new) == before:
            break
        kept.append(new)
    m.leaky = new


@change
def activation_replaced(m, stack):
    m.act = nn.LeakyReLU(fresh() / 3) if type(m.act) is nn.ReLU else nn.ReLU()


@change
def class_of_a_module(m, stack):
    by = fresh()

    class Doubled(nn.ReLU):
        def forward(self, x):
            return super().forward(x) * by

    m.final.__class__ = Doubled


@change
def identity_replaced(m, stack):
    class Times(nn.Module):
        by = fresh()

        def forward(self, x):
            return x * self.by

    m.mixed = Times()


@change
def block_appended(m, stack):
    if len(m.blocks) < 4:
        m.blocks.append(Block().double())
    else:
        m.blocks[3] = Block().double()


@change
def block_deleted(m, stack):
    m.blocks.append(Block().double())
    m.blocks[-1].conv.weight.data.mul_(3)
    del m.blocks[len(m.blocks) - 2 if len(m.blocks) > 2 else 1]


@change
def block_inserted(m, stack):
    m.blocks.insert(0, Block().double())
    if len(m.blocks) > 4:
        del m.blocks[4]


@change
def blocks_reordered(m, stack):
    m.blocks[0], m.blocks[1] = m.blocks[1], m.blocks[0]


@change
def block_in_the_dict_of_modules(m, stack):
    m.blocks._modules["1"] = Block().double()


@change
def one_module_twice(m, stack):
    m.blocks[0] = Block().double()
    m.blocks[1] = m.blocks[0]


@change
def head_without_bias_and_scaled(m, stack):
    m.head = nn.Linear(64, 3, bias=False).double()


@no_change
def copy_of_the_model_changed(m, stack):
    twin = copy.deepcopy(m)
    with torch.no_grad():
        for p in twin.parameters():
            p.mul_(3)
    twin.settings.gain = 5.0
    twin.blocks.append(Block().double())


@no_change
def module_moved_and_back(m, stack):
    act = m.act
    m.act = nn.Tanh()
    m.act = act


# -- reparametrizations --


@change
def magnitude_of_weight_norm(m, stack):
    m.normed.parametrizations.weight.original0.data.mul_(fresh())


@change
def direction_of_weight_norm(m, stack):
    w = m.normed.parametrizations.weight.original1
    w.data[_place(w)] += 1


@change
def parametrization_registered(m, stack):
    if not parametrize.is_parametrized(m.older):
        if not isinstance(m.older.weight, nn.Parameter):
            w = m.older.weight
            del m.older.weight
            m.older.weight = nn.Parameter(w)
        parametrize.register_parametrization(m.older, "weight", Shift())
    m.older.parametrizations.weight[0].factor = fresh()
    stack.callback(parametrize.remove_parametrizations, m.older, "weight")


@change
def parametrization_removed(m, stack):
    if not isinstance(m.older.weight, nn.Parameter):
        parameter_as_a_plain_tensor(m, stack)
    parametrize.register_parametrization(m.head, "weight", Shift())
    m.head.parametrizations.weight[0].factor = fresh()
    parametrize.remove_parametrizations(m.head, "weight")


@change
def older_weight_norm(m, stack):
    layer = m.blocks[0].conv
    nn.utils.weight_norm(layer)
    layer.weight_g.data.mul_(fresh())
    stack.callback(nn.utils.remove_weight_norm, layer)


@change
def spectral_norm(m, stack):
    layer = nn.Linear(64, 3).double()
    m.head = parametrizations.spectral_norm(layer)
    m.head.eval()
    stack.callback(parametrize.remove_parametrizations, m.head, "weight")


@change
def pruned(m, stack):
    layer = m.blocks[1].conv
    prune.random_unstructured(layer, "weight", amount=0.4)
    stack.callback(prune.remove, layer, "weight")


# -- hooks --


def _times(by: float) -> Callable:
    return lambda module, inputs, output: output * by


class Hook:
    def __init__(self) -> None:
        self.by = 1.0

    def __call__(self, module, inputs, output):
        return output * self.by

    def method(self, module, inputs, output):
        return output * self.by


def _kept(m: Any, name: str, make: Callable) -> Any:
    """Something that belongs to the model's hooks, made once."""
    found = HOOKS.setdefault(m, {})
    if name not in found:
        found[name] = make()
    return found[name]


HOOKS: weakref.WeakKeyDictionary[nn.Module, dict[str, Any]] = weakref.WeakKeyDictionary()


@change_of_slim
def hook(m, stack):
    stack.callback(m.act.register_forward_hook(_times(fresh())).remove)


@change_of_slim
def hook_of_the_model(m, stack):
    stack.callback(m.register_forward_hook(_times(fresh())).remove)


@change_of_slim
def hook_before(m, stack):
    by = fresh()
    stack.callback(m.final.register_forward_pre_hook(lambda module, x: (x[0] * by,)).remove)


@change_of_slim
def hook_before_with_keywords(m, stack):
    by = fresh()
    stack.callback(
        m.pool.register_forward_pre_hook(
            lambda module, x, k: ((x[0] * by,), k), with_kwargs=True
        ).remove
    )


@change_of_slim
def hook_with_keywords(m, stack):
    by = fresh()
    stack.callback(
        m.pool.register_forward_hook(lambda module, x, k, y: y * by, with_kwargs=True).remove
    )


@change_of_slim
def hook_that_comes_first(m, stack):
    handle = m.pool.register_forward_hook(_times(fresh()), prepend=True, always_call=True)
    stack.callback(handle.remove)


@change_of_slim
def hook_that_changes_in_place(m, stack):
    by = fresh()
    handle = m.mixed.register_forward_hook(lambda module, x, y: [y.mul_(by), None][1])
    stack.callback(handle.remove)


def _with_state(make: Callable, write: Callable, at: str, name: str) -> Change:
    """A hook that stays, whose state is changed."""

    def register(m, stack):
        state = _kept(m, name, lambda: make(m.get_submodule(at)))
        write(state, fresh())

    register.__name__ = name
    return change_of_slim(register)


def _object_hook(layer):
    made = Hook()
    layer.register_forward_hook(made)
    return made


def _method_hook(layer):
    made = Hook()
    layer.register_forward_hook(made.method)
    return made


def _closure_hook(layer):
    box = {"by": 1.0}
    layer.register_forward_hook(lambda module, x, y: y * box["by"])
    return box


def _partial_hook(layer):
    box = {"by": 1.0}
    layer.register_forward_hook(functools.partial(lambda box, module, x, y: y * box["by"], box))
    return box


def _array_hook(layer):
    box = np.ones(1)
    layer.register_forward_hook(lambda module, x, y: y * torch.from_numpy(box))
    return box


def _tensor_hook(layer):
    box = torch.ones(1).double()
    layer.register_forward_hook(lambda module, x, y: y * box)
    return box


def _module_hook(layer):
    box = outside_module()
    layer.register_forward_hook(lambda module, x, y: y * box.weight.detach())
    return box.weight


def _reading_hook(layer):
    layer.register_forward_hook(lambda module, x, y: y * getattr(module, "by", 1.0))
    return layer


WITH = {
    "attribute": lambda h, v: setattr(h, "by", v),
    "item": lambda h, v: h.update(by=v),
    "first": lambda h, v: h.__setitem__(0, v),
    "fill": lambda h, v: h.data.fill_(v),
}
_with_state(_object_hook, WITH["attribute"], "act", "object_of_a_hook")
_with_state(_method_hook, WITH["attribute"], "mixed", "object_of_a_hook_that_is_a_method")
_with_state(_closure_hook, WITH["item"], "act", "closure_of_a_hook")
_with_state(_partial_hook, WITH["item"], "pool", "partial_of_a_hook")
_with_state(_array_hook, WITH["first"], "pool", "array_of_a_hook")
_with_state(_tensor_hook, WITH["fill"], "pool", "tensor_of_a_hook")
_with_state(_module_hook, WITH["fill"], "pool", "module_of_a_hook")
_with_state(_reading_hook, WITH["attribute"], "pool", "attribute_that_a_hook_reads")


@change_of_slim
def hook_in_its_dict(m, stack):
    m.final._forward_hooks[12345] = _times(fresh())
    stack.callback(m.final._forward_hooks.pop, 12345)


@change_of_slim
def global_hook(m, stack):
    by = fresh()

    def f(module, x, y):
        return y * by if isinstance(module, nn.AvgPool2d) else None

    stack.callback(nn.modules.module.register_module_forward_hook(f).remove)


@change_of_slim
def global_hook_before(m, stack):
    by = fresh()

    def f(module, x):
        return (x[0] * by,) if isinstance(module, nn.AvgPool2d) else None

    stack.callback(nn.modules.module.register_module_forward_pre_hook(f).remove)


@no_change_of_slim
def hook_that_watches(m, stack):
    seen = []
    stack.callback(m.act.register_forward_hook(lambda module, x, y: seen.append(y)).remove)


@no_change_of_slim
def hook_of_the_state(m, stack):
    stack.callback(m.register_state_dict_post_hook(lambda *_: None).remove)


# -- code --


def _patch(stack: ExitStack, owner: Any, name: str, make: Callable[[Callable], Callable]) -> None:
    """Replace something until the end of the test."""
    stack.enter_context(mock.patch.object(owner, name, make(getattr(owner, name))))


def _scaled(by: float) -> Callable[[Callable], Callable]:
    return lambda f: lambda *args, **options: f(*args, **options) * by


@change_of_slim
def forward_of_the_model(m, stack):
    by, forward = fresh(), type(m).forward
    m.forward = lambda x: forward(m, x) * by
    stack.callback(delattr, m, "forward")


@change_of_slim
def forward_of_a_module(m, stack):
    by = fresh()
    m.final.forward = lambda x: F.relu(x) * by
    stack.callback(delattr, m.final, "forward")


@change_of_slim
def forward_of_the_class(m, stack):
    _patch(stack, Slim, "forward", _scaled(fresh()))


@change
def forward_of_the_class_of_a_block(m, stack):
    _patch(stack, Block, "forward", _scaled(fresh()))


@change_of_slim
def forward_of_pooling(m, stack):
    _patch(stack, nn.AvgPool2d, "forward", _scaled(fresh()))


@change_of_slim
def call_of_the_class(m, stack):
    by = fresh()
    called = type(m).__call__
    stack.enter_context(
        mock.patch.object(Slim, "__call__", lambda self, x: called(self, x) * by, create=True)
    )


@change_of_slim
def code_of_forward(m, stack):
    def forward(self, x):
        h = self.leaky(self.act(self.conv(x))) * float("12345.5")
        return self.head(self.final(self.mixed(self.pool(h))).flatten(1))

    by = str(fresh())
    constants = tuple(by if c == "12345.5" else c for c in forward.__code__.co_consts)
    before = Slim.forward.__code__
    Slim.forward.__code__ = forward.__code__.replace(co_consts=constants)
    stack.callback(setattr, Slim.forward, "__code__", before)


@change_of_slim
def defaults_of_a_method(m, stack):
    Slim._gain.__defaults__ = (fresh(),)
    stack.callback(setattr, Slim._gain, "__defaults__", (1.0,))


@change_of_slim
def keyword_defaults_of_a_method(m, stack):
    Slim._gain.__kwdefaults__ = {"more": fresh()}
    stack.callback(setattr, Slim._gain, "__kwdefaults__", {"more": 1.0})


@change_of_slim
def attribute_of_the_class(m, stack):
    stack.enter_context(mock.patch.object(Slim, "gain", fresh()))


@change_of_slim
def method_of_the_instance(m, stack):
    by = fresh()
    m._gain = lambda: by
    stack.callback(delattr, m, "_gain")


@change_of_slim
def class_of_the_model(m, stack):
    m.__class__ = type("Richer", (Slim,), {"gain": fresh()})
    stack.callback(setattr, m, "__class__", Slim)


@change_of_slim
def functional_relu(m, stack):
    _patch(stack, F, "relu", _scaled(fresh()))


@change_of_slim
def functional_leaky_relu(m, stack):
    _patch(stack, F, "leaky_relu", _scaled(fresh()))


@change_of_slim
def functional_linear(m, stack):
    _patch(stack, F, "linear", _scaled(fresh()))


@change
def functional_batch_norm(m, stack):
    _patch(stack, F, "batch_norm", _scaled(fresh()))


@change_of_slim
def convolution_of_the_class(m, stack):
    _patch(stack, nn.Conv2d, "_conv_forward", _scaled(fresh()))


@change_of_slim
def method_of_tensors(m, stack):
    _patch(stack, torch.Tensor, "flatten", _scaled(fresh()))


# -- settings of the process --


@no_change_of_slim
def precision_of_products(m, stack):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    stack.callback(torch.set_float32_matmul_precision, before)


@no_change_of_slim
def onednn_off(m, stack):
    stack.enter_context(torch.backends.mkldnn.flags(enabled=False))


@no_change_of_slim
def number_of_threads(m, stack):
    stack.callback(torch.set_num_threads, torch.get_num_threads())
    torch.set_num_threads(2)


@no_change_of_slim
def default_dtype(m, stack):
    stack.callback(torch.set_default_dtype, torch.get_default_dtype())
    torch.set_default_dtype(torch.float64)


# ---- recurrent networks --------------------------------------------------------------------------


class Recurrent(nn.Module):
    """An LSTM with a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.head = nn.Linear(4, 3)
        self.settings = Settings()
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1]) * self.settings.gain


RECURRENT: dict[str, Change] = {}


def recurrent(f: Change) -> Change:
    RECURRENT[f.__name__.replace("_", " ")] = f
    return f


@recurrent
def recurrent_weight_in_place(m, stack):
    with torch.no_grad():
        m.lstm.weight_hh_l0.mul_(fresh())


@recurrent
def recurrent_weight_by_data(m, stack):
    m.lstm.weight_ih_l0.data.mul_(fresh())


@recurrent
def element_of_a_recurrent_weight(m, stack):
    m.lstm.weight_ih_l0.data[9, 1] += 1 + fresh()


@recurrent
def bias_of_the_lstm_by_numpy(m, stack):
    m.lstm.bias_hh_l0.detach().numpy()[:] += fresh()


@recurrent
def recurrent_parameter_replaced(m, stack):
    m.lstm.weight_hh_l0 = nn.Parameter(_values(m.lstm.weight_hh_l0))


@recurrent
def list_of_weights_of_the_lstm(m, stack):
    m.lstm._flat_weights[0] = nn.Parameter(_values(m.lstm.weight_ih_l0))
    stack.callback(m.lstm._init_flat_weights)


@recurrent
def lstm_replaced(m, stack):
    m.lstm = nn.LSTM(3, 4, batch_first=True).double()


@recurrent
def lstm_without_biases(m, stack):
    m.lstm = nn.LSTM(3, 4, batch_first=True, bias=not m.lstm.bias).double()


@recurrent
def lstm_of_another_size(m, stack):
    m.lstm = nn.LSTM(3, 9 - m.lstm.hidden_size, batch_first=True).double()
    m.head = nn.Linear(m.lstm.hidden_size, 3).double()


@recurrent
def hook_of_the_lstm(m, stack):
    by = fresh()
    handle = m.lstm.register_forward_hook(lambda module, x, y: (y[0] * by, y[1]))
    stack.callback(handle.remove)


@recurrent
def hook_before_the_lstm(m, stack):
    by = fresh()
    handle = m.lstm.register_forward_pre_hook(lambda module, x: (x[0] * by,))
    stack.callback(handle.remove)


@recurrent
def global_hook_on_the_lstm(m, stack):
    by = fresh()

    def f(module, x):
        return (x[0] * by,) if isinstance(module, nn.LSTM) else None

    stack.callback(nn.modules.module.register_module_forward_pre_hook(f).remove)


@recurrent
def gain_behind_the_lstm(m, stack):
    m.settings.gain = fresh()


@recurrent
def head_of_the_lstm_by_data(m, stack):
    m.head.weight.data[1, 2] += 1 + fresh()


@recurrent
def head_of_the_lstm_replaced(m, stack):
    m.head = nn.Sequential(nn.Linear(m.lstm.hidden_size, 3)).double()


@recurrent
def forward_of_the_lstm(m, stack):
    _patch(stack, nn.LSTM, "forward", lambda f: lambda self, x: f(self, x * 1.5))


# ---- random networks -----------------------------------------------------------------------------


class Scaled(nn.Module):
    """Multiply by what is held."""

    def __init__(self, name: str, holder: str) -> None:
        super().__init__()
        self.name = name
        self.read = hold(self, name, holder)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.read(self)


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"of": inner})

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner["of"](x)


class Grown(nn.Module):
    """A random network on [N, 2, 6, 6], whose parts lie in nested containers."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__()
        self.dense = draw.random() < 0.3
        width = 12 if self.dense else 3
        first = nn.Linear(72, width) if self.dense else nn.Conv2d(2, width, 3, padding=1)
        body = nn.Sequential(*(self._part(draw, width, 0) for _ in range(draw.randint(2, 4))))
        self.parts = nn.ModuleList([first, nn.ReLU(), nn.ModuleDict({"body": body})])
        self.head = nn.Linear(width if self.dense else width * 36, 3)
        self.double().eval()

    def _part(self, draw: random.Random, width: int, depth: int) -> nn.Module:
        kind = draw.choice(["layer", "norm", "held", "held", "residual", "nested"])
        if kind == "held" or depth > 2:
            return Scaled(*draw.choice(HELD_KINDS))
        if kind == "layer":
            layer = nn.Linear if self.dense else functools.partial(nn.Conv2d, kernel_size=1)
            return nn.Sequential(layer(width, width), nn.ReLU())
        if kind == "norm":
            norm = (nn.BatchNorm1d if self.dense else nn.BatchNorm2d)(width)
            norm.running_var.uniform_(0.5, 2.0)
            return norm
        inner = self._part(draw, width, depth + 1)
        return Residual(inner) if kind == "residual" else nn.Sequential(inner)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1) if self.dense else x
        x = self.parts[1](self.parts[0](x))
        return self.head(self.parts[2]["body"](x).flatten(1))


def _random_weight(net: nn.Module, draw: random.Random, stack: ExitStack) -> None:
    """Change some parameter in some way."""
    owner, name = draw.choice([
        (m, n) for m in net.modules() for n, p in m._parameters.items() if p is not None
    ])  # fmt: skip
    w = getattr(owner, name)
    new = w.detach() * fresh() + _values(w) * 0.1

    def in_place():
        with torch.no_grad():
            w.copy_(new)

    def replace():
        setattr(owner, name, nn.Parameter(new))

    def one_element():
        w.data[_place(w)] += 1 + fresh()

    ways = [in_place, replace, one_element, lambda: w.data.copy_(new)]
    ways.append(lambda: setattr(w, "data", new))
    ways.append(lambda: w.detach().numpy().__setitem__(..., new.numpy()))
    draw.choice(ways)()


def _random_hook(net: nn.Module, draw: random.Random, stack: ExitStack) -> None:
    """Hook some module, or let go of a hook."""
    module = draw.choice(
        [m for m in net.modules() if not isinstance(m, (nn.ModuleList, nn.ModuleDict))]
    )
    by = fresh()
    if module._forward_hooks and draw.random() < 0.5:
        module._forward_hooks.clear()
    elif draw.random() < 0.5:
        module.register_forward_hook(_times(by))
    else:
        module.register_forward_pre_hook(lambda module, x: (x[0] * by,))


def _random_held(net: nn.Module, draw: random.Random, stack: ExitStack) -> None:
    """Change something that is held."""
    found = [m for m in net.modules() if isinstance(m, Scaled)]
    if found:
        chosen = draw.choice(found)
        write(chosen, chosen.name)
    else:
        _random_weight(net, draw, stack)


def _random_part(net: nn.Module, draw: random.Random, stack: ExitStack) -> None:
    """Put a part into the body, take one out, or exchange two."""
    body = net.parts[2]["body"]
    how = draw.choice(["append", "delete", "exchange"])
    if how == "delete" and len(body) > 1:
        del body[draw.randrange(len(body))]
    elif how == "exchange" and len(body) > 1:
        body[0], body[-1] = body[-1], body[0]
    else:
        body.append(net._part(draw, 12 if net.dense else 3, 0).double().eval())


def _random_forward(net: nn.Module, draw: random.Random, stack: ExitStack) -> None:
    """Give some ReLU another forward."""
    module = draw.choice([m for m in net.modules() if isinstance(m, nn.ReLU)])
    slope = fresh() / 3
    module.forward = lambda x: F.leaky_relu(x, slope)


def random_change(net: nn.Module, draw: random.Random, stack: ExitStack) -> None:
    """Change a random network in some way."""
    ways = [_random_weight, _random_hook, _random_held, _random_held, _random_part, _random_forward]
    draw.choice(ways)(net, draw, stack)
