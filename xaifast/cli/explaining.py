"""`xaifast explain`: files through methods into a folder of results."""

from __future__ import annotations

import argparse
import io
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import __version__
from ..catalogue import Method, bind, methods
from ..catalogue import find as find_method
from ..errors import MissingPackageError, ModelError, word, wrong_type, wrong_value
from ..viz import grid, heatmap, to_image
from ..viz.optional import need, short
from ..viz.reading import IMAGES, Reader
from . import inputs, models
from .arguments import BOUNDS
from .failures import RunError, Status, failing
from .results import Entry, Results, locked, make_folder
from .words import printable, say, warn

ACCOUNTS = {"propagation": "of the start", "path": "of output minus baseline's"}
UNACCOUNTED = ("ContextualDecomposition",)  # of these families, but its maps do not add up

# ---- the methods ------------------------------------------------------------------------------


def _chosen(args: argparse.Namespace) -> dict[str, tuple[Method, dict[str, Any]]]:
    """The methods by name, each with its options."""
    found: dict[str, Method] = {}
    for name in (name for names in args.method for name in names):
        method = _found(name)
        if method.name in found:
            raise wrong_value(
                "--method", "must name each method once", repr(name), "Leave one out."
            )
        found[method.name] = method
    _check_bounds_taken(args, list(found.values()))
    options = {name: _options(args, method, found) for name, method in found.items()}
    return {name: (method, options[name]) for name, method in found.items()}


def _found(name: str) -> Method:
    """The method of a name; initials (IG) are refused with the name that they stand for."""
    initials = {"".join(c for c in m.name if c.isupper()): m.name for m in methods()}
    known = {m.name.upper() for m in methods()}
    if name.upper() in initials and name.upper() not in known:
        raise wrong_value(
            "--method",
            "must be a known name",
            repr(name),
            f"Did you mean {initials[name.upper()]}?",
        )
    return find_method(name, "--method")


def _check_bounds_taken(args: argparse.Namespace, chosen: list[Method]) -> None:
    given = " ".join(f"--{k}" for k in BOUNDS if getattr(args, k) is not None)
    boxed = [m.name for m in chosen if set(BOUNDS) <= set(m.required)]
    names = ", ".join(m.name for m in chosen)
    if boxed and given != "--low --high":
        raise wrong_value(
            "--method", f"{boxed[0]} needs --low and --high", given or "neither",
            "Give the range of the inputs as the model gets them (images: --low 0 --high 1).",
        )  # fmt: skip
    if given and not boxed:
        raise wrong_value(
            "--method", f"{names} takes no --low and no --high", given,
            "Leave them out, or choose a method with a box (see `xaifast methods`).",
        )  # fmt: skip


def _options(args: argparse.Namespace, method: Method, all_: dict[str, Method]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for given, value in args.option:
        owner, _, name = given.rpartition(".")
        if owner and find_method(owner, "--option").name not in all_:
            raise wrong_value(
                "--option", "must be of a method that --method names", repr(given),
                f"Those are {', '.join(all_)}.",
            )  # fmt: skip
        if not owner or find_method(owner, "--option").name == method.name:
            options[name] = value
    if set(BOUNDS) <= set(method.required):
        options |= {k: _bound(getattr(args, k)) for k in BOUNDS}
    if args.start != "output":
        options["start"] = args.start
    return options


def _bound(values: list[float]) -> float | Tensor:
    return values[0] if len(values) == 1 else torch.tensor(values).view(-1, 1, 1)


def _bound_to(model: nn.Module, method: Method, options: dict[str, Any]) -> Callable[..., Any]:
    try:
        return bind(method, model, options)
    except ModelError as error:  # other errors are of an option
        raise RunError(Status.EXPLAINER, str(error)) from error


def _settings(args: argparse.Namespace, model: nn.Module) -> dict[str, Any]:
    """All that a result depends on, beside the input and the method."""
    return {
        "xaifast": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "model": args.model,
        "model_code_sha256": models.code_hash(args.model),
        "model_sha256": models.fingerprint(model),
        "target": args.target,
        "start": args.start,
        "seed": args.seed,
        "size": args.size,
        "mean": args.mean,
        "std": args.std,
        "batch": args.batch,
    }


# ---- the run ----------------------------------------------------------------------------------


@dataclass
class Run:
    """One run: what is explained by which methods, and where the results go."""

    args: argparse.Namespace
    model: nn.Module
    read: Reader
    chosen: dict[str, tuple[Method, dict[str, Any]]]
    names: dict[Path, str]
    results: Results
    failed: int = 0
    done: int = 0
    complete: set[str] = field(default_factory=set)

    def key(self, file: Path, method: str) -> str:
        """The name of a result, without its suffix."""
        return f"{self.names[file]}.{method.replace(':', '-')}"

    def failure(self, file: Path, names: list[str], error: RunError) -> None:
        """Enter the failure of an input; raise it unless the run goes on."""
        if error.of_one_input:  # otherwise they stay pending, and a resumed run makes them
            for name in names:
                self.results.fail(name, str(error))
        if not (self.args.keep_going and error.of_one_input):
            raise error
        self.failed += 1
        warn(f"xaifast: {printable(file)}: {error}")


def run(args: argparse.Namespace) -> Status:
    """Explain all inputs; return whether all succeeded."""
    need("explain", "PIL.Image", "pillow")
    chosen = _chosen(args)
    with failing(Status.INPUT, OSError):
        files = inputs.find(args.input, args.recursive, args.out)
    inputs.check_apart(files, args.out)
    _check_reading(args, files)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        with failing(Status.MODEL):
            model = models.load(args.model, args.weights)
            read = Reader(args.size, args.mean, args.std, models.dtype_of(model))
        calls = {name: _bound_to(model, *choice) for name, choice in chosen.items()}
        hashes, kinds, unread = _looked_at(args, read, files)
        with failing(Status.OUTPUT, OSError):
            folder = make_folder(args.out)
        with ExitStack() as held:
            with failing(Status.OUTPUT, OSError):
                held.enter_context(locked(folder))
                results = Results(folder, args.force, args.resume)
                this = Run(args, model, read, chosen, inputs.names(files), results)
                _plan(this, files, hashes)
            try:
                _all(this, calls, kinds, unread)
            finally:
                results.save()
    return _told(this)


def _plan(this: Run, files: list[Path], hashes: dict[Path, str | None]) -> None:
    wanted: dict[str, Entry] = {}
    shared = _settings(this.args, this.model)
    for name, (_, options) in this.chosen.items():
        plain = {k: v.tolist() if isinstance(v, Tensor) else v for k, v in options.items()}
        settings = this.results.settle({**shared, "method": name, "options": plain})
        for file in files:
            wanted[this.key(file, name)] = Entry(str(file), hashes[file], settings)
    this.complete = this.results.plan(wanted)


def _all(
    this: Run, calls: dict[str, Callable[..., Any]], kinds: dict[Path, Any],
    unread: dict[Path, RunError],
) -> None:  # fmt: skip
    for file, error in unread.items():
        this.failure(file, [this.key(file, name) for name in calls], error)
    with _bar(len(kinds) * len(calls), this.args.progress) or nullcontext() as bar:
        for batch in _batches(kinds, this.args.batch):
            for name, call in calls.items():
                if any(this.key(file, name) not in this.complete for file in batch):
                    _batch(this, name, call, batch, bar)
                if bar:
                    bar.update(len(batch))


def _batch(this: Run, name: str, call: Callable[..., Any], batch: list[Path], bar: Any) -> None:
    """Explain a batch; where it fails and the run goes on, explain each of its inputs alone.

    A batch of which some results are complete is computed as a whole, so that a run that is resumed
    computes what it would have computed at first.
    """
    try:
        lines = list(_explained(this, name, call, batch))
    except RunError as error:
        alone = len(batch) == 1
        if alone or not (this.args.keep_going and error.of_one_input):
            keys = [this.key(file, name) for file in batch]
            this.failure(batch[0], [k for k in keys if k not in this.complete], error)
            return
        for file in batch:
            if this.key(file, name) not in this.complete:
                _batch(this, name, call, [file], bar)
        return
    for line in lines:
        if bar:
            bar.clear()
        say(line)
    this.results.save_now_and_then()


def _told(this: Run) -> Status:
    kept = f", {len(this.complete)} complete before" if this.complete else ""
    failed = f", {this.failed} failed" if this.failed else ""
    say(
        f"{this.done} explained{kept}{failed}: relevance (.npy), pictures (.png) and manifest.json "
        f"in {this.args.out}"
    )
    return Status.SOME_FAILED if this.failed else Status.DONE


def _check_reading(args: argparse.Namespace, files: list[Path]) -> None:
    given = [f"--{name}" for name in ("size", "mean", "std") if getattr(args, name) is not None]
    if given and not any(file.suffix.lower() in IMAGES for file in files):
        raise wrong_value(
            " ".join(given), "is for images", "arrays only", "Arrays are taken as they are."
        )
    if args.std is not None and 0 in args.std:
        raise wrong_value("--std", "must not be zero", args.std, "Use 1 to leave a channel as is.")
    if args.size is not None and args.size[0] * args.size[1] > inputs.MAX_PIXELS:
        raise wrong_value(
            "--size", f"must be at most {inputs.MAX_PIXELS} pixels", str(args.size), "Name fewer."
        )


def _looked_at(
    args: argparse.Namespace, read: Reader, files: list[Path]
) -> tuple[dict[Path, str | None], dict[Path, Any], dict[Path, RunError]]:
    """Read all files before any work: their hashes, what samples of a batch share, failures."""
    hashes: dict[Path, str | None] = {}
    kinds: dict[Path, Any] = {}
    unread: dict[Path, RunError] = {}
    for file in files:
        hashes[file] = None
        try:
            with failing(Status.INPUT, OSError, MemoryError):
                hashes[file] = inputs.digest(file)
                x = inputs.sample(read, file)
        except RunError as error:
            if not args.keep_going:
                raise
            unread[file] = error
            continue
        if args.low is not None and args.high is not None:
            _check_bound(file, x.double(), "--low", args.low, 1)
            _check_bound(file, x.double(), "--high", args.high, -1)
        kinds[file] = x.shape, x.dtype
    return hashes, kinds, unread


def _check_bound(file: Path, x: Tensor, name: str, values: list[float], sign: int) -> None:
    if len(values) > 1 and (x.dim() != 3 or len(values) != len(x)):
        raise wrong_value(
            name, f"must have one number, or one for each channel of {file}", values,
            f"The shape of that sample is {list(x.shape)}.",
        )  # fmt: skip
    bound = x.new_tensor(values).view(-1, *[1] * (x.dim() - 1))
    beyond = float((sign * (bound - x)).max())
    if beyond > 1e-4:
        raise wrong_value(
            name, f"must bound the inputs as the model gets them ({file} goes {beyond:.4g} beyond)",
            values, "With --mean and --std, images lie between (0 - mean) / std and "
            "(1 - mean) / std.",
        )  # fmt: skip


def _batches(kinds: dict[Path, Any], size: int) -> Iterator[list[Path]]:
    """Files whose samples are of the same kind, at most `size` at a time."""
    groups: dict[Any, list[Path]] = {}
    for file, kind in kinds.items():
        groups.setdefault(kind, []).append(file)
    for files in groups.values():
        for begin in range(0, len(files), size):
            yield files[begin : begin + size]


def _bar(total: int, demanded: bool) -> Any:
    """A progress bar on stderr if there is something to wait for, or None."""
    if not demanded and (total < 2 or not sys.stderr.isatty()):
        return None
    try:
        return need("--progress", "tqdm", "tqdm").tqdm(total=total, unit="input")
    except MissingPackageError:
        if demanded:
            raise
        return None


# ---- one batch --------------------------------------------------------------------------------


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw as at the start: a batch's results do not depend on the batches before it."""
    torch.manual_seed(seed)
    np_state = np.random.get_state()  # noqa: NPY002 (a user's model may draw from it)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(np_state)  # noqa: NPY002


def _explained(
    this: Run, name: str, attribute: Callable[..., Any], files: list[Path]
) -> Iterator[str]:
    """Explain some files and write the results; yield a line for each."""
    with failing(Status.INPUT, OSError, MemoryError):
        x = torch.stack([_unchanged(this, name, file) for file in files])
    with _seeded(this.args.seed):
        with failing(Status.INPUT):
            output = _forward(this.model, x, files[0])
        with failing(Status.MODEL):
            _check_output(output)
        target = _resolved(this.args.target, output)
        with failing(Status.EXPLAINER, Exception, say=partial(_failed, name)):
            relevance = attribute(x, target)
    if not isinstance(relevance, Tensor) or len(relevance) != len(x):
        raise wrong_value(
            "--option", "must leave one map for each input", f"a {type(relevance).__name__}",
            "Leave out what returns more (return_convergence_delta, layers).",
        )  # fmt: skip
    method = this.chosen[name][0]
    for i, file in enumerate(files):
        key = this.key(file, name)
        if key in this.complete:
            continue
        t = target[i] if isinstance(target, list) else target
        value = float(output[i] if t is None else output[i][t])
        total = float(relevance[i].double().sum())
        parts = {".npy": _array(relevance[i]), **_picture(x[i], relevance[i])}
        this.results.keep(key, parts, target=t, output=value, relevance=total)
        this.done += 1
        yield _line(file, method, t, value, total, ".png" in parts)


def _unchanged(this: Run, name: str, file: Path) -> Tensor:
    """The sample of a file, which must be the one whose hash the manifest has."""
    if inputs.digest(file) != this.results.entries[this.key(file, name)].sha256:
        raise wrong_value(
            "--input", "must stay as it is during the run", f"a change of {file}",
            "Start again with --resume when it is at rest.",
        )  # fmt: skip
    return inputs.sample(this.read, file)


def _failed(name: str, error: BaseException) -> str:
    return word(
        name, "must be able to explain the model", short(error), "Choose another method or option."
    )


def _line(file: Path, method: Method, t: Any, value: float, total: float, drawn: bool) -> str:
    """The sum of a map is printed where it has a meaning, with what it is a sum of."""
    account = None if method.name in UNACCOUNTED else ACCOUNTS.get(method.family)
    return (
        f"{printable(file)}  {method.name}  target {str(t).replace(' ', '')}  output {value:.6g}"
        + (f"  relevance {total:.6g} ({account})" if account else "")
        + ("" if drawn else "  (no picture)")
    )


def _forward(model: nn.Module, x: Tensor, file: Path) -> Tensor:
    try:
        with torch.no_grad():
            output = model(x.clone())
    except Exception as error:
        raise wrong_value(
            "--input", f"must be samples that the model takes ({short(error)})",
            f"{file} of shape {list(x.shape[1:])}", "Check channels and size (--size HxW resizes "
            "images); leave the batch dimension out of arrays; save images as floats (arrays of "
            "integers are token numbers).",
        ) from error  # fmt: skip
    return output


def _check_output(output: object) -> None:
    if not isinstance(output, torch.Tensor):
        raise wrong_type(
            "--model", "must return one tensor", f"a {type(output).__name__}",
            "Wrap it in a module that returns the tensor to explain.",
        )  # fmt: skip


def _resolved(target: Any, output: Tensor) -> Any:
    """The target as `LRP.attribute` takes it: "max" becomes the predicted classes."""
    sizes = output.shape[1:]
    if target == "max" and len(sizes) < 2:
        return output.argmax(1).tolist() if sizes else None
    numbers = target if isinstance(target, tuple) else (target,)
    fits = len(numbers) == len(sizes) and "max" not in numbers
    if not fits or any(not -n <= i < n for i, n in zip(numbers, sizes, strict=True)):
        shape = ", ".join(map(str, ("N", *sizes)))
        ranges = ", ".join(f"0 to {n - 1}" for n in sizes) or "no number"
        raise wrong_value(
            "--target", f"must fit an output of shape [{shape}]", ",".join(map(str, numbers)),
            f"Give {ranges}" + (", with commas between." if len(sizes) > 1 else ", or max."),
        )  # fmt: skip
    return target


def _array(R: Tensor) -> bytes:
    """The bytes of a .npy file; half precision as float32."""
    data = io.BytesIO()
    np.save(data, (R if R.element_size() > 2 else R.float()).detach().cpu().numpy())
    return data.getvalue()


def _picture(x: Tensor, R: Tensor) -> dict[str, bytes]:
    """The bytes of a .png file by its suffix; nothing for more than 3 dimensions."""
    if R.dim() > 3:
        return {}
    data = io.BytesIO()
    pictures = [to_image(_plane(x)), heatmap(_plane(R))]
    grid([pictures], ["input", "relevance"], cell=224).save(data, format="png")
    return {".png": data.getvalue()}


def _plane(x: Tensor) -> Tensor:
    """A vector as a strip that can be seen; others as they are."""
    return x.expand(max(1, len(x) // 8), -1) if x.dim() == 1 else x
