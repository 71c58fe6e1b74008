"""The command `xaifast`: info, methods, demo, explain.

Errors of the user's making are one line on stderr and exit status 2. What loads the native library
is imported by the commands, so that a library that does not fit is such a line too.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from . import __version__
from .errors import InputError, MissingPackageError, XaifastError, wrong_type, wrong_value
from .viz import grid, heatmap, to_image
from .viz.optional import need, short
from .viz.reading import FILES, IMAGES, Reader

if TYPE_CHECKING:
    from .catalogue import Method

BOUNDS = ("low", "high")

# ---- words on the command line ---------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Words its errors as the rest of the package does, and takes --low -1,-1,-1."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._negative_number_matcher = re.compile(r"^-[\d.]")

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}. See {self.prog} --help.")


def _target(text: str) -> int | tuple[int, ...] | str:
    if text == "max":
        return text
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be an int, 'max', or ints with commas for a dense output (3,10,12); got {text!r}"
        ) from None
    return numbers if len(numbers) > 1 else numbers[0]


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be a number, or one for each channel with commas (0.5,0.5,0.5); got {text!r}"
        ) from None


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals):
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, such as n_steps=100; got {text!r}")
    if name == "layer":  # a path, even if it is a number
        return name, value
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value  # a word, such as the path of a layer


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"must be HxW, such as 224x224; got {text!r}")
    return int(height), int(width)


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"must be an int of at least 1; got {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="xaifast", description="Fast, exact explanations of PyTorch models.")
    parser.set_defaults(run=_info)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND")
    info = commands.add_parser("info", help="print versions and devices (the default)")
    info.set_defaults(run=_info)
    listing = commands.add_parser("methods", help="list the methods that --method knows")
    listing.set_defaults(run=_methods)
    demo = commands.add_parser("demo", help="train a small network on digits and explain it")
    demo.add_argument("--out", type=Path, default=Path("xaifast-demo"), help="default xaifast-demo")
    demo.set_defaults(run=_demo)
    explain = commands.add_parser("explain", help="explain your own model and inputs")
    _add_model(explain)
    _add_reading(explain)
    explain.set_defaults(run=_explain)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", required=True, metavar="MODULE:FACTORY",
        help="function without arguments (or class) that makes the nn.Module; modules of the "
        "current folder are found")  # fmt: skip
    add("--weights", type=Path, metavar="FILE", help="state_dict to load, as torch.save wrote it")
    add("--method", required=True, metavar="NAME", help="see `xaifast methods`")
    add("--target", type=_target, default="max", help="output to explain: an int, ints with "
        "commas for a dense output (3,10,12), or max, the predicted class (default)")  # fmt: skip
    add("--start", choices=("output", "one", "log_odds"), default="output",
        help="relevance to start with; default output")  # fmt: skip
    add("--option", type=_option, action="append", default=[], metavar="NAME=VALUE",
        help="of the method (n_steps=100, layer=features.3); may be repeated")  # fmt: skip
    for bound in BOUNDS:
        add(f"--{bound}", type=_numbers, metavar="NUMBER", help=f"{bound}est value that an input "
            "can have, as the model gets it (after --mean and --std); one, or one for each channel "
            "(--low=-2.1,-2.0,-1.8)")  # fmt: skip


def _add_reading(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--input", required=True, nargs="+", type=Path, metavar="PATH",
        help="images (png, jpg: [C, H, W] in [0, 1]), arrays (npy: one sample, as the model takes "
        "it, without the batch dimension), or folders of these")  # fmt: skip
    add("--size", type=_size, metavar="HxW", help="resize images")
    add("--mean", type=_numbers, metavar="A,B,C", help="subtract from images, for each channel")
    add("--std", type=_numbers, metavar="A,B,C", help="then divide images by it")
    add("--batch", type=_positive, default=16, metavar="N", help="samples at once; default 16")
    add("--out", type=Path, default=Path("xaifast-out"), help="default xaifast-out")
    add("--progress", action="store_true", help="show a progress bar even if stderr is no terminal")


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        Its words; default those of the process.

    Returns
    -------
    int
        The exit status: 0, 2 after an error of the user's making, 130 when interrupted.

    Examples
    --------
    >>> from xaifast import cli
    >>> cli.main(["methods"])  # doctest: +ELLIPSIS
    Deconvolution ...
    0
    """
    try:
        args = _parser().parse_args(argv)
        args.run(args)
    except (XaifastError, OSError) as error:
        print(f"xaifast: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("xaifast: interrupted", file=sys.stderr)
        return 130
    return 0


# ---- info, methods, demo ---------------------------------------------------------------------


def _info(args: argparse.Namespace) -> None:
    from . import build

    facts = build.info()
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:{width}}  {value}")


def _methods(args: argparse.Namespace) -> None:
    from .catalogue import methods

    lines = []
    for m in methods():
        needs = " ".join(f"--{n}" if n in BOUNDS else f"--option {n}=..." for n in m.required)
        lines.append(f"{m} Needs {needs}." if needs else str(m))
    print("\n".join(lines))


def _demo(args: argparse.Namespace) -> None:
    from . import demo

    _make_folder(args.out)
    demo.run(args.out)


# ---- explain: the method and the model -------------------------------------------------------


def _method(args: argparse.Namespace) -> tuple[Method, dict[str, Any]]:
    """The method, and its options; bounds are checked here, as they have options of their own."""
    from .catalogue import find

    method = find(args.method, "--method")
    bounds = {k: v for k in BOUNDS if (v := getattr(args, k)) is not None}
    given = " ".join(f"--{k}" for k in bounds) or "neither"
    needs = set(BOUNDS) <= set(method.required)
    if needs and len(bounds) < len(BOUNDS):
        raise wrong_value(
            "--method", f"{args.method} needs --low and --high", given,
            "Give the range of the inputs as the model gets them (images: --low 0 --high 1).",
        )  # fmt: skip
    if bounds and not needs:
        raise wrong_value(
            "--method", f"{args.method} takes no --low and no --high", given,
            "Leave them out, or choose a method with a box (see `xaifast methods`).",
        )  # fmt: skip
    options = {**dict(args.option), **{k: _bound(v) for k, v in bounds.items()}}
    if args.start != "output":
        options["start"] = args.start
    return method, options


def _bound(values: list[float]) -> float | Tensor:
    return values[0] if len(values) == 1 else torch.tensor(values).view(-1, 1, 1)


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(here)


def _factory(name: str) -> Callable[[], object]:
    module_name, _, attribute = name.partition(":")
    if not (module_name and attribute):
        raise wrong_value(
            "--model", "must be MODULE:FACTORY", repr(name), "Such as torchvision.models:resnet18."
        )
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise wrong_value(
            "--model", f"must name a module that can be imported ({short(error)})", repr(name),
            "Run xaifast in the folder of the module, or install its package.",
        ) from error  # fmt: skip
    if not callable(getattr(module, attribute, None)):
        known = [name for name, value in vars(module).items() if callable(value)]
        close = get_close_matches(attribute, known, 1)
        raise wrong_value(
            "--model", f"must name a function or class of {module_name}", repr(attribute),
            f"Did you mean {close[0]}?" if close else f"It has {', '.join(known) or 'none'}.",
        )  # fmt: skip
    return getattr(module, attribute)


def _model(name: str, weights: Path | None) -> nn.Module:
    with _current_folder_importable():
        factory = _factory(name)
        try:
            model = factory if isinstance(factory, nn.Module) else factory()
        except Exception as error:
            raise wrong_value(
                "--model", f"must be callable without arguments ({short(error)})", repr(name),
                "Write a function that makes your model, and name that.",
            ) from error  # fmt: skip
    if not isinstance(model, nn.Module):
        raise wrong_type(
            "--model", "must make an nn.Module", f"{name}() of type {type(model).__name__}",
            "Return the model.",
        )  # fmt: skip
    if weights is not None:
        _load_weights(model, weights)
    return model.eval()


def _load_weights(model: nn.Module, path: Path) -> None:
    _check_exists("--weights", path)
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


# ---- explain: files --------------------------------------------------------------------------


def _check_exists(who: str, path: Path) -> None:
    if not path.exists():
        raise wrong_value(who, "must exist", str(path), "Check the path and the current folder.")


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise wrong_value(
            "--out", f"must be a folder that can be made ({error.strerror})", str(path),
            "Name another one.",
        ) from error  # fmt: skip


def _files(paths: Iterable[Path], out: Path) -> list[Path]:
    """All inputs, folders replaced by what is in them; nothing may overwrite anything."""
    files = [file for path in paths for file in _files_of(path)]
    taken: dict[str, Path] = {}
    for file in files:
        other = taken.setdefault(file.stem, file)
        if other is not file:
            raise wrong_value(
                "--input", f"must have different names, as {file.stem}.npy and .png are written",
                f"{other} and {file}", "Explain them by two calls with two --out folders.",
            )  # fmt: skip
        if out.resolve() == file.resolve().parent:
            raise wrong_value(
                "--out", "must not be a folder of inputs, as results bear their names", str(out),
                "Name another one.",
            )  # fmt: skip
    return files


def _files_of(path: Path) -> list[Path]:
    _check_exists("--input", path)
    if not path.is_dir():
        if path.suffix.lower() not in FILES:
            raise wrong_value(
                "--input", f"must be a folder or one of {', '.join(FILES)}", str(path),
                "Save other data with numpy.save.",
            )  # fmt: skip
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in FILES)
    if not found:
        raise wrong_value(
            "--input", f"must hold some of {', '.join(FILES)}", str(path), "Name another folder."
        )
    return found


# ---- explain: the work -----------------------------------------------------------------------


def _explain(args: argparse.Namespace) -> None:
    from .catalogue import bind

    need("explain", "PIL.Image", "pillow")
    method, options = _method(args)
    files = _files(args.input, args.out)
    _check_reading(args, files)
    model = _model(args.model, args.weights)
    attribute = bind(method, model, options)
    read = Reader(args.size, args.mean, args.std, _dtype(model))
    kinds = {file: _checked(read, file, args.low, args.high) for file in files}
    _make_folder(args.out)
    with _bar(len(files), args.progress) or nullcontext() as bar:
        for batch in _batches(kinds, args.batch):
            for line in _explain_batch(model, attribute, read, batch, args):
                bar.write(line) if bar else print(line)
            if bar:
                bar.update(len(batch))
    print(f"{len(files)} explained: relevance (.npy) and pictures (.png) in {args.out}")


def _dtype(model: nn.Module) -> Any:
    found = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(found, torch.get_default_dtype())


def _check_reading(args: argparse.Namespace, files: list[Path]) -> None:
    given = [f"--{name}" for name in ("size", "mean", "std") if getattr(args, name) is not None]
    if given and not any(file.suffix.lower() in IMAGES for file in files):
        raise wrong_value(
            " ".join(given), "is for images", "arrays only", "Arrays are taken as they are."
        )
    if args.std is not None and 0 in args.std:
        raise wrong_value("--std", "must not be zero", args.std, "Use 1 to leave a channel as is.")


def _checked(
    read: Reader, file: Path, low: list[float] | None, high: list[float] | None
) -> tuple[torch.Size, torch.dtype]:
    """Read a file, before any work; return what its sample must share with others of its batch."""
    x = read(file)
    if low is not None and high is not None:
        _check_bound(file, x.double(), "--low", low, 1)
        _check_bound(file, x.double(), "--high", high, -1)
    return x.shape, x.dtype


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


def _explain_batch(
    model: nn.Module,
    attribute: Callable[..., Any],
    read: Reader,
    files: list[Path],
    args: argparse.Namespace,
) -> Iterator[str]:
    """Explain some files and write the results; yield a line for each."""
    x = torch.stack([read(file) for file in files])
    output = _forward(model, x, files[0])
    target = _resolved(args.target, output)
    relevance = attribute(x, target)
    if not isinstance(relevance, torch.Tensor) or len(relevance) != len(x):
        raise wrong_value(
            "--option", "must leave one map for each input", f"a {type(relevance).__name__}",
            "Leave out what returns more (return_convergence_delta, layers).",
        )  # fmt: skip
    for i, file in enumerate(files):
        t = target[i] if isinstance(target, list) else target
        value = output[i] if t is None else output[i][t]
        drawn = _write(args.out / file.stem, x[i], relevance[i])
        yield (
            f"{file}  target {str(t).replace(' ', '')}  output {float(value):.6g}  "
            f"relevance {float(relevance[i].double().sum()):.6g}{'' if drawn else '  (no picture)'}"
        )


def _forward(model: nn.Module, x: Tensor, file: Path) -> Tensor:
    try:
        with torch.no_grad():
            output = model(x)
    except Exception as error:
        raise wrong_value(
            "--input", f"must be samples that the model takes ({short(error)})",
            f"{file} of shape {list(x.shape[1:])}", "Check channels and size (--size HxW resizes "
            "images); leave the batch dimension out of arrays; save images as floats (arrays of "
            "integers are token numbers).",
        ) from error  # fmt: skip
    if not isinstance(output, torch.Tensor):
        raise wrong_type(
            "--model", "must return one tensor", f"a {type(output).__name__}",
            "Wrap it in a module that returns the tensor to explain.",
        )  # fmt: skip
    return output


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


def _write(name: Path, x: Tensor, R: Tensor) -> bool:
    """Write NAME.npy and, if it has at most 3 dimensions, NAME.png; whether that was written."""
    np.save(f"{name}.npy", (R if R.element_size() > 2 else R.float()).numpy())
    if R.dim() > 3:
        return False
    pictures = [to_image(_plane(x)), heatmap(_plane(R))]
    grid([pictures], ["input", "relevance"], cell=224).save(f"{name}.png")
    return True


def _plane(x: Tensor) -> Tensor:
    """A vector as a strip that can be seen; others as they are."""
    return x.expand(max(1, len(x) // 8), -1) if x.dim() == 1 else x
