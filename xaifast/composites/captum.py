"""captum's rules of LRP, where a user of captum has put them: on the modules, as `module.rule`.

They are known by their names and attributes; captum itself is not needed. Each is the same four
steps on changed weights w*, with the layer's own activations:

    z = sum_j a_j w*_j + b*,   s = R / (z + eps sgn z),   c = sum w* s,   R_j = a_j c_j

EpsilonRule: w* = w, b* = b. GammaRule: w* = w + gamma w+. Alpha1_Beta0_Rule: w* = w+. The last two
leave b as it is, or out (set_bias_to_zero), and look at no sign of a: `rules.Gamma` and
`rules.ZPlus` are the book's. IdentityRule: R_j = R (behind an activation function captum 0.9 hands
c on in its place, which is not followed). Modules without weights have EpsilonRule's formula by all
but IdentityRule. eps is the rule's STABILITY_FACTOR, 1e-9 by default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import describe, wrong_type, wrong_value
from ..graph.layers.base import Layer
from ..graph.node import Node
from ..rules import Epsilon, Pass, Pool, Rule, Transpose
from ..rules.base import LinearRule, Part
from .conditions import WEIGHTED, Composite, Entry
from .lrp import Uniform

DEFAULT = 1e-9  # captum's epsilon, also of the modules that have no rule
IDENTITY = Pass()  # one, so that rules that have not changed compare equal
# captum hands relevance on through these whatever their rule.
PASSED = (nn.ReLU, nn.Dropout, nn.Tanh)


# ---- the rules -------------------------------------------------------------------------------


@dataclass(repr=False)
class Changed(LinearRule):
    """The four steps on changed weights.

    name: captum's; gamma: w* = w + gamma w+ (None: w+); bias: whether b counts; epsilon: eps.
    """

    name: str
    gamma: float | None  # None: w+ alone
    bias: bool
    epsilon: float

    def parts(self, layer: Layer, a: Tensor, z: Tensor | None):
        w = layer.derive(f"captum's {self.gamma} w", self._change)
        yield Part(a, w, layer.bias if self.bias else None, self.epsilon)

    def _change(self, w: Tensor) -> Tensor:
        positive = w.clamp(min=0)
        return positive if self.gamma is None else w + self.gamma * positive

    def gates(self, node: Node, gated: bool) -> bool:
        return True


@dataclass(repr=False)
class Stabilized(Rule):
    """A rule for what has no weights, given R z / (z + eps sgn z)."""

    rule: Rule
    epsilon: float
    needs_output = True

    def check(self, node: Node) -> str | None:
        return self.rule.check(node)

    def propagate(self, node, inputs, output, R, balance=None):
        passed = R * (
            output / torch.where(output >= 0, output + self.epsilon, output - self.epsilon)
        )
        if balance is not None:
            balance.absorb(stabilizer=(R - passed).sum())
        return self.rule.propagate(node, inputs, output, passed, balance)


@dataclass(repr=False)
class Unknown(Rule):
    """Refuses its node."""

    reason: str

    def check(self, node: Node) -> str | None:
        return self.reason


# ---- from the modules ------------------------------------------------------------------------


@dataclass(frozen=True)
class At:
    """The nodes of one module, of these kinds (none: of all)."""

    path: str
    kinds: tuple[str, ...] = ()

    def __call__(self, node: Node) -> bool:
        return node.module == self.path and (not self.kinds or node.kind in self.kinds)


def _epsilon(rule: Any) -> Rule:
    return Epsilon(float(rule.STABILITY_FACTOR))


def _gamma(rule: Any) -> Rule:
    return Changed("GammaRule", float(rule.gamma), not rule.set_bias_to_zero, rule.STABILITY_FACTOR)


def _alpha(rule: Any) -> Rule:
    return Changed("Alpha1_Beta0_Rule", None, not rule.set_bias_to_zero, rule.STABILITY_FACTOR)


RULES: dict[str, Callable[[Any], Rule]] = {
    "EpsilonRule": _epsilon,
    "GammaRule": _gamma,
    "Alpha1_Beta0_Rule": _alpha,
    "IdentityRule": lambda rule: IDENTITY,
}


def _is_meant(module: nn.Module, rule: object) -> bool:
    """Whether a module's attribute is a rule: captum's, or anything on a layer of PyTorch's."""
    known = type(module).__module__.startswith("torch.nn.")
    return known or any(base.__name__ == "PropagationRule" for base in type(rule).__mro__)


def rules_of(model: nn.Module) -> tuple[tuple[str, Rule | None], ...]:
    """The modules with a rule of captum's, by path, and what it is here (None: without effect).

    Raises
    ------
    TypeError
        If a rule is none of the four, or one of ours.
    ValueError
        If a module with a rule has modules inside: captum takes no notice of such a rule.
    """
    found = []
    for path, module in model.named_modules(remove_duplicate=False):
        rule = getattr(module, "rule", None)
        where = f"LRP: {path or 'the model'}.rule"
        if isinstance(rule, Rule):
            raise wrong_type(
                where, "must be a rule of captum", rule,
                f"For rules of xaifast: composite.with_rules((composites.name({path!r}), rule)).",
            )  # fmt: skip
        if rule is None or not _is_meant(module, rule):
            continue
        if type(rule).__name__ not in RULES:
            raise wrong_type(
                where, f"must be one of captum's {', '.join(RULES)}", describe(rule),
                "Write it as a rule of xaifast (see xaifast.rules), and take it from the module.",
            )  # fmt: skip
        if next(module.children(), None) is not None:
            raise wrong_value(
                where, "must belong to a module without modules inside",
                f"a {type(module).__name__}", "captum ignores it; set it on the modules inside.",
            )  # fmt: skip
        made = None if type(module) in PASSED else RULES[type(rule).__name__](rule)
        found.append((path, made))
    return tuple(found)


def _entries(path: str, rule: Rule | None) -> list[Entry]:
    """A module's rule as entries of a composite."""
    if rule is None:
        return []
    if isinstance(rule, Pass):
        return [(At(path), rule)]
    eps = rule.epsilon  # type: ignore[attr-defined]
    entries: list[Entry] = [
        (At(path, WEIGHTED), rule),
        (At(path, ("sum", "add")), Epsilon(eps)),
        (At(path, ("max_pool", "max_reduce")), Stabilized(Pool(), eps)),
        (At(path, ("rearrange",)), Stabilized(Transpose(), eps)),
    ]
    if isinstance(rule, Epsilon):
        entries.append((At(path, ("affine",)), rule))
    name = rule.name if isinstance(rule, Changed) else "EpsilonRule"
    return [*entries, (At(path), Unknown(f"captum's {name} is not known here for such a module"))]


def composite_of(rules: tuple[tuple[str, Rule | None], ...]) -> Composite:
    """The composite that does what captum does with a model's rules, and its defaults elsewhere."""
    entries = [entry for path, rule in rules for entry in _entries(path, rule)]
    rest = Uniform(Epsilon(DEFAULT)).entries
    composite = Composite([*entries, *rest], f"captum's rules of {len(rules)} module(s)")
    composite.folds = False  # a batch norm has a rule of its own
    return composite
