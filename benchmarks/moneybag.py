"""Who is credited for a delayed reward: python -m benchmarks.moneybag.

The experiment of the book's section 11.5.2. An agent walks at random in a corridor. Coins count
only after the moneybag was collected, and the return, the number of these coins, is known only at
the end. A MarkovLSTM learns it from four binary features of each step: moneybag collected, coin
collected, went left, went right. LRP of its prediction, with each rule for the product of input
gate and cell input, says which steps are credited.

Rows are means (and standard deviations) over networks. Shares are of sum_t |R_t| within an episode
in which coins followed the moneybag; `one coin after` divides by the number of these coins.
`conserved` is the mean sum_t R_t / f(x); "no biases" leaves them out of denominators. `no bag` is
the mean sum_t |R_t| of episodes without moneybag over that of the others, `coin, no bag` what of
it lies on coins.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

from xaifast import cells, composites
from xaifast.attr import LRP, InputXGradient

from .report import Report, parser

BAG, COIN, LEFT, RIGHT = range(4)
GATES = ("all", "prop", "abs", "half")
HEAD = ["rule", "moneybag", "coins after", "coins before", "elsewhere", "one coin after",
        "conserved", "no bag", "coin, no bag"]  # fmt: skip


def episode(steps: int, width: int, chance: random.Random) -> tuple[list[list[int]], int]:
    """Features of each step, and the return.

    The moneybag lies in cell 0, the agent starts in the middle. One coin lies in some other cell;
    when it is taken, the next appears elsewhere, so that the walk does not tell where it lies.
    """

    def place() -> int:
        return chance.choice([cell for cell in range(1, width) if cell != agent])

    agent, owns, total = width // 2, False, 0
    coin, rows = place(), []
    for _ in range(steps):
        right = chance.random() < 0.5
        agent = min(agent + 1, width - 1) if right else max(agent - 1, 0)
        bag, took = agent == 0 and not owns, agent == coin
        rows.append([int(bag), int(took), int(not right), int(right)])
        owns = owns or bag
        if took:
            total += owns
            coin = place()
    return rows, total


def episodes(n: int, options: argparse.Namespace, chance: random.Random) -> tuple[Tensor, Tensor]:
    """X [n, T, 4] and the returns [n]."""
    pairs = [episode(options.steps, options.width, chance) for _ in range(n)]
    return torch.tensor([x for x, _ in pairs]).float(), torch.tensor([y for _, y in pairs]).float()


class Returns(nn.Module):
    """The return, predicted from the cells' last outputs; without a bias, so all is explained."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.cell, self.head = cells.MarkovLSTM(4, hidden), nn.Linear(hidden, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[:, -1])


def trained(seed: int, options: argparse.Namespace) -> tuple[nn.Module, float]:
    """A network, and the share of the returns' variance that it explains on fresh episodes."""
    torch.manual_seed(seed)
    chance = random.Random(seed)
    x, y = episodes(options.episodes, options, chance)
    net = Returns(options.hidden)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=options.updates)
    for _ in range(options.updates):
        some = torch.randint(len(x), (64,))
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x[some])[:, 0], y[some]).backward()
        optimizer.step()
        schedule.step()
    x, y = episodes(1000, options, random.Random(seed + 10_000))
    with torch.no_grad():
        error = nn.functional.mse_loss(net(x)[:, 0], y) / y.var()
    return net.eval(), 1 - float(error)


def places(x: Tensor) -> dict[str, Tensor]:
    """Which steps are what, [N, T] each: every step is in one of the four."""
    bag, coin = x[..., BAG] > 0, x[..., COIN] > 0
    owns = bag.cumsum(1) > 0
    found = {"moneybag": bag, "coins after": coin & owns & ~bag, "coins before": coin & ~owns}
    return found | {"elsewhere": ~torch.stack(list(found.values())).any(0)}


def figures(R: Tensor, f: Tensor, x: Tensor, counted: Tensor) -> list[float]:
    """The row of a rule; counted [N] says in which episodes coins followed the moneybag."""
    where, size = places(x), R.abs().clamp_min(1e-30)
    total = size.sum(1)
    shares = {name: (size * at).sum(1) / total for name, at in where.items()}
    row = [float(share[counted].mean()) for share in shares.values()]
    each = shares["coins after"] / where["coins after"].sum(1).clamp_min(1)
    row += [float(each[counted].mean()), float((R.sum(1) / f)[counted].mean())]
    never = ~where["moneybag"].any(1)
    coins = (size * (x[..., COIN] > 0)).sum(1)
    row += [float(a[never].mean() / total[counted].mean()) for a in (total, coins)]
    return row


def explained(net: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> dict[str, list[float]]:
    """The rows of one network."""
    with torch.no_grad():
        f = net(x)[:, 0]
    methods = {
        f"LRP-{gate}{'' if bias else ', no biases'}": LRP(
            net, composites.Recurrent(gate, epsilon, bias)
        )
        for bias in (True, False)
        for gate in GATES
    }
    methods["gradient x input"] = InputXGradient(net)
    return {
        name: figures(method.attribute(x, target=0).detach().sum(2), f, x, y > 0)
        for name, method in methods.items()
    }


def main() -> None:
    p = parser(__doc__, rounds=1)
    p.add_argument("--seeds", type=int, default=5, help="networks")
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--width", type=int, default=5)
    p.add_argument("--hidden", type=int, default=8)
    p.add_argument("--episodes", type=int, default=4000, help="to train with")
    p.add_argument("--updates", type=int, default=1500)
    p.add_argument("--explained", type=int, default=500, help="episodes to explain")
    p.add_argument("--epsilon", type=float, default=1e-3)
    options = p.parse_args()
    report = Report(options)
    rows: dict[str, list[list[float]]] = {}
    for seed in range(options.seeds):
        net, explains = trained(seed, options)
        print(f"network {seed} explains {explains:.3f} of the variance of the returns", flush=True)
        x, y = episodes(options.explained, options, random.Random(seed + 20_000))
        for name, row in explained(net, x, y, options.epsilon).items():
            rows.setdefault(name, []).append(row)
    for name, of_seeds in rows.items():
        columns = [
            f"{statistics.mean(c):.2f} ({statistics.pstdev(c):.2f})"
            for c in zip(*of_seeds, strict=True)
        ]
        report.add([name, *columns], {name: of_seeds})
    report.finish(HEAD)


if __name__ == "__main__":
    main()
