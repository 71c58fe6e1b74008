"""The graph engine: capture a model, canonize its graph, prove facts about it, run it both ways."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import ModelError, XaifastError
from .canonize import to_canonical
from .capture import (
    Captured,
    batch_of,
    check_model,
    fails_itself,
    first_line,
    own,
    own_tensors,
    private_copy,
    quiet,
    ways,
)
from .cuts import no_path
from .facts import ModelGraph, Node, build_graph, module_outputs
from .packing import SUPPORTED, Watch, wrong_count
from .rehearsal import HALF, NoScriptError, Script, check_copy, frozen, script_of
from .weights import Weights


@dataclass
class _Canonical:
    """A captured and canonized model, shared by all explainers of the model.

    script: what the model's code did when it was captured; None: the graph serves one call.
    """

    captured: Captured
    calls: list[tuple[str, fx.Node]]
    script: Script | None = None


# Signature -> canonical graph of a model; a dead model takes its own along.
_known: weakref.WeakKeyDictionary[nn.Module, dict[Any, _Canonical]] = weakref.WeakKeyDictionary()
LIMIT = 16  # signatures kept for one model
SAMPLES = 8  # that are tried alone for a shorter sequence
_capturing = threading.RLock()  # torch.export is for one thread at a time


# ---- what a graph is valid for ----------------------------------------------------------------


def signature_of(args: tuple, rows: tuple[bool, ...] | None) -> tuple:
    """Shapes (without the batch where it is symbolic), dtypes, devices, and what is no tensor.

    Objects count by their type here; what the model's code does with them, the rehearsal compares.
    """

    def part(x: Any, row: bool) -> Any:
        if not isinstance(x, Tensor):
            try:
                return frozen(x)
            except NoScriptError:
                return type(x)
        return (x.dim(), tuple(x.shape[1:] if row else x.shape), x.dtype, x.device)

    return tuple(part(x, row) for x, row in zip(args, rows or (False,) * len(args), strict=True))


def fits(args: tuple, rows: tuple[bool, ...] | None, signature: tuple) -> bool:
    """Whether a graph with these rows and this signature is valid for a call."""
    if len(signature) != len(args):
        return False
    batches = [
        len(x) if isinstance(x, Tensor) and x.dim() else None
        for x, row in zip(args, rows or (), strict=False)
        if row
    ]
    return len(set(batches)) <= 1 and signature_of(args, rows) == signature


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
    """What the model itself returns in eval mode, hooks and all; run on a copy of its modules.

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


def _agrees(graph: ModelGraph, model: nn.Module, args: tuple, expected: Tensor) -> bool:
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


def _ends_alone_count(graph: ModelGraph, model: nn.Module, args: tuple) -> bool | None:
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
            return _agrees(graph, model, some, expected)
    return None


# ---- the graph of a model ---------------------------------------------------------------------


def _capture(model: nn.Module, args: tuple, explained: int, folds: bool) -> _Canonical:
    """The first way to capture the model that computes what the model computes."""
    reasons = []
    with Watch() as watch:
        expected = expected_output(model, args)
    if not isinstance(expected, Tensor):
        raise ModelError(
            f"The model must return one tensor; {type(model).__name__} returns a "
            f"{type(expected).__name__}. Wrap it: a module whose forward returns the tensor to "
            'explain, such as self.model(x)["out"] or self.model(x)[0].'
        )
    if watch.rows not in (None, batch_of(args)) and len(expected) == watch.rows:
        raise wrong_count(batch_of(args), f"{watch.rows}")  # the others are left out
    if expected.dim() < 1 or len(expected) != batch_of(args):
        raise ModelError(
            f"{type(model).__name__} must return one row for each of the {batch_of(args)} samples; "
            f"it returns a tensor of shape {list(expected.shape)}. Keep the batch first."
        )
    for name, capture in ways(model, args, watch.rows is not None):
        try:
            with quiet():
                captured = capture()
                made = _Canonical(captured, module_outputs(captured.graph))
                to_canonical(captured, folds)
                graph = build_graph(captured, made.calls, {}, explained)
                agrees = _agrees(graph, model, args, expected)
                alone = not agrees or _ends_alone_count(graph, model, args)
            if agrees and (alone is not False or captured.rows is None):
                script = script_of(model, _two(captured, args)) if alone else None
                if script is None or captured.traced:
                    # Where the longest sequence counts, or may count, or the model's code cannot
                    # be followed, each call is captured anew.
                    return replace(made, captured=replace(captured, traced=True))
                return replace(made, script=script)
            reasons.append(f"{name}: computes something else")
        except Exception as error:  # noqa: PERF203
            reasons.append(f"{name}: {first_line(error)}")
    if watch.rows is not None:
        raise ModelError(
            f"{type(model).__name__} packs sequences in a way that cannot be captured as a graph. "
            f"{SUPPORTED}. Tried: {'; '.join(reasons)}."
        )
    raise ModelError(
        f"{type(model).__name__} cannot be captured as a graph that computes what it computes. "
        f"Tried {'; '.join(reasons)}. The model may be random in eval mode (F.dropout without "
        "training=self.training), keep a state between calls, ask which module it is (a dict "
        "keyed by modules), or run code that depends on the data: make its forward a function of "
        "its inputs."
    )


def _two(captured: Captured, args: tuple) -> tuple:
    """A call with two of the samples, or with all where the batch is fixed; the caller's own."""
    rows = captured.rows or (False,) * len(args)
    two = [0, min(1, batch_of(args) - 1)]
    return to_compute(own(tuple(x[two] if r else x for x, r in zip(args, rows, strict=True))))


def _canonical(model: nn.Module, args: tuple, explained: int, folds: bool) -> _Canonical:
    """The canonical graph for these arguments, captured at the first call."""
    known = _known.setdefault(model, {})
    for key, found in list(known.items()):
        if key[0] == folds and fits(args, *key[1:]):
            if found.script is not None and found.script.holds(model, args):
                return found
            del known[key]
    made = _capture(model, args, explained, folds)
    check_copy(model, _two(made.captured, args), private_copy(model, keep_hooks=True))
    if made.script is None:
        return made
    if len(known) >= LIMIT:
        known.pop(next(iter(known)))
    rows = made.captured.rows
    known[folds, rows, signature_of(args, rows)] = made
    return made


def forget(model: nn.Module) -> None:
    """Forget the captured graphs of a model; explainers capture it anew at their next call.

    There is no need to call it: whatever changes what the model returns is seen. It gives back
    memory.

    Parameters
    ----------
    model : torch.nn.Module

    Examples
    --------
    >>> import torch
    >>> import xaifast
    >>> model = torch.nn.Linear(2, 1)
    >>> _ = xaifast.attr.LRP(model).attribute(torch.ones(1, 2), target=0)
    >>> xaifast.forget(model)
    """
    for found in _known.pop(check_model("forget", model), {}).values():
        if found.script is not None:
            found.script.forgotten = True


def model_graph(model: nn.Module, args: tuple, explained: int, folds: bool = True) -> ModelGraph:
    """Capture `model(*args)`, canonize it, and prove its facts.

    Parameters
    ----------
    model : the user's module; not changed.
    args : positional arguments of the call.
    explained : how many of them (the first ones) relevance is asked for.
    folds : whether batch norms are folded into the layers beside them.

    Raises
    ------
    ModelError
        If the model fails on the arguments, or cannot be captured; all reasons are listed.
    """
    with _capturing:
        canonical = _canonical(model, args, explained, folds)
    types = {path: type(m) for path, m in model.named_modules(remove_duplicate=False)}
    graph = build_graph(canonical.captured, canonical.calls, types, explained)
    graph.script = canonical.script
    if not graph.output.carries:
        raise no_path(graph, model, args, explained)
    return graph
