"""Which cases of a long product run by default, and which in a sweep alone.

A test under `@pytest.mark.sweep` is one statement, tried with a product of parameters. By default
it runs with as few of these cases as have every pair of values of two parameters (every value,
where there are no more than two parameters); with XAIFAST_SWEEP=1 it runs with all of them.
"""

import itertools
import os
import random
from collections.abc import Iterator

SWEEP = os.environ.get("XAIFAST_SWEEP", "0") != "0"
LONG = os.environ.get("XAIFAST_SWEEP") == "2"  # what takes hours: by hand, after work on caches


def covering(cases: list[dict[str, int]]) -> list[int]:
    """Choose cases that have each combination of values that occurs in any of them.

    Parameters
    ----------
    cases
        For each case, a number of the value that each parameter has.

    Returns
    -------
    list of int
        Positions in `cases`, in rising order. The choice depends on nothing but `cases`.
    """
    columns = _columns(cases)
    size = min(2, max(1, len(columns) - 1))
    order = list(range(len(cases)))
    random.Random(0).shuffle(order)
    seen: set = set()
    chosen = []
    for i in order:
        new = set(_combinations([column[i] for column in columns], size)) - seen
        if new or not chosen:
            chosen.append(i)
            seen |= new
    return sorted(chosen)


def _columns(cases: list[dict[str, int]]) -> list[tuple[int, ...]]:
    """The values of each parameter that varies; parameters that vary together count once."""
    names = cases[0]
    columns = dict.fromkeys(tuple(case[name] for case in cases) for name in names)
    return [column for column in columns if len(set(column)) > 1]


def _combinations(row: list[int], size: int) -> Iterator[tuple]:
    return itertools.combinations(enumerate(row), size)
