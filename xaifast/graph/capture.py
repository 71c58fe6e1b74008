"""Capture: a user's model and example inputs -> a functional graph of ATen operations.

`torch.export` gives a graph in which functional calls, in-place calls, residual adds and reused
modules are ordinary nodes, with the path of the module and the line of code behind each. It works
on a private copy of the model that shares every parameter and buffer, so the user's model is
not touched. Where the Python code of the model depends on the data, a trace of the given input is
taken instead; it is checked against the model at every call.
"""

from __future__ import annotations

import copy
import inspect
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.export._trace
from torch import Tensor, fx, nn
from torch._dynamo.eval_frame import OptimizedModule

from ..errors import ModelError, wrong_type
from .opaque import OneCall, spell_out
from .packing import Padded

# A batch size that no other dimension is likely to have: export must not tie the batch to one.
EXAMPLE_BATCH = 11
# Hooks that compute a module's weights; without them the module has none.
REPARAMETRIZATIONS = ("torch.nn.utils.",)


@dataclass(frozen=True)
class Leaf:
    """What a placeholder of the graph stands for."""

    kind: str  # "parameter" (also buffers and other tensors of modules), "constant" or "input"
    path: str = ""  # of a parameter, in the user's model
    value: Any = None  # of a constant
    index: int = -1  # of an input, in the order of the call


@dataclass(frozen=True)
class Captured:
    """A model as a graph of ATen operations on leaves.

    graph: functional, one output; leaves: placeholder name -> what it stands for; rows: which
    arguments hold one row for each sample, in a graph that is valid for any batch size (None: only
    for that of the example); traced: valid only for inputs that take the example's path through
    the model's Python code.
    """

    graph: fx.Graph
    leaves: dict[str, Leaf]
    rows: tuple[bool, ...] | None
    traced: bool


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


class _Hush(logging.Filter):
    """Drops warnings, log records and prints of the threads that capture, and of no other.

    Nothing of the process is redirected or set to another level: other threads write and warn as
    ever, and whatever order threads end in, what they leave behind is what they found.
    """

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[int] = []
        self.lock = threading.Lock()
        # An entry of warnings.filters: (action, message, category, module, line).
        self.entry: Any = ("ignore", self, Warning, None, 0)

    def covers_this_thread(self) -> bool:
        return threading.get_ident() in self.threads

    def match(self, text: str) -> bool:
        """As a pattern for the message of a warning."""
        return self.covers_this_thread()

    def filter(self, record: logging.LogRecord) -> bool:
        return not self.covers_this_thread()

    def print(self, *args: Any, **options: Any) -> None:
        """As the function of that name in modules of PyTorch that print what has failed."""
        if not self.covers_this_thread():
            print(*args, **options)

    def __enter__(self) -> None:
        with self.lock:
            self.threads.append(threading.get_ident())
            if self.entry not in warnings.filters[:1]:
                warnings.filters.insert(0, self.entry)  # type: ignore[attr-defined]
            for logger in _loggers():
                logger.addFilter(self)

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.threads.remove(threading.get_ident())
            if self.threads:
                return
            while self.entry in warnings.filters:
                warnings.filters.remove(self.entry)  # type: ignore[attr-defined]
            for logger in _loggers():
                logger.removeFilter(self)


def _loggers() -> list[logging.Logger]:
    """Those of torch.export and what it is made of."""
    names = ("torch.export", "torch._export", "torch.fx")
    known = logging.Logger.manager.loggerDict
    below = [n for n in list(known) if n.startswith(tuple(f"{name}." for name in names))]
    return [logging.getLogger(name) for name in (*names, *below)]


_hush = _Hush()
for _module in (torch.export._trace, torch.fx.graph_module):  # a failed export prints its graph
    vars(_module).setdefault("print", _hush.print)


@contextmanager
def quiet():
    """No gradient recording, no warnings, log lines and prints of torch.export, in this thread."""
    with torch.no_grad(), _hush:
        yield


def _example(x: Any, batch: int) -> Any:
    """Stand in for x with another batch size; what has no batch stays."""
    if isinstance(x, Tensor) and x.dim() and x.shape[0] == batch:
        return x.new_zeros((EXAMPLE_BATCH, *x.shape[1:]))
    return x


def _dynamic_shapes(model: nn.Module, args: tuple, batch: int) -> dict[str, Any]:
    """The batch of every tensor argument is symbolic; keyed by argument names, as export asks."""
    bound = inspect.signature(model.forward).bind(*args)

    def spec(x: Any) -> Any:
        if isinstance(x, tuple):
            return tuple(spec(y) for y in x)
        if isinstance(x, Tensor):
            return {0: torch.export.Dim.AUTO} if x.dim() and x.shape[0] == batch else None
        return None

    return {name: spec(value) for name, value in bound.arguments.items()}


def _export(
    model: nn.Module, args: tuple, dynamic_shapes: Any = None
) -> torch.export.ExportedProgram:
    with OneCall():
        program = torch.export.export(model, args, dynamic_shapes=dynamic_shapes, strict=False)
    program = program.run_decompositions({})
    spell_out(program.graph)
    return program


def _is_tensor_at(model: nn.Module | None, path: str) -> bool:
    """Whether a plain attribute of some module holds a tensor."""
    owner: Any = model
    for name in path.split("."):
        owner = getattr(owner, name, None)
    return isinstance(owner, Tensor)


def _leaves(program: torch.export.ExportedProgram, model: nn.Module | None) -> dict[str, Leaf]:
    """What the placeholders of an exported program stand for."""
    kinds = torch.export.graph_signature.InputKind
    leaves: dict[str, Leaf] = {}
    inputs = 0
    for spec in program.graph_signature.input_specs:
        if spec.kind in (kinds.PARAMETER, kinds.BUFFER):
            leaf = Leaf("parameter", path=spec.target)
        elif spec.kind is kinds.USER_INPUT:
            leaf = Leaf("input", index=inputs)
            inputs += 1
        elif _is_tensor_at(model, spec.target):  # read anew at every call, as parameters are
            leaf = Leaf("parameter", path=spec.target)
        else:
            leaf = Leaf("constant", value=program.constants[spec.target])
        leaves[spec.arg.name] = leaf
    return leaves


def _output(program: torch.export.ExportedProgram) -> fx.Graph:
    """The graph, with the one tensor that the model returns as its output."""
    kinds = torch.export.graph_signature.OutputKind
    specs = [s for s in program.graph_signature.output_specs if s.kind is kinds.USER_OUTPUT]
    graph = program.graph
    out = next(n for n in graph.nodes if n.op == "output")
    names = [getattr(n, "name", None) for n in out.args[0]]
    structure = program.call_spec.out_spec
    if len(specs) != 1 or structure is None or not structure.is_leaf():
        raise ModelError(
            f"The model must return one tensor; it returns {len(specs)} values as {structure}. "
            "Wrap it: class Only(nn.Module) with a forward that returns the tensor to explain, "
            'such as self.model(x)["out"] or self.model(x)[0].'
        )
    keep = out.args[0][names.index(specs[0].arg.name)]
    out.args = (keep,)
    return graph


def _is_batched(program: torch.export.ExportedProgram, args: tuple, batch: int) -> bool:
    """Whether the batch of every tensor argument stayed symbolic."""
    leaf = torch.export.graph_signature.InputKind.USER_INPUT
    names = {s.arg.name for s in program.graph_signature.input_specs if s.kind is leaf}
    values = [n.meta["val"] for n in program.graph.nodes if n.name in names]
    flat = [x for x in torch.utils._pytree.tree_leaves(args)]
    return all(
        isinstance(v.shape[0], torch.SymInt)
        for x, v in zip(flat, values, strict=True)
        if isinstance(x, Tensor) and x.dim() and x.shape[0] == batch
    )


def _finish(
    program: torch.export.ExportedProgram, model: nn.Module, rows: tuple[bool, ...] | None
) -> Captured:
    return Captured(_output(program), _leaves(program, model), rows, traced=False)


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Copies of a model's parameters and buffers: its code may change them in place."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: x.detach().clone() for name, x in tensors.items()}


def own(args: tuple) -> tuple:
    """Copies of a call's tensors, for the same reason."""
    return tuple(x.detach().clone() if isinstance(x, Tensor) else x for x in args)


def _trace(model: nn.Module, args: tuple) -> Captured:
    """Record the operations that this very input runs through."""
    from torch.fx.experimental.proxy_tensor import make_fx

    tensors = own_tensors(model)
    paths = list(tensors)

    def run(*flat: Any) -> Any:
        weights = dict(zip(paths, flat[: len(paths)], strict=True))
        return torch.func.functional_call(model, weights, flat[len(paths) :])

    flat = (*tensors.values(), *own(args))
    recorder = make_fx(
        run, pre_dispatch=True, tracing_mode="real", _error_on_data_dependent_ops=False
    )
    recorded = recorder(*flat)
    for node in reversed(recorded.graph.nodes):  # what only the Python code looked at
        if node.op == "call_function" and not node.users:
            recorded.graph.erase_node(node)
    recorded.recompile()
    program = _export(recorded, flat)
    leaves = {}
    for name, leaf in _leaves(program, None).items():
        if leaf.kind == "input" and leaf.index < len(paths):
            leaves[name] = Leaf("parameter", path=paths[leaf.index])
        elif leaf.kind == "input":
            leaves[name] = Leaf("input", index=leaf.index - len(paths))
        else:
            leaves[name] = leaf
    return Captured(_output(program), leaves, rows=None, traced=True)


def ways(
    model: nn.Module, args: tuple, packs: bool
) -> Iterator[tuple[str, Callable[[], Captured]]]:
    """Ways to capture `model(*args)`, the most general first: (name, call).

    packs: whether it packs sequences, which are then captured padded.
    """
    batch = batch_of(args)

    def copied(keep_hooks: bool) -> tuple[nn.Module, AbstractContextManager]:
        twin = private_copy(model, keep_hooks)
        if not packs:
            return twin, nullcontext()
        padded = Padded()
        return padded.prepare(twin), padded

    def batched(keep_hooks: bool) -> Captured:
        example = tuple(_example(x, batch) for x in args)
        rows = tuple(isinstance(x, Tensor) and x.dim() > 0 and len(x) == batch for x in args)
        twin, mode = copied(keep_hooks)
        with mode:
            program = _export(twin, example, _dynamic_shapes(twin, example, EXAMPLE_BATCH))
        if not _is_batched(program, example, EXAMPLE_BATCH):
            raise ModelError("the model fixes its batch size")
        return _finish(program, twin, rows)

    def fixed(keep_hooks: bool) -> Captured:
        twin, mode = copied(keep_hooks)
        with mode:
            program = _export(twin, args)
        return _finish(program, twin, rows=None)

    def traced() -> Captured:
        twin, mode = copied(keep_hooks=True)
        with mode:
            return _trace(twin, args)

    hooks = (False, True) if has_hooks(model) else (False,)
    for keep in hooks:
        yield "symbolic batch", partial(batched, keep)
    for keep in hooks:
        yield "fixed batch", partial(fixed, keep)
    yield "trace", traced


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
