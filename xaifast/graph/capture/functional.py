"""Functional graphs: calls that change a tensor in place become calls that return a new one.

`run_decompositions` does so for every graph by tracing it once more, which takes two thirds of a
capture. Most graphs need less: nothing, or a ReLU, a sum or a count in place, of memory that has
one name only. A graph that is not shown to be of that kind goes the long way.
"""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten

OF_SIZES = {operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv}
# Change running statistics, or draw, where this argument is true; no schema tells the first.
IN_TRAINING = {
    aten.batch_norm: 5, aten.instance_norm: 5, aten.dropout: 2, aten.feature_dropout: 2,
    aten.alpha_dropout: 2, aten.feature_alpha_dropout: 2, aten.rrelu: 3,
    aten.scaled_dot_product_attention: 4,
}  # fmt: skip
# Composed of other operations, and yet never what they were given; `dropout` may return its input.
MADE_ANEW = {
    aten.conv1d, aten.conv2d, aten.conv3d, aten.conv_transpose1d, aten.conv_transpose2d,
    aten.conv_transpose3d, aten.linear, aten.matmul, aten.batch_norm, aten.instance_norm,
    aten.group_norm, aten.layer_norm, aten.max_pool1d, aten.max_pool2d, aten.max_pool3d,
}  # fmt: skip
# Views that are composed of others; these are known under their own names, as they are spelled.
VIEWS = {
    aten.reshape, aten.flatten, aten.unflatten, aten.narrow, aten.contiguous, aten.chunk, aten.to,
    aten.expand_as, aten.movedim,
}  # fmt: skip

# Their results have not the dtype of their first operand, or not its shape.
OTHER_DTYPE = {
    o
    for packet in (
        aten.eq, aten.ne, aten.lt, aten.le, aten.gt, aten.ge, aten.logical_and, aten.logical_or,
        aten.logical_xor, aten.logical_not, aten.copy, aten.set, aten.resize,
    )
    for o in (getattr(packet, name) for name in packet.overloads())
}  # fmt: skip


def functional(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program without calls that change tensors, blocks of other modes, and draws."""
    calls = [n for n in program.graph.nodes if n.op not in ("placeholder", "output")]
    if _returns_only(program) and all(_is_plain(n) for n in calls):
        changed = [n for n in calls if _changes(n)]
        own = _unshared(program) if changed else set()
        written = [n for n in changed if _is_written_back(n, own)]
        changed = [n for n in changed if n not in written]
        if all(_has_one_name(n, own) for n in changed):
            for node in written:
                program.graph.erase_node(node)
            for node in changed:
                _return_anew(node)
            return program
    return program.run_decompositions({})


def _returns_only(program: torch.export.ExportedProgram) -> bool:
    """Whether nothing goes out of the program but what the model returns."""
    kind = torch.export.graph_signature.OutputKind.USER_OUTPUT
    return all(spec.kind is kind for spec in program.graph_signature.output_specs)


def _is_plain(node: fx.Node) -> bool:
    """Whether a node calls one operation of PyTorch, which draws nothing."""
    target: Any = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return node.op == "call_function" and target in OF_SIZES
    views = any(r.alias_info is not None for r in target._schema.returns)
    if views and target._can_decompose() and target.overloadpacket not in VIEWS:
        return False
    flag = IN_TRAINING.get(target.overloadpacket)
    if flag is not None:
        return not node.kwargs and not any(node.args[flag : flag + 1])
    return torch.Tag.nondeterministic_seeded not in target.tags


def _changes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _returning(target: Any) -> Any:
    """The operation that returns what this one writes into its first operand, or None."""
    name = target.overloadpacket.__name__
    packet = getattr(aten, name[:-1], None) if name.endswith("_") else None
    return getattr(packet, target._overloadname, None)


def _is_fresh(target: Any) -> bool:
    """Whether the result of an operation is memory of its own."""
    if not isinstance(target, torch._ops.OpOverload):
        return False
    if target._can_decompose():  # its schema need not tell that it returns what it was given
        return target.overloadpacket in MADE_ANEW
    return all(r.alias_info is None for r in target._schema.returns)


def _unshared(program: torch.export.ExportedProgram) -> set[str]:
    """The placeholders of the model's own tensors that share no memory with another one."""
    kinds = torch.export.graph_signature.InputKind
    tensors = {**program.constants, **program.state_dict}
    own = {
        spec.arg.name: tensors[spec.target].untyped_storage()._cdata
        for spec in program.graph_signature.input_specs
        if spec.kind is not kinds.USER_INPUT and isinstance(tensors.get(spec.target), Tensor)
    }
    times = Counter(own.values())
    return {name for name, storage in own.items() if times[storage] == 1}


def _is_written_back(node: fx.Node, own: set[str]) -> bool:
    """Whether a call only stores, in a tensor of the model, what nobody reads in this run."""
    x = node.args[0]
    if node.target is not aten.copy_.default or node.users or not isinstance(x, fx.Node):
        return False
    return x.op == "placeholder" and x.name in own and not any(u > node for u in x.users)


def _has_one_name(node: fx.Node, own: set[str]) -> bool:
    """Whether a call in place writes memory that no other tensor of the graph shares.

    own: placeholders that are known not to.

    All tensors have one dtype and the call is no comparison, so that the operation that returns
    its result gives that dtype, too.
    """
    x = node.args[0]
    if not isinstance(x, fx.Node) or _returning(node.target) in (None, *OTHER_DTYPE):
        return False
    if x.op == "placeholder" and x.name not in own:
        return False
    if x.op == "call_function" and not (_is_fresh(x.target) or _changes(x)):
        return False
    if not all(_changes(u) or _is_fresh(u.target) for u in x.users):
        return False
    value, others = x.meta["val"], [n.meta["val"] for n in node.all_input_nodes]
    numbers = [a for a in node.args[1:] if isinstance(a, float)]
    return (value.is_floating_point() or not numbers) and all(
        isinstance(v, Tensor) and v.dtype == value.dtype for v in others
    )


def _return_anew(node: fx.Node) -> None:
    """Let a call return what it wrote; what reads the memory after it, reads that."""
    x = node.args[0]
    node.target = _returning(node.target)
    x.replace_all_uses_with(node, delete_user_cb=lambda user: user > node)
