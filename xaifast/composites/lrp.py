"""The presets of LRP, by their names in the field."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..errors import describe, wrong_type, wrong_value
from ..graph.node import Node
from ..rules import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    GatedProduct,
    Pool,
    Rule,
    WSquare,
    ZBox,
    Zero,
    ZPlus,
)
from ..rules import Recurrent as RecurrentRule
from ..rules.recurrent import is_gated_product
from .conditions import WEIGHTED, Composite, Entry, base, first, fraction, kind


def EpsilonPlus(epsilon: float = 1e-6, stabilizer: float = 1e-6, bias: bool = True) -> Composite:
    """LRP-epsilon for dense layers, z+ for convolutions.

    Parameters
    ----------
    epsilon : float, default 1e-6
        Of the epsilon rule.
    stabilizer : float, default 1e-6
        Of all other denominators.
    bias : bool, default True
        Whether biases count in denominators (zennit's zero_params="bias" is False).

    Returns
    -------
    Composite

    References
    ----------
    Book, section 22.2.2; zennit's EpsilonPlus.

    Examples
    --------
    >>> from xaifast import composites
    >>> composites.EpsilonPlus()
    EpsilonPlus
    """
    return Composite(_epsilon_plus(epsilon, stabilizer, bias), "EpsilonPlus")


def _epsilon_plus(epsilon: float, stabilizer: float, bias: bool) -> list[Entry]:
    return [
        (kind("conv"), ZPlus(bias, stabilizer)),
        (kind("linear"), Epsilon(epsilon, bias=bias)),
        *base(stabilizer),
    ]


def EpsilonPlusFlat(
    epsilon: float = 1e-6, stabilizer: float = 1e-6, bias: bool = True
) -> Composite:
    """EpsilonPlus with the flat rule for the first layer.

    Parameters
    ----------
    epsilon, stabilizer, bias : as in `EpsilonPlus`.

    Returns
    -------
    Composite

    References
    ----------
    Lapuschkin et al. 2019; zennit's EpsilonPlusFlat.

    Examples
    --------
    >>> from xaifast import composites
    >>> composites.EpsilonPlusFlat()
    EpsilonPlusFlat
    """
    entries = [
        ((first, kind(*WEIGHTED)), Flat(stabilizer)),
        *_epsilon_plus(epsilon, stabilizer, bias),
    ]
    return Composite(entries, "EpsilonPlusFlat")


def _epsilon_alpha2_beta1(epsilon: float, stabilizer: float, bias: bool) -> list[Entry]:
    return [
        (kind("conv"), AlphaBeta(2.0, 1.0, bias, stabilizer)),
        (kind("linear"), Epsilon(epsilon, bias=bias)),
        *base(stabilizer),
    ]


def EpsilonAlpha2Beta1(
    epsilon: float = 1e-6, stabilizer: float = 1e-6, bias: bool = True
) -> Composite:
    """LRP-epsilon for dense layers, LRP-alpha2-beta1 for convolutions.

    Parameters
    ----------
    epsilon, stabilizer, bias : as in `EpsilonPlus`.

    Returns
    -------
    Composite

    References
    ----------
    Lapuschkin et al. 2017; zennit's EpsilonAlpha2Beta1.

    Examples
    --------
    >>> from xaifast import composites
    >>> composites.EpsilonAlpha2Beta1()
    EpsilonAlpha2Beta1
    """
    return Composite(_epsilon_alpha2_beta1(epsilon, stabilizer, bias), "EpsilonAlpha2Beta1")


def EpsilonAlpha2Beta1Flat(
    epsilon: float = 1e-6, stabilizer: float = 1e-6, bias: bool = True
) -> Composite:
    """EpsilonAlpha2Beta1 with the flat rule for the first layer.

    Parameters
    ----------
    epsilon, stabilizer, bias : as in `EpsilonPlus`.

    Returns
    -------
    Composite

    References
    ----------
    Lapuschkin et al. 2019; zennit's EpsilonAlpha2Beta1Flat.

    Examples
    --------
    >>> from xaifast import composites
    >>> composites.EpsilonAlpha2Beta1Flat()
    EpsilonAlpha2Beta1Flat
    """
    entries = [
        ((first, kind(*WEIGHTED)), Flat(stabilizer)),
        *_epsilon_alpha2_beta1(epsilon, stabilizer, bias),
    ]
    return Composite(entries, "EpsilonAlpha2Beta1Flat")


def EpsilonGammaBox(
    low: float | Tensor,
    high: float | Tensor,
    epsilon: float = 1e-6,
    gamma: float = 0.25,
    stabilizer: float = 1e-6,
    bias: bool = True,
) -> Composite:
    """LRP-epsilon for dense layers, LRP-gamma for convolutions, z-box for the first of them.

    Parameters
    ----------
    low, high : float or Tensor
        Bounds of what enters the first convolution (see `rules.ZBox`).
    epsilon : float, default 1e-6
        Of the epsilon rule.
    gamma : float, default 0.25
        Of the gamma rule.
    stabilizer, bias : as in `EpsilonPlus`.

    Returns
    -------
    Composite

    Raises
    ------
    ValueError
        If low is not below high.

    References
    ----------
    Montavon et al. 2019; zennit's EpsilonGammaBox.

    Examples
    --------
    >>> from xaifast import composites
    >>> composites.EpsilonGammaBox(low=-2.0, high=2.5)
    EpsilonGammaBox
    """
    entries: list[Entry] = [
        ((first, kind("conv")), ZBox(low, high, stabilizer)),
        (kind("conv"), Gamma(gamma, bias, stabilizer)),
        (kind("linear"), Epsilon(epsilon, bias=bias)),
        *base(stabilizer),
    ]
    return Composite(entries, "EpsilonGammaBox")


def ZeroEpsilonGammaBox(
    low: float | Tensor,
    high: float | Tensor,
    epsilon: float = 0.25,
    gamma: float = 0.25,
    stabilizer: float = 1e-6,
) -> Composite:
    """The composite of chapter 10: four rules from the top to the bottom.

    Dense layers: LRP-0. Upper convolutions: LRP-epsilon with epsilon = 0.25 std. Lower ones (depth
    below 7/16, as in VGG-16's first three blocks): LRP-gamma. First layer: z-box. Max pooling in
    proportion to the activations.

    Parameters
    ----------
    low, high : float or Tensor
        Bounds of what enters the first layer (see `rules.ZBox`).
    epsilon : float, default 0.25
        In standard deviations of each layer's output.
    gamma : float, default 0.25
        Of the gamma rule.
    stabilizer : float, default 1e-6
        Of all other denominators.

    Returns
    -------
    Composite

    Raises
    ------
    ValueError
        If low is not below high.

    References
    ----------
    Book, sections 10.3 and 13.2.2.

    Examples
    --------
    >>> from xaifast import composites
    >>> composites.ZeroEpsilonGammaBox(low=0.0, high=1.0)
    ZeroEpsilonGammaBox
    """
    entries: list[Entry] = [
        ((first, kind(*WEIGHTED)), ZBox(low, high, stabilizer)),
        (kind("linear"), Zero()),
        ((kind("conv"), fraction(0.0, 7 / 16)), Gamma(gamma, stabilizer=stabilizer)),
        (kind("conv"), Epsilon(epsilon, relative=True)),
        *base(stabilizer, Pool(proportional=True, stabilizer=stabilizer)),
    ]
    return Composite(entries, "ZeroEpsilonGammaBox")


def LRPStar(epsilon: float = 1e-6, stabilizer: float = 1e-6, bias: bool = True) -> Composite:
    """LRP* of chapter 22: LRP-epsilon for dense layers, LRP-alpha1-beta0 for convolutions.

    alpha1-beta0 is the z+ rule, so this is `EpsilonPlus` under the book's name.

    Parameters
    ----------
    epsilon, stabilizer, bias : as in `EpsilonPlus`.

    Returns
    -------
    Composite

    References
    ----------
    Book, section 22.2.2.

    Examples
    --------
    >>> from xaifast import composites
    >>> composites.LRPStar()
    LRPStar
    """
    return Composite(_epsilon_plus(epsilon, stabilizer, bias), "LRPStar")


def _deep_taylor(entry: Rule, stabilizer: float, title: str) -> Composite:
    entries: list[Entry] = [
        ((first, kind(*WEIGHTED)), entry),
        (kind(*WEIGHTED), ZPlus(bias=False, stabilizer=stabilizer)),
        *base(stabilizer, Pool(proportional=True, stabilizer=stabilizer)),
    ]
    return Composite(entries, title, rectified=True)


def DeepTaylor(stabilizer: float = 1e-6) -> Composite:
    """Deep Taylor decomposition for unbounded inputs: w^2 for the first layer, z+ behind it.

    Biases do not count, so all relevance arrives; max pooling in proportion to the activations.
    Networks whose activations can be negative (ELU, GELU ...) are refused: the theory does not
    hold for them.

    Parameters
    ----------
    stabilizer : float, default 1e-6
        Of all denominators.

    Returns
    -------
    Composite

    References
    ----------
    Montavon et al. 2017; book, sections 10.2.3, 16.2 and 22.2.2.

    Examples
    --------
    >>> from xaifast import composites
    >>> composites.DeepTaylor()
    DeepTaylor
    """
    return _deep_taylor(WSquare(stabilizer=stabilizer), stabilizer, "DeepTaylor")


def DeepTaylorBounded(
    low: float | Tensor, high: float | Tensor, stabilizer: float = 1e-6
) -> Composite:
    """Deep Taylor decomposition for inputs in a box, such as pixels: z-box first, z+ behind it.

    Parameters
    ----------
    low, high : float or Tensor
        Bounds of what enters the first layer (see `rules.ZBox`).
    stabilizer : float, default 1e-6
        Of all denominators.

    Returns
    -------
    Composite

    Raises
    ------
    ValueError
        If low is not below high.

    References
    ----------
    Montavon et al. 2017; book, sections 10.A and 16.2.

    Examples
    --------
    >>> from xaifast import composites
    >>> composites.DeepTaylorBounded(low=0.0, high=1.0)
    DeepTaylorBounded
    """
    return _deep_taylor(ZBox(low, high, stabilizer), stabilizer, "DeepTaylorBounded")


def ExcitationBackprop(stabilizer: float = 1e-6, bias: bool = True) -> Composite:
    """Excitation backprop: the z+ rule for every layer with weights.

    Parameters
    ----------
    stabilizer : float, default 1e-6
        Of all denominators.
    bias : bool, default True
        Whether biases count in denominators; False is the original method.

    Returns
    -------
    Composite

    References
    ----------
    Zhang et al. 2018; zennit's ExcitationBackprop; book, section 22.2.2.

    Examples
    --------
    >>> from xaifast import composites
    >>> composites.ExcitationBackprop()
    ExcitationBackprop
    """
    entries = [(kind(*WEIGHTED), ZPlus(bias, stabilizer)), *base(stabilizer)]
    return Composite(entries, "ExcitationBackprop")


def Recurrent(gate: str = "all", epsilon: float = 1e-3, bias: bool = True) -> Composite:
    """LRP for recurrent networks: LSTMs, GRUs, their cells, and gated products in code of your own.

    Parameters
    ----------
    gate : "all" (default), "prop", "abs" or "half"
        What a gate gets: nothing, its share of the pre-activations (signed or absolute), or half.
    epsilon : float, default 1e-3
        Stabilizer of all denominators.
    bias : bool, default True
        Whether biases count in denominators.

    Returns
    -------
    Composite

    Raises
    ------
    ValueError, TypeError
        If gate is none of the words, or epsilon is negative.

    References
    ----------
    Arras et al. 2017 and 2019; book, section 11.3.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr, composites
    >>> class Last(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.lstm = torch.nn.LSTM(4, 8, batch_first=True)
    ...         self.head = torch.nn.Linear(8, 3)
    ...     def forward(self, x):
    ...         return self.head(self.lstm(x)[0][:, -1])
    >>> lrp = attr.LRP(Last(), composite=composites.Recurrent(gate="prop"))
    >>> lrp.attribute(torch.randn(2, 5, 4), target=1).shape
    torch.Size([2, 5, 4])
    """
    rule = RecurrentRule(gate, epsilon, bias)
    entries = [
        (kind("lstm", "gru"), rule),
        (is_gated_product, GatedProduct(gate, epsilon)),
        (kind(*WEIGHTED), Epsilon(epsilon, bias=bias)),
        *base(epsilon),
    ]
    return Composite(entries, f"Recurrent({gate!r})")


def _has_layer(node: Node) -> bool:
    return node.layer is not None


def Uniform(rule: Rule, stabilizer: float | None = None) -> Composite:
    """One rule for every conv and linear layer.

    Sums, average pooling (and, for LRP-0 and LRP-epsilon, affine nodes) share relevance in
    proportion, so `Uniform(rules.Zero())` is gradient x input on a ReLU network.

    Parameters
    ----------
    rule : Rule
        For conv and linear layers.
    stabilizer : float, optional
        Of sums and average pooling; default: that of the rule.

    Returns
    -------
    Composite

    Raises
    ------
    TypeError
        If rule is not a Rule.

    References
    ----------
    Book, section 10.3 (uniform LRP-0, LRP-epsilon and LRP-gamma).

    Examples
    --------
    >>> from xaifast import composites, rules
    >>> composites.Uniform(rules.Epsilon(1e-6))
    Uniform(Epsilon(epsilon=1e-06, relative=False, bias=True))
    """
    if not isinstance(rule, Rule):
        raise wrong_type(
            "Uniform: rule", "must be a Rule", rule, "For example rules.Epsilon(1e-6)."
        )
    if stabilizer is None:
        stabilizer = getattr(rule, "stabilizer", min(getattr(rule, "epsilon", 1e-6), 1e-6))
    entries: list[Entry] = [(kind(*WEIGHTED), rule)]
    if isinstance(rule, Epsilon):
        entries.append(((kind("affine"), _has_layer), rule))
    return Composite([*entries, *base(stabilizer)], f"Uniform({rule!r})")


PRESETS: dict[str, Callable[..., Composite]] = {
    "EpsilonPlus": EpsilonPlus,
    "EpsilonPlusFlat": EpsilonPlusFlat,
    "EpsilonAlpha2Beta1": EpsilonAlpha2Beta1,
    "EpsilonAlpha2Beta1Flat": EpsilonAlpha2Beta1Flat,
    "EpsilonGammaBox": EpsilonGammaBox,
    "ZeroEpsilonGammaBox": ZeroEpsilonGammaBox,
    "LRPStar": LRPStar,
    "DeepTaylor": DeepTaylor,
    "DeepTaylorBounded": DeepTaylorBounded,
    "ExcitationBackprop": ExcitationBackprop,
    "Recurrent": Recurrent,
}


def preset(title: str, **options: object) -> Composite:
    """A preset by its name.

    Raises
    ------
    ValueError
        If there is no preset of that name.

    Examples
    --------
    >>> from xaifast import composites
    >>> composites.preset("EpsilonGammaBox", low=0.0, high=1.0)
    EpsilonGammaBox
    """
    if title not in PRESETS:
        raise wrong_value(
            "composite",
            f"must be one of {', '.join(PRESETS)}",
            describe(title),
            "Names are case-sensitive.",
        )
    return PRESETS[title](**options)
