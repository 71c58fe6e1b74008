"""Feature masks in every form, counted in the order of their numbers."""

import sys

import pytest
import torch
from skimage import data, segmentation

from xaifast.attr.perturbation.features import check_features
from xaifast.errors import InputError, InputTypeError, MissingPackageError

X = torch.rand(2, 3, 16, 12, generator=torch.Generator().manual_seed(0))
HALVES = (torch.arange(16) // 8).view(1, 1, 16, 1)


def test_without_a_mask_each_element_is_a_feature():
    features = check_features("F", None, (X, X[:, :1]))
    assert features.count == 3 * 16 * 12 + 16 * 12
    assert features.labels[0].flatten().tolist() == list(range(576))
    assert int(features.labels[1].min()) == 576
    assert features.shared


@pytest.mark.parametrize("shift", [0, 5, -7])
def test_numbers_are_counted_from_zero_in_their_order(shift):
    features = check_features("F", HALVES * 3 + shift, (X,))
    assert features.count == 2
    assert features.numbers == (shift, shift + 3)
    assert torch.equal(features.labels[0], HALVES)
    assert features.expanded(0, X).shape == (1, 3, 16, 12)


def test_a_mask_of_one_sample_is_that_of_all_and_floats_may_be_integers():
    for mask in (HALVES[0], HALVES[0].float(), HALVES.expand(1, 3, 16, 12), HALVES.bool()):
        assert torch.equal(check_features("F", mask, (X,)).labels[0].amax(1, True)[:, :, :, :1],
                           HALVES)  # fmt: skip


def test_features_of_several_inputs_are_one_where_their_numbers_are():
    masks, x = (torch.tensor([4, 9]), torch.tensor([9, 2])), X[:, 0, 0, :2]
    features = check_features("F", masks, (x, x))
    assert [m.tolist() for m in features.labels] == [[[1, 2]], [[2, 0]]]
    assert features.count == 3


def test_masks_of_each_sample_and_some_of_them():
    mask = torch.stack([HALVES[0], HALVES[0] * 2 + 1])
    features = check_features("F", mask, (X,))
    assert not features.shared
    assert features.numbers == (0, 1, 3)
    assert torch.equal(features.rows(slice(1, 2)).labels[0], features.labels[0][1:])


@pytest.mark.parametrize("channels", [1, 3])
def test_slic_follows_the_colours(channels):
    x = torch.zeros(2, channels, 24, 24)
    x[:, :, :, 12:] = 5.0
    x[1] = x[1].mT.clone()
    labels = check_features("F", "slic", (x,)).labels[0]
    assert labels.shape == (2, 1, 24, 24)
    for across in (labels[0, 0], labels[1, 0].mT):
        left, right = set(across[:, :11].flatten().tolist()), set(across[:, 13:].flatten().tolist())
        assert not left & right


def test_quickshift_is_that_of_the_books_listing():
    image = data.astronaut()[40:140, 160:260] / 255.0
    x = torch.from_numpy(image).movedim(-1, 0).unsqueeze(0)
    expected = segmentation.quickshift(
        (image - image.min()) / (image.max() - image.min()), kernel_size=4, max_dist=200, ratio=0.2
    )
    features = check_features("F", "quickshift", (7 * x - 2,))  # whatever its normalization
    assert torch.equal(features.labels[0][0, 0], torch.from_numpy(expected))
    assert features.count == expected.max() + 1 > 5


@pytest.mark.parametrize(
    ("mask", "x", "error", "match"),
    [
        ("circles", X, InputError, "must, as a word, be one of slic, quickshift; got 'circles'"),
        ("slic", X[:, 0], InputError, r'"slic" needs floating images \[N, C, H, W\]'),
        ("slic", X.long(), InputError, '"slic" needs floating images'),
        ([1, 2], X, InputTypeError, "has an unknown form"),
        (HALVES + 0.5, X, InputTypeError, "must be made of integers"),
        (torch.zeros(5).long(), X, InputError, r"must broadcast against the input \[2, 3, 16"),
        (torch.zeros(3, 3, 16, 12).long(), X, InputError, "must broadcast against"),
        ((HALVES, HALVES), X, InputError, "must hold one for each of the 1 inputs; got 2"),
    ],
)
def test_what_does_not_fit(mask, x, error, match):
    with pytest.raises(error, match=match):
        check_features("F", mask, (x,))


def test_gaps_are_refused_where_features_are_fitted():
    mask = torch.tensor([3, 4, 8]).view(1, 1, 1, 3).expand(1, 1, 16, 3).repeat(1, 1, 1, 4)
    assert check_features("F", mask, (X,)).count == 3
    with pytest.raises(InputError, match=r"must use every number.*got a mask without \[5, 6, 7\]"):
        check_features("F", mask, (X,), gaps=False)


def test_without_scikit_image_the_error_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingPackageError, match=r"needs scikit-image\. Install it"):
        check_features("F", "slic", (X,))
