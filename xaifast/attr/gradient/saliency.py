"""Explainers by one gradient: sensitivity analysis, gradient x input (book, section 9.3.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...engine.arguments import Call, plain_mode
from ...engine.evaluation import Evaluator, check_gradients, gradients_of, run_over_samples
from ...errors import wrong_value
from ..base import GradientAttribution
from ..listing import Listing


def gradients(evaluator: Evaluator, call: Call, size: int | str) -> list[Tensor]:
    """Gradients of the target at each input, [targets, N, ...].

    Those of its sum over the batch, in one piece if rows are not shown to be apart.
    """
    model = evaluator.model(call, call.batch)
    parts: list[tuple[Tensor, ...]] = []

    def work(rows: slice, samples: Tensor | None) -> None:
        parts.append(gradients_of(model, tuple(x[rows] for x in call.inputs), samples)[1])

    run_over_samples(model, size, work)
    joined = (p[0] if len(p) == 1 else torch.cat(p, 1) for p in zip(*parts, strict=True))
    return check_gradients(joined, call.who)


class Saliency(GradientAttribution):
    """Sensitivity analysis: how much the output changes with each input, at this very point.

    R_i = | dS_c / dx_i |

    Parameters
    ----------
    forward_func : callable
        The model, or a function of the inputs.
    optimize, per_sample : optional
        See `Attribution`.

    References
    ----------
    Simonyan et al. 2014; book, Eq. 9.11 and section 8.4.1.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> attr.Saliency(lambda x: (x**2).sum(1)).attribute(torch.tensor([[1.0, -3.0]]))
    tensor([[2., 6.]])
    """

    listing = Listing("gradient", "gradient", "2", "8.4.1, 9.3.1")

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        abs: bool = True,
        additional_forward_args: Any = None,
        *,
        squared: bool = False,
        over_channels: bool = False,
        internal_batch_size: int | str = "auto",
    ) -> Any:
        """Explain an output by its gradient.

        Parameters
        ----------
        inputs : Tensor [N, ...] or tuple of them, floating
        target : optional
            The output to explain: int, one per sample, tuple for outputs with more dimensions, list
            of tuples; several per input as [N, targets] or "all"; None for an output [N].
        abs : bool, default True
            The absolute value; False: the signed gradient.
        additional_forward_args : optional
            Further arguments of the model. Which of them have a row for each sample is found out,
            or said by `per_sample` (see `Attribution`).
        squared : bool, default False
            The square in place of the absolute value.
        over_channels : bool, default False
            The largest value over dimension 1, [N, 1, ...] (section 8.4.1).
        internal_batch_size : int or "auto" (default)
            Samples at once; "auto" fits the memory that is free.

        Returns
        -------
        Tensor or tuple of Tensor
            Like the inputs; [targets, N, ...] for several targets per input.

        Raises
        ------
        ModelError
            If the output depends on an input by operations without a gradient only (casts to
            integers, comparisons, `detach`, numbers read in Python, quantized layers); they are
            named. An input that the output does not depend on has zeros.
        ValueError, TypeError
            If an argument does not fit.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> net = torch.nn.Conv2d(3, 2, 4)
        >>> saliency = attr.Saliency(net)
        >>> x = torch.rand(1, 3, 4, 4)
        >>> saliency.attribute(x, target=(1, 0, 0), over_channels=True).shape
        torch.Size([1, 1, 4, 4])
        """
        call = self._call(inputs, target, additional_forward_args)
        if over_channels and not (abs or squared):
            raise wrong_value(
                "Saliency: over_channels", "needs abs or squared", "abs=False",
                "The largest of signed values is not a saliency.",
            )  # fmt: skip
        if over_channels and any(x.dim() < 2 for x in call.inputs):
            raise wrong_value(
                "Saliency: over_channels", "needs inputs [N, C, ...]",
                "an input without channels", "Leave it out.",
            )  # fmt: skip

        def shown(g: Tensor) -> Tensor:
            g = g.square() if squared else g.abs() if abs else g
            return g.amax(2, keepdim=True) if over_channels else g

        if not call.batch:
            return call.nothing()
        with plain_mode():
            found = gradients(self._evaluator, call, internal_batch_size)
        return call.shaped(shown(g) for g in found)


class InputXGradient(GradientAttribution):
    """Gradient x input: the first term of a Taylor expansion at zero.

    R_i = x_i dS_c / dx_i

    Parameters
    ----------
    forward_func : callable
        The model, or a function of the inputs.
    optimize, per_sample : optional
        See `Attribution`.

    References
    ----------
    Shrikumar et al. 2016; book, Eq. 9.12 and 22.1.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> attr.InputXGradient(lambda x: (x**2).sum(1)).attribute(torch.tensor([[1.0, -3.0]]))
    tensor([[ 2., 18.]])
    """

    listing = Listing("gradient", "gradient", "2", "9.3.1")

    @property
    def multiplies_by_inputs(self) -> bool:
        """Attributions are in the units of the output."""
        return True

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        internal_batch_size: int | str = "auto",
    ) -> Any:
        """Explain an output by its gradient times the input.

        Parameters
        ----------
        inputs, target, additional_forward_args, internal_batch_size : as in `Saliency.attribute`.

        Returns
        -------
        Tensor or tuple of Tensor
            Like the inputs; [targets, N, ...] for several targets per input.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> attr.InputXGradient(torch.nn.Linear(2, 3)).attribute(torch.ones(1, 2), target=1).shape
        torch.Size([1, 2])
        """
        call = self._call(inputs, target, additional_forward_args)
        if not call.batch:
            return call.nothing()
        with plain_mode():
            found = gradients(self._evaluator, call, internal_batch_size)
        return call.shaped(x * g for x, g in zip(call.inputs, found, strict=True))
