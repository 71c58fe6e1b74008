"""The recurrent ops against their formulas in plain PyTorch (float64)."""

import itertools

import pytest
import torch
from tensors import close

from xaifast import ops, reference

CELLS = {"lstm": 4, "gru": 3}
SHAPES = [(1, 1, 1), (5, 3, 4), (7, 70, 33), (3, 0, 4)]  # steps, rows, units
FLOATS = [torch.float64, torch.float32]


def arguments(cell, steps, rows, units, dtype=torch.float64, device="cpu"):
    """What `recurrent_states` takes."""
    width, options = CELLS[cell] * units, {"dtype": torch.float64, "device": device}
    state = [torch.randn(rows, units, **options) for _ in range(2)]
    made = (
        torch.randn(steps, rows, width, **options),
        torch.randn(width, units, **options) / units**0.5,
        torch.randn(width, **options),
        state[0],
        state[1] if cell == "lstm" else None,
    )
    return tuple(None if x is None else x.to(dtype) for x in made)


def relevance(cell, z, h, c, w, targets, bias=True):
    """What `recurrent_relprop` takes beside gate and eps."""
    options = {"dtype": z.dtype, "device": z.device}
    steps, rows, units = h.shape[0] - 1, *h.shape[1:]
    b = torch.randn(4 * units, **options) / 8 if bias else None
    R = torch.randn(targets, steps, rows, units, **options)
    last = [torch.randn(targets, rows, units, **options) for _ in range(2)]
    is_lstm = cell == "lstm"
    return z, h, c if is_lstm else None, w, b, R, last[0], last[1] if is_lstm else None


def double(xs):
    return tuple(None if x is None else x.double() for x in xs)


@pytest.mark.parametrize("real", FLOATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_states(cell, shape, real, device):
    given = arguments(cell, *shape, real, device)
    for b in (given[2], None):
        call = (*given[:2], b, *given[3:])
        got, want = ops.recurrent_states(*call), reference.recurrent_states(*double(call))
        for g, w in zip(got, want, strict=True):
            assert g.dtype == real
            close(g, w, real)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_states_are_those_of_pytorch(cell, device):
    a, w, b, h, c = arguments(cell, 6, 5, 4, device=device)
    make = torch.nn.LSTM if cell == "lstm" else torch.nn.GRU
    rnn = make(a.shape[2], 4, device=device).double()
    with torch.no_grad():
        rnn.weight_ih_l0.copy_(torch.eye(a.shape[2]))
        rnn.weight_hh_l0.copy_(w)
        rnn.bias_ih_l0.zero_()
        rnn.bias_hh_l0.copy_(b)
        y, _ = rnn(a, (h[None], c[None]) if cell == "lstm" else h[None])
    close(ops.recurrent_states(a, w, b, h, c)[1][1:], y, torch.float64)


@pytest.mark.parametrize("real", FLOATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("gate", reference.GATES)
@pytest.mark.parametrize("cell", CELLS)
def test_relprop(cell, gate, shape, real, device):
    made = arguments(cell, *shape, real, device)
    z, h, c = ops.recurrent_states(*made)
    for targets, bias in itertools.product((1, 3), (True, False)):
        call = relevance(cell, z, h, c, made[1], targets, bias)
        eps = 0.3  # a denominator near zero magnifies rounding without bound
        got = ops.recurrent_relprop(*call, gate, eps)
        want = reference.recurrent_relprop(*double(call), gate, eps)
        for g, w in zip(got, want, strict=True):
            assert g.dtype == real
            if real == torch.float64:
                assert g.shape == w.shape
                scale = float(w.abs().max()) if w.numel() else 0.0
                assert g.numel() == 0 or float((g - w).abs().max()) <= 1e-12 * scale
            else:
                assert torch.isfinite(g).all()
                torch.testing.assert_close(g.double(), w, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("real", FLOATS, ids=str)
@pytest.mark.parametrize("lengths", [[5, 5, 3, 1, 0], [4], [5, 5], []], ids=str)
@pytest.mark.parametrize("gate", ["all", "abs"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_sample_of_some_length_is_as_alone(cell, gate, lengths, real, device):
    """Padding is NaN: nothing of it may be read."""
    units, rows = 3, len(lengths)
    given = arguments(cell, 5, rows, units, real, device)
    sizes = torch.tensor(lengths, dtype=torch.int64, device=device)
    for n, steps in enumerate(lengths):
        given[0][steps:, n] = torch.nan
    z, h, c = ops.recurrent_states(*given, sizes)
    call = relevance(cell, z, h, c, given[1], 2)
    for n, steps in enumerate(lengths):
        call[5][:, steps:, n] = torch.nan
    s, *first = ops.recurrent_relprop(*call, gate, 0.3, sizes)
    whole = (z, h, c, s.movedim(0, 2), *first)
    wants = reference.recurrent_states(*double(given), sizes)
    again = reference.recurrent_relprop(*double(call), gate, 0.3, lengths=sizes)
    for got, want in zip((z, h, c, s, *first), (*wants, *again), strict=True):
        tolerance = 1e-12 if real == torch.float64 else 1e-2
        torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance)
    for n, steps in enumerate(lengths):
        if steps == 0:
            assert all(x[:, n].count_nonzero() == 0 for x in (z, s.movedim(0, 2)))
            continue
        a, w, b, *states = (x[:, n : n + 1] if x is given[0] else x for x in given)
        own = (a[:steps], w, b, *(None if x is None else x[n : n + 1] for x in states))
        kept = ops.recurrent_states(*own)
        R, *last = (x if x is None else x[..., n : n + 1, :] for x in call[5:])
        own = (*kept[:2], kept[2] if cell == "lstm" else None, *call[3:5], R[:, :steps], *last)
        s_own, *first_own = ops.recurrent_relprop(*own, gate, 0.3)
        alone = (*kept, s_own.movedim(0, 2), *first_own)
        for i, (got, want) in enumerate(zip(whole, alone, strict=True)):
            row = got[:, n : n + 1]
            close(row[: len(want)], want, real)
            assert i > 3 or row[len(want) :].count_nonzero() == 0


@pytest.mark.parametrize("cell", CELLS)
def test_any_strides_and_thread_count(cell, device):
    made = arguments(cell, 6, 40, 64, device=device)
    z, h, c = ops.recurrent_states(*made)
    strided = tuple(None if x is None else x.mT.contiguous().mT if x.dim() > 1 else x for x in made)
    for g, w in zip(ops.recurrent_states(*strided), (z, h, c), strict=True):
        close(g, w, torch.float64)
    call = relevance(cell, z, h, c, made[1], 2)
    want = ops.recurrent_relprop(*call, "abs", 0.1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        got = ops.recurrent_relprop(*call, "abs", 0.1)
    finally:
        torch.set_num_threads(before)
    for g, w in zip(got, want, strict=True):
        close(g, w, torch.float64)


def test_large_and_small_pre_activations(device):
    """Saturated gates, and signals so small that absolute accuracy would not do."""
    for scale in (1e-9, 1e-3, 30.0, 1e4):
        for real in FLOATS:
            a, w, _, h, c = arguments("lstm", 1, 4, 8, real, device)
            call = (a * scale, w * 0, None, h * 0, c * 0)
            _, h_got, c_got = ops.recurrent_states(*call)
            _, h_want, c_want = reference.recurrent_states(*double(call))
            tolerance = 1e-5 if real == torch.float32 else 1e-13
            torch.testing.assert_close(c_got.double(), c_want, rtol=tolerance, atol=1e-30)
            torch.testing.assert_close(h_got.double(), h_want, rtol=tolerance, atol=1e-30)


def test_nothing_divides_by_zero(device):
    made = arguments("lstm", 3, 2, 4, device=device)
    made = (made[0] * 0, made[1], None, made[3] * 0, made[4] * 0)
    z, h, c = ops.recurrent_states(*made)
    for gate in reference.GATES:
        call = relevance("lstm", z, h, c, made[1], 1, bias=False)
        got = ops.recurrent_relprop(*call, gate, 0.0)
        assert all(float(x.abs().max()) == 0 for x in got[:2])


def test_a_nan_stays(device):
    made = arguments("gru", 3, 2, 4, device=device)
    made[0][1, 0, 0] = torch.nan
    _, h, _ = ops.recurrent_states(*made)
    assert torch.isfinite(h[:, 1]).all()
    assert h[2:, 0].isnan().any(1).all()


@pytest.mark.parametrize("cell", CELLS)
def test_the_ops_keep_their_contract(cell):
    a, w, b, h, c = arguments(cell, 3, 2, 4)
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    lengths = torch.tensor([3, 1])
    for last in ((), (lengths,)):
        torch.library.opcheck(
            torch.ops.xaifast.recurrent_states.default, (a, w, b, h, c, *last), test_utils=checks
        )
    call = relevance(cell, *ops.recurrent_states(a, w, b, h, c), w, 2)
    for gate in ("all", "half"):
        torch.library.opcheck(
            torch.ops.xaifast.recurrent_relprop.default,
            (*call, gate, 0.1, lengths),
            test_utils=checks,
        )


def test_what_does_not_fit_is_refused():
    a, w, b, h, c = arguments("lstm", 3, 2, 4)
    z, states, cells = ops.recurrent_states(a, w, b, h, c)
    call = relevance("lstm", z, states, cells, w, 1)
    with pytest.raises(TypeError, match="must be float32 or float64"):
        ops.recurrent_states(a.half(), w, b, h, c)
    with pytest.raises(TypeError, match="w must have the dtype"):
        ops.recurrent_states(a, w.float(), b, h, c)
    with pytest.raises(ValueError, match=r"h0 must have the shape \[2, 4\]"):
        ops.recurrent_states(a, w, b, h[:1], c)
    with pytest.raises(ValueError, match="T > 0"):
        ops.recurrent_states(a[:0], w, b, h, c)
    with pytest.raises(ValueError, match="gate must be 'all', 'prop', 'abs' or 'half', got 'any'"):
        ops.recurrent_relprop(*call, "any", 0.1)
    with pytest.raises(ValueError, match="c and R_c go together"):
        ops.recurrent_relprop(*call[:-1], None, "all", 0.1)
    with pytest.raises(TypeError, match="lengths must be int64, got Int"):
        ops.recurrent_states(a, w, b, h, c, torch.tensor([3, 2]).int())
    with pytest.raises(ValueError, match=r"lengths must have the shape \[2\], got \[1\]"):
        ops.recurrent_states(a, w, b, h, c, torch.tensor([3]))
    for wrong, (got, at) in {(4, 1): (4, 0), (1, 2): (2, 1), (3, -1): (-1, 1)}.items():
        words = f"lengths must decrease from at most 3 to at least 0, got {got} at {at}"
        with pytest.raises(ValueError, match=words):
            ops.recurrent_relprop(*call, "all", 0.1, torch.tensor(wrong))
    with pytest.raises(RuntimeError, match="not differentiable"):
        ops.recurrent_states(a.requires_grad_(), w, b, h, c)
