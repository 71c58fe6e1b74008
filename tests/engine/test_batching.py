"""How many rows to process at once."""

import pytest
import torch
from torch import nn

from xaifast import composites
from xaifast.attr import LRP
from xaifast.engine.batching import CPU_BLOCK, CPU_CACHE, MANY_ROWS, Need, need_of, rows_that_fit
from xaifast.graph.rule import NodeCall


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


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell])
def test_what_recurrent_layers_keep_counts(kind):
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            cell = kind in (nn.LSTMCell, nn.GRUCell)
            options = {} if cell else {"num_layers": 3, "bidirectional": True, "batch_first": True}
            self.rnn = kind(5, 7, **options)

        def forward(self, x):
            out = self.rnn(x)
            return out[0] if isinstance(out, tuple) else out

    x = torch.randn(4, 11, 5) if kind in (nn.LSTM, nn.GRU) else torch.randn(4, 5)
    lrp = LRP(Last(), composites.Recurrent("half"))
    propagation = lrp._builder.build((x,), 1).propagation
    (node,) = propagation.own
    kept, back = propagation.rules[node].keeps(node)
    with torch.no_grad():
        runs = [
            run for ways in propagation.rules[node].run(call_of(propagation, x))[1] for run in ways
        ]
    found = [a for run in runs for a in (run.x, run.z, run.h, run.c) if a is not None]
    assert kept * len(x) == sum(a.numel() for a in found)
    assert back * len(x) == runs[0].z.numel()
    for targets in (1, 5):
        need = need_of(propagation, targets, 8)
        assert need.kept >= 8 * (kept + targets * (back + node.elements))


def call_of(propagation, x):
    """The one recurrent node, ready to run."""
    values = propagation.run_model((x,), keep_all=True)
    (node,) = propagation.own
    return NodeCall(node, propagation.lookup(values))


def test_a_few_rows_share_large_weights():
    cpu, need = torch.device("cpu"), Need(kept=1, largest=CPU_BLOCK // 2)
    assert rows_that_fit(need, cpu) == 2
    assert rows_that_fit(need, cpu, shared=4) == 4
    assert rows_that_fit(Need(kept=1, largest=CPU_BLOCK), cpu, shared=4) == 2
    assert rows_that_fit(Need(kept=2**60, largest=CPU_BLOCK // 2), cpu, shared=4) == 1
