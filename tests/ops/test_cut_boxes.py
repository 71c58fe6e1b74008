"""The ops on boxes against their formula in plain PyTorch: dtypes, layouts, devices."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import signed

from xaifast import ops, reference


def places(axes, rows, low, high, seed, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (axes, rows), generator=generator).to(device)


# ---- by hand -----------------------------------------------------------------------------------


def test_a_box_is_cut_out_with_its_padding(device):
    # the map 0 1 2 | 3 4 5, of which row 0 has changed 4 5 to 8 9
    x = torch.arange(6.0, device=device).view(2, 3, 1)
    box = torch.tensor([8.0, 9.0], device=device).view(1, 1, 2, 1)
    origin, start = (torch.tensor(v, device=device).view(2, 1) for v in ([1, 1], [0, -1]))
    out = ops.cut_boxes(x, box, origin, start, [3, 3], -1.0)
    assert out.view(3, 3).tolist() == [[-1, 0, 1], [-1, 3, 8], [-1, -1, -1]]
    assert ops.cut_boxes(x, None, None, start, [2, 3], 7.0).view(2, 3).tolist() == [
        [7, 0, 1],
        [7, 3, 4],
    ]


# ---- against the formula -----------------------------------------------------------------------

CASES = [
    ((5,), (3,), (2,)),
    ((4, 6), (3, 4), (2, 2)),
    ((4, 6), (9, 1), (1, 6)),
    ((3, 4, 5), (2, 3, 7), (2, 1, 4)),
    ((3, 4), (0, 2), (1, 1)),
    ((3, 4), (2, 2), (0, 2)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("channels", [1, 3, 8, 0])
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_cut_boxes(case, channels, rows, dtype, device):
    shape, size, changed = case
    x = signed(*shape, channels, device=device).to(dtype)
    box = signed(rows, *changed, channels, device=device).to(dtype)
    origin, start = (places(len(shape), rows, -4, 7, seed, device) for seed in (1, 2))
    for fill, changes in itertools.product((0.0, -math.inf), (True, False)):
        pair = (box, origin) if changes else (None, None)
        out = ops.cut_boxes(x, *pair, start, size, fill)
        assert out.dtype == dtype
        assert out.is_contiguous()
        assert torch.equal(out, reference.cut_boxes(x, *pair, start, size, fill))


def test_inputs_with_any_strides(device):
    x, box = signed(7, 4, 5, device=device).movedim(0, -1), signed(3, 6, 2, 7, device=device)
    box = box.movedim(1, 2)[..., ::1]
    origin, start = (places(3, 2, 0, 3, seed, device).T for seed in (1, 2))
    for other in (x.contiguous(), x):
        out = ops.cut_boxes(other, box, origin, start, [3, 3])
        assert torch.equal(out, reference.cut_boxes(x, box, origin, start, [3, 3], 0.0))


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_whole_maps_with_their_boxes_and_boxes_of_whole_maps(data):
    shape = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    size = [data.draw(st.integers(1, n)) for n in shape]
    rows, channels = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    x, box = signed(*shape, channels), signed(rows, *size, channels)
    origin = torch.tensor(
        [
            [data.draw(st.integers(0, n - m)) for _ in range(rows)]
            for n, m in zip(shape, size, strict=True)
        ]
    )
    zero = torch.zeros_like(origin)
    whole = ops.cut_boxes(x, box, origin, zero, shape)
    assert torch.equal(ops.cut_boxes(x, box, origin, origin, size), box)
    for r in range(rows):
        place = tuple(slice(o, o + m) for o, m in zip(origin[:, r].tolist(), size, strict=True))
        expected = x.clone()
        expected[place] = box[r]
        assert torch.equal(whole[r], expected)


# ---- contracts ---------------------------------------------------------------------------------


def arguments(device):
    x, box = torch.randn(4, 5, 3, device=device), torch.randn(2, 2, 2, 3, device=device)
    return x, box, places(2, 2, 0, 3, 1, device), places(2, 2, -1, 3, 2, device), [3, 4], 0.0


def test_schema_and_fake_kernel(device):
    x, box, origin, start, size, fill = arguments(device)
    for pair in ((box, origin), (None, None)):
        given = (x, *pair, start, size, fill)
        torch.library.opcheck(torch.ops.xaifast.cut_boxes.default, given)


def test_a_call_that_autograd_would_record_is_refused(device):
    x, *rest = arguments(device)
    if ops.is_native(x):
        with pytest.raises(RuntimeError, match="cut_boxes"):
            ops.cut_boxes(x.requires_grad_(), *rest)


def test_wrong_arguments_name_the_op_and_what_came():
    x, box, origin, start, size, _ = arguments("cpu")
    if not ops.is_native(x):
        pytest.skip("plain PyTorch has its own errors")
    cases = [
        ((x.int(), None, None, start, size), TypeError, "cut_boxes: x must be float32"),
        ((x[0, 0], None, None, start, size), ValueError, r"with 1 to 3 axes, got shape \[3\]"),
        ((x, None, None, start.int(), size), TypeError, "start must be int64, got Int"),
        ((x, None, None, start[:1], size), ValueError, r"start must have one.*\[2, 2\], got"),
        ((x, None, None, start, [3]), ValueError, r"size must have one.*2 axes, got \[3\]"),
        ((x, None, None, start, [3, -1]), ValueError, r"not negative.*got \[3, -1\]"),
        ((x, box, None, start, size), ValueError, "box and origin must be given together"),
        ((x, box.double(), origin, start, size), TypeError, "box must have the dtype of x"),
        ((x, box[:1], origin, start, size), ValueError, r"box must be \[2, .*got shape \[1, 2"),
        ((x, box, origin[:, :1], start, size), ValueError, r"origin must have one number for"),
        ((x, None, None, start, [2**40, 2**40]), ValueError, r"less than 2\^60 elements"),
    ]
    for given_, error, message in cases:
        with pytest.raises(error, match=message):
            ops.cut_boxes(*given_)
