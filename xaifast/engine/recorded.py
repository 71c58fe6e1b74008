"""Explanations of fixed shape at the least launch cost: recorded once, then only run.

`recorded` turns a call of an explainer into a module without Python in between, for torch.compile
and torch.export; `Captured` runs such a module, on CUDA by replaying one CUDA graph. Large
convolutions on a CPU are another matter: what counts there is weights prepared for their kernels,
which no recorded operation can hold, so that `Captured` runs the rules themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from .. import ops
from ..errors import ModelError, describe, wrong_value
from ..graph.flat import Argument, record, split
from ..graph.layers import choice
from ..graph.layers.conv import Conv
from ..graph.node import Node
from ..graph.proof.cuts import check_paths
from ..graph.proof.verify import to_compute
from ..graph.signature import signature_of
from .arguments import Call, as_tuple, extra_arguments, plain_mode
from .builder import Builder, Built
from .precision import products_in
from .start import Start, start_of
from .target import select
from .traversal import source_of

WARM_UP = 3  # runs on a side stream before a CUDA graph is captured, as PyTorch advises


# ---- what is recorded ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Seed:
    """How the last argument of a recorded explanation becomes the first message.

    form: "index" [N] or [N, targets], places in the flattened output of a sample; "mask" of
    outputs whose sum is explained; "start", the relevance of every output; "all" of a single
    output, without an argument. one: relevance 1 in place of the output's value.
    """

    form: str
    one: bool
    several: bool = False

    def relevance(self, output: Tensor, given: Tensor | None) -> Tensor:
        """Relevance [targets, N, ...] of the output; NaN for an index out of range."""
        if self.form == "start":
            return (given if self.several else given.unsqueeze(0)).to(output)  # type: ignore[union-attr]
        values = torch.ones_like(output) if self.one else output
        if given is None:
            return values.unsqueeze(0)
        if self.form == "mask":
            return torch.where(given, values, 0).unsqueeze(0)
        flat = values.reshape(output.shape[0], -1)
        size = flat.shape[1]
        index = (given.T if self.several else given.unsqueeze(0)).unsqueeze(-1)
        index = torch.where(index < 0, index + size, index)
        chosen = index == torch.arange(size, device=flat.device)
        R = torch.where(chosen, flat, 0)
        R = torch.where((index < 0) | (index >= size), torch.nan, R)
        return R.reshape(index.shape[0], *output.shape)


@dataclass(frozen=True)
class Recording:
    """A call of an explainer on a graph that is built, for which operations can be recorded."""

    call: Call
    built: Built
    seed: Seed
    last: Tensor | None  # the argument of the seed
    builder: Builder
    current: Callable[[], Builder]  # the explainer's own, another one when rules have changed

    @property
    def verify(self) -> str:
        """As the explainer."""
        return self.builder.verify

    @property
    def args(self) -> tuple:
        """All that the model was called with."""
        return self.call.arguments

    @property
    def explained(self) -> int:
        """How many arguments, the first ones, get relevance."""
        return len(self.call.inputs)

    @property
    def single(self) -> bool:
        """Whether one tensor goes out."""
        return self.call.single

    def graph(self, any_batch: bool) -> fx.GraphModule:
        """Record it; any_batch: for batches of any size, where the model allows it."""
        weights = self.built.weights
        nodes = [n for n in self.built.graph.nodes if n.leaf is not None and n.constant]
        nodes = [n for n in nodes if isinstance(weights.leaf(n), Tensor)]

        def run(leaves: list[Tensor], given: list[Tensor]) -> tuple[Tensor, ...]:
            weights.forget()
            weights.leaves = dict(zip(nodes, leaves, strict=True))
            return self.run(given)

        try:
            with plain_mode():
                leaves = [weights.leaf(n) for n in nodes]
                return record(run, leaves, self.arguments(any_batch), self.single)
        finally:
            weights.leaves = {}
            weights.forget()

    def arguments(self, any_batch: bool = False) -> list[Argument]:
        """The tensors that the graph takes, in order."""
        rows = self.built.graph.rows if any_batch else None
        names = [
            ("inputs" if self.single else f"inputs[{i}]")
            if i < self.explained
            else f"additional_forward_args[{i - self.explained}]"
            for i in range(len(self.args))
        ]
        found = [
            Argument(name, x, row)
            for name, x, row in zip(
                names, self.args, rows or (False,) * len(self.args), strict=True
            )
            if isinstance(x, Tensor)
        ]
        if self.last is not None:
            name = "start" if self.seed.form == "start" else "target"
            found.append(Argument(name, self.last, rows is not None and self._by_row()))
        return found

    def explain(self, *given: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Compute the result of the recorded graph by the rules themselves."""
        results = self.run(list(given))
        return results[0] if self.single else results

    @property
    def prepares_weights(self) -> bool:
        """Whether convolutions are large enough for weights in the layout of a CPU kernel."""
        batch = len(self.args[0])
        layers = (n.layer for n in self.built.graph.nodes if isinstance(n.layer, Conv))
        like = next(x for x in to_compute(self.args) if isinstance(x, Tensor))
        return any(
            choice.runs_packed(layer, like.new_empty(()).expand(batch, *layer.node.inputs[0].shape))
            for layer in layers
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the output, without the batch."""
        return tuple(int(n) for n in self.built.graph.output.shape)

    def _by_row(self) -> bool:
        """Whether the first dimension of the seed's argument is the batch."""
        whole = self.last is not None and self.last.dim() == len(self.shape) + 1
        return self.seed.form == "index" or (whole and not self.seed.several)

    def run(self, given: list[Tensor]) -> tuple[Tensor, ...]:
        """The relevance of each input, as `attribute` returns it."""
        rest = iter(given)
        args = tuple(next(rest) if isinstance(x, Tensor) else x for x in self.args)
        last = next(rest, None)
        graph = self.built.graph

        def start(output: Tensor, values: dict[Node, Any]) -> tuple[dict[Node, Tensor], Tensor]:
            R = self.seed.relevance(output, last)
            return {graph.output: R}, R

        R, found = self.built.propagation(to_compute(args), start)
        results = []
        for i, x in enumerate(args[: self.explained]):
            source = source_of(graph, i, x.dtype)
            R_x = found[source] if source in found else R.new_zeros((*R.shape[:2], *source.shape))
            R_x = R_x if self.seed.several else R_x[0]
            results.append((R_x.to(x.dtype) if x.is_floating_point() else R_x).contiguous())
        return tuple(results)


def recording(current: Callable[[], Builder], call: Call, start: str | Tensor) -> Recording:
    """Build what is to be recorded of a call.

    current: returns the builder of the explainer.

    Raises
    ------
    ModelError
        If some operation has no exact rule, or the model's code depends on the data.
    ValueError, TypeError
        If the target or the start does not fit.
    """
    if not call.batch:
        raise wrong_value("inputs", "must hold at least one sample", "an empty batch", "Pass one.")
    if isinstance(start, str) and start == "log_odds":
        raise wrong_value(
            "start", "must not depend on which classes the targets are", '"log_odds"',
            "Use attribute, or another start.",
        )  # fmt: skip
    args, explained, builder = call.arguments, len(call.inputs), current()
    with plain_mode():
        built = builder.anew(args, explained)
    if built.graph.traced:
        raise ModelError(
            f"The code of {type(builder.model).__name__} depends on the data, so that no one graph "
            "explains it. Use attribute."
        )
    check_paths(built.graph, builder.model, args, explained)
    shape = tuple(int(n) for n in built.graph.output.shape)
    begun = start_of(start, call.target, shape, call.batch)
    seed, last = _seed(begun, call.target)
    last = None if last is None else last.to(call.inputs[0].device)
    return Recording(call, built, seed, last, builder, current)


def _seed(start: Start, target: Any) -> tuple[Seed, Tensor | None]:
    """The start in the form of a recorded graph's last argument."""
    one, selection = start.word == "one", start.selection
    if start.given is not None:
        given = start.given
        return Seed("start", False, selection.several), given if selection.several else given[0]
    if target is None:
        return Seed("all", one), None
    if selection.mask is not None:
        mask = selection.mask[0]
        return Seed("mask", one), mask[0] if len(mask) == 1 else mask
    several = selection.several
    index = selection.index.T if several else selection.index[0]  # type: ignore[union-attr,index]
    return Seed("index", one, several), index.contiguous()


# ---- captured ------------------------------------------------------------------------------------


class Captured:
    """An explanation of fixed shapes, to be called again and again; made by `capture`.

    On CUDA a call copies its arguments into place and replays one CUDA graph; elsewhere it runs the
    recorded operations, or the rules on weights that are kept prepared where a convolution is
    large. Shapes, dtypes and devices are checked, values are not: NaN gives NaN, and so does a
    target out of range; relevance that overflows comes back infinite or NaN, and `attribute` of the
    same inputs names the node that made it so. Parameters are read where they are: a training step
    is seen. For a model whose parameters have moved, or that has changed otherwise, capture again.
    """

    def __init__(self, what: Recording) -> None:
        self._what = what
        self._arguments = what.arguments()
        self._constants = signature_of(what.args, None)
        with plain_mode(), torch.no_grad(), products_in(what.built.precision, what.args):
            self._places = what.built.weights.places()
            self._recorded = split(what.graph(any_batch=False))  # refuses what depends on values
            self._run: Callable[..., Any] = self._recorded.run
            self._values = self._state()
            self._plain = False
            if what.args[0].device.type == "cuda":
                self._run = _Replay(self._recorded.run, [a.example for a in self._arguments])
            elif what.prepares_weights:
                self._run, self._plain = what.explain, True

    def __call__(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        start: Tensor | None = None,
    ) -> Any:
        """Explain inputs of the captured shapes.

        Parameters
        ----------
        inputs, target, additional_forward_args, start
            As in `capture`, of the same form. A tensor of ints on the device of the inputs, [N] or
            [N, targets], is taken without a look at its values, and so without waiting for them.

        Returns
        -------
        Tensor or tuple of Tensor
            As from `attribute`; the caller's own.

        Raises
        ------
        ValueError
            If an argument has another shape, dtype or device than at the capture.
        ModelError
            If a parameter has moved (`model.to`, another tensor in its place), or the model's code
            does something else than at the capture.
        """
        given = self._given(inputs, target, additional_forward_args, start)
        precision = self._what.built.precision
        with plain_mode(), torch.no_grad(), products_in(precision, self._what.args):
            self._follow((*as_tuple(inputs), *extra_arguments(additional_forward_args)))
            return self._run(*given)

    def _follow(self, args: tuple) -> None:
        """See that the model is what it was; derive weights again if values have changed.

        args: of the call, for what is no tensor among them.
        """
        what, whole = self._what, self._what.verify != "never"
        weights = what.built.weights
        name = type(weights.model).__name__
        if what.current() is not what.builder:
            raise ModelError(
                f"The rules of captum's on the modules of {name} are others than at the capture. "
                "Call capture again."
            )
        model = what.builder.model
        if weights.places() != self._places:
            raise ModelError(
                f"Parameters of {name} have moved, or others have taken their place, since the "
                "capture. Call capture again."
            )
        if whole and not what.built.holds(model, args):
            raise ModelError(
                f"The code of {name} does something else than at the capture: an attribute, a "
                "hook, a global, an additional argument or the like has changed. Call capture "
                "again."
            )
        if self._plain:
            weights.refresh(whole)
            return
        values = self._state()
        if values != self._values:
            self._recorded.refresh()
            self._values = values

    def _state(self) -> tuple[list[int], list[int]]:
        """Versions and hashes of the tensors from which something is derived."""
        sources = self._recorded.sources
        versions = [-1 if x.is_inference() else x._version for x in sources]
        return versions, ops.fingerprint(sources) if self._what.verify != "never" else []

    def _given(self, inputs: Any, target: Any, additional: Any, start: Any) -> list[Tensor]:
        """The arguments of the graph, checked against those of the capture."""
        args = (*as_tuple(inputs), *extra_arguments(additional))
        what = self._what
        if len(args) != len(what.args) or len(as_tuple(inputs)) != what.explained:
            raise wrong_value(
                "inputs", f"must be {what.explained}, with {len(what.args) - what.explained} "
                "additional arguments, as captured",
                f"{len(as_tuple(inputs))} and {len(args) - len(as_tuple(inputs))}",
                "Capture again for others.",
            )  # fmt: skip
        constants = zip(args, what.args, signature_of(args, None), self._constants, strict=True)
        for x, known, now, then in constants:
            # What only its type tells, the rehearsal compares.
            unseen = now is type(x) and what.verify == "never" and x is not known
            if not isinstance(known, Tensor) and (now != then or unseen):
                raise wrong_value(
                    "additional_forward_args", f"must hold {describe(known)}, as captured",
                    describe(x), "Capture again for others.",
                )  # fmt: skip
        given = [x for x, known in zip(args, what.args, strict=True) if isinstance(known, Tensor)]
        if what.last is not None:
            given.append(self._last(target, start))
        elif target is not None:
            raise wrong_value("target", "must be None, as captured", target, "Capture again.")
        for x, argument in zip(given, self._arguments, strict=True):
            _check(x, argument)
        return given

    def _last(self, target: Any, start: Any) -> Any:
        """The target or the start, in the form of the capture."""
        known, seed = self._what.last, self._what.seed
        assert known is not None  # as the caller saw to it
        if seed.form == "start":
            return start
        if isinstance(target, Tensor) and target.device == known.device:
            is_mask = target.dtype == torch.bool
            plain = not target.is_floating_point() and is_mask == (seed.form == "mask")
            if plain and target.shape == known.shape:
                return target.to(known.dtype)
        what = self._what
        begun = Start(select(target, what.shape, what.call.batch), "one" if seed.one else "output")
        other, last = _seed(begun, target)
        if other != seed or last is None:
            raise wrong_value(
                "target", f"must have the form of the captured one ({_words(seed)})", target,
                "Capture again for others.",
            )  # fmt: skip
        return last.to(known.device, non_blocking=True)


def _words(seed: Seed) -> str:
    if seed.form == "mask":
        return "a region of the output"
    return "several for each sample" if seed.several else "one for each sample"


def _check(x: Any, known: Argument) -> None:
    """Refuse what does not fit into the place of an argument."""
    like = known.example
    fits = isinstance(x, Tensor) and x.shape == like.shape and x.dtype == like.dtype
    if not fits or x.device != like.device:
        raise wrong_value(
            known.name, f"must be as captured, of shape {list(like.shape)} and dtype {like.dtype} "
            f"on {like.device}", f"{describe(x)} on {x.device}" if isinstance(x, Tensor) else x,
            "Capture again for others.",
        )  # fmt: skip


class _Replay:
    """A CUDA graph of a module, with memory of its own for what goes in and out."""

    def __init__(self, module: fx.GraphModule, examples: list[Tensor]) -> None:
        self._inputs = [x.detach().clone(memory_format=torch.contiguous_format) for x in examples]
        device = self._inputs[0].device
        with torch.cuda.device(device):
            side = torch.cuda.Stream(device)
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):  # libraries set themselves up, kernels are chosen
                for _ in range(WARM_UP):
                    module(*self._inputs)
            torch.cuda.current_stream(device).wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._outputs = module(*self._inputs)
        self._device = device

    def __call__(self, *given: Tensor) -> Any:
        with torch.cuda.device(self._device):
            for place, x in zip(self._inputs, given, strict=True):
                place.copy_(x, non_blocking=True)
            self._graph.replay()
            out = self._outputs
            return out.clone() if isinstance(out, Tensor) else tuple(x.clone() for x in out)
