"""The native library: what it tells, and what a user reads when it does not fit."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from xaifast import build
from xaifast.errors import NativeLibraryError


def test_info_tells_versions_devices_and_threads():
    info = build.info()
    assert set(info) >= {"xaifast", "torch", "devices", "CUDA kernels", "threads", "compiler"}
    assert "OpenMP on" in info["threads"]
    assert "built for" in info["torch"]


def test_the_library_is_built_with_openmp_and_cpp20():
    facts = build.load().build_info()
    assert facts["openmp"]
    assert facts["cxx_standard"] >= 202002


def test_a_missing_library_says_how_to_build_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "xaifast._C", None)
    monkeypatch.setattr(build.importlib.metadata, "distributions", lambda name: [])
    with pytest.raises(NativeLibraryError, match=r"not built.*pip install"):
        build.load()


def test_a_checkout_finds_the_library_that_is_installed(tmp_path):
    package, site = tmp_path / "xaifast", tmp_path / "site"
    skip = shutil.ignore_patterns("_C.*", "__pycache__")
    shutil.copytree(Path(build.__file__).parent, package, ignore=skip)
    library = Path(build.load().__file__)
    facts = site / "xaifast-0.1.0.dist-info"
    (site / "xaifast").mkdir(parents=True)
    facts.mkdir()
    shutil.copy(library, site / "xaifast")
    (facts / "RECORD").write_text(f"xaifast/{library.name},,\n")
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: xaifast\nVersion: 0.1.0\n")
    run = (  # without the finder of an editable installation, which would come first
        "import sys; sys.meta_path = [f for f in sys.meta_path if 'ditable' not in repr(f)]\n"
        "import xaifast.ops.native as o; print(o.__file__, o._C.__file__)"
    )
    found = subprocess.run(
        [sys.executable, "-c", run], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    ours, native = found.stdout.split()
    assert Path(ours).parent == package / "ops"
    assert Path(native).parent == site / "xaifast"


def test_a_library_for_another_pytorch_says_which(monkeypatch):
    monkeypatch.setattr(build.torch, "__version__", "9.9.1")
    with pytest.raises(NativeLibraryError, match=r"built for torch .*but torch 9.9.1.*pip install"):
        build.load()
