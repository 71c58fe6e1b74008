"""Shells: a model's modules in eval mode, without a change to the user's own.

A shell of a module has its class, its parameters and what it refers to, but a `__dict__` of its
own: what the code of a model assigns to its modules, appends to their lists, or puts into their
dicts while a shell runs stays in the shell. Shells are made at every call, in microseconds a
module, so that they are the model as it is now.
"""

from __future__ import annotations

import types
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.eval_frame import OptimizedModule

from ..capture.modules import has_own_hooks, runs_inside

# What every module has; the rest of its `__dict__` is its own.
STANDARD = frozenset(vars(nn.Module()))
_HOOKS = tuple(name for name in vars(nn.Module()) if "hooks" in name)
_FORWARD_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_PLAIN = {int, float, bool, str, type(None), tuple}
_CONTAINERS = {dict, OrderedDict, list, set}
TENSORS = {Tensor, nn.Parameter, nn.Buffer}


@dataclass(frozen=True)
class Shell:
    """The modules of a model in eval mode.

    module: stands for the model; kinds: path and class of every module, which the conditions of
    composites look at; own: id of every tensor of the modules -> its path; backward_hooks: whether
    some module has one, so that its gradient is not that of its forward pass.
    """

    module: nn.Module
    kinds: tuple[tuple[str, type], ...]
    own: dict[int, str]
    backward_hooks: bool


class _Shells:
    """The shells of one model, while they are made."""

    def __init__(self) -> None:
        self.of: dict[int, nn.Module] = {}
        self.copies: dict[int, Any] = {}  # modules may share a list or a dict
        self.kinds: list[tuple[str, type]] = []
        self.own: dict[int, str] = {}
        self.bound: list[tuple[Any, Any, Any]] = []  # state, name, what it refers to
        self.backward_hooks = False

    def make(self, module: nn.Module, path: str) -> nn.Module:
        """The shell of a module and of those below it."""
        cls = module.__class__
        self.kinds.append((path, cls))
        if id(module) in self.of:
            return self.of[id(module)]
        if isinstance(module, torch.jit.ScriptModule):  # its state is not in Python
            return module
        shell = self.of[id(module)] = object.__new__(cls)
        state, inside = module.__dict__, shell.__dict__
        inside.update(state)
        inside["training"] = False
        inside["_compiled_call_impl"] = None  # would call the module itself
        prefix = f"{path}." if path else ""
        for kind in ("_parameters", "_buffers"):
            inside[kind] = state[kind].copy()
            for name, x in state[kind].items():
                if x is not None:
                    self.own.setdefault(id(x), prefix + name)
        for kind in _HOOKS:
            hooks = state[kind]
            inside[kind] = hooks.copy() if hooks else type(hooks)()
            if hooks and kind in _FORWARD_HOOKS:
                self.bound += [(inside[kind], key, hook) for key, hook in hooks.items()]
        inside["_non_persistent_buffers_set"] = state["_non_persistent_buffers_set"].copy()
        if state["_backward_hooks"] or state["_backward_pre_hooks"]:
            self.backward_hooks = True
        for name in state.keys() - STANDARD:
            x = state[name]
            if type(x) in _PLAIN:
                continue
            if type(x) in _CONTAINERS:
                inside[name] = self.copies.setdefault(id(x), x.copy())
            elif type(x) in TENSORS:
                self.own.setdefault(id(x), prefix + name)
            elif isinstance(x, (types.MethodType, nn.Module)):
                self.bound.append((inside, name, x))
        children = inside["_modules"] = state["_modules"].copy()
        for name, child in children.items():
            if _only_compiles(child):
                children[name] = self.make(child._orig_mod, f"{prefix}{name}._orig_mod")
            elif child is not None:
                children[name] = self.make(child, prefix + name)
        return shell

    def rebind(self) -> None:
        """Let attributes and hooks refer to the shells, no longer to the model's modules."""
        for state, name, x in self.bound:
            if isinstance(x, nn.Module):
                state[name] = self.of.get(id(x), x)
            elif isinstance(x, types.MethodType) and id(x.__self__) in self.of:
                state[name] = types.MethodType(x.__func__, self.of[id(x.__self__)])


def _only_compiles(child: nn.Module | None) -> bool:
    """Whether a module is torch.compile's wrapper of another one, and nothing more."""
    return type(child) is OptimizedModule and runs_inside(child) and not has_own_hooks(child)


def _is_compiled(module: nn.Module) -> bool:
    return type(module) is OptimizedModule or module._compiled_call_impl is not None


def shell_of(model: nn.Module) -> Shell:
    """Make the shell of a model."""
    shells = _Shells()
    top = shells.make(model, "")
    shells.rebind()
    hooked = shells.backward_hooks or _global_backward_hooks()
    return Shell(top, tuple(shells.kinds), shells.own, hooked)


@contextmanager
def itself_or_shell(model: nn.Module) -> Iterator[Shell]:
    """The model's own modules, put back as they were; their shell where it takes the place of some.

    A copy or a shell is not what it stands for to code that asks which module it is. It is needed
    where a module is in training mode, or compiled.
    """
    shell = shell_of(model)
    modules = list(model.modules())
    if any(m.training or _is_compiled(m) for m in modules):
        yield shell
        return
    states = [(m.__dict__, m.__dict__.copy()) for m in modules]
    inside = {id(x): x for _, state in states for x in state.values() if type(x) in _CONTAINERS}
    contents = [(x, x.copy()) for x in inside.values()]
    try:
        yield replace(shell, module=model)
    finally:
        for state, before in (*states, *contents):
            _put_back(state, before)


def _put_back(now: Any, before: Any) -> None:
    """Give a container the contents that it had."""
    if isinstance(now, list):
        if len(now) != len(before) or any(a is not b for a, b in zip(now, before, strict=True)):
            now[:] = before
    elif isinstance(now, set):
        if now != before:
            now.clear()
            now.update(before)
    else:
        for key in now.keys() - before.keys():
            del now[key]
        now.update(before)


def _global_backward_hooks() -> bool:
    """Whether PyTorch calls a backward hook for every module."""
    module = torch.nn.modules.module
    return bool(module._global_backward_hooks or module._global_backward_pre_hooks)
