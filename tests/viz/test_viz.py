"""Pictures: colours by hand, sizes of grids, and the wording of errors."""

import sys

import numpy as np
import pytest
import torch

from xaifast import viz
from xaifast.viz import optional
from xaifast.viz.pictures import GAP, RAMP
from xaifast.viz.reading import Reader

BLUE, WHITE, RED = RAMP[[0, 2, 4]].astype(np.uint8)
DOT = np.zeros((2, 2, 3), np.uint8)


# ---- heatmap ---------------------------------------------------------------------------------


def test_heatmap_by_hand():
    # Channels sum to [-4, 0, 2]; by max |R| = 4 that is -1, 0, 1/2: blue, white, the middle red.
    R = torch.tensor([[[-3.0, 1.0, 1.0]], [[-1.0, -1.0, 1.0]]])
    image = viz.heatmap(R)
    assert image.dtype == np.uint8
    assert image.shape == (1, 3, 3)
    np.testing.assert_array_equal(image[0], [BLUE, WHITE, RAMP[3]])


def test_heatmap_is_symmetric_in_sign():
    R = np.linspace(-1, 1, 21).reshape(3, 7)
    place, mirrored = viz.heatmap(R).astype(int), viz.heatmap(-R).astype(int)
    np.testing.assert_array_equal(place, mirrored[::-1, ::-1])
    assert (place[R > 1e-9][:, 0] > place[R > 1e-9][:, 2]).all()  # more red than blue
    assert (place[R < -1e-9][:, 0] < place[R < -1e-9][:, 2]).all()


def test_heatmap_of_zeros_is_white():
    assert (viz.heatmap(np.zeros((4, 5))) == 255).all()


def test_heatmap_with_a_limit_keeps_colours_comparable():
    image = viz.heatmap(np.array([[1.0, 2.0, 9.0]]), limit=2.0)
    np.testing.assert_array_equal(image[0], [RAMP[3], RED, RED])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64])
def test_heatmap_takes_any_real_dtype_and_leaves_it_alone(dtype):
    R = torch.tensor([[-1, 0], [1, 2]], dtype=dtype)
    before = R.clone()
    assert viz.heatmap(R).shape == (2, 2, 3)
    assert torch.equal(R, before)


def test_heatmap_of_a_tensor_that_requires_grad():
    assert viz.heatmap(torch.ones(2, 2, requires_grad=True)).shape == (2, 2, 3)


@pytest.mark.parametrize("draw", [viz.heatmap, viz.to_image])
def test_bad_maps_are_refused(draw):
    with pytest.raises(TypeError, match=r"must be a tensor or an array .*; got x"):
        draw("x")
    with pytest.raises(TypeError, match="real numbers"):
        draw(torch.ones(2, 2, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"2 or 3 dimensions .* shape \[1, 3, 8, 8\].*one sample"):
        draw(torch.ones(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"some elements; got .* shape \[0, 3\]"):
        draw(np.ones((0, 3)))
    with pytest.raises(ValueError, match="must be finite; got NaN or infinite values"):
        draw(np.array([[1.0, np.nan]]))


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_bad_limits_are_refused(limit):
    with pytest.raises(ValueError, match=r"heatmap: limit must be > 0; got .*max \|R\|"):
        viz.heatmap(np.ones((2, 2)), limit=limit)


# ---- to_image --------------------------------------------------------------------------------


def test_to_image_shows_values_in_0_1_as_they_are():
    x = torch.tensor([[[0.0]], [[0.2]], [[1.0]]])
    np.testing.assert_array_equal(viz.to_image(x)[0, 0], [0, 51, 255])


def test_to_image_stretches_other_values():
    image = viz.to_image(np.array([[-1.0, 0.0, 3.0]]))
    np.testing.assert_array_equal(image[0, :, 0], [0, 64, 255])


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_to_image_greys_other_numbers_of_channels(channels):
    x = torch.rand(channels, 4, 6, generator=torch.Generator().manual_seed(0))
    image = viz.to_image(x)
    assert image.shape == (4, 6, 3)
    assert (image == image[..., :1]).all()
    np.testing.assert_allclose(image[..., 0] / 255, x.mean(0), atol=0.5 / 255 + 1e-6)


def test_to_image_of_a_large_constant_is_sound():
    assert (viz.to_image(np.full((3, 2, 2), 7.0)) == 0).all()


# ---- grid ------------------------------------------------------------------------------------


def test_grid_places_pictures():
    a, b = viz.heatmap(np.array([[-1.0]])), viz.heatmap(np.array([[1.0]]))
    sheet = np.asarray(viz.grid([[a, b], [b, a]], cell=10))
    assert sheet.shape == (2 * (10 + GAP) + GAP, 2 * (10 + GAP) + GAP, 3)
    first, second = GAP + 5, GAP + 10 + GAP + 5
    np.testing.assert_array_equal(sheet[first, first], BLUE)
    np.testing.assert_array_equal(sheet[first, second], RED)
    np.testing.assert_array_equal(sheet[second, first], RED)


def test_grid_enlarges_pixels_to_squares():
    checkers = np.zeros((2, 2, 3), np.uint8)
    checkers[0, 0] = checkers[1, 1] = 255
    sheet = np.asarray(viz.grid([[checkers]], cell=8))[GAP : GAP + 8, GAP : GAP + 8]
    np.testing.assert_array_equal(sheet, checkers.repeat(4, 0).repeat(4, 1))


def test_grid_never_shrinks_and_keeps_proportions():
    assert viz.grid([[np.zeros((30, 120, 3), np.uint8)]], cell=50).size == (132, 42)


def test_grid_makes_room_for_words():
    bare = viz.grid([[DOT, DOT]])
    titled = viz.grid([[DOT, DOT]], titles=["a", "two\nlines"])
    wide = viz.grid([[DOT, DOT]], titles=["a", "a title that is wider than its column"])
    labelled = viz.grid([[DOT, DOT]], labels=["a label"])
    assert titled.width == bare.width
    assert titled.height > bare.height
    assert wide.width > titled.width
    assert labelled.width > bare.width
    assert (np.asarray(titled)[: titled.height - bare.height] < 128).any()


def test_bad_grids_are_refused():
    with pytest.raises(ValueError, match=r"same number of pictures .*; got rows of \[1, 2\]"):
        viz.grid([[DOT], [DOT, DOT]])
    with pytest.raises(ValueError, match=r"\(>= 1\); got rows of \[\]"):
        viz.grid([])
    with pytest.raises(ValueError, match="grid: titles must be 1, one for each column; got 2"):
        viz.grid([[DOT]], titles=["a", "b"])
    with pytest.raises(ValueError, match="grid: labels must be 1, one for each row; got 0"):
        viz.grid([[DOT]], labels=[])
    with pytest.raises(ValueError, match="grid: cell must be at least 1 pixel; got 0"):
        viz.grid([[DOT]], cell=0)
    with pytest.raises(TypeError, match=r"RGB pictures.*\[2, 2\].*heatmap or to_image"):
        viz.grid([[np.zeros((2, 2), np.uint8)]])


def test_grid_without_pillow(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r'grid needs .*pillow.*pip install "xaifast\[demo\]"'):
        viz.grid([[DOT]])


def test_short_is_one_line():
    assert optional.short(ValueError("a\n  b")) == "ValueError: a b"
    assert len(optional.short(ValueError("x" * 999))) < 330


# ---- reading ---------------------------------------------------------------------------------


def _saved(path, array, **options):
    image = pytest.importorskip("PIL.Image")
    image.fromarray(array).save(path, **options)
    return path


def test_images_are_read_in_0_1_with_channels_first(tmp_path):
    rgb = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10
    x = Reader()(_saved(tmp_path / "a.png", rgb))
    assert x.dtype == torch.float32
    np.testing.assert_allclose(x, rgb.transpose(2, 0, 1) / 255, atol=1e-6)


def test_grey_images_have_one_channel_and_16_bits_count(tmp_path):
    grey = np.array([[0, 51, 255]], np.uint8)
    deep = np.array([[0, 13107, 65535]], np.uint16)
    for name, array in (("a.png", grey), ("b.png", deep)):
        x = Reader()(_saved(tmp_path / name, array))
        assert x.shape == (1, 1, 3)
        np.testing.assert_allclose(x[0, 0], [0, 0.2, 1], atol=1e-6)


def test_alpha_is_dropped_and_cameras_that_lay_on_their_side_are_turned(tmp_path):
    rgba = np.full((2, 3, 4), 255, np.uint8)
    assert Reader()(_saved(tmp_path / "a.png", rgba)).shape == (3, 2, 3)
    image = pytest.importorskip("PIL.Image")
    exif = image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    turned = _saved(tmp_path / "b.jpg", rgba[..., :3].copy(), exif=exif)
    assert Reader()(turned).shape == (3, 3, 2)


def test_images_are_resized_and_normalized(tmp_path):
    path = _saved(tmp_path / "a.png", np.full((4, 4, 3), 51, np.uint8))
    x = Reader((2, 3), [0.1, 0.2, 0.3], [0.5], torch.float64)(path)
    assert x.shape == (3, 2, 3)
    assert x.dtype == torch.float64
    np.testing.assert_allclose(x[:, 0, 0], [0.2, 0.0, -0.2], atol=1e-6)
    with pytest.raises(ValueError, match=r"mean must have one number or 3, the channels of .*a\.p"):
        Reader(mean=[0.1, 0.2])(path)


def test_arrays_are_taken_as_they_are(tmp_path):
    for name, array, dtype in (
        ("f", np.ones((2, 3), np.float64), torch.float32),
        ("i", np.ones(4, np.uint16), torch.int64),
        ("big", np.ones(4, ">f4"), torch.float32),
    ):
        np.save(tmp_path / name, array)
        x = Reader((9, 9), [1.0], [2.0])(tmp_path / f"{name}.npy")
        assert x.dtype == dtype
        np.testing.assert_array_equal(x, array)


def test_bad_files_are_refused(tmp_path):
    for name in ("a.png", "a.npy"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"image that can be read \(UnidentifiedImageError"):
        Reader()(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"array that numpy.save wrote \(ValueError"):
        Reader()(tmp_path / "a.npy")
    np.save(tmp_path / "n.npy", np.array([1.0, np.inf]))
    with pytest.raises(ValueError, match=r"input must be finite; got NaN or infinity in .*n\.npy"):
        Reader()(tmp_path / "n.npy")
    for array in (np.array(1.0), np.ones((0, 2)), np.array([1j]), np.array(["a"])):
        np.save(tmp_path / "b.npy", array)
        with pytest.raises(TypeError, match=r"must hold a sample .*Leave the batch dimension out"):
            Reader()(tmp_path / "b.npy")
