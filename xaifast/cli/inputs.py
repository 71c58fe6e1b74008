"""The inputs of `xaifast explain`: which files they are, and the samples in them."""

from __future__ import annotations

import glob
import hashlib
import os
import stat
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import wrong_type, wrong_value
from ..viz.optional import need, short
from ..viz.reading import FILES, IMAGES, Reader

KNOWN = (*FILES, ".npz", ".pt")
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")  # whatever the name says
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I", "I;16", "I;16B", "I;16L")
MAX_PIXELS = 2**26  # 8192 x 8192; a small file can claim any size
MAX_BYTES = 2**31  # unpacked, of an array in a .npz or .pt file
LONGEST = 150  # bytes of an input's name that its results bear

# ---- which files ------------------------------------------------------------------------------


def find(words: Iterable[Path], recursive: bool, out: Path) -> list[Path]:
    """All inputs, each once, in order; folders and patterns replaced by what they hold."""
    files: dict[str, Path] = {}
    for word in words:
        for file in _files_of(word, recursive, _real(out)):
            files.setdefault(os.path.abspath(file), file)
    return list(files.values())


def check_apart(files: list[Path], out: Path) -> None:
    """Refuse to write into a folder of inputs, be they named by links or not."""
    for file in files:
        if _real(out) in (_real(file).parent, _real(file.parent)):
            raise wrong_value(
                "--out", "must not be a folder of inputs, as results bear their names", str(out),
                "Name another one.",
            )  # fmt: skip


def _files_of(word: Path, recursive: bool, out: Path) -> list[Path]:
    if not os.path.lexists(word) and glob.has_magic(str(word)):
        found = [Path(p) for p in sorted(glob.glob(str(word), recursive=True))]
        known = [p for p in found if _is_known(p) and not p.is_dir()]
        return _some(known, word)
    if not os.path.lexists(word):
        raise wrong_value(
            "--input", "must exist", str(word), "Check the path and the current folder."
        )
    if word.is_dir():
        return _some(sorted(_walk(word, recursive, out)), word)
    if not _is_known(word):
        raise wrong_value(
            "--input", f"must be a folder or one of {', '.join(KNOWN)}", str(word),
            "Save other data with numpy.save.",
        )  # fmt: skip
    return [word]


def _real(path: Path) -> Path:
    """Where a path leads; unlike Path.resolve it does not stop at links that lead in circles."""
    return Path(os.path.realpath(path))


def _is_known(path: Path) -> bool:
    return path.suffix.lower() in KNOWN


def _walk(folder: Path, recursive: bool, out: Path) -> Iterator[Path]:
    """The files of a folder; hidden ones, the results' folder and linked folders are left out."""

    def refuse(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=refuse):
        here = Path(place)
        hidden = [n for n in folders if n.startswith(".") or _real(here / n) == out]
        folders[:] = sorted(set(folders) - set(hidden)) if recursive else []
        yield from (here / n for n in names if not n.startswith(".") and _is_known(here / n))


def _some(found: list[Path], word: Path) -> list[Path]:
    if not found:
        raise wrong_value(
            "--input", f"must hold some of {', '.join(KNOWN)}", str(word),
            "Name another folder, or look into its folders too with --recursive.",
        )  # fmt: skip
    return found


def names(files: list[Path]) -> dict[Path, str]:
    """The name that the results of each file bear: its own, with a mark where two are alike."""
    alike = Counter(file.name.casefold() for file in files)  # some disks do not tell cases apart
    named = {}
    for file in files:
        name = os.fsencode(file.name)
        mark = hashlib.sha256(os.fsencode(os.path.abspath(file))).hexdigest()[:8]
        long = len(name) > LONGEST
        short_name = os.fsdecode(name[:LONGEST]) if long else file.name
        marked = long or alike[file.name.casefold()] > 1
        named[file] = f"{short_name}-{mark}" if marked else short_name
    return named


def digest(path: Path) -> str:
    """The hash of a file's content; only a plain file is read, as others may never end."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise wrong_value(
                "--input", "must be a file, no pipe and no device", str(path), "Copy it to a file."
            )
        with open(path, "rb") as file:
            return _hash(file)
    except OSError as error:
        raise wrong_value(
            "--input", f"must be readable ({error.strerror})", str(path),
            "Check its permissions and where it links to.",
        ) from error  # fmt: skip


def _hash(file: Any) -> str:
    sha = hashlib.sha256()
    while block := file.read(2**20):
        sha.update(block)
    return sha.hexdigest()


# ---- what is in them --------------------------------------------------------------------------


def sample(read: Reader, path: Path) -> Tensor:
    """The sample of a file, without the batch dimension, as the model takes it."""
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return _typed(read, path, torch.from_numpy(_packed(path)))
    if suffix == ".pt":
        return _typed(read, path, _tensor(path))
    if suffix in IMAGES:
        _check_image(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's about sizes and palettes: checked here
        return read(path)


def _check_image(path: Path) -> None:
    """Refuse an image whose pixels would not say what a viewer shows."""
    image = need("explain", "PIL.Image", "pillow")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with image.open(path, formats=FORMATS) as opened:
                _check_header(path, opened)
                if opened.has_transparency_data:
                    _check_opaque(path, opened)
    except (OSError, SyntaxError, MemoryError, image.DecompressionBombError) as error:
        raise wrong_value(
            "input", f"must be an image that can be read ({short(error)})", str(path),
            "Convert it to png.",
        ) from error  # fmt: skip


def _check_header(path: Path, image: Any) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise wrong_value(
            "input", f"must be an image of at most {MAX_PIXELS} pixels", f"{width} x {height} in "
            f"{path}", "Make it smaller by an image program.",
        )  # fmt: skip
    if image.mode not in MODES:
        raise wrong_value(
            "input", "must be an image in RGB, grey or a palette", f"{image.mode} in {path}",
            "Convert it to RGB with its colour profile.",
        )  # fmt: skip
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # MPO: a photo and its preview
        raise wrong_value(
            "input", "must be one image", f"{image.n_frames} frames in {path}",
            "Save the frame to explain as png.",
        )  # fmt: skip


def _check_opaque(path: Path, image: Any) -> None:
    least = image.convert("RGBA").getextrema()[3][0]
    if least < 255:
        raise wrong_value(
            "input", "must be opaque, as the model sees no background", f"an alpha of {least} in "
            f"{path}", "Put it on the background that your model was trained with.",
        )  # fmt: skip


def _packed(path: Path) -> np.ndarray:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(part.file_size for part in archive.infolist())
        if size > MAX_BYTES:
            raise ValueError(f"{size} bytes unpacked, more than {MAX_BYTES}")
        with np.load(path, allow_pickle=False) as arrays:
            if len(arrays.files) != 1:
                raise ValueError(f"{len(arrays.files)} arrays in it")
            return arrays[arrays.files[0]]
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise wrong_value(
            "input", f"must be one array that numpy.savez wrote ({short(error)})", str(path),
            "Save one array of numbers, without objects.",
        ) from error  # fmt: skip


def _tensor(path: Path) -> Tensor:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if sum(part.file_size for part in archive.infolist()) > MAX_BYTES:
                    raise ValueError(f"more than {MAX_BYTES} bytes unpacked")
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise wrong_value(
            "input", f"must be a tensor that torch.save wrote ({type(error).__name__})", str(path),
            "Save one tensor, without other objects.",
        ) from error  # fmt: skip
    if not isinstance(found, Tensor) or found.layout != torch.strided or found.is_quantized:
        raise wrong_type(
            "input", f"{path} must hold one dense tensor", f"a {type(found).__name__}",
            "Save it with torch.save(tensor, path).",
        )  # fmt: skip
    return found.detach()


def _typed(read: Reader, path: Path, x: Tensor) -> Tensor:
    if not x.numel() or not x.dim() or x.is_complex() or x.dtype == torch.bool:
        raise wrong_type(
            "input", f"{path} must hold a sample [C, H, W] or [features] of real numbers", x,
            "Leave the batch dimension out.",
        )  # fmt: skip
    if not x.is_floating_point():
        return x.long()
    if not torch.isfinite(x).all():
        raise wrong_value("input", "must be finite", f"NaN or infinity in {path}", "Clean it.")
    return x.to(read.dtype)
