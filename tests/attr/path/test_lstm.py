"""Integrated gradients of LSTMs: the native path is the definition, and is taken where it holds."""

import warnings

import pytest
import torch
from torch import nn

from xaifast import attr, ops
from xaifast.attr import CellStates, IntegratedGradients
from xaifast.attr.path import lstm as lstm_path
from xaifast.attr.path.quadrature import METHODS, nodes_and_weights
from xaifast.errors import InputError, InputTypeError, ModelError

if not ops.is_native(torch.zeros(1)):
    pytest.skip("native kernels are switched off", allow_module_level=True)

N, T, F, H = 3, 6, 5, 4


class Head(nn.Module):
    """The network of section 19.2.1: y = f_Dense(h_T)."""

    def __init__(self, outputs=2, **options):
        super().__init__()
        self.lstm = nn.LSTM(F, H, **options)
        self.drop = nn.Dropout(0.4)
        self.head = nn.Linear(H, outputs)

    def forward(self, x):
        return self.head(self.drop(self.lstm(x)[0][:, -1]))


class Swapped(Head):
    """The layer has time first, the model the batch."""

    def forward(self, x):
        _, (h, _) = self.lstm(x.transpose(0, 1))
        return self.head(h[-1])[:, :1].squeeze(-1)


class Permuted(Head):
    def forward(self, x):
        y, _ = self.lstm(x.permute(1, 0, 2))
        return self.head(y[-1])


class Squeezed(Head):
    def forward(self, x):
        return self.head(self.lstm(x)[1][0].squeeze(0))


class Whole(Head):
    """An output at every step."""

    def forward(self, x):
        return self.head(self.lstm(x)[0])


class Cell(Head):
    """The memory cells at the last step."""

    def forward(self, x):
        return self.lstm(x)[1][1][0]


class Deep(Head):
    """Two dense layers without an activation between them, and a state that starts with zeros."""

    def forward(self, x):
        h0 = x.new_zeros(1, x.shape[0], H)
        _, (h, _) = self.lstm(x, (h0, torch.zeros_like(h0)))
        return self.head(nn.functional.linear(h[0], self.lstm.weight_hh_l0[:H]))


KNOWN = [
    (lambda: Head(batch_first=True), 1),
    (lambda: Head(batch_first=True, bias=False), [0, 1, 1]),
    (lambda: Head(1, batch_first=True), None),
    (Swapped, None),
    (Permuted, 0),
    (lambda: Squeezed(batch_first=True), [[0, 1]] * N),
    (lambda: Whole(batch_first=True), (2, 1)),
    (lambda: Whole(batch_first=True), [(0, 0), (5, 1), (-2, 0)]),
    (lambda: Cell(batch_first=True), "all"),
    (lambda: Cell(batch_first=True), torch.tensor([True, False, True, True])),
    (lambda: Deep(batch_first=True), 1),
]


class Both(nn.Module):
    """A layer of two directions, and a function of its outputs."""

    def __init__(self, read, **options):
        super().__init__()
        self.lstm = nn.LSTM(F, H, bidirectional=True, **options)
        self.head = nn.Linear(2 * H, 3)
        self.one = nn.Linear(H, 3, bias=False)
        self.read = read

    def forward(self, x):
        return self.read(self, *self.lstm(x))


BOTH = {
    "last outputs": (lambda m, y, s: m.head(y[:, -1]), 2),
    "last states": (lambda m, y, s: m.head(torch.cat([s[0][-2], s[0][-1]], 1)), 1),
    "sum of states": (lambda m, y, s: m.one(s[0][0] + s[0][1]), [0, 2, 1]),
    "every step": (lambda m, y, s: m.head(y), [(0, 0), (5, 1), (-2, 2)]),
    "two steps": (lambda m, y, s: m.head(torch.cat([y[:, 3, :H], y[:, 2, H:]], 1)), [[0, 1]] * N),
    "cells": (lambda m, y, s: s[1].transpose(0, 1), (1, 2)),
    "one direction": (lambda m, y, s: m.one(y[:, 2, H:]), "all"),
}
KNOWN += [
    (lambda read=read: Both(read, batch_first=True), target) for read, target in BOTH.values()
]


class Mean(Head):
    def forward(self, x):
        return self.head(self.lstm(x)[0].mean(1))


class Bent(Head):
    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1].tanh())


class Residual(Head):
    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1] + x[:, -1, :H])


class Mixed(Head):
    """The usual mistake: samples and steps are confused, so a sample reads others."""

    def forward(self, x):
        y = self.lstm(x)[0]
        return self.head(y.reshape(y.shape[1], y.shape[0], H)[-1])


class Flipped(Head):
    def forward(self, x):
        return self.head(self.lstm(x.flip(1))[0][:, -1])


class Started(Head):
    def forward(self, x):
        h0 = x[:, 0, :H].unsqueeze(0)
        return self.head(self.lstm(x, (h0, h0))[1][0][0])


class Product(Head):
    def forward(self, x):
        h = self.lstm(x)[0][:, -1]
        return nn.functional.linear(h, self.head.weight * 2.0) * h.sum(1, keepdim=True)


UNKNOWN = [
    lambda: Mean(batch_first=True),
    lambda: Bent(batch_first=True),
    lambda: Residual(batch_first=True),
    lambda: Flipped(batch_first=True),
    lambda: Started(batch_first=True),
    lambda: Product(batch_first=True),
    lambda: Head(batch_first=True, num_layers=2),
    lambda: Both(lambda m, y, s: m.head(y[:, -1]), batch_first=True, num_layers=2),
    lambda: Both(lambda m, y, s: m.head(y.mean(1)), batch_first=True),
    lambda: Both(lambda m, y, s: m.one(y[:, 0, :H] + y[:, 1, :H]), batch_first=True),
    lambda: Both(lambda m, y, s: m.head(y[:, -1]) + y.argmax(1)[:, :3], batch_first=True),
    lambda: Both(lambda m, y, s: m.one(s[0][0] * s[0][1]), batch_first=True),
]


@pytest.fixture
def native(monkeypatch):
    """How often the native path was taken."""
    calls = []
    op = ops.lstm_path
    monkeypatch.setattr(lstm_path.ops, "lstm_path", lambda *a: calls.append(1) or op(*a))
    return calls


def inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, N, T, F, generator=generator).double()


def plain(model, x, baseline, target, rule):
    """The definition, one step at a time, for one target of each sample."""
    total = torch.zeros_like(x)
    for alpha, weight in zip(*(r.tolist() for r in rule), strict=True):
        point = (baseline + alpha * (x - baseline)).detach().requires_grad_()
        output = model(point).flatten(1)[:, target].sum()
        total += weight * torch.autograd.grad(output, point)[0]
    return total * (x - baseline)


# ---- the same explanation ----------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_it_is_the_definition(method, native):
    model, (x, baseline) = Head(batch_first=True).double().eval(), inputs()
    want = plain(model, x, baseline, 1, nodes_and_weights(method, 40))
    got = IntegratedGradients(model).attribute(x, baseline, 1, None, 40, method)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-14)
    assert native


@pytest.mark.sweep
@pytest.mark.parametrize(("make", "target"), KNOWN)
@pytest.mark.parametrize("options", [{"n_steps": 30}, {"n_steps": "auto", "tolerance": 1e-3}])
def test_it_is_what_autograd_gives(make, target, options, native):
    model, (x, baseline) = make().double().eval(), inputs()
    options |= {"return_convergence_delta": True}
    want, gap = IntegratedGradients(model, optimize=False).attribute(x, baseline, target, **options)
    assert not native
    got, delta = IntegratedGradients(model).attribute(x, baseline, target, **options)
    assert native
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(delta, gap, rtol=1e-6, atol=1e-13)
    assert float(delta.abs().max()) < 1e-2


@pytest.mark.parametrize("make", UNKNOWN)
def test_other_networks_go_the_ordinary_way(make, native):
    model, (x, baseline) = make().double().eval(), inputs()
    got = IntegratedGradients(model).attribute(x, baseline, 1, n_steps=20)
    assert not native
    torch.testing.assert_close(
        got, plain(model, x, baseline, 1, nodes_and_weights("gausslegendre", 20))
    )


def test_a_model_that_mixes_samples_is_not_taken_for_one_that_does_not(native):
    model, (x, _) = Mixed(batch_first=True).double().eval(), inputs()
    IntegratedGradients(model).attribute(x, target=1, n_steps=20)
    assert not native


def test_an_output_that_reads_several_steps_is_not_taken(native):
    model, (x, _) = Whole(batch_first=True).double().eval(), inputs()
    region = (slice(0, 2), 1)
    got = IntegratedGradients(model).attribute(x, target=region, n_steps=20)
    assert not native
    parts = [IntegratedGradients(model).attribute(x, target=(t, 1), n_steps=20) for t in (0, 1)]
    assert native
    torch.testing.assert_close(got, parts[0] + parts[1])


def test_float32_is_as_exact_as_autograd(native):
    model, (x, baseline) = Head(batch_first=True).eval(), inputs()
    rule = nodes_and_weights("riemann_right", 100)
    want = plain(model.double(), x, baseline, 0, rule)
    model.float()
    options = {"target": 0, "n_steps": 100, "method": "riemann_right"}
    got = IntegratedGradients(model).attribute(x.float(), baseline.float(), **options)
    assert native
    assert got.dtype == torch.float32
    assert float((got - want).abs().max() / want.abs().max()) < 1e-6


def test_several_baselines_one_for_all_and_the_gradient_alone(native):
    model, (x, baseline) = Head(batch_first=True).double().eval(), inputs()
    for options in ({}, {"multiply_by_inputs": False}):
        ours = IntegratedGradients(model, **options)
        theirs = IntegratedGradients(model, optimize=False, **options)
        for b in (None, 0.3, baseline[0], [0, baseline], baseline[:1]):
            native.clear()
            got = ours.attribute(x, b, 1, n_steps=15)
            assert native
            torch.testing.assert_close(got, theirs.attribute(x, b, 1, n_steps=15))


def test_blocks_of_samples_change_nothing(monkeypatch):
    model, (x, baseline) = Head(batch_first=True).double().eval(), inputs()
    ig = IntegratedGradients(model)
    want = ig.attribute(x, baseline, [0, 1, 0], n_steps=20)
    monkeypatch.setattr(lstm_path, "BLOCK", 1)
    assert torch.equal(ig.attribute(x, baseline, [0, 1, 0], n_steps=20, show_progress=False), want)


@pytest.mark.parametrize("rows", [1, 7, 20, 45])
@pytest.mark.parametrize("options", [{"n_steps": 20}, {"n_steps": "auto", "tolerance": 1e-2}])
def test_no_more_rows_at_once_than_asked_for(rows, options, monkeypatch):
    model = Both(BOTH["last outputs"][0], batch_first=True).double().eval()
    x, baseline = inputs()
    want = IntegratedGradients(model).attribute(x, baseline, [[0, 2]] * N, **options)
    taken, op = [], ops.lstm_path
    monkeypatch.setattr(lstm_path.ops, "lstm_path", lambda *a: taken.append(a[3].numel()) or op(*a))
    got = IntegratedGradients(model).attribute(
        x, baseline, [[0, 2]] * N, internal_batch_size=rows, **options
    )
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-14)
    assert max(taken) <= rows


# ---- when it is taken --------------------------------------------------------------------------


def test_few_steps_are_not_worth_capturing_unless_asked_for(native):
    model, (x, _) = Head(batch_first=True).double().eval(), inputs()
    IntegratedGradients(model).attribute(x, target=1, n_steps=2)
    assert not native
    IntegratedGradients(model, optimize=True).attribute(x, target=1, n_steps=2)
    assert native


def test_a_training_step_is_seen(native):
    model, (x, _) = Head(batch_first=True).double().eval(), inputs()
    ig = IntegratedGradients(model)
    before = ig.attribute(x, target=1, n_steps=20)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    after = ig.attribute(x, target=1, n_steps=20)
    assert not torch.allclose(before, after)
    want = IntegratedGradients(model, optimize=False).attribute(x, target=1, n_steps=20)
    torch.testing.assert_close(after, want)
    assert len(native) == 2


def test_training_mode_is_explained_as_eval_mode(native):
    model, (x, _) = Head(batch_first=True).double().train(), inputs()
    with pytest.warns(UserWarning, match="training mode"):
        got = IntegratedGradients(model).attribute(x, target=1, n_steps=20)
    assert native
    assert model.training
    want = IntegratedGradients(model.eval(), optimize=False).attribute(x, target=1, n_steps=20)
    torch.testing.assert_close(got, want)


def test_the_model_is_left_as_it_was():
    model, (x, _) = Head(batch_first=True).double(), inputs()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    flat = [id(w) for w in model.lstm._flat_weights]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        IntegratedGradients(model).attribute(x, target=1, n_steps=20)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [id(w) for w in model.lstm._flat_weights] == flat
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_wrong_arguments_are_refused_as_ever():
    model, (x, _) = Head(batch_first=True).double().eval(), inputs()
    ig = IntegratedGradients(model)
    with pytest.raises(InputError, match="target"):
        ig.attribute(x, target=7, n_steps=20)
    with pytest.raises(InputError, match="internal_batch_size"):
        ig.attribute(x, target=1, n_steps=20, internal_batch_size=0)
    with pytest.raises(InputError, match="finite"):
        ig.attribute(x / 0, target=1, n_steps=20)
    with pytest.raises(ModelError, match="fails on these inputs"):
        ig.attribute(x[..., :2], target=1, n_steps=20)


# ---- memory cells ------------------------------------------------------------------------------


def test_cell_states_are_those_of_the_layer():
    for bias in (True, False):
        lstm, (x, _) = nn.LSTM(F, H, batch_first=True, bias=bias).double(), inputs()
        cells = CellStates(lstm)(x)
        for t in range(T):
            torch.testing.assert_close(cells[:, t], lstm(x[:, : t + 1])[1][1][0])


@pytest.mark.parametrize("batch_first", [True, False])
def test_any_cell_at_any_step(batch_first, native):
    lstm, (x, baseline) = nn.LSTM(F, H, batch_first=batch_first).double(), inputs()
    model = CellStates(lstm)
    targets = [[(-1, 2), (0, 1), (3, 0)]] * N
    ig = IntegratedGradients(model)
    got, delta = ig.attribute(x, baseline, targets, n_steps=100, return_convergence_delta=True)
    assert len(native) == 1  # all of them at once
    ordinary = IntegratedGradients(model, optimize=False)
    torch.testing.assert_close(got, ordinary.attribute(x, baseline, targets, n_steps=100))
    assert float(delta.abs().max()) < 1e-9
    assert (got[1, :, 1:] == 0).all()  # what comes later has no influence
    assert (got[2, :, 4:] == 0).all()


def test_a_region_of_cells_and_all_of_them(native):
    lstm, (x, _) = nn.LSTM(F, H).double(), inputs()
    ig = IntegratedGradients(attr.CellStates(lstm))
    every = ig.attribute(x, target=[[(-1, j) for j in range(H)]], n_steps=40)
    assert every.shape == (H, N, T, F)
    torch.testing.assert_close(
        ig.attribute(x, target=(T - 1, slice(None)), n_steps=40), every.sum(0)
    )
    assert len(native) == 2


def test_what_has_no_single_layer_is_refused():
    for lstm in (nn.LSTM(2, 4, 2), nn.LSTM(2, 4, bidirectional=True), nn.LSTM(2, 4, proj_size=3)):
        with pytest.raises(ModelError, match=r"one layer, one direction.*; got LSTM"):
            CellStates(lstm)
    with pytest.raises(InputTypeError, match=r"must be a torch\.nn\.LSTM; got GRU"):
        CellStates(nn.GRU(2, 3))
