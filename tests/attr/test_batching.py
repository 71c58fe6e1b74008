"""How many rows to process at once."""

import pytest
import torch

from xaifast.attr.batching import CPU_BLOCK, CPU_CACHE, MANY_ROWS, Need, rows_that_fit


@pytest.mark.parametrize(
    ("largest", "rows"),
    [
        (CPU_CACHE // 1000, 1000),  # small rows fill the cache
        (CPU_CACHE // MANY_ROWS, MANY_ROWS),
        (CPU_CACHE // 10, MANY_ROWS),  # but many at least share the weights,
        (CPU_BLOCK // 10, 10),  # as long as a block is not too large
        (2 * CPU_BLOCK, 1),
        (0, None),
    ],
)
def test_rows_on_the_cpu(largest, rows):
    found = rows_that_fit(Need(kept=1, largest=largest), torch.device("cpu"))
    assert found == rows or (rows is None and found > 10**6)


def test_no_more_rows_than_the_memory_holds():
    assert rows_that_fit(Need(kept=2**60, largest=1), torch.device("cpu")) == 1


def test_a_few_rows_share_large_weights():
    cpu, need = torch.device("cpu"), Need(kept=1, largest=CPU_BLOCK // 2)
    assert rows_that_fit(need, cpu) == 2
    assert rows_that_fit(need, cpu, shared=4) == 4
    assert rows_that_fit(Need(kept=1, largest=CPU_BLOCK), cpu, shared=4) == 2
    assert rows_that_fit(Need(kept=2**60, largest=CPU_BLOCK // 2), cpu, shared=4) == 1
