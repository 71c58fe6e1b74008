"""LRP of recurrent layers on sequences of several lengths: each sample as if it were alone."""

from functools import cache

import pytest
import torch
from oracle.compare import assert_close, randomize
from oracle.recurrent_layers import by_oracle
from torch import Tensor, nn
from torch.nn.utils import rnn as packing

from xaifast import composites, rules
from xaifast.attr import LRP, IntegratedGradients, Occlusion, Saliency
from xaifast.errors import InputError, ModelError
from xaifast.graph import model as model_graphs

GATES = ["all", "prop", "abs", "half"]
EPS = 0.03
KINDS = {"lstm": nn.LSTM, "gru": nn.GRU}


class Packed(nn.Module):
    """All that a recurrent layer returns on packed sequences; states are inputs."""

    def __init__(self, kind: str, ordered: bool, **options) -> None:
        super().__init__()
        self.ordered, self.rnn = ordered, KINDS[kind](3, 2, **options)

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        *states, lengths = rest
        first = self.rnn.batch_first
        states = tuple(s.transpose(0, 1) for s in states)
        x = x if first else x.transpose(0, 1)
        x = packing.pack_padded_sequence(x, lengths, first, enforce_sorted=self.ordered)
        y, last = self.rnn(x, states if len(states) == 2 else states[0])
        y, _ = packing.pad_packed_sequence(y, first, total_length=4)
        y = y if first else y.transpose(0, 1)
        last = last if isinstance(last, tuple) else (last,)
        return torch.cat([y.flatten(1), *(s.transpose(0, 1).flatten(1) for s in last)], 1)


SHAPES = {
    "both directions, batch first": {"bidirectional": True, "num_layers": 2, "batch_first": True},
    "one direction": {"bias": False},
    "in order": {"bidirectional": True, "ordered": True},
}


@cache
def case(kind: str, shape: str):
    options = {"ordered": False} | SHAPES[shape]
    model = randomize(Packed(kind, **options).double(), seed=1)
    many = model.rnn.num_layers * (2 if model.rnn.bidirectional else 1)
    states = (torch.randn(3, many, 2).double() for _ in range(2 if kind == "lstm" else 1))
    inputs = (torch.randn(3, 4, 3).double(), *states)
    lengths = torch.tensor([4, 2, 1] if options["ordered"] else [2, 4, 1])
    return model, inputs, lengths, torch.randn_like(model(*inputs, lengths))


@pytest.mark.sweep
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_sample_follows_the_book(kind, shape, gate):
    model, inputs, lengths, start = case(kind, shape)
    lrp = LRP(model, composites.Recurrent(gate, EPS))
    got = lrp.attribute(inputs, start=start, additional_forward_args=lengths)
    width = model.rnn.hidden_size * (2 if model.rnn.bidirectional else 1)
    for n, steps in enumerate(lengths.tolist()):
        alone = tuple(
            x[n : n + 1, :steps] if i == 0 else x[n : n + 1] for i, x in enumerate(inputs)
        )
        R = torch.cat([start[n, : steps * width], start[n, 4 * width :]]).unsqueeze(0)
        wants = by_oracle(model.rnn, alone, R, gate, EPS)
        assert_close(got[0][n : n + 1, :steps], wants[0], 1e-10)
        for R_got, want in zip(got[1:], wants[1:], strict=True):
            assert_close(R_got[n : n + 1], want, 1e-10)
        assert got[0][n, steps:].count_nonzero() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_accounts_for_everything(kind):
    model, inputs, lengths, start = case(kind, "both directions, batch first")
    report = LRP(model, composites.Recurrent("prop", EPS)).report(
        inputs, None, lengths, start=start
    )
    for row in report.rows:
        size = max(map(abs, (row.received, row.passed, row.bias, row.stabilizer, row.filled)))
        assert abs(row.gap) <= 1e-10 * size


# ---- what models do with packed sequences --------------------------------------------------------


class Classifier(nn.Module):
    """From sequences, packed or only padded, to classes."""

    def __init__(self, way: str, packs: bool = True, lengths=None, both: bool = False) -> None:
        super().__init__()
        self.way, self.packs, self.lengths = way, packs, lengths
        self.rnn = nn.LSTM(3, 4, batch_first=True, bidirectional=both)
        self.head = nn.Linear(8 if both else 4, 2)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        lengths = self.lengths if lengths is None else lengths
        if not self.packs:
            y, (h, _) = self.rnn(x)
        else:
            x = packing.pack_padded_sequence(x, lengths, True, enforce_sorted=False)
            y, (h, _) = self.rnn(x)
            y, lengths = packing.pad_packed_sequence(y, batch_first=True)
        if self.way == "states":
            return self.head(h.transpose(0, 1).flatten(1))
        if self.way == "steps":
            return self.head(y)
        if self.way == "last":
            return self.head(y[torch.arange(len(y)), lengths - 1])
        if self.way == "longest":
            return self.head(y.mean(1))
        if not self.packs:
            y = y * (torch.arange(y.shape[1]) < lengths.unsqueeze(1)).unsqueeze(2)
        return self.head(y.sum(1) / lengths.unsqueeze(1))


def made(*args, **options) -> Classifier:
    return randomize(Classifier(*args, **options).double(), seed=2)


def sample(batch: int = 3, steps: int = 5) -> Tensor:
    return torch.randn(batch, steps, 3, generator=torch.Generator().manual_seed(5)).double()


LENGTHS = torch.tensor([4, 5, 1])


def lrp_of(model: nn.Module, gate: str = "half") -> LRP:
    return LRP(model, composites.Recurrent(gate, EPS))


@pytest.mark.parametrize("way", ["last", "mean"])
def test_packed_and_only_padded_are_the_same_and_as_alone(way):
    x = sample()
    padded = lrp_of(made(way, packs=False)).attribute(x, 1, LENGTHS)
    packed = lrp_of(made(way)).attribute(x, 1, LENGTHS)
    fixed = lrp_of(made(way, lengths=LENGTHS.tolist())).attribute(x, 1)
    alone = lrp_of(made(way, packs=False)).attribute(x[:1, :4], 1, LENGTHS[:1])
    assert_close(packed[:1, :4], alone, 1e-10)
    for R in (padded, fixed):
        assert_close(R, packed, 1e-10)
        assert R[0, 4:].count_nonzero() == R[2, 1:].count_nonzero() == 0


def test_equal_lengths_are_no_lengths():
    x = sample()
    packed, plain = (made("states", packs=p, both=True) for p in (True, False))
    got = lrp_of(packed).attribute(x, 0, torch.tensor([5, 5, 5]))
    assert_close(got, lrp_of(plain).attribute(x, 0), 1e-12)


def test_one_graph_serves_all_lengths_and_batches():
    model, x = made("mean", both=True), sample()
    lrp = lrp_of(model)
    whole = lrp.attribute(x, [[0, 1]] * 3, LENGTHS)
    parts = lrp.attribute(x, [[0, 1]] * 3, LENGTHS, internal_batch_size=2)
    assert_close(parts, whole, 1e-12)
    for n in range(3):
        assert_close(lrp.attribute(x[n : n + 1], 1, LENGTHS[n : n + 1]), whole[1, n : n + 1], 1e-12)
    assert lrp.attribute(x[:0], 1, LENGTHS[:0]).shape == (0, 5, 3)
    assert len(model_graphs._known[model]) == len(lrp._builder._built) == 1
    assert lrp_of(made("states")).attribute(x[:0], 1, LENGTHS[:0]).shape == (0, 5, 3)


class Stacked(Classifier):
    """Layers on layers, with something between that treats each step alone."""

    def __init__(self, branches: bool) -> None:
        super().__init__("states")
        self.branches, self.second = branches, nn.GRU(4, 4, bidirectional=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        if self.branches and x.sum() > 1e9:
            return x[:, 0]
        packed = packing.pack_padded_sequence(x, lengths, True, enforce_sorted=False)
        y, _ = self.rnn(packed)
        y, h = self.second(packing.PackedSequence(y.data.tanh(), *y[1:]))
        return self.head(h[0] + h[1])


@pytest.mark.parametrize("branches", [False, True], ids=["exported", "traced"])
def test_layers_on_layers(branches):
    lrp, x = lrp_of(randomize(Stacked(branches).double(), seed=2)), sample()
    R = lrp.attribute(x, 1, LENGTHS)
    assert_close(R[:1, :4], lrp.attribute(x[:1, :4], 1, LENGTHS[:1]), 1e-10)
    assert R[0, 4:].count_nonzero() == R[2, 1:].count_nonzero() == 0


def test_lengths_that_are_counted_from_the_input():
    class Counting(Classifier):
        def forward(self, x):
            return super().forward(x, (x != 0).any(2).sum(1))

    model, x = randomize(Counting("states").double(), seed=2), sample()
    lrp = lrp_of(model)
    lrp.attribute(x, 1)  # all of the same length
    x[0, 4:] = x[2, 1:] = 0
    want = lrp_of(made("states")).attribute(x, 1, LENGTHS)
    assert_close(lrp.attribute(x, 1), want, 1e-12)
    assert_close(lrp.attribute(x[:1], 1), want[:1], 1e-12)


def test_padding_may_be_anything():
    class Logarithms(Classifier):
        def forward(self, x, lengths):
            return super().forward(x.log(), lengths)

    model = randomize(Logarithms("states").double(), seed=2)
    x = sample().abs()
    x[0, 4:] = x[2, 1:] = 0  # whose logarithm is infinite
    entry = (composites.kind("log"), rules.Pass())
    lrp = LRP(model, composites.Recurrent().with_rules(entry))
    R = lrp.attribute(x, 1, LENGTHS)
    assert torch.isfinite(R).all()
    assert R[0, 4:].count_nonzero() == R[2, 1:].count_nonzero() == 0


def test_an_explanation_is_recorded_for_all_lengths():
    model, x = made("mean"), sample()
    lrp = lrp_of(model)
    core = lrp.core(x, torch.tensor([1, 0, 1]), LENGTHS)
    for lengths in (LENGTHS, torch.tensor([2, 3, 3])):
        want = lrp.attribute(x, [1, 1, 0], lengths)
        assert_close(core(x, lengths, torch.tensor([1, 1, 0])), want, 1e-12)


def test_a_model_that_looks_at_the_longest_sequence():
    """Which is right to explain where it fills the input."""
    x, model = sample(), made("longest")
    got = lrp_of(model).attribute(x, 1, LENGTHS)
    assert "traced" in lrp_of(model).plan(x, LENGTHS)
    padded = made("longest", packs=False)
    assert_close(got[1:2], lrp_of(padded).attribute(x[1:2], 1), 1e-10)
    with pytest.raises(ModelError, match="may not depend on the longest sequence of the batch"):
        lrp_of(model).attribute(x, 1, torch.tensor([4, 3, 1]))


@pytest.mark.parametrize("make", [IntegratedGradients, Saliency, Occlusion])
def test_gradients_and_occlusion_of_packed_sequences(make):
    options = {"sliding_window_shapes": (1, 1)} if make is Occlusion else {}
    model, x = made("mean", both=True), sample()
    got = make(model).attribute(x, target=1, additional_forward_args=LENGTHS, **options)
    for n, steps in enumerate(LENGTHS.tolist()):
        call = (x[n : n + 1, :steps], LENGTHS[n : n + 1])
        want = make(model).attribute(call[0], target=1, additional_forward_args=call[1], **options)
        assert_close(got[n : n + 1, :steps], want, 1e-10)
        # Occlusion is a difference of outputs, which libraries round by the size of a batch.
        assert (got[n, steps:].abs() <= (1e-14 if make is Occlusion else 0)).all()


# ---- refusals ------------------------------------------------------------------------------------

WRONG = {
    "empty": ([4, 0, 1], r"lengths must be 1 to 5, the steps of the padded input; got 0\. Leave"),
    "too long": ([4, 6, 1], r"lengths must be 1 to 5, the steps of the padded input; got 6\."),
    "too few": ([4, 5], r"lengths must be one int for each of the 3 samples; got "),
}


@pytest.mark.parametrize("known", [False, True], ids=["first call", "later call"])
def test_lengths_that_do_not_fit_are_refused(known):
    lrp, x = lrp_of(made("states")), sample()
    if known:
        lrp.attribute(x, 1, LENGTHS)
    for lengths, words in WRONG.values():
        with pytest.raises(InputError, match=f"pack_padded_sequence: {words}"):
            lrp.attribute(x, 1, torch.tensor(lengths))


def test_lengths_out_of_order_are_refused_where_order_was_promised():
    model, inputs, _, start = case("gru", "in order")
    with pytest.raises(InputError, match="must decrease where enforce_sorted is True; got"):
        lrp_of(model).attribute(inputs, None, torch.tensor([1, 4, 2]), start=start)


@pytest.mark.parametrize("fixed", [False, True])
def test_a_target_step_behind_the_end_is_refused(fixed):
    model, x = made("steps", lengths=LENGTHS if fixed else None), sample()
    lrp, extra = lrp_of(model), None if fixed else LENGTHS
    R = lrp.attribute(x, [(3, 1), (4, 0), (0, 1)], extra)
    assert R[0].any()
    assert R[1].any()
    assert R[2].any()
    words = r"target must name a step of the sample's own sequence; got step 1 of sample 2, which"
    with pytest.raises(InputError, match=words):
        lrp.attribute(x, [(3, 1), (4, 0), (1, 1)], extra)


def test_a_step_behind_the_padded_input_is_refused():
    lrp, x = lrp_of(made("last", packs=False)), sample()
    lrp.attribute(x, 1, LENGTHS)
    with pytest.raises(
        ModelError, match=r"fails on these inputs itself \(IndexError: .*out of bound"
    ):
        lrp.attribute(x, 1, torch.tensor([4, 7, 1]))


def test_a_nan_in_a_state_is_refused():
    model, inputs, lengths, _ = case("lstm", "in order")
    states = (inputs[1] * torch.nan, inputs[2])
    with pytest.raises(InputError, match="NaN or infinite values for these inputs"):
        lrp_of(model).attribute(inputs[0], 0, (*states, lengths))


def test_other_uses_of_packed_sequences_are_refused_with_what_to_do():
    class Elman(Classifier):
        def __init__(self):
            super().__init__("states")
            self.rnn = nn.RNN(3, 4, batch_first=True)

        def forward(self, x, lengths):
            x = packing.pack_padded_sequence(x, lengths, True, enforce_sorted=False)
            return self.rnn(x)[1][-1]

    with pytest.raises(ModelError, match=r"Supported are lengths in a tensor .* padded batch"):
        lrp_of(Elman().double()).attribute(sample(), 1, LENGTHS)
