"""Baselines in every form, and the blur."""

import numpy as np
import pytest
import torch

from xaifast import attr
from xaifast.engine.baselines import check_baselines, check_distribution
from xaifast.errors import InputError, InputTypeError

X = torch.randn(3, 2, 6, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def gaussian_blur(x, sigma):
    """Each pixel as the weighted mean over all others, borders continued, by loops over axes."""
    reach = max(1, int(np.ceil(3 * sigma)))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    found = x.numpy()
    for axis in range(2, x.dim()):
        size = found.shape[axis]
        shifted = [
            np.take(found, np.clip(np.arange(size) + d, 0, size - 1), axis)
            for d in range(-reach, reach + 1)
        ]
        found = sum(w * s for w, s in zip(weights, shifted, strict=True))
    return torch.from_numpy(found)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("shape", [(2, 3, 7), (3, 2, 6, 9), (1, 2, 4, 5, 3)])
def test_the_blur_by_its_formula(shape, sigma):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(attr.blur(x, sigma), gaussian_blur(x, sigma))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_blur_keeps_constants_dtypes_and_layouts(dtype):
    x = torch.full((2, 3, 5, 8), 0.75, dtype=dtype).transpose(2, 3)
    assert torch.equal(attr.blur(x), x)
    y = X.to(dtype)
    torch.testing.assert_close(attr.blur(y).double(), attr.blur(y.double()), atol=0.03, rtol=0.01)


def test_the_default_blur_is_ten_pixels_of_224():
    torch.testing.assert_close(attr.blur(X), attr.blur(X, 10 / 224 * 9))


@pytest.mark.parametrize(
    ("x", "sigma", "match"),
    [
        (torch.zeros(2, 3), None, r"blur: x must be floating images \[N, C, ...\]; got a Tensor"),
        (torch.zeros(2, 3, 4).long(), None, "blur: x must be floating images"),
        (X, 0.0, "blur: sigma must be positive; got 0.0"),
    ],
)
def test_what_cannot_be_blurred(x, sigma, match):
    with pytest.raises(InputError, match=match):
        attr.blur(x, sigma)


FORMS = {
    "nothing": (None, torch.zeros(1, 2, 6, 9)),
    "a number": (0.5, torch.full((1, 2, 6, 9), 0.5)),
    "of the batch": (X + 1, X + 1),
    "of one sample": (X[0], X[:1]),
    "a row": (X[:1], X[:1]),
    "of each channel": (X[0, :, :1, :1], X[:1, :, :1, :1].expand(1, 2, 6, 9)),
    "in float32": (X.float(), X.float().double()),
    "blur": ("blur", attr.blur(X)),
    "a function": (lambda x: x * 2, X * 2),
    "a function of nothing": (lambda: 3, torch.full((1, 2, 6, 9), 3.0)),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form):
    given, expected = FORMS[form]
    [(b,)] = check_baselines("X", given, (X,))
    assert b.dtype == torch.float64
    assert not b.requires_grad
    assert torch.equal(b, expected.double())


def test_several_and_several_inputs():
    found = check_baselines("X", [0, ["blur", X]], (X,))
    assert [torch.equal(b, e) for (b,), e in zip(found, [X[:1] * 0, attr.blur(X), X], strict=True)]
    [pair] = check_baselines("X", (0, X), (X, X))
    assert torch.equal(pair[1], X)
    [pair] = check_baselines("X", 0.25, (X, X[..., :1]))
    assert [b.shape for b in pair] == [(1, 2, 6, 9), (1, 2, 6, 1)]


@pytest.mark.parametrize(
    ("given", "inputs", "error", "match"),
    [
        ([], (X,), InputError, "must not be an empty list"),
        ("mean", (X,), InputError, "must not be a word other than \"blur\"; got 'mean'"),
        (object(), (X,), InputTypeError, "have an unknown form"),
        (X[:2], (X,), InputError, r"must have the shape of the input \[3, 2, 6, 9\]"),
        (X[..., :5], (X,), InputError, "must have the shape of the input"),
        (X * torch.nan, (X,), InputError, "must be finite"),
        ((X, X, X), (X, X), InputError, "must hold one for each of the 2 inputs"),
        (X, (X, X), InputError, "must be a tuple of 2, one for each input"),
    ],
)
def test_what_does_not_fit(given, inputs, error, match):
    with pytest.raises(error, match=match):
        check_baselines("X", given, inputs)


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        (0, InputTypeError, "must be tensors"),
        (X[:0], InputError, "must be rows like the input"),
        (X[..., :4], InputError, "must be rows like the input"),
        (X / 0, InputError, "must be finite"),
        ((X, X), InputError, "must hold one for each of the 1 inputs"),
    ],
)
def test_distributions_that_do_not_fit(given, error, match):
    with pytest.raises(error, match=match):
        check_distribution("X", given, (X,))


def test_distributions_of_several_inputs_share_their_rows():
    a, b = check_distribution("X", (X[:2], X[1:]), (X, X))
    assert len(a) == len(b) == 2
    with pytest.raises(InputError, match=r"one number of rows; got \[2, 3\]"):
        check_distribution("X", (X[:2], X), (X, X))
