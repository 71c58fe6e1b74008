"""One call of a surrogate method: evaluate the coalitions, weigh them, fit the surrogates.

All units (samples, or the whole batch at once) are evaluated together, as many rows at once as fit;
each distinct coalition once. What the user gave as functions is called for one unit at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...engine.arguments import Call
from ...engine.evaluation import GraphModel
from ...errors import ModelError, wrong_value
from ..perturbation.scoring import Scorer
from ..perturbation.segments import masked
from .coalitions import Coalitions, Players
from .regressors import Regressor
from .similarity import Kernel, products_of


def arguments_of(
    call: Call, players: Players, unit: int, baseline: tuple[Tensor, ...]
) -> tuple[Any, dict]:
    """Arguments of a user's function for one unit: its input, and keywords."""

    def own(values: tuple[Tensor, ...]) -> Any:
        if len(players.counts) == 1:
            return call.result(values)
        return call.result(v if len(v) == 1 else v[unit : unit + 1] for v in values)

    options = {"baselines": own(baseline), "feature_mask": own(players.labels)}
    return own(call.inputs), {**options, "num_interp_features": players.counts[unit]}


@dataclass
class Task:
    """A fit: the call and its scores, the features of each unit, the coalitions."""

    call: Call
    scorer: Scorer
    players: Players
    coalitions: Coalitions
    kernel: Any  # a Kernel, or a function of the user
    regressor: Regressor

    def __post_init__(self) -> None:
        # Rows have the layout of the inputs: let it be the one that the graph runs in.
        graph = isinstance(self.scorer.model, GraphModel)
        self._inputs = tuple(
            x.contiguous(memory_format=torch.channels_last) if graph and x.dim() == 4 else x
            for x in self.call.inputs
        )

    @property
    def units(self) -> int:
        """How many surrogates are fitted, for one target."""
        return len(self.players.counts)

    @property
    def group_of_sample(self) -> Tensor:
        """The group of coalitions of each sample."""
        group = self.coalitions.group
        return group.expand(self.call.batch) if self.units == 1 else group

    # ---- the rows, their scores and similarities ---------------------------------------------

    def coefficients(self, baseline: tuple[Tensor, ...]) -> Tensor:
        """Coefficients of the surrogates, [targets, units, M], float64."""
        similarities = torch.ones(
            self.units, self.coalitions.count, dtype=torch.float64, device="cpu"
        )
        y = self._scores(baseline, similarities)
        if isinstance(self.kernel, Kernel):
            weights = self._weights(baseline)
        else:
            groups = range(len(self.coalitions.z))
            weights = [similarities[self.coalitions.units(g)] for g in groups]
        for weight in weights:
            check_weights(self.call.who, weight)
        return self.players.spread(self._solve(y, weights))

    def _scores(self, baseline: tuple[Tensor, ...], similarities: Tensor) -> Tensor:
        """Scores [targets, units, S]; similarities by a function of the user go where given."""
        ours = isinstance(self.kernel, Kernel)
        on = self.coalitions.on(self.call.inputs[0].device)
        full = self.coalitions.full_row() if ours else None
        which = torch.arange(len(on), device="cpu")
        which = which if full is None else which[which != full]

        def perturb(part: slice) -> tuple[Tensor, ...]:
            rows = self._rows(baseline, on[which[part].to(on.device)])
            if not ours:
                self._ask(which[part], rows, baseline, similarities)
            return rows

        y = torch.empty(len(on), len(self.scorer.initial), dtype=torch.float64, device="cpu")
        y[which] = self.scorer.evaluate(perturb, len(which)).to("cpu", torch.float64)
        if full is not None:
            y[full] = self.scorer.initial.to("cpu", torch.float64)
        return y.view(len(on), -1, self.units).permute(1, 2, 0)

    def _rows(self, baseline: tuple[Tensor, ...], on: Tensor) -> tuple[Tensor, ...]:
        """Perturbed inputs for coalitions on [S', groups, M], coalition by coalition."""
        own = on[:, self.group_of_sample.to(on.device)].flatten(0, 1)
        sample = torch.arange(self.call.batch, device=on.device).repeat(len(on))
        parts = zip(self._inputs, baseline, self.players.labels, strict=True)
        return tuple(masked(x, b, m, own.to(x.device), sample.to(x.device)) for x, b, m in parts)

    def _weights(self, baseline: tuple[Tensor, ...]) -> list[Tensor]:
        """Similarities by a kernel of ours, for each group [units or 1, S]."""
        products = None
        if self.kernel.needs_products:
            M = max(self.players.counts)
            products = products_of(self.call.inputs, baseline, self.players.labels, M)
            products = products.total() if self.units == 1 else products
        weights = []
        for g, z in enumerate(self.coalitions.z):
            part = products and products.part(self.coalitions.units(g), z.shape[1])
            weights.append(self.kernel.weights(z, part))
        return weights

    # ---- the fit -----------------------------------------------------------------------------

    def _solve(self, y: Tensor, weights: list[Tensor]) -> Tensor:
        """Coefficients [targets, units, M'] from scores [targets, units, S]."""
        width = max(self.players.counts)
        found = torch.zeros(*y.shape[:2], width, dtype=torch.float64, device="cpu")
        c = self.coalitions
        for g, z in enumerate(c.z):
            units, scores, weight = c.units(g), y[:, c.units(g)], weights[g]
            if self.regressor.merges:
                weight = weight * c.repeats[g]
            else:
                z, scores, weight = z[c.rows[g]], scores[..., c.rows[g]], weight[:, c.rows[g]]
            if len(weight) > 1:
                weight = weight.repeat(len(y), 1)
            solved = self.regressor.solve(z.unsqueeze(0), scores.flatten(0, 1), weight)
            found[:, units, : z.shape[1]] = solved.view(len(y), len(units), -1)
        return found

    # ---- functions of the user ---------------------------------------------------------------

    def _ask(
        self,
        which: Tensor,
        rows: tuple[Tensor, ...],
        baseline: tuple[Tensor, ...],
        similarities: Tensor,
    ) -> None:
        """Ask the user's function how similar the rows of some coalitions are."""
        c, width = self.coalitions, self.call.batch // self.units
        for u in range(self.units):
            original, options = arguments_of(self.call, self.players, u, baseline)
            z = c.z[int(c.group[u])].to(rows[0].device, c.dtype)
            for k, s in enumerate(which.tolist()):
                begin = k * self.call.batch + u * width
                perturbed = self.call.as_given(r[begin : begin + width] for r in rows)
                similarities[u, s] = similarity(
                    self.call.who, self.kernel(original, perturbed, z[s : s + 1], **options)
                )


def check_weights(who: str, weights: Tensor) -> None:
    """Refuse similarities [units, S] that no surrogate can be fitted with."""
    do = "It must give numbers from 0 on; an exponential kernel may need a larger width."
    if not torch.isfinite(weights).all() or (weights < 0).any():
        least, most = float(weights.min()), float(weights.max())
        raise wrong_value(
            f"{who}: similarity_func", "must give finite numbers that are not negative",
            f"numbers from {least:g} to {most:g}", do,
        )  # fmt: skip
    counted = (weights > 0).sum(1)
    if len(weights) and counted.min() < min(2, weights.shape[1]):
        raise wrong_value(
            f"{who}: similarity_func", "must give some of the perturbed inputs a weight",
            f"{int(counted.min())} of {weights.shape[1]} that are not 0", do,
        )  # fmt: skip


def similarity(who: str, value: Any) -> float:
    """The result of a user's similarity function, as a number."""
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ModelError(
            f"{who}: similarity_func must return one number; got a tensor of shape "
            f"{list(value.shape)}. It is called for one perturbed input at a time."
        )
    return float(value)
