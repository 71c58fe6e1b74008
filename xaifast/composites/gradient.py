"""Gradients as composites: the derivative at every node, or bent at the rectifiers."""

from __future__ import annotations

from ..graph.node import Node
from ..rules import Clip, LinearGradient, Pool, ReLUGradient, SumGradient, Transpose
from ..rules import Gradient as Derivative
from ..rules.gradient import is_rectifier
from .conditions import Composite, Entry, kind


def _is_linear(node: Node) -> bool:
    return LinearGradient().check(node) is None


def _keeps_shape(node: Node) -> bool:
    return SumGradient().check(node) is None


def _is_relu(node: Node) -> bool:
    return node.op == "relu"


def _anything(node: Node) -> bool:
    return True


def linear_derivatives() -> list[Entry]:
    """Entries for the derivative of linear operations."""
    return [
        (_is_linear, LinearGradient()),
        (_keeps_shape, SumGradient()),
        (kind("rearrange"), Transpose()),
    ]


def derivatives() -> list[Entry]:
    """Entries for the derivative of every operation, the ones that keep least first."""
    return [
        (_is_relu, ReLUGradient()),
        (kind("max_pool"), Pool()),
        *linear_derivatives(),
        (_anything, Derivative()),
    ]


def Gradient() -> Composite:
    """The plain gradient.

    da_j = sum_k (dz_k / da_j) dz_k

    Returns
    -------
    Composite

    References
    ----------
    Book, sections 9.3.1 and 14.3.2.

    Examples
    --------
    >>> from xaifast import composites
    >>> composites.Gradient()
    Gradient
    """
    return Composite(derivatives(), "Gradient")


def GuidedBackprop() -> Composite:
    """Guided backprop: at rectifiers, only a positive signal passes, and only where a unit is on.

    da = f'(a) max(0, dz)

    ReLU in every spelling (module, function, in place, reused), ReLU6, leaky ReLU, ELU, GELU, SiLU
    and their kin are rectifiers; everything else is differentiated.

    Returns
    -------
    Composite

    References
    ----------
    Springenberg et al. 2015; book, sections 1.4.3, 8.4.1 and 14.3.2.

    Examples
    --------
    >>> from xaifast import composites
    >>> composites.GuidedBackprop()
    GuidedBackprop
    """
    relu: Entry = (_is_relu, ReLUGradient(clip=True))
    other: Entry = (is_rectifier, Derivative(clip=True))
    return Composite([relu, other, *derivatives()], "GuidedBackprop")


def DeconvNet() -> Composite:
    """Deconvnet: rectifiers rectify the signal on the way back, whatever they did forward.

    da = max(0, dz)

    Returns
    -------
    Composite

    References
    ----------
    Zeiler and Fergus 2014; book, sections 1.4.3, 8.4.1 and 14.3.2.

    Examples
    --------
    >>> from xaifast import composites
    >>> composites.DeconvNet()
    DeconvNet
    """
    return Composite([(is_rectifier, Clip()), *derivatives()], "DeconvNet")
