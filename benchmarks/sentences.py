"""A text task without a download: which library's docstrings a sentence comes from.

Library names are masked. A docstring belongs wholly to training or to testing, and a sentence that
occurs twice is used once.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pkgutil
import re

LIBRARIES = {"numpy": "numpy", "scipy": "scipy", "sklearn": "scikit-learn", "torch": "torch"}
NAMES = re.compile(r"\b(numpy|np|scipy|sp|scikit|sklearn|learn|torch|pytorch|aten)\b")


def docstrings(library: str, limit: int) -> list[str]:
    """Docstrings of the public functions, classes and methods of a library's public modules.

    In an order that the names decide, for some texts hold addresses, new in each process.
    """
    found: dict[str, str] = {}
    package = importlib.import_module(library)
    names = [m.name for m in pkgutil.iter_modules(package.__path__)]
    for name in ["", *sorted(n for n in names if not n.startswith("_"))]:
        if name in ("testing", "tests", "conftest"):
            continue
        try:
            module = importlib.import_module(f"{library}.{name}" if name else library)
        except Exception:  # an optional part that is not installed here
            continue
        for holder in [module, *(v for v in vars(module).values() if inspect.isclass(v))]:
            if not (getattr(holder, "__module__", None) or holder.__name__).startswith(library):
                continue
            for key, value in [*vars(holder).items(), ("", holder)]:
                if not key.startswith("_") and callable(value):
                    home = getattr(value, "__module__", None) or library
                    text = getattr(value, "__doc__", None)
                    if home.startswith(library) and isinstance(text, str):
                        within = getattr(holder, "__qualname__", "")
                        found.setdefault(inspect.cleandoc(text), f"{home}.{within}.{key}")
    plain = [text for text in found if " at 0x" not in text]
    return sorted(plain, key=lambda text: hashlib.md5(found[text].encode()).digest())[:limit]


def sentences(text: str) -> list[list[str]]:
    """The words of each sentence of the prose in a docstring, library names left out."""
    prose = re.split(r"\n\s*(?:Examples?|References|See Also)\b", text)[0]
    prose = re.sub(r">>>.*|\.\. \S+|https?://\S+|:\w+:|[`*_]", " ", prose)
    parts = re.split(r"(?<=[.!?])\s+|\n\s*\n|\n[-=~]{3,}\n", prose)
    return [re.findall(r"[a-z]+", NAMES.sub(" ", part.lower())) for part in parts]


def corpus(lengths: range, docs: int, train: int, test: int) -> tuple[list, list]:
    """(words, class) pairs to train with and to test with, at most so many of each class."""
    seen: set[tuple[str, ...]] = set()
    halves: tuple[list, list] = ([], [])
    for label, library in enumerate(LIBRARIES):
        pairs: tuple[list, list] = ([], [])
        for place, text in enumerate(docstrings(library, docs)):
            for words in sentences(text):
                if len(words) in lengths and tuple(words) not in seen:
                    seen.add(tuple(words))
                    pairs[place % 4 == 0].append((words, label))
        for half, some, most in zip(halves, pairs, (train, test), strict=True):
            half += some[:most]
    return halves
