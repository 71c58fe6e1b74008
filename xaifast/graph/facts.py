"""Facts: the canonical graph as a list of nodes, with what is provable about each.

A fact is used to choose a cheaper exact computation (a non-negative input needs one branch of z+)
or to refuse an inexact one (deep Taylor on signed activations); it never changes a result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from . import edit, operations, tokens
from .capture.export import Captured, Leaf
from .node import INF, Node, nodes_in, reached
from .operations import (
    FILLS,
    MAX_POOLS,
    MAXIMA,
    PRODUCTS,
    REARRANGEMENTS,
    SHAPE_ONLY,
    SUMS,
    named,
)
from .proof.independence import rows_apart
from .proof.rehearsal import Script
from .recurrent import layout as recurrent

aten = torch.ops.aten


def _hardtanh(node: Node, low: float, high: float) -> tuple[float, float]:
    _, bottom, top = node.args[:3]
    return bottom, top


def _clamp(node: Node, low: float, high: float) -> tuple[float, float]:
    bottom, top = (*node.args[1:3], None, None)[:2]
    if bottom is not None:
        a, b = _range_of(bottom)
        low, high = max(low, a), max(high, b)
    return (low, high) if top is None else _clamp_max(low, high, top)


def _clamp_max(low: float, high: float, top: Any) -> tuple[float, float]:
    a, b = _range_of(top)
    return min(low, a), min(high, b)


def _fixed(low: float, high: float) -> Callable:
    return lambda node, a, b: (low, high)


# Activation functions, with the range of their output given the range of their input.
ACTIVATIONS: dict[object, Callable[[Node, float, float], tuple[float, float]]] = {
    aten.relu: lambda node, a, b: (max(a, 0.0), max(b, 0.0)),
    aten.relu6: _fixed(0.0, 6.0),
    aten.hardtanh: _hardtanh,
    aten.clamp: _clamp,
    aten.clamp_min: _clamp,
    aten.clamp_max: lambda node, a, b: _clamp_max(a, b, node.args[1]),
    aten.sigmoid: _fixed(0.0, 1.0),
    aten.hardsigmoid: _fixed(0.0, 1.0),
    aten.softplus: _fixed(0.0, INF),
    aten.tanh: lambda node, a, b: (0.0 if a >= 0 else -1.0, 1.0),
    **{
        op: lambda node, a, b: (0.0 if a >= 0 else -INF, INF)
        for op in named(
            "leaky_relu elu selu celu gelu silu mish hardswish hardshrink softshrink rrelu"
        )
    },
    aten.prelu: _fixed(-INF, INF),
    aten.log_sigmoid: _fixed(-INF, 0.0),
}
# These are the ones for which the deep Taylor view of a rectified unit holds.
RECTIFIERS = {"relu", "relu6"}


# ---- one node --------------------------------------------------------------------------------


def _module_of(node: fx.Node) -> str:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return stack[-1][0] if stack else ""


def _source_of(node: fx.Node) -> str:
    """The user's line of code behind a node: 'model.py:12: y = y + x'."""
    lines = (node.meta.get("stack_trace") or "").strip().splitlines()
    frames = [
        (lines[i].strip(), lines[i + 1].strip() if i + 1 < len(lines) else "")
        for i in range(len(lines))
        if lines[i].strip().startswith("File ")
    ]
    own = [f for f in frames if "/torch/nn/" not in f[0] and "/torch/fx/" not in f[0]]
    if not own:
        return ""
    where, code = own[-1]
    file, _, rest = where[len('File "') :].partition('", line ')
    return f"{file.rsplit('/', 1)[-1]}:{rest.split(',')[0]}: {code}"


def _shape(node: fx.Node) -> tuple:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _hint(size: Any) -> int:
    """A size in the example that the model was captured with."""
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)


def _mark_samples(nodes: dict[fx.Node, Node], rows: tuple[bool, ...] | None) -> None:
    """How each value depends on the batch."""
    inputs = [n for n in nodes.values() if n.kind == "input"]
    leading = {n: _shape(node)[:1] for node, n in nodes.items()}
    with_rows = [n for n in inputs if leading[n] and (rows is None or rows[n.leaf.index])]  # type: ignore[union-attr]
    if not with_rows:
        return
    (batch,) = leading[with_rows[0]]
    for node, made in nodes.items():
        shape = _shape(node)
        concrete = all(not isinstance(size, torch.SymInt) for size in shape[1:])
        made.by_sample = bool(shape) and str(shape[0]) == str(batch) and concrete
        made.elements = math.prod(map(_hint, shape)) // max(1, _hint(batch))


def _floating(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def _may_carry(value: Any) -> bool:
    """Whether a value could carry relevance: real or complex numbers, also among several results.

    No rule knows a complex result, or several at once: where one is reached, it is refused.
    """
    if isinstance(value, (list, tuple)):
        return any(_may_carry(v) for v in value)
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _op_name(target: Any) -> str:
    if hasattr(target, "overloadpacket"):
        return target.overloadpacket.__name__
    return getattr(target, "__name__", str(target))


# ---- what kind of node -----------------------------------------------------------------------


def is_product(node: Node) -> bool:
    """Whether node multiplies its input with one constant tensor, other than as a dense layer."""
    if getattr(node.target, "overloadpacket", None) not in PRODUCTS or len(node.inputs) != 1:
        return False
    others = [n for n in nodes_in(node.args) if n is not node.inputs[0]]
    return len(others) == 1 and others[0].constant


def _kind(node: Node, packet: object) -> str:
    """The word that composites match; for an operation without one, its ATen name."""
    count = len(node.inputs)
    if packet in operations.CONVOLUTIONS | operations.TRANSPOSED:
        return "conv" if count == 1 and node.args[1].constant else node.op
    if packet is aten.linear:
        return "linear" if count == 1 and node.args[1].constant else node.op
    if is_product(node):
        return "linear"
    if node.target is operations.cropped:
        return "conv"
    if node.target is operations.with_bias_map:
        return "linear" if node.args[3].overloadpacket is aten.linear else "conv"
    if node.target is operations.affine:
        return "affine"
    if packet in (aten.add, aten.sub):
        return "add" if count == 2 else "affine"
    if packet is aten.mul:
        return "mul" if count == 2 else "affine"
    if packet is aten.div and node.inputs == node.args[:1] and not node.kwargs:
        return "affine"  # by numbers that carry no relevance, such as lengths
    if packet in SUMS:
        return "sum"
    if packet in MAX_POOLS:
        return "max_pool"
    if packet in MAXIMA:
        return "max_reduce" if packet is not aten.maximum or count == 2 else node.op
    if packet in ACTIVATIONS:
        return "activation"
    if packet in REARRANGEMENTS:
        return "rearrange"
    return recurrent.KINDS.get(packet, node.op)


# ---- ranges ----------------------------------------------------------------------------------


def _hull(ranges: list[tuple[float, float]]) -> tuple[float, float]:
    return min((a for a, _ in ranges), default=0.0), max((b for _, b in ranges), default=0.0)


def _times(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    products = [0.0 if 0 in (x, y) else x * y for x in a for y in b]
    return min(products), max(products)


def _range_of(argument: Any) -> tuple[float, float]:
    if isinstance(argument, (int, float)):
        return float(argument), float(argument)
    return (argument.low, argument.high) if isinstance(argument, Node) else (-INF, INF)


def _affine_range(node: Node) -> tuple[float, float]:
    """Bounds of scale x + shift for numbers, and of x + y; a tensor constant has no bounds."""
    if node.target is operations.affine:
        x, scale, shift = (_range_of(0.0 if v is None else v) for v in node.args)
        z = _times(x, scale)
        return z[0] + shift[0], z[1] + shift[1]
    x, y = (_range_of(v) for v in node.args[:2])
    alpha = node.kwargs.get("alpha", 1) * (1 if node.op == "add" else -1)
    y = _times(y, (alpha, alpha))
    return (x[0] + y[0], x[1] + y[1]) if node.op in ("add", "sub") else (-INF, INF)


def _bounds(node: Node, packet: object) -> tuple[float, float]:
    """The provable range of the output."""
    if node.kind == "activation":
        x = _range_of(node.args[0])
        return ACTIVATIONS[packet](node, *x)
    if node.kind in ("affine", "add"):
        return _affine_range(node)
    if node.kind == "mul":
        x, y = (_range_of(v) for v in node.args[:2])
        return (0.0, INF) if node.args[0] is node.args[1] else _times(x, y)
    if node.kind in ("max_pool", "max_reduce"):
        ranges = [_range_of(x) for x in node.inputs]
        return max(a for a, _ in ranges), max(b for _, b in ranges)
    if node.kind == "sum":
        low, _ = _range_of(node.args[0])
        return (0.0 if low >= 0 else -INF), INF
    if node.kind == "rearrange":
        ranges = [_range_of(n) for n in nodes_in(node.args) if n.floating]
        fill = node.args[FILLS[packet]] if packet in FILLS else None
        return _hull([*ranges, _range_of(fill if fill is not None else 0.0)])
    if packet in (aten.abs, aten.exp, aten.square):
        return 0.0, INF
    if packet in (aten.softmax, aten._softmax):
        return 0.0, 1.0
    return -INF, INF


# ---- the graph -------------------------------------------------------------------------------


@dataclass
class ModelGraph:
    """The canonical graph in execution order.

    inputs: one node per argument of the call, in order; output: the node that the model returns;
    outputs_of: module path -> node that holds the module's output, one per call of the module;
    ends: where the relevance of each explained input ends; whole: no path from one is known to be
    cut; apart: whether row i of the output is shown to depend
    on row i of the inputs alone.
    """

    nodes: list[Node]
    inputs: list[Node]
    output: Node
    outputs_of: dict[str, list[Node]]
    rows: tuple[bool, ...] | None  # which arguments hold a row for each sample; None: fixed batch
    traced: bool
    script: Script | None = None  # what the model's code did when it was captured
    ends: list[Node] = field(default_factory=list)
    whole: bool = False
    apart: bool = False

    @property
    def batched(self) -> bool:
        """Whether the graph is valid for any batch size."""
        return self.rows is not None

    @property
    def paths(self) -> list[str]:
        """Paths of the parameters that the graph reads."""
        return [n.leaf.path for n in self.nodes if n.leaf is not None and n.leaf.path]


def module_outputs(graph: fx.Graph) -> list[tuple[str, fx.Node]]:
    """(path, node) for each call of a module: the last node whose value leaves the module."""
    calls: dict[str, tuple[str, fx.Node]] = {}
    for node in graph.nodes:
        stack = node.meta.get("nn_module_stack") or {}
        for call, (path, _) in stack.items():
            leaves = any(call not in (u.meta.get("nn_module_stack") or {}) for u in node.users)
            if node.op == "call_function" and leaves:
                calls[call] = (path, node)
    return list(calls.values())


def _survivors(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Erased node -> the node that stands for it now."""
    survivors = {}
    for node in graph.nodes:
        for gone in node.meta.get("absorbed", []):
            survivors[gone] = node
    return survivors


def _new_node(node: fx.Node, leaf: Leaf | None, known: dict[fx.Node, Node]) -> Node:
    args: Any
    kwargs: Any
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)  # type: ignore[arg-type]
    target = node.target if node.op == "call_function" else None
    return Node(
        name=node.name,
        kind="",
        op=_op_name(target) if target else leaf.kind,  # type: ignore[union-attr]
        target=_runnable(target),
        args=tuple(args),
        kwargs=dict(kwargs),
        leaf=leaf,
        module=_module_of(node),
        source=_source_of(node),
        shape=_shape(node)[1:],
        floating=_floating(node),
    )


def _mark_leaf(node: Node, explained: int) -> None:
    node.kind = node.leaf.kind  # type: ignore[union-attr]
    node.constant = node.kind != "input"
    asked = node.kind == "input" and node.leaf.index < explained  # type: ignore[union-attr]
    node.carries = asked and node.floating
    if asked and not node.floating:
        node.tokens = frozenset([node])


def _mark_call(node: Node, packet: object, value: Any) -> None:
    """Whether relevance passes, and the kind and range that follow."""
    operands = node.operands
    node.constant = all(n.constant for n in operands)
    if packet not in SHAPE_ONLY and _mark_tokens(node, packet, value):
        return
    if _may_carry(value) and packet not in SHAPE_ONLY:
        node.inputs = tuple(n for n in operands if n.carries)
    node.carries = bool(node.inputs)
    if node.inputs:
        node.kind = _kind(node, packet)
        node.low, node.high = _bounds(node, packet)
    else:
        node.kind = "constant" if node.constant else "value"


def _mark_tokens(node: Node, packet: object, value: Any) -> bool:
    """Whether a node reads or moves token numbers; and which it mixes."""
    if isinstance(value, bool) or (isinstance(value, Tensor) and value.dtype == torch.bool):
        return False  # a mask says where something is
    read: tuple[Node, ...] = ()
    if isinstance(value, Tensor):
        read = tokens.read_by(node, packet, packet in REARRANGEMENTS)
    held: frozenset[Node] = frozenset(i for x in read for i in x.tokens)
    places = tokens.places_of(node, packet)
    for x in node.operands:
        if x not in places:
            node.mixed.update(tokens.still_mixed(node, packet, x))
            node.mixed.update({i: node for i in x.tokens - held})
            if x.carries and isinstance(value, Tensor) and not node.floating:
                node.mixed[x] = node  # values made to integers
    if not read:
        return False
    node.inputs, node.carries = read, node.floating
    node.kind = "source" if node.floating else "tokens"
    node.tokens = frozenset() if node.floating else held
    return True


def _runnable(target: Any) -> Any:
    """The function to call at run time: a view may not fit the layout that we run in."""
    if target is None:
        return None
    if getattr(target, "overloadpacket", None) in (aten.view, aten._unsafe_view):
        return aten.reshape.default
    return target


def read_values(node: Node) -> tuple[Node, ...]:
    """The operands whose values a node depends on."""
    shape_only = getattr(node.target, "overloadpacket", node.target) in SHAPE_ONLY
    return () if shape_only else node.operands


def _end_of(x: Node, output: Node) -> Node:
    """Where the relevance of an input ends: at itself, or at what reads its tokens one for one.

    That is then a source of relevance of its own, [N, length, features] for an embedding.
    """
    if x.floating:
        return x
    above = [n for n in reached(output, lambda n: n.inputs) if n.kind == "source"]
    sources = [n for n in above if x in reached(n, lambda n: n.inputs)]
    if len(sources) != 1:
        return x
    (source,) = sources
    node = source
    while node is not x:
        if not tokens.keeps_places(node):
            return x
        (node,) = node.inputs
    source.inputs = ()
    return source


def _mark_positions(nodes: list[Node]) -> None:
    """First, last and depth of each node, counted in layers with weights."""
    weighted = [n for n in nodes if n.kind in ("conv", "linear")]
    above: set[Node] = set()  # nodes with a weighted layer between them and an input
    for node in nodes:
        if any(i in above or i.kind in ("conv", "linear") for i in node.inputs):
            above.add(node)
    below: set[Node] = set()  # nodes with a weighted layer between them and the output
    for node in reversed(nodes):
        if any(u in below or u.kind in ("conv", "linear") for u in node.users):
            below.add(node)
    seen = 0
    for node in nodes:
        node.first, node.last = node not in above, node not in below
        node.depth = seen / max(1, len(weighted))
        seen += node.kind in ("conv", "linear")


def build_graph(
    captured: Captured,
    calls: list[tuple[str, fx.Node]],
    types: dict[str, type],
    explained: int,
) -> ModelGraph:
    """Turn the canonical fx graph into nodes with their facts.

    Parameters
    ----------
    captured : canonized.
    calls : `module_outputs` of the graph before it was canonized.
    types : module path -> type of the user's module.
    explained : how many of the inputs (the first ones) relevance is asked for.
    """
    known: dict[fx.Node, Node] = {}
    for node in captured.graph.nodes:
        if node.op == "output":
            continue
        leaf = captured.leaves.get(node.name) if node.op == "placeholder" else None
        made = known[node] = _new_node(node, leaf, known)
        made.module_type = types.get(made.module)
        if leaf is not None:
            _mark_leaf(made, explained)
        else:
            _mark_call(made, edit.packet(node), node.meta.get("val"))
    output = next(n for n in captured.graph.nodes if n.op == "output").args[0]
    nodes = list(known.values())
    inputs = sorted((n for n in nodes if n.kind == "input"), key=lambda n: n.leaf.index)  # type: ignore[union-attr]
    ends = [_end_of(x, known[output]) for x in inputs[:explained]]
    for node in nodes:
        for x in node.inputs:
            x.users.append(node)
    _mark_positions(nodes)
    _mark_samples(known, captured.rows)
    survivors = _survivors(captured.graph)
    outputs_of: dict[str, list[Node]] = {}
    for path, node in calls:
        while node in survivors:
            node = survivors[node]
        if node in known:
            outputs_of.setdefault(path, []).append(known[node])
    rows = captured.rows
    leaves = {n.name: n.leaf.index for n in inputs}  # type: ignore[union-attr]
    apart = rows is not None and rows_apart(
        captured.graph, {name: rows[i] for name, i in leaves.items()}
    )
    traced = captured.traced
    return ModelGraph(
        nodes, inputs, known[output], outputs_of, rows, traced, ends=ends, apart=apart
    )
