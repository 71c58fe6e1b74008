"""The LSTM path op against the reference, nn.LSTM and differences; layouts, sizes, extremes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xaifast import ops, reference

DTYPES = [torch.float64, torch.float32]
# N, T, H, M, K: fewer and more nodes than go together, one unit, gates that are computed anew.
SIZES = [
    (2, 7, 3, 2, 5),
    (1, 20, 10, 3, 100),
    (3, 9, 1, 1, 1),
    (2, 400, 33, 2, 40),
    (5, 1, 4, 6, 17),
    (0, 3, 2, 1, 4),
    (2, 3, 2, 0, 4),
    (2, 3, 2, 1, 0),
    (2, 3, 0, 1, 4),
    (2, 0, 3, 0, 4),
]


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


def problem(N, T, H, M, K, shared=False, seed=0, scale=1.0):
    """Arguments of the op in float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes):
        return torch.randn(*sizes, generator=generator).double()

    return [
        scale * normal(1 if shared else N, T, 4 * H),
        scale * normal(N, T, 4 * H),
        normal(4 * H, H) / max(1, H) ** 0.5,
        torch.rand(N, K, generator=generator).double(),
        normal(M, N, K),
        normal(M, N, H),
        normal(M, N, H),
        torch.randint(0, max(1, T), (M, N), generator=generator),
    ]


def cast(arguments, dtype, device="cpu"):
    """Nodes and weights stay in float64, steps are ints."""
    return [
        a.to(device) if i in (3, 4, 7) else a.to(device, dtype) for i, a in enumerate(arguments)
    ]


def same(got, want, tolerance):
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        assert torch.isfinite(a).all()
        if b.numel():
            assert float((a.cpu() - b.cpu()).abs().max()) <= tolerance * float(b.abs().max() + 1)


# ---- the formula ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("shared", [False, True])
def test_it_is_the_reference(size, shared, dtype, device):
    arguments = cast(problem(*size, shared), dtype)
    want = reference.lstm_path(*cast(arguments, torch.float64))
    got = ops.lstm_path(*(a.to(device) for a in arguments))
    assert got[0].dtype == dtype
    assert got[1].dtype == got[2].dtype == torch.float64
    same(got, want, 1e-13 if dtype == torch.float64 else 3e-6)


@pytest.mark.parametrize("of", ["h", "c"])
@pytest.mark.parametrize("step", [0, 3, 5])
def test_it_is_the_gradient_of_the_module(of, step, device):
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(3, 4, batch_first=True).double()
    x, baseline = torch.randn(2, 6, 3).double(), torch.randn(2, 6, 3).double()
    w_ih, w_hh, b_ih, b_hh = (p.detach() for p in lstm.parameters())
    alpha, weight = torch.tensor([0.1, 0.7]).double(), torch.tensor([2.0, -3.0]).double()

    def unit(point):  # unit 1 of sample 0
        y, (_, c) = lstm(point[:, : step + 1])
        return y[0, -1, 1] if of == "h" else c[0, 0, 1]

    want, S = torch.zeros_like(x), []
    for a, w in zip(alpha, weight, strict=True):
        point = (baseline + a * (x - baseline)).requires_grad_()
        value = unit(point)
        want += w * torch.autograd.grad(value, point)[0]
        S.append(value.item())
    seed, none = torch.zeros(1, 2, 4).double(), torch.zeros(1, 2, 4).double()
    seed[0, 0, 1] = 1.0
    start = (baseline @ w_ih.T + b_ih + b_hh).to(device)
    seeds = (seed, none) if of == "h" else (none, seed)
    rest = (w_hh, alpha.expand(2, 2), weight.expand(1, 2, 2), *seeds, torch.full((1, 2), step))
    change = ((x - baseline) @ w_ih.T).to(device)
    G, values, _ = ops.lstm_path(start, change, *(t.to(device) for t in rest))
    torch.testing.assert_close(G[0].cpu() @ w_ih, want, rtol=1e-12, atol=1e-15)
    assert values[0, 0].tolist() == pytest.approx(S, rel=1e-12)


def test_the_slope_is_the_derivative_by_alpha(device):
    arguments = problem(2, 8, 5, 2, 3)
    S, slope = ops.lstm_path(*cast(arguments, torch.float64, device))[1:]
    moved = []
    for sign in (1, -1):
        arguments[3] = arguments[3] + sign * 1e-5
        moved.append(ops.lstm_path(*cast(arguments, torch.float64, device))[1])
        arguments[3] = arguments[3] - sign * 1e-5
    torch.testing.assert_close((moved[0] - moved[1]) / 2e-5, slope, rtol=1e-6, atol=1e-8)
    assert torch.isfinite(S).all()


def test_saturated_gates_and_small_states(dtype, device):
    """Relative to the size of the result: tanh of a small number keeps its digits."""
    arguments = problem(3, 12, 4, 2, 9, scale=200.0)
    want = reference.lstm_path(*cast(cast(arguments, dtype), torch.float64))
    same(
        ops.lstm_path(*cast(arguments, dtype, device)), want, 2e-5 if dtype != DTYPES[0] else 1e-12
    )
    arguments = problem(3, 12, 4, 2, 9, scale=1e-6)
    arguments = cast(arguments, dtype)
    want = reference.lstm_path(*cast(arguments, torch.float64))[1:]
    got = ops.lstm_path(*(a.to(device) for a in arguments))[1:]
    for a, b in zip(got, want, strict=True):
        tolerance = 1e-12 if dtype == torch.float64 else 1e-5
        assert float(((a.cpu() - b) / b.abs().max()).abs().max()) < tolerance


def test_behind_the_step_of_a_target_there_is_nothing(device):
    arguments = problem(2, 9, 3, 2, 4)
    arguments[7] = torch.tensor([[2, 5], [8, 0]])
    G = ops.lstm_path(*cast(arguments, torch.float64, device))[0]
    for m, n in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        last = int(arguments[7][m, n])
        assert (G[m, n, last + 1 :] == 0).all()
        assert (G[m, n, last] != 0).any()


# ---- contracts --------------------------------------------------------------------------------


def test_any_strides(device):
    arguments = cast(problem(3, 6, 4, 2, 5), torch.float64, device)
    want = ops.lstm_path(*arguments)
    strided = [torch.stack([a, a], -1)[..., 0] for a in arguments]
    same(ops.lstm_path(*strided), want, 0)
    arguments[3] = arguments[3][:1].expand(3, -1)
    arguments[4] = arguments[4][:1, :1].expand(2, 3, -1)
    same(ops.lstm_path(*arguments), ops.lstm_path(*(a.contiguous() for a in arguments)), 0)


def test_the_number_of_threads_changes_nothing():
    arguments = cast(problem(3, 30, 6, 2, 200), torch.float32)
    want = ops.lstm_path(*arguments)
    try:
        torch.set_num_threads(3)
        same(ops.lstm_path(*arguments), want, 0)
    finally:
        torch.set_num_threads(1)
    alone = ops.lstm_path(*(a if i == 2 else a[:1] if i in (0, 1, 3) else a[:, :1]
                            for i, a in enumerate(arguments)))  # fmt: skip
    same([x[:, :1] for x in want], alone, 0)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3), st.integers(1, 12), st.integers(1, 9), st.integers(1, 3),
       st.integers(1, 70), st.integers(0, 10**6))  # fmt: skip
def test_any_size(N, T, H, M, K, seed):
    arguments = problem(N, T, H, M, K, seed=seed)
    same(ops.lstm_path(*arguments), reference.lstm_path(*arguments), 1e-12)


@pytest.mark.parametrize("i", range(7))
def test_nan_stays_nan(i):
    arguments = problem(1, 4, 2, 1, 3)
    arguments[i].view(-1)[0] = torch.nan
    assert any(torch.isnan(x).any() for x in ops.lstm_path(*arguments))


def test_schema_and_fake_kernel(device):
    torch.library.opcheck(
        torch.ops.xaifast.lstm_path.default,
        tuple(cast(problem(3, 5, 4, 2, 6), torch.float32, device)),
        test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"),
    )


def test_a_call_that_autograd_would_record_is_refused(device):
    arguments = cast(problem(1, 3, 2, 1, 2), torch.float32, device)
    arguments[0].requires_grad_()
    with pytest.raises(RuntimeError, match=r"xaifast::lstm_path: not differentiable.*no_grad"):
        torch.ops.xaifast.lstm_path(*arguments)


@pytest.mark.parametrize(
    ("i", "change", "error", "words"),
    [
        (0, lambda a: a[:, :2], ValueError, r"start must be \[N or 1, T, 4H\].*got \[2, 2, 12\]"),
        (0, lambda a: a.float(), TypeError, "start must have the dtype of change"),
        (1, lambda a: a.half(), TypeError, "change must be float32 or float64, got Half"),
        (1, lambda a: a[..., :-1], ValueError, r"change must be \[N, T, 4H\].*got \[2, 7, 11\]"),
        (2, lambda a: a.T, ValueError, r"w must be \[4H, H\].*got \[3, 12\]"),
        (3, lambda a: a.float(), TypeError, "alpha and weight must be float64, got Float"),
        (3, lambda a: a[0], ValueError, r"alpha must be \[N, K\]"),
        (4, lambda a: a[0], ValueError, r"weight must be \[M, N, K\]"),
        (5, lambda a: a[:1], ValueError, r"seed_h must be \[M, N, H\].*got \[1, 2, 3\]"),
        (6, lambda a: a[..., :1], ValueError, r"seed_c must be \[M, N, H\].*got \[2, 2, 1\]"),
        (7, lambda a: a.int(), TypeError, "step must be int64, got Int"),
        (7, lambda a: a + 7, ValueError, r"step must lie in \[0, T\) for T = 7, got"),
        (7, lambda a: a[:1], ValueError, r"step must be \[M, N\]"),
    ],
)
def test_wrong_arguments_name_the_op_and_what_came(i, change, error, words):
    arguments = problem(2, 7, 3, 2, 5)
    if not ops.is_native(arguments[0]):
        pytest.skip("native kernels are switched off")
    arguments[i] = change(arguments[i])
    with pytest.raises(error, match=f"lstm_path: {words}"):
        ops.lstm_path(*arguments)
