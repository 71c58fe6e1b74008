"""Explainers of a layer: activations, gradients by them, Grad-CAM, paths through them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...engine.arguments import Call, plain_mode
from ...engine.evaluation import PlainModel, run_over_samples
from ...engine.independence import rows_by_trial
from ..base import GradientAttribution
from ..listing import Listing
from .watch import Inner, Values


class LayerAttribution(GradientAttribution):
    """An explainer of what passes a module of the model.

    Parameters
    ----------
    forward_func : callable
        The model, or a function that calls it.
    layer : torch.nn.Module or str
        The module, or its path; called once in a run of the model.
    device_ids : optional
        Accepted for captum's sake; a model wrapped in DataParallel is explained on one device.
    per_sample : optional
        See `Attribution`.
    """

    def __init__(
        self,
        forward_func: Callable,
        layer: Any,
        device_ids: Any = None,
        *,
        per_sample: tuple[bool, ...] | None = None,
    ) -> None:
        super().__init__(forward_func, optimize=False, per_sample=per_sample)
        self.layer = layer
        self.device_ids = device_ids
        self._inner = Inner(type(self).__name__, forward_func, layer)

    @staticmethod
    def interpolate(
        layer_attribution: Tensor, interpolate_dims: Any, interpolate_mode: str = "nearest"
    ) -> Tensor:
        """Resize an attribution of a layer to the positions of the input.

        Parameters
        ----------
        layer_attribution : [N, C, ...] with one to three dimensions of positions
        interpolate_dims : int or tuple
            Sizes of these dimensions, such as x.shape[2:].
        interpolate_mode : str, default "nearest"
            Of `torch.nn.functional.interpolate`.

        Returns
        -------
        Tensor
        """
        sizes = interpolate_dims
        return nn.functional.interpolate(layer_attribution, size=sizes, mode=interpolate_mode)

    def _call(
        self, inputs: Any, target: Any, additional: Any, floating: bool = False, even: bool = True
    ) -> Call:
        return super()._call(inputs, target, additional, floating, even)

    def _values_and_gradients(
        self, call: Call, at_input: bool, size: int | str, grad_kwargs: dict[str, Any] | None
    ) -> tuple[list[Values], list[Values]]:
        """Values that pass the layers, and the gradients there, for all samples."""
        parts: list[tuple[list[Values], list[Values]]] = []

        def work(rows: slice, samples: Tensor | None) -> None:
            x = tuple(v[rows] for v in call.inputs)
            found = self._inner.gradients(call, x, samples, at_input, None, grad_kwargs)
            parts.append(found)

        with plain_mode():
            run_over_samples(LayerRows(call, self._inner, at_input), size, work)
        return joined([p[0] for p in parts], 0), joined([p[1] for p in parts], 1)

    def _shaped(self, call: Call, parts: list[Values]) -> Any:
        """Attributions [targets, N, ...] as they go out."""
        return self._inner.shaped([tuple(call.one_target(a) for a in vs) for vs in parts])


class LayerRows:
    """Knowledge of the rows of a model that is opened at some layers (see `evaluation`).

    They are apart where what passes the layers has a row for each sample as well, which depends on
    that sample alone: not where a layer sees the batch in another dimension, or folded into one.
    """

    def __init__(self, call: Call, inner: Inner, at_input: bool) -> None:
        self.call, self.inner, self.at_input = call, inner, at_input
        self.need = PlainModel(call).need

    @property
    def apart(self) -> bool:
        """See the class; tried once."""
        call = self.call
        if not self._looked:
            tried = partial(self.inner.tried, call, at_input=self.at_input)
            call.rows = rows_by_trial(call.inputs, call.extra, call.declared, tried)
            self._looked = True
        return call.rows.apart  # type: ignore[union-attr]

    _looked = False


def joined(parts: list[list[Values]], dim: int) -> list[Values]:
    """The same values of several parts of the batch, one behind the other."""
    return [
        tuple(torch.cat(vs, dim) if len(vs) > 1 else vs[0] for vs in zip(*layer, strict=True))
        for layer in zip(*parts, strict=True)
    ]


class LayerActivation(LayerAttribution):
    """The activation that a layer takes or returns.

    R_j = a_j

    Parameters
    ----------
    forward_func, layer, device_ids : as in `LayerAttribution`.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())
    >>> attr.LayerActivation(net, net[0]).attribute(torch.ones(2, 3)).shape
    torch.Size([2, 4])
    """

    listing = Listing("layer", "function", "1", "8.4.1")

    @property
    def multiplies_by_inputs(self) -> bool:
        """Activations are in their own units; captum says yes."""
        return True

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        *,
        internal_batch_size: int | str = "auto",
    ) -> Any:
        """Return the activation.

        Parameters
        ----------
        inputs, additional_forward_args : as in `Saliency.attribute`; integers are welcome.
        attribute_to_layer_input : bool, default False
            What enters the layer, in place of what leaves it.
        internal_batch_size : int or "auto" (default)
            Samples at once.

        Returns
        -------
        Tensor, or tuple of them if the layer has several; a list of these for several layers

        Raises
        ------
        ModelError, ValueError, TypeError
            If an argument does not fit, or the layer is not called exactly once.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())
        >>> attr.LayerActivation(net, "1").attribute(torch.ones(2, 3)).min() >= 0
        tensor(True)
        """
        call = self._call(inputs, None, additional_forward_args)
        parts: list[list[Values]] = []

        def work(rows: slice, samples: Tensor | None) -> None:
            x = tuple(v[rows] for v in call.inputs)
            parts.append(self._inner.values(call, x, samples, attribute_to_layer_input))

        with plain_mode():
            model = LayerRows(call, self._inner, attribute_to_layer_input)
            run_over_samples(model, internal_batch_size, work)
        return self._inner.shaped(joined(parts, 0))


class LayerGradientXActivation(LayerAttribution):
    """Gradient times activation of a layer.

    R = a dS / da

    Parameters
    ----------
    forward_func, layer, device_ids : as in `LayerAttribution`.
    multiply_by_inputs : bool, default True
        False: the gradient alone.

    References
    ----------
    Book, Eq. 9.12, at a layer.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> attr.LayerGradientXActivation(net, net[1]).attribute(torch.ones(2, 3), target=0).shape
    torch.Size([2, 4])
    """

    listing = Listing("layer", "gradient", "2", "9.3.1")

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
        target: Any = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        internal_batch_size: int | str = "auto",
    ) -> Any:
        """Explain an output by a layer.

        Parameters
        ----------
        inputs, target, additional_forward_args : as in `Saliency.attribute`; integers are welcome.
        attribute_to_layer_input, internal_batch_size : as in `LayerActivation.attribute`.
        grad_kwargs : dict, optional
            Further arguments of `torch.autograd.grad`.

        Returns
        -------
        Tensor, or tuple of them if the layer has several; a list of these for several layers

        Raises
        ------
        ModelError, ValueError, TypeError
            If an argument does not fit, or the layer is not called exactly once.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> net = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Flatten())
        >>> grad = attr.LayerGradientXActivation(net, net[0])
        >>> grad.attribute(torch.tensor([[1, 2], [3, 4]]), target=5).shape
        torch.Size([2, 2, 4])
        """
        call = self._call(inputs, target, additional_forward_args)
        values, found = self._values_and_gradients(
            call, attribute_to_layer_input, internal_batch_size, grad_kwargs
        )
        if self._multiply_by_inputs:
            found = [
                tuple(v * g for v, g in zip(vs, gs, strict=True))
                for vs, gs in zip(values, found, strict=True)
            ]
        return self._shaped(call, found)


class LayerGradCam(LayerAttribution):
    """Grad-CAM: the channels of a layer, weighted by their mean gradients.

    R = sum_c alpha_c A_c,   alpha_c = mean over positions of dS / dA_c

    Parameters
    ----------
    forward_func, layer, device_ids : as in `LayerAttribution`.

    References
    ----------
    Selvaraju et al. 2017; book, section 8.4.1. As in captum, there is no ReLU unless asked for.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> net = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2))
    >>> attr.LayerGradCam(net, net[0]).attribute(torch.rand(2, 3, 8, 8), target=0).shape
    torch.Size([2, 1, 6, 6])
    """

    listing = Listing("layer", "gradient", "2", "8.4.1")

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        attr_dim_summation: bool = True,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        internal_batch_size: int | str = "auto",
    ) -> Any:
        """Explain an output by the positions of a layer.

        Parameters
        ----------
        inputs, target, additional_forward_args : as in `Saliency.attribute`.
        attribute_to_layer_input, internal_batch_size : as in `LayerActivation.attribute`.
        relu_attributions : bool, default False
            Positive values only, as in the paper.
        attr_dim_summation : bool, default True
            False: the weighted channels, not summed.
        grad_kwargs : dict, optional
            Further arguments of `torch.autograd.grad`.

        Returns
        -------
        Tensor [N, 1, ...] at the positions of the layer, or a tuple if the layer has several
            `LayerAttribution.interpolate` brings it to those of the input.

        Raises
        ------
        ModelError, ValueError, TypeError
            If an argument does not fit, or the layer is not called exactly once.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.AdaptiveAvgPool2d(1),
        ...     torch.nn.Flatten())
        >>> cam = attr.LayerGradCam(net, "0").attribute(torch.rand(2, 3, 8, 8), target=0)
        >>> attr.LayerAttribution.interpolate(cam, (8, 8)).shape
        torch.Size([2, 1, 8, 8])
        """
        call = self._call(inputs, target, additional_forward_args)
        values, found = self._values_and_gradients(
            call, attribute_to_layer_input, internal_batch_size, grad_kwargs
        )

        def one(a: Tensor, g: Tensor) -> Tensor:
            alpha = g.mean(tuple(range(3, g.dim())), keepdim=True) if g.dim() > 3 else g
            cam = alpha * a
            cam = cam.sum(2, keepdim=True) if attr_dim_summation else cam
            return cam.relu() if relu_attributions else cam

        pairs = zip(values, found, strict=True)
        return self._shaped(
            call, [tuple(one(a, g) for a, g in zip(vs, gs, strict=True)) for vs, gs in pairs]
        )
