"""Perturbation methods as loops over samples, features and elements, in numpy.

`f` maps one sample (an array) to a number; samples are explained one by one, each changed input is
evaluated alone, and nothing is shared or batched.
"""

from itertools import permutations, product
from math import ceil

import numpy as np


def with_baseline(x, baseline, hidden):
    """x with the baseline where `hidden` is true."""
    y = x.copy()
    y[hidden] = baseline[hidden]
    return y


def ablation(f, x, baseline, labels):
    """R_i = f(x) - f(x without the feature of i)."""
    R = np.zeros(x.shape)
    for k in np.unique(labels):
        R[labels == k] = f(x) - f(with_baseline(x, baseline, labels == k))
    return R


def windows(shape, window, stride):
    """The elements of each window, as masks."""
    positions = [
        range(ceil((size - w) / s) + 1) for size, w, s in zip(shape, window, stride, strict=True)
    ]
    for position in product(*positions):
        mask = np.zeros(shape, dtype=bool)
        for element in np.ndindex(*shape):
            mask[element] = all(
                p * s <= e < p * s + w
                for e, p, w, s in zip(element, position, window, stride, strict=True)
            )
        yield mask


def covering_mean(shape, window, stride, value):
    """The mean over the windows that cover an element of value(mask)."""
    total, count = np.zeros(shape), np.zeros(shape)
    for mask in windows(shape, window, stride):
        total[mask] += value(mask)
        count[mask] += 1
    return total / count


def occlusion(f, x, baseline, window, stride, score=False):
    """R_i = mean over the windows that cover i of f(x) - f(x without the window)."""

    def value(mask):
        without = f(with_baseline(x, baseline, mask))
        return without if score else f(x) - without

    return covering_mean(x.shape, window, stride, value)


def book_listing(f, x, size):
    """Section 22.2.1: patches side by side over an image [C, H, W]."""
    diff = np.zeros(x.shape)
    for i in range(0, x.shape[1], size):
        for j in range(0, x.shape[2], size):
            occluded = x.copy()
            occluded[:, i : i + size, j : j + size] = 0
            diff[:, i : i + size, j : j + size] = f(occluded)
    return f(x) - diff


def shapley(f, x, baseline, labels, orders=None):
    """R_i = mean over the orders (default all) of what the feature of i adds."""
    features = np.unique(labels)
    orders = list(permutations(features)) if orders is None else orders
    R = np.zeros(x.shape)
    for order in orders:
        y = baseline.copy()
        before = f(y)
        for k in order:
            y[labels == k] = x[labels == k]
            after = f(y)
            R[labels == k] += (after - before) / len(orders)
            before = after
    return R


def enlarged(row, size):
    """Bilinear enlarging along one dimension, pixel centres at halves, borders continued."""
    out = np.zeros(size)
    for i in range(size):
        at = min(max((i + 0.5) * len(row) / size - 0.5, 0), len(row) - 1)
        left = min(int(at), len(row) - 1)
        right = min(left + 1, len(row) - 1)
        out[i] = row[left] * (1 - (at - left)) + row[right] * (at - left)
    return out


def rise_mask(grid, shifts, size):
    """One mask: the grid [h, w] enlarged by whole cells, cut at the shifts."""
    cells = [ceil(s / h) for s, h in zip(size, grid.shape, strict=True)]
    mask = np.array([enlarged(row, (grid.shape[1] + 1) * cells[1]) for row in grid])
    mask = np.array([enlarged(column, (grid.shape[0] + 1) * cells[0]) for column in mask.T]).T
    return mask[shifts[0] : shifts[0] + size[0], shifts[1] : shifts[1] + size[1]]


def rise(f, x, baseline, masks, p):
    """R = 1 / (n p) sum_i f(x' + M_i (x - x')) M_i, for an image [C, H, W]."""
    R = np.zeros(x.shape)
    for mask in masks:
        R += f(baseline + mask * (x - baseline)) * mask / (len(masks) * p)
    return R


def gaussian_given(mean, covariance, inside, x):
    """Mean and covariance of the elements inside, given the values x of the others."""
    s, w = np.where(~inside)[0], np.where(inside)[0]
    V = covariance
    B = np.linalg.solve(V[np.ix_(s, s)], V[np.ix_(s, w)]).T
    return mean[w] + B @ (x[s] - mean[s]), V[np.ix_(w, w)] - B @ V[np.ix_(s, w)]


def odds_bits(p, trained_on, classes):
    """log2 of the odds, with the Laplace correction."""
    corrected = (p * trained_on + 1) / (trained_on + classes)
    return np.log2(corrected / (1 - corrected))
