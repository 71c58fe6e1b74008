"""The demonstration, run once from end to end."""

import io
import re
import sys
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch

from xaifast import cli, demo

image = pytest.importorskip("PIL.Image")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Folder of the results, printed lines, exit status, and whether the global seed was spared."""
    out = tmp_path_factory.mktemp("demo") / "new" / "folder"
    before = torch.get_rng_state()
    with redirect_stdout(io.StringIO()) as printed:
        status = cli.main(["demo", "--out", str(out)])
    spared = torch.equal(before, torch.get_rng_state())
    return out, printed.getvalue().splitlines(), status, spared


def test_it_succeeds_and_leaves_the_seed_alone(ran):
    *_, status, spared = ran
    assert status == 0
    assert spared


def test_the_network_is_good(ran):
    accuracy = re.search(r"test accuracy ([\d.]+)", ran[1][0])
    assert float(accuracy.group(1)) > 0.95


def rows_of(lines, error=r"\d\.\de[-+]\d\d|-"):
    found = [re.fullmatch(rf"(\S+) +(\d+\.\d) +({error})", line) for line in lines]
    return {m.group(1): (float(m.group(2)), m.group(3)) for m in found if m}


def test_the_tables_have_a_line_for_each_composite_and_method(ran):
    rows = rows_of(ran[1])
    assert list(rows) == [*demo.composites(), *demo.methods()]
    assert len(rows) >= 12
    assert all(ratio > 0 for ratio, _ in rows.values())
    errors = {name: float(error) for name, (_, error) in rows.items() if error != "-"}
    assert errors["DeepTaylorBounded"] < 1e-4  # no bias counts: all relevance arrives
    assert all(errors[name] < 0.02 for name in demo.COMPLETE)
    assert all(error < 1 for error in errors.values())
    assert any("the share that they absorb" in line for line in ran[1])


def test_the_picture_has_a_cell_for_each_digit_and_column(ran):
    out, lines, *_ = ran
    assert lines[-1] == f"Picture: {out / 'digits.png'}"
    pixels = np.asarray(image.open(out / "digits.png"))
    columns = 1 + len(demo.composites()) + len(demo.methods())
    height, width, _ = pixels.shape
    assert 96 * demo.EXPLAINED < height < 130 * demo.EXPLAINED
    assert 96 * columns < width < 130 * columns
    for part in np.array_split(pixels[60:, 60:], columns, axis=1):  # no column is blank
        assert part.reshape(-1, 3).std(0).max() > 10


def test_training_is_the_same_every_time():
    x, y = torch.rand(64, 1, 24, 24, generator=torch.Generator().manual_seed(1)), torch.arange(64)
    first, second = (demo.train(x, y % 10).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_conservation_error_by_hand():
    # f = 2 x + 1 at x = 1 is 3; LRP-0 gives the input 2 and the bias 1: the error is 1/3.
    model = torch.nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(2)
        model.bias.fill_(1)
    explainers = {"zero": demo.LRP(model, demo.composites()["Uniform(Zero)"])}
    rows = demo.measure(model, explainers, torch.ones(4, 1), torch.zeros(4, dtype=torch.long))
    assert rows["zero"][1] == pytest.approx(1 / 3, rel=1e-5)


def test_titles_are_broken_at_capitals():
    assert demo._broken("ZeroEpsilonGammaBox") == "ZeroEpsilon\nGammaBox"
    assert demo._broken("Uniform(Zero)") == "Uniform(Zero)"


@pytest.mark.parametrize("module", ["sklearn.datasets", "PIL.Image"])
def test_missing_packages(module, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    assert cli.main(["demo", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r'xaifast: error: demo needs .* pip install "xaifast\[demo\]"\n', error)
