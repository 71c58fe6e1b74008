"""LRP on token numbers, for every way into embeddings, against the gradients of the tables.

Every position has a number of its own, so that the rows of a table belong to one position each:
LRP-0 of a network without biases is gradient x input, that of a row summed over its features.
"""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from xaifast import composites as c
from xaifast import rules as r
from xaifast.attr import LRP
from xaifast.errors import InputError, ModelError

N, L, ROWS, D = 3, 4, 50, 5


class Net(nn.Module):
    """Tables of several kinds, one way to read them, and a network without biases behind it."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.words, self.others = nn.Embedding(ROWS, D), nn.Embedding(ROWS, D)
        self.table = nn.Parameter(torch.randn(ROWS, D))
        self.one_hot = nn.Linear(ROWS, D, bias=False)
        bag = {"padding_idx": 0}
        self.bags = nn.ModuleDict({
            "sum": nn.EmbeddingBag(ROWS, D, mode="sum"),
            "mean": nn.EmbeddingBag(ROWS, D, mode="mean"),
            "max": nn.EmbeddingBag(ROWS, D, mode="max"),
            "padded sum": nn.EmbeddingBag(ROWS, D, mode="sum", **bag),
            "padded mean": nn.EmbeddingBag(ROWS, D, mode="mean", **bag),
            "padded max": nn.EmbeddingBag(ROWS, D, mode="max", **bag),
        })  # fmt: skip
        self.head = nn.Sequential(
            nn.Linear(D, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)
        )
        self.register_buffer("offsets", 12 * torch.arange(L))
        self.register_buffer("names", torch.randperm(ROWS))

    def forward(self, x, *more):
        return self.head(self.way(self, x, *more))

    def rows(self) -> Tensor:
        """Gradient x row, for each row of all tables."""
        weights = [self.words.weight, self.others.weight, self.table]
        weights += [self.one_hot.weight, *(b.weight for b in self.bags.values())]
        parts = [w * w.grad for w in weights if w.grad is not None]
        return sum((p.T if p.shape[0] == D else p).sum(1) for p in parts)


def one_hot(x):
    return F.one_hot(x, ROWS).double()


def with_class(s, x):
    return torch.cat([s.table[:1].expand(len(x), 1, D), s.words(x)], 1)


# name: (way in, one for one?, which row a number names)
WAYS = {
    "one embedding": (lambda s, x: s.words(x).mean(1), True, None),
    "another integer type": (lambda s, x: s.words(x.int()).mean(1), True, None),
    "offsets": (
        lambda s, x: s.words(x % 12 + s.offsets).mean(1), True, lambda s, x: x % 12 + s.offsets,
    ),
    "renamed": (
        lambda s, x: s.words((x * 3 + 1) % ROWS).sum(1), True, lambda s, x: (x * 3 + 1) % ROWS,
    ),
    "looked up names": (lambda s, x: s.words(s.names[x]).sum(1), True, lambda s, x: s.names[x]),
    "clamped": (lambda s, x: s.words(x.clamp(0, ROWS - 1)).sum(1), True, None),
    "a table": (lambda s, x: s.table[x].mean(1), True, None),
    "one-hot and a matrix": (lambda s, x: (one_hot(x) @ s.table).mean(1), True, None),
    "one-hot and a layer": (lambda s, x: s.one_hot(one_hot(x)).mean(1), True, None),
    "bag of one-hots": (lambda s, x: s.one_hot(one_hot(x).sum(1)), True, None),
    **{
        f"bag, {mode}": (lambda s, x, mode=mode: s.bags[mode](x), True, None)
        for mode in ("sum", "mean", "max", "padded sum", "padded mean", "padded max")
    },
    "weighted bag": (
        lambda s, x: s.bags["sum"](x, per_sample_weights=x.double() * 0 + 0.3), False, None,
    ),
    "a class token put before": (
        lambda s, x: torch.relu(with_class(s, x))[:, 1:].sum(1), True, None,
    ),
    "permuted": (lambda s, x: s.words(x.t()).mean(0), True, None),
    # several, or parts: relevance for each number
    "a table for each column": (
        lambda s, x: torch.relu(s.words(x[:, 0]) + s.others(x[:, 1])) + s.table[x[:, 2]],
        False, None,
    ),
    "a slice": (lambda s, x: s.words(x[:, 1:]).sum(1), False, None),
    "the number of a class put before": (
        lambda s, x: s.words(torch.cat([x[:, :1] * 0 + ROWS - 1, x], 1))[:, 1:].sum(1), False, None,
    ),
    "two embeddings": (lambda s, x: torch.relu(s.words(x) + s.others(x)).sum(1), False, None),
    "one embedding twice": (
        lambda s, x: torch.relu(s.words(x)).sum(1) + s.words(x.flip(1))[:, 0], False, None,
    ),
    "flattened": (lambda s, x: s.words(x.reshape(-1)).view(len(x), L, D).mean(1), False, None),
    "selected": (
        lambda s, x: s.table.index_select(0, x.flatten()).view(len(x), L, D).sum(1), False, None,
    ),
    "rolled and joined": (
        lambda s, x: s.words(torch.cat([x.roll(1, 1), x[:, :2]], 1)).mean(1), False, None,
    ),
    "repeated": (
        lambda s, x: s.words(x[:, :, None] + s.offsets[:2] * 0).sum((1, 2)), False, None,
    ),
    "the last": (lambda s, x: s.words(x[:, -1]), False, None),
    "some columns": (lambda s, x: s.words(x[:, [0, 2]]).sum(1), False, None),
    "filled up": (
        lambda s, x: s.words(F.pad(x, (1, 1), value=ROWS - 1))[:, 1:-1].sum(1), False, None,
    ),
    "split": (
        lambda s, x: sum(t(v) for t, v in zip((s.words, s.others), x.unbind(1)[:2], strict=True)),
        False, None,
    ),
    "stacked": (lambda s, x: s.words(torch.stack([x, x.flip(1)], 1)).sum((1, 2)), False, None),
    "words and a bag": (
        lambda s, x: s.words(x).mean(1) + s.bags["mean"](x[:, ::2]), False, None,
    ),
}  # fmt: skip


def numbers():
    """Numbers of which each occurs once, 0 not among them."""
    torch.manual_seed(1)
    return (torch.randperm(N * L) + 1).view(N, L)


def prepared(way, *more):
    torch.manual_seed(0)
    return Net(way).double().eval()


def by_gradients(model, x, target, rows, *more):
    """The relevance of each number, by the gradients of the tables."""
    found = []
    for n in range(len(x)):  # offsets may give numbers of two samples one row
        model.zero_grad()
        model(x[n : n + 1], *(m[n : n + 1] for m in more))[:, target].sum().backward()
        where = x[n] if rows is None else rows(model, x)[n]
        found.append(model.rows()[where])
    return torch.stack(found)


EXACT = c.Uniform(r.Zero())


@pytest.mark.parametrize("name", WAYS)
def test_every_way_into_embeddings(name):
    way, one_for_one, rows = WAYS[name]
    model, x = prepared(way), numbers()
    if "padded" in name:
        x[0, 1] = x[2, 0] = x[2, 3] = 0
    R = LRP(model, EXACT).attribute(x, target=1)
    assert R.shape[:2] == x.shape
    assert R.dim() == (3 if one_for_one else 2)
    each = R.flatten(2).sum(2) if R.dim() > 2 else R
    torch.testing.assert_close(each, by_gradients(model, x, 1, rows), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(each.sum(1), model(x)[:, 1].detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["one embedding", "two embeddings", "a table for each column"])
def test_layers_core_and_capture_agree(name):
    model, x = prepared(WAYS[name][0]), numbers()
    lrp = LRP(model, EXACT)
    target = torch.tensor([0, 2, 1])
    R, at = lrp.attribute(x, target, layers=["words"])
    assert at["words"].shape[-1] == D
    if name == "two embeddings":
        both = lrp.attribute(x, target, layers=["words", "others"])[1]
        torch.testing.assert_close(sum(v.sum(2) for v in both.values()), R)
    torch.testing.assert_close(lrp.capture(x, target)(x, target), R)
    torch.testing.assert_close(lrp.core(x, target)(x[:1], target[:1]), R[:1])
    torch.testing.assert_close(lrp.attribute(x, target, internal_batch_size=2), R)
    assert lrp.attribute(x[:0], target[:0]).shape == (0, *R.shape[1:])
    assert "Tokens" in lrp.plan(x) or name == "one embedding"
    several = lrp.attribute(x, [[0, 1]] * N)
    torch.testing.assert_close(several[1], lrp.attribute(x, 1))
    report = lrp.report(x, target)
    assert all(abs(b.gap) < 1e-10 for b in report.rows)


def test_numbers_beside_floats_and_in_two_inputs():
    def way(s, x, y, z):
        return torch.relu(s.words(x).sum(1) + s.others(x[:, 0]) + y) + s.table[z[:, 1]]

    model, x = prepared(way), numbers()
    y = torch.randn(N, D, dtype=torch.float64)
    Rs = LRP(model, EXACT).attribute((x, y, x.flip(1)), target=0)
    assert [R.shape for R in Rs] == [(N, L), (N, D), (N, L)]
    total = sum(R.sum(1) for R in Rs)
    torch.testing.assert_close(total, model(x, y, x.flip(1))[:, 0].detach(), rtol=1e-10, atol=1e-12)
    assert not Rs[2][:, [0, 2, 3]].any()


def test_integers_in_arithmetic_are_numbers():
    def way(s, x):
        return (x / 3 - 1.5).mean(1, keepdim=True) * s.table[0] + s.table[1] * x[:, :1]

    model = prepared(way).float()
    x = torch.randint(0, 255, (N, L), dtype=torch.uint8)
    lrp = LRP(model, c.Uniform(r.Zero(bias=False)))
    R = lrp.attribute(x, target=2)
    torch.testing.assert_close(R, lrp.attribute(x.float(), target=2))


def test_masks_and_places_are_no_tokens():
    def way(s, x):
        mask = (x != 0)[..., None]
        place = s.others((x != 0).long().cumsum(1)).detach()
        h = torch.relu(s.words(x) + 0 * place) * mask
        last = h[torch.arange(len(x)), x.argmax(1)]  # as CLIP reads its text
        return h.sum(1) / mask.sum(1) + last

    model, x = prepared(way), numbers()
    R = LRP(model, EXACT).attribute(x, target=1)
    assert R.shape == (N, L, D)
    torch.testing.assert_close(R.sum(2), by_gradients(model, x, 1, None), rtol=1e-10, atol=1e-12)


REFUSED = {
    "a cross of two": (lambda s, x: s.words(x[:, 0] + 3 * x[:, 1]), "`add`.*mixes"),
    "a sum": (lambda s, x: s.one_hot(F.one_hot(x, ROWS).sum(1).double()), "`sum`.*mixes"),
    "argmax": (lambda s, x: s.words(x).sum(1) + s.others(x.argmax(1)), "`argmax`.*mixes"),
    "sorted": (lambda s, x: s.words(x.sort(1)[0]).sum(1), "`sort`.*mixes"),
    "bags of their own lengths": (
        lambda s, x: s.bags["mean"](x[:, 0], torch.arange(len(x))), "`embedding_bag`.*mixes",
    ),
    "a mask alone": (lambda s, x: (x > 2).double() @ s.table[:L], "which enters none"),
    "a product of tokens": (lambda s, x: s.words((x * x.flip(1)) % ROWS).sum(1), "`mul`.*mixes"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused_by_name(name):
    way, match = REFUSED[name]
    with pytest.raises(InputError, match=match) as caught:
        LRP(prepared(way), EXACT).attribute(numbers(), target=0)
    assert "additional_forward_args" in str(caught.value)


def test_floating_columns_that_are_looked_up_are_refused_by_name():
    def way(s, x):
        return s.words(x[:, 0].long()) + x[:, 1:2] * s.table[0]

    with pytest.raises(ModelError, match=r"`to` .*test_tokens.py.*input of integers of their own"):
        LRP(prepared(way), EXACT).attribute(numbers().double(), target=0)


def test_numbers_that_nothing_depends_on_have_none():
    model, x = prepared(lambda s, x, y: s.words(x).sum(1)), numbers()
    R, other = LRP(model, EXACT).attribute((x, x.flip(1)), target=0)
    assert R.shape == (N, L, D)
    assert other.shape == (N, L)
    assert not other.any()
