"""What the dispatcher knows of every op, also on a machine without a GPU: kernels for each key that
the build has, fake kernels that say for a CUDA tensor what the CPU does, autograd's refusal, and
autocast that leaves an op alone."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

import xaifast.ops  # noqa: F401  registers the fake kernels
from xaifast import _C

native = torch.ops.xaifast
f64, i64 = torch.float64, torch.int64


def ones(*shape, dtype=torch.float32):
    return torch.ones(shape, dtype=dtype)


def zeros(*shape):
    return torch.zeros(shape, dtype=i64)


SPAN = [1, 1], [1, 1], [0, 0], [1, 1]  # kernel, stride, padding, dilation
CALLS = {
    "stabilized_divide": (ones(2, 3), ones(2, 3), ones(3), 0.1),
    "stabilized_divide_": (ones(2, 3), ones(2, 3), None, 0.1),
    "multiply_parts": (ones(2, 6, 4), ones(4, 6, 4), 2),
    "multiply_": (ones(2, 3), ones(2, 3)),
    "split_signs": (ones(2, 3, 4),),
    "add_split": (ones(2, 3), ones(2, 3), ones(5, 2, 3), 1.0, 0.1),
    "pool_redistribute": (
        ones(2, 3, 4, 4),
        ones(2, 3, 2, 2),
        *([2, 2], [2, 2], [0, 0], [1, 1], "proportional", 0.1),
    ),
    "backward_product": (ones(2, 3), ones(3, 5)),
    "winograd_conv": (ones(2, 32, 6, 6), ones(4, 4, 1, 32, 32), None, True, 1),
    "relprop_conv": (
        *(ones(2, 3, 4, 4), ones(2, 5, 4, 4), ones(5, 3, 1, 1), ones(5, 3, 1, 1), None, None),
        *(*SPAN, False, [0, 0], 1, 0.1, 1),
    ),
    "relprop_few": (
        *(ones(2, 1, 4, 4), ones(2, 1, 4, 4), ones(1, 1, 32), ones(1, 32, 32), None, None),
        *([1, 1], [1, 1], [0, 0], 0.1, 1),
    ),
    "relprop_linear": (ones(2, 3), ones(2, 5), ones(5, 3), None, None, 0.1, 1),
    "zplus_linear": (ones(2, 3), ones(2, 5), ones(5, 3), None, [1.0], [1.0], [0.0], 0.1),
    "zplus_conv": (
        *(ones(2, 3, 4, 4), ones(2, 5, 4, 4), ones(5, 3, 1, 1), None, None),
        *(*SPAN[1:], 1, "positive", [], [], False, 0.1, "library"),
    ),
    "path_points": (ones(2, 3), ones(1, 3), zeros(5), ones(5, dtype=f64), False),
    "accumulate_rows_": (ones(2, 3), ones(5, 3), zeros(5), ones(5, dtype=f64)),
    "add_noise": (ones(2, 3), zeros(5), zeros(5), ones(2, dtype=f64), 1),
    "occlude_windows": (ones(2, 7), ones(1, 7), [3], [2], 0, 3),
    "scatter_windows": (ones(2, 3), [7], [3], [2], True),
    "mask_segments": (ones(2, 3), ones(1, 3), zeros(1, 3), ones(5, 1, dtype=torch.bool), zeros(5)),
    "segment_sums": (ones(2, 3, 4), zeros(1, 1, 4), 2),
    "cut_boxes": (ones(7, 3), ones(2, 2, 3), zeros(1, 2), zeros(1, 2), [4], 0.0),
    "recurrent_states": (ones(5, 2, 12), ones(12, 3), None, ones(2, 3), ones(2, 3)),
    "recurrent_relprop": (
        *(ones(5, 2, 12), ones(6, 2, 3), ones(6, 2, 3), ones(12, 3), None),
        *(ones(4, 5, 2, 3), ones(4, 2, 3), ones(4, 2, 3), "half", 0.1),
    ),
    "weighted_least_squares": (ones(1, 5, 2), ones(3, 5), ones(1, 5), 0.5, True),
    "weighted_lasso": (ones(1, 5, 2), ones(3, 5), ones(1, 5), 0.1, True, 1e-6, 9),
    "lstm_path": (
        *(ones(1, 5, 12), ones(2, 5, 12), ones(12, 3), ones(2, 4, dtype=f64)),
        *(ones(6, 2, 4, dtype=f64), ones(6, 2, 3), ones(6, 2, 3), zeros(6, 2)),
    ),
}
HOST_ONLY = {"fingerprint"}  # it looks at values, and returns a number
# By the library alone where there is no kernel of ours: refused on CUDA tensors in plain words.
CPU_ONLY = {"winograd_conv", "relprop_few", "zplus_linear"}
INPLACE = {"stabilized_divide_", "multiply_", "accumulate_rows_"}


def registered():
    names = torch._C._dispatch_get_all_op_names()
    return {name.removeprefix("xaifast::") for name in names if name.startswith("xaifast::")}


def has(name, key):
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"xaifast::{name}", key)


def facts(result):
    """What of a result is the same on every device."""
    return tree_map_only(torch.Tensor, lambda t: (t.shape, t.dtype, t.stride()), result)


def call(name, made_of=torch.clone):
    """The op on tensors made of those of its call."""
    return getattr(native, name)(*tree_map_only(torch.Tensor, made_of, CALLS[name]))


def test_every_op_has_a_call():
    stand_ins = {"packed_rnn", "sequence_lengths"}  # for layers, where a model is captured
    assert registered() - HOST_ONLY - stand_ins == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_kernels_of_each_key(name):
    assert [key for key in ("CPU", "Meta", "Autograd") if not has(name, key)] == []
    if _C.build_info()["cuda"] is not None:
        assert has(name, "CUDA")


@pytest.mark.parametrize("name", CALLS)
def test_schema_says_what_is_written(name):
    schema = getattr(native, name).default._schema
    written = [a.name for a in schema.arguments if a.alias_info is not None]
    assert bool(written) == (name in INPLACE)
    assert all(a.alias_info.is_write for a in schema.arguments if a.alias_info is not None)


@pytest.mark.parametrize("name", sorted(set(CALLS) - CPU_ONLY))
def test_fake_kernels_on_cuda(name):
    expected = facts(call(name))
    with FakeTensorMode():
        got = call(name, lambda t: torch.empty(t.shape, dtype=t.dtype, device="cuda"))
    assert facts(got) == expected
    tensors = [t for t in tree_leaves(got) if isinstance(t, torch.Tensor)]
    assert {t.device.type for t in tensors} <= {"cuda"}


@pytest.mark.parametrize("name", sorted(CALLS))
def test_autograd_refuses(name):
    # What is written is the first argument: another one asks.
    asking = CALLS[name][1 if name in INPLACE else 0]

    def differentiable(t):
        return t.clone().requires_grad_(t is asking)

    with pytest.raises(RuntimeError, match="not differentiable"):
        call(name, differentiable)
    with torch.no_grad():
        call(name, differentiable)


# The library's own products inside of these are autocast's, which refuses or rounds: callers switch
# it off, as xaifast/attr/arguments.py does.
COMPOSED = {"relprop_linear"}


@pytest.mark.parametrize("name", sorted(set(CALLS) - COMPOSED))
def test_autocast_leaves_the_op_alone(name):
    plain = facts(call(name))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert facts(call(name)) == plain
    assert not has(name, "AutocastCPU")
    assert not has(name, "AutocastCUDA")
