"""The entry of an explainer in the list of methods, from which tables are generated."""

from __future__ import annotations

from typing import NamedTuple


class Listing(NamedTuple):
    """The entry of an explainer in the list of methods.

    family: its folder in `attr`; needs: "function", "gradient" or "module", the least that it can
    explain; cost: in forward passes of one sample, with the options that it depends on; book: the
    sections of the book.
    """

    family: str
    needs: str
    cost: str
    book: str
