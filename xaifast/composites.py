"""Composites: which rule goes where.

A composite is a list of (condition, rule); for each node the first condition that matches decides.
Conditions look at the node: `kind`, `module_type`, `name`, `first`, `last`, `fraction`, any
function of a node, or a tuple of these that must all hold. A node has: name, kind, op (its ATen
operation), module (its path), module_type, source (the line of code), shape (without the batch),
inputs (nodes), nonnegative, first, last, depth (0 to 1); `LRP.plan` shows them.

>>> import torch
>>> from xaifast import composites as c, rules as r
>>> mine = c.Composite([
...     ((c.first, c.kind("conv")), r.ZBox(0.0, 1.0)),
...     (c.name("features.*"), r.Gamma(0.1)),
...     (c.module_type(torch.nn.Linear), r.Epsilon(0.25, relative=True)),
...     *c.base(),
... ])

The presets that zennit has keep its names and its defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from torch import Tensor

from .errors import describe, wrong_type, wrong_value
from .graph.facts import RECTIFIERS, Node
from .rules import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    Gate,
    Pass,
    Pool,
    Rule,
    Transpose,
    WSquare,
    ZBox,
    Zero,
    ZPlus,
)

__all__ = [
    "PRESETS",
    "Composite",
    "DeepTaylor",
    "DeepTaylorBounded",
    "EpsilonAlpha2Beta1",
    "EpsilonAlpha2Beta1Flat",
    "EpsilonGammaBox",
    "EpsilonPlus",
    "EpsilonPlusFlat",
    "ExcitationBackprop",
    "LRPStar",
    "Uniform",
    "ZeroEpsilonGammaBox",
    "base",
    "first",
    "fraction",
    "kind",
    "last",
    "module_type",
    "name",
]

Condition = Callable[[Node], bool] | tuple  # a function, or a tuple of conditions
Entry = tuple[Condition, Rule]

# The words that `kind` knows; an operation without one goes by its ATen name.
KINDS = (
    "conv", "linear", "affine", "sum", "add", "mul", "max_pool", "max_reduce", "activation",
    "rearrange",
)  # fmt: skip
WEIGHTED = ("conv", "linear")


# ---- conditions ------------------------------------------------------------------------------


def kind(*names: str) -> Condition:
    """Match nodes by kind: "conv", "linear", "affine", "sum", "add", "mul", "max_pool", ...

    Parameters
    ----------
    *names : str
        conv, linear, affine, sum (also mean and average pooling), add, mul, max_pool, max_reduce,
        activation or rearrange, or the ATen name of an operation ("layer_norm").

    Raises
    ------
    TypeError
        If there is no word.

    Returns
    -------
    Callable
        The condition.

    Examples
    --------
    >>> from xaifast import composites, rules
    >>> entry = (composites.kind("layer_norm"), rules.Pass())
    """
    _check_words("kind", names)
    return lambda node: node.kind in names or node.op in names


def module_type(*types: type) -> Condition:
    """Match nodes inside a module of one of the types (nn.Conv2d, your own class, ...).

    Examples
    --------
    >>> import torch
    >>> from xaifast import composites, rules
    >>> entry = (composites.module_type(torch.nn.Conv2d), rules.ZPlus())
    """
    if not types or not all(isinstance(t, type) for t in types):
        raise wrong_type("module_type", "must name classes", types, "For example nn.Conv2d.")
    return lambda node: node.module_type is not None and issubclass(node.module_type, types)


def name(*patterns: str) -> Condition:
    """Match nodes by the path of their module, with * and ?: name("features.*", "head").

    Examples
    --------
    >>> from xaifast import composites, rules
    >>> entry = (composites.name("layer1.*"), rules.Gamma())
    """
    _check_words("name", patterns)
    return lambda node: any(fnmatchcase(node.module, pattern) for pattern in patterns)


def first(node: Node) -> bool:
    """Match what no conv or linear layer lies before (on any path from an input)."""
    return node.first


def last(node: Node) -> bool:
    """Match what no conv or linear layer lies behind (on any path to the output)."""
    return node.last


def fraction(low: float, high: float) -> Condition:
    """Match nodes by depth: low <= (conv and linear layers before the node) / (all of them) < high.

    Examples
    --------
    >>> from xaifast import composites, rules
    >>> entry = (composites.fraction(0.0, 0.5), rules.Gamma())
    """
    if not low < high:
        raise wrong_value("fraction", "needs low < high", f"{low} and {high}", "From 0.0 to 1.0.")
    return lambda node: low <= node.depth < high


def _check_words(who: str, words: tuple) -> None:
    if not words or not all(isinstance(word, str) for word in words):
        raise wrong_type(who, "must be given words", words, 'For example kind("conv", "linear").')


def _holds(condition: Condition, node: Node) -> bool:
    if isinstance(condition, tuple):
        return all(_holds(c, node) for c in condition)
    return condition(node)


# ---- the composite ---------------------------------------------------------------------------


class Composite:
    """A list of (condition, rule); the first condition that matches a node decides.

    Parameters
    ----------
    entries : iterable of (condition, Rule)
        End with `*base()` unless you give every kind of node a rule.
    title : str, optional
        How the composite prints.
    rectified : bool, default False
        Refuse models whose conv and linear layers (but the first) may receive negative
        activations: where a theory holds for them only.

    Raises
    ------
    TypeError
        If an entry is not a (condition, Rule) pair.

    References
    ----------
    Book, sections 10.3 and 22.A.1.

    Examples
    --------
    >>> from xaifast import composites, rules
    >>> composites.Composite([(composites.kind("linear"), rules.Epsilon()), *composites.base()])
    Composite(9 entries)
    """

    def __init__(
        self, entries: Iterable[Entry], title: str | None = None, rectified: bool = False
    ) -> None:
        self.entries = list(entries)
        for entry in self.entries:
            _check_entry(entry)
        self.title = title or f"Composite({len(self.entries)} entries)"
        self.rectified = rectified

    def rule_for(self, node: Node) -> Rule | None:
        """The rule of the first entry that matches, or None."""
        return next((rule for condition, rule in self.entries if _holds(condition, node)), None)

    def check(self, node: Node) -> str | None:
        """Why the composite as a whole refuses a node, or None."""
        if not self.rectified or node.first:
            return None
        if node.kind == "activation" and node.op not in RECTIFIERS and not node.nonnegative:
            return f"{self.title} holds for rectified networks, and {node.op} can be negative"
        if node.kind in WEIGHTED and not node.inputs[0].nonnegative:
            return (
                f"{self.title} needs activations >= 0, and the input of this layer may be negative"
            )
        return None

    def with_rules(self, *entries: Entry) -> Composite:
        """The same composite with entries of your own in front of it.

        Examples
        --------
        >>> from xaifast import composites as c, rules
        >>> c.EpsilonPlus().with_rules((c.kind("layer_norm"), rules.Pass()))
        EpsilonPlus + 1 entry
        """
        title = f"{self.title} + {len(entries)} entr{'y' if len(entries) == 1 else 'ies'}"
        return Composite([*entries, *self.entries], title, self.rectified)

    def __repr__(self) -> str:
        return self.title


def _check_entry(entry: object) -> None:
    pair = isinstance(entry, tuple) and len(entry) == 2
    if not pair or not isinstance(entry[1], Rule) or not _is_condition(entry[0]):  # type: ignore[index]
        raise wrong_type(
            "Composite: entries", "must be (condition, Rule) pairs", entry,
            'For example (composites.kind("conv"), rules.ZPlus()).',
        )  # fmt: skip


def _is_condition(condition: object) -> bool:
    if isinstance(condition, tuple):
        return all(_is_condition(c) for c in condition)
    return callable(condition)


def base(stabilizer: float = 1e-6, pool: Rule | None = None) -> list[Entry]:
    """Entries for everything that has no weights; a preset ends with them.

    Activation functions and affine nodes (a batch norm that could not be folded) pass relevance on;
    sums, means and average pooling share it in proportion; max pooling gives it to the winner;
    products with a gate give it to the signal; what moves values moves it back.

    Parameters
    ----------
    stabilizer : float, default 1e-6
        Of the denominators of sums and average pooling.
    pool : Rule, optional
        For max pooling; default `Pool()`, winner-take-all.

    Returns
    -------
    list of (condition, Rule)

    Examples
    --------
    >>> from xaifast import composites
    >>> len(composites.base())
    8
    """
    return [
        (kind("activation"), Pass()),
        (kind("affine"), Pass()),
        (kind("sum"), Epsilon(stabilizer)),
        (kind("add"), Epsilon(stabilizer)),
        (kind("max_pool"), pool or Pool()),
        (kind("max_reduce"), Pool()),
        (kind("mul"), Gate()),
        (kind("rearrange"), Transpose()),
    ]


# ---- presets ---------------------------------------------------------------------------------


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
        entries.append(((kind("affine"), lambda node: node.layer is not None), rule))
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
