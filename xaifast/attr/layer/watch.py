"""A model, opened at one of its modules: what enters or leaves there, and gradients to it.

The module is watched in a shell of the model, made anew for each run, so the user's model has no
hook, not for a moment. Where only a function is given, its module is watched itself, while
the function runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...engine.arguments import Call, module_of
from ...engine.builder import warn_training
from ...engine.differentiation import Differentiation
from ...engine.evaluation import check_finite, check_gradients, check_rows, output_of
from ...errors import ModelError, describe, wrong_type, wrong_value
from ...graph.proof.rehearsal import check_shell
from ...graph.proof.shell import shell_of

Values = tuple[Tensor, ...]  # what enters or leaves one module


def path_of(who: str, model: nn.Module, layer: Any) -> str:
    """The path of a module in a model, by the module or by the path itself."""
    named = dict(model.named_modules())
    if isinstance(layer, str) and layer in named:
        return layer
    found = next((path for path, m in named.items() if m is layer), None)
    if found is None:
        raise wrong_value(
            f"{who}: layer", "must be a module of the model, or its path",
            describe(layer) if isinstance(layer, str) else type(layer).__name__,
            f"Paths: {', '.join(list(named)[1:12])} ...",
        )  # fmt: skip
    return found


def check_floating(who: str, x: Tensor) -> None:
    """Refuse what has no gradient."""
    if not x.is_floating_point():
        raise ModelError(
            f"{who}: what passes the layer must be floating; it is {describe(x)}. Explain the "
            "output of the embedding, not its input."
        )


class _Watch:
    """Looks at what passes one module in one run, and may put something else in its place."""

    def __init__(
        self,
        who: str,
        at_input: bool,
        instead: Any,
        leaf: bool,
        alone: bool,
        see: Callable[[Values], None] | None = None,
    ) -> None:
        self.who, self.at_input, self.instead = who, at_input, instead
        self.leaf, self.alone, self.see = leaf, alone, see
        self.values: Values | None = None
        self.is_tuple = False

    def __call__(self, module: nn.Module, inputs: Any, output: Any = None) -> Any:
        passing = inputs if self.at_input else output
        if self.values is not None:
            raise ModelError(
                f"{self.who}: layer {type(module).__name__} is called more than once in a run of "
                "the model, so it has no one output. Explain a module that is called once."
            )
        given = passing if isinstance(passing, tuple) else (passing,)
        self.is_tuple = len(given) > 1
        if not given or not all(isinstance(x, Tensor) for x in given):
            raise ModelError(
                f"{self.who}: layer {type(module).__name__} must take or return tensors; it has "
                f"{describe(passing)}. Explain a module behind it that does."
            )
        for x in given if self.leaf else ():
            check_floating(self.who, x)
        self.values = self._replaced(given)
        if self.see is not None:
            self.see(self.values)
        # What comes behind may change it in place: hand on a copy, keep the value.
        onward = tuple(v.clone() for v in self.values)
        return onward if isinstance(passing, tuple) else onward[0]

    def _replaced(self, given: Values) -> Values:
        values = given if self.instead is None else self.instead
        if not self.leaf:
            return tuple(v.detach() for v in values)
        # Gradients of several modules may pass one of them on the way to another.
        return tuple(
            v if v.requires_grad and not self.alone else v.detach().requires_grad_() for v in values
        )


class Inner:
    """A model and one or several of its modules.

    Parameters
    ----------
    who : name of the explainer, for errors.
    function : the model, or a function that calls it.
    layer : a module, its path, or a list of them.
    """

    def __init__(self, who: str, function: Callable, layer: Any) -> None:
        self.who, self.function = who, function
        self.several = isinstance(layer, (list, tuple))
        self.layers: Sequence[Any] = list(layer) if self.several else [layer]
        self._warned = False
        self._located()

    @property
    def module(self) -> nn.Module | None:
        """The model as it is now, if it is a module."""
        return module_of(self.function)

    def _located(self) -> tuple[nn.Module | None, list[str]]:
        """The model, if it is a module, and where the layers are in it: they may have moved."""
        module, who = self.module, self.who
        if module is not None:
            return module, [path_of(who, module, x) for x in self.layers]
        if not all(isinstance(x, nn.Module) for x in self.layers):
            raise wrong_type(
                f"{who}: layer", "must be a module where forward_func is a function",
                self.layers[0] if len(self.layers) == 1 else self.layers, "Pass the module itself.",
            )  # fmt: skip
        return None, []

    def _opened(self) -> tuple[Callable, list[nn.Module]]:
        """The function to run, and the modules to watch in it."""
        module, paths = self._located()
        if module is None:
            return self.function, list(self.layers)
        if not self._warned:
            warn_training(module)
            self._warned = True
        shell = shell_of(module).module
        return shell, [shell.get_submodule(path) for path in paths]

    @contextmanager
    def _watching(self, watches: list[_Watch]) -> Iterator[Callable]:
        function, modules = self._opened()
        with ExitStack() as stack:
            for module, watch in zip(modules, watches, strict=True):
                if watch.at_input:
                    handle = module.register_forward_pre_hook(watch)
                else:
                    handle = module.register_forward_hook(watch)
                stack.callback(handle.remove)
            yield function

    def run(
        self,
        call: Call,
        inputs: Values,
        samples: Tensor | None,
        at_input: bool,
        instead: list[Values] | None = None,
        leaf: bool = False,
        see: Callable[[int, Values], None] | None = None,
    ) -> tuple[Tensor, list[_Watch]]:
        """Run the model on rows; its output, and what passed each module.

        see: is shown what passes each module, while it does.
        """
        watches = [
            _Watch(
                self.who, at_input, instead and instead[i], leaf, len(self.layers) == 1,
                see and partial(see, i),
            )
            for i in range(len(self.layers))
        ]  # fmt: skip
        args = (*inputs, *call.extra_rows(samples))
        module = self.module
        if module is not None:
            check_shell(self.who, module, args)
        with self._watching(watches) as function:
            output = output_of(function, args)
        for watch, layer in zip(watches, self.layers, strict=True):
            if watch.values is None:
                raise ModelError(
                    f"{self.who}: layer {describe(layer)} is not called in a run of the model. "
                    "Explain a module that is."
                )
        return output, watches

    @torch.no_grad()
    def tried(self, call: Call, inputs: Values, extra: tuple, at_input: bool) -> list[Tensor]:
        """The output and what passes each module, for some rows; see `independence`."""
        some = replace(call, inputs=inputs, extra=extra, batch=len(inputs[0]))
        output, watches = self.run(some, inputs, None, at_input)
        return [output, *(v for w in watches for v in w.values or ())]

    def values(
        self, call: Call, inputs: Values, samples: Tensor | None, at_input: bool
    ) -> list[Values]:
        """Values that pass each module."""
        with torch.no_grad():
            _, watches = self.run(call, inputs, samples, at_input)
        self.tuples = [w.is_tuple for w in watches]
        return [w.values for w in watches if w.values is not None]

    def gradients(
        self,
        call: Call,
        inputs: Values,
        samples: Tensor | None,
        at_input: bool,
        instead: list[Values] | None = None,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> tuple[list[Values], list[Values]]:
        """Values that pass each module, and the target's gradients there, [targets, rows, ...]."""
        with torch.enable_grad():
            output, watches = self.run(call, inputs, samples, at_input, instead, leaf=True)
            check_rows(output, None if samples is None else len(inputs[0]), self.who)
            check_finite(output.detach())
            scores = call.chosen(output, samples).values(output)
        self.tuples = [w.is_tuple for w in watches]
        values = [w.values for w in watches if w.values is not None]
        flat = [v for vs in values for v in vs]
        names = [f"value {i} that passes the layer" for i in range(len(flat))]
        names = ["what passes the layer"] if len(flat) == 1 else names

        def rerun(points: Sequence[Tensor], mark: Callable[[Tensor, int], Any]) -> Tensor:
            given = _grouped(list(points), values)
            first = [sum(map(len, given[:k])) for k in range(len(given))]

            def see(k: int, passing: Values) -> None:
                for j, v in enumerate(passing):
                    mark(v, first[k] + j)

            leaf = torch.is_grad_enabled()
            return self.run(call, inputs, samples, at_input, given, leaf, see)[0]

        differentiation = Differentiation(self.who, names, rerun, self.module, call.unused)
        found = differentiation.gradients(scores, flat, grad_kwargs or {})
        return [tuple(v.detach() for v in vs) for vs in values], _grouped(
            check_gradients(found, self.who), values
        )

    def shaped(self, parts: list[Values]) -> Any:
        """As the user expects them: a tensor or a tuple for each module, a list for several."""
        given = [p if t else p[0] for p, t in zip(parts, self.tuples, strict=True)]
        return given if self.several else given[0]


def _grouped(flat: list[Tensor], like: list[Values]) -> list[Values]:
    groups, at = [], 0
    for values in like:
        groups.append(tuple(flat[at : at + len(values)]))
        at += len(values)
    return groups
