"""LRP of recurrent layers: against the book's equations step by step, and against unrolled code."""

from copy import deepcopy
from functools import cache

import numpy as np
import pytest
import torch
from oracle.compare import assert_close, randomize
from oracle.recurrent_layers import by_oracle
from torch import Tensor, nn

from xaifast import composites, rules
from xaifast.attr import LRP
from xaifast.errors import InputError, InputTypeError, ModelError

GATES = ["all", "prop", "abs", "half"]
EPS = 0.03  # so large that a stabilizer in the wrong place cannot hide
KINDS = {"lstm": nn.LSTM, "gru": nn.GRU}


class Everything(nn.Module):
    """All that a recurrent layer returns, as one row for each sample; states are inputs."""

    def __init__(self, kind: str, features: int = 3, hidden: int = 4, **options) -> None:
        super().__init__()
        self.rnn = KINDS[kind](features, hidden, **options)

    def forward(self, x: Tensor, *states: Tensor) -> Tensor:
        states = tuple(s.transpose(0, 1) for s in states)
        x = x if self.rnn.batch_first else x.transpose(0, 1)
        y, last = self.rnn(x, states if len(states) == 2 else states[0])
        y = y if self.rnn.batch_first else y.transpose(0, 1)
        last = last if isinstance(last, tuple) else (last,)
        return torch.cat([y.flatten(1), *(s.transpose(0, 1).flatten(1) for s in last)], 1)


@cache
def case(kind: str, batch: int = 2, steps: int = 4, **options):
    """A model with random weights, and x, states and relevance of all outputs."""
    model = randomize(Everything(kind, **options).double(), seed=1)
    rnn = model.rnn
    many = rnn.num_layers * (2 if rnn.bidirectional else 1)
    states = (torch.randn(batch, many, rnn.hidden_size).double() for _ in KINDS_OF_STATE[kind])
    inputs = (torch.randn(batch, steps, rnn.input_size).double(), *states)
    return model, inputs, torch.randn_like(model(*inputs))


KINDS_OF_STATE = {"lstm": ("h", "c"), "gru": ("h",)}


SHAPES = {
    "one layer": {},
    "batch first": {"batch_first": True},
    "two layers": {"num_layers": 2, "batch_first": True},
    "both directions": {"bidirectional": True},
    "three layers, both directions": {"num_layers": 3, "bidirectional": True, "dropout": 0.5},
    "no biases": {"bias": False, "num_layers": 2},
}


@pytest.mark.sweep
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_follows_the_book(kind, gate, shape, bias):
    model, inputs, R = case(kind, **SHAPES[shape])
    composite = composites.Recurrent(gate, EPS, bias)
    got = LRP(model, composite).attribute(inputs, start=R)
    for R_got, want in zip(got, by_oracle(model.rnn, inputs, R, gate, EPS, bias), strict=True):
        assert_close(R_got, want)


# ---- unrolled code, of which every operation is a node -----------------------------------------


class Unrolled(nn.Module):
    """An LSTM of plain operations with the weights of `nn.LSTM`, one linear map for each step."""

    def __init__(self, rnn: nn.LSTM) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Tensor:
        h, c, rnn = h[:, 0], c[:, 0], self.rnn
        w = torch.cat([rnn.weight_ih_l0, rnn.weight_hh_l0], 1)
        b = rnn.bias_ih_l0 + rnn.bias_hh_l0
        y = []
        for t in range(x.shape[1]):
            z = nn.functional.linear(torch.cat([x[:, t], h], 1), w, b)
            i, f, g, o = z.chunk(4, 1)
            c = i.sigmoid() * g.tanh() + f.sigmoid() * c
            h = o.sigmoid() * c.tanh()
            y.append(h)
        return torch.cat([*y, h, c], 1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gate", GATES)
def test_a_layer_is_its_unrolled_code(gate, bias):
    model, inputs, R = case("lstm", batch_first=True)
    composite = composites.Recurrent(gate, EPS, bias)
    want = LRP(Unrolled(model.rnn), composite).attribute(inputs, start=R)
    for R_got, R_want in zip(LRP(model, composite).attribute(inputs, start=R), want, strict=True):
        assert_close(R_got, R_want)


class Loop(nn.Module):
    """A loop over a cell, from states of zeros."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return state[0] if isinstance(state, tuple) else state


class LastState(nn.Module):
    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor) -> Tensor:
        last = self.rnn(x)[1]
        return (last[0] if isinstance(last, tuple) else last)[-1]


@pytest.mark.sweep
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_over_a_cell_is_a_layer(kind, bias, gate):
    cell = {"lstm": nn.LSTMCell, "gru": nn.GRUCell}[kind](3, 4, bias=bias)
    rnn = KINDS[kind](3, 4, bias=bias, batch_first=True)
    for (_, p), (_, q) in zip(rnn.named_parameters(), cell.named_parameters(), strict=True):
        p.data.copy_(q)
    x = torch.randn(2, 5, 3).double()
    composite = composites.Recurrent(gate, EPS)
    got = LRP(Loop(cell.double()), composite).attribute(x, target=2)
    assert_close(got, LRP(LastState(rnn.double()), composite).attribute(x, target=2))


class UnrolledGRU(nn.Module):
    """A GRU of plain operations, with 1 - u spelled out."""

    def __init__(self, rnn: nn.GRU) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        h, rnn, y = h[:, 0], self.rnn, []
        for t in range(x.shape[1]):
            q = nn.functional.linear(x[:, t], rnn.weight_ih_l0, rnn.bias_ih_l0).chunk(3, 1)
            p = nn.functional.linear(h, rnn.weight_hh_l0, rnn.bias_hh_l0).chunk(3, 1)
            r, u = (q[0] + p[0]).sigmoid(), (q[1] + p[1]).sigmoid()
            h = (1 - u) * (q[2] + r * p[2]).tanh() + u * h
            y.append(h)
        return torch.cat([*y, h], 1)


@pytest.mark.parametrize("gate", GATES)
def test_a_gru_is_its_unrolled_code(gate):
    model, inputs, R = case("gru", batch_first=True)
    composite = composites.Recurrent(gate, 0.0)  # then a sum of two maps is one map
    want = LRP(UnrolledGRU(model.rnn), composite).attribute(inputs, start=R)
    for R_got, R_want in zip(LRP(model, composite).attribute(inputs, start=R), want, strict=True):
        assert_close(R_got, R_want, 1e-9)


def test_a_signal_that_is_constant_keeps_what_its_gate_does_not_get():
    class Own(nn.Module):
        def forward(self, x):
            m = torch.full_like(x, 2.0)
            return torch.sigmoid(x) * m

    x = torch.tensor([[1.0, -3.0]]).double()
    for gate, want in {"all": [0.0, 0.0], "prop": [1 / 3, 3.0], "half": [0.5, 0.5]}.items():
        lrp = LRP(Own(), composites.Recurrent(gate, 0.0))
        start = torch.ones(1, 2).double()
        assert_close(lrp.attribute(x, start=start), np.array([want]))
        assert abs(lrp.report(x, start=start).rows[0].gap) < 1e-12


# ---- what LRP promises -------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["two layers", "three layers, both directions"])
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("kind", KINDS)
def test_without_biases_and_stabilizer_relevance_is_conserved(kind, gate, shape):
    model, inputs, _ = case(kind, steps=7, **(SHAPES[shape] | {"bias": False}))
    lrp = LRP(model, composites.Recurrent(gate, epsilon=0.0))
    R, delta = lrp.attribute(inputs, target=[3, 9], return_convergence_delta=True)
    size = max(float(r.abs().max()) for r in R)
    assert float(delta.abs().max()) <= 1e-10 * max(1.0, size)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_report_says_what_is_absorbed_and_what_went_through_gates(kind, gate):
    model, inputs, _ = case(kind, num_layers=2, bidirectional=True)
    report = LRP(model, composites.Recurrent(gate, EPS)).report(inputs, target=0)
    (row,) = (b for b in report.rows if b.node.kind == kind)
    size = max(map(abs, (row.received, row.passed, row.bias, row.stabilizer, row.gates)))
    assert abs(row.gap) <= 1e-10 * size
    assert row.bias != 0
    assert row.stabilizer != 0
    assert (row.gates != 0) == (gate != "all")
    assert "gates" in str(report)


def test_states_that_are_parameters_keep_their_relevance():
    class Learned(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.h = nn.GRU(3, 4, batch_first=True), nn.Parameter(torch.randn(1, 1, 4))

        def forward(self, x):
            return self.rnn(x, self.h.expand(-1, len(x), -1).contiguous())[0][:, -1]

    x = torch.randn(2, 3, 3).double()
    lrp = LRP(Learned().double(), composites.Recurrent(epsilon=0.0))
    report = lrp.report(x, target=1)
    assert sum(b.filled for b in report.rows) != 0
    assert all(abs(b.gap) < 1e-10 * max(1, abs(b.received), abs(b.filled)) for b in report.rows)


def test_several_targets_and_batches_and_float32():
    model, inputs, _ = case("lstm", batch=5, num_layers=2, bidirectional=True)
    lrp = LRP(model, composites.Recurrent("prop", EPS))
    whole = lrp.attribute(inputs, target=[[0, 7, 30]] * 5)
    parts = lrp.attribute(inputs, target=[[0, 7, 30]] * 5, internal_batch_size=2)
    for k, target in enumerate((0, 7, 30)):
        alone = lrp.attribute(inputs, target=target)
        for W, P, A in zip(whole, parts, alone, strict=True):
            assert_close(W[k], A)
            assert_close(P[k], A)
    single = LRP(deepcopy(model).float(), composites.Recurrent("prop", EPS))
    got = single.attribute(tuple(x.float() for x in inputs), target=7)
    for G, W in zip(got, whole, strict=True):
        assert G.dtype == torch.float32
        assert_close(G.double(), W[1], 1e-3)


class Words(nn.Module):
    """Tokens that are moved to the second place before or behind their embedding."""

    def __init__(self, move) -> None:
        super().__init__()
        self.words, self.rnn = nn.Embedding(20, 6), nn.LSTM(6, 5, 2, bidirectional=True)
        self.head, self.move = nn.Linear(10, 3), move

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(self.move(tokens)) if self.move else self.words(tokens).transpose(0, 1)
        return self.head(self.rnn(x)[0].mean(0))


MOVES = {
    "t": lambda x: x.t(),
    "T": lambda x: x.T,
    "transpose": lambda x: x.transpose(-1, 0).contiguous(),
    "permute": lambda x: x.permute(1, -2),
    "thrice": lambda x: x.t().t().permute(1, 0),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_words_get_relevance_at_their_embedding(move):
    tokens = torch.randint(0, 20, (4, 9))
    model = Words(None).double()
    lrp = LRP(model, composites.Recurrent())
    R = lrp.attribute(tokens, target=1)
    assert R.shape == (4, 9, 6)
    assert torch.isfinite(R).all()
    assert R.abs().amin() > 0
    moved = Words(move).double()
    moved.load_state_dict(model.state_dict())
    lrp = LRP(moved, composites.Recurrent())
    again, at = lrp.attribute(tokens, target=1, layers=["words"])
    assert_close(again, R)
    assert_close(at["words"], R.transpose(0, 1))


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_projections_are_refused():
    model = LastState(nn.LSTM(3, 4, proj_size=2, batch_first=True))
    with pytest.raises(ModelError, match=r"projections \(proj_size\) have no rule"):
        LRP(model, composites.Recurrent()).attribute(torch.randn(2, 5, 3), target=0)


@pytest.mark.parametrize("make", [composites.Recurrent, rules.Recurrent, rules.GatedProduct])
def test_what_is_no_rule_for_gates_is_refused(make):
    with pytest.raises(InputError, match="must be one of all, prop, abs, half"):
        make("some")
    with pytest.raises(InputTypeError, match="gate must be a word"):
        make(None)
    with pytest.raises(InputError, match="epsilon must be >= 0"):
        make("all", -1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_other_composites_refuse_and_name_the_right_one(kind):
    model, inputs, _ = case(kind)
    with pytest.raises(ModelError, match=r"take composites\.Recurrent"):
        LRP(model, composites.EpsilonPlus()).attribute(inputs, target=0)


def test_a_gate_without_a_pre_activation_is_refused_where_that_counts():
    class Softmax(nn.Module):
        def forward(self, x):
            return x.softmax(1) * x

    entry = (composites.kind("softmax"), rules.Pass())
    for gate in ("prop", "abs"):
        lrp = LRP(Softmax(), composites.Recurrent(gate).with_rules(entry))
        with pytest.raises(ModelError, match="needs a gate that is an activation"):
            lrp.attribute(torch.randn(2, 3), target=0)


def test_a_nan_in_the_state_is_refused():
    model, inputs, _ = case("lstm")
    inputs = (inputs[0], inputs[1] * torch.nan, inputs[2])
    with pytest.raises(InputError, match="NaN"):
        LRP(model, composites.Recurrent()).attribute(inputs, target=0)


def test_gates_of_table_11_1_by_hand():
    class Two(nn.Module):
        def forward(self, x):
            return torch.sigmoid(x[:, :1]) * torch.tanh(x[:, 1:])

    x = torch.tensor([[1.0, 3.0], [-1.0, 3.0]]).double()
    shares = {
        "all": [[0, 1], [0, 1]],
        "prop": [[1 / 4, 3 / 4], [-1 / 2, 3 / 2]],
        "abs": [[1 / 4, 3 / 4], [1 / 4, 3 / 4]],
        "half": [[1 / 2, 1 / 2], [1 / 2, 1 / 2]],
    }
    for gate, want in shares.items():
        got = LRP(Two(), composites.Recurrent(gate, 0.0)).attribute(x, start="one")
        assert_close(got, torch.tensor(want).double())
