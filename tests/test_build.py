"""The native library: what it tells, and what a user reads when it does not fit."""

import sys

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
    with pytest.raises(NativeLibraryError, match=r"not built.*pip install"):
        build.load()


def test_a_library_for_another_pytorch_says_which(monkeypatch):
    monkeypatch.setattr(build.torch, "__version__", "9.9.1")
    with pytest.raises(NativeLibraryError, match=r"built for torch .*but torch 9.9.1.*pip install"):
        build.load()
