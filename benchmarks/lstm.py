"""LRP of an LSTM against PyTorch's forward pass and one-sample numpy: python -m benchmarks.lstm.

One layer over T steps of a batch, a dense head on the last one. `forward` is model(x) without
gradients. `numpy` is LRP-all of one sample, step by step, written from the equations of section
11.3 with a product [inputs, units] for each linear map, as the public one-sample code does it; its
time is that of one sample times the batch, the difference is the largest to ours over the largest.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch
from torch import Tensor, nn

from xaifast import composites
from xaifast.attr import LRP

from .report import Report, parser
from .timing import interleave, ratio

EPS = 1e-3
HEAD = ["gate", "ours, ms", "forward, ms", "ours / forward", "numpy / ours", "difference"]


class LastStep(nn.Module):
    """An LSTM and a dense layer on its last output."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(features, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


def _stabilized(z: np.ndarray) -> np.ndarray:
    return z + EPS * np.where(z >= 0, 1.0, -1.0)


def _linear(a: np.ndarray, w: np.ndarray, z: np.ndarray, R: np.ndarray) -> np.ndarray:
    """R_j = sum_k a_j w_kj / z_k R_k, all terms first."""
    return (w.T * a[:, None] / _stabilized(z)[None] * R[None]).sum(1)


def numpy_lrp_all(model: LastStep, x: np.ndarray, target: int) -> np.ndarray:
    """LRP-all of one sample [T, F] in float64."""
    p = {name: v.detach().double().numpy() for name, v in model.named_parameters()}
    w_x, w_h = p["rnn.weight_ih_l0"], p["rnn.weight_hh_l0"]
    b, H = p["rnn.bias_ih_l0"] + p["rnn.bias_hh_l0"], w_h.shape[1]
    h, c, zs = [np.zeros(H)], [np.zeros(H)], []
    sigm = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    for x_t in x:
        z = w_x @ x_t + w_h @ h[-1] + b
        i, f, g, o = np.split(z, 4)
        zs.append(z)
        c.append(sigm(i) * np.tanh(g) + sigm(f) * c[-1])
        h.append(sigm(o) * np.tanh(c[-1]))
    y = p["head.weight"] @ h[-1] + p["head.bias"]
    R = np.zeros_like(y)
    R[target] = y[target]
    R_h, R_c, R_x = _linear(h[-1], p["head.weight"], y, R), np.zeros(H), np.zeros_like(x)
    rows = slice(2 * H, 3 * H)
    for t in reversed(range(len(x))):
        i, f, g, _ = np.split(zs[t], 4)
        s = (R_c + R_h) / _stabilized(c[t + 1])
        R_g, R_c = sigm(i) * np.tanh(g) * s, sigm(f) * c[t] * s
        R_x[t] = _linear(x[t], w_x[rows], g, R_g)
        R_h = _linear(h[t], w_h[rows], g, R_g)
    return R_x


def main() -> None:
    """Print the table."""
    p = parser(__doc__, rounds=15)
    for name, default in (("batch", 64), ("steps", 100), ("hidden", 128)):
        p.add_argument(f"--{name}", type=int, default=default)
    options = p.parse_args()
    report = Report(options)
    torch.manual_seed(0)
    model = LastStep(options.hidden, options.hidden).to(options.device).eval()
    x = torch.randn(options.batch, options.steps, options.hidden, device=options.device)

    def forward() -> Tensor:
        with torch.no_grad():
            return model(x)

    explainers = {
        g: LRP(model, composites.Recurrent(g, EPS)) for g in ("all", "prop", "abs", "half")
    }
    runs = {g: lambda e=e: e.attribute(x, target=1) for g, e in explainers.items()}
    on_cpu = LastStep(options.hidden, options.hidden)
    on_cpu.load_state_dict(model.state_dict())
    sample = x[0].double().cpu().numpy()
    begin = time.perf_counter()
    want = numpy_lrp_all(on_cpu, sample, 1)
    alone = time.perf_counter() - begin
    got = runs["all"]()[0].double().cpu().numpy()
    difference = float(np.abs(got - want).max() / np.abs(want).max())
    seconds = interleave({"forward": forward, **runs}, options.rounds, warm_up=2)
    for gate in explainers:
        ours = statistics.median(seconds[gate])
        is_all = gate == "all"
        report.add([
            gate, f"{1e3 * ours:.1f}", f"{1e3 * statistics.median(seconds['forward']):.1f}",
            f"{ratio(seconds, gate, 'forward'):.2f}",
            f"{alone * options.batch / ours:.0f}" if is_all else "-",
            f"{difference:.1e}" if is_all else "-",
        ])  # fmt: skip
    print(
        f"batch {options.batch}, T {options.steps}, hidden and features {options.hidden}, float32"
    )
    report.finish(HEAD)


if __name__ == "__main__":
    main()
