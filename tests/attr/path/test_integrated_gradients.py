"""Integrated gradients: known answers, quadratures, savings that change nothing, adaptive steps."""

import math

import nets
import pytest
import torch
from calls import Counting
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from xaifast.attr import InputXGradient, IntegratedGradients
from xaifast.attr.path.quadrature import METHODS, nodes_and_weights
from xaifast.errors import InputError, InputTypeError


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def plain(model, x, baseline, target, alphas, weights):
    """The definition, one step at a time."""
    total = torch.zeros_like(x)
    for alpha, weight in zip(alphas.tolist(), weights.tolist(), strict=True):
        point = (baseline + alpha * (x - baseline)).detach().requires_grad_()
        total += weight * torch.autograd.grad(model(point)[:, target].sum(), point)[0]
    return total * (x - baseline)


# ---- known answers -----------------------------------------------------------------------------


def test_the_additive_example_of_section_9_3_1():
    f = lambda x: x[:, 0] + x[:, 1].sqrt()  # noqa: E731
    x = double([4.0, 4.0])
    got = IntegratedGradients(f).attribute(x, n_steps="auto", tolerance=1e-3)
    assert got.tolist() == [pytest.approx([4.0, 2.0], abs=2e-3)]
    assert InputXGradient(f).attribute(x).tolist() == [[4.0, 1.0]]  # not the contributions


def test_the_product_of_section_9_3_2():
    f = lambda x: (x[:, 0] - 1).relu() * x[:, 1].relu()  # noqa: E731
    # S = (3 a - 1) 2 a for a > 1/3: R1 = 3 int 2 a da = 8/3, R2 = 2 int (3 a - 1) da = 4/3
    got = IntegratedGradients(f).attribute(double([3.0, 2.0]), n_steps="auto", tolerance=1e-6)
    assert got.tolist() == [pytest.approx([8 / 3, 4 / 3], abs=1e-4)]


@pytest.mark.parametrize(("x", "want"), [([2.0, 2.01], [0.0, 2.01]), ([2.0, 1.99], [2.0, 0.0])])
def test_the_discontinuity_of_table_9_2(x, want):
    got = IntegratedGradients(lambda v: v.amax(1)).attribute(double(x))
    assert got.tolist() == [pytest.approx(want)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("optimize", [True, False])
def test_a_linear_model_is_exact_by_any_quadrature(method, optimize):
    model = nn.Sequential(nn.Conv1d(2, 3, 2), nn.Flatten(), nn.Linear(9, 2)).double()
    x, baseline = torch.randn(3, 2, 4).double(), torch.randn(3, 2, 4).double()
    leaf = x.clone().requires_grad_()
    (w,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
    ig = IntegratedGradients(model, optimize=optimize)
    got, delta = ig.attribute(x, baseline, 1, None, 7, method, return_convergence_delta=True)
    torch.testing.assert_close(got, w * (x - baseline))
    assert float(delta.abs().max()) < 1e-13


# ---- quadratures -------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [1, 2, 5, 50])
@pytest.mark.parametrize("method", METHODS)
def test_weights_sum_to_one(method, m):
    if method == "riemann_trapezoid" and m == 1:
        return
    alpha, weight = nodes_and_weights(method, m)
    assert len(alpha) == len(weight) == m
    assert weight.sum().item() == pytest.approx(1.0)
    assert 0 <= alpha.min() <= alpha.max() <= 1


def test_nodes_by_hand():
    assert nodes_and_weights("riemann_left", 4)[0].tolist() == [0, 0.25, 0.5, 0.75]
    assert nodes_and_weights("riemann_right", 4)[0].tolist() == [0.25, 0.5, 0.75, 1]  # Eq. 19.6
    assert nodes_and_weights("riemann_middle", 2)[0].tolist() == [0.25, 0.75]
    alpha, weight = nodes_and_weights("riemann_trapezoid", 3)
    assert (alpha.tolist(), weight.tolist()) == ([0, 0.5, 1], [0.25, 0.5, 0.25])
    _, theirs = nodes_and_weights("riemann_trapezoid", 3, "captum")
    assert theirs.tolist() == pytest.approx([1 / 6, 1 / 3, 1 / 6])  # sums to (m - 1) / m
    alpha, weight = nodes_and_weights("gausslegendre", 2)
    assert alpha.tolist() == pytest.approx([(1 - 3**-0.5) / 2, (1 + 3**-0.5) / 2])
    assert weight.tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.sweep
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [nets.ResNet, nets.Smooth, nets.Sequence])
@pytest.mark.parametrize("optimize", [True, False])
def test_against_the_definition(kind, method, optimize, device):
    model, x = nets.shared(kind, device), nets.inputs(kind, 2).to(device)
    baseline = torch.randn_like(x)
    want = plain(model, x, baseline, 3, *nodes_and_weights(method, 6))
    ig = IntegratedGradients(model, optimize=optimize)
    got = ig.attribute(x, baseline, target=3, n_steps=6, method=method)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-13)


def test_the_dialect_of_captum():
    f = lambda x: 2 * x.sum(1)  # noqa: E731
    x = double([1.0, 3.0])
    trapezoid = {"n_steps": 10, "method": "riemann_trapezoid"}
    assert IntegratedGradients(f).attribute(x, **trapezoid).tolist() == [pytest.approx([2, 6])]
    theirs = IntegratedGradients(f, dialect="captum").attribute(x, **trapezoid)
    assert theirs.tolist() == [pytest.approx([1.8, 5.4])]


# ---- arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize("optimize", [True, False])
def test_batches_of_any_size_give_the_same(optimize):
    model, x = nets.shared(nets.ResNet), nets.inputs(nets.ResNet, 5)
    ig = IntegratedGradients(model, optimize=optimize)
    options = {"target": [0, 1, 2, 3, 4], "n_steps": 9, "return_convergence_delta": True}
    want, gap = ig.attribute(x, 0.1, internal_batch_size=1000, **options)
    for size in (1, 7, "auto", None):
        got, delta = ig.attribute(x, 0.1, internal_batch_size=size, **options)
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(delta, gap, rtol=1e-8, atol=1e-12)


def test_baselines_in_every_form():
    f = lambda x: (x**3).flatten(1).sum(1)  # noqa: E731
    x = torch.rand(2, 3, 8, 8).double()
    ig = IntegratedGradients(f)
    zero = ig.attribute(x)
    torch.testing.assert_close(ig.attribute(x, 0), zero)
    torch.testing.assert_close(ig.attribute(x, torch.zeros_like(x)), zero)
    torch.testing.assert_close(ig.attribute(x, torch.zeros(1, 3, 8, 8)), zero)
    torch.testing.assert_close(ig.attribute(x, torch.zeros(3, 8, 8)), zero)
    half = ig.attribute(x, 0.5)
    torch.testing.assert_close(ig.attribute(x, lambda u: torch.full_like(u, 0.5)), half)
    several, delta = ig.attribute(x, [0, 0.5], return_convergence_delta=True)
    torch.testing.assert_close(several, (zero + half) / 2)
    assert float(delta.abs().max()) < 1e-10
    blurred = ig.attribute(x, "blur")
    assert not torch.allclose(blurred, zero)
    assert abs(float(blurred.sum())) < 0.2 * float(zero.sum())  # most of it is in the colours


def test_tuples_and_rows_that_serve_all():
    a, b = torch.randn(4, 3).double(), torch.randn(4, 2, 2).double()
    scale = torch.rand(4, 1).double()
    f = lambda x, y, s: s[:, 0] * (x.sin().sum(1) * y.flatten(1).sum(1))  # noqa: E731
    ig = IntegratedGradients(f)
    got, delta = ig.attribute(
        (a, b), (0.1, torch.zeros(1, 2, 2)), additional_forward_args=scale, n_steps=30,
        return_convergence_delta=True, internal_batch_size=7,
    )  # fmt: skip
    assert [g.shape for g in got] == [a.shape, b.shape]
    assert float(delta.abs().max()) < 1e-6
    for n in range(4):
        one = ig.attribute(
            (a[n : n + 1], b[n : n + 1]), (0.1, 0), None, scale[n : n + 1], n_steps=30
        )
        for g, o in zip(got, one, strict=True):
            torch.testing.assert_close(g[n : n + 1], o)


def test_several_targets_and_the_gradient_alone():
    model, x = nets.shared(nets.Smooth), nets.inputs(nets.Smooth, 3)
    ig = IntegratedGradients(model)
    got, delta = ig.attribute(x, target="all", n_steps=5, return_convergence_delta=True)
    assert got.shape == (5, *x.shape)
    assert delta.shape == (5, 3)
    for t in range(5):
        torch.testing.assert_close(got[t], ig.attribute(x, target=t, n_steps=5))
    alone = IntegratedGradients(model, multiply_by_inputs=False)
    assert (ig.multiplies_by_inputs, alone.multiplies_by_inputs) == (True, False)
    torch.testing.assert_close(alone.attribute(x, target="all", n_steps=5) * x, got)


def test_the_gap_is_that_of_compute_convergence_delta():
    model, x = nets.shared(nets.ResNet), nets.inputs(nets.ResNet, 3)
    ig = IntegratedGradients(model)
    assert ig.has_convergence_delta()
    got, delta = ig.attribute(x, 0.2, target=1, n_steps=4, return_convergence_delta=True)
    other = ig.compute_convergence_delta(got, 0.2, x, target=1)
    torch.testing.assert_close(delta, other, rtol=1e-10, atol=1e-13)


def test_an_inner_neuron_by_a_function():
    model, x = nets.shared(nets.ResNet), nets.inputs(nets.ResNet, 2)
    f = lambda u: model.stem(u)[:, 3, 5, 5].relu()  # noqa: E731
    got, delta = IntegratedGradients(f).attribute(x, n_steps="auto", return_convergence_delta=True)
    assert float(delta.abs().max()) < 1e-9  # one kink: exact
    reach = got.abs().sum(1)[:, 4:7, 4:7].sum()
    assert reach == got.abs().sum()


# ---- adaptive steps ----------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_one_kink_is_exact(seed):
    torch.manual_seed(seed)
    w, b = torch.randn(5).double(), torch.randn(()).double()
    f = lambda x: (x @ w + b).relu()  # noqa: E731
    x, baseline = torch.randn(3, 5).double(), torch.randn(5).double()
    ig = IntegratedGradients(f)
    got, delta = ig.attribute(x, baseline, n_steps="auto", return_convergence_delta=True)
    assert float(delta.abs().max()) < 1e-9
    z, z0 = x @ w + b, baseline @ w + b
    share = (z.relu() - z0.relu()) / (z - z0)
    torch.testing.assert_close(got, share[:, None] * w * (x - baseline), rtol=1e-8, atol=1e-10)


def test_steps_go_where_the_output_changes():
    visited = []

    def f(x):
        visited.extend(x[:, 0].tolist())
        return torch.sigmoid(100 * (x[:, 0] - 0.7)) + x[:, 1] * 0

    ig = IntegratedGradients(f)
    _, delta = ig.attribute(double([1.0, 1.0]), n_steps="auto", return_convergence_delta=True)
    near = [v for v in visited if abs(v - 0.7) < 0.1]
    assert len(near) > len(visited) / 2
    assert abs(delta.item()) < 0.01


@pytest.mark.parametrize("tolerance", [0.1, 0.03, 0.01])
def test_the_tolerance_holds_for_every_sample_and_target(tolerance):
    model, x = nets.shared(nets.Inception), nets.inputs(nets.Inception, 6)
    ig = IntegratedGradients(model)
    got, delta = ig.attribute(
        x, target=[[0, 3]] * 6, n_steps="auto", tolerance=tolerance, return_convergence_delta=True
    )
    reference = ig.attribute(x, target=[[0, 3]] * 6, n_steps=400)
    change = (model(x) - model(torch.zeros_like(x[:1]))).detach()[:, [0, 3]].T.abs()
    assert (delta.abs() <= 3 * tolerance * (change + 0.05)).all()
    error = (got - reference).flatten(2).abs().sum(2) / reference.flatten(2).abs().sum(2)
    assert float(error.max()) < 4 * math.sqrt(tolerance)


def test_adaptive_steps_do_not_depend_on_batches():
    model, x = nets.shared(nets.ResNet), nets.inputs(nets.ResNet, 4)
    ig = IntegratedGradients(model)
    want = ig.attribute(x, target=2, n_steps="auto", internal_batch_size=1000)
    for size in (1, 7, "auto"):
        got = ig.attribute(x, target=2, n_steps="auto", internal_batch_size=size)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
    alone = ig.attribute(x[1:2], target=2, n_steps="auto")
    torch.testing.assert_close(alone, want[1:2], rtol=1e-9, atol=1e-12)


def test_a_constant_output_needs_no_steps():
    ig = IntegratedGradients(lambda x: x.sum(1) * 0 + 3)
    got = ig.attribute(double([1.0, 2.0]), n_steps="auto")
    assert got.tolist() == [[0.0, 0.0]]


def test_what_never_converges_says_so():
    f = lambda x: (x * 1e4).sin().sum(1)  # noqa: E731
    with pytest.warns(UserWarning, match="stopped at 200 steps for 1 of 1 samples before"):
        IntegratedGradients(f).attribute(double([1.0]), n_steps="auto")


# ---- savings -----------------------------------------------------------------------------------


def test_the_stem_runs_once_and_gradients_are_not_kept(monkeypatch):
    from xaifast.graph.layers.conv import Conv

    model, x = nets.shared(nets.ResNet), nets.inputs(nets.ResNet, 1)
    ig = IntegratedGradients(model, optimize=True)
    ig.attribute(x, target=1, n_steps=2)
    stems = {"run": 0, "gradient": 0}
    for name in stems:
        original = getattr(Conv, name)

        def counted(self, u, original=original, name=name, **options):
            stems[name] += self.node.first
            return original(self, u, **options)

        monkeypatch.setattr(Conv, name, counted)
    ig.attribute(x, target=1, n_steps=40, internal_batch_size=8)
    assert stems == {"run": 2, "gradient": 1}  # once for each end of the path, and once back


def test_one_baseline_is_evaluated_once():
    f, x = Counting(lambda x: x.square().sum(1)), torch.randn(8, 3)
    ig = IntegratedGradients(f)
    ig.attribute(x, 0.5, n_steps=2, internal_batch_size=16, return_convergence_delta=True)
    assert sorted(f.rows) == [1, 8, 16]  # the baseline, the inputs, both steps


def test_it_goes_on_with_half_when_memory_runs_out():
    rows = []

    def f(x):
        rows.append(len(x))
        if len(x) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return (x**2).sum(1)

    x = torch.randn(2, 3).double()
    got = IntegratedGradients(f).attribute(x, n_steps=5)
    torch.testing.assert_close(got, x**2)
    assert max(rows) == 10
    with pytest.raises(InputError, match=r"ran out of memory on \d+ rows at once"):
        IntegratedGradients(f).attribute(x, n_steps=5, internal_batch_size=8)
    with pytest.raises(InputError, match="ran out of memory"):
        IntegratedGradients(f).attribute(torch.randn(2, 3).double(), n_steps=40)


# ---- refused -----------------------------------------------------------------------------------

ERRORS = [
    ({"method": "simpson"}, InputError, "method must be one of riemann_right, .* got 'simpson'"),
    ({"n_steps": 0}, InputError, "n_steps must be at least 1 for gausslegendre; got 0"),
    (
        {"n_steps": 1, "method": "riemann_trapezoid"}, InputError,
        "n_steps must be at least 2 for riemann_trapezoid; got 1",
    ),
    ({"n_steps": 2.5}, InputTypeError, 'n_steps must be an int or "auto"; got 2.5'),
    ({"n_steps": "many"}, InputTypeError, 'n_steps must be an int or "auto"; got \'many\''),
    ({"tolerance": 0}, InputError, "tolerance must be a number > 0; got 0"),
    ({"baselines": torch.zeros(3)}, InputError, "baselines must have the shape of the input"),
    ({"baselines": "noise"}, InputError, 'must not be a word other than "blur"; got \'noise\''),
    ({"baselines": [0, "x"]}, InputError, 'must not be a word other than "blur"'),
    ({"baselines": []}, InputError, "must not be an empty list"),
    ({"baselines": object()}, InputTypeError, "baselines have an unknown form"),
    ({"baselines": (0, 1)}, InputError, "must hold one for each of the 1 inputs; got 2"),
    ({"baselines": torch.full((2, 4), torch.inf)}, InputError, "baselines must be finite"),
    ({"internal_batch_size": 2.0}, InputTypeError, 'must be an int or "auto"; got 2.0'),
]  # fmt: skip


@pytest.mark.parametrize(("options", "error", "match"), ERRORS)
def test_bad_input_is_refused_before_any_work(options, error, match):
    def f(x):
        raise RuntimeError("the model was called")

    with pytest.raises(error, match=match):
        IntegratedGradients(f).attribute(torch.ones(2, 4), **options)


def test_an_unknown_dialect_is_refused():
    with pytest.raises(InputError, match="dialect must be one of book, captum; got 'zennit'"):
        IntegratedGradients(lambda x: x, dialect="zennit")
