"""The command line: every command, and every way to get it wrong in one line with its status."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import xaifast
from xaifast import attr, cli, composites, errors
from xaifast.viz.reading import Reader

image = pytest.importorskip("PIL.Image")

MODELS = """
import torch
from torch import nn

def seeded(*layers):
    torch.manual_seed(0)
    for layer in layers:
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return nn.Sequential(*layers)

def cnn():
    return seeded(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(4, 5),
    )

def grey(): return seeded(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.LazyLinear(3))
def dense(): return seeded(nn.Conv2d(3, 4, 3, padding=1))
def tabular(): return seeded(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
def half(): return tabular().bfloat16()
def scalar(): return nn.Sequential(tabular(), nn.Flatten(0))
def volume(): return seeded(nn.Conv3d(1, 2, 3), nn.Flatten(), nn.Linear(16, 2)).double()
def tokens(): return seeded(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))
def gelu(): return seeded(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Conv2d(4, 2, 3))

class Pair(nn.Module):
    def forward(self, x): return x, x

ready = seeded(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
number = 3

def broken(): raise RuntimeError("no luck")
def nothing(): return None
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: a module of models, two images of one size, one of another, an array."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "models_of_mine", None)  # so that it is forgotten afterwards
    del sys.modules["models_of_mine"]
    (tmp_path / "models_of_mine.py").write_text(MODELS)
    (tmp_path / "unimportable_of_mine.py").write_text("import a_module_that_is_not_there")
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for name, size in (("a", (8, 8)), ("b", (8, 8)), ("c", (6, 10))):
        pixels = rng.integers(0, 256, (*size, 3), np.uint8)
        image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
    np.save(tmp_path / "d.npy", rng.random((3, 8, 8)))
    return tmp_path


def explain(*words: str, model: str = "cnn", method: str = "EpsilonPlus") -> int:
    """Run `xaifast explain`."""
    return cli.main(["explain", "--model", f"models_of_mine:{model}", "--method", method, *words])


def numbers(line: str) -> tuple[str, str, float, float]:
    """File, target, output and relevance of a printed line."""
    pattern = (
        r"(\S+)  \S+  target (\S+)  output (\S+)(?:  relevance (\S+) \([^)]*\))?(  \(no picture\))?"
    )
    found = re.fullmatch(pattern, line)
    return found[1], found[2], float(found[3]), float(found[4] or "nan")


# ---- info, methods ---------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [[], ["info"]])
def test_info(argv, capsys):
    assert cli.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len({re.match(r"(.*?  +)\S", line).end() for line in lines}) == 1  # aligned
    assert [line.split()[0] for line in lines[:4]] == ["xaifast", "torch", "python", "devices"]
    assert torch.__version__ in lines[1]


def test_python_dash_m(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["xaifast"])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_module("xaifast", run_name="__main__")
    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith("xaifast ")


def test_a_native_library_that_does_not_fit_is_one_line(monkeypatch, capsys):
    def fail():
        raise errors.NativeLibraryError("The native library of xaifast is not built.")

    monkeypatch.setattr("xaifast.build.load", fail)
    assert cli.main(["info"]) == 2
    assert capsys.readouterr().err == (
        "xaifast: error: The native library of xaifast is not built.\n"
    )


def test_methods_lists_all_that_explain_knows(capsys):
    assert cli.main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines]
    assert names == [m.name for m in xaifast.methods()]
    assert set(composites.PRESETS) < set(names)
    boxed = {name for name, line in zip(names, lines, strict=True) if "Needs --low --high." in line}
    assert boxed == {"EpsilonGammaBox", "ZeroEpsilonGammaBox", "DeepTaylorBounded"}
    assert any("Needs --option layer=...." in line for line in lines)


# ---- explain ---------------------------------------------------------------------------------


def test_explain_images_of_two_sizes_and_an_array(folder, capsys):
    assert explain("--input", "images", "d.npy", "--batch", "2", "--out", "out") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    *lines, summary = captured.out.splitlines()
    assert summary == "4 explained: relevance (.npy), pictures (.png) and manifest.json in out"
    inputs = ("a.png", "b.png", "c.png", "d.npy")
    assert sorted(p.name for p in (folder / "out").iterdir()) == sorted(
        ["manifest.json"]
        + [f"{name}.EpsilonPlus{suffix}" for name in inputs for suffix in (".npy", ".png")]
    )
    assert [numbers(line)[0] for line in lines] == [
        "images/a.png", "images/b.png", "d.npy", "images/c.png"
    ]  # fmt: skip


def test_explain_writes_and_prints_what_lrp_says(folder, capsys):
    assert explain("--input", "images/c.png", "--out", "out") == 0
    _, target, output, relevance = numbers(capsys.readouterr().out.splitlines()[0])
    model = sys.modules["models_of_mine"].cnn().eval()
    x = Reader()(Path("images/c.png")).unsqueeze(0)
    f = model(x).detach()
    expected = attr.LRP(model, composites.EpsilonPlus()).attribute(x, int(f.argmax()))
    R = np.load("out/c.png.EpsilonPlus.npy")
    assert R.shape == (3, 6, 10)
    assert R.dtype == np.float32
    np.testing.assert_array_equal(R, expected[0])
    assert target == str(int(f.argmax()))
    assert output == pytest.approx(float(f.max()), rel=1e-5)
    assert relevance == pytest.approx(float(R.astype(np.float64).sum()), rel=1e-4, abs=1e-6)
    picture = np.asarray(image.open("out/c.png.EpsilonPlus.png"))
    assert picture.shape[1] > 2 * 224
    assert picture[-60:, :230].std() > 10  # the input
    assert picture[-60:, 240:].std() > 10  # its relevance


def test_targets_start_and_batches(folder, capsys):
    for words in (["--target", "3"], ["--target=-2"]):
        assert explain("--input", "images/a.png", *words, "--start", "one", "--force") == 0
    lines = capsys.readouterr().out.splitlines()
    first, second = numbers(lines[0]), numbers(lines[2])
    assert (first[1], second[1]) == ("3", "-2")
    assert first[2:] == second[2:]
    assert explain("--input", "images/a.png", "--start", "log_odds", "--force") == 0


def test_a_batch_gives_what_single_calls_give(folder):
    assert explain("--input", "images/a.png", "images/b.png", "--out", "two") == 0
    assert explain("--input", "images/a.png", "images/b.png", "--out", "one", "--batch", "1") == 0
    for name in "ab":
        together, alone = (np.load(f"{out}/{name}.png.EpsilonPlus.npy") for out in ("two", "one"))
        np.testing.assert_allclose(together, alone, atol=1e-5 * np.abs(alone).max())


def test_dense_output(folder, capsys):
    assert explain("--input", "images/a.png", "--target", "3,5,7", model="dense") == 0
    assert numbers(capsys.readouterr().out.splitlines()[0])[1] == "(3,5,7)"
    R = np.load(
        "xaifast-out/a.png.EpsilonPlus.npy"
    )  # a 3 x 3 convolution: its window, and nothing else
    assert np.abs(R[:, 4:7, 6:8]).max() > 0
    R[:, 4:7, 6:8] = 0
    assert not R.any()


def test_other_methods_with_options(folder, capsys):
    words = ["--input", "images/a.png", "images/b.png", "--target", "1"]
    options = ["--option", "n_steps=7", "--option", "baselines=0.5"]
    assert explain(*words, *options, method="integrated_gradients") == 0
    lines = capsys.readouterr().out.splitlines()
    model = sys.modules["models_of_mine"].cnn().eval()
    x = torch.stack([Reader()(Path(f"images/{name}.png")) for name in "ab"])
    expected = attr.IntegratedGradients(model).attribute(x, 0.5, target=1, n_steps=7)
    np.testing.assert_array_equal(np.load("xaifast-out/b.png.IntegratedGradients.npy"), expected[1])
    assert numbers(lines[1])[3] == pytest.approx(float(expected[1].double().sum()), rel=1e-5)
    window = ["--option", "sliding_window_shapes=(3, 4, 4)"]
    assert explain(*words, *window, method="occlusion") == 0


def test_the_map_of_a_layer_is_drawn_beside_the_input(folder):
    words = ["--input", "images/a.png", "--option", "layer=0", "--out", "out"]
    assert explain(*words, method="layer_grad_cam") == 0
    assert np.load("out/a.png.LayerGradCam.npy").shape == (1, 8, 8)
    assert Path("out/a.png.LayerGradCam.png").exists()


def test_boxes_in_the_units_of_the_model(folder):
    words = ["--input", "images/a.png", "--mean", "0.5,0.5,0.25", "--std", "0.5"]
    box = ["--low", "-1,-1,-0.5", "--high=1,1,1.5"]
    assert explain(*words, *box, method="deeptaylorbounded", model="cnn") == 0


def test_grey_images_with_size(folder):
    image.fromarray(np.eye(8, dtype=np.uint8) * 255).save("grey.png")
    assert explain("--input", "grey.png", "--size", "5x4", model="grey") == 0
    assert np.load("xaifast-out/grey.png.EpsilonPlus.npy").shape == (1, 5, 4)


def test_samples_of_other_ranks(folder, capsys):
    rng = np.random.default_rng(0)
    np.save("row.npy", rng.random(6))
    np.save("cube.npy", rng.random((1, 4, 4, 4)))
    np.save("words.npy", np.array([1, 5, 8]))
    for name, model, shape in (
        ("row", "tabular", (6,)), ("cube", "volume", (1, 4, 4, 4)), ("words", "tokens", (3, 4))
    ):  # fmt: skip
        assert explain("--input", f"{name}.npy", model=model, method="uniform:zero") == 0
        assert np.load(f"xaifast-out/{name}.npy.Uniform-Zero.npy").shape == shape
        assert Path(f"xaifast-out/{name}.npy.Uniform-Zero.png").exists() == (name != "cube")
    row, _, cube, _, _, _ = capsys.readouterr().out.splitlines()
    assert numbers(row)[1] == "0"  # the only output
    assert cube.endswith("  (no picture)")
    assert np.load("xaifast-out/cube.npy.Uniform-Zero.npy").dtype == np.float64


def test_half_precision_is_saved_as_float32(folder):
    np.save("row.npy", np.ones(6))
    assert explain("--input", "row.npy", model="half") == 0
    assert np.load("xaifast-out/row.npy.EpsilonPlus.npy").dtype == np.float32


def test_an_output_without_classes(folder, capsys):
    np.save("row.npy", np.ones(6))
    assert explain("--input", "row.npy", model="scalar", method="uniform:zero") == 0
    assert numbers(capsys.readouterr().out.splitlines()[0])[1] == "None"


@pytest.mark.parametrize("wrapped", [False, True])
def test_weights(folder, wrapped):
    state = {"1.weight": torch.ones(2, 192), "1.bias": torch.ones(2)}
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, "w.pt")
    words = ["--input", "d.npy", "--weights", "w.pt", "--target", "0"]
    assert explain(*words, model="ready", method="uniform:epsilon") == 0
    x, R = np.load("d.npy"), np.load("xaifast-out/d.npy.Uniform-Epsilon.npy")
    np.testing.assert_allclose(R, x * (x.sum() + 1) / (x.sum() + 1), rtol=1e-4)  # w = 1, b = 1


def test_progress_bar(folder, capsys):
    assert explain("--input", "images", "--progress", method="Saliency") == 0
    captured = capsys.readouterr()
    assert "3/3" in captured.err
    assert len(captured.out.splitlines()) == 4


def test_progress_bar_on_a_terminal(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert explain("--input", "images/a.png", method="Saliency") == 0
    assert capsys.readouterr().err == ""  # nothing to wait for
    assert explain("--input", "images/a.png", "images/b.png", "--force", method="Saliency") == 0
    assert "2/2" in capsys.readouterr().err


def test_no_trace_is_left(folder):
    path, modules = list(sys.path), set(sys.modules)
    assert explain("--input", "d.npy", method="Saliency") == 0
    assert sys.path == path
    assert {name for name in set(sys.modules) - modules if "of_mine" in name} == {"models_of_mine"}


def test_interruption(monkeypatch, capsys):
    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "methods", interrupt)
    assert cli.main(["methods"]) == 130
    assert capsys.readouterr().err == "xaifast: interrupted\n"


# ---- what can go wrong -----------------------------------------------------------------------

OK = ["--input", "d.npy"]
CASES = {
    "command": (["bogus"], "invalid choice: 'bogus'.* See xaifast --help"),
    "nothing given": (["explain"], "arguments are required: --model, --method/--methods, --input"),
    "unknown option": (["demo", "--fast"], "unrecognized arguments: --fast"),
    "method": (["@cnn", "gama", *OK], "--method .*; got 'gama'. Did you mean Uniform:Gamma?"),
    "method far off": (["@cnn", "xx", *OK], "got 'xx'. `xaifast methods` lists all"),
    "no box": (["@cnn", "EpsilonGammaBox", *OK], "needs --low and --high; got neither. Give the"),
    "no layer": (["@cnn", "GuidedGradCam", *OK], "explain: layer must be given for GuidedGradCam"),
    "option": (
        ["@cnn", "Saliency", "--option", "square=1", *OK],
        "square must be an option of Saliency; got an unknown one. Did you mean squared",
    ),
    "option of two words": (["@cnn", "Saliency", "--option", "abs", *OK], "be NAME=VALUE.*'abs'"),
    "start of a gradient": (
        ["@cnn", "Saliency", "--start", "one", *OK], "explain: start must be an option of Saliency"
    ),
    "two results": (
        ["@cnn", "LRP", "--option", "return_convergence_delta=True", *OK],
        r"--option must leave one map for each input; got a tuple. Leave out",
    ),
    "half a box": (["@cnn", "EpsilonGammaBox", "--low", "0", *OK], "and --high; got --low. Give"),
    "box for nothing": (["@cnn", "EpsilonPlus", "--low", "0", *OK], "takes no --low .* Leave"),
    "box upside down": (
        ["@cnn", "EpsilonGammaBox", "--low", "1", "--high", "0", *OK],
        "must be finite and ordered, low < high",
    ),
    "box too small": (
        ["@cnn", "EpsilonGammaBox", "--low", "0.5", "--high", "1", *OK],
        r"--low must bound the inputs .*\(d.npy goes 0.\d+ beyond\); got \[0.5\]. With --mean",
    ),
    "box of other channels": (
        ["@cnn", "EpsilonGammaBox", "--low", "0,0", "--high", "1", *OK],
        r"--low must have one number, or one for each channel of d.npy; got \[0.0, 0.0\]",
    ),
    "no number": (["@cnn", "EpsilonPlus", "--low", "zero", *OK], "argument --low: .*got 'zero'"),
    "batch": (["@cnn", "EpsilonPlus", "--batch", "0", *OK], "an int of at least 1; got '0'"),
    "size": (["@cnn", "EpsilonPlus", "--size", "8", *OK], "must be HxW, .*; got '8'"),
    "size of arrays": (["@cnn", "EpsilonPlus", "--size", "8x8", *OK], "--size is for images; got"),
    "mean": (
        ["@cnn", "EpsilonPlus", "--mean", "1,2", "--input", "images"],
        r"mean must have one number or 3, the channels of images/a.png; got \[1.0, 2.0\]",
    ),
    "std": (["@cnn", "EpsilonPlus", "--std", "0", "--input", "images"], "--std must not be zero"),
    "start": (["@cnn", "EpsilonPlus", "--start", "two", *OK], "--start: invalid choice: 'two'"),
    "target": (["@cnn", "EpsilonPlus", "--target", "best", *OK], "must be an int, 'max'.*'best'"),
    "target too large": (
        ["@cnn", "EpsilonPlus", "--target", "5", *OK],
        r"--target must fit an output of shape \[N, 5\]; got 5. Give 0 to 4, or max",
    ),
    "target of a dense output": (
        ["@dense", "EpsilonPlus", *OK],
        r"shape \[N, 4, 8, 8\]; got max. Give 0 to 3, 0 to 7, 0 to 7, with commas between",
    ),
    "dense target of classes": (["@cnn", "EpsilonPlus", "--target", "1,2", *OK], "got 1,2. Give"),
    "no file": (["@cnn", "EpsilonPlus", "--input", "x.png"], "--input must exist; got x.png"),
    "other file": (
        ["@cnn", "EpsilonPlus", "--input", "models_of_mine.py"],
        "must be a folder or one of .png, .jpg, .jpeg, .npy, .npz, .pt; got models_of_mine.py",
    ),
    "no files": (["@cnn", "EpsilonPlus", "--input", "empty"], "must hold some of .*; got empty"),
    "no image": (["@cnn", "EpsilonPlus", "--input", "no.png"], "image that can be read .*no.png"),
    "no array": (["@cnn", "EpsilonPlus", "--input", "no.npy"], "array that numpy.save .*no.npy"),
    "shape": (
        ["@ready", "EpsilonPlus", "--input", "images/c.png"],
        r"--input must be samples that the model takes \(RuntimeError: .*images/c.png of shape "
        r"\[3, 6, 10\]. Check channels and size",
    ),
    "out is a file": (["@cnn", "EpsilonPlus", "--out", "d.npy", *OK], "--out must be a folder"),
    "out is the input": (["@cnn", "EpsilonPlus", "--out", ".", *OK], "not be a folder of inputs"),
    "demo out": (["demo", "--out", "d.npy"], r"--out must be a folder .*; got d.npy. Name"),
    "no colon": (["models_of_mine", "EpsilonPlus", *OK], "--model must be MODULE:FACTORY; got 'm"),
    "module": (
        ["not_of_mine:cnn", "EpsilonPlus", *OK],
        r"module that can be imported \(ModuleNotFoundError: .*got 'not_of_mine:cnn'. Run xaifast",
    ),
    "module that fails": (
        ["unimportable_of_mine:cnn", "EpsilonPlus", *OK], "'a_module_that_is_not_there'"
    ),
    "factory": (["@ccnn", "EpsilonPlus", *OK], "of models_of_mine .*'ccnn'. Did you mean cnn?"),
    "no factory": (["@number", "EpsilonPlus", *OK], "got 'number'. It has .*, cnn, "),
    "factory that fails": (
        ["@broken", "EpsilonPlus", *OK], r"without arguments \(RuntimeError: no luck\)"
    ),
    "factory of nothing": (
        ["@nothing", "EpsilonPlus", *OK],
        r"must make an nn.Module; got models_of_mine:nothing\(\) of type NoneType",
    ),
    "two outputs": (["@Pair", "EpsilonPlus", *OK], "must return one tensor; got a tuple. Wrap it"),
    "no weights": (["@cnn", "EpsilonPlus", "--weights", "w.pt", *OK], "--weights must exist; got"),
    "other weights": (
        ["@cnn", "EpsilonPlus", "--weights", "d.npy", *OK], r"torch.save wrote .*d.npy. Save them"
    ),
    "a whole model as weights": (
        ["@cnn", "EpsilonPlus", "--weights", "whole.pt", *OK],
        r"must be tensors that torch.save wrote \(UnpicklingError\); got whole.pt. Save them with",
    ),
    "unfit weights": (
        ["@cnn", "EpsilonPlus", "--weights", "unfit.pt", *OK],
        r"--weights must fit Sequential \(RuntimeError: .*size mismatch.*; got unfit.pt. Check",
    ),
}  # fmt: skip

STATUS = {
    **dict.fromkeys(list(CASES)[list(CASES).index("no colon") :], 3),
    **dict.fromkeys(("mean", "no file", "other file", "no files", "no image", "no array"), 4),
    "shape": 4,
    "out is a file": 6,
    "demo out": 6,
}  # of the others it is 2


@pytest.mark.parametrize("case", CASES)
def test_bad_use_is_one_line_and_a_status(case, folder, capsys):
    (folder / "empty").mkdir()
    for name in ("no.png", "no.npy"):
        Path(name).write_bytes(b"nothing of the kind")
    torch.save({"0.weight": torch.ones(2)}, "unfit.pt")
    torch.save(torch.nn.Linear(1, 1), "whole.pt")
    argv, message = CASES[case]
    if argv[0][0] == "@" or ":" in argv[0] or argv[0] == "models_of_mine":
        model = argv[0].replace("@", "models_of_mine:")
        argv = ["explain", "--model", model, "--method", *argv[1:]]
    before = sorted(folder.rglob("*.npy"))
    assert cli.main(argv) == STATUS.get(case, 2)
    captured = capsys.readouterr()
    assert re.match(r"xaifast: error: .+[.?]\n$", captured.err)
    assert captured.err.count("\n") == 1
    assert re.search(message, captured.err)
    assert captured.out == ""
    assert sorted(folder.rglob("*.npy")) == before  # and nothing was written


def test_a_layer_without_a_rule_is_named(folder, capsys):
    assert explain("--input", "d.npy", "--target", "0,0,0", model="gelu", method="deeptaylor") == 5
    error = capsys.readouterr().err
    assert error.startswith("xaifast: error: DeepTaylor has no exact rule for")
    assert "gelu" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("module", "words"), [("PIL.Image", []), ("tqdm", ["--progress"])], ids=["pillow", "tqdm"]
)
def test_missing_packages(module, words, folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    assert explain("--input", "d.npy", *words) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r'xaifast: error: .* needs .* pip install "xaifast\[demo\]"\n', error)


def test_without_tqdm_nothing_but_the_bar_is_missing(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert explain("--input", "images/a.png", "images/b.png", method="Saliency") == 0
    assert capsys.readouterr().err == ""
