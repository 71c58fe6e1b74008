"""The command line and hostile files: nothing of the user's is lost, nothing is half written."""

import errno
import json
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from xaifast import cli, demo
from xaifast.cli import failures, inputs, results, words

image = pytest.importorskip("PIL.Image")

MODELS = """
import sys, time, os
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                         nn.Linear(8, 3))

def random(): return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3))

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        time.sleep(float(os.environ.get("SLOW", 0)))
        return self.net(x)

def leaves(): sys.exit(7)
def chatty():
    print("loading")
    return net()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: models, and three images in a folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "nets_of_mine", None)  # so that it is forgotten afterwards
    del sys.modules["nets_of_mine"]
    (tmp_path / "nets_of_mine.py").write_text(MODELS)
    (tmp_path / "images").mkdir()
    for name in "abc":
        picture(f"images/{name}.png")
    return tmp_path


def picture(path, mode="RGB", size=(6, 6), seed=0, **options):
    channels = {"RGB": 3, "RGBA": 4, "CMYK": 4, "LA": 2}.get(mode, 1)
    rng = np.random.default_rng([seed, *os.fsencode(path)])
    pixels = rng.integers(0, 256, (*size, channels), np.uint8)
    image.fromarray(pixels.squeeze(2) if channels == 1 else pixels, mode).save(path, **options)


def explain(*given, model="net", method="Saliency"):
    named = ["--model", f"nets_of_mine:{model}", "--method", method]
    return cli.main(["explain", *named, *(given if "--input" in given else ["--input", *given])])


def content(path="xaifast-out"):
    return {p.name: p.read_bytes() for p in Path(path).iterdir()}


def manifest(path="xaifast-out"):
    return json.loads((Path(path) / "manifest.json").read_bytes())


# ---- nothing is overwritten ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
@pytest.mark.parametrize("force", [False, True])
def test_links_to_inputs_in_the_folder_of_results_are_not_followed(folder, kind, force):
    mine = Path("images/a.png").read_bytes()
    Path("out").mkdir()
    for suffix in (".png", ".npy"):
        place = Path(f"out/a.png.Saliency{suffix}")
        place.symlink_to("../images/a.png") if kind == "symbolic" else place.hardlink_to(
            "images/a.png"
        )
    status = explain("images/a.png", "--out", "out", *["--force"] * force)
    assert status == (0 if force else 6)
    assert Path("images/a.png").read_bytes() == mine
    assert not force or np.load("out/a.png.Saliency.npy").shape == (3, 6, 6)
    assert not force or not Path("out/a.png.Saliency.npy").is_symlink()


def test_a_linked_manifest_is_replaced_and_not_followed(folder):
    assert explain("images/a.png") == 0
    Path("elsewhere.json").write_bytes(Path("xaifast-out/manifest.json").read_bytes())
    Path("xaifast-out/manifest.json").unlink()
    Path("xaifast-out/manifest.json").symlink_to("../elsewhere.json")
    before = Path("elsewhere.json").read_bytes()
    assert explain("images/b.png") == 0
    assert Path("elsewhere.json").read_bytes() == before
    assert len(manifest()["results"]) == 2


def test_a_folder_of_inputs_is_refused_as_out_also_by_links(folder, capsys):
    Path("link").symlink_to("images")
    Path("links").mkdir()
    Path("links/a.png").symlink_to("../images/a.png")
    for out, file in (("link", "images/a.png"), ("images", "links/a.png"), ("links", "links")):
        before = content(out)
        assert explain(file, "--out", out) == 2
        assert "must not be a folder of inputs" in capsys.readouterr().err
        assert content(out) == before


def test_existing_results_need_force(folder, capsys):
    assert explain("images/a.png", "--target", "0") == 0
    before = content()
    capsys.readouterr()
    assert explain("images/a.png", "--target", "1") == 6
    captured = capsys.readouterr()
    assert "Replace them with --force, go on with --resume" in captured.err
    assert captured.out == ""
    assert content() == before
    assert explain("images/a.png", "--target", "1", "--resume") == 6  # of another target
    assert "of another input or setting" in capsys.readouterr().err
    assert content() == before
    assert explain("images/a.png", "--target", "1", "--force") == 0
    assert content()["a.png.Saliency.npy"] != before["a.png.Saliency.npy"]


def test_a_result_that_the_user_changed_is_not_replaced(folder):
    assert explain("images") == 0
    Path("xaifast-out/a.png.Saliency.png").write_bytes(b"mine")
    assert explain("images", "--resume") == 6
    assert Path("xaifast-out/a.png.Saliency.png").read_bytes() == b"mine"


def test_other_peoples_manifest_and_folders_are_refused(folder, capsys):
    for text in ("{}", "[]", "no json", '{"format": 1}'):
        Path("out").mkdir(exist_ok=True)
        Path("out/manifest.json").write_text(text)
        assert explain("images", "--out", "out", "--force") == 6
        assert "must hold no other manifest.json" in capsys.readouterr().err
        assert content("out") == {"manifest.json": text.encode()}
    Path("two/a.png.Saliency.npy").mkdir(parents=True)
    assert explain("images", "--out", "two", "--force") == 6
    assert "no folder of the name of a result" in capsys.readouterr().err


def test_two_runs_do_not_share_a_folder(folder, capsys):
    Path("out").mkdir()
    with results.locked(Path("out")):
        assert explain("images", "--out", "out") == 6
    assert "one run at a time" in capsys.readouterr().err
    assert explain("images", "--out", "out") == 0


# ---- several methods, the manifest -----------------------------------------------------------


def test_several_methods_make_a_file_each(folder, capsys):
    several = ["--method", "InputXGradient,integrated_gradients"]
    options = ["--option", "IntegratedGradients.n_steps=5", "--target", "1"]
    assert explain("--input", "images/a.png", *several, *options) == 0
    names = {"Saliency", "InputXGradient", "IntegratedGradients"}
    files = {f"a.png.{name}{suffix}" for name in names for suffix in (".npy", ".png")}
    assert set(content()) == files | {"manifest.json"}
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[1] for line in lines[:3]} == names
    told = {line.split()[1] for line in lines[:3] if "relevance" in line}
    assert told == {"IntegratedGradients"}  # the sums of the others mean nothing
    facts = {s["method"]: s for s in manifest()["settings"].values()}
    assert facts["IntegratedGradients"]["options"] == {"n_steps": 5}
    assert facts["Saliency"]["options"] == {}
    assert facts["Saliency"]["torch"] == torch.__version__
    assert (facts["Saliency"]["target"], facts["Saliency"]["seed"]) == (1, 0)
    entry = manifest()["results"]["a.png.Saliency"]
    assert entry["sha256"] == inputs.digest(Path("images/a.png"))
    assert (entry["path"], entry["status"]) == ("images/a.png", "done")
    assert explain("--input", "images/a.png", method="Deconvolution") == 0  # beside the others
    assert len(manifest()["results"]) == 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--method", "saliency"], "must name each method once; got 'saliency'"),
        (["--method", "IG"], "got 'IG'. Did you mean IntegratedGradients?"),
        (["--method", "Lime,,"], "must be names with commas between"),
        (["--option", "Lime.n_samples=3"], "must be of a method that --method names"),
        (["--seed", "-1"], "must be an int from 0"),
        (["--force", "--resume"], "not allowed with argument"),
        (["--size", "99999x99999"], "--size must be at most"),
        (["--model", "./nets_of_mine.py:net"], "Did you mean nets_of_mine:net?"),
    ],
)
def test_misuse(given, message, folder, capsys):
    assert explain("--input", "images", *given) == (3 if "--model" in given else 2)
    assert message in capsys.readouterr().err
    assert not Path("xaifast-out").exists()


# ---- runs that end early ---------------------------------------------------------------------


def test_a_run_that_is_resumed_gives_what_an_uninterrupted_one_gives(folder, monkeypatch):
    given = ["images", "--batch", "2"]
    once = {"model": "random", "method": "SmoothGrad"}  # random weights, random noise
    assert explain(*given, "--out", "whole", **once) == 0
    moves, move = [], os.replace
    for last in range(2, 9):  # killed before each of the writes
        out = f"out{last}"

        def until(*paths, last=last):
            moves.append(paths)
            if len(moves) == last:
                raise KeyboardInterrupt
            move(*paths)

        moves.clear()
        monkeypatch.setattr(os, "replace", until)
        status = explain(*given, "--out", out, **once)
        monkeypatch.setattr(os, "replace", move)
        assert status == (130 if len(moves) >= last else 0)
        (Path(out) / f"{results.PREFIX}00{results.SUFFIX}").write_bytes(b"half")  # as by SIGKILL
        assert explain(*given, "--out", out, "--resume", **once) == 0
        assert content(out) == content("whole")


def test_what_is_complete_is_not_made_again(folder, capsys, monkeypatch):
    assert explain("images/a.png", "images/b.png") == 0
    assert explain("images", "--resume") == 0
    Path("xaifast-out/a.png.Saliency.npy").unlink()
    capsys.readouterr()
    assert explain("images", "--skip-existing") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("images/a.png  Saliency")
    assert lines[1].startswith("1 explained, 2 complete before")
    picture("images/a.png", seed=1)
    assert explain("images", "--resume") == 6  # another input of that name


def test_other_weights_or_code_are_another_model(folder, capsys):
    model = cli.explaining.models.load("nets_of_mine:net", None)
    torch.save(model.state_dict(), "w.pt")
    assert explain("images/a.png", "--weights", "w.pt") == 0
    assert explain("images/a.png", "--weights", "w.pt", "--resume") == 0
    model[0].weight.data[0] += 1
    torch.save(model.state_dict(), "w.pt")
    assert explain("images/a.png", "--weights", "w.pt", "--resume") == 6


def _process(*given, **variables):
    root = str(Path(cli.__file__).parents[2])
    start = "import sys; from xaifast.cli import main; sys.exit(main())"
    argv = [sys.executable, "-c", start, "explain", "--method", "Saliency", *given]
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_process_that_is_killed_and_resumed(folder):
    given = ["--model", "nets_of_mine:Slow", "--input", "images", "--batch", "1"]
    killed = _process(*given, SLOW="0.3")
    assert killed.stdout.readline().startswith(b"images/a.png")
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not Path("xaifast-out/c.png.Saliency.npy").exists()
    assert cli.main(["explain", "--method", "Saliency", *given, "--resume"]) == 0
    assert cli.main(["explain", "--method", "Saliency", *given, "--out", "whole"]) == 0
    assert content() == content("whole")


def test_a_closed_pipe_and_a_torch_of_the_working_folder(folder):
    Path("images/d.png").touch()
    Path("torch.py").write_text("raise SystemExit('shadowed')")
    Path("numpy.py").write_text("raise SystemExit('shadowed')")
    # `-c` puts the current folder first; the installed command does not: -P has it do so too.
    command = f"{sys.executable} -P -m xaifast explain --model nets_of_mine:net --method Saliency "
    command += "--input images --batch 1 --keep-going | true; exit ${PIPESTATUS[0]}"
    root = str(Path(cli.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("xaifast: images/d.png: input must be an image that can be read")
    assert done.stderr.count("\n") == 1
    assert len(list(Path("xaifast-out").glob("*.npy"))) == 3


# ---- a disk that fills -----------------------------------------------------------------------


@pytest.mark.parametrize("last", range(1, 6))
def test_a_disk_that_fills_leaves_no_half_file(last, folder, capsys, monkeypatch):
    syncs, sync = [], os.fsync

    def full(handle):
        syncs.append(handle)
        if len(syncs) >= last:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    assert explain("images", "--batch", "1") == 6
    assert "must be writable; got [Errno 28] No space left on device" in capsys.readouterr().err
    found = content()
    assert not [name for name in found if name.startswith(".")]
    assert sum(name.endswith(".npy") for name in found) == (last - 1) // 2
    for name in found:
        assert not name.endswith(".npy") or np.load(f"xaifast-out/{name}").shape == (3, 6, 6)
    monkeypatch.setattr(os, "fsync", sync)
    assert explain("images", "--batch", "1", "--resume") == 0
    assert explain("images", "--batch", "1", "--out", "whole") == 0
    assert content() == content("whole")


def test_a_failed_write_leaves_its_batch_pending_and_what_is_done_done(folder, monkeypatch):
    syncs, sync = [], os.fsync

    def full_once(handle):
        syncs.append(handle)
        if len(syncs) == 5:  # manifest, a.npy, a.png, b.npy; then b.png
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full_once)
    assert explain("images") == 6
    states = [entry["status"] for entry in manifest()["results"].values()]
    assert states == ["done", "pending", "pending"]
    assert explain("images", "--resume") == 0
    assert explain("images", "--out", "whole") == 0
    assert content() == content("whole")


def test_an_input_that_changes_during_the_run_is_refused(folder, capsys, monkeypatch):
    plan = results.Results.plan

    def change(*args):
        picture("images/b.png", seed=1)
        return plan(*args)

    monkeypatch.setattr(results.Results, "plan", change)
    assert explain("images", "--keep-going") == 1
    captured = capsys.readouterr()
    assert "must stay as it is during the run; got a change of images/b.png" in captured.err
    assert captured.out.splitlines()[-1].startswith("2 explained, 1 failed")


def test_a_limit_on_the_size_of_files(folder):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
    try:
        with pytest.raises(failures.RunError, match="must be writable") as refused:
            results.replace(Path("half.npy"), b"x" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert refused.value.status == 6
    assert sorted(p.name for p in folder.iterdir()) == ["images", "nets_of_mine.py"]


# ---- inputs ----------------------------------------------------------------------------------


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _bomb(path, side):
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(b"")), _chunk(b"IEND", b"")]
    Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def _frames(path):
    frames = [image.new("RGB", (6, 6), c) for c in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def _cut(path):
    picture(path, size=(60, 60))
    Path(path).write_bytes(Path(path).read_bytes()[:-3000])


def _transparent_palette(path):
    picture(path, size=(64, 64))
    image.open(path).convert("L").convert("P").save(path, transparency=128)


HOSTILE = {
    "alpha.png": (
        lambda p: picture(p, "RGBA"),
        "must be opaque.*got an alpha of [0-9]+ in alpha.png",
    ),
    "palette.png": (_transparent_palette, "must be opaque"),
    "cmyk.jpg": (lambda p: picture(p, "CMYK"), "grey or a palette; got CMYK in .*colour profile"),
    "frames.png": (_frames, "must be one image; got 2 frames"),
    "cut.png": (_cut, "must be an image that can be read"),
    "bomb.png": (lambda p: _bomb(p, 10000), "at most 67108864 pixels; got 10000 x 10000"),
    "big_bomb.png": (lambda p: _bomb(p, 60000), "must be an image that can be read .*Bomb"),
    "text.png": (lambda p: Path(p).write_text("%!PS-Adobe"), "image that can be read"),
    "none.png": (lambda p: Path(p).touch(), "image that can be read"),
    "dangling.png": (lambda p: Path(p).symlink_to("nowhere"), "must be readable"),
    "loop.png": (lambda p: Path(p).symlink_to("loop.png"), "must be readable"),
    "pipe.npy": (os.mkfifo, "no pipe and no device"),
    "pickle.npy": (lambda p: np.save(p, np.array([{}]), allow_pickle=True), "without objects"),
    "pickle.npz": (lambda p: np.savez(p, np.array([{}])), "without objects"),
    "two.npz": (lambda p: np.savez(p, np.ones(2), np.ones(2)), "2 arrays in it"),
    "not.npz": (lambda p: Path(p).write_bytes(b"PK"), "must be one array that numpy.savez"),
    "pickle.pt": (lambda p: torch.save(torch.nn.Linear(1, 1), p), "must be a tensor that torch"),
    "list.pt": (lambda p: torch.save([1], p), "must hold one dense tensor; got a list"),
    "sparse.pt": (lambda p: torch.save(torch.eye(3).to_sparse(), p), "must hold one dense tensor"),
    "nan.pt": (lambda p: torch.save(torch.tensor([np.nan]), p), "must be finite"),
    "bool.npz": (lambda p: np.savez(p, np.ones(3, bool)), "of real numbers"),
    "shape.npy": (lambda p: np.save(p, np.ones((5, 6, 6))), "must be samples that the model takes"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_words(name, folder, capsys):
    make, message = HOSTILE[name]
    make(name)
    assert explain(name) == 4
    error = capsys.readouterr().err
    assert error.startswith("xaifast: error: ")
    assert error.count("\n") == 1
    assert re.search(message, error)


def test_a_run_goes_on_where_it_may(folder, capsys):
    for name in ("cut.png", "shape.npy"):
        HOSTILE[name][0](f"images/{name}")
    np.save("images/shape2.npy", np.ones((5, 6, 6)))
    assert explain("images", "--keep-going") == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1].startswith("3 explained, 3 failed")
    assert captured.err.count("\n") == 3
    found = manifest()["results"]
    assert {k for k, v in found.items() if v["status"] == "failed"} == {
        f"{name}.Saliency" for name in ("cut.png", "shape.npy", "shape2.npy")
    }
    assert "must be an image that can be read" in found["cut.png.Saliency"]["error"]
    picture("images/cut.png")
    for name in ("shape", "shape2"):
        np.save(f"images/{name}.npy", np.ones((3, 6, 6)))
    assert explain("images", "--resume") == 0
    assert captured.out.count("Saliency") == capsys.readouterr().out.count("Saliency") == 3


def test_odd_but_sound_files(folder):
    grey16 = np.arange(36, dtype=np.uint16).reshape(6, 6) * 1800
    picture("opaque.png", "RGBA")
    opaque = image.open("opaque.png")
    opaque.putalpha(255)
    opaque.save("opaque.png")
    turned = image.Exif()
    turned[0x0112] = 6
    picture("turned.jpg", size=(4, 6), exif=turned)
    picture("plain.png", "P", size=(6, 6))
    read = inputs.Reader()
    assert inputs.sample(read, Path("opaque.png")).shape == (3, 6, 6)
    assert inputs.sample(read, Path("turned.jpg")).shape == (3, 6, 4)
    assert inputs.sample(read, Path("plain.png")).shape == (3, 6, 6)
    image.fromarray(grey16).save("deep.png")
    deep = inputs.sample(read, Path("deep.png"))
    np.testing.assert_allclose(deep[0], grey16 / 65535, rtol=1e-6)
    x = np.random.default_rng(0).random((3, 6, 6)).astype(np.float32)
    np.savez("x.npz", x)
    torch.save(torch.tensor(x, requires_grad=True).mT.contiguous().mT, "x.pt")
    for name in ("x.npz", "x.pt"):
        np.testing.assert_array_equal(inputs.sample(read, Path(name)), x)
    torch.save(torch.tensor([1, 2], dtype=torch.int32), "i.pt")
    assert inputs.sample(read, Path("i.pt")).dtype == torch.long


def test_an_unpacked_size_is_bounded(folder, monkeypatch):
    monkeypatch.setattr(inputs, "MAX_BYTES", 1000)
    np.savez_compressed("x.npz", np.zeros((3, 60, 60)))
    torch.save(torch.zeros(3, 60, 60), "x.pt")
    assert zipfile.is_zipfile("x.pt")
    for name in ("x.npz", "x.pt"):
        with pytest.raises(ValueError, match="must be"):
            inputs.sample(inputs.Reader(), Path(name))


def test_folders_patterns_and_hidden_files(folder, capsys):
    for name in ("images/.d.png", "images/.hidden/e.png", "images/in/f.PNG"):
        Path(name).parent.mkdir(exist_ok=True)
        picture(name)
    Path("images/g.png").mkdir()
    Path("images/note.txt").touch()
    Path("images/again").symlink_to(".")
    found = {
        (): ["images/a.png", "images/b.png", "images/c.png"],
        ("recursive",): ["images/a.png", "images/b.png", "images/c.png", "images/in/f.PNG"],
    }
    for how, files in found.items():
        paths = inputs.find([Path("images"), Path("images/a.png")], bool(how), Path("out"))
        assert [str(p) for p in paths] == files
    paths = inputs.find([Path("images/[ab].*")], False, Path("out"))
    assert [p.name for p in paths] == ["a.png", "b.png"]
    picture("images/[ab].png")  # a file of that name is no pattern
    assert inputs.find([Path("images/[ab].png")], False, Path("out")) == [Path("images/[ab].png")]
    assert explain("images/x*.png") == 4
    assert "must hold some of" in capsys.readouterr().err
    # results within the inputs' folder are no inputs
    assert explain("images", "--recursive", "--out", "images/maps") == 0
    assert explain("images", "--recursive", "--out", "images/maps", "--resume") == 0
    assert len(manifest("images/maps")["results"]) == 5


def test_unreadable_files(folder, capsys, monkeypatch):
    def refuse(path, *args, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(inputs, "open", refuse, raising=False)  # root may read everything
    assert explain("images/a.png") == 4
    assert "must be readable (Permission denied); got images/a.png" in capsys.readouterr().err


def test_inputs_of_one_name_have_results_of_their_own(folder):
    for place in ("x", "y"):
        Path(place).mkdir()
        picture(f"{place}/a.png")
    np.save("x/a.npy", np.ones((3, 6, 6)))
    picture("x/B.png")
    picture("y/b.png")
    assert explain("x", "y") == 0
    found = manifest()["results"]
    assert {v["path"] for v in found.values()} == {
        "x/B.png", "x/a.npy", "x/a.png", "y/a.png", "y/b.png"
    }  # fmt: skip
    assert len({name.lower() for name in content()}) == 11


ODD = ["\x1b[31mred.png", "new\nline.png", "-dash.png", "sp ace.png", "\u202egnp.png", "%s{0}.png"]
ODD += ["é" * 120 + ".png", os.fsdecode(b"\xff\xfe.png")]


def test_odd_names(folder, capsysbinary):
    Path("odd").mkdir()
    for name in ODD:
        picture(Path("odd") / name)
    assert explain("odd") == 0
    out = capsysbinary.readouterr().out
    assert out.count(b"\n") == len(ODD) + 1
    assert not {b"\x1b", b"\xff"} & {bytes([c]) for c in out}
    assert rb"\x1b[31mred.png" in out
    assert "\u202e".encode() not in out
    assert len(list(Path("xaifast-out").glob("*.npy"))) == len(ODD)
    assert explain("odd", "--resume") == 0
    Path("odd/\x1b[2Jbad.png").touch()
    assert explain("odd", "--out", "other") == 4
    assert rb"\x1b[2Jbad.png" in capsysbinary.readouterr().err


# ---- models, words and statuses --------------------------------------------------------------


def test_a_factory_that_exits_or_prints(folder, capsys):
    assert explain("images/a.png", model="leaves") == 3
    assert "(it calls sys.exit(7)); got 'nets_of_mine:leaves'" in capsys.readouterr().err
    assert explain("images/a.png", model="chatty") == 0
    captured = capsys.readouterr()
    assert captured.err == "loading\n"
    assert "loading" not in captured.out


def test_packages_come_before_modules_of_the_current_folder(folder, capsys):
    Path("colorsys.py").write_text("raise RuntimeError('shadowed')")
    sys.modules.pop("colorsys", None)
    assert explain("images/a.png", "--model", "colorsys:rgb_to_hsv") == 3
    assert "shadowed" not in capsys.readouterr().err


def test_the_explainer_s_own_errors_have_a_status(folder, capsys, monkeypatch):
    def fail(self, inputs, target=None, abs=True):
        raise RuntimeError("no luck\nat all")

    monkeypatch.setattr("xaifast.attr.Saliency.attribute", fail)
    assert explain("images/a.png") == 5
    assert "got RuntimeError: no luck at all. Choose" in capsys.readouterr().err
    assert "no luck at all" in manifest()["results"]["a.png.Saliency"]["error"]
    assert manifest()["results"]["a.png.Saliency"]["status"] == "failed"


def test_unexpected_errors_are_a_line_or_a_traceback(capsys, monkeypatch):
    def fail(args):
        raise ZeroDivisionError("by\x1b zero")

    monkeypatch.setitem(cli.COMMANDS, "info", fail)
    assert cli.main(["info"]) == 70
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert r"got ZeroDivisionError: by\x1b zero" in error
    assert cli.main(["--traceback", "info"]) == 70
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_sigterm_ends_a_run_and_the_handler_is_given_back(capsys, monkeypatch):
    def wait(args):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setitem(cli.COMMANDS, "info", wait)
    assert cli.main(["info"]) == 143
    assert capsys.readouterr().err == "xaifast: terminated\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_help_lists_every_status(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["explain", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for status in failures.Status:
        assert str(int(status)) in text[text.index("exit status:") :]


def test_a_full_stdout_is_a_failure_of_output():
    with open("/dev/full", "w") as full:
        with pytest.raises(failures.RunError, match="stdout must take") as error:
            words.say("line", full)
        words.say("and nothing more is said", full)
    assert error.value.status == 6


@pytest.mark.parametrize("linked", [False, True])
def test_the_demo_replaces_no_picture_but_its_own(linked, tmp_path, capsys):
    mine, out = tmp_path / "mine.png", tmp_path / "out"
    out.mkdir()
    picture(mine)
    before = mine.read_bytes()
    (out / "digits.png").symlink_to(mine) if linked else (out / "digits.png").write_bytes(before)
    assert cli.main(["demo", "--out", str(out)]) == 2
    assert "must hold no other digits.png" in capsys.readouterr().err
    assert (out / "digits.png").read_bytes() == mine.read_bytes() == before


def test_a_picture_of_the_demo_is_known_again(tmp_path):
    place = tmp_path / "digits.png"
    place.write_bytes(demo._png(image.new("RGB", (2, 2))))
    demo._check_own(image, place)  # and is replaced without a question
    with pytest.raises(ValueError, match=r"no other digits\.png"):
        demo._check_own(image, Path(__file__))
