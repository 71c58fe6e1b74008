"""Chapter 19 on a made-up basin whose snow is known: python -m benchmarks.snow_basin.

A degree-day basin (snow below 0 degrees, melt above, one linear reservoir) has the five forcings of
section 19.2.2. The network of section 19.2.1 learns its daily flow; then the chapter's three
questions are asked of integrated gradients (zero baseline, right rule, Eq. 19.6): how far back the
flow is influenced (TSOI, Eq. 19.7), which memory cell follows the snow, and what influences it.
Beside the network stands what the basin itself answers, and a network that was never trained.
"""

from __future__ import annotations

import argparse
import copy
import os
from collections import namedtuple

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor, nn

from xaifast.attr import CellStates, IntegratedGradients

from .lstm_path import Runoff
from .report import command
from .timing import machine, table

T, H, YEAR, DAYS = 365, 10, 365, np.arange(-364, 1)
# years: 9 or more; nodes: m of Eq. 19.6; every: the stride of the test days that are explained
OPTIONS = {"years": 33, "epochs": 50, "nodes": 1000, "every": 5, "seed": 0}
FORCINGS = ["precipitation", "radiation", "min temperature", "max temperature", "vapour pressure"]
BOOK = """Chapter 19, basin A (real, 56% snow): NSE 0.79 (validation), 0.76 (test). TSOI: under
10-20 days on days 200-300, rising from day 300 to 140-150 on days 100-160, then a sharp fall.
Several cells follow the snow; for the best, precipitation has the largest positive influence,
radiation a negative one, and all forcings act only around or below freezing."""
# Daily series [..., days], in mm/d and mm; the storages, snow and water, at the end of the day.
Basin = namedtuple("Basin", ["flow", "evaporation", "snow", "water", "melt"])


def weather(years: int, seed: int) -> np.ndarray:
    """The forcings [5, days]: seasons, persistent temperature, wet and dry spells."""
    rng, days = np.random.default_rng(seed), years * YEAR
    season = np.cos(2 * np.pi * (np.arange(days) - 20) / YEAR)  # 1 in the depth of winter
    noise, wet, anomaly = rng.normal(size=days), np.zeros(days, bool), np.zeros(days)
    for t in range(1, days):
        anomaly[t] = 0.8 * anomaly[t - 1] + 2 * noise[t]
        wet[t] = rng.random() < (0.65 if wet[t - 1] else 0.25) + 0.1 * season[t]
    rain = np.where(wet, rng.gamma(0.8, 8, days), 0)
    mean, half = 5 - 11 * season + anomaly, np.where(wet, 3, 6) + rng.random(days)
    light = (190 - 120 * season) * np.where(wet, 0.5, 1) * rng.uniform(0.8, 1.1, days)
    low = mean - half
    vapour = 611 * np.exp(17.3 * low / (low + 237.3)) * rng.uniform(0.9, 1.1, days)
    return np.stack([rain, light, low, mean + half, vapour])


def simulate(forcing: np.ndarray, snow: np.ndarray | float = 0.0, water: float = 0.0) -> Basin:
    """Precipitation = flow + evaporation + change of both storages, for forcings [5, ..., days]."""
    rain, light, low, high, _ = forcing
    mean, days = (low + high) / 2, []
    for t in range(rain.shape[-1]):
        cold = mean[..., t] < 0
        snow = snow + np.where(cold, rain[..., t], 0)
        melt = np.minimum(snow, 3 * np.maximum(mean[..., t], 0))
        snow, water = snow - melt, water + np.where(cold, 0, rain[..., t]) + melt
        demand = np.where(mean[..., t] > 0, light[..., t] / 45, 0)
        evaporation = water * np.minimum(demand / (water + 20), 0.5)
        flow = (water - evaporation) / 15
        water = water - evaporation - flow
        days.append((flow, evaporation, snow, water, melt))
    return Basin(*(np.stack(series, -1) for series in zip(*days, strict=True)))


def nse(model: Tensor, observed: Tensor) -> float:
    """Eq. 19.5."""
    return 1 - float((model - observed).square().mean() / observed.var(correction=0))


def tsoi(attribution: Tensor, threshold: float = 2e-3) -> Tensor:
    """Eq. 19.7: T - n, n the first day [N, T, F] sets apart from the day before; 0 without any."""
    step = attribution.sum(-1).diff(dim=-1).abs() > threshold
    n = step.int().argmax(-1) + 2  # days count from 1, and the first has none before it
    return torch.where(step.any(-1), attribution.shape[1] - n, 0)


def memory(forcing: np.ndarray, basin: Basin, day: int, scale: float) -> int:
    """The TSOI of the basin: the oldest day without whose precipitation the flow is another."""
    first = day - T + 1
    window = np.repeat(forcing[:, None, first : day + 1], T, 1)
    window[0] *= 1 - np.eye(T)
    flow = simulate(window, basin.snow[first - 1], basin.water[first - 1]).flow[:, -1]
    changed = np.flatnonzero(np.abs(flow - basin.flow[day]) > 2e-3 * scale)
    return T - 1 - int(changed[0]) if len(changed) else 0


def train(x: Tensor, y: Tensor, parts: list[range], epochs: int) -> tuple[Runoff, nn.Module]:
    """Section 19.2.1, the best epoch of the validation days; and the network before it."""
    torch.manual_seed(0)
    model = Runoff(len(FORCINGS), H)
    with torch.no_grad():
        model.lstm.bias_ih_l0[H : 2 * H] = 3  # remembers a season from the start
    blank, best, state = copy.deepcopy(model).eval(), -np.inf, model.state_dict()
    optimizer = torch.optim.RMSprop(model.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs, 5e-4)
    for _ in range(epochs):
        for some in (torch.randperm(len(parts[0])) + parts[0].start).split(256):
            optimizer.zero_grad()
            (model(windows(x, some)) - y[some]).square().mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        schedule.step()
        score = nse(predict(model, x, parts[1]), y[list(parts[1])])
        if score > best:
            best, state = score, copy.deepcopy(model.state_dict())
    model.load_state_dict(state)
    return model.eval(), blank


def windows(x: Tensor, days: Tensor) -> Tensor:
    """The year [N, T, F] that ends with each day."""
    return x[days[:, None] + torch.from_numpy(DAYS)]


@torch.no_grad()
def predict(model: nn.Module, x: Tensor, days: range | Tensor) -> Tensor:
    return torch.cat([model(windows(x, some)) for some in torch.as_tensor(days).split(512)])


def correlation(cells: Tensor, state: Tensor) -> Tensor:
    """Pearson's within each year, averaged over those in which the state changes: [cells]."""
    cells, state = cells - cells.mean(1, keepdim=True), state - state.mean(1, keepdim=True)
    norms = cells.norm(dim=1) * state.norm(dim=1)[:, None]
    r = (cells * state[..., None]).sum(1) / norms.clamp_min(1e-12)
    return r[state.norm(dim=1) > 1e-6].mean(0)


def gradients(model: nn.Module, x: Tensor, m: int, target: tuple | None) -> tuple[Tensor, str]:
    """Eq. 19.6, and how many samples are complete to 5% of what there is to explain."""
    rule = {"n_steps": m, "method": "riemann_right", "return_convergence_delta": True}
    ig, gap = IntegratedGradients(model).attribute(x, target=target, **rule)
    whole = (gap.abs() < 0.05 * (ig.sum((1, 2)) - gap).abs()).float().mean()
    return ig, f"{len(x)} days, {float(whole):.0%} of them complete to 5%"


def seasons(basin: Basin, forcing: np.ndarray, day: np.ndarray, found: list) -> str:
    """Fig. 19.3 as a table: by day of the year, and by what the basin does."""
    doy, rows = day % YEAR + 1, []
    groups = {f"day {a}-{a + 29}": (doy >= a) & (doy < a + 30) for a in range(1, YEAR - 5, 30)}
    groups["**melt**, over 1 mm/d"] = basin.melt[day] > 1
    groups["**rain**, no snow for 30 days"] = basin.snow[day[:, None] - np.arange(30)].max(1) == 0
    for name, group in groups.items():
        middle = [f"{np.median(v[day][group]):.1f}" for v in (forcing[2], basin.snow, basin.flow)]
        quantiles = [np.quantile(f[group], [0.25, 0.5, 0.75]) for f in found]
        texts = ["/".join(f"{v:.0f}" for v in q) for q in quantiles]
        rows.append([name, str(group.sum()), *middle, *texts])
    head = ["days", "samples", "min temp.", "snow, mm", "flow, mm/d", "TSOI", "basin's own"]
    return table(head, rows)


def influences(ig: Tensor, basin: Basin, forcing: np.ndarray, age: np.ndarray) -> str:
    """What raised the cell: before the snow that lies at the end began, and since, cold or not."""
    bare = np.maximum.accumulate((basin.snow[age] == 0)[:, ::-1], 1)[:, ::-1]
    cold, wet = forcing[2:4].mean(0)[age] < 0, forcing[0][age] > 0
    periods = [bare, ~bare & cold, ~bare & ~cold]
    kinds = [(f"{FORCINGS[0]}, wet days", 0, wet), (f"{FORCINGS[0]}, dry days", 0, ~wet)]
    kinds += [(name, i, wet | ~wet) for i, name in enumerate(FORCINGS) if i]
    rows = [["(days)", *(f"{period.sum(1).mean():.0f}" for period in periods)]]
    for name, i, some in kinds:
        parts = [ig[..., i].numpy() * period * some for period in periods]
        rows.append([name, *(f"{part.sum(1).mean():+.3f}" for part in parts)])
    return table(["forcing", "before the snow", "since, below 0", "since, above 0"], rows)


def questions(models: dict, x: Tensor, basin: Basin, forcing: np.ndarray, day: Tensor,
              spread: float, m: int) -> None:  # fmt: skip
    """The three of section 19.2.4, asked on some days."""
    ig, about = gradients(models["trained"], windows(x, day), m, None)
    own = np.array([memory(forcing, basin, int(d), spread) for d in day])
    found = seasons(basin, forcing, day.numpy(), [tsoi(ig).numpy(), own])
    print(f"\nThe flow, {about}; TSOI as quantiles 25/50/75%:\n\n{found}\n")
    rows = []
    for name, net in models.items():
        with torch.no_grad():
            cells = CellStates(net.lstm)(windows(x, day))
        for storage in ("water", "snow"):
            r = correlation(cells, windows(torch.from_numpy(getattr(basin, storage)).float(), day))
            rows.append([name, storage, *(f"{float(v):+.2f}" for v in r)])
    best = int(r.abs().argmax())  # the last row: of the trained cells with the snow
    print(table(["network", "storage", *(f"cell {j}" for j in range(H))], rows))
    winter = day[(day % YEAR >= 59) & (day % YEAR < 100) & torch.from_numpy(basin.snow[day] > 20)]
    ig, about = gradients(CellStates(models["trained"].lstm), windows(x, winter), m, (-1, best))
    print(f"\nCell {best} times the sign of its correlation, under snow late in winter, {about}:\n")
    print(influences(ig * r[best].sign(), basin, forcing, winter.numpy()[:, None] + DAYS))


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in OPTIONS.items():
        p.add_argument(f"--{name}", type=int, default=default)
    o = p.parse_args()
    print(", ".join(f"{k} {v}" for k, v in machine("cpu").items()), f"\n\n    {command()}\n")
    forcing = weather(o.years, o.seed)
    basin, first, last = simulate(forcing), round(o.years * 15 / 33) * YEAR, o.years * YEAR
    test = first + (last - first) // 4
    parts = [range(T, first), range(first, test), range(test, last)]
    past, spread = forcing[:, :first], float(basin.flow[:first].std())
    x = torch.from_numpy((forcing.T - past.mean(1)) / past.std(1)).float()
    y = torch.from_numpy((basin.flow - basin.flow[:first].mean()) / spread).float()
    model, blank = train(x, y, parts, o.epochs)
    snowy = forcing[0][forcing[2:4].mean(0) < 0].sum() / forcing[0].sum()
    scores = [f"{nse(predict(model, x, part), y[part.start : part.stop]):.2f}" for part in parts]
    print(f"{BOOK}\n\nHere: {snowy:.0%} snow; NSE of training, validation, test:", *scores)
    day, models = torch.tensor(parts[2][:: o.every]), {"untrained": blank, "trained": model}
    questions(models, x, basin, forcing, day, spread, o.nodes)


if __name__ == "__main__":
    main()
