"""Gradients that autograd says are connected; what is not is shown to be unused, or refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..graph.capture.modules import first_line
from ..graph.proof.cuts import cuts_of, name_cuts
from .batching import is_out_of_memory

# Runs the model with other values of what gradients are taken at, [rows, ...] each; what it hands
# to its second argument, the value and its index, is what the rest of the run starts from.
Rerun = Callable[[Sequence[Tensor], Callable[[Tensor, int], Any]], Any]


class Differentiation:
    """Gradients of scores at some values, for one run of a model.

    Parameters
    ----------
    who : the explainer, for errors.
    names : what the values are, one by one, in words.
    rerun : runs the model again.
    module : whose modules are named in errors.
    unused : which values are known to be unused; added to.
    """

    def __init__(
        self,
        who: str,
        names: Sequence[str],
        rerun: Rerun,
        module: nn.Module | None,
        unused: set[str],
    ) -> None:
        self.who, self.names, self.rerun = who, names, rerun
        self.module, self.unused = module, unused

    def gradients(
        self, scores: Tensor, leaves: Sequence[Tensor], options: dict[str, Any]
    ) -> list[Tensor]:
        """The gradients of scores [targets, rows], [targets, rows, ...] at each leaf.

        Raises
        ------
        ModelError
            If the output depends on a leaf by operations without a gradient; names them.
        """
        if not scores.requires_grad:
            self._check(leaves, list(range(len(leaves))))
        options = {"allow_unused": True, **options}
        try:
            found = [
                torch.autograd.grad(s.sum(), leaves, retain_graph=t < len(scores) - 1, **options)
                for t, s in enumerate(scores)
            ]
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise self._failed(leaves, error) from error
        self._check(leaves, [i for i, g in enumerate(found[0]) if g is None])
        return [
            leaf.new_zeros((len(scores), *leaf.shape)) if gs[0] is None else torch.stack(gs)
            for leaf, gs in zip(leaves, zip(*found, strict=True), strict=True)
        ]

    def _failed(self, leaves: Sequence[Tensor], error: RuntimeError) -> ModelError:
        cuts = self._trace(leaves, range(len(leaves)))
        why = name_cuts(cuts) if cuts else "Take a perturbation method, such as FeatureAblation."
        return ModelError(
            f"{self.who} needs the gradient of the model, which PyTorch cannot take "
            f"({first_line(error)}). {why}"
        )

    def _check(self, leaves: Sequence[Tensor], missing: list[int]) -> None:
        """Refuse what has no gradient, unless others have one and the output does not depend on it.

        To be shown so, no operation may lead from it to the output, and other values of it must
        leave the output as it is.
        """
        missing = [i for i in missing if self.names[i] not in self.unused]
        everything = len(missing) == len(leaves)
        if everything:
            raise self._cut("the inputs" if len(leaves) > 1 else self.names[0], leaves, missing)
        for i in missing:
            cuts = self._trace(leaves, [i])
            certain = any(c.why != "python" for c in cuts)  # what is read may only be checked
            if certain or self._depends(leaves, i):
                raise self._cut(self.names[i], leaves, [i])
            self.unused.add(self.names[i])

    def _cut(self, what: str, leaves: Sequence[Tensor], index: Sequence[int]) -> ModelError:
        return ModelError(
            f"{self.who} needs the gradient of the model, but the output does not depend on {what} "
            f"by differentiable operations. {name_cuts(self._trace(leaves, index))}"
        )

    def _trace(self, leaves: Sequence[Tensor], index: Sequence[int] | range) -> list:
        def run(mark: Callable[[Tensor], None]) -> Any:
            points = [x.detach().clone().requires_grad_(i in index) for i, x in enumerate(leaves)]
            return self.rerun(points, lambda x, i: mark(x) if i in index else None)

        return cuts_of(run, self.module)

    def _depends(self, leaves: Sequence[Tensor], i: int) -> bool:
        """Whether the output changes with value i, or cannot be seen not to."""
        points = [x.detach() for x in leaves]

        def output(x: Tensor) -> Tensor | None:
            given = [x if k == i else p for k, p in enumerate(points)]
            try:
                with torch.no_grad():
                    return torch.as_tensor(self.rerun(given, lambda *_: None))
            except Exception:  # a value that the model does not bear
                return None

        x = points[i]
        expected = output(x)
        changed = (-x, x + 1, 3 * x + 0.5, x.flip(-1), torch.zeros_like(x))
        others = [y for y in map(output, changed) if y is not None]
        if expected is None or not others:
            return True
        scale = float(expected.abs().amax()) if expected.numel() else 0.0
        return not all(
            y.shape == expected.shape and torch.allclose(y, expected, 1e-5, 1e-6 * scale)
            for y in others
        )
