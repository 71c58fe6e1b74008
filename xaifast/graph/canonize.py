"""Canonize: passes over the captured graph that keep the function and simplify the explanation.

- no-ops go (dropout in eval mode, clone, contiguous, assertions);
- several spellings of one operation become one (`split` + `getitem` -> `narrow`, `mm` -> `linear`);
- recurrent layers get one output in place of several;
- batch norm becomes an affine node, and that is folded into the convolution or dense layer before
  or behind it; where there is none (across a ReLU, say) it stays an affine node.

Folded weights are ordinary nodes that depend on parameters only: they are computed when the
parameters change, never written back.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from torch import Tensor, fx

from . import tokens
from .capture.export import Captured
from .edit import complete, emit, is_call, packet, replace, sweep
from .operations import CONVOLUTIONS, TRANSPOSED, adaptive_max_pool, affine, cropped, with_bias_map
from .recurrent import layout as recurrent

aten = torch.ops.aten

NOOPS = {
    aten.clone, aten.contiguous, aten.detach, aten.alias, aten.dropout, aten.feature_dropout,
    aten.alpha_dropout, aten.feature_alpha_dropout, aten.native_dropout, aten.lift_fresh_copy,
    aten.lift_fresh,
}  # fmt: skip
ASSERTIONS = {
    aten._assert_tensor_metadata, aten._assert_async, aten._assert_scalar,
    aten.sym_constrain_range, aten.sym_constrain_range_for_size,
}  # fmt: skip
ADAPTIVE_MAX_POOLS = {
    aten.adaptive_max_pool1d, aten.adaptive_max_pool2d, aten.adaptive_max_pool3d,
}  # fmt: skip


# ---- no-ops ----------------------------------------------------------------------------------


def _same_dtype(x: fx.Node, node: fx.Node) -> bool:
    return (
        x.meta["val"].dtype == node.meta["val"].dtype
        and x.meta["val"].device == node.meta["val"].device
    )


def _is_noop(node: fx.Node) -> bool:
    if is_call(node, *NOOPS):
        return True
    if is_call(node, aten._to_copy, aten.to, aten.type_as):
        return _same_dtype(node.args[0], node)
    if is_call(node, aten.expand, aten.view, aten.reshape, aten.flatten):
        return tuple(node.args[0].meta["val"].shape) == tuple(node.meta["val"].shape)
    return False


def _is_plain_copy(node: fx.Node) -> bool:
    """copy(x, source) is the source; what was in x is gone."""
    if not is_call(node, aten.copy):
        return False
    source = node.args[1]
    return source.meta["val"].shape == node.meta["val"].shape and _same_dtype(source, node)


def drop_noops(graph: fx.Graph) -> None:
    """Erase what returns its input, and assertions."""
    for node in list(graph.nodes):
        if is_call(node, *ASSERTIONS):
            graph.erase_node(node)
        elif node.op == "call_function" and (_is_noop(node) or _is_plain_copy(node)):
            source = node.args[1 if is_call(node, aten.copy) else 0]
            source.meta.setdefault("absorbed", []).extend([node, *node.meta.get("absorbed", [])])
            node.replace_all_uses_with(source)
            graph.erase_node(node)


# ---- one spelling for each operation ---------------------------------------------------------


def _pieces(node: fx.Node) -> list[tuple[int, int]]:
    """(start, length) of each piece of a split or chunk along its dimension."""
    dim = node.args[2]
    sizes = [piece.shape[dim] for piece in node.meta["val"]]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return list(zip(starts, sizes, strict=True))


def split_to_narrow(graph: fx.Graph) -> None:
    """Getitem of split, chunk or unbind -> narrow or select; getitem of a max -> the max."""
    for node in list(graph.nodes):
        if not (node.op == "call_function" and node.target is operator.getitem):
            continue
        source, i = node.args
        if is_call(source, aten.split, aten.split_with_sizes, aten.chunk):
            start, length = _pieces(source)[i]
            dim = source.args[2]
            replace(node, emit(node, aten.narrow.default, source.args[0], dim, start, length))
        elif is_call(source, aten.unbind):
            dim = source.args[1]
            replace(node, emit(node, aten.select.int, source.args[0], dim, i))
        elif is_call(source, aten.max_pool2d_with_indices, aten.max_pool3d_with_indices) and i == 0:
            pool = (
                aten.max_pool2d
                if is_call(source, aten.max_pool2d_with_indices)
                else aten.max_pool3d
            )
            replace(node, emit(node, pool.default, *source.args))
        elif is_call(source, aten.max_pool1d_with_indices) and i == 0:
            replace(node, emit(node, aten.max_pool1d.default, *source.args))
        elif is_call(source, *ADAPTIVE_MAX_POOLS) and i == 0:
            replace(
                node, emit(node, adaptive_max_pool, source.args[0], source.args[1], source.target)
            )
        elif is_call(source, aten.max) and i == 0:
            dim, keep = source.args[1:3]
            replace(node, emit(node, aten.amax.default, source.args[0], [dim], keep))


def embed_first(graph: fx.Graph) -> None:
    """Token numbers are moved behind their embedding: relevance ends where the batch is first."""
    for node in list(graph.nodes):
        while is_call(node, aten.embedding):
            w, moved = node.args[:2]
            if not is_call(moved, aten.t, aten.transpose, aten.permute):
                break
            tokens, n = moved.args[0], moved.args[0].meta["val"].dim()
            order = list(range(n))
            if is_call(moved, aten.permute):
                order = [d % n for d in moved.args[1]]
            elif n > 1:
                a, b = (0, 1) if is_call(moved, aten.t) else (d % n for d in moved.args[1:3])
                order[a], order[b] = b, a
            embedded = emit(node, node.target, w, tokens, *node.args[2:], origin=moved)
            behind = emit(node, aten.permute.default, embedded, [*order, n])
            replace(node, behind)
            node = embedded


def spell_tokens(graph: fx.Graph, constant: Callable[[object], bool]) -> None:
    """Bags of embeddings, and integers that arithmetic makes floating, one step after the other."""
    for node in list(graph.nodes):
        bag = node.args[0] if is_call(node, operator.getitem) and node.args[1] == 0 else None
        if is_call(bag, aten.embedding_bag):
            numbers = tokens.bag_places(bag)
            if numbers is not None:
                replace(node, tokens.spell_bag(node, bag, numbers))
    for node in list(graph.nodes):
        for i in list(tokens.integers_made_floating(node)):
            x = node.args[i]
            if not constant(x):
                cast = emit(node, aten.to.dtype, x, node.meta["val"].dtype)
                node.update_arg(i, cast)


def spell_linear(graph: fx.Graph, constant: Callable[[object], bool]) -> None:
    """mm, matmul and addmm with a constant right-hand matrix -> linear."""
    for node in list(graph.nodes):
        if is_call(node, aten.mm, aten.matmul) and constant(node.args[1]):
            x, w, b = *node.args, None
        elif is_call(node, aten.addmm) and not node.kwargs and constant(node.args[2]):
            b, x, w = node.args
            if not constant(b) or b.meta["val"].dim() != 1:
                continue
        else:
            continue
        if constant(x) or w.meta["val"].dim() != 2:
            continue
        w_t = emit(node, aten.t.default, w)
        replace(node, emit(node, aten.linear.default, x, w_t, b))


def spell_padding(graph: fx.Graph) -> None:
    """Convolutions with padding given as a word -> explicit padding."""
    for node in list(graph.nodes):
        if (
            not is_call(node, *CONVOLUTIONS)
            or getattr(node.target, "_overloadname", "") != "padding"
        ):
            continue
        x, w, b, stride, word, dilation, groups = node.args
        kernel = w.meta["val"].shape[2:]
        d = len(kernel)
        dilation = list(dilation) * d if len(dilation) == 1 else list(dilation)
        total = [
            w_ * (k - 1) if word == "same" else 0 for k, w_ in zip(kernel, dilation, strict=True)
        ]
        before = [t // 2 for t in total]
        if any(t % 2 for t in total):  # PyTorch pads the odd one behind
            pads = [p for t in reversed(total) for p in (0, t % 2)]
            x = emit(node, aten.constant_pad_nd.default, x, pads, 0.0)
        target = (aten.conv1d, aten.conv2d, aten.conv3d)[d - 1].default
        replace(node, emit(node, target, x, w, b, stride, before, dilation, groups))


def _times(node: fx.Node, x: object, factor: float) -> object:
    """A constant times a number."""
    if factor == 1:
        return x
    return x * factor if isinstance(x, (int, float)) else emit(node, aten.mul.Scalar, x, factor)


def _inverse(node: fx.Node, c: object) -> object:
    """1 / c; that of integers in the precision of the node."""
    if isinstance(c, (int, float)):
        return 1.0 / c
    if isinstance(c, fx.Node) and not c.meta["val"].is_floating_point():
        precise = node.meta["val"].dtype == torch.float64
        c = emit(node, aten.to.dtype, c, torch.float64 if precise else torch.float32)
    return emit(node, aten.reciprocal.default, c)


def _as_affine(node: fx.Node, constant: Callable[[object], bool]) -> tuple | None:
    """(x, scale, shift) of arithmetic between one input and constants, else None."""
    if is_call(node, aten.neg):
        return node.args[0], -1.0, None
    if not is_call(node, aten.add, aten.sub, aten.rsub, aten.mul, aten.div) or node.kwargs.get(
        "rounding_mode"
    ):
        return None
    x, y = node.args[:2]
    if constant(x) == constant(y) or (constant(x) and is_call(node, aten.div)):
        return None
    behind = constant(y)
    x, c = (x, y) if behind else (y, x)
    if is_call(node, aten.mul):
        return x, c, None
    if is_call(node, aten.div):
        return x, _inverse(node, c), None
    alpha = node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1)
    first, second = {"add": (1, alpha), "sub": (1, -alpha), "rsub": (-alpha, 1)}[
        packet(node).__name__
    ]
    scale, factor = (first, second) if behind else (second, first)
    return x, float(scale), _times(node, c, factor)


def spell_affine(graph: fx.Graph, constant: Callable[[object], bool]) -> None:
    """x + c, x - c, c - x, x c, x / c and -x with constants c -> affine."""
    for node in list(graph.nodes):
        if node.op != "call_function" or constant(node):
            continue
        value = node.meta.get("val")
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        found = _as_affine(node, constant)
        if found is not None:
            x, scale, shift = found
            scale = float(scale) if isinstance(scale, int) else scale
            replace(node, emit(node, affine, x, scale, shift))


# ---- batch norm ------------------------------------------------------------------------------


def _statistics(node: fx.Node) -> tuple | None:
    """(x, weight, bias, mean, var, eps) of a batch norm at test time, else None."""
    if is_call(node, aten._native_batch_norm_legit_no_training):
        x, weight, bias, mean, var, _, eps = node.args
        return x, weight, bias, mean, var, eps
    if is_call(node, aten.batch_norm) and not node.args[5]:
        x, weight, bias, mean, var, _, _, eps = node.args[:8]
        return x, weight, bias, mean, var, eps
    return None


def batch_norm_to_affine(graph: fx.Graph) -> None:
    """y = (x - mean) / sqrt(var + eps) * weight + bias  ->  y = scale x + shift."""
    for node in list(graph.nodes):
        found = _statistics(node)
        if found is None or any(p is None for p in found[3:5]):
            continue
        x, weight, bias, mean, var, eps = found
        scale = emit(node, aten.rsqrt.default, emit(node, aten.add.Scalar, var, eps))
        if weight is not None:
            scale = emit(node, aten.mul.Tensor, scale, weight)
        shift = emit(node, aten.neg.default, emit(node, aten.mul.Tensor, mean, scale))
        if bias is not None:
            shift = emit(node, aten.add.Tensor, shift, bias)
        result = node
        if is_call(node, aten._native_batch_norm_legit_no_training):  # (output, mean, var)
            (result,) = node.users
        shape = [-1] + [1] * (x.meta["val"].dim() - 2)
        scale, shift = (emit(result, aten.view.default, v, shape) for v in (scale, shift))
        new = emit(result, affine, x, scale, shift)
        new.meta["batch_norm"] = True
        replace(result, new)


# ---- folding an affine node into the layer beside it -----------------------------------------


def scale_outer(w: Tensor, v: Tensor) -> Tensor:
    """Scale the rows of w: outputs of a convolution or dense layer, inputs of a transposed one."""
    return w * v.view(-1, *[1] * (w.dim() - 1))


def scale_inner(w: Tensor, v: Tensor, groups: int) -> Tensor:
    """Scale axis 1 of w, whose rows lie in groups that each see their own part of v."""
    scale = v.view(groups, 1, -1, *[1] * (w.dim() - 2))
    return (w.unflatten(0, (groups, -1)) * scale).flatten(0, 1)


def _is_layer(node: object, constant: Callable[[object], bool]) -> bool:
    """A convolution, or a dense layer on [N, features], with constant weights."""
    if is_call(node, *CONVOLUTIONS, *TRANSPOSED):
        return constant(node.args[1])
    return is_call(node, aten.linear) and constant(node.args[1]) and node.meta["val"].dim() == 2


def _is_transposed(node: fx.Node) -> bool:
    return is_call(node, *TRANSPOSED) or (is_call(node, aten.convolution) and bool(node.args[6]))


def _groups(node: fx.Node) -> int:
    if is_call(node, aten.linear):
        return 1
    return node.args[8 if is_call(node, aten.convolution) else 6]


def _is_padded(node: fx.Node) -> bool:
    return not is_call(node, aten.linear) and any(node.args[4])


def _fold_behind(layer: fx.Node, norm: fx.Node) -> None:
    """Layer -> affine:  w' = scale w,  b' = scale b + shift."""
    x, w, b = layer.args[:3]
    scale, shift = (emit(norm, aten.flatten.using_ints, v) for v in norm.args[1:])
    if _is_transposed(layer):
        w = emit(norm, scale_inner, w, scale, _groups(layer))
    else:
        w = emit(norm, scale_outer, w, scale)
    if b is not None:
        shift = emit(norm, aten.add.Tensor, emit(norm, aten.mul.Tensor, b, scale), shift)
    new = emit(norm, layer.target, x, w, shift, *layer.args[3:], origin=layer)
    replace(norm, new)
    replace(layer, new)


def _fold_before(norm: fx.Node, layer: fx.Node) -> None:
    """Affine -> layer:  w' = w scale,  b' = layer(shift), a map where zeros are padded."""
    x, scale, shift = norm.args
    _, w, b, *rest = layer.args
    image = emit(layer, aten.expand.default, shift, [1, *x.meta["val"].shape[1:]])
    bias_map = emit(layer, layer.target, image, w, b, *rest)
    flat = emit(layer, aten.flatten.using_ints, scale)
    if _is_transposed(layer):
        w = emit(layer, scale_outer, w, flat)
    else:
        w = emit(layer, scale_inner, w, flat, _groups(layer))
    if _is_padded(layer) or _is_transposed(layer):
        new = emit(layer, with_bias_map, x, w, bias_map, layer.target, *rest)
    else:
        dims = bias_map.meta["val"].dim()
        corner = emit(layer, aten.slice.Tensor, emit(layer, aten.select.int, bias_map, 0, 0), 0)
        for _ in range(dims - 2):
            corner = emit(layer, aten.select.int, corner, 1, 0)
        new = emit(layer, layer.target, x, w, corner, *rest)
    replace(layer, new)
    norm.graph.erase_node(norm)
    x.meta.setdefault("absorbed", []).append(norm)


def _zero_padding(node: object) -> list[int] | None:
    """The padding of a node that pads positions with zeros, as `F.pad` lists it, else None."""
    if not is_call(node, aten.constant_pad_nd, aten.pad) or len(node.users) != 1:
        return None
    pads = list(node.args[1])
    mode, value = ("constant", *node.args[2:]) if len(node.args) == 3 else node.args[2:4]
    dims = node.args[0].meta["val"].dim() - 2
    if mode != "constant" or value not in (None, 0) or any(p < 0 for p in pads):
        return None
    pads += [0] * (2 * dims - len(pads))
    return pads[: 2 * dims] if not any(pads[2 * dims :]) else None


def fold_padding(graph: fx.Graph, constant: Callable[[object], bool]) -> None:
    """Zero padding before a convolution -> the convolution's own padding.

    Padded zeros are then no inputs that could take relevance. What the two sides need unequally is
    padded on both, and the outputs that this adds are cropped.
    """
    for node in list(graph.nodes):
        if not is_call(node, *CONVOLUTIONS) or _is_transposed(node) or not constant(node.args[1]):
            continue
        pads = _zero_padding(node.args[0])
        if pads is None:
            continue
        x, w, b, stride, padding, *rest = node.args
        dims = len(pads) // 2
        stride, padding = (list(v) * dims if len(v) == 1 else list(v) for v in (stride, padding))
        before = [pads[2 * (dims - 1 - i)] + padding[i] for i in range(dims)]
        after = [pads[2 * (dims - 1 - i) + 1] + padding[i] for i in range(dims)]
        if before == after:
            new = emit(node, node.target, x.args[0], w, b, stride, before, *rest, origin=node)
        else:
            # As much on both sides, and on the left a whole number of strides more.
            extra = [-(-max(0, q - p) // s) for p, q, s in zip(before, after, stride, strict=True)]
            both = [p + n * s for p, n, s in zip(before, extra, stride, strict=True)]
            sizes = [int(n) for n in node.meta["val"].shape[2:]]
            call = (x.args[0], w, b, node.target, extra, sizes, stride, both, *rest)
            new = emit(node, cropped, *call, origin=node)
        replace(node, new)


def fold_affine(graph: fx.Graph, constant: Callable[[object], bool]) -> None:
    """Fold each batch norm into the layer before it, or else into the one behind it."""
    for norm in [n for n in graph.nodes if n.meta.get("batch_norm")]:
        before, users = norm.args[0], list(norm.users)
        behind = users[0] if len(users) == 1 else None
        if _is_layer(before, constant) and len(before.users) == 1:
            _fold_behind(before, norm)
        elif _is_layer(behind, constant) and behind.args[0] is norm:
            _fold_before(norm, behind)


# ---- all of it -------------------------------------------------------------------------------


def constants_of(captured: Captured) -> Callable[[object], bool]:
    """A test whether a node depends on parameters and constants only."""
    known: dict[fx.Node, bool] = {}

    def constant(node: object) -> bool:
        if not isinstance(node, fx.Node):
            return True
        if node not in known:
            leaf = captured.leaves.get(node.name) if node.op == "placeholder" else None
            if node.op == "placeholder":
                known[node] = leaf is not None and leaf.kind != "input"
            else:
                known[node] = all(constant(n) for n in node.all_input_nodes)
        return known[node]

    return constant


def to_canonical(captured: Captured, folds: bool = True) -> None:
    """Run all passes on the captured graph, in place; folds: batch norms into other layers."""
    graph = captured.graph
    constant = constants_of(captured)
    for node in graph.nodes:
        complete(node)
    drop_noops(graph)
    split_to_narrow(graph)
    spell_tokens(graph, constant)
    embed_first(graph)
    recurrent.one_output_each(graph)
    spell_linear(graph, constant)
    spell_padding(graph)
    spell_affine(graph, constant)
    batch_norm_to_affine(graph)
    sweep(graph)
    if folds:
        fold_affine(graph, constant)
    fold_padding(graph, constant)
    sweep(graph)
    graph.lint()
