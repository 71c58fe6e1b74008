"""Flat: a run of the rules, recorded as one graph of tensor operations without Python in between.

The rules are played once on tensors without data; what they call is written down, autograd
included. What comes out is an `fx.GraphModule` that can be compiled, exported, or captured in a
CUDA graph: any branch on a value would have failed while it was recorded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._decomp import get_decompositions
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from ..errors import ModelError, wrong_value
from .capture.export import EXAMPLE_BATCH
from .capture.modules import first_line
from .capture.quiet import quiet

aten = torch.ops.aten

# Filled tensors depend on nothing but their size, though they are made from some other tensor.
FILLED: Any = get_decompositions([
    aten.new_zeros, aten.new_ones, aten.new_full, aten.zeros_like, aten.ones_like, aten.full_like,
])  # fmt: skip


def count(x: Tensor) -> int:
    """How many numbers x holds."""
    return x.numel()


# What is recorded under another name: tensors without data do not always foretell the layout of
# those with, so that a view may not fit; Dynamo knows no sym_numel.
SPELLED = {
    aten.view.default: aten.reshape.default,
    aten._unsafe_view.default: aten.reshape.default,
    aten.sym_numel.default: count,
}


@dataclass(frozen=True)
class Argument:
    """An argument of the graph: its name, an example, and whether it has a row for each sample."""

    name: str
    example: Tensor
    rows: bool


def expect(x: Tensor, name: str, sizes: tuple[int | None, ...], dtype: torch.dtype) -> Tensor:
    """x itself, if it has the sizes (None: any) and the dtype that the graph was recorded for."""
    fits = x.dim() == len(sizes) and x.dtype == dtype
    if not fits or any(
        size is not None and n != size for n, size in zip(x.shape, sizes, strict=True)
    ):
        shown = ", ".join("N" if size is None else str(size) for size in sizes)
        raise wrong_value(
            name, f"must have the shape [{shown}] and the dtype {dtype} it was recorded for", x,
            "Record another graph for others.",
        )  # fmt: skip
    return x


# ---- recording ---------------------------------------------------------------------------------


def _fake(mode: FakeTensorMode, x: Tensor, rows: bool) -> FakeTensor:
    """A contiguous tensor without data like x, of any number of rows or of as many."""
    if not rows:
        return mode.from_tensor(x.contiguous(), static_shapes=True)
    sizes = [DimDynamic.DUCK, *[DimDynamic.STATIC] * (x.dim() - 1)]
    example = x.new_empty((EXAMPLE_BATCH, *x.shape[1:]))
    context: StatelessSymbolicContext = StatelessSymbolicContext(dynamic_sizes=sizes)
    return mode.from_tensor(example, symbolic_context=context)


def _recorded(run: Callable, examples: tuple[list, list], dynamic: list[bool]) -> fx.GraphModule:
    """run(leaves, arguments) as a functional graph; its placeholders are both, flattened."""
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    leaves = [mode.from_tensor(x, static_shapes=True) for x in examples[0]]
    arguments = [_fake(mode, x, rows) for x, rows in zip(examples[1], dynamic, strict=True)]
    with mode:
        graph = make_fx(run)(leaves, arguments)
        functional = torch.func.functionalize(graph)  # nothing is written to: constants stay
        graph = make_fx(functional, decomposition_table=FILLED)(leaves, arguments)
    symbols = mode.shape_env
    fixed = any(
        rows and not isinstance(x.shape[0], torch.SymInt)
        for x, rows in zip(arguments, dynamic, strict=True)
    )
    if fixed or (symbols is not None and (symbols.guards or symbols.replacements)):
        raise ModelError("holds for one batch size only")
    return graph


def record(
    run: Callable[[list[Tensor], list[Tensor]], tuple[Tensor, ...]],
    leaves: list[Tensor],
    arguments: list[Argument],
    single: bool,
) -> fx.GraphModule:
    """Record what run(leaves, arguments) computes.

    Parameters
    ----------
    run : without a branch on the value of a tensor.
    leaves : the model's parameters, buffers and constants.
    arguments : of any number of rows where that is how the run can be recorded.
    single : whether the one result is returned by itself.

    Returns
    -------
    fx.GraphModule
        Takes the arguments, returns what run returns, and reads the leaves in place.

    Raises
    ------
    ModelError
        If something asks for the value of a tensor.
    """
    examples = (leaves, [a.example for a in arguments])
    rows = [a.rows for a in arguments]
    try:
        with quiet():
            graph = _recorded(run, examples, rows)
    except Exception as some:
        try:
            rows = [False] * len(arguments)
            with quiet():
                graph = _recorded(run, examples, rows)
        except Exception as error:
            raise ModelError(
                f"This explanation cannot be recorded as a graph of tensor operations: "
                f"{first_line(error)} (for any batch size: {first_line(some)}). A rule, or a "
                "hook, may ask for the value of a tensor. Use attribute."
            ) from error
    return _readable(graph, leaves, arguments, rows, single)


def _readable(
    graph: fx.GraphModule,
    leaves: list[Tensor],
    arguments: list[Argument],
    dynamic: list[bool],
    single: bool,
) -> fx.GraphModule:
    """The graph as a module that checks its arguments by name and holds the leaves as buffers."""
    root = nn.Module()
    new = fx.Graph()
    known: dict[fx.Node, Any] = {}
    placeholders = [n for n in graph.graph.nodes if n.op == "placeholder"]
    for node, x in zip(placeholders[len(leaves) :], arguments, strict=True):
        known[node] = new.placeholder(re.sub(r"\W+", "_", x.name).strip("_"))
    for node, x, rows in zip(placeholders[len(leaves) :], arguments, dynamic, strict=True):
        sizes = tuple(None if rows and i == 0 else n for i, n in enumerate(x.example.shape))
        checked = new.call_function(expect, (known[node], x.name, sizes, x.example.dtype))
        plain = new.call_function(aten.detach.default, (checked,))
        known[node] = new.call_function(aten.contiguous.default, (plain,))
    for i, (node, leaf) in enumerate(zip(placeholders, leaves, strict=False)):
        if node.users:
            root.register_buffer(f"w{i}", leaf, persistent=False)
            known[node] = new.get_attr(f"w{i}")
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            root.register_buffer(node.target, getattr(graph, node.target), persistent=False)
            known[node] = new.get_attr(node.target)
        elif node.op == "call_function":
            known[node] = new.node_copy(node, known.__getitem__)
            known[node].target = SPELLED.get(node.target, node.target)
        elif node.op == "output":
            results = tuple(known[n] for n in node.args[0])
            new.output(results[0] if single else results)
    new.eliminate_dead_code()
    return fx.GraphModule(root, new, "Explanation")


# ---- what depends on parameters only ------------------------------------------------------------


@dataclass
class Split:
    """A recorded graph in two: what depends on its buffers alone, and the rest."""

    prepare: fx.GraphModule
    run: fx.GraphModule

    @property
    def sources(self) -> list[Tensor]:
        """The buffers from which something is derived."""
        read = {str(n.target) for n in self.prepare.graph.nodes if n.op == "get_attr"}
        return [x for name, x in self.prepare.named_buffers() if name in read]

    def refresh(self) -> None:
        """Derive the weights again, into the memory where they are."""
        fresh = self.prepare()
        for name, value in zip(self._names(), fresh, strict=True):
            held = getattr(self.run, name)
            if isinstance(held, Tensor) and held.data_ptr() != value.data_ptr():
                held.copy_(value)

    def _names(self) -> list[str]:
        return [n for n, _ in self.run.named_buffers() if n.startswith("derived")]


def _writable(x: Tensor) -> Tensor:
    """X, expanded ones in memory of their own."""
    return x.contiguous() if any(s == 0 for s in x.stride()) else x


def split(graph: fx.GraphModule) -> Split:
    """Take out of a recorded graph what depends on its buffers alone."""
    constant: set[fx.Node] = set()
    for node in graph.graph.nodes:
        depends = node.all_input_nodes
        fixed = node.op == "get_attr" or (
            node.op == "call_function" and all(n in constant for n in depends)
        )
        if fixed:
            constant.add(node)
    needed = [
        n for n in graph.graph.nodes
        if n in constant and n.op != "get_attr" and any(u not in constant for u in n.users)
    ]  # fmt: skip
    prepare = fx.Graph()
    known: dict[fx.Node, Any] = {}
    for node in graph.graph.nodes:
        if node in constant:
            known[node] = prepare.node_copy(node, known.__getitem__)
    prepare.output(tuple(known[n] for n in needed))
    prepare.eliminate_dead_code()
    made = fx.GraphModule(graph, prepare, "Derived")
    root = nn.Module()
    for name, x in graph.named_buffers():
        root.register_buffer(name, x, persistent=False)
    main = fx.Graph()
    known = {}
    for i, (node, value) in enumerate(zip(needed, made(), strict=True)):
        root.register_buffer(f"derived{i}", _writable(value), persistent=False)
        known[node] = main.get_attr(f"derived{i}")
    for node in graph.graph.nodes:
        if node.op == "output":  # the caller's own, not ours
            for n in needed:
                if node in n.users:
                    known[n] = main.call_function(aten.clone.default, (known[n],))
        if node not in constant or node.op == "get_attr":
            known[node] = main.node_copy(node, known.__getitem__)
    main.eliminate_dead_code()
    return Split(made, fx.GraphModule(root, main, "Explanation"))
