"""Shared by all tests: one thread, fixed seeds, each device that is there, and the benchmarks.

`pytest` is what a developer waits for. `XAIFAST_SWEEP=1 pytest` runs everything, and
`XAIFAST_SWEEP=1 pytest -m sweep` what the other leaves out; `.ci/run` does both. There is one
mechanism, in `sweep.py`:

- `@pytest.mark.sweep` on a test with a product of parameters: by default, the cases that have each
  pair of values; in a sweep, all of them.
- `sweep.SWEEP` where cases are drawn or listed by hand; such a test has the mark as well, and
  `@pytest.mark.sweep(every=True)` keeps all the cases that it lists.
"""

import collections
import gc
import sys
from pathlib import Path

import pytest
import sweep
import torch

# Last, so that an installed xaifast stays the one that is tested.
sys.path.append(str(Path(__file__).parents[1]))

torch.set_num_threads(1)


@pytest.hookimpl(trylast=True)  # of what -k and -m have left
def pytest_collection_modifyitems(config, items):
    """Leave out what a sweep alone runs."""
    products = collections.defaultdict(list)
    for item in items:
        mark = item.get_closest_marker("sweep")
        if mark and not mark.kwargs.get("every") and hasattr(item, "callspec"):
            products[item.nodeid.partition("[")[0]].append(item)
    left_out = set()
    for cases in () if sweep.SWEEP else products.values():
        # Cases of one product share the objects that are their values.
        values = [{n: id(v) for n, v in case.callspec.params.items()} for case in cases]
        chosen = sweep.covering(values)
        left_out |= set(cases) - {cases[i] for i in chosen}
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


def pytest_collection_finish():
    """Look no more at what imports have made when garbage is collected.

    A model that keeps what it computes is rehearsed with a full collection at each call.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def pytest_report_header():
    return f"devices: {', '.join(DEVICES)}"


@pytest.fixture(params=DEVICES)
def device(request):
    return torch.device(request.param)
