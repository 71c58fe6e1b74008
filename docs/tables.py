"""Writes the tables of methods in README.md and docs/methods.md: `python docs/tables.py`.

Each stands between two comments, <!-- NAME --> and <!-- end -->; a test compares them with this.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import xaifast  # noqa: E402
from xaifast import catalogue, composites  # noqa: E402

FILES = ("README.md", "docs/methods.md")


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown of a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def listed(family: str) -> list[catalogue.Method]:
    """The explainers of a family, without composites and rules by name."""
    found = [m for m in xaifast.methods() if m.family == family]
    return [m for m in found if m.name not in composites.PRESETS and ":" not in m.name]


def families() -> str:
    """One row for each family."""
    rows = []
    for family in catalogue.FAMILIES:
        names = [f"`{m.name}`" for m in listed(family)]
        rows.append([f"[{family}](docs/methods.md#{family})", ", ".join(names)])
    presets = ", ".join(f"`{name}`" for name in catalogue.PROPAGATION)
    rows.append(["[composites of LRP](docs/methods.md#composites)", presets])
    return table(["family", "methods"], rows)


def methods() -> str:
    """One table for each family."""
    head = ["method", "needs", "cost", "book", "what it does"]
    parts = []
    for family in catalogue.FAMILIES:
        rows = [[f"`{m.name}`", m.needs, m.cost, m.book, m.summary] for m in listed(family)]
        parts.append(f"### {family}\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def presets() -> str:
    """The composites that go by a name."""
    head = ["composite", "rule for conv / dense / first layer", "products", "book"]
    rows = [
        [f"`{name}`", which, products, book]
        for name, (products, book, which) in catalogue.PROPAGATION.items()
    ]
    return table(head, rows)


TABLES = {"families": families, "methods": methods, "composites": presets}


def filled(text: str) -> str:
    """A document with its tables made anew."""
    for name, make in TABLES.items():
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        if mark:
            _, end, behind = rest.partition("<!-- end -->")
            text = f"{before}{mark}{make()}\n{end}{behind}"
    return text


if __name__ == "__main__":
    for name in FILES:
        path = ROOT / name
        path.write_text(filled(path.read_text()))
