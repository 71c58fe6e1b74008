"""Similarity kernels: by hand, against loops over elements, in both of captum's forms."""

import math

import numpy as np
import peers
import pytest
import torch
from captum.attr._core.lime import get_exp_kernel_similarity_function
from oracle import surrogates as oracle

from xaifast import attr
from xaifast.attr.surrogate.similarity import Kernel, ShapleyKernel, check_kernel, products_of
from xaifast.errors import InputError, InputTypeError

assert peers.captum
FORMS = [(d, w) for d in ("cosine", "euclidean") for w in (0.4, 3)]


def some(seed=0):
    """Two inputs of three samples, baselines, labels and coalitions of their four features."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 2, 3, generator=generator).double()
    y = torch.randn(3, 4, generator=generator).double()
    b = torch.randn(1, 2, 3, generator=generator).double()
    labels = (torch.tensor([[[0, 1, 1]]]), torch.tensor([[0, 2, 2, 3], [3, 3, 2, 0], [1, 1, 1, 1]]))
    z = torch.rand(20, 4, generator=generator) < 0.5
    z[0], z[1] = True, False
    return (x, y), (b, 0 * y), labels, z


def test_by_hand():  # x = (3, 4), x' = 0: |x_z| = 3 and 4, cosines 3/5 and 4/5
    x, zero, labels = torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2), torch.tensor([[0, 1]])
    products = products_of((x,), (zero,), (labels,), 2)
    z = torch.tensor([[1, 0], [0, 1], [1, 1], [0, 0]]).double()
    cosine = attr.ExponentialKernel("cosine", 1.0).weights(z, products)
    distances = (2 / 5, 1 / 5, 0, 1)
    assert torch.allclose(
        cosine, torch.tensor([[math.exp(-(d**2) / 2) for d in distances]]).double()
    )
    euclidean = attr.ExponentialKernel("euclidean", 5.0).weights(z, products)
    distances = (4, 3, 0, 5)
    expected = [[math.exp(-(d**2) / 50) for d in distances]]
    assert torch.allclose(euclidean, torch.tensor(expected).double())


@pytest.mark.parametrize(("distance", "width"), FORMS)
def test_weights_are_those_of_the_perturbed_inputs(distance, width):
    inputs, baselines, labels, z = some()
    kernel = attr.ExponentialKernel(distance, width)
    products = products_of(inputs, baselines, labels, 4)
    got = kernel.weights(z.double(), products)
    by_sample = [[_of_sample(v, n) for v in (inputs, baselines, labels)] for n in range(3)]
    for n, (x, b, m) in enumerate(by_sample):
        for s in range(len(z)):
            row = [oracle.perturbed(*parts, z[s].numpy()) for parts in zip(x, b, m, strict=True)]
            expected = oracle.exponential(x, row, distance, width)
            assert got[n, s].item() == pytest.approx(expected, abs=1e-14)
            tensors = [tuple(map(torch.from_numpy, v)) for v in (x, row)]
            assert kernel(*tensors, z[s : s + 1]) == pytest.approx(expected, abs=1e-14)
            with peers.float64():
                theirs = get_exp_kernel_similarity_function(distance, width)(*tensors, z[s : s + 1])
            assert theirs == pytest.approx(expected, abs=1e-14)


def _of_sample(values, n):
    return [v[n : n + 1].numpy() if len(v) > 1 else v.numpy() for v in values]


def test_the_whole_batch_is_one_vector():
    inputs, baselines, labels, z = some()
    kernel = attr.ExponentialKernel("cosine", 0.5)
    got = kernel.weights(z.double(), products_of(inputs, baselines, labels, 4).total())
    arrays = [[v.numpy() for v in values] for values in (inputs, baselines, labels)]
    for s in range(len(z)):
        row = [oracle.perturbed(*parts, z[s].numpy()) for parts in zip(*arrays, strict=True)]
        assert got[0, s].item() == pytest.approx(oracle.exponential(arrays[0], row, width=0.5))


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_distances_of_features(distance):
    z = some()[3]
    kernel = attr.ExponentialKernel(distance, 0.25, space="features")
    got = kernel.weights(z.double(), None)
    for s in range(len(z)):
        v = z[s].double().numpy()
        expected = oracle.exponential([np.ones(4)], [v], distance, 0.25)
        assert got[0, s].item() == pytest.approx(expected, abs=1e-14)
        assert kernel(None, None, z[s : s + 1]) == pytest.approx(expected, abs=1e-14)


def test_empty_and_integer_inputs_have_products():
    flags, empty = torch.tensor([[True, False, True]]), torch.zeros(1, 0)
    none = torch.zeros(1, 0, dtype=torch.long)
    inputs, baselines = (flags, empty), (torch.zeros(1, 3, dtype=torch.bool), empty)
    products = products_of(inputs, baselines, (torch.tensor([[0, 1, 1]]), none), 2)
    assert products.xx.tolist() == [[1, 1]]
    assert products.dd.tolist() == [[1, 1]]


def test_the_shapley_kernel_weighs_the_ends():
    z = torch.tensor([[1, 1, 1], [0, 0, 0], [1, 0, 1]]).double()
    assert ShapleyKernel().weights(z, None).tolist() == [[1e6, 1e6, 1]]


def test_captums_kernels_are_recognized():
    found = check_kernel("Lime", get_exp_kernel_similarity_function("euclidean", 3.0))
    assert found == attr.ExponentialKernel("euclidean", 3.0)

    def own(x, y, z, **kwargs):
        return 1.0

    assert check_kernel("Lime", own) is own
    assert isinstance(check_kernel("Lime", attr.ExponentialKernel()), Kernel)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"distance": "manhattan"}, "distance must be one of cosine, euclidean; got 'manhattan'"),
        ({"space": "pixels"}, "space must be one of inputs, features; got 'pixels'"),
        ({"width": 0}, "width must be a positive number; got 0"),
        ({"width": float("nan")}, "width must be a positive number; got nan"),
        ({"width": "wide"}, "width must be a positive number; got 'wide'"),
    ],
)
def test_wrong_kernels_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        attr.ExponentialKernel(**arguments)


def test_what_cannot_be_called_is_refused():
    with pytest.raises(InputTypeError, match="similarity_func must be a kernel or a function"):
        attr.Lime(torch.nn.Linear(2, 1), similarity_func="cosine")
