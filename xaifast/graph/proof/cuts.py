"""Cuts: where the path from the inputs to the output of a model has no gradient, or no relevance.

Integers, comparisons, numbers read into Python, `detach`, `no_grad` blocks, quantized layers: what
is behind them depends on the inputs, but by no derivative. A map of zeros would say that it does
not; so the cut is looked for, and named. In a graph it is a node; in a function the model is run
once more, and what its operations make of the inputs is followed from tensor to tensor.
"""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from ...errors import ModelError, wrong_value
from ..capture.modules import own, private_copy
from ..facts import ModelGraph, read_values
from ..node import Node, reached

PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
LIBRARIES = (os.path.dirname(torch.__file__) + os.sep, PACKAGE + os.sep)
# What takes numbers out of tensors; what looks at nothing but shapes.
READS = (
    "item", "tolist", "numpy", "__array__", "__bool__", "__int__", "__float__", "__index__",
    "__complex__", "__contains__", "equal", "allclose", "is_nonzero", "to_dlpack", "__dlpack__",
)  # fmt: skip
SHAPE_ONLY = (
    "size", "dim", "ndimension", "numel", "nelement", "stride", "storage_offset", "is_contiguous",
    "is_floating_point", "is_complex", "get_device", "element_size", "zeros_like", "ones_like",
    "full_like", "empty_like", "rand_like", "randn_like", "randint_like", "new_zeros", "new_ones",
    "new_full", "new_empty", "new_empty_strided", "__len__", "__repr__", "__format__", "__hash__",
    "shape", "dtype", "device", "layout", "ndim", "requires_grad", "is_leaf", "grad_fn", "is_cuda",
    "is_quantized", "is_sparse", "is_meta", "is_cpu", "names", "_version", "_base", "output_nr",
)  # fmt: skip
COMPARISONS = (
    "gt", "lt", "ge", "le", "eq", "ne", "logical_not", "logical_and", "logical_or", "logical_xor",
    "isnan",
)  # fmt: skip
EMBEDDING = (
    "Numbers of tokens have no gradient: explain the output of the embedding by "
    "LayerIntegratedGradients or LayerGradientXActivation, or integers as such by attr.LRP"
)
PERTURB = "take a perturbation method, such as FeatureAblation"
ADVICE = {
    "integers": f"{EMBEDDING}; or {PERTURB}.",
    "comparison": f"Explain what is behind the comparison by a Layer explainer, or {PERTURB}.",
    "python": f"Keep the values in tensors, or {PERTURB}.",
    "detach": f"Take the model without it, or {PERTURB}.",
    "no_grad": f"Take the model without no_grad, or {PERTURB}.",
    "custom": f"Let its backward return the gradient, or {PERTURB}.",
    "checkpoint": "Pass use_reentrant=False to torch.utils.checkpoint.",
    "quantized": f"Explain the float model that was quantized, or {PERTURB}.",
    "derivative": f"Explain what is behind it by a Layer explainer, or {PERTURB}.",
}


@dataclass(frozen=True)
class Cut:
    """An operation behind which there is no gradient.

    why: a key of ADVICE; place: the user's line of code, or the module.
    """

    operation: str
    why: str
    place: str

    def __str__(self) -> str:
        words = {
            "custom": f"the autograd Function {self.operation}",
            "checkpoint": "torch.utils.checkpoint with use_reentrant=True",
            "no_grad": f"`{self.operation}` in a no_grad block",
        }
        what = words.get(self.why, f"`{self.operation}`")
        return f"{what} ({self.place})" if self.place else what


def name_cuts(cuts: Iterable[Cut]) -> str:
    """A sentence that names the cuts, and what to do about the last."""
    distinct = list(dict.fromkeys(cuts))
    if not distinct:
        return (
            "No operation was seen to cut the path: it leads out of PyTorch, or there is none. "
            f"Pass the inputs that the output depends on, or {PERTURB}."
        )
    named = "; ".join(map(str, distinct[-3:]))
    verb = "cuts" if len(distinct) == 1 else "cut"
    return f"{named} {verb} the path. {ADVICE[distinct[-1].why]}"


# ---- in a function -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Followed:
    """A tensor that depends on what is marked: whether autograd knows, and what cut it off."""

    connected: bool
    cuts: tuple[Cut, ...] = ()


class Follow(TorchFunctionMode):
    """Follows which tensors depend on those that are marked, and where their gradient ends.

    Parameters of the model are read without their gradients, so that a tensor that requires one is
    connected with what is marked.
    """

    def __init__(self, module: nn.Module | None = None) -> None:
        super().__init__()
        named = () if module is None else module.named_modules()
        self._paths = {id(m): path for path, m in named}
        self._known = WeakTensorKeyDictionary()
        self._reads: list[Cut] = []
        self._outside = sys._getframe(1)

    def mark(self, x: Tensor) -> None:
        """Follow a tensor that requires a gradient."""
        self._known[x] = _Followed(connected=True)

    def cuts(self, output: Any) -> list[Cut]:
        """Cuts of the path to an output of the run; possible ones where it seems connected.

        Of one that no tensor leads to, what was read last: it may depend on that, or not.
        """
        found = self._known.get(output) if isinstance(output, Tensor) else None
        if found is not None and found.connected:
            return [c for c in found.cuts if c.why in ("custom", "checkpoint", "derivative")]
        return list(found.cuts) if found is not None else self._reads[-1:]

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None):
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        given = [self._known[x] for x in tensors if x in self._known]
        name = _name_of(func)
        if not given or name in SHAPE_ONLY:
            return func(*args, **kwargs)
        if not name.startswith("__set"):
            args, kwargs = tree_map(self._without_gradient, (args, kwargs))
        result = func(*args, **kwargs)
        if name in READS:
            self._reads.append(self._cut(name, "python"))
        made = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        if name == "__setitem__" or any(x is args[0] for x in made if args):
            made += [x for x in (args[0], args[0]._base) if x is not None]
        for x in made:
            self._known[x] = self._followed(x, given, name, func)
        return result

    def _without_gradient(self, x: Any) -> Any:
        own = isinstance(x, Tensor) and x.requires_grad and x not in self._known
        return x.detach() if own else x

    def _followed(self, x: Tensor, given: list[_Followed], name: str, func: Any) -> _Followed:
        connected = any(g.connected for g in given)
        missing = x.grad_fn is not None and "NotImplemented" in x.grad_fn.name()
        goes_on = connected and x.requires_grad and not missing
        cuts = [c for g in given if goes_on or not g.connected for c in g.cuts]
        if connected and not goes_on:
            cuts.append(self._cut(name, _why(x, name, func)))
        return _Followed(goes_on, tuple(dict.fromkeys(cuts)))

    def _cut(self, name: str, why: str) -> Cut:
        """A cut, with its place in the user's code."""
        frames = list(self._frames())
        for frame in frames:  # in the forward of a Function, nothing has a gradient
            owner: Any = frame.f_locals.get("cls")
            applies = frame.f_code.co_name == "apply" and isinstance(owner, type)
            if applies and issubclass(owner, torch.autograd.Function):
                name = owner.__name__
                why = "checkpoint" if name == "CheckpointFunction" else "custom"
                frames = frames[frames.index(frame) :]
                break
        return Cut(name.strip("_"), why, self._place(frames))

    def _frames(self) -> Iterator[FrameType]:
        """The calls on the way from the run to the operation, the last one first."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame is not self._outside:
            yield frame
            frame = frame.f_back

    def _place(self, frames: list[FrameType]) -> str:
        for frame in frames:
            file, line = frame.f_code.co_filename, frame.f_lineno
            if not file.startswith(LIBRARIES):
                code = linecache.getline(file, line, frame.f_globals).strip()
                return f"{os.path.basename(file)}:{line}" + (f": {code}" if code else "")
        for frame in frames:
            module = frame.f_locals.get("self")
            if isinstance(module, nn.Module):
                path = self._paths.get(id(module), "")
                return f'module "{path}", a {type(module).__name__}'
        return ""


def _name_of(func: Any) -> str:
    name = getattr(func, "__name__", str(func))
    if name in ("__get__", "__set__"):  # of a property, such as x.data
        return getattr(getattr(func, "__self__", None), "__name__", name)
    return name


def _why(x: Tensor, name: str, func: Any) -> str:
    if x.dtype == torch.bool:
        return "comparison"
    if x.is_quantized or "quantized" in str(func):
        return "quantized"
    if not (x.is_floating_point() or x.is_complex()):
        return "integers"
    if name in ("detach", "detach_", "data", "tensor", "as_tensor", "new_tensor"):
        return "detach"
    return "derivative" if torch.is_grad_enabled() else "no_grad"


def cuts_of(
    run: Callable[[Callable[[Tensor], None]], Any], module: nn.Module | None = None
) -> list[Cut]:
    """Run a model once, and find what cuts the path from what it marks.

    run : called with a function that marks a tensor to be followed; returns the output.
    module : whose modules are named by their paths.
    """
    follow = Follow(module)
    try:
        with torch.enable_grad(), follow:
            output = run(follow.mark)
    except Exception:  # a model that does not bear being followed
        return []
    return follow.cuts(output)


def cuts_in_model(model: nn.Module, args: tuple, index: Iterable[int]) -> list[Cut]:
    """Cuts of the path from some arguments of a module to its output, as autograd sees it."""
    twin = private_copy(model, keep_hooks=True)

    def run(mark: Callable[[Tensor], None]) -> Any:
        given = list(own(args))
        for i in index:
            if isinstance(given[i], Tensor) and given[i].is_floating_point():
                given[i].requires_grad_()
                mark(given[i])
        return twin(*given)

    return cuts_of(run, twin)


# ---- in a graph ----------------------------------------------------------------------------------

NAMES = {"_to_copy": "to", "_local_scalar_dense": "item"}


def _cut_at(node: Node) -> Cut:
    op = NAMES.get(node.op, node.op)
    why = "comparison" if op in COMPARISONS else "python" if op == "item" else "integers"
    place = node.source or (f'module "{node.module}"' if node.module else "")
    return Cut(op, why, place)


def cuts_in_graph(graph: ModelGraph, x: Node) -> list[Cut]:
    """The nodes behind which what depends on an input carries no relevance any more."""
    below = reached(graph.output, read_values)
    depends = {x}
    for node in graph.nodes:
        if any(v in depends for v in read_values(node)):
            depends.add(node)
    return [
        _cut_at(n)
        for n in graph.nodes
        if n in depends and n in below and n is not x and not n.carries
        if any(v in depends and v.carries for v in read_values(n))
    ]


def no_path(graph: ModelGraph, model: nn.Module, args: tuple, explained: int) -> ModelError:
    """The error where no input to explain has a path to the output."""
    for i, x in enumerate(graph.inputs[:explained]):
        if not x.floating:
            check_tokens(graph, x, f"input {i}")
    cuts = [c for x in graph.inputs[:explained] for c in cuts_in_graph(graph, x)]
    name = type(model).__name__
    if not cuts and graph.traced:
        cuts = cuts_in_model(model, args, range(explained))
    if not cuts:
        return ModelError(
            f"The output of {name} does not depend on the inputs to explain. Pass the inputs that "
            "it depends on."
        )
    return ModelError(
        f"The output of {name} does not depend on the inputs by operations that can be "
        f"explained: {name_cuts(cuts)}"
    )


def with_cuts(error: ModelError, model: nn.Module, args: tuple, explained: int) -> ModelError:
    """An error of a model that cannot be captured, with what it does outside of tensors."""
    if " the path. " in str(error):  # named already
        return error
    cuts = cuts_in_model(model, args, range(explained))
    told = [c for c in cuts if c.why in ("python", "quantized") or c.operation == "data"]
    if not told:
        return error
    return ModelError(f"{error} What is explained here is a graph: {name_cuts(told)}")


def check_paths(graph: ModelGraph, model: nn.Module, args: tuple, explained: int) -> None:
    """Refuse an input whose path is cut; one that the output does not depend on is none.

    Raises
    ------
    ModelError
        Names the operation.
    """
    if graph.whole:
        return
    above = reached(graph.output, lambda n: n.inputs)
    for i, x in enumerate(graph.inputs[:explained]):
        if not x.floating or x in above:
            continue
        cuts = cuts_in_graph(graph, x)
        if not cuts and graph.traced:  # numbers that were read in Python are constants in it
            cuts = cuts_in_model(model, args, [i])
        if cuts:
            raise ModelError(
                f"The output of {type(model).__name__} does not depend on input {i} by operations "
                f"that can be explained: {name_cuts(cuts)} Or pass the input in "
                "additional_forward_args."
            )
    graph.whole = True


def check_tables(graph: ModelGraph) -> None:
    """Refuse floating inputs whose values, made to integers, are looked up in tables.

    Raises
    ------
    ModelError
        Names the operation.
    """
    found = [n for x, n in graph.output.mixed.items() if x.floating]
    if found:
        raise ModelError(
            "Relevance cannot be handed on from a table to floating numbers that are looked up in "
            f"it: {name_cuts(map(_cut_at, found))} Or pass the token numbers as an input of "
            "integers of their own."
        )


def check_tokens(graph: ModelGraph, x: Node, what: str) -> None:
    """Refuse token numbers whose ways into the model cannot be followed.

    Raises
    ------
    ValueError
        Names the operation.
    """
    do = (
        "Pass it by additional_forward_args, and ask for the relevance at the embeddings with "
        "layers=[...]."
    )
    if x in graph.output.mixed:
        cut = _cut_at(graph.output.mixed[x])
        raise wrong_value(
            "inputs", "must be floating, or token numbers that are looked up one by one (sliced, "
            "moved, offset, renamed or joined before)",
            f"{what}, which {cut} mixes, or reads in a way that cannot be followed", do,
        )  # fmt: skip
    end = graph.ends[graph.inputs.index(x)]
    if end is not x or x in reached(graph.output, lambda n: n.inputs):
        return
    if x in reached(graph.output, read_values):
        raise wrong_value(
            "inputs", "must be floating, or token numbers that enter an embedding (or a table, or "
            "one-hot)", f"{what}, which enters none", do,
        )  # fmt: skip
