"""The native library: loads it, checks that it fits this PyTorch, and tells how it was built."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
from types import ModuleType

import torch

from .errors import NativeLibraryError

REINSTALL = (
    "Build it for this PyTorch: pip install --no-build-isolation --force-reinstall --no-deps "
    "xaifast (in a checkout: pip install --no-build-isolation -e .)."
)


def _release(version: str) -> str:
    """The part of a PyTorch version that fixes its C++ interface: 2.13.0+cpu -> 2.13."""
    return ".".join(version.split("+")[0].split(".")[:2])


def _import() -> ModuleType:
    """xaifast._C from beside this file, or, in a checkout, from the xaifast that is installed."""
    try:
        return importlib.import_module("xaifast._C")
    except ModuleNotFoundError:
        for package in importlib.metadata.distributions(name="xaifast"):
            for file in package.files or ():
                path = str(package.locate_file(file))
                if file.name.startswith("_C.") and os.path.exists(path):
                    spec = importlib.util.spec_from_file_location("xaifast._C", path)
                    native = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
                    spec.loader.exec_module(native)  # type: ignore[union-attr]
                    sys.modules["xaifast._C"] = native
                    return native
        raise


def load() -> ModuleType:
    """Import `xaifast._C`, which registers the native ops.

    Raises
    ------
    NativeLibraryError
        If the library is missing, cannot be loaded, or was built for another release of PyTorch.
    """
    try:
        native = _import()
    except ModuleNotFoundError as error:
        raise NativeLibraryError(
            f"The native library of xaifast is not built. {REINSTALL}"
        ) from error
    except ImportError as error:
        raise NativeLibraryError(
            f"The native library of xaifast cannot be loaded by torch {torch.__version__} "
            f"({str(error).splitlines()[0]}). {REINSTALL}"
        ) from error
    built = native.build_info()["torch"]
    if _release(built) != _release(torch.__version__):
        raise NativeLibraryError(
            f"The native library of xaifast was built for torch {built}, but torch "
            f"{torch.__version__} is installed. {REINSTALL}"
        )
    return native


def info() -> dict[str, str]:
    """Versions, devices, compiled architectures and threads, as text."""
    from . import __version__

    built = load().build_info()
    devices = ["cpu"]
    for i in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(i)
        devices.append(f"cuda:{i} ({torch.cuda.get_device_name(i)}, sm_{major}{minor})")
    return {
        "xaifast": __version__,
        "torch": f"{torch.__version__} (built for {built['torch']})",
        "python": platform.python_version(),
        "devices": ", ".join(devices),
        "CUDA kernels": (
            f"CUDA {built['cuda']}, architectures {built['cuda_architectures']}"
            if built["cuda"]
            else "not built"
        ),
        "CPU vector unit": torch.backends.cpu.get_cpu_capability(),
        "oneDNN": "yes" if torch.backends.mkldnn.is_available() else "no",
        "threads": f"{torch.get_num_threads()} (OpenMP {'on' if built['openmp'] else 'off'})",
        "compiler": built["compiler"],
    }
