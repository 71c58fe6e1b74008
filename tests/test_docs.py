"""The documentation: every public name has its sections, and every example runs.

Each block of README.md, CONTRIBUTING.md and docs/*.md that opens with ```python runs; the blocks of
one file share their names. A block that is not to run opens with ```text (or sh, diff...).
"""

import doctest
import importlib
import inspect
import re
import runpy
from pathlib import Path

import pytest

import xaifast

PUBLIC = ["xaifast"]
PUBLIC += [f"xaifast.{name}" for name in ("attr", "cells", "composites", "rules", "ops", "viz")]
ROOT = Path(__file__).parents[1]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]


def examples():
    """The docstrings with an example, of every module of the package."""
    package = Path(xaifast.__file__).parent
    for path in sorted(package.rglob("*.py")):
        if ">>>" in path.read_text():
            parts = path.relative_to(package).with_suffix("").parts
            yield ".".join(["xaifast", *(p for p in parts if p != "__init__")])


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


@pytest.mark.parametrize("module", examples())
def test_the_examples_run(module):
    results = doctest.testmod(importlib.import_module(module))
    assert results.failed == 0
    assert results.attempted > 0


def blocks(document):
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if blocks(name)])
def test_the_programs_in_the_documents_run(document):
    names: dict = {}
    for program in blocks(document):
        exec(compile(program, document, "exec"), names)


def test_the_tables_are_those_of_the_classes():
    script = runpy.run_path(str(ROOT / "docs" / "tables.py"))
    for name in script["FILES"]:
        text = (ROOT / name).read_text()
        assert script["filled"](text) == text, f"{name}: run python docs/tables.py"
        assert text.count("<!-- end -->") > 0


def test_every_method_rule_and_op_is_in_the_tables():
    text = (ROOT / "docs" / "methods.md").read_text()
    for m in xaifast.methods():
        assert m.name.startswith("Uniform:") or f"| `{m.name}` |" in text, m.name
    for module in (xaifast.rules, xaifast.ops):
        functions = [n for n in module.__all__ if callable(getattr(module, n))]
        missing = [n for n in functions if f"`{n}" not in text]
        assert not missing, f"{module.__name__}: {missing}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_paths_lead_somewhere(document):
    text = (ROOT / document).read_text()
    for link in re.findall(r"\]\(([^)#][^)]*)\)", text):
        if "://" in link:
            continue
        file, _, place = link.partition("#")
        target = ((ROOT / document).parent / file).resolve()
        assert target.exists(), link
        heads = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if place else []
        known = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in heads]
        assert not place or place in known, link
    for path in re.findall(r"`((?:xaifast|csrc|tests|benchmarks|docs)/[\w/.]*)`", text):
        assert (ROOT / path).exists(), path


def test_every_short_path_of_the_architecture_is_a_file_or_folder():
    text = (ROOT / "docs" / "architecture.md").read_text()
    paths = re.findall(r"`((?!(?:xaifast|csrc|tests|docs)/)[\w/]+(?:\.py|/))`", text)
    assert "builder.py" in paths
    for path in paths:
        inside = list((ROOT / "xaifast").glob(f"**/{path.rstrip('/')}"))
        assert inside or (ROOT / path).exists(), path  # setup.py stands at the root


def test_the_readme_is_read_in_a_minute():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
