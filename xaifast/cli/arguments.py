"""The words of the command line: what they are called, and which values they take."""

from __future__ import annotations

import argparse
import ast
import re
from pathlib import Path
from typing import Any, NoReturn

from .. import __version__
from ..errors import InputError
from .failures import EXPLAINED

BOUNDS = ("low", "high")
EXAMPLES = """examples:
  xaifast explain --model torchvision.models:resnet18 --weights r18.pt --input photos \\
      --size 224x224 --method EpsilonPlus,Saliency --out maps
  xaifast explain --model net:make --input table.npy --method IntegratedGradients \\
      --option n_steps=100 --target 1
  xaifast explain ... --resume      (go on with a run that was ended)
"""


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
    own = name.rpartition(".")[2]
    if not (own.isidentifier() and equals):
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, such as n_steps=100; got {text!r}")
    if own == "layer":  # a path, even if it is a number
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


def _seed(text: str) -> int:
    if not (text.isdecimal() and int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"must be an int from 0 to 2^63 - 1; got {text!r}")
    return int(text)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"must be names with commas between; got {text!r}")
    return names


def parser(run: dict[str, Any]) -> argparse.ArgumentParser:
    """The parser; `run` has the function of each command."""
    top = _Parser(
        prog="xaifast", description="Fast, exact explanations of PyTorch models.",
        epilog=EXPLAINED, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    top.set_defaults(run=run["info"])
    top.add_argument("--version", action="version", version=__version__)
    top.add_argument("--traceback", action="store_true", help="print where an error came from")
    commands = top.add_subparsers(metavar="COMMAND")
    info = commands.add_parser("info", help="print versions and devices (the default)")
    info.set_defaults(run=run["info"])
    listing = commands.add_parser("methods", help="list the methods that --method knows")
    listing.set_defaults(run=run["methods"])
    demo = commands.add_parser("demo", help="train a small network on digits and explain it")
    demo.add_argument("--out", type=Path, default=Path("xaifast-demo"), help="default xaifast-demo")
    demo.set_defaults(run=run["demo"])
    explain = commands.add_parser(
        "explain", help="explain your own model and inputs", epilog=f"{EXAMPLES}\n{EXPLAINED}",
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    _add_model(explain)
    _add_reading(explain)
    _add_writing(explain)
    explain.set_defaults(run=run["explain"])
    return top


def _add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", required=True, metavar="MODULE:FACTORY",
        help="function without arguments (or class) that makes the nn.Module; modules of the "
        "current folder are found, after all installed ones")  # fmt: skip
    add("--weights", type=Path, metavar="FILE", help="state_dict to load, as torch.save wrote it")
    add("--method", "--methods", required=True, action="append", type=_names, metavar="NAME",
        help="see `xaifast methods`; several by commas, or by repeating the word")  # fmt: skip
    add("--target", type=_target, default="max", help="output to explain: an int, ints with "
        "commas for a dense output (3,10,12), or max, the predicted class (default)")  # fmt: skip
    add("--start", choices=("output", "one", "log_odds"), default="output",
        help="relevance to start with; default output")  # fmt: skip
    add("--option", type=_option, action="append", default=[], metavar="NAME=VALUE",
        help="of every method (n_steps=100, layer=features.3), or of one "
        "(IntegratedGradients.n_steps=100); may be repeated")  # fmt: skip
    for bound in BOUNDS:
        add(f"--{bound}", type=_numbers, metavar="NUMBER", help=f"{bound}est value that an input "
            "can have, as the model gets it (after --mean and --std); one, or one for each channel "
            "(--low=-2.1,-2.0,-1.8)")  # fmt: skip


def _add_reading(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--input", required=True, nargs="+", type=Path, metavar="PATH",
        help="images (png, jpg: [C, H, W] in [0, 1]), arrays (npy, npz, pt: one sample, as the "
        "model takes it, without the batch dimension), folders or patterns of these")  # fmt: skip
    add("--size", type=_size, metavar="HxW", help="resize images")
    add("--mean", type=_numbers, metavar="A,B,C", help="subtract from images, for each channel")
    add("--std", type=_numbers, metavar="A,B,C", help="then divide images by it")
    add("--batch", type=_positive, default=16, metavar="N", help="samples at once; default 16")
    add("--recursive", action="store_true", help="look into the folders of a folder too")


def _add_writing(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", type=Path, default=Path("xaifast-out"), help="default xaifast-out")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--force", action="store_true", help="replace results that exist")
    existing.add_argument("--resume", "--skip-existing", action="store_true", dest="resume",
        help="keep results that are complete, by the manifest, and make the others")  # fmt: skip
    add("--keep-going", action="store_true", help="go on with other inputs where one fails")
    add("--seed", type=_seed, default=0, metavar="N", help="of everything random; default 0")
    add("--progress", action="store_true", help="show a progress bar even if stderr is no terminal")
    add("--traceback", action="store_true", default=argparse.SUPPRESS,
        help="print where an error came from")  # fmt: skip
