"""DeepLIFT as a composite: multipliers for what is not linear, derivatives for what is."""

from __future__ import annotations

from ..errors import describe, wrong_value
from ..graph.node import Node
from ..rules import (
    Gradient,
    Pass,
    Rescale,
    RescaleMax,
    RescalePair,
    RescaleSoftmax,
    RevealCancel,
)
from ..rules.deeplift import (
    is_activation_of_linear,
    is_elementwise,
    is_linear_before_activation,
)
from .conditions import Composite, Entry, kind
from .gradient import linear_derivatives

RULES = ("rescale", "reveal_cancel")
SOFTMAX = ("softmax", "_softmax", "log_softmax", "_log_softmax")
# Products of two inputs: the derivative at x, as in the book; completeness is lost there (9.3.2).
PRODUCTS = ("mul", "div", "matmul", "mm", "bmm", "einsum", "linear", "conv2d", "atan2")


def _two(node: Node) -> bool:
    return len(node.inputs) == 2


def DeepLift(rule: str = "rescale", eps: float = 1e-10) -> Composite:
    """DeepLIFT: the derivative, with average slopes in place of those of nonlinear functions.

    m_a = m_z (f(a) - f(a')) / (a - a')

    Operations that none of its rules knows (layer norm, attention, recurrent layers) are refused;
    `with_rules((kind("layer_norm"), rules.Gradient()))` takes the plain derivative there.

    Parameters
    ----------
    rule : "rescale" (default) or "reveal_cancel"
        For a conv or dense layer and the activation behind it; other nonlinear functions are
        rescaled.
    eps : float, default 1e-10
        Smallest difference of inputs to divide by; below it, the derivative.

    Returns
    -------
    Composite

    Raises
    ------
    ValueError
        If rule is another word.

    References
    ----------
    Shrikumar et al. 2017; book, sections 9.3.2 and 9.4.3.

    Examples
    --------
    >>> from xaifast import composites
    >>> composites.DeepLift()
    DeepLift(rescale)
    """
    if rule not in RULES:
        raise wrong_value(
            "DeepLift: rule", f"must be one of {', '.join(RULES)}", describe(rule), "Take rescale."
        )
    pairs: list[Entry] = [
        (is_linear_before_activation, RevealCancel(eps)),
        (is_activation_of_linear, Pass()),
    ]
    entries: list[Entry] = [
        *(pairs if rule == "reveal_cancel" else []),
        *linear_derivatives(),
        (is_elementwise, Rescale(eps)),
        (kind(*SOFTMAX), RescaleSoftmax(eps)),
        ((_two, kind("maximum", "minimum", "max", "min")), RescalePair(eps)),
        (kind("max_pool", "max_reduce"), RescaleMax(eps)),
        (kind("add", *PRODUCTS), Gradient()),
    ]
    return Composite(entries, f"DeepLift({rule})")
