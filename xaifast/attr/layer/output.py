"""An inner layer as the output of the model, so that any explainer can explain a neuron of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ModelError, describe
from ...graph.capture.modules import check_model, private_copy
from .watch import path_of


class _Reached(Exception):  # noqa: N818 - it is no error
    """The layer has its output; what comes behind it is not needed."""


class LayerOutput(nn.Module):
    """A model up to one of its layers: the neurons there are targets of any explainer.

    f(x) = a_k, the output of the layer

    It shares the weights of the model and runs in eval mode; the model itself is not touched.

    Parameters
    ----------
    model : torch.nn.Module
    layer : torch.nn.Module or str
        The module, or its path. It returns one tensor; its first call in a run counts.

    Raises
    ------
    TypeError, ValueError
        If model is no module, or layer not a part of it.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten())
    >>> neuron = attr.IntegratedGradients(attr.LayerOutput(net, net[1]))
    >>> neuron.attribute(torch.rand(2, 1, 8, 8), target=(3, 2, 2)).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(self, model: nn.Module, layer: Any) -> None:
        super().__init__()
        plain = check_model("LayerOutput", model)
        self.path = path_of("LayerOutput", plain, layer)
        self.model = private_copy(plain, keep_hooks=True)
        self.eval()

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Run the model as far as the layer."""
        found: list[Any] = []

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            if found:
                return
            if not torch.compiler.is_compiling():
                found.append(output)
                raise _Reached
            # A graph drops what is behind by itself; what is there must not change this in place.
            found.append(output.clone() if isinstance(output, Tensor) else output)

        handle = self.model.get_submodule(self.path).register_forward_hook(keep)
        try:
            self.model(*inputs, **named)
        except _Reached:
            pass
        finally:
            handle.remove()
        if not found or not isinstance(found[0], Tensor):
            raise ModelError(
                f"LayerOutput: layer {self.path} must be called and return a tensor; it has "
                f"{describe(found[0]) if found else 'not been called'}. Choose another layer."
            )
        return found[0]
