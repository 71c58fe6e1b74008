"""Every method under one door: `explain` by name, and the list of names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from torch import Tensor

from . import attr, composites, rules
from .errors import wrong_type, wrong_value

# ---- what is known of a method -----------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A method that `explain` knows by name.

    Attributes
    ----------
    name : str
        As `explain` takes it; capitals, "_" and "-" make no difference.
    family : str
        gradient, path, perturbation, surrogate, propagation or layer.
    needs : str
        "function": explains anything that can be called, and a module; "gradient": the same, if it
        can be differentiated; "module": a torch.nn.Module, whose graph is captured.
    cost : str
        In forward passes of one sample, at most, with the options that it depends on; a backward
        pass counts as one. Where batches are cut automatically, one more row may be measured.
    book : str
        The sections of the book.
    summary : str
        What it does, in a line.
    make : callable
        model, **options -> the explainer.

    Examples
    --------
    >>> import xaifast
    >>> ig = next(m for m in xaifast.methods() if m.name == "IntegratedGradients")
    >>> ig.family, ig.needs, ig.cost, ig.book
    ('path', 'gradient', '2 * n_steps', '9.3.2')
    """

    name: str
    family: str
    needs: str
    cost: str
    book: str
    summary: str = field(repr=False)
    make: Callable[..., Any] = field(repr=False)
    preset: dict[str, Any] = field(default_factory=dict, repr=False)  # for `attribute`

    def __str__(self) -> str:
        facts = f"{self.family:12}  {self.needs:8}  {self.cost:30}  {self.book:13}"
        return f"{self.name:26}  {facts}  {self.summary}"

    @property
    def build_options(self) -> dict[str, inspect.Parameter]:
        """The options that make the explainer."""
        parameters = list(inspect.signature(self.make).parameters.values())[1:]
        named = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
        return {p.name: p for p in named if p.name != "device_ids"}

    @property
    def required(self) -> list[str]:
        """Options without a default."""
        parameters = [*self.build_options.values(), *_call_options(self.make).values()]
        return [p.name for p in parameters if p.default is p.empty and p.name not in self.preset]


def _call_options(make: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Options of `attribute`, beside inputs and target; `**kwargs` are those of another method."""
    kind: Any = getattr(make, "explainer", make)
    parameters = inspect.signature(kind.attribute).parameters
    return {
        name: p
        for name, p in parameters.items()
        if name not in ("self", "inputs", "target", "kwargs")
    }


def _summary(documented: object) -> str:
    return str(documented.__doc__).partition("\n")[0]


# ---- how explainers are made of a model and options ----------------------------------------------


class _Propagation:
    """Makes LRP with a composite, whose options are those of its preset; and LRP's precision."""

    explainer = attr.LRP

    def __init__(self, composite: Callable[..., composites.Composite]) -> None:
        own = inspect.signature(composite).parameters.values()
        model = inspect.Parameter("model", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        named = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        precision = inspect.signature(attr.LRP).parameters["precision"]
        self.__signature__ = inspect.Signature([model, *named, precision])
        self.composite = composite

    def __call__(self, model: Any, *, precision: str = "float32", **options: Any) -> attr.LRP:
        return attr.LRP(model, self.composite(**options), precision=precision)


class _Noise:
    """Makes NoiseTunnel over another method."""

    explainer = attr.NoiseTunnel

    def __call__(self, model: Any, explainer: str = "Saliency", **options: Any) -> attr.NoiseTunnel:
        return attr.NoiseTunnel(find(explainer).make(model, **options))


def _uniform(rule: Callable[..., rules.Rule]) -> Callable[..., composites.Composite]:
    def composite(**options: Any) -> composites.Composite:
        return composites.Uniform(rule(**options))

    composite.__signature__ = inspect.signature(rule)  # type: ignore[attr-defined]
    return composite


# ---- the table -----------------------------------------------------------------------------------

NOISE = [  # NoiseTunnel over Saliency
    ("SmoothGrad", {"nt_type": "smoothgrad"}, "Mean gradient over noisy copies of the sample."),
    ("SmoothGradSquared", {"nt_type": "smoothgrad_sq"}, "Mean of squared gradients over them."),
    ("VarGrad", {"nt_type": "vargrad"}, "Variance of the gradient over them."),
]
FAMILIES = ("gradient", "path", "perturbation", "surrogate", "layer", "propagation")
PROPAGATION = {  # products that a ReLU network needs, sections, rules of conv / dense / first layer
    "EpsilonPlus": ("3", "22.2.2", "z+ / epsilon / -"),
    "EpsilonPlusFlat": ("3", "22.2.2", "z+ / epsilon / flat"),
    "EpsilonAlpha2Beta1": ("5", "10.A", "alpha2-beta1 / epsilon / -"),
    "EpsilonAlpha2Beta1Flat": ("5", "10.A", "alpha2-beta1 / epsilon / flat"),
    "EpsilonGammaBox": ("3", "10.3", "gamma / epsilon / z-box"),
    "ZeroEpsilonGammaBox": (
        "3", "10.3, 13.2.2", "gamma below, epsilon = 0.25 std above / LRP-0 / z-box",
    ),
    "LRPStar": ("3", "22.2.2", "alpha1-beta0 / epsilon / -"),
    "DeepTaylor": ("3", "10.2.3, 16.2", "z+ without bias / z+ without bias / w^2"),
    "DeepTaylorBounded": ("3", "10.A, 16.2", "z+ without bias / z+ without bias / z-box"),
    "ExcitationBackprop": ("3", "22.2.2", "z+ / z+ / -"),
    "Recurrent": (
        "3", "11.3", "epsilon / epsilon / -; LSTM, GRU and products with a gate by table 11.1",
    ),
}  # fmt: skip
UNIFORM: dict[str, tuple[Callable[..., rules.Rule], str, str]] = {
    "Zero": (rules.Zero, "2", "10.2.1"),
    "Epsilon": (rules.Epsilon, "2", "10.2.1"),
    "Gamma": (rules.Gamma, "3", "10.2.1"),
    "ZPlus": (rules.ZPlus, "3", "10.A"),
    "Alpha2Beta1": (rules.AlphaBeta, "5", "10.A"),
    "WSquare": (rules.WSquare, "3", "10.A"),
    "Flat": (rules.Flat, "3", "10.A"),
}


def _explainers() -> Iterator[Method]:
    """The classes of `attr` that are listed, in the order of their names there."""
    for name in attr.__all__:
        made = getattr(attr, name)
        listing = vars(made).get("listing") if isinstance(made, type) else None
        if listing is None:
            continue
        noise = made is attr.NoiseTunnel
        family, needs, cost, book = listing
        make = _Noise() if noise else made
        yield Method(name, family, needs, cost, book, _summary(made), make)
        if noise:
            yield from (
                Method(preset, "gradient", "gradient", "2 * nt_samples", "1.4.1, 22.A.4",
                       summary, _Noise(), {"abs": False, **options})
                for preset, options, summary in NOISE
            )  # fmt: skip


def methods() -> list[Method]:
    """List the methods that `explain` knows, with what they need and cost.

    Returns
    -------
    list of Method
        Each with name, family, needs ("function", "gradient" or "module"), cost in forward passes,
        section of the book, and a summary. Printed, one is a line of a table.

    Examples
    --------
    >>> import xaifast
    >>> [m.name for m in xaifast.methods() if m.family == "path"][:2]
    ['DeepLift', 'DeepLiftShap']
    """
    listed = sorted(_explainers(), key=lambda m: FAMILIES.index(m.family))
    for name, (cost, book, _) in PROPAGATION.items():
        preset = composites.PRESETS[name]
        make = _Propagation(preset)
        listed.append(Method(name, "propagation", "module", cost, book, _summary(preset), make))
    for name, (rule, cost, book) in UNIFORM.items():
        make, summary = _Propagation(_uniform(rule)), f"Everywhere: {_summary(rule)}"
        listed.append(Method(f"Uniform:{name}", "propagation", "module", cost, book, summary, make))
    return listed


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def find(name: str, who: str = "explain: method") -> Method:
    """Return the method of a name; the error suggests the nearest one."""
    if not isinstance(name, str):
        raise wrong_type(who, "must be a name", name, "For example method='IntegratedGradients'.")
    known = {_plain(m.name): m for m in methods()}
    if _plain(name) not in known:
        close = get_close_matches(_plain(name), known, 1, 0.4)
        hint = f"Did you mean {known[close[0]].name}? " if close else ""
        listing = "`xaifast methods` lists all." if who[0] == "-" else "xaifast.methods() has all."
        raise wrong_value(who, "must be a known name", repr(name), hint + listing)
    return known[_plain(name)]


# ---- the door ------------------------------------------------------------------------------------


def bind(m: Method, model: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    """Make the explainer; return what explains (inputs, target) with the options."""
    build, call = dict(m.build_options), _call_options(m.make)
    if isinstance(m.make, _Noise):  # it hands on what is not its own
        inner = find(options.get("explainer", "Saliency"), "explain: explainer")
        build.update(inner.build_options)
        call.update(_call_options(inner.make))
    _check_options(m, options, {**build, **call})
    chosen = {**m.preset, **options}
    explainer = m.make(model, **{k: v for k, v in chosen.items() if k in build})
    named = {k: v for k, v in chosen.items() if k not in build}

    def attribute(inputs: Any, target: Any) -> Any:
        aim = {} if m.name == "LayerActivation" else {"target": target}
        return explainer.attribute(inputs, **aim, **named)

    return attribute


def _check_options(m: Method, given: dict[str, Any], allowed: dict[str, Any]) -> None:
    listing = ", ".join(sorted(allowed))
    for name in given:
        if name not in allowed:
            close = get_close_matches(name, allowed, 1, 0.5)
            raise wrong_type(
                f"explain: {name}", f"must be an option of {m.name}", "an unknown one",
                (f"Did you mean {close[0]}? " if close else "") + f"Allowed: {listing}.",
            )  # fmt: skip
    missing = [name for name in m.required if name not in given]
    if missing:
        raise wrong_type(
            f"explain: {', '.join(missing)}", f"must be given for {m.name}", "nothing",
            f"Allowed: {listing}.",
        )  # fmt: skip


def explain(
    model: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    method: str,
    target: Any = None,
    **options: Any,
) -> Any:
    """Explain an output of a model by the method of a name.

    It makes the explainer and calls it once; to explain many batches, make the explainer of
    `xaifast.attr` yourself and keep it, as it keeps what it has found out about the model.

    Parameters
    ----------
    model : torch.nn.Module or callable
        What to explain; `methods()` tells which methods need a module.
    inputs : Tensor [N, ...] or tuple of them
    method : str
        A name of `methods()`; capitals, "_" and "-" make no difference ("integrated_gradients").
    target : optional
        The output to explain: an int, one int per sample, a tuple of ints for an output with more
        dimensions; None if there is one output.
    **options
        Of the explainer and of its `attribute`, such as n_steps=100, baselines=0.5, layer="conv1",
        low=0.0; an unknown one is refused with a list of those that are allowed.

    Returns
    -------
    Tensor or tuple of Tensor
        Attributions like the inputs, and what else the options ask for.

    Raises
    ------
    ValueError, TypeError
        For an unknown method or option, or an argument that does not fit; before any work.

    Examples
    --------
    >>> import torch, xaifast
    >>> model = torch.nn.Linear(3, 2, bias=False)
    >>> x = torch.randn(4, 3)
    >>> R = xaifast.explain(model, x, "integrated_gradients", target=1, n_steps=5)
    >>> bool(torch.allclose(R, model.weight[1] * x, atol=1e-6))
    True
    >>> relevance = xaifast.explain(model, x, "EpsilonPlus", target=[0, 1, 1, 0])
    """
    return bind(find(method), model, options)(inputs, target)
