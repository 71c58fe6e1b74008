"""The user's modules: unwrapped, checked, and copied without their weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.export._trace
from torch import Tensor, nn
from torch._dynamo.eval_frame import OptimizedModule

from ...errors import ModelError, wrong_type

# Hooks that compute a module's weights; without them the module has none.
REPARAMETRIZATIONS = ("torch.nn.utils.",)


# Wrappers that do what the module inside does: its name there, and their own forward. (That of a
# compiled module is made for each.)
WRAPPERS = {
    OptimizedModule: ("_orig_mod", None),
    nn.DataParallel: ("module", nn.DataParallel.forward),
    nn.parallel.DistributedDataParallel: ("module", nn.parallel.DistributedDataParallel.forward),
}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def has_own_hooks(module: nn.Module) -> bool:
    """Whether a call of a module is more than its forward: its hooks, or those of every module."""
    state = vars(module)
    return torch.nn.modules.module._has_any_global_hook() or any(state[n] for n in _HOOKS)


class _Hooked(nn.Module):
    """A wrapper with hooks of its own, without what it does else: compile, or scatter the batch."""

    def __init__(self, wrapper: nn.Module) -> None:
        super().__init__()
        state = vars(wrapper)
        vars(self).update({n: state[n] for n in vars(self) if n in state})
        self.training = wrapper.training
        self.inside = WRAPPERS[type(wrapper)][0]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, self.inside)(*args, **kwargs)


class _Calls(nn.Module):
    """Calls a module of a kind that PyTorch's functional calls refuse."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.training = module.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    __call__ = forward  # without the hooks of every module, which run for the module inside


def runs_inside(wrapper: nn.Module) -> bool:
    """Whether the forward of a wrapper is the one it was made with."""
    forward = vars(wrapper).get("forward")
    if type(wrapper) is not OptimizedModule:
        return forward is None and type(wrapper).forward is WRAPPERS[type(wrapper)][1]
    if getattr(forward, "__func__", None) is OptimizedModule._call_lazy_check:
        forward = wrapper._forward
    return hasattr(forward, "_torchdynamo_orig_callable")


def unwrap(model: nn.Module) -> nn.Module:
    """The module itself, out of torch.compile's and the data-parallel wrappers.

    A wrapper that does something more, by hooks or another forward, is the model.
    """
    while type(model) in WRAPPERS and runs_inside(model):
        if has_own_hooks(model):
            return _Hooked(model)
        model = getattr(model, WRAPPERS[type(model)][0])
    return _Calls(model) if isinstance(model, nn.DataParallel) else model


def check_model(who: str, model: object) -> nn.Module:
    """Return the plain module to explain, or raise a TypeError that says what to pass."""
    if isinstance(model, torch.jit.ScriptModule):
        raise wrong_type(
            f"{who}: model",
            "must be an nn.Module in Python",
            "a TorchScript module",
            "Pass the module that was scripted.",
        )
    if not isinstance(model, nn.Module):
        raise wrong_type(
            f"{who}: model",
            "must be a torch.nn.Module",
            model,
            "Wrap a function into a module with a forward method.",
        )
    plain = unwrap(model)
    if isinstance(plain, OptimizedModule):
        raise wrong_type(
            f"{who}: model",
            "must be a module, or what torch.compile makes of it",
            "a compiled module with a forward of its own",
            "Pass a module whose forward does the same, not compiled.",
        )
    return plain


def private_copy(model: nn.Module, keep_hooks: bool = False) -> nn.Module:
    """Copy the modules but no parameter or buffer; in eval mode, without hooks that only watch."""
    shared: dict[int, Any] = {}
    for module in model.modules():  # torch.export would change other tensors in place, with forward
        others = [x for x in vars(module).values() if isinstance(x, Tensor)]
        shared.update({id(x): x.detach().clone() for x in others})
    for x in (*model.parameters(), *model.buffers()):
        shared[id(x)] = x
    try:
        twin = copy.deepcopy(model, shared).eval()
    except Exception as error:
        raise ModelError(
            f"The modules of {type(model).__name__} cannot be copied ({error}). xaifast works on a "
            "copy of the modules (never of the weights) to leave yours untouched: give the module "
            "that holds the uncopyable attribute a __deepcopy__ that returns self."
        ) from error
    for module in twin.modules():
        module._backward_hooks.clear()
        module._backward_pre_hooks.clear()
        if not keep_hooks:
            for hooks in (module._forward_hooks, module._forward_pre_hooks):
                for key, hook in list(hooks.items()):
                    if not type(hook).__module__.startswith(REPARAMETRIZATIONS):
                        del hooks[key]
    return twin


def has_hooks(model: nn.Module) -> bool:
    """Whether some module has a forward hook."""
    return any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Copies of a model's parameters and buffers: its code may change them in place."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: x.detach().clone() for name, x in tensors.items()}


def own(args: tuple) -> tuple:
    """Copies of a call's tensors, for the same reason."""
    return tuple(x.detach().clone() if isinstance(x, Tensor) else x for x in args)


def batch_of(args: tuple) -> int:
    """The batch size of a call: of its first tensor."""
    return next(x.shape[0] for x in args if isinstance(x, Tensor))


def fails_itself(model: Any, error: BaseException) -> str:
    """Word that a model cannot be run with the inputs."""
    name = getattr(model, "__name__", type(model).__name__)
    return (
        f"{name} fails on these inputs itself ({first_line(error)}). Check that model(*inputs) "
        "runs with them: the batch as first dimension, of any size; shapes, dtypes and devices."
    )


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of its text."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
