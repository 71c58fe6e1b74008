"""Features of inputs that are switched off, or permuted; and scores spread over them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from ... import ops
from ...errors import describe, wrong_value
from ...graph.local.boxes import Span, Spans
from .features import Features
from .windows import common_dtype, repeated

Permute = Callable[[Tensor, Tensor], Tensor]  # x [N, ...], mask [N or 1, ...] bool -> like x


def masked(x: Tensor, baseline: Tensor, labels: Tensor, on: Tensor, sample: Tensor) -> Tensor:
    """Rows of a perturbed input: x where the feature is on, the baseline where it is off.

    x [N, ...], baseline [N or 1, ...], labels [N or 1, ...], on [R, M] bool, sample [R].
    """
    if x.is_floating_point() and x.numel() and x.dim() > 1:
        return ops.mask_segments(x, baseline.to(x.dtype), labels, on, sample)
    own = labels[sample] if len(labels) > 1 else labels.expand(len(sample), *labels.shape[1:])
    flat = own.expand(len(sample), *x.shape[1:]).reshape(len(sample), -1)
    keep = on.gather(1, flat).view(len(sample), *x.shape[1:])
    other = baseline[sample] if len(baseline) > 1 else baseline
    dtype = common_dtype(x, baseline)
    return torch.where(keep, x[sample].to(dtype), other.to(dtype))


class Segments:
    """The features of some inputs, to be switched on and off."""

    def __init__(self, features: Features, inputs: tuple[Tensor, ...]) -> None:
        self.inputs = inputs
        self.features = features
        self.present = [torch.zeros(features.count, dtype=torch.bool, device="cpu") for _ in inputs]
        for present, labels, x in zip(self.present, features.labels, inputs, strict=True):
            present[labels.flatten().cpu()] = bool(len(x))

    @property
    def count(self) -> int:
        """How many features there are."""
        return self.features.count

    def coalitions(self, baseline: tuple[Tensor, ...], on: Tensor) -> tuple[Tensor, ...]:
        """Inputs for K' coalitions on [K', M], with the baseline where a feature is off."""
        off = ~on.all(0)
        rows = []
        own = zip(self.inputs, baseline, self.features.labels, self.present, strict=True)
        for x, b, labels, present in own:
            if not (off & present).any():
                rows.append(repeated(x, len(on)))
                continue
            sample = torch.arange(len(x), device=x.device).repeat(len(on))
            each = on.to(x.device).repeat_interleave(len(x), 0)
            rows.append(masked(x, b, labels, each, sample))
        return tuple(rows)

    def rows(self, baseline: tuple[Tensor, ...], part: slice) -> tuple[Tensor, ...]:
        """Inputs, feature by feature of a part of them, with this feature switched off."""
        on = torch.ones(part.stop - part.start, self.count, dtype=torch.bool, device="cpu")
        on[
            torch.arange(len(on), device="cpu"), torch.arange(part.start, part.stop, device="cpu")
        ] = False
        return self.coalitions(baseline, on)

    def spans(self) -> tuple[Spans, tuple[Tensor, ...]] | None:
        """See `incremental.Local`; a segment is evaluated in the box that holds it."""
        if len(self.inputs) != 1 or self.inputs[0].dim() < 3 or not self.features.shared:
            return None
        labels = self._maps
        spans, index = [], []
        for axis, size in enumerate(labels.shape[:-1]):
            each = labels.movedim(axis, -1)
            at = torch.arange(size, device="cpu").expand(each.shape).flatten()
            low = torch.full((self.count,), size, device="cpu").scatter_reduce(
                0, each.flatten(), at, "amin"
            )
            high = torch.zeros_like(low).scatter_reduce(0, each.flatten(), at, "amax") + 1
            (low, high), own = torch.unique(torch.stack([low, high]), dim=1, return_inverse=True)
            spans.append(Span(low, high))
            index.append(own)
        return tuple(spans), tuple(index)

    @cached_property
    def _maps(self) -> Tensor:
        """The labels of the one input, for each position [*shape, 1 or channels]."""
        labels, x = self.features.labels[0][0].cpu(), self.inputs[0]
        return labels.expand(len(labels), *x.shape[2:]).movedim(0, -1)

    def inside(self, rows: Tensor, origin: Tensor, size: tuple[int, ...]) -> Tensor:
        """See `incremental.Local`."""
        labels = ops.cut_boxes(self._maps.double().contiguous(), None, None, origin, size)
        return labels == rows.view(-1, *[1] * (len(size) + 1))

    def spread(self, scores: Tensor, sample: Tensor) -> list[Tensor]:
        """Scores [M, L] on the elements of the features, for each input [L, ...].

        sample [L] says whose features a score is for.
        """
        return [self._spread_on(i, scores.T, sample) for i in range(len(self.inputs))]

    def _spread_on(self, i: int, scores: Tensor, sample: Tensor) -> Tensor:
        x = self.inputs[i]
        if not len(x):
            return scores.new_zeros(len(scores), *x.shape[1:])
        each = self.features.expanded(i, x)
        labels = each.reshape(len(each), -1).to(scores.device)
        if len(labels) == 1:
            return scores.index_select(1, labels[0]).view(-1, *x.shape[1:])
        return scores.gather(1, labels[sample.to(labels.device)]).view(-1, *x.shape[1:])


# ---- permuting ---------------------------------------------------------------------------------


def permutation(n: int, seed: int) -> Tensor:
    """A permutation of n things, each but the one that changes nothing equally likely."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        drawn = torch.randperm(n, generator=generator, device="cpu")
        if n < 2 or not torch.equal(drawn, torch.arange(n, device="cpu")):
            return drawn


class Permuting:
    """The features of some inputs, permuted among the samples.

    Parameters
    ----------
    segments : the features.
    function : one of the user, or None: inputs of the same number of samples are permuted alike.
    seed : of the permutations; each feature has its own, whatever is evaluated with it.
    """

    def __init__(self, who: str, segments: Segments, function: Permute | None, seed: int) -> None:
        self.who, self.segments, self.function, self.seed = who, segments, function, seed

    def rows(self, part: slice, block: slice) -> tuple[Tensor, ...]:
        """A block of the samples, feature by feature of a part, each feature permuted."""
        inputs = zip(self.segments.inputs, self.segments.present, strict=True)
        return tuple(
            torch.cat(
                [
                    self._permuted(i, k)[block] if present[k] else x[block]
                    for k in range(part.start, part.stop)
                ]
            )
            for i, (x, present) in enumerate(inputs)
        )

    def _permuted(self, i: int, k: int) -> Tensor:
        x, mask = self.segments.inputs[i], self.segments.features.labels[i] == k
        if self.function is None:
            order = permutation(len(x), (self.seed + k) % 2**63)
            return torch.where(mask, x[order.to(x.device)], x)
        found = self.function(x.clone(), mask)
        if not isinstance(found, Tensor) or found.shape != x.shape:
            raise wrong_value(
                f"{self.who}: perm_func", f"must return a tensor of shape {list(x.shape)}",
                describe(found), "It is given an input and the mask of one feature.",
            )  # fmt: skip
        return found
