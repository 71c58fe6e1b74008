"""Paths through a layer: integrated gradients of what passes it, and its conductance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ... import ops
from ...engine.arguments import Call, plain_mode
from ...engine.baselines import check_baselines
from ...engine.batching import batches, check_batch_size
from ...engine.evaluation import PlainModel, row_sums, rows_at_once, scores_of
from ...errors import wrong_value
from ..base import progress_bar
from ..listing import Listing
from ..path.integrated_gradients import (
    PathSum,
    gap_of,
    sum_along_paths,
    warn_undivided,
)
from ..path.quadrature import check_method, check_steps, nodes_and_weights
from .activation import LayerAttribution, LayerRows, joined
from .watch import Inner, Values, check_floating


class _LayerModel(LayerRows):
    """A model whose stations are what passes its layers (see `path.PathModel`)."""

    def __init__(
        self, call: Call, inner: Inner, at_input: bool, grad_kwargs: dict[str, Any] | None
    ) -> None:
        super().__init__(call, inner, at_input)
        self.grad_kwargs = grad_kwargs

    def enter(self, inputs: tuple, samples: Tensor | None = None) -> list[Tensor]:
        """Values that pass the layers for these inputs."""
        values = self.inner.values(self.call, inputs, samples, self.at_input)
        self.counts = [len(vs) for vs in values]
        flat = [v for vs in values for v in vs]
        for v in flat:
            check_floating(self.inner.who, v)
        return flat

    def grouped(self, flat: Sequence[Tensor]) -> list[Values]:
        """Values of each layer, from those of all in a row."""
        rest = iter(flat)
        return [tuple(islice(rest, count)) for count in self.counts]

    def rectified(self) -> list[bool]:
        """No station goes through a ReLU unseen."""
        return [False] * sum(self.counts)

    def gradients(
        self, points: list[Tensor], samples: Tensor | None
    ) -> tuple[list[Values], list[Tensor]]:
        """Values that pass the layers, and the gradients there, with points in their place."""
        x = self.call.inputs
        if samples is not None:
            x = tuple(v[samples.to(v.device)] for v in x)
        values, found = self.inner.gradients(
            self.call, x, samples, self.at_input, self.grouped(points), self.grad_kwargs
        )
        return values, [g for gs in found for g in gs]

    def leave(self, totals: list[Tensor]) -> tuple[Tensor, ...]:
        """Gradients at the layers are all that is asked for."""
        return tuple(totals)


class _LayerPath(LayerAttribution):
    """The base of both explainers: their arguments, and the gap."""

    def has_convergence_delta(self) -> bool:
        """Yes: the completeness gap."""
        return True

    def _prepare(
        self, inputs: Any, baselines: Any, target: Any, additional: Any, size: Any
    ) -> tuple[Call, tuple[Tensor, ...], int | str]:
        name = type(self).__name__
        size = "auto" if size is None else size
        check_batch_size(size)
        call = self._call(inputs, target, additional)
        several = check_baselines(name, baselines, call.inputs)
        if len(several) > 1:
            raise wrong_value(
                f"{name}: baselines", "must be one baseline", f"a list of {len(several)}",
                "Call it for each, and average.",
            )  # fmt: skip
        whole = tuple(b.expand_as(x) for b, x in zip(several[0], call.inputs, strict=True))
        return call, whole, size

    def _gap(self, call: Call, whole: tuple, attributions: list[Values], size: int | str) -> Tensor:
        """Sum R - (S(x) - S(x')); of all rows where the layer has more or fewer than the output."""
        model = PlainModel(call)
        size = size if model.apart else "auto"
        difference = scores_of(model, call.inputs, size) - scores_of(model, whole, size)
        sums = [row_sums(a) for vs in attributions for a in vs]
        if len({s.shape for s in sums}) > 1:
            sums = [s.sum(1, keepdim=True) for s in sums]
        return call.one_target(gap_of(sum(sums), difference))


class LayerIntegratedGradients(_LayerPath):
    """Integrated gradients of what passes a layer, such as the vectors of an embedding.

    R_j = (a_j - a'_j) int_0^1 dS(a' + alpha (a - a')) / da_j dalpha

    a and a' are the values of the layer for the inputs and for the baselines; what by-passes the
    layer stays that of the inputs.

    Parameters
    ----------
    forward_func, layer, device_ids : as in `LayerAttribution`; a list of layers is explained
        jointly.
    multiply_by_inputs : bool, default True
        Whether the averaged gradient is multiplied by a - a'.

    References
    ----------
    Sundararajan et al. 2017; book, Eq. 9.19.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> net = torch.nn.Sequential(
    ...     torch.nn.Embedding(9, 4), torch.nn.Flatten(), torch.nn.Linear(8, 2))
    >>> lig = attr.LayerIntegratedGradients(net, net[0])
    >>> tokens, padding = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[0, 0]])
    >>> lig.attribute(tokens, padding, target=1).shape
    torch.Size([2, 2, 4])
    """

    listing = Listing("layer", "gradient", "2 * n_steps + 2", "9.3.2")

    def __init__(
        self,
        forward_func: Callable,
        layer: Any,
        device_ids: Any = None,
        multiply_by_inputs: bool = True,
        *,
        per_sample: tuple[bool, ...] | None = None,
    ) -> None:
        super().__init__(forward_func, layer, device_ids, per_sample=per_sample)
        self._multiply_by_inputs = multiply_by_inputs

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether attributions are in the units of the output."""
        return self._multiply_by_inputs

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | str | None = "auto",
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        show_progress: bool = False,
    ) -> Any:
        """Explain an output by a layer, along the path from what a baseline makes of it.

        Parameters
        ----------
        inputs : Tensor [N, ...] or tuple of them; integers are welcome
        baselines : optional
            x', one, in a form of `IntegratedGradients.attribute`.
        target, additional_forward_args : as in `Saliency.attribute`.
        n_steps, method, internal_batch_size, return_convergence_delta, show_progress : as in
            `IntegratedGradients.attribute`.
        attribute_to_layer_input : bool, default False
            What enters the layer, in place of what leaves it.
        grad_kwargs : dict, optional
            Further arguments of `torch.autograd.grad`.

        Returns
        -------
        attributions : Tensor, or tuple of them if the layer has several; a list for several layers
        delta : Tensor [N] or [targets, N]
            Only with return_convergence_delta.

        Raises
        ------
        ModelError, ValueError, TypeError
            If an argument does not fit, or the layer is not called exactly once.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> lig = attr.LayerIntegratedGradients(net, "1")
        >>> lig.attribute(torch.ones(2, 3), target=1, n_steps=5).shape
        torch.Size([2, 4])
        """
        name = type(self).__name__
        check_method(name, method, "book")
        check_steps(name, n_steps, method, auto=False)
        call, whole, size = self._prepare(
            inputs, baselines, target, additional_forward_args, internal_batch_size
        )
        rule = nodes_and_weights(method, n_steps)
        model = _LayerModel(call, self._inner, attribute_to_layer_input, grad_kwargs)
        finish = PathSum.gradients
        if self._multiply_by_inputs:
            finish = PathSum.gradients_times_difference
        with plain_mode():
            flat = sum_along_paths(model, whole, rule, size, show_progress, finish)
            found = model.grouped(flat)
            result = self._shaped(call, found)
            if not return_convergence_delta:
                return result
            return result, self._gap(call, whole, found, size)


class LayerConductance(_LayerPath):
    """Conductance of a layer: what flows through it along the path of the inputs.

    R_j = int_0^1 dS/da_j da_j/dalpha dalpha
        ~ sum_k dS/da_j(alpha_k) (a_j(alpha_k+1) - a_j(alpha_k))

    The nodes alpha_k are those of the quadrature with n_steps + 1 nodes, as in captum.

    Parameters
    ----------
    forward_func, layer, device_ids : as in `LayerAttribution`.

    References
    ----------
    Dhamdhere et al. 2018.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> attr.LayerConductance(net, net[1]).attribute(torch.ones(2, 3), target=1).shape
    torch.Size([2, 4])
    """

    listing = Listing("layer", "gradient", "2 * n_steps", "9.3.2")

    @property
    def multiplies_by_inputs(self) -> bool:
        """Attributions are in the units of the output."""
        return True

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | str | None = "auto",
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        show_progress: bool = False,
    ) -> Any:
        """Explain an output by what flows through a layer.

        Parameters
        ----------
        inputs : Tensor [N, ...] or tuple of them, floating
        baselines, target, additional_forward_args, n_steps, method, internal_batch_size,
        return_convergence_delta, attribute_to_layer_input, grad_kwargs, show_progress : as in
            `LayerIntegratedGradients.attribute`.

        Returns
        -------
        attributions : Tensor, or tuple of them if the layer has several
        delta : Tensor [N] or [targets, N]
            Only with return_convergence_delta.

        Raises
        ------
        ModelError, ValueError, TypeError
            If an argument does not fit, or the layer is not called exactly once.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> conductance = attr.LayerConductance(net, "1")
        >>> conductance.attribute(torch.ones(2, 3), target=1, n_steps=5).shape
        torch.Size([2, 4])
        """
        name = type(self).__name__
        check_method(name, method, "book")
        check_steps(name, n_steps, method, auto=False)
        call, whole, size = self._prepare(
            inputs, baselines, target, additional_forward_args, internal_batch_size
        )
        alpha, _ = nodes_and_weights(method, n_steps + 1)
        with plain_mode():
            model = LayerRows(call, self._inner, attribute_to_layer_input)
            rows = max(1, call.batch)
            if model.apart:
                rows = rows_at_once(model, size, call.batch * len(alpha))
            warn_undivided(call, "auto" if model.apart else size)
            parts = []
            with progress_bar(call.batch * len(alpha), name, show_progress) as bar:
                for block in batches(call.batch, rows):
                    samples = torch.arange(block.start, block.stop, device="cpu")
                    flow = _Flow(model, whole, samples, grad_kwargs)
                    for steps in batches(len(alpha), max(1, rows // len(samples))):
                        flow.add(alpha[steps])
                        bar.update(len(samples) * len(alpha[steps]))
                    parts.append(flow.totals)
            found = joined(parts, 1)
            result = self._shaped(call, found)
            if not return_convergence_delta:
                return result
            return result, self._gap(call, whole, found, size)


class _Flow:
    """The sum of gradients times the changes of activations, node after node of a path."""

    def __init__(
        self,
        model: LayerRows,
        whole: tuple,
        samples: Tensor,
        grad_kwargs: dict[str, Any] | None,
    ) -> None:
        self.model, self.samples, self.grad_kwargs = model, samples, grad_kwargs
        inputs = model.call.inputs
        self.ends = [(x[samples], b[samples]) for x, b in zip(inputs, whole, strict=True)]
        self.last: tuple[list[Values], list[Values]] | None = None  # of the node before
        self.totals: list[Values] = []  # [targets, N, ...]

    def add(self, alpha: Tensor) -> None:
        """Go on to some more nodes."""
        n = len(self.samples)
        sample, alphas = (
            torch.arange(n, device="cpu").repeat(len(alpha)),
            alpha.repeat_interleave(n),
        )
        points = tuple(ops.path_points(x, b, sample, alphas) for x, b in self.ends)
        samples = self.samples[sample] if self.model.apart else None  # None: one step at a time
        a, g = self.model.inner.gradients(
            self.model.call, points, samples, self.model.at_input, None, self.grad_kwargs
        )
        each = [[len(v) // len(alpha) for v in vs] for vs in a]  # rows of one step
        if self.last is not None:
            a, g = joined([self.last[0], a], 0), joined([self.last[1], g], 1)
        added = [
            tuple(_flow(*triple) for triple in zip(vs, gs, ns, strict=True))
            for vs, gs, ns in zip(a, g, each, strict=True)
        ]
        pairs = zip(self.totals or added, added, strict=True)
        first = not self.totals
        self.totals = [
            new if first else tuple(p + q for p, q in zip(old, new, strict=True))
            for old, new in pairs
        ]
        self.last = (
            [
                tuple(v[-n:] for v, n in zip(vs, ns, strict=True))
                for vs, ns in zip(a, each, strict=True)
            ],
            [
                tuple(s[:, -n:] for s, n in zip(gs, ns, strict=True))
                for gs, ns in zip(g, each, strict=True)
            ],
        )


def _flow(a: Tensor, g: Tensor, n: int) -> Tensor:
    """sum_k g_k (a_k+1 - a_k) for nodes of n samples each, [targets, n, ...]."""
    change = (a[n:] - a[:-n]).unsqueeze(0) * g[:, :-n]
    return change.unflatten(1, (-1, n)).sum(1)
