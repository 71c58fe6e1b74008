"""Windows: their places, what is hidden in integers, what does not fit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import perturbation as oracle

from xaifast.attr import Occlusion
from xaifast.attr.perturbation.windows import Grid, Windows, occluded


@st.composite
def grids(draw):
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    window = [draw(st.integers(1, size)) for size in shape]
    stride = [draw(st.integers(1, w)) for w in window]
    return Grid(tuple(shape), tuple(window), tuple(stride))


@settings(max_examples=60, deadline=None)
@given(grids())
def test_places_are_the_loops(grid):
    masks = list(oracle.windows(grid.shape, grid.window, grid.stride))
    assert grid.count == len(masks)
    for place, mask in zip(grid.places(0, grid.count), masks, strict=True):
        here = np.zeros(grid.shape, dtype=bool)
        here[place] = True
        assert (here == mask).all()
    assert list(grid.places(1, 2)) == list(grid.places(0, grid.count))[1:3]


@settings(max_examples=40, deadline=None)
@given(grids(), st.integers(1, 3), st.sampled_from([torch.float32, torch.int64, torch.bool]))
def test_windows_of_every_dtype_are_hidden(grid, batch, dtype):
    x = torch.randint(1, 100, (batch, *grid.shape)).to(dtype)
    baseline = torch.zeros(1, *grid.shape, dtype=dtype)
    rows = occluded(x, baseline, grid, 0, grid.count).unflatten(0, (-1, batch))
    for row, place in zip(rows, grid.places(0, grid.count), strict=True):
        expected = x.clone()
        expected[(slice(None), *place)] = 0
        assert torch.equal(row, expected)


def test_windows_of_several_inputs_are_counted_one_after_the_other():
    x = (torch.ones(2, 3), torch.ones(0, 4), torch.ones(2, 2))
    windows = Windows([Grid((3,), (2,), (1,)), Grid((4,), (1,), (1,)), Grid((2,), (1,), (1,))], x)
    assert windows.count == 2 + 0 + 2
    zero = tuple(torch.zeros(1, v.shape[1]) for v in x)
    first, empty, last = windows.rows(zero, slice(1, 4))
    assert first.tolist() == [[1, 0, 0]] * 2 + [[1, 1, 1]] * 4
    assert empty.shape == (0, 4)
    assert last.tolist() == [[1, 1]] * 2 + [[0, 1]] * 2 + [[1, 0]] * 2
    found = windows.spread(torch.tensor([[4.0], [2.0], [7.0], [8.0]]))
    assert [f.tolist() for f in found] == [[[4, 3, 2]], [[0, 0, 0, 0]], [[7, 8]]]


def never(*_):
    raise AssertionError("the model was called")


X = torch.ones(2, 3, 4)
BAD = {
    "dimensions": ({"sliding_window_shapes": (2,)}, "must have 2 entries for an input of shape"),
    "not a tuple": ({"sliding_window_shapes": 2}, "must be made of ints; got 2"),
    "not ints": ({"sliding_window_shapes": (2, 1.5)}, r"must be made of ints; got \(2, 1.5\)"),
    "none": ({"sliding_window_shapes": (0, 1)}, r"must be positive; got \(0, 1\)"),
    "too large": ({"sliding_window_shapes": (2, 5)}, "must not be larger than the input"),
    "too many": ({"sliding_window_shapes": ((2, 1), (1, 1))}, "must be made of ints"),
    "strides": ({"strides": (1, 1, 1)}, "must have 2 entries for an input of shape"),
    "stride zero": ({"strides": 0}, r"strides must be positive; got \(0, 0\)"),
    "stride below zero": ({"strides": (1, -1)}, r"strides must be positive; got \(1, -1\)"),
    "stride beyond": ({"strides": (1, 3)}, r"must not be beyond the window \(2, 2\)"),
    "stride word": ({"strides": "windows"}, "strides must be made of ints; got 'windows'"),
    "stat": ({"stat": "mean"}, "stat must be one of difference, score; got 'mean'"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_bad_windows(options, message):
    with pytest.raises((ValueError, TypeError), match=f"Occlusion: .*{message}"):
        Occlusion(never).attribute(X, **{"sliding_window_shapes": (2, 2)} | options)


def test_bad_windows_of_several_inputs():
    with pytest.raises(ValueError, match="sliding_window_shapes must hold one for each of the 2"):
        Occlusion(never).attribute((X, X), ((1, 1), (1, 1), (1, 1)))
    with pytest.raises(ValueError, match="strides must hold one for each of the 2 inputs; got 3"):
        Occlusion(never).attribute((X, X), ((1, 1), (1, 1)), (1, 1, 1))
