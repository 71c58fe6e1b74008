"""Capture: a user's model and example inputs -> a functional graph of ATen operations.

`torch.export` gives a graph in which functional calls, in-place calls, residual adds and reused
modules are ordinary nodes, with the path of the module and the line of code behind each. It works
on a private copy of the model that shares every parameter and buffer, so the user's model is
not touched. Where the Python code of the model depends on the data, a trace of the given input is
taken instead; it is checked against the model at every call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from ...errors import ModelError
from ..node import Leaf
from ..recurrent.opaque import OneCall, spell_out
from ..recurrent.packing import Padded
from .functional import functional
from .modules import batch_of, has_hooks, own, own_tensors, private_copy

# A batch size that no other dimension is likely to have: export must not tie the batch to one.
EXAMPLE_BATCH = 11
LARGEST = 2**31  # a batch that must be smaller than this is not free


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
    program = functional(program)
    spell_out(program.graph)
    return program


def _is_tensor_at(model: nn.Module | None, path: str) -> bool:
    """Whether a plain attribute of some module holds a tensor."""
    owner: Any = model
    for name in path.split("."):
        owner = getattr(owner, name, None)
    return isinstance(owner, Tensor)


def _leaves(program: torch.export.ExportedProgram, model: nn.Module | None) -> dict[str, Leaf]:
    """The leaves that the placeholders of an exported program stand for."""
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
    """Whether the batch of every tensor argument stayed symbolic, and may have any size."""
    leaf = torch.export.graph_signature.InputKind.USER_INPUT
    names = {s.arg.name for s in program.graph_signature.input_specs if s.kind is leaf}
    values = [n.meta["val"] for n in program.graph.nodes if n.name in names]
    flat = [x for x in torch.utils._pytree.tree_leaves(args)]
    bounded = any(r.lower > 2 or r.upper < LARGEST for r in program.range_constraints.values())
    return not bounded and all(
        isinstance(v.shape[0], torch.SymInt) and v.shape[0].node.maybe_as_int() is None
        for x, v in zip(flat, values, strict=True)
        if isinstance(x, Tensor) and x.dim() and x.shape[0] == batch
    )


def _finish(
    program: torch.export.ExportedProgram, model: nn.Module, rows: tuple[bool, ...] | None
) -> Captured:
    return Captured(_output(program), _leaves(program, model), rows, traced=False)


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
