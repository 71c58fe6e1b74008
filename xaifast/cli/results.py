"""The results of `xaifast explain`: a folder whose files are whole, and its manifest.

Every file is written beside its place and moved there by `os.replace`, which replaces the name and
never follows a link. The manifest names a file before the file is written, so a run that was killed
knows which files are its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import word, wrong_value
from .failures import Status, failing

MANIFEST, FORMAT = "manifest.json", "xaifast explain 1"
SUFFIXES = (".npy", ".png")  # of the files of a result
PREFIX, SUFFIX = ".xaifast-", ".tmp"  # of files that are being written
PENDING, DONE, FAILED = "pending", "done", "failed"
PAUSE = 1.0  # seconds between manifests, and at least 20 times as long as one takes to write


@dataclass
class Entry:
    """One input explained by one method."""

    path: str
    sha256: str | None
    settings: str  # key of the manifest's settings
    status: str = PENDING
    files: dict[str, str] = field(default_factory=dict)  # name -> hash
    target: Any = None
    output: float | None = None
    relevance: float | None = None
    error: str | None = None

    def explains(self, other: Entry) -> bool:
        """Whether it is of the input and the settings that another one is of."""
        return (self.sha256, self.settings) == (other.sha256, other.settings)


def _hash(place: Path) -> str | None:
    """The hash of a result, or None where there is no such file."""
    if place.is_symlink() or not place.is_file():
        return None
    return hashlib.sha256(place.read_bytes()).hexdigest()


def make_folder(path: Path) -> Path:
    """Make the folder of results; return where it is, links followed once and for all."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        return path.resolve(strict=True)
    except OSError as error:
        raise wrong_value(
            "--out", f"must be a folder that can be made ({error.strerror})", str(path),
            "Name another one.",
        ) from error  # fmt: skip


def replace(path: Path, data: bytes) -> None:
    """Write a file that is there as a whole or not at all; a link of its name is not followed."""
    half = path.with_name(f"{PREFIX}{secrets.token_hex(8)}{SUFFIX}")

    def say(error: BaseException) -> str:
        return word(str(path), "must be writable", str(error), "Free space, or change --out.")

    with failing(Status.OUTPUT, OSError, say=say):
        try:
            with open(half, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(half, path)
        finally:
            with suppress(OSError):
                half.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of the folder while this one lasts, where the system can."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise wrong_value(
                "--out", "must be used by one run at a time", str(folder),
                "Wait for the other run, or name another folder.",
            ) from error  # fmt: skip
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


class Results:
    """The folder of results and its manifest.

    force: replace results; resume: keep those that are complete.
    """

    def __init__(self, folder: Path, force: bool, resume: bool) -> None:
        self.folder, self.force, self.resume = folder, force, resume
        self.settings: dict[str, dict[str, Any]] = {}
        self.entries: dict[str, Entry] = {}
        self._written, self._pause = 0.0, 0.0
        self._read()

    def _read(self) -> None:
        path = self.folder / MANIFEST
        if not os.path.lexists(path):
            return
        try:
            kept = json.loads(path.read_bytes())
            if kept["format"] != FORMAT:
                raise ValueError(f"format {kept['format']!r}")
            self.settings = dict(kept["settings"])
            self.entries = {name: Entry(**entry) for name, entry in kept["results"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise wrong_value(
                "--out", f"must hold no other {MANIFEST} ({type(error).__name__})",
                str(self.folder), "Name another folder, or move that file.",
            ) from error  # fmt: skip

    def settle(self, settings: dict[str, Any]) -> str:
        """Enter the settings of a method; return their key."""
        text = json.dumps(settings, sort_keys=True, default=str)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.settings[key] = json.loads(text)
        return key

    def plan(self, wanted: dict[str, Entry]) -> set[str]:
        """Enter what will be written; return the names of what is complete already."""
        complete = set()
        for name, entry in wanted.items():
            kept = self.entries.get(name)
            own = kept if kept and self.resume and kept.explains(entry) else None
            if own and self._is_complete(own):
                complete.add(name)
                continue
            for suffix in SUFFIXES:
                self._check_free(self.folder / f"{name}{suffix}", own)
        self.entries.update({k: v for k, v in wanted.items() if k not in complete})
        if self.resume or self.force:
            self._sweep()
        self.save()
        return complete

    def _is_complete(self, kept: Entry) -> bool:
        return kept.status == DONE and all(
            _hash(self.folder / file) == digest for file, digest in kept.files.items()
        )

    def _check_free(self, place: Path, own: Entry | None) -> None:
        """Refuse to replace a file, unless asked to or written by the run that is resumed."""
        if not os.path.lexists(place):
            return
        if place.is_dir() and not place.is_symlink():
            raise wrong_value(
                "--out", "must hold no folder of the name of a result", str(place),
                "Name another one.",
            )  # fmt: skip
        if self.force or (
            own and (own.status == PENDING or own.files.get(place.name) == _hash(place))
        ):
            return
        why = "are of another input or setting, or were changed" if self.resume else "exist"
        raise wrong_value(
            "--out", f"must hold no results of these names, but some {why}", str(place),
            "Replace them with --force, go on with --resume, or name another folder.",
        )  # fmt: skip

    def _sweep(self) -> None:
        """Remove what a killed run was writing."""
        for rest in self.folder.glob(f"{PREFIX}*{SUFFIX}"):
            rest.unlink(missing_ok=True)

    def keep(self, name: str, parts: dict[str, bytes], **facts: Any) -> None:
        """Write the files of a result, and say in the manifest that it is done."""
        entry = self.entries[name]
        entry.files = {}
        for suffix in SUFFIXES:
            place, data = self.folder / f"{name}{suffix}", parts.get(suffix)
            if data is None:  # a picture of the result that this one replaces
                place.unlink(missing_ok=True)
                continue
            replace(place, data)
            entry.files[f"{name}{suffix}"] = hashlib.sha256(data).hexdigest()
        for fact, value in facts.items():
            setattr(entry, fact, value)
        entry.status, entry.error = DONE, None

    def fail(self, name: str, error: str) -> None:
        """Say in the manifest that a result failed."""
        self.entries[name].status, self.entries[name].error = FAILED, error

    def save_now_and_then(self) -> None:
        """Save the manifest unless that was done just now: a long one takes long."""
        if time.monotonic() - self._written > self._pause:
            self.save()

    def save(self) -> None:
        """Write the manifest."""
        begin = time.monotonic()
        used = {entry.settings for entry in self.entries.values()}
        content = {
            "format": FORMAT,
            "settings": {k: v for k, v in sorted(self.settings.items()) if k in used},
            "results": {k: asdict(v) for k, v in sorted(self.entries.items())},
        }
        replace(self.folder / MANIFEST, (json.dumps(content, indent=1) + "\n").encode())
        self._written = time.monotonic()
        self._pause = max(PAUSE, 20 * (self._written - begin))
