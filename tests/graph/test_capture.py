"""Capturing: which way is taken, and what is refused."""

import nets
import pytest
import torch
from torch import nn

from xaifast.errors import InputTypeError, ModelError
from xaifast.graph.capture.modules import check_model, private_copy
from xaifast.graph.model import model_graph


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.a(x) if x.sum() > 0 else self.b(x)


class FixedBatch(nn.Module):
    def forward(self, x):
        return (x.reshape(-1, 2, 4) * torch.ones(2, 1, device=x.device)).flatten(0, 1)[: len(x)]


class BatchAsNumber(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return self.linear(x.view(len(x), 2, 2).flatten(1))  # len gives export a plain number


class Variadic(nn.Module):
    def forward(self, *parts, scale=1.0):
        return sum(parts) * scale


@pytest.mark.parametrize(
    ("model", "batched", "traced"),
    [(nn.Linear(4, 3), True, False), (BatchAsNumber(), False, False), (Branching(), False, True)],
)
def test_the_most_general_way_that_is_right(model, batched, traced):
    graph = model_graph(model, (torch.randn(6, 4),), 1)
    assert (graph.batched, graph.traced) == (batched, traced)


def test_a_graph_with_a_symbolic_batch_serves_every_batch():
    model = nn.Linear(4, 3)
    graphs = [model_graph(model, (torch.randn(n, 4),), 1) for n in (1, 2, 5)]
    names = [[n.name for n in g.nodes] for g in graphs]
    assert names[0] == names[1] == names[2]


@pytest.mark.parametrize("number", [2, 2.5, True, None])
def test_numbers_among_the_arguments_leave_the_batch_symbolic(number):
    class Scaled(nn.Module):
        def forward(self, x, factor):
            return x if factor is None else x * factor

    assert model_graph(Scaled(), (torch.randn(3, 4), number), 1).rows == (True, False)


def test_variable_arguments_and_wrappers():
    x = torch.randn(2, 4)
    assert model_graph(Variadic(), (x, x), 2).batched
    assert check_model("LRP", nn.DataParallel(Variadic())).__class__ is Variadic


@pytest.mark.parametrize(
    ("output", "word"), [(lambda x: {"out": x}, "dict"), (lambda x: (x, x), "tuple")]
)
def test_a_model_must_return_one_tensor(output, word):
    class Other(nn.Module):
        def forward(self, x):
            return output(x)

    with pytest.raises(ModelError, match=f"returns a {word}.*Wrap it"):
        model_graph(Other(), (torch.ones(2, 3),), 1)


def test_an_output_that_ignores_the_input_is_refused():
    class Ignoring(nn.Module):
        def forward(self, x):
            return torch.ones(len(x), 3)

    with pytest.raises(ModelError, match="does not depend on the inputs"):
        model_graph(Ignoring(), (torch.ones(2, 3),), 1)


def test_what_is_no_module_is_refused():
    with pytest.raises(InputTypeError, match=r"LRP: model must be a torch.nn.Module; got 3\."):
        check_model("LRP", 3)


def test_the_private_copy_shares_every_tensor_and_no_module():
    model = nets.prepared(nets.ResNet())
    model.train()
    twin = private_copy(model)
    assert all(p is q for p, q in zip(model.parameters(), twin.parameters(), strict=True))
    assert not set(map(id, model.modules())) & set(map(id, twin.modules()))
    assert model.training
    assert not any(m.training for m in twin.modules())


def test_a_module_that_cannot_be_copied_is_named():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.lock = __import__("threading").Lock()

        def forward(self, x):
            return x

    with pytest.raises(ModelError, match=r"Holder cannot be copied.*__deepcopy__"):
        model_graph(Holder(), (torch.ones(1, 2),), 1)


@pytest.mark.parametrize(
    "layer",
    [
        nn.LSTM(3, 4, batch_first=True),
        nn.LSTM(3, 4, 2, bidirectional=True, bias=False),
        nn.GRU(3, 4, 2, bidirectional=True, batch_first=True),
        nn.GRU(3, 4),
        pytest.param(nn.LSTM(3, 5, 2, proj_size=2, bidirectional=True), id="projected"),
    ],
)
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_the_steps_of_recurrent_layers_are_not_run_to_know_their_shapes(layer, monkeypatch):
    class All(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = layer

        def forward(self, x):
            x = x if layer.batch_first else x.transpose(0, 1)
            y, last = self.rnn(x)
            y = y if layer.batch_first else y.transpose(0, 1)
            last = last if isinstance(last, tuple) else (last,)
            return torch.cat([y.flatten(1), *(s.transpose(0, 1).flatten(1) for s in last)], 1)

    def refused(*args, **options):
        raise AssertionError("a step was run")

    for name in ("one_layer_lstm", "one_layer_rnn"):
        monkeypatch.setattr(torch._decomp.decompositions, name, refused)
    model = All().eval()
    graph = model_graph(model, (torch.randn(3, 5, 3),), 1)
    assert graph.batched
    (node,) = (n for n in graph.nodes if n.op in ("lstm", "gru"))
    assert node.args[0] is getattr(torch.ops.aten, node.op).input
