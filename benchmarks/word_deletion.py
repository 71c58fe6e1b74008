"""Does deleting the relevant words change the class? python -m benchmarks.word_deletion.

The experiment of the book's section 11.5.1 on sentences of docstrings, whose class is the library
they come from (see sentences.py). A bidirectional LSTM reads word embeddings, a linear layer its
mean output.

Relevance of a word is the sum over its embedding, for the true class. From sentences that are
classified right, words go in decreasing order of relevance (a good order makes accuracy fall); from
those classified wrong in increasing order (a good order makes it rise). A deleted word is taken
out: the sentence gets shorter, and nothing stands in its place.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

from xaifast import composites
from xaifast.attr import LRP

from .report import Report, parser
from .sentences import LIBRARIES, corpus

GATES = ("all", "prop", "abs", "half")
UNKNOWN = 0


class Reader(nn.Module):
    """Embeddings, an LSTM in both directions, and a linear layer on its mean output."""

    def __init__(self, words: int, features: int, hidden: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, features)
        self.lstm = nn.LSTM(features, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, len(LIBRARIES))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.words(tokens))[0].mean(1))


def by_length(rows: list[list[int]]) -> list[list[int]]:
    """Places of rows of the same length: a batch needs no padding."""
    groups: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(len(row), []).append(place)
    return list(groups.values())


def predictions(model: nn.Module, rows: list[list[int]]) -> Tensor:
    """The class of each row."""
    found = torch.empty(len(rows), dtype=torch.long)
    with torch.no_grad():
        for places in by_length(rows):
            found[places] = model(torch.tensor([rows[k] for k in places])).argmax(1)
    return found


def delete(row: list[int], relevance: list[float], count: int, decreasing: bool) -> list[int]:
    """The row without the `count` words that come first in the order of relevance."""
    order = sorted(range(len(row)), key=lambda t: relevance[t], reverse=decreasing)
    gone = set(order[:count])
    return [word for t, word in enumerate(row) if t not in gone]


def trained(rows: list[list[int]], labels: Tensor, words: int, options) -> nn.Module:
    """A reader; words are hidden at random in training, so that unknown ones are nothing new."""
    model = Reader(words, options.features, options.hidden)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    for _ in range(options.epochs):
        batches = [
            b for g in by_length(rows) for b in torch.tensor(g)[torch.randperm(len(g))].split(32)
        ]
        for k in torch.randperm(len(batches)).tolist():
            tokens = torch.tensor([rows[i] for i in batches[k].tolist()])
            tokens = tokens.masked_fill(torch.rand(tokens.shape) < 0.15, UNKNOWN)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(tokens), labels[batches[k]]).backward()
            optimizer.step()
    return model.eval()


def gradient_x_input(model: Reader, tokens: Tensor, target: Tensor) -> Tensor:
    """At the embeddings."""
    x = model.words(tokens).detach().requires_grad_()
    chosen = model.head(model.lstm(x)[0].mean(1)).gather(1, target[:, None])
    return (x * torch.autograd.grad(chosen.sum(), x)[0]).detach()


def relevances(model: Reader, rows: list[list[int]], labels: Tensor) -> dict[str, list]:
    """Of each word of each row, for the true class; length by length, a graph for each."""
    methods: dict = {f"LRP-{gate}": LRP(model, composites.Recurrent(gate)) for gate in GATES}
    methods = {name: method.attribute for name, method in methods.items()}
    methods["gradient x input"] = lambda x, target: gradient_x_input(model, x, target)
    found: dict[str, list] = {name: [[]] * len(rows) for name in methods}
    for places in by_length(rows):
        tokens = torch.tensor([rows[k] for k in places])
        for name, method in methods.items():
            R = method(tokens, labels[places]).sum(-1).tolist()
            for k, R_k in zip(places, R, strict=True):
                found[name][k] = R_k
    return found


def accuracies(model, rows, labels, orders: list, deletions: int, decreasing: bool) -> list[str]:
    """With 0, 1, ... words deleted; the mean over the orders."""
    means = []
    for n in range(deletions + 1):
        hits = []
        for R in orders:
            left = [delete(row, R_row, n, decreasing) for row, R_row in zip(rows, R, strict=True)]
            hits.append((predictions(model, left) == labels).float().mean())
        means.append(f"{float(sum(hits)) / len(hits):.3f}")
    return means


def main() -> None:
    p = parser(__doc__, rounds=1)
    p.add_argument("--docstrings", type=int, default=1500, help="of each library, at most")
    p.add_argument("--train", type=int, default=2500, help="sentences of each library, at most")
    p.add_argument("--test", type=int, default=500, help="the same, to test")
    p.add_argument("--longest", type=int, default=25, help="words of a sentence, at most")
    p.add_argument("--features", type=int, default=32)
    p.add_argument("--hidden", type=int, default=32)
    p.add_argument("--epochs", type=int, default=5)
    p.add_argument("--deletions", type=int, default=5)
    p.add_argument("--random", type=int, default=10, help="random orders")
    p.add_argument("--seed", type=int, default=0)
    options = p.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(options.seed)
    report = Report(options)
    lengths = range(options.deletions + 1, options.longest + 1)  # a word is always left
    train, test = corpus(lengths, options.docstrings, options.train, options.test)
    counts = Counter(word for words, _ in train for word in set(words))
    known = sorted(word for word, times in counts.items() if times > 1)
    number = {word: k for k, word in enumerate(known, UNKNOWN + 1)}

    def encoded(pairs: list) -> tuple[list[list[int]], Tensor]:
        rows = [[number.get(word, UNKNOWN) for word in words] for words, _ in pairs]
        return rows, torch.tensor([label for _, label in pairs])

    model = trained(*encoded(train), len(number) + 1, options)
    rows, labels = encoded(test)
    right = predictions(model, rows) == labels
    share = ", ".join(f"{n} {int((labels == k).sum())}" for k, n in enumerate(LIBRARIES.values()))
    print(f"{len(train)} sentences to train, {len(number)} words; to test: {share}")
    print(f"accuracy {float(right.float().mean()):.3f}\n")
    orders = {name: [R] for name, R in relevances(model, rows, labels).items()}
    orders["random"] = [
        [torch.rand(len(row)).tolist() for row in rows] for _ in range(options.random)
    ]
    for was_right in (True, False):
        chosen = (right == was_right).nonzero()[:, 0].tolist()
        some, of = [rows[k] for k in chosen], labels[chosen]
        for name, all_R in orders.items():
            some_R = [[R[k] for k in chosen] for R in all_R]
            curve = accuracies(model, some, of, some_R, options.deletions, was_right)
            report.add(["right" if was_right else "wrong", name, *curve])
    report.finish(["at first", "order", *map(str, range(options.deletions + 1))])


if __name__ == "__main__":
    main()
