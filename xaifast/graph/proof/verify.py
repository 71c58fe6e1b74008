"""The proof that a captured graph computes what the model computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ModelError, XaifastError
from ..capture.modules import (
    batch_of,
    fails_itself,
    own,
    own_tensors,
    private_copy,
)
from ..facts import ModelGraph
from ..node import Node
from ..weights import Weights
from .events import HALF

SAMPLES = 8  # that are tried alone for a shorter sequence


# ---- does the graph compute what the model computes? ------------------------------------------


def compute_dtype(model: nn.Module, args: tuple) -> torch.dtype | None:
    """Half precision is computed in float32: its denominators would under- and overflow."""
    tensors = (*(x for x in args if isinstance(x, Tensor)), *model.parameters())
    return torch.float32 if any(x.dtype in HALF for x in tensors) else None


def to_compute(args: tuple) -> tuple:
    """The arguments in the precision of the computation, as tensors that autograd may look at."""

    def part(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        x = x.clone() if x.is_inference() else x.detach()
        return x.float() if x.dtype in HALF else x

    return tuple(part(x) for x in args)


def _few(args: tuple, rows: tuple[bool, ...]) -> tuple:
    """The first two samples between others: what mixes samples gives those two other values.

    The others are multiples of the two, smaller and larger, on both sides, so that sums, extremes
    and cumulative operations over the batch show (a row of zeros adds nothing to them); zeros stay
    zeros, from which lengths may be counted. Integers are repeated: lengths stay in decreasing
    order.
    """

    def part(x: Tensor) -> Tensor:
        two, near, far = x[:2], x[:1], x[:2][-1:]
        if x.is_floating_point():
            return torch.cat([near * 0.375, near * 3, two, far * 2.5])
        return torch.cat([near, near, two, far])

    return tuple(part(x) if row else x for x, row in zip(args, rows, strict=True))


def expected_output(model: nn.Module, args: tuple, double: bool = False) -> Tensor:
    """The output of the model itself in eval mode, hooks and all; run on a copy of its modules.

    double: in float64, whatever the model's own precision.

    Raises
    ------
    ModelError
        If the model fails on these arguments.
    """
    twin = private_copy(model, keep_hooks=True)
    state = {k: x.float() if x.dtype in HALF else x for k, x in own_tensors(twin).items()}
    given = to_compute(own(args))
    if double:
        state, given = {k: _double(x) for k, x in state.items()}, tuple(map(_double, given))
    try:
        with torch.no_grad():
            return torch.func.functional_call(twin, state, given)
    except XaifastError:
        raise
    except Exception as error:
        raise ModelError(fails_itself(model, error)) from error


def _double(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


def _values(
    graph: ModelGraph, model: nn.Module, args: tuple, double: bool = False
) -> Callable[[Node], Any]:
    """Run a graph, node by node; the values."""
    weights = Weights(model, torch.float64 if double else compute_dtype(model, args))
    given = tuple(map(_double, args)) if double else to_compute(args)
    values: dict[Node, Any] = dict(zip(graph.inputs, given, strict=True))

    def lookup(node: Node) -> Any:
        return weights.value(node) if node.constant else values[node]

    with torch.no_grad():
        for node in graph.nodes:
            if not node.constant and node.kind != "input":
                values[node] = node.call(lookup)
    return lookup


def _evaluate(graph: ModelGraph, model: nn.Module, args: tuple, double: bool = False) -> Tensor:
    """The output of a graph, node by node."""
    return _values(graph, model, args, double)(graph.output)


def agree(got: Tensor, expected: Tensor) -> bool:
    """Whether two outputs agree up to rounding."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    if not expected.numel() or not torch.isfinite(expected).all():
        return True  # what is not finite is reported by the call itself
    tolerance = 1e-8 if expected.dtype == torch.float64 else 1e-3
    scale = expected.abs().amax().clamp(min=1e-6)
    return bool((got - expected).abs().amax() <= tolerance * scale)


def agrees(graph: ModelGraph, model: nn.Module, args: tuple, expected: Tensor) -> bool:
    """Whether a graph computes what the model computes.

    Where the two differ in the model's own precision, float64 tells a difference from rounding: a
    softmax of logits of 1e5 has no correct digit in float32.
    """
    few = graph.rows is not None
    part = args if graph.rows is None else _few(args, graph.rows)

    def close(want: Tensor, double: bool) -> bool:
        got = _evaluate(graph, model, part, double)
        return agree(got[2:-1], want[:2]) if few else agree(got, want)

    if close(expected, double=False):
        return True
    if expected.dtype != torch.float32:
        return False
    return close(expected_output(model, args, double=True), double=True)


# ---- does what packed sequences give depend on the longest? ------------------------------------


def _with_shorter(graph: ModelGraph, model: nn.Module, args: tuple) -> Iterator[tuple]:
    """Calls in which no sequence may be as long as its padding."""
    yield args
    values = _values(graph, model, args)
    for node in _packed(graph):
        lengths = values(node)

        def shorter(x: Any, lengths: Tensor = lengths, steps: int = node.args[1]) -> Any:
            if not isinstance(x, Tensor) or x.shape != lengths.shape or x.is_floating_point():
                return x
            ordered = x.cpu().sort(descending=True)[0]
            same = torch.equal(ordered, lengths.cpu().to(x.dtype))
            return x.clamp(max=max(1, steps - 1)) if same else x

        yield tuple(map(shorter, args))
    if graph.rows is not None:
        for i in range(min(batch_of(args), SAMPLES)):
            pairs = zip(args, graph.rows, strict=True)
            yield tuple(x[i : i + 1] if row else x for x, row in pairs)


def _packed(graph: ModelGraph) -> list[Node]:
    """The nodes that hold the lengths of packed sequences."""
    return [n for n in graph.nodes if n.op == "sequence_lengths"]


def ends_alone_count(graph: ModelGraph, model: nn.Module, args: tuple) -> bool | None:
    """Whether the output is right where no sequence is as long as its padding; None: unknown."""
    packed = _packed(graph)
    if all(n.args[1] == 1 for n in packed):
        return True
    for some in _with_shorter(graph, model, args):
        values = _values(graph, model, some)
        if all(int(values(n).max()) < n.args[1] for n in packed if n.args[1] > 1):
            try:
                expected = expected_output(model, some)
            except ModelError:
                continue
            return agrees(graph, model, some, expected)
    return None
