"""What all benchmark scripts share: their common options, the header, a table or JSON at the end.

`Report(options)` prints what the figures belong to, `add` each row as soon as it is measured,
`finish` the Markdown table, and writes the file of --json.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import torch

from .timing import machine, table


def parser(doc: str | None, rounds: int, device: str = "cpu") -> argparse.ArgumentParser:
    """The options that every script has; it adds its own."""
    p = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    p.add_argument("--device", choices=("cpu", "cuda"), default=device)
    p.add_argument("--rounds", type=int, default=rounds, help="interleaved rounds of all functions")
    p.add_argument("--threads", type=int, help="of PyTorch; as it comes by default")
    p.add_argument("--json", help="also write the results to this file")
    return p


def command() -> str:
    """How the script was called, without the place of the JSON file."""
    words, skip = [], False
    for word in sys.argv[1:]:
        if not (skip or word == "--json" or word.startswith("--json=")):
            words.append(f'"{word}"' if " " in word else word)
        skip = word == "--json"
    main = getattr(sys.modules["__main__"], "__spec__", None)
    return " ".join(["python -m", main.name if main else "benchmarks", *words])


class Report:
    """Rows as they come, then all of them as a table and as JSON."""

    def __init__(self, options: argparse.Namespace) -> None:
        if options.device == "cuda" and not torch.cuda.is_available():
            raise SystemExit("--device cuda: there is no CUDA device here")
        if options.threads:
            torch.set_num_threads(options.threads)
        self.about, self.path = machine(options.device), options.json
        self.rows: list[list[str]] = []
        self.results: list[Any] = []
        print(", ".join(f"{key} {value}" for key, value in self.about.items()))
        print("\n    " + command() + "\n", flush=True)

    def add(self, row: list[str], result: Any = None) -> None:
        """Take a row of the table, and what the JSON file says of it (by default the same)."""
        self.rows.append(row)
        self.results.append(row if result is None else result)
        print("  ".join(row), flush=True)

    def finish(self, head: list[str], **more: Any) -> None:
        """Print the table; `more` goes into the JSON file."""
        print("\n" + table(head, self.rows) + "\n")
        if self.path:
            found = {"machine": self.about, "command": command(), "head": head, **more}
            with open(self.path, "w") as file:
                json.dump({**found, "results": self.results}, file, indent=1)
