"""Token numbers: integers that name rows of tables, and the way of relevance back to them.

A model reads token numbers by embeddings, by tables that are indexed, one-hot, or as plain numbers
made floating, after it has sliced, moved, offset or joined them. Each such operation either keeps
every number at a place that is known (`relevance` then goes back from place to place), or mixes
several into one, behind which no place can be told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from .edit import emit
from .node import Node
from .operations import named

aten = torch.ops.aten


# What reads a row for each number: the row is laid out behind the place of the number.
LOOKUPS = {aten.embedding: 1, aten.one_hot: 0, aten.index: 1, aten.index_select: 2}
# What makes another number (or a float) of each, at its place.
RENAMINGS = named("""
    _to_copy to type_as add sub rsub mul neg abs clamp clamp_min clamp_max remainder fmod
    floor_divide div maximum minimum bitwise_and bitwise_or bitwise_xor bitwise_left_shift
    bitwise_right_shift
""")
# What picks values of its first operand: where that carries relevance, numbers are its places.
PICKS = named("""
    embedding index index_select gather scatter scatter_add index_put take take_along_dim
""")
ARITHMETIC = named("add sub rsub mul div")
SUM, MEAN = 0, 1  # modes of aten.embedding_bag; 2 is the largest
INF = float("inf")


# ---- one spelling ------------------------------------------------------------------------------


def _calls(node: Any, *packets: object) -> bool:
    packet = getattr(getattr(node, "target", None), "overloadpacket", None)
    return isinstance(node, fx.Node) and packet in packets


def bag_places(bag: fx.Node) -> fx.Node | None:
    """The token numbers [N, length] of an embedding bag, if all its bags have one length."""
    flat: Any
    offsets: Any
    flat, offsets = bag.args[1:3]
    if not _calls(flat, aten.view, aten.reshape, aten.flatten) or not _calls(offsets, aten.arange):
        return None
    shape = flat.args[0].meta["val"].shape
    if len(shape) != 2 or offsets.target is not aten.arange.start_step:
        return None
    return flat.args[0] if (offsets.args[0], offsets.args[2]) == (0, shape[1]) else None


def spell_bag(node: fx.Node, bag: fx.Node, numbers: fx.Node) -> fx.Node:
    """An embedding bag as an embedding and what gathers its rows, put before `node`."""

    def call(target: Callable, *args: object) -> fx.Node:
        return emit(node, target, *args)

    weights: Any
    padding: Any
    w, _, _, _, mode, _, weights, _, padding = bag.args
    rows = call(aten.embedding.default, w, numbers)
    if weights is not None:
        length = numbers.meta["val"].shape[1]
        rows = call(aten.mul.Tensor, rows, call(aten.reshape.default, weights, [-1, length, 1]))
    if padding is None or padding < 0:
        gather = {SUM: aten.sum.dim_IntList, MEAN: aten.mean.dim}.get(mode, aten.amax.default)  # type: ignore[arg-type]
        return call(gather, rows, [1])
    counts = call(aten.unsqueeze.default, call(aten.ne.Scalar, numbers, padding), -1)
    if mode not in (SUM, MEAN):
        missing = call(aten.logical_not.default, counts)
        best = call(aten.amax.default, call(aten.masked_fill.Scalar, rows, missing, -INF), [1])
        empty = call(aten.logical_not.default, call(aten.any.dim, counts, 1))
        return call(aten.masked_fill.Scalar, best, empty, 0.0)
    total = call(aten.sum.dim_IntList, call(aten.mul.Tensor, rows, counts), [1])
    if mode == SUM:
        return total
    number = call(aten.clamp_min.default, call(aten.sum.dim_IntList, counts, [1]), 1)
    return call(aten.div.Tensor, total, number)


def integers_made_floating(node: fx.Node) -> Iterator[int]:
    """Places among the arguments of integers that arithmetic makes floating on its way."""
    if not _calls(node, *ARITHMETIC):
        return
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return
    for i, x in enumerate(node.args[:2]):
        v = x.meta.get("val") if isinstance(x, fx.Node) else None
        if isinstance(v, Tensor) and not v.is_floating_point() and v.dtype != torch.bool:
            yield i


# ---- facts ---------------------------------------------------------------------------------------


def _listed(argument: Any) -> list[Any]:
    return list(argument) if isinstance(argument, (list, tuple)) else [argument]


def read_by(node: Node, packet: object, moves: bool) -> tuple[Node, ...]:
    """The operands whose token numbers a node reads or moves, each at a known place.

    moves: whether the operation only moves values.
    """
    if packet in LOOKUPS and not _picks(node, packet):
        (number, *others) = _listed(node.args[LOOKUPS[packet]])
        along = node.args[1] if packet is aten.index_select else 0
        if not others and along == 0 and _names(number):
            return (number,)
    if packet in RENAMINGS:
        operands = [x for x in node.args[:2] if _names(x)]
        return tuple(operands) if len(operands) == 1 else ()
    if packet in PICKS:  # of token numbers, by others
        (data, *rest) = node.args
        others = [x for a in rest for x in _listed(a) if _names(x) or getattr(x, "mixed", None)]
        return (data,) if moves and _names(data) and not others else ()
    if moves:
        found = [x for a in node.args for x in _listed(a) if _names(x)]
        return tuple(dict.fromkeys(found))
    return ()


def places_of(node: Node, packet: object) -> tuple[Node, ...]:
    """The operands that say where to look in what carries relevance: which, not what."""
    if not _picks(node, packet):
        return ()
    rest = [x for a in node.args[1:] for x in _listed(a)]
    return tuple(x for x in rest if hasattr(x, "floating") and not x.floating)


def _picks(node: Node, packet: object) -> bool:
    return packet in PICKS and getattr(node.args[0], "carries", False)


def _names(x: Any) -> bool:
    return bool(getattr(x, "tokens", None))


def still_mixed(node: Node, packet: object, x: Node) -> dict[Node, Node]:
    """Inputs that an operand has mixed, as far as the node depends on them as on token numbers.

    Integers that floating values were made to are tokens once they are looked up in a table.
    """
    if x.floating or not node.floating or packet in PICKS:
        return x.mixed
    return {i: by for i, by in x.mixed.items() if not i.floating}


def is_lookup(node: Node) -> bool:
    """Whether a node has a row for each number that it reads."""
    packet = getattr(node.target, "overloadpacket", node.target)
    return packet in LOOKUPS and _listed(node.args[LOOKUPS[packet]])[0] is node.inputs[0]


def keeps_places(node: Node) -> bool:
    """Whether a node has, for each number of its one operand, one or a row at the same place."""
    if len(node.inputs) != 1:
        return False
    packet = getattr(node.target, "overloadpacket", node.target)
    return is_lookup(node) or (packet in RENAMINGS and node.shape == node.inputs[0].shape)
