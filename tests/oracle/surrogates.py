"""LIME and KernelSHAP as they are defined, one sample and one coalition at a time, in float64.

numpy and scikit-learn do the work; nothing of xaifast is used.
"""

import math
from itertools import combinations

import numpy as np
import torch
from sklearn import linear_model


def perturbed(x, baseline, labels, z):
    """X with the baseline where the feature of an element is off; all [1, ...], as numpy arrays."""
    out = x.copy()
    labels = np.broadcast_to(labels, x.shape)
    baseline = np.broadcast_to(baseline, x.shape)
    for place in np.ndindex(*x.shape):
        if not z[labels[place]]:
            out[place] = baseline[place]
    return out


def exponential(x, y, distance="cosine", width=1.0):
    """The exponential kernel on the distance of two vectors."""
    x, y = (np.concatenate([np.ravel(part) for part in v]) for v in (x, y))
    if distance == "cosine":
        lengths = [max(float(np.linalg.norm(v)), 1e-8) for v in (x, y)]
        d = 1 - float(x @ y) / (lengths[0] * lengths[1])
    else:
        d = float(np.linalg.norm(x - y))
    return math.exp(-(d**2) / (2 * width**2))


def shapley_weight(z):
    """The weight of a coalition that was drawn by its share of the Shapley kernel."""
    return 1e6 if z.sum() in (0, len(z)) else 1.0


def samples(model, inputs, baselines, labels, Z, target):
    """The perturbed inputs of one sample, and their scores."""
    rows, scores = [], []
    for z in Z:
        parts = zip(inputs, baselines, labels, strict=True)
        row = [perturbed(x.numpy(), b.numpy(), m.numpy(), z) for x, b, m in parts]
        output = model(*[torch.from_numpy(r) for r in row]).detach()
        rows.append(row)
        scores.append(float(output[0, target]))
    return rows, np.array(scores)


def fit(estimator, Z, y, weight):
    """Coefficients of a scikit-learn model."""
    estimator.fit(np.asarray(Z, dtype=np.float64), y, sample_weight=weight)
    return torch.from_numpy(np.ravel(estimator.coef_))


def lasso(alpha):
    """The lasso, to its minimum."""
    return linear_model.Lasso(alpha=alpha, tol=1e-12, max_iter=10**6)


def lime(model, inputs, baselines, labels, Z, target, estimator, distance="cosine", width=1.0):
    """Coefficients of LIME for one sample (each input [1, ...])."""
    rows, y = samples(model, inputs, baselines, labels, Z, target)
    original = [x.numpy() for x in inputs]
    weight = [exponential(original, row, distance, width) for row in rows]
    return fit(estimator, Z, y, np.array(weight))


def kernel_shap(model, inputs, baselines, labels, Z, target):
    """Coefficients of KernelSHAP for one sample."""
    _, y = samples(model, inputs, baselines, labels, Z, target)
    weight = np.array([shapley_weight(np.asarray(z)) for z in Z])
    return fit(linear_model.LinearRegression(), Z, y, weight)


def shapley_values(value, M):
    """Shapley values of a game: the mean marginal contribution over all orders."""
    phi = np.zeros(M)
    for j in range(M):
        others = [i for i in range(M) if i != j]
        for size in range(M):
            weight = math.factorial(size) * math.factorial(M - size - 1) / math.factorial(M)
            for chosen in combinations(others, size):
                z = np.zeros(M, dtype=bool)
                z[list(chosen)] = True
                with_j = z.copy()
                with_j[j] = True
                phi[j] += weight * (value(with_j) - value(z))
    return torch.from_numpy(phi)
