"""Integrated gradients with steps where the output changes.

The output S is known at every node as well as its gradient, so each interval [a, b] of the path
tells how well it is integrated: with d(alpha) = dS/dalpha = (x - x') dS/dx,

    gap = (b - a) (d(a) + d(b)) / 2 - (S(b) - S(a))

is what the trapezoidal rule misses there. Intervals with the largest gaps are halved until the
gaps sum to less than the tolerance times the variation of S. The gradient g over an interval is
weighted so that the interval is complete,

    (b - a) (theta g(a) + (1 - theta) g(b))   with
    (b - a) (theta d(a) + (1 - theta) d(b)) = S(b) - S(a),

with 0 <= theta <= 1: exact where one kink lies between, as in a piecewise linear network.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from ... import ops
from ...engine.arguments import Call
from ...engine.batching import batches, free_memory, run_in_batches
from ...engine.evaluation import Model, gradients_of, row_sums, rows_at_once
from ...errors import wrong_value
from ..base import progress_bar

# Nodes to begin with: not at simple fractions, where kinks may be as well and gaps cancel.
FIRST = (0.0, 0.2361, 0.4721, 0.7639, 1.0)
MOST = 200  # nodes of one sample
ROUNDING = 1e-12  # of S: gaps below are none
# Gradients of all nodes are kept until the weights are known: the share of the free memory.
SHARE = 0.25

Wanted = list[tuple[int, float]]  # (sample, alpha)


def check_tolerance(who: str, tolerance: float) -> None:
    """Require tolerance > 0."""
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not tolerance > 0:
        raise wrong_value(f"{who}: tolerance", "must be a number > 0", tolerance, "Take 0.01.")


@dataclass
class _Node:
    """The path at one alpha: S and d for each target, and the gradients at the inputs."""

    S: list[float]
    d: list[float]
    gradients: list[Tensor]  # for each input [targets, ...]


@dataclass
class _SamplePath:
    """The nodes of one sample so far."""

    nodes: dict[float, _Node] = field(default_factory=dict)

    def intervals(self) -> list[tuple[float, float]]:
        """Neighbouring nodes."""
        return list(pairwise(sorted(self.nodes)))

    def gaps(self, target: int) -> list[float]:
        """The error of the trapezoidal rule on each interval, relative to the variation of S."""
        found, variation, level = [], 0.0, 0.0
        for a, b in self.intervals():
            left, right = self.nodes[a], self.nodes[b]
            change = right.S[target] - left.S[target]
            gap = (b - a) * _mean_slope(left.d[target], right.d[target]) - change
            found.append(abs(gap))
            variation += abs(change)
            level = max(level, abs(left.S[target]), abs(right.S[target]))
        scale = max(variation, ROUNDING * level)
        return [gap / scale if scale else 0.0 for gap in found]

    def refine(self, tolerance: float) -> list[float]:
        """Where to look next; nothing if the tolerance is met."""
        targets = len(next(iter(self.nodes.values())).S)
        middles: set[float] = set()
        for t in range(targets):
            gaps = self.gaps(t)
            if sum(gaps) > tolerance:
                worst = max(gaps)
                pairs = zip(self.intervals(), gaps, strict=True)
                middles.update((a + b) / 2 for (a, b), gap in pairs if gap >= worst / 2)
        return sorted(middles)

    def weights(self, target: int) -> dict[float, float]:
        """The weight of each node."""
        weights = dict.fromkeys(self.nodes, 0.0)
        for a, b in self.intervals():
            left, right = self.nodes[a], self.nodes[b]
            slope = (right.S[target] - left.S[target]) / (b - a)
            theta = _weight_of_left(left.d[target], right.d[target], slope)
            weights[a] += (b - a) * theta
            weights[b] += (b - a) * (1 - theta)
        return weights

    def integral(self, target: int) -> list[Tensor]:
        """The averaged gradient at each input."""
        parts = [(w, self.nodes[a].gradients) for a, w in self.weights(target).items() if w]
        count = len(parts[0][1])
        return [sum(w * g[i][target] for w, g in parts) for i in range(count)]  # type: ignore[misc]


def _mean_slope(left: float, right: float) -> float:
    """The mean of two derivatives; of one that is infinite (a root at zero, say), the other."""
    if math.isfinite(left) and math.isfinite(right):
        return (left + right) / 2
    return left if math.isfinite(left) else right


def _weight_of_left(left: float, right: float, slope: float) -> float:
    """The theta by which two derivatives average to the slope between them."""
    if not (math.isfinite(left) and math.isfinite(right)):
        return float(math.isfinite(left))
    theta = (slope - right) / (left - right) if left != right else 0.5
    return min(1.0, max(0.0, theta))


def adaptive_gradients(
    call: Call,
    model: Model,
    baseline: tuple[Tensor, ...],
    tolerance: float,
    size: int | str,
    show: bool,
) -> list[Tensor]:
    """The gradient, averaged along the path of each sample, [targets, N, ...] for each input.

    A batch whose rows are not shown to be apart is one path: S is the sum over its rows.
    """
    if not model.apart:
        return _together(call, model, baseline, tolerance)
    kept = MOST * sum(math.prod(x.shape[1:]) * x.element_size() for x in call.inputs)
    block = max(1, int(SHARE * free_memory(call.inputs[0].device)) // max(1, kept))
    results: list[list[list[Tensor]]] = []
    unmet = 0
    with progress_bar(call.batch, call.who, show) as bar:
        for rows in batches(call.batch, block):
            paths = {n: _SamplePath() for n in range(rows.start, rows.stop)}

            def evaluate(wanted: Wanted, paths: dict[int, _SamplePath] = paths) -> None:
                _evaluate(call, model, baseline, size, wanted, paths)

            unmet += _walk(tolerance, paths, evaluate)
            targets = len(next(iter(paths[rows.start].nodes.values())).S)
            results += [[p.integral(t) for t in range(targets)] for p in paths.values()]
            bar.update(rows.stop - rows.start)
    _warn_unmet(call.who, unmet, call.batch)
    return [
        torch.stack([torch.stack([r[t][i] for r in results]) for t in range(len(results[0]))])
        for i in range(len(call.inputs))
    ]


def _together(
    call: Call, model: Model, baseline: tuple[Tensor, ...], tolerance: float
) -> list[Tensor]:
    """The gradient, averaged along the path of the batch, [targets, N, ...] for each input."""
    pairs = [(x, b.expand_as(x)) for x, b in zip(call.inputs, baseline, strict=True)]
    path = _SamplePath()

    def evaluate(wanted: Wanted) -> None:
        for _, alpha in wanted:
            at = [
                torch.tensor([alpha], dtype=torch.float64, device="cpu").expand(len(x))
                for x, _ in pairs
            ]
            points = tuple(
                ops.path_points(x, b, torch.arange(len(x), device="cpu"), a)
                for (x, b), a in zip(pairs, at, strict=True)
            )
            S, found = gradients_of(model, points, None)
            terms = zip(found, pairs, strict=True)
            d = sum(row_sums(g * (x - b), torch.float64).sum(1) for g, (x, b) in terms)
            path.nodes[alpha] = _Node(S.sum(1).tolist(), d.tolist(), list(found))  # type: ignore[union-attr]

    _warn_unmet(call.who, _walk(tolerance, {0: path}, evaluate), 1)
    integrals = [path.integral(t) for t in range(len(path.nodes[0.0].S))]
    return [torch.stack(parts) for parts in zip(*integrals, strict=True)]


def adaptive_weights(
    who: str,
    batch: int,
    targets: int,
    tolerance: float,
    evaluate: Callable[[Wanted], list[tuple[list[float], list[float]]]],
) -> list[tuple[list[float], list[list[float]]]]:
    """Nodes of each sample and their weights for each target, where gradients need not be kept.

    evaluate : (sample, alpha) pairs -> S and d of all targets, for each pair.
    """
    paths = {n: _SamplePath() for n in range(batch)}

    def add(wanted: Wanted) -> None:
        for (n, alpha), (S, d) in zip(wanted, evaluate(wanted), strict=True):
            paths[n].nodes[alpha] = _Node(S, d, [])

    _warn_unmet(who, _walk(tolerance, paths, add), batch)
    found = []
    for path in paths.values():
        weights = [path.weights(t) for t in range(targets)]
        found.append((list(path.nodes), [list(w.values()) for w in weights]))
    return found


def _warn_unmet(who: str, unmet: int, batch: int) -> None:
    """Say for how many samples the tolerance was not met."""
    if unmet:
        warnings.warn(
            f'{who}: n_steps="auto" stopped at {MOST} steps for {unmet} of {batch} '
            "samples before the tolerance was met. Raise tolerance, or give n_steps a number.",
            stacklevel=5,
        )


def _walk(
    tolerance: float, paths: dict[int, _SamplePath], evaluate: Callable[[Wanted], None]
) -> int:
    """Evaluate nodes until all samples meet the tolerance; how many did not."""
    wanted = [(n, alpha) for n in paths for alpha in FIRST]
    unmet: set[int] = set()
    while wanted:
        evaluate(wanted)
        wanted = []
        for n, path in paths.items():
            middles = path.refine(tolerance)
            if middles and len(path.nodes) + len(middles) > MOST:
                unmet.add(n)
            elif middles:
                wanted += [(n, alpha) for alpha in middles]
    return len(unmet)


def _evaluate(
    call: Call,
    model: Model,
    baseline: tuple[Tensor, ...],
    size: int | str,
    wanted: Wanted,
    paths: dict[int, _SamplePath],
) -> None:
    """Add nodes to the paths of samples."""
    samples = torch.tensor([n for n, _ in wanted], device="cpu")
    alphas = torch.tensor([alpha for _, alpha in wanted], dtype=torch.float64, device="cpu")
    pairs = list(zip(call.inputs, baseline, strict=True))

    def work(rows: slice) -> None:
        sample, alpha = samples[rows], alphas[rows]
        points = tuple(ops.path_points(x, b, sample, alpha) for x, b in pairs)
        S, found = gradients_of(model, points, sample)
        d = sum(
            row_sums(g * (x - b)[sample.to(x.device)], torch.float64)
            for g, (x, b) in zip(found, pairs, strict=True)
        )
        for r, (n, a) in enumerate(wanted[rows]):
            gradients = [g[:, r].clone() for g in found]
            paths[n].nodes[a] = _Node(S[:, r].tolist(), d[:, r].tolist(), gradients)  # type: ignore[index]

    rows = rows_at_once(model, size, max(len(wanted), call.batch))
    run_in_batches(len(wanted), rows, work, size == "auto")
