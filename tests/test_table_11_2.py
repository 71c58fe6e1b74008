"""benchmarks.table_11_2: the data, the batch of models, and what its statistics measure."""

import pytest
import torch

from benchmarks import table_11_2 as book

TASKS = ("addition", "subtraction")


def random():
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", book.LENGTHS)
def test_sequences(task, name):
    parts = book.split(task, name, 700, random())
    assert [s.x.shape[1] for s in parts] == list(book.LENGTHS[name])
    assert sum(len(s.x) for s in parts) == 700
    for s in parts:
        a, b = s.marked.unbind(1)
        assert (a < b).all()
        rows = torch.arange(len(a))
        at = torch.zeros(s.x.shape[:2], dtype=torch.bool)
        at[rows, a] = at[rows, b] = True
        assert torch.equal(s.x[..., 1] != 0, at)  # one of the two inputs of a step, never both
        assert torch.equal(s.x[..., 0] != 0, ~at)
        n = s.x.sum(2)
        assert (n.abs() >= 0.5).all()
        assert (n.abs() <= 1).all()
        assert (n < 0).any() == (task == "addition")
        sign = 1 if task == "addition" else -1
        torch.testing.assert_close(s.y, n[rows, a] + sign * n[rows, b])
        assert torch.equal(s.numbers(), torch.stack([n[rows, a], n[rows, b]], 1))


def test_positions_are_uniform():
    """All pairs a < b are equally likely."""
    s = book.sequences("addition", 12000, 4, random())
    counts = torch.bincount(4 * s.marked[:, 0] + s.marked[:, 1], minlength=16)
    pairs = [4 * a + b for a in range(4) for b in range(a + 1, 4)]
    assert counts.sum() == counts[pairs].sum()
    assert ((counts[pairs] - 2000).abs() < 200).all()  # 4.9 standard deviations


@pytest.mark.parametrize("task", TASKS)
def test_statistics(task):
    """A perfect explanation has 100 %; noise, or relevance at other steps, has less."""
    s = book.split(task, "test", 400, random())[0]
    numbers = s.numbers().double()
    sign = torch.tensor([1.0, 1.0 if task == "addition" else -1.0])
    R = numbers * sign
    want = 100 * torch.tensor([1.0, sign[1], 1.0], dtype=torch.float64)
    torch.testing.assert_close(book.statistics(numbers, R, R.abs().sum(1)), want)
    half = book.statistics(numbers, R, 2 * R.abs().sum(1))
    torch.testing.assert_close(half, want * torch.tensor([1.0, 1.0, 0.5]))
    noise = torch.randn(R.shape, generator=random(), dtype=torch.float64)
    assert (book.statistics(numbers, noise, noise.abs().sum(1))[:2].abs() < 30).all()


def test_models():
    """The batch of models computes what nn.LSTM does, and a model has 17 free parameters."""
    parameters = book.start(3, random())
    assert sum(p[0].numel() for p in parameters) == 17
    s = book.sequences("addition", 5, 6, random())
    for one, y in zip(zip(*parameters, strict=True), book.predict(parameters, s.x), strict=True):
        model = book.Calculator(*one)
        torch.testing.assert_close(model(s.x.double()).float(), y)


def test_training_lowers_each_error():
    parameters = book.start(4, random())
    data = book.split("addition", "train", 700, random())
    before = book.errors(parameters, data)
    book.train(parameters, data, 60, 0.03, random())
    assert (book.errors(parameters, data) < before).all()


def test_a_small_run_prints_both_tables(capsys):
    options = "--models 1 --steps 3 --criterion 9 --test 8"
    book.main(options.split())
    rows = [line for line in capsys.readouterr().out.splitlines() if " / " in line]
    assert [r.split("|")[1].strip() for r in rows if "ours" not in r] == 2 * list(book.METHODS)
    assert not any(word in line for line in rows for word in ("nan", "inf"))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ("--test 1", "argument --test: must be at least 3; got 1"),
        ("--models 0", "argument --models: must be at least 1; got 0"),
        ("--steps x", "argument --steps: invalid int value: 'x'"),
        ("--criterion nan", "argument --criterion: must be at least 0; got nan"),
        ("--tasks division", "argument --tasks: invalid choice: 'division'"),
    ],
)
def test_wrong_options_are_refused(options, match, capsys):
    with pytest.raises(SystemExit):
        book.main(options.split())
    assert match in capsys.readouterr().err


def test_models_that_learn_nothing_are_not_explained():
    options = "--tasks addition --models 1 --steps 1 --minutes 0 --criterion 0 --test 8"
    with pytest.raises(SystemExit, match="addition: no model met the criterion; give it more"):
        book.main(options.split())
