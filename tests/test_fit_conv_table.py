"""Fitting the table of convolution kernels: the rule on made-up times, and the measuring itself."""

import types

import pytest
import torch

from benchmarks import fit_conv_table as fit
from benchmarks import report
from xaifast import ops
from xaifast.ops import conv_table

CONV = ((9, 0), "tf32", "all", False, 8, 8, 1, (3, 3), (1, 1), (1, 1))
OTHER = (*CONV[:2], "positive", *CONV[3:])


def measured(**times):
    """Measured(CONV, ...) for kernel=(ratio at 10, 100 and 1000 positions)."""
    return [
        fit.Measured(CONV, 10 ** (i + 1), kernel, ratio)
        for kernel, ratios in times.items()
        for i, ratio in enumerate(ratios)
    ]


@pytest.mark.parametrize(("times", "spans"), [
    ({"tiles": (2.0, 2.0, 2.0)}, (("tiles", 10, None),)),
    ({"tiles": (1.04, 1.05, 1.5)}, (("tiles", 100, None),)),
    ({"tiles": (0.9, 1.0, 1.04)}, ()),
    ({"tiles": (1.2, 0.9, 1.2)}, (("tiles", 10, 10), ("tiles", 1000, 1000))),
    ({"tiles": (1.2, 1.2, 1.0)}, (("tiles", 10, 100),)),
    ({"tiles": (1.2, 1.3, 1.4), "tensor_cores": (1.1, 1.5, 1.6)},
     (("tiles", 10, 10), ("tensor_cores", 100, None))),
    ({"tiles": (1.2, 1.2, 1.2), "tensor_cores": (0.0, 0.0, 1.3)},
     (("tiles", 10, 100), ("tensor_cores", 1000, 1000))),
])  # fmt: skip
def test_spans_join_neighbours_that_were_won_by_one_kernel(times, spans):
    found = fit.fit(measured(**times))
    assert found == ({CONV: spans} if spans else {})
    assert fit.fit(reversed(measured(**times))) == found


def test_one_measurement_says_nothing_of_larger_numbers():
    assert fit.fit([fit.Measured(CONV, 7, "tiles", 9.0)]) == {CONV: (("tiles", 7, 7),)}


def test_the_fitted_table_chooses_as_measured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(conv_table, "DEVICE", "cpu")
    table = fit.fit(measured(tiles=(1.2, 1.2, 0.9), tensor_cores=(1.1, 1.1, 1.3)))
    monkeypatch.setattr(conv_table, "FASTER", table)
    a, w = torch.zeros(1, 8, 3, 5), torch.zeros(8, 8, 3, 3)

    def choose(positions, rule="all"):
        R = torch.zeros(1, 1, 8, 1, positions)
        return conv_table.choose(a, R, w, (1, 1), (1, 1), 1, rule)

    with torch.backends.cudnn.flags(allow_tf32=True):
        assert [choose(n) for n in (9, 10, 55, 100, 101, 999, 1000, 1001)] == [
            "library", *["tiles"] * 3, "library", "library", "tensor_cores", "library",
        ]  # fmt: skip
        assert choose(50, "positive") == "library"


def test_the_table_is_written_in_one_way():
    table = {OTHER: (("pixels", 1, None),), CONV: (("tiles", 1, 5), ("tensor_cores", 6, None))}
    devices = {(9, 0): ("hardware H", "torch T", "date D"), (8, 0): ("another",)}
    text = fit.written(table, devices)
    assert text == fit.written(dict(reversed(table.items())), dict(reversed(devices.items())))
    found: dict = {}
    exec(text, found)
    assert found["FASTER"] == table
    assert found["MEASURED_ON"] == devices
    assert max(map(len, text.split("\n"))) <= 100
    assert "noqa" not in text
    assert "noqa" in fit.written({CONV: tuple(("tensor_cores", n, n) for n in range(9))}, {})
    assert text.index('"all"') < text.index('"positive"')
    assert all(key == conv_table.Conv(*key) for key in found["FASTER"])


def test_rows_of_other_gpus_stay():
    ampere = ((8, 0), *CONV[1:])
    old = {CONV: (("tiles", 1, None),), ampere: (("tiles", 2, None),)}
    new = {OTHER: (("pixels", 1, None),)}
    assert fit.merged(new, old, (9, 0)) == {ampere: old[ampere], **new}


def test_the_file_that_is_here_is_as_it_would_be_written():
    from xaifast.ops import conv_measured

    with open(conv_measured.__file__, encoding="utf-8") as file:
        assert file.read() == fit.written(conv_measured.FASTER, conv_measured.MEASURED_ON)


# ---- measuring, with the library in place of a kernel --------------------------------------------

SMALL = fit.Shape(3, 8, (6, 5), (3, 3), (2, 2), (1, 1))


@pytest.fixture
def kernels(monkeypatch):
    """Ours on the CPU: the library, but for `kernels.off`, by which "tiles" is wrong."""
    run = ops.zplus_conv

    ours = types.SimpleNamespace(off=0.0, called=set())

    def zplus_conv(*args, kernel, **rest):
        ours.called.add((kernel, rest["rule"]))
        wrong = 1 + ours.off * (kernel == "tiles")
        return wrong * run(*args, kernel="library", **rest)

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(conv_table, "DEVICE", "cpu")
    monkeypatch.setattr(ops, "zplus_conv", zplus_conv)
    return ours


@pytest.mark.parametrize("rule", fit.RULES)
@pytest.mark.parametrize("precision", fit.ROUNDING)
def test_every_rule_is_measured_through_the_table(rule, precision, kernels):
    before = conv_table.FASTER
    case = fit.Case(SMALL, rule, precision, channels_last=True)
    found, rows = fit.measure(case, 3, "cpu", 1)
    assert {(k, rule.removesuffix(" z")) for k in case.kernels()} == kernels.called
    assert [m.kernel for m in found] == case.kernels()
    assert all(m.faster > 0 for m in found), rows  # what was computed agrees with float64
    assert {m.positions for m in found} == {3 * 3 * 3}
    rest = (True, 3, 8, 1, (3, 3), (2, 2), (1, 1))
    assert {m.conv for m in found} == {((9, 0), precision, rule, *rest)}
    assert conv_table.FASTER is before
    assert all(len(row) == len(fit.HEAD) for row in rows)


def test_a_wrong_result_gets_no_time(kernels):
    kernels.off = 0.01
    found, rows = fit.measure(fit.Case(SMALL, "positive", "float32", False), 2, "cpu", 1)
    assert [(m.kernel, m.faster > 0) for m in found] == [("tiles", False), ("pixels", True)]
    assert "wrong" in rows[0]
    nan = float("nan")
    errors = {"library": 1e-3, "tiles": nan, "pixels": 2.1e-3, "tensor_cores": 1.9e-3}
    good = {"library": True, "tiles": False, "pixels": False, "tensor_cores": True}
    assert fit.trusted(errors, "float32") == good
    assert not any(fit.trusted({"library": nan, "tiles": 0.0}, "float32").values())


def test_what_is_measured():
    shapes = fit.shapes()
    assert fit.Shape(3, 64, (224, 224), (7, 7), (2, 2), (3, 3)) in shapes  # ResNets
    assert fit.Shape(512, 512, (14, 14), (3, 3), (1, 1), (1, 1)) in shapes  # VGG-16
    assert len(set(shapes)) == len(shapes) == 38
    cases = list(fit.cases())
    assert len(set(cases)) == len(cases)
    assert {c.precision for c in cases} == set(fit.ROUNDING)
    assert {c.rule for c in cases} == set(fit.RULES)
    for c in cases:
        assert ("tensor_cores" in c.kernels()) <= (c.precision != "float32")
        assert ("pixels" in c.kernels()) == (c.shape.channels == 3)
        assert (c.rule in ("box", "square")) <= (c.kernels() == ["pixels"])


def test_the_script_writes_what_it_measured(tmp_path, monkeypatch, capsys):
    cases = [fit.Case(SMALL, rule, "tf32", False) for rule in ("all", "positive")]
    out = tmp_path / "table.py"

    def measure(case, batch, device, rounds):
        conv = CONV if case.rule == "all" else OTHER
        return [fit.Measured(conv, 10 * batch, "tiles", 1.2)], [[case.rule] * len(fit.HEAD)]

    about = {"hardware": "H", "date": "D"}
    for place, name, value in (
        (torch.cuda, "is_available", lambda: True),
        (torch.cuda, "get_device_capability", lambda: (9, 0)),
        (fit, "measure", measure), (fit, "cases", lambda: iter(cases)),
        (fit, "machine", lambda device: about), (report, "machine", lambda device: about),
        (fit.conv_measured, "FASTER", {((8, 0), *CONV[1:]): (("tiles", 1, None),)}),
    ):  # fmt: skip
        monkeypatch.setattr(place, name, value)
    monkeypatch.setattr("sys.argv", ["fit", "--batches", "1", "8", "--out", str(out)])
    fit.main()
    found: dict = {}
    exec(out.read_text(), found)
    spans = (("tiles", 10, None),)
    assert found["FASTER"] == {
        CONV: spans,
        OTHER: spans,
        ((8, 0), *CONV[1:]): (("tiles", 1, None),),
    }
    assert {"hardware H", "date D"} < set(found["MEASURED_ON"][9, 0])
    assert "2 of 2 convolutions at batches [1, 8]" in out.read_text()
    assert "2 of 2 measured convolutions go to a kernel of ours" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="would measure")
@pytest.mark.parametrize("words", [[], ["--device", "cpu"]])
def test_without_a_gpu_it_says_so(words, monkeypatch):
    monkeypatch.setattr("sys.argv", ["fit_conv_table", *words])
    with pytest.raises(SystemExit, match=r"there is no CUDA device here.*The table stays as it is"):
        fit.main()
