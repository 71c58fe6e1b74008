"""Build the native library `xaifast._C`; everything else is in pyproject.toml.

Environment: XAIFAST_CUDA=0|1 leaves CUDA out or demands it (default: build it when PyTorch and nvcc
have it), TORCH_CUDA_ARCH_LIST names the architectures (default "8.0;9.0;10.0+PTX"), MAX_JOBS limits
ninja, XAIFAST_SANITIZE=address builds with AddressSanitizer.
"""

import os
import sys
import sysconfig
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
ARCHITECTURES = "8.0;9.0;10.0+PTX"


def import_torch():
    """Import the user's torch; pip's build isolation hides it but does not move it."""
    try:
        import torch
    except ModuleNotFoundError:
        sys.path.append(sysconfig.get_path("purelib"))
        try:
            import torch
        except ModuleNotFoundError:
            sys.exit(
                "xaifast: PyTorch was not found, and the kernels are built for the PyTorch that "
                "you use. Install it first (pip install torch==2.13.0), then pip install xaifast; "
                "with a build tool that isolates completely (python -m build, uv), pass "
                "--no-isolation (uv: --no-build-isolation)."
            )
    return torch


torch = import_torch()
from torch.utils import cpp_extension  # noqa: E402


def with_cuda() -> bool:
    """XAIFAST_CUDA if it is set, else whether PyTorch was built with CUDA and nvcc is there."""
    wish = os.environ.get("XAIFAST_CUDA", "auto")
    if wish not in ("auto", "0", "1"):
        sys.exit(f"xaifast: XAIFAST_CUDA must be 0, 1 or auto, got {wish!r}.")
    home = cpp_extension.CUDA_HOME
    nvcc = home is not None and (Path(home) / "bin" / "nvcc").exists()
    possible = torch.version.cuda is not None and nvcc
    if wish == "1" and not possible:
        sys.exit(
            f"xaifast: XAIFAST_CUDA=1, but torch {torch.__version__} was built for CUDA "
            f"{torch.version.cuda} and CUDA_HOME is {home}. Install a CUDA build of PyTorch and "
            "its nvcc (set CUDA_HOME), or use XAIFAST_CUDA=0."
        )
    return possible and wish != "0"


def extension(cuda: bool):
    """The one extension module, with or without the CUDA half."""
    sources = sorted(
        str(path.relative_to(ROOT))
        for pattern in ("*.cpp", "*/*.cpp") + (("*/*.cu",) if cuda else ())
        for path in (ROOT / "csrc").glob(pattern)
        if path.parent.name != "tests" and (cuda or not path.name.endswith("_cuda.cpp"))
    )
    common = ["-O3", "-g0", "-std=c++20"]
    # No fused multiply-add: every instruction set gives the same result, and x - x stays 0.
    cxx = [*common, "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
    cxx += ["-Wall"]
    cxx += ["-DAT_PER_OPERATOR_HEADERS", "-DTORCH_ASSERT_ONLY_METHOD_OPERATORS"]
    link = ["-fopenmp"]
    if os.environ.get("XAIFAST_SANITIZE"):
        flag = "-fsanitize=" + os.environ["XAIFAST_SANITIZE"]
        # The resolver of a cloned function runs before the sanitizer is ready.
        cxx += [flag, "-fno-omit-frame-pointer", "-g", "-O1", "-DXAI_NO_CLONES"]
        link += [flag]
    flags = {"cxx": cxx}
    if cuda:
        archs = os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ARCHITECTURES)
        cxx += [
            "-DXAIFAST_WITH_CUDA",
            f'-DXAIFAST_CUDA_ARCHS="{archs}"',
            f'-DXAIFAST_CUDA_VERSION="{torch.version.cuda}"',
        ]
        flags["nvcc"] = ["-O3", "-std=c++20"]  # nvcc knows no -g0
    kind = cpp_extension.CUDAExtension if cuda else cpp_extension.CppExtension
    return kind(
        "xaifast._C",
        sources,
        include_dirs=[str(ROOT / "csrc")],
        extra_compile_args=flags,
        extra_link_args=link,
    )


major, minor = torch.__version__.split(".")[:2]
setup(
    ext_modules=[extension(with_cuda())],
    cmdclass={"build_ext": cpp_extension.BuildExtension},
    # A C++ extension fits the PyTorch it was built for and no other: say so in the wheel.
    install_requires=[f"torch=={major}.{minor}.*", "numpy", "tqdm"],
)
