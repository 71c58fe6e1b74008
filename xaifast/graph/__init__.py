"""The graph engine: capture a model, canonize its graph, prove facts about it, run it both ways."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import ModelError
from .canonize import to_canonical
from .capture import Captured, batch_of, first_line, private_copy, quiet, ways
from .facts import ModelGraph, Node, build_graph, module_outputs
from .weights import Weights

HALF = (torch.float16, torch.bfloat16)


@dataclass
class _Canonical:
    """A captured and canonized model, shared by all explainers of the model."""

    captured: Captured
    calls: list[tuple[str, fx.Node]]


@dataclass
class _Known:
    """What is known of one model: signature -> canonical graph."""

    structure: tuple = ()
    graphs: dict[Any, _Canonical] = field(default_factory=dict)


# A training step keeps the graph, another structure does not; a dead model takes its own along.
_known: weakref.WeakKeyDictionary[nn.Module, _Known] = weakref.WeakKeyDictionary()
LIMIT = 16  # signatures kept for one model


# ---- what a graph is valid for ----------------------------------------------------------------


def structure_of(model: nn.Module) -> tuple:
    """What the graph depends on, beside the inputs: the modules and their hooks."""
    return tuple(
        (id(m), *m._forward_hooks.keys(), "then", *m._forward_pre_hooks.keys())
        for m in model.modules()
    )


def signature_of(args: tuple, batched: bool) -> tuple:
    """Shapes (the batch too, unless it is symbolic), dtypes, devices, and what is no tensor."""

    def part(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return repr(x)
        shape = x.shape[1:] if batched and x.dim() else x.shape
        return (x.dim(), tuple(shape), x.dtype, x.device)

    return tuple(part(x) for x in args)


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


def _few(args: tuple) -> tuple:
    """The first two samples: enough to compare."""
    batch = batch_of(args)
    return tuple(
        x[:2] if isinstance(x, Tensor) and x.dim() and len(x) == batch else x for x in args
    )


def expected_output(model: nn.Module, args: tuple) -> Tensor:
    """What the model itself returns in eval mode, hooks and all; run on a copy of its modules.

    Raises
    ------
    ModelError
        If the model fails on these arguments.
    """
    twin = private_copy(model, keep_hooks=True)
    state = {**dict(twin.named_parameters()), **dict(twin.named_buffers())}
    wide = {name: x.float() for name, x in state.items() if x.dtype in HALF}
    try:
        with torch.no_grad():
            return torch.func.functional_call(twin, wide, to_compute(args))
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} fails on these inputs itself ({first_line(error)}). Check "
            "that model(*inputs) runs with them: shapes, dtypes and devices."
        ) from error


def _evaluate(graph: ModelGraph, model: nn.Module, args: tuple) -> Tensor:
    """The output of a graph, node by node."""
    weights = Weights(model, compute_dtype(model, args))
    values: dict[Node, Any] = dict(zip(graph.inputs, to_compute(args), strict=True))

    def lookup(node: Node) -> Any:
        return weights.value(node) if node.constant else values[node]

    with torch.no_grad():
        for node in graph.nodes:
            if not node.constant and node.kind != "input":
                values[node] = node.call(lookup)
    return lookup(graph.output)


def _close(got: Tensor, expected: Tensor) -> bool:
    """Whether two outputs agree up to rounding."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    if not expected.numel() or not torch.isfinite(expected).all():
        return True  # what is not finite is reported by the call itself
    tolerance = 1e-8 if expected.dtype == torch.float64 else 1e-3
    scale = expected.abs().amax().clamp(min=1e-6)
    return bool((got - expected).abs().amax() <= tolerance * scale)


# ---- the graph of a model ---------------------------------------------------------------------


def _capture(model: nn.Module, args: tuple, explained: int) -> _Canonical:
    """The first way to capture the model that computes what the model computes."""
    reasons = []
    expected = expected_output(model, args)
    if not isinstance(expected, Tensor):
        raise ModelError(
            f"The model must return one tensor; {type(model).__name__} returns a "
            f"{type(expected).__name__}. Wrap it: a module whose forward returns the tensor to "
            'explain, such as self.model(x)["out"] or self.model(x)[0].'
        )
    if expected.dim() < 1 or len(expected) != batch_of(args):
        raise ModelError(
            f"{type(model).__name__} must return one row for each of the {batch_of(args)} samples; "
            f"it returns a tensor of shape {list(expected.shape)}. Keep the batch first."
        )
    for name, capture in ways(model, args):
        try:
            with quiet():
                captured = capture()
                made = _Canonical(captured, module_outputs(captured.graph))
                to_canonical(captured)
                graph = build_graph(captured, made.calls, {}, explained)
                part = _few(args) if captured.batched else args
                if _close(_evaluate(graph, model, part), expected[: len(part[0])]):
                    return made
            reasons.append(f"{name}: computes something else")
        except Exception as error:  # noqa: PERF203
            reasons.append(f"{name}: {first_line(error)}")
    raise ModelError(
        f"{type(model).__name__} cannot be captured as a graph that computes what it computes. "
        f"Tried {'; '.join(reasons)}. The model may be random in eval mode (F.dropout without "
        "training=self.training), keep a state between calls, or run code that depends on the "
        "data: make its forward a function of its inputs."
    )


def _canonical(model: nn.Module, args: tuple, explained: int) -> _Canonical:
    """The canonical graph for these arguments, captured at the first call."""
    known = _known.setdefault(model, _Known())
    structure = structure_of(model)
    if known.structure != structure:
        known.structure, known.graphs = structure, {}
    for batched in (True, False):
        found = known.graphs.get((batched, signature_of(args, batched)))
        if found is not None and not found.captured.traced:
            return found
    made = _capture(model, args, explained)
    if len(known.graphs) >= LIMIT:
        known.graphs.pop(next(iter(known.graphs)))
    batched = made.captured.batched
    known.graphs[batched, signature_of(args, batched)] = made
    return made


def model_graph(model: nn.Module, args: tuple, explained: int) -> ModelGraph:
    """Capture `model(*args)`, canonize it, and prove its facts.

    Parameters
    ----------
    model : the user's module; not changed.
    args : positional arguments of the call.
    explained : how many of them (the first ones) relevance is asked for.

    Raises
    ------
    ModelError
        If the model fails on the arguments, or cannot be captured; all reasons are listed.
    """
    canonical = _canonical(model, args, explained)
    types = {path: type(m) for path, m in model.named_modules(remove_duplicate=False)}
    graph = build_graph(canonical.captured, canonical.calls, types, explained)
    if not graph.output.carries:
        raise ModelError(
            f"The output of {type(model).__name__} does not depend on the inputs to explain "
            "(in floating point). Pass the inputs that it depends on."
        )
    return graph
