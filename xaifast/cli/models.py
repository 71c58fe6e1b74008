"""The model of `xaifast explain`: imported, made, loaded with weights, and hashed."""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import wrong_type, wrong_value
from ..viz.optional import short


def load(name: str, weights: Path | None) -> nn.Module:
    """Make the model that MODULE:FACTORY names, with its weights, in evaluation mode."""
    with _current_folder_last(), redirect_stdout(sys.stderr):  # stdout is for results
        factory = _factory(name)
        model = factory if isinstance(factory, nn.Module) else _made(factory, name)
    if not isinstance(model, nn.Module):
        raise wrong_type(
            "--model", "must make an nn.Module", f"{name}() of type {type(model).__name__}",
            "Return the model.",
        )  # fmt: skip
    if weights is not None:
        _load_weights(model, weights)
    return model.eval()


@contextmanager
def _current_folder_last() -> Iterator[None]:
    """Import from the current folder what is found nowhere else: its torch.py shadows nothing."""
    before, here = list(sys.path), str(Path.cwd())
    sys.path[:] = [p for p in before if p not in ("", here)] + [here]
    try:
        yield
    finally:
        sys.path[:] = before


def _factory(name: str) -> Callable[[], object]:
    module_name, _, attribute = name.partition(":")
    if not (module_name and attribute):
        raise wrong_value(
            "--model", "must be MODULE:FACTORY", repr(name), "Such as torchvision.models:resnet18."
        )
    if module_name.endswith(".py") or "/" in module_name:
        dotted = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise wrong_value(
            "--model", "must name a module, not a file", repr(name),
            f"Did you mean {dotted}:{attribute}?",
        )  # fmt: skip
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise wrong_value(
            "--model", f"must name a module that can be imported ({_told(error)})", repr(name),
            "Run xaifast in the folder of the module, or install its package.",
        ) from error  # fmt: skip
    if not callable(getattr(module, attribute, None)):
        known = [name for name, value in vars(module).items() if callable(value)]
        close = get_close_matches(attribute, known, 1)
        raise wrong_value(
            "--model", f"must name a function or class of {_place(module)}", repr(attribute),
            f"Did you mean {close[0]}?" if close else f"It has {', '.join(known) or 'none'}.",
        )  # fmt: skip
    return getattr(module, attribute)


def _place(module: Any) -> str:
    file = getattr(module, "__file__", None)
    return f"{module.__name__} ({file})" if file else module.__name__


def _made(factory: Callable[[], object], name: str) -> object:
    try:
        return factory()
    except (Exception, SystemExit) as error:
        raise wrong_value(
            "--model", f"must be callable without arguments ({_told(error)})", repr(name),
            "Write a function that makes your model, and name that.",
        ) from error  # fmt: skip


def _told(error: BaseException) -> str:
    return f"it calls sys.exit({error.code!r})" if isinstance(error, SystemExit) else short(error)


def _load_weights(model: nn.Module, path: Path) -> None:
    if not path.exists():
        raise wrong_value(
            "--weights", "must exist", str(path), "Check the path and the current folder."
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise wrong_value(
            "--weights", f"must be tensors that torch.save wrote ({type(error).__name__})",
            str(path), "Save them with torch.save(model.state_dict(), path).",
        ) from error  # fmt: skip
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    try:
        model.load_state_dict(state)
    except Exception as error:
        raise wrong_value(
            "--weights", f"must fit {type(model).__name__} ({short(error)})", str(path),
            "Check that the factory makes the model that was saved.",
        ) from error  # fmt: skip


def dtype_of(model: nn.Module) -> torch.dtype:
    """The type of the model's floating parameters: that of its inputs."""
    found = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(found, torch.get_default_dtype())


def fingerprint(model: nn.Module) -> str:
    """The hash of a model's layers, as it prints them, and of all that its state_dict holds."""
    digest = hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", repr(model)).encode())
    for name, value in model.state_dict().items():
        digest.update(f"\n{name} ".encode())
        if not isinstance(value, torch.Tensor) or nn.parameter.is_lazy(value):
            digest.update(type(value).__name__.encode())
            continue
        digest.update(f"{value.dtype} {list(value.shape)} ".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def code_hash(name: str) -> str | None:
    """The hash of the file that the factory lies in, or None where it has none."""
    file = getattr(sys.modules.get(name.partition(":")[0]), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else None
