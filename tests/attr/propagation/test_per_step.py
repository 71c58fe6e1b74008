"""The relevances of time steps that section 11.5.1 compares: each line of the guide, as loops."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.oracle import contextual, recurrent
from xaifast import attr, composites

N, T, F, H, CLASSES = 3, 5, 4, 6, 3
GUIDE = (Path(__file__).parents[3] / "docs" / "guide.md").read_text()
LINES = dict(re.findall(r"^\| ([^|`]+) \| `(attr\.[^`]+)` \|$", GUIDE, re.MULTILINE))


class Classifier(nn.Module):
    """Vectors of words in, scores out."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(F, H, batch_first=True), nn.Linear(H, CLASSES)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


def gradient(model, x, target):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(model(leaf[None])[0, target], leaf)[0]


def squares(model, x, target):
    g = gradient(model, x, target)
    return [sum(float(g[t, k]) ** 2 for k in range(F)) for t in range(T)]


def times_input(model, x, target):
    g = gradient(model, x, target)
    return [sum(float(g[t, k] * x[t, k]) for k in range(F)) for t in range(T)]


def hidden(function, x, target):
    """What hiding each step takes from an output."""
    found = []
    for t in range(T):
        without = x.clone()
        without[t] = 0
        with torch.no_grad():
            found.append(float(function(x[None])[0, target] - function(without[None])[0, target]))
    return found


def probabilities(model):
    def function(x):
        scores = model(x).exp()
        return scores / scores.sum(1, keepdim=True)

    return function


def parts(model):
    w_x, w_h, b_x, b_h, w, b = (p.detach().numpy() for p in model.parameters())
    return w_x, w_h, b_x + b_h, w, b


def lrp_all(model, x, target):
    w_x, w_h, b, w, b_head = parts(model)
    y = model.lstm(x[None])[0][0].detach().numpy()
    z, zero = w[target] @ y[-1] + b_head[target], np.zeros(H)
    R_y = np.zeros((T, H))
    eps = 1e-3  # the default
    R_y[-1] = recurrent.linear(y[-1], w[[target]], np.array([z]), np.array([z]), eps)
    args = (x.numpy(), zero, zero, w_x, w_h, b, R_y, zero, zero)
    return recurrent.lstm(*args, "all", eps)[0].sum(1)


def decomposition(model, x, target):
    *weights, w, _ = parts(model)
    found = []
    for t in range(T):
        y, _, _ = contextual.network(x.numpy(), np.arange(T) == t, [[weights]], False)
        found.append(float(w[target] @ y[0, -1]))
    return found


LOOPS = {
    "Gradient": squares,
    "Gradient x Input": times_input,
    "Occlusion, f-diff": hidden,
    "Occlusion, P-diff": lambda model, x, target: hidden(probabilities(model), x, target),
    "LRP-all, -prop, -abs, -half": lrp_all,
    "CD": decomposition,
}


def test_the_readme_has_these_lines():
    assert list(LINES) == list(LOOPS)


@pytest.mark.parametrize("name", LOOPS)
def test_each_line_is_its_loop(name):
    torch.manual_seed(0)
    model, x, target = Classifier().double().eval(), torch.randn(N, T, F).double() * 2, [2, 0, 1]
    known = {"attr": attr, "composites": composites, "nn": nn, "F": F}
    got = eval(LINES[name], known, {"model": model, "x": x, "target": target})
    want = torch.stack([
        torch.as_tensor(LOOPS[name](model, x[n], target[n]), dtype=x.dtype) for n in range(N)
    ])  # fmt: skip
    assert got.shape == (N, T)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
    assert (want != 0).all()
