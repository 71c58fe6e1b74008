"""Conditions on nodes, and composites: lists of (condition, rule)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..errors import wrong_type, wrong_value
from ..graph.facts import RECTIFIERS
from ..graph.node import Node
from ..rules import Epsilon, Gate, Pass, Pool, Rule, Transpose

Condition = Callable[[Node], bool] | tuple  # a function, or a tuple of conditions
Entry = tuple[Condition, Rule]

# The words that `kind` knows; an operation without one goes by its ATen name.
KINDS = (
    "conv", "linear", "affine", "sum", "add", "mul", "max_pool", "max_reduce", "activation",
    "rearrange", "lstm", "gru",
)  # fmt: skip
WEIGHTED = ("conv", "linear")


# ---- conditions: objects, not closures, so that composites can be pickled ----------------------


@dataclass(frozen=True)
class _Kind:
    names: tuple[str, ...]

    def __call__(self, node: Node) -> bool:
        return node.kind in self.names or node.op in self.names


@dataclass(frozen=True)
class _ModuleType:
    types: tuple[type, ...]

    def __call__(self, node: Node) -> bool:
        return node.module_type is not None and issubclass(node.module_type, self.types)


@dataclass(frozen=True)
class _Name:
    patterns: tuple[str, ...]

    def __call__(self, node: Node) -> bool:
        return any(fnmatchcase(node.module, pattern) for pattern in self.patterns)


@dataclass(frozen=True)
class _Fraction:
    low: float
    high: float

    def __call__(self, node: Node) -> bool:
        return self.low <= node.depth < self.high


def kind(*names: str) -> Condition:
    """Match nodes by kind: "conv", "linear", "affine", "sum", "add", "mul", "max_pool", ...

    Parameters
    ----------
    *names : str
        conv, linear, affine, sum (also mean and average pooling), add, mul, max_pool, max_reduce,
        activation, rearrange, lstm or gru (cells too), or the ATen name of an operation
        ("layer_norm").

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
    return _Kind(names)


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
    return _ModuleType(types)


def name(*patterns: str) -> Condition:
    """Match nodes by the path of their module, with * and ?: name("features.*", "head").

    Examples
    --------
    >>> from xaifast import composites, rules
    >>> entry = (composites.name("layer1.*"), rules.Gamma())
    """
    _check_words("name", patterns)
    return _Name(patterns)


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
    return _Fraction(low, high)


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

    folds: bool = True  # batch norms into the layers beside them

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
