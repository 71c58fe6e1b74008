"""Contextual decomposition: the plain loops are the definition, and beta + gamma is the output."""

import functools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.oracle import contextual as oracle
from xaifast.attr import ContextualDecomposition
from xaifast.attr.propagation.contextual_lstm import decomposed_states
from xaifast.errors import InputError, InputTypeError, ModelError
from xaifast.graph.recurrent.layout import Direction

N, T, F, H = 3, 6, 5, 4


class Head(nn.Module):
    """The last output of an LSTM, and a dense layer."""

    def __init__(self, outputs=3, width=H, **options):
        super().__init__()
        self.lstm = nn.LSTM(F, H, batch_first=True, **options)
        self.head = nn.Linear(width, outputs)

    def forward(self, x):
        return self.behind(*self.lstm(x))

    def behind(self, y, states):
        return self.head(y[:, -1])


def made(kind, *args, **options):
    """A model in float64 with signed weights and biases that are not small."""
    torch.manual_seed(0)
    model = kind(*args, **options).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    return model


@functools.cache
def shared():
    """An explainer and its model for the tests that change nothing: it is captured once."""
    model = made(Head)
    return ContextualDecomposition(model), model


def points(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_phrases(*shape, seed=2):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5


def assert_same(got, want):
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-13)


# ---- the definition ----------------------------------------------------------------------------


def sigm(z):
    return 1 / (1 + math.exp(-z))


def test_one_step_by_hand():
    """w_x = (1, -1, 2, 0.5), b = (0.5, 1, -1, 0), x = 2: the biases' own product is gamma's."""
    lstm = nn.LSTM(1, 1, batch_first=True).double()
    values = [[[1.0], [-1.0], [2.0], [0.5]], [[3.0]] * 4, [0.5, 1.0, -1.0, 0.0], [0.0] * 4]
    with torch.no_grad():
        for p, value in zip(lstm.parameters(), values, strict=True):
            p.copy_(torch.tensor(value))

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = lstm

        def forward(self, x):
            return self.lstm(x)[0][:, -1]

    x = torch.tensor([[[2.0]]], dtype=torch.float64)
    c = sigm(2.5) * math.tanh(3)
    of_bias = sigm(0.5) * math.tanh(-1)  # gamma of the cell
    shown = (math.tanh(c - of_bias) + math.tanh(c) - math.tanh(of_bias)) / 2
    R = ContextualDecomposition(Last()).attribute(x)
    assert_same(R, torch.tensor([[sigm(1.0) * shown]], dtype=torch.float64))


def directions(lstm):
    """The weights by layer and direction, as the oracle and the explainer take them."""
    layers = []
    for n in range(lstm.num_layers):
        layer = []
        for end in ("", "_reverse")[: 1 + lstm.bidirectional]:
            parts = [f"{p}_l{n}{end}" for p in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            layer.append(Direction(*(getattr(lstm, p).detach() if lstm.bias or "w" in p else None
                                     for p in parts)))  # fmt: skip
        layers.append(layer)
    return layers


def plain(lstm, x, phrase):
    """The oracle's states of one sample, laid out as the layer's outputs y, h and c are."""

    def bias(w):
        return np.zeros(4 * H) if w.b_x is None else (w.b_x + w.b_h).numpy()

    layers = [[(w.w_x.numpy(), w.w_h.numpy(), bias(w)) for w in d] for d in directions(lstm)]
    parts = oracle.network(x.numpy(), phrase.numpy(), layers, lstm.bidirectional)
    return torch.cat([torch.from_numpy(p.reshape(2, -1)) for p in parts], 1)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 2), st.booleans(), st.booleans(), st.integers(1, 4), st.integers(0, 10**6),
    st.floats(0.1, 5),
)  # fmt: skip
def test_states_are_those_of_the_plain_loops_and_sum_to_the_layers(
    layers, both, bias, steps, seed, scale
):
    torch.manual_seed(seed)
    lstm = nn.LSTM(2, H, layers, bias=bias, batch_first=True, bidirectional=both).double()
    with torch.no_grad():
        for p in lstm.parameters():
            p.mul_(scale)
    x, phrases = points(2, steps, 2, seed=seed), some_phrases(2, 2, steps, seed=seed)
    got = decomposed_states(x, phrases, directions(lstm))
    for n in range(2):
        for p in range(2):
            assert_same(got[:, n, p], plain(lstm, x[n], phrases[n, p]))
    y, (h, c) = lstm(x)
    whole = torch.cat([s.flatten(1) for s in (y, h.movedim(0, 1), c.movedim(0, 1))], 1).detach()
    assert_same(got.sum(0), whole[:, None].expand(2, 2, -1))


# ---- networks ----------------------------------------------------------------------------------


class Both(Head):
    """The last state of each direction, as classifiers of sentences have it."""

    def behind(self, y, states):
        return self.head(torch.cat([states[0][-2], states[0][-1]], 1))


class Mean(Head):
    def behind(self, y, states):
        return self.head(y.mean(1)) * 3 - 1


class Cells(Head):
    def behind(self, y, states):
        h, c = states
        return self.head(h[-1] + 0.5 * c[-1] - y[:, 0])


def by_hand(model, x, phrases, target):
    """The last step's beta in the head, from the plain loops."""
    weight = model.head.weight.detach()[target]
    rows = [[plain(model.lstm, v, p)[0] for p in phrases] for v in x]
    width = weight.numel()
    last = (T - 1) * width
    return torch.stack([torch.stack([b[last : last + width] @ weight for b in r]) for r in rows])


def test_relevance_of_each_step():
    (cd, model), x = shared(), points(N, T, F)
    R, delta = cd.attribute(x, 1, return_convergence_delta=True)
    assert R.shape == delta.shape == (N, T)
    assert_same(R, by_hand(model, x, torch.eye(T).bool(), 1))
    assert delta.abs().max() < 1e-10


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Both, {"bidirectional": True, "width": 2 * H}),
        (Mean, {"bias": False, "num_layers": 2, "bidirectional": True, "width": 2 * H}),
        (Cells, {"num_layers": 2}),
    ],
)
def test_any_affine_head_and_any_number_of_layers(kind, options):
    """What the head adds is gamma's: beta(x) is the head of beta, without its constant."""
    model, x, phrases = made(kind, **options), points(N, T, F), some_phrases(4, T)
    R, delta = ContextualDecomposition(model).attribute(
        x, "all", phrases, return_convergence_delta=True
    )
    assert R.shape == delta.shape == (3, N, 4)
    assert delta.abs().max() < 1e-10

    count = H * model.lstm.num_layers * (1 + model.lstm.bidirectional)

    def head(states):
        y, *others = states[None].split([states.numel() - 2 * count, count, count], 1)
        h, c = (s.unflatten(1, (-1, H)).movedim(1, 0) for s in others)
        return model.behind(y.unflatten(1, (T, -1)), (h, c))[0].detach()

    for n in range(N):
        for p in range(4):
            beta = plain(model.lstm, x[n], phrases[p])[0]
            assert_same(R[:, n, p], head(beta) - head(torch.zeros_like(beta)))


class Tokens(Head):
    """Words, or features, on their way to the LSTM."""

    def __init__(self, before, swap=False):
        super().__init__()
        self.before, self.swap = before, swap
        self.lstm.batch_first = not swap

    def forward(self, x):
        if not self.swap:
            return super().forward(self.before(x))
        return self.head(self.lstm(self.before(x).transpose(0, 1))[0][-1])


@pytest.mark.parametrize("swap", [False, True])
def test_token_numbers(swap):
    model = made(Tokens, nn.Embedding(20, F), swap)
    x = torch.randint(20, (N, T), generator=torch.Generator().manual_seed(0))
    R = ContextualDecomposition(model).attribute(x, 2)
    vectors = model.before(x).detach()
    model.lstm.batch_first = True
    assert_same(R, by_hand(model, vectors, torch.eye(T).bool(), 2))


def test_functions_of_single_steps_before_the_layer():
    dense = nn.Sequential(nn.Flatten(2), nn.Linear(6, F), nn.ReLU(), nn.Dropout(0.5))
    model, x = made(Tokens, dense), points(N, T, 2, 3)
    R = ContextualDecomposition(model).attribute(x, 0)
    vectors = model.before(x).detach()
    assert_same(R, by_hand(model, vectors, torch.eye(T).bool(), 0))


class Padded(Head):
    """The step before the padding, token 0."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, F)

    def forward(self, tokens):
        last = ((tokens != 0).sum(1) - 1).view(-1, 1, 1).expand(-1, 1, H)
        return self.head(self.lstm(self.embedding(tokens))[0].gather(1, last)[:, 0])


def test_padded_sequences_are_explained_as_if_alone():
    model = made(Padded)
    long = torch.tensor([[3, 4, 5, 6, 7, 8], [9, 8, 7, 0, 0, 0]])
    cd = ContextualDecomposition(model)
    R, delta = cd.attribute(long, 1, return_convergence_delta=True)
    assert delta.abs().max() < 1e-10
    assert_same(R[1:, :3], cd.attribute(long[1:, :3], 1))
    assert (R[1, 3:] == 0).all()


# ---- properties --------------------------------------------------------------------------------


def test_no_step_says_nothing_and_all_say_everything_but_the_biases():
    model, x = made(Head), points(N, T, F)
    cd, score = ContextualDecomposition(model), model(x)[:, 1].detach()
    none_and_all = torch.tensor([[False] * T, [True] * T])
    R = cd.attribute(x, 1, none_and_all)
    assert (R[:, 0] == 0).all()
    assert (R[:, 1] - score).abs().min() > 1e-3  # products of biases, and the head's
    with torch.no_grad():
        for p in (model.lstm.bias_ih_l0, model.lstm.bias_hh_l0):
            p[2 * H : 3 * H] = 0  # of the cell input: no product of two biases is left
    score = model(x)[:, 1].detach()
    R = cd.attribute(x, 1, none_and_all)
    assert_same(R[:, 1], score - model.head.bias[1].detach())


def test_batches_and_layouts_change_nothing():
    (cd, _), x, phrases = shared(), points(5, T, F), some_phrases(5, 3, T)
    want = cd.attribute(x, 1, phrases)
    for size in (1, 2, 4, 7, 100):
        assert_same(cd.attribute(x, 1, phrases, internal_batch_size=size), want)
    apart = [cd.attribute(x[n : n + 1], 1, phrases[n]) for n in range(5)]
    assert_same(torch.cat(apart), want)
    strided = points(F, T, 5, seed=3).permute(2, 1, 0)
    odd = phrases.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert_same(
        cd.attribute(strided, 1, odd), cd.attribute(strided.contiguous(), 1, phrases.contiguous())
    )


def test_targets():
    (cd, _), x = shared(), points(N, T, F)
    each = torch.stack([cd.attribute(x, t) for t in range(3)])
    assert_same(cd.attribute(x, "all"), each)
    assert_same(cd.attribute(x, [2, 0, 1]), each[[2, 0, 1], torch.arange(3)])
    assert_same(cd.attribute(x, [[2, 0], [1, 1], [0, 2]])[:, 1], each[1, 1].expand(2, T))
    assert_same(cd.attribute(x, torch.tensor([True, False, True])), each[0] + each[2])


def test_nothing_to_explain():
    cd, _ = shared()
    R, delta = cd.attribute(points(0, T, F), 1, return_convergence_delta=True)
    assert R.shape == delta.shape == (0, T)
    assert R.dtype == torch.float64
    assert cd.attribute(points(0, T, F), "all").shape == (3, 0, T)
    none = torch.zeros(0, T, dtype=torch.bool)
    assert cd.attribute(points(N, T, F), 1, none).shape == (N, 0)


def test_single_precision():
    model, x = made(Head).float(), points(N, T, F).float()
    R = ContextualDecomposition(model).attribute(x, 1)
    assert R.dtype == torch.float32
    want = by_hand(model.double(), x.double(), torch.eye(T).bool(), 1)
    torch.testing.assert_close(R.double(), want, rtol=1e-4, atol=1e-6)


def test_the_model_is_left_as_it_was_and_seen_as_it_is():
    model, x = made(Head), points(N, T, F)
    cd, before = (
        ContextualDecomposition(model),
        {k: v.clone() for k, v in model.state_dict().items()},
    )
    flat = [id(w) for w in model.lstm._flat_weights]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = cd.attribute(x, 1)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [id(w) for w in model.lstm._flat_weights] == flat
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    with torch.no_grad():
        model.head.weight.mul_(2)
    assert_same(cd.attribute(x, 1), 2 * first)


# ---- what is refused ---------------------------------------------------------------------------


class Gru(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(F, H, batch_first=True)

    def forward(self, x):
        return self.gru(x)[0][:, -1]


class Two(Head):
    def __init__(self):
        super().__init__()
        self.other = nn.LSTM(H, H, batch_first=True)

    def forward(self, x):
        return self.head(self.other(self.lstm(x)[0])[0][:, -1])


class Softmax(Head):
    def behind(self, y, states):
        return super().behind(y, states).softmax(1)


class Residual(Head):
    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1] + x[:, -1, :H])


class Gated(Head):
    def behind(self, y, states):
        return self.head(torch.where(y > 0, y, 0.1 * y)[:, -1])


class Smoothed(Head):
    def forward(self, x):
        return super().forward(x - x.mean(1, keepdim=True))


class Flipped(Head):
    def forward(self, x):
        return super().forward(x.flip(1))


class Started(Head):
    def forward(self, x):
        h = x.new_ones(1, x.shape[0], H)
        return self.head(self.lstm(x, (h, h))[0][:, -1])


class TimeFirst(Head):
    """The usual mistake: the batch is taken for time."""

    def __init__(self):
        super().__init__()
        self.lstm.batch_first = False


class Confused(Head):
    """Samples and steps are confused behind the layer, so a sample reads others."""

    def behind(self, y, states):
        return self.head(y.reshape(y.shape[1], y.shape[0], H)[-1])


REFUSED = {
    Gru: r"must have one nn\.LSTM.*it has gru",
    Two: r"must have one nn\.LSTM.*it has lstm.*, lstm",
    Softmax: "affine function of the LSTM's states alone; softmax",
    Residual: "affine function of the LSTM's states alone; add",
    Gated: "affine function of the LSTM's states alone; gt",
    Smoothed: "that step of the input alone; sub",
    Flipped: "that step of the input alone; flip",
    Started: "must start with states of zeros",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_networks_are_refused(kind):
    match = (
        rf"cannot explain {kind.__name__}: .*{REFUSED[kind]}.*take LRP with composites\.Recurrent"
    )
    with pytest.raises(ModelError, match=match):
        ContextualDecomposition(made(kind)).attribute(points(N, T, F), 1)


@pytest.mark.parametrize("kind", [TimeFirst, Confused])
def test_networks_that_confuse_samples_and_steps_are_refused(kind):
    with pytest.raises(ModelError, match=r"any number of samples|of the input alone"):
        ContextualDecomposition(made(kind)).attribute(points(N, T, F), 1)


def test_a_projection_is_refused():
    model = made(Head, width=2, proj_size=2)
    with pytest.raises(ModelError, match=r"must have no projection \(proj_size\)"):
        ContextualDecomposition(model).attribute(points(N, T, F), 1)


BOOLS = "Phrases are bools"
WRONG = [
    ({"phrases": [(0, 2)]}, rf"phrases must be a tensor of bools; got \[\(0, 2\)\]. {BOOLS}"),
    ({"phrases": torch.eye(T)}, "phrases must be a tensor of bools; got a Tensor of shape"),
    ({"phrases": torch.ones(T).bool()}, rf"must have the shape \[P, 6\] or \[3, P, 6\].*{BOOLS}"),
    ({"phrases": torch.ones(2, T + 1).bool()}, rf"must have the shape.*got .*\[2, 7\].*{BOOLS}"),
    ({"phrases": torch.ones(2, 2, T).bool()}, rf"must have the shape.*\[2, 2, 6\].*{BOOLS}"),
    ({"target": 3}, r"target must lie in \[-3, 2\] for an output of shape"),
    ({"target": None}, "target is needed"),
    ({"internal_batch_size": 0}, "internal_batch_size must be at least 1; got 0"),
    ({"inputs": torch.ones(3)}, r"inputs must be one tensor \[N, T, ...\]; got"),
    ({"inputs": (points(N, T, F), points(N, T, F))}, "inputs must be one tensor.*a tuple of 2"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "match"), WRONG)
def test_wrong_arguments_are_refused(options, match):
    given = {"inputs": points(N, T, F), "target": 1, **options}
    with pytest.raises((InputError, InputTypeError), match=match):
        shared()[0].attribute(**given)
    with pytest.raises(InputTypeError, match=r"must be a torch\.nn\.Module"):
        ContextualDecomposition(lambda x: x)
