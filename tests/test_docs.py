"""The documentation: every public name has its sections, and every example runs."""

import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest

import xaifast

PUBLIC = ["xaifast"]
PUBLIC += [f"xaifast.{name}" for name in ("attr", "cells", "composites", "rules", "ops", "viz")]
# Where the public names are written down, with their examples.
SOURCES = [
    "xaifast.catalogue",
    "xaifast.engine.baselines",
    "xaifast.attr.path.cell_states",
    "xaifast.attr.propagation.contextual",
    "xaifast.attr.propagation.deeplift",
    "xaifast.attr.gradient.saliency",
    "xaifast.attr.path.gradient_shap",
    "xaifast.attr.propagation.guided",
    "xaifast.attr.surrogate.similarity",
    "xaifast.attr.layer.activation",
    "xaifast.attr.layer.output",
    "xaifast.attr.layer.path",
    "xaifast.attr.gradient.noise_tunnel",
    "xaifast.attr.path.integrated_gradients",
    "xaifast.attr.perturbation.ablation",
    "xaifast.attr.perturbation.prediction_difference",
    "xaifast.attr.propagation.lrp",
    "xaifast.attr.surrogate.regressors",
    "xaifast.attr.perturbation.rise",
    "xaifast.attr.perturbation.shapley",
    "xaifast.attr.surrogate.lime",
    "xaifast.attr.surrogate.lime_base",
    "xaifast.composites.deeplift",
    "xaifast.composites.gradient",
    "xaifast.rules.deeplift",
    "xaifast.rules.gradient",
    "xaifast.composites.conditions",
    "xaifast.composites.lrp",
    "xaifast.rules.lrp",
    "xaifast.rules.recurrent",
    "xaifast.ops.recurrent",
    "xaifast.ops.paths",
    "xaifast.ops.regression",
    "xaifast.ops.relevance",
    "xaifast.ops.sampling",
    "xaifast.viz.pictures",
]
TABLES_OF_CONTENTS = {"xaifast", "xaifast.attr", "xaifast.ops", "xaifast.viz"}
README = Path(__file__).parent.parent / "README.md"


def public_functions():
    for module_name in PUBLIC:
        module = importlib.import_module(module_name)
        for name in module.__all__:
            member = getattr(module, name)
            if callable(member):
                yield f"{module_name}.{name}", member


@pytest.mark.parametrize(
    ("name", "member"), public_functions(), ids=lambda x: x if isinstance(x, str) else ""
)
def test_every_public_name_is_documented_and_typed(name, member):
    text = inspect.getdoc(member) or ""
    assert text.strip(), name
    interfaces = ("Rule", "LinearRule", "Attribution", "GradientAttribution", "LayerAttribution")
    interfaces += ("PerturbationAttribution", "XaifastError")
    if name.rpartition(".")[2] in ("first", "last", "Part", *interfaces):
        return  # a condition of one line, and the classes that others are made from
    assert "Examples\n--------" in text, f"{name} has no example"
    if inspect.isfunction(member):
        signature = inspect.signature(member)
        assert signature.return_annotation is not inspect.Signature.empty, name
        untyped = [p for p in signature.parameters.values() if p.annotation is p.empty]
        assert not untyped, f"{name}: {untyped}"


@pytest.mark.parametrize("module", [*PUBLIC, *SOURCES])
def test_the_examples_run(module):
    results = doctest.testmod(importlib.import_module(module))
    assert results.failed == 0
    assert module in TABLES_OF_CONTENTS or results.attempted > 0


def test_the_program_in_the_readme_runs():
    programs = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert programs
    for program in programs:
        exec(compile(program, str(README), "exec"), {})


def test_the_readme_lists_every_method():
    text = README.read_text()
    for m in xaifast.methods():
        if m.name.startswith("Uniform:"):
            continue
        if m.name in xaifast.composites.PRESETS:
            assert re.search(rf"^\| `{m.name}\(.*\| {m.book} \| {m.cost} \|$", text, re.MULTILINE)
        else:
            facts = f"{m.family} | {m.needs} | {m.cost} | {m.book}"
            assert f"| `{m.name}` | {facts} |" in text, m.name
