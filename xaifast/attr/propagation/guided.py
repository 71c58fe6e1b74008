"""Guided backprop, deconvnet and guided Grad-CAM: signals that are bent at the rectifiers.

They run through the graph of the model, so that functional, in-place and reused ReLUs, GELU, SiLU
and their kin are rectifiers like nn.ReLU. It is the graph of the forward function: `detach`,
`no_grad`, a Function's own backward and backward hooks are not in it.
"""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor, nn

from ...composites import Composite, DeconvNet
from ...composites import GuidedBackprop as GuidedComposite
from ...engine.arguments import OfModule, make_call, plain_mode
from ...engine.batching import check_batch_size
from ...engine.builder import Builder, check_verify, warn_training
from ...engine.recorded import Captured, Recording, recording
from ...engine.start import Start
from ...engine.traversal import Traversal
from ...errors import wrong_value
from ...graph.capture.modules import check_model
from ..base import GradientAttribution
from ..layer.activation import LayerAttribution, LayerGradCam
from ..listing import Listing


class _Signal(OfModule, GradientAttribution):
    """A signal that starts as 1 at the target and is handed down by a composite."""

    composite: Composite

    def __init__(self, model: nn.Module, *, verify: str = "auto") -> None:
        name = type(self).__name__
        check_model(name, model)
        self._given_model = model
        super().__init__(model)
        self._builder = Builder(model, self.composite, verify=check_verify(name, verify))

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        internal_batch_size: int | str = "auto",
    ) -> Any:
        """Explain an output by the signal that arrives at the inputs.

        Parameters
        ----------
        inputs, target, additional_forward_args, internal_batch_size : as in `Saliency.attribute`.

        Returns
        -------
        Tensor or tuple of Tensor
            Like the inputs; [targets, N, ...] for several targets per input.

        Raises
        ------
        ModelError
            If the model cannot be captured as a graph.
        ValueError, TypeError
            If an argument does not fit; before any work.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
        >>> attr.GuidedBackprop(net).attribute(torch.ones(1, 2), target=1).shape
        torch.Size([1, 2])
        """
        name = type(self).__name__
        call = make_call(name, self.model, inputs, target, additional_forward_args)
        check_batch_size(internal_batch_size)
        if not call.batch:
            return call.nothing()
        warn_training(self.model)
        with plain_mode():
            built = self._builder.build(call.arguments, len(call.inputs))
            start = Start(call.selection(built.graph.output.shape), "one")
            found, _, _ = Traversal(call, built, start, {}).all_batches(internal_batch_size)
        return call.result(found)

    def core(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> nn.Module:
        """Record what `attribute` computes as a module to compile or export; see `LRP.core`.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
        >>> x, target = torch.ones(4, 2), torch.tensor([0, 1, 2, 0])
        >>> attr.GuidedBackprop(net).core(x, target)(x, target).shape
        torch.Size([4, 2])
        """
        return self._recording(inputs, target, additional_forward_args).graph(any_batch=True)

    def capture(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Captured:
        """Prepare `attribute` for many calls of the same shapes; see `LRP.capture`.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
        >>> attr.Deconvolution(net).capture(torch.ones(1, 2), 1)(torch.zeros(1, 2), 0).shape
        torch.Size([1, 2])
        """
        return Captured(self._recording(inputs, target, additional_forward_args))

    def _recording(self, inputs: Any, target: Any, additional: Any) -> Recording:
        call = make_call(type(self).__name__, self.model, inputs, target, additional)
        warn_training(self.model)
        return recording(lambda: self._builder, call, "one")


class GuidedBackprop(_Signal):
    """Guided backprop: what would excite the target, by units that are on.

    da = f'(a) max(0, dz) at rectifiers, da = f'(a) dz elsewhere

    The signal runs through the graph of the forward function: it passes `detach`, `no_grad` blocks
    and checkpoints as if they were not there; the backward of an autograd Function, hooks on
    tensors and backward hooks of modules are not used. An input whose only paths are cut
    (comparisons, casts to integers, numbers read in Python) is an error that names the cut.

    Parameters
    ----------
    model : torch.nn.Module

    References
    ----------
    Springenberg et al. 2015; book, sections 1.4.3, 8.4.1 and 14.3.2.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> class Net(torch.nn.Module):
    ...     def forward(self, x):
    ...         return torch.relu(x) - torch.relu(-x)
    >>> attr.GuidedBackprop(Net()).attribute(torch.tensor([[2.0, -1.0]]), target=0)
    tensor([[1., 0.]])
    """

    listing = Listing("gradient", "module", "2", "1.4.3, 8.4.1")

    composite = GuidedComposite()


class Deconvolution(_Signal):
    """Deconvnet: rectifiers rectify the signal on the way back, whatever they did forward.

    da = max(0, dz) at rectifiers, da = f'(a) dz elsewhere

    The signal runs through the graph of the forward function: it passes `detach`, `no_grad` blocks
    and checkpoints as if they were not there; the backward of an autograd Function, hooks on
    tensors and backward hooks of modules are not used. An input whose only paths are cut
    (comparisons, casts to integers, numbers read in Python) is an error that names the cut.

    Parameters
    ----------
    model : torch.nn.Module

    References
    ----------
    Zeiler and Fergus 2014; book, sections 1.4.3, 8.4.1 and 14.3.2.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
    >>> attr.Deconvolution(net).attribute(torch.ones(1, 2), target=1).shape
    torch.Size([1, 2])
    """

    listing = Listing("gradient", "module", "2", "1.4.3, 8.4.1")

    composite = DeconvNet()


class GuidedGradCam(GradientAttribution):
    """Guided Grad-CAM: guided backprop, times Grad-CAM of a layer at the positions of the input.

    R_i = guided_i max(0, cam at the position of i)

    The two factors treat what cuts gradients each in its own way. cam is that of `LayerGradCam`:
    gradients as autograd gives them, which stop at `detach` and in `no_grad` blocks, and follow the
    backward of an autograd Function, hooks on tensors and backward hooks. guided is that of
    `GuidedBackprop`, which runs through the forward function as if none of these were there.

    Parameters
    ----------
    model : torch.nn.Module
    layer : torch.nn.Module or str
        The layer of Grad-CAM, or its path.
    device_ids : optional
        Accepted, as captum's scripts may pass it; ignored.

    References
    ----------
    Selvaraju et al. 2017; book, section 8.4.1.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> net = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2))
    >>> attr.GuidedGradCam(net, net[1]).attribute(torch.rand(2, 3, 8, 8), target=0).shape
    torch.Size([2, 3, 8, 8])
    """

    listing = Listing("gradient", "module", "4", "8.4.1")

    def __init__(self, model: nn.Module, layer: Any, device_ids: Any = None) -> None:
        super().__init__(check_model("GuidedGradCam", model))
        self.grad_cam = LayerGradCam(model, layer, device_ids)
        self.guided_backprop = GuidedBackprop(model)

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        interpolate_mode: str = "nearest",
        attribute_to_layer_input: bool = False,
        *,
        internal_batch_size: int | str = "auto",
    ) -> Any:
        """Explain an output at the inputs.

        Parameters
        ----------
        inputs, target, additional_forward_args, internal_batch_size : as in `Saliency.attribute`.
        interpolate_mode : str, default "nearest"
            How the map of the layer is resized; see `LayerAttribution.interpolate`.
        attribute_to_layer_input : bool, default False
            What enters the layer, in place of what leaves it.

        Returns
        -------
        Tensor or tuple of Tensor
            Like the inputs.

        Raises
        ------
        ModelError, ValueError, TypeError
            If an argument does not fit, or the layer has no positions that could be resized.

        Examples
        --------
        >>> import torch
        >>> from xaifast import attr
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU(),
        ...     torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        >>> attr.GuidedGradCam(net, "0").attribute(torch.rand(2, 3, 8, 8), target=0).shape
        torch.Size([2, 3, 8, 8])
        """
        size = internal_batch_size
        given = (inputs, target, additional_forward_args)
        cam = self.grad_cam.attribute(
            *given, attribute_to_layer_input, relu_attributions=True, internal_batch_size=size
        )
        guided = self.guided_backprop.attribute(*given, internal_batch_size=size)
        if isinstance(cam, tuple):
            raise wrong_value(
                "GuidedGradCam: layer", "must have one input or output", f"{len(cam)}",
                "Choose a layer with one.",
            )  # fmt: skip
        if isinstance(guided, tuple):
            pairs = zip(guided, inputs, strict=True)
            return tuple(self._times(g, cam, x.dim(), interpolate_mode) for g, x in pairs)
        return self._times(guided, cam, inputs.dim(), interpolate_mode)  # type: ignore[union-attr]

    def _times(self, guided: Tensor, cam: Tensor, dims: int, mode: str) -> Tensor:
        """Guided backprop times Grad-CAM, [N, ...] of `dims` dimensions or [targets, N, ...]."""
        if guided.dim() != cam.dim() or dims < 3:
            warnings.warn(
                f"GuidedGradCam: the layer's map {list(cam.shape)} cannot be resized to an input "
                f"{list(guided.shape)} without such positions; its attribution is left empty. "
                "Choose a convolution over the positions of this input, or multiply yourself.",
                stacklevel=3,
            )
            return guided.new_empty(0)
        flat = cam.reshape(-1, *cam.shape[-dims + 1 :])
        large = LayerAttribution.interpolate(flat, tuple(guided.shape[-dims + 2 :]), mode)
        return guided * large.to(guided).reshape(*cam.shape[: -dims + 1], *large.shape[1:])
