"""Edits of an fx graph: calls put in and taken out, with their place in the model kept."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx

aten = torch.ops.aten

# Kept through folding, so that a node can tell the user where it comes from.
ORIGIN = ("nn_module_stack", "stack_trace")


def packet(node: fx.Node) -> object:
    """The operation of a node without its overload: aten.add for aten.add.Tensor."""
    return getattr(node.target, "overloadpacket", node.target)


def is_call(node: object, *targets: object) -> bool:
    """Whether node calls one of the operations."""
    return isinstance(node, fx.Node) and node.op == "call_function" and packet(node) in targets


def complete(node: fx.Node) -> None:
    """Give every argument of an ATen call by position, defaults included."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None:
        return
    kwargs = dict(node.kwargs)
    args = list(node.args)
    for argument in schema.arguments[len(args) :]:
        if argument.kwarg_only:
            break
        args.append(kwargs.pop(argument.name, argument.default_value))
    node.args, node.kwargs = tuple(args), kwargs


def emit(
    before: fx.Node,
    target: Callable,
    *args: object,
    origin: fx.Node | None = None,
    value: Tensor | None = None,
) -> fx.Node:
    """Insert a call, with the origin's place in the model and its shape where it is known.

    value: of that shape, for a call that cannot be run on tensors of symbolic sizes.
    """
    with before.graph.inserting_before(before):
        node = before.graph.call_function(target, args)
    complete(node)
    source = origin or before
    node.meta.update({key: source.meta[key] for key in ORIGIN if key in source.meta})
    if value is not None:
        node.meta["val"] = value
    elif all("val" in n.meta for n in node.all_input_nodes):
        fake = fx.node.map_arg(args, lambda n: n.meta["val"])
        with torch.no_grad():
            node.meta["val"] = target(*fake)
    return node


def replace(old: fx.Node, new: fx.Node) -> None:
    """Let new stand where old stood; the modules that ended in old now end in new."""
    new.meta.setdefault("absorbed", []).extend([old, *old.meta.get("absorbed", [])])
    old.replace_all_uses_with(new)
    old.graph.erase_node(old)


def sweep(graph: fx.Graph) -> None:
    """Erase what nobody uses."""
    for node in reversed(graph.nodes):
        if node.op == "call_function" and not node.users:
            graph.erase_node(node)
