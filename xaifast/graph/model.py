"""The graphs of a model: captured at the first call of a kind, kept, and forgotten."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx, nn

from ..errors import ModelError
from .canonize import to_canonical
from .capture.export import Captured, ways
from .capture.modules import (
    batch_of,
    check_model,
    first_line,
    own,
    private_copy,
)
from .capture.quiet import quiet
from .facts import ModelGraph, build_graph, module_outputs
from .proof.cuts import no_path
from .proof.rehearsal import Script, check_copy, script_of
from .proof.verify import agrees, ends_alone_count, expected_output, to_compute
from .recurrent.packing import SUPPORTED, Watch, wrong_count
from .signature import fits, signature_of


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
_capturing = threading.RLock()  # torch.export is for one thread at a time


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
                right = agrees(graph, model, args, expected)
                alone = not right or ends_alone_count(graph, model, args)
            if right and (alone is not False or captured.rows is None):
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
