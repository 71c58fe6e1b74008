"""Where a convolution kernel of ours beats the library: python -m benchmarks.fit_conv_table.

Needs a CUDA device. For the convolutions of VGG-16, ResNet-18 and ResNet-50, each precision, layout
of memory and rule, it runs what the rules do without our kernels (the library) and with each kernel
of ours that takes the problem, interleaved. A kernel's time counts only if its result is as near to
the one in float64 as the library's is. Where one is faster by 5 percent or more, the numbers of
positions on which it is are written to xaifast/ops/conv_measured.py; see `fit` for the rule.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xaifast import reference, rules
from xaifast.graph.capture.export import Leaf
from xaifast.graph.layers.attach import attach_layers
from xaifast.graph.node import Node
from xaifast.graph.rule import NodeCall
from xaifast.graph.weights import Weights
from xaifast.ops import conv_measured, conv_table
from xaifast.rules.base import ShareRule

from .models import MODELS
from .report import Report, parser
from .timing import interleave, machine, ratio, seconds_of_many

HEAD = ["rule", "precision", "layout", "convolution", "batch", "library us", "kernel",
        "library / kernel", "error", "error of the library"]  # fmt: skip
EPS = 0.25
FASTER = 1.05  # how many times as fast a kernel must be to take the place of the library
SECONDS = 0.004  # of calls in a row, in each round
# Relative error that rounding explains; a kernel may also be twice as far off as the library.
ROUNDING = {"float32": 1e-5, "tf32": 2e-3, "bfloat16": 2e-2, "float16": 2e-3}
BATCHES = (1, 8, 64)
OPEN = 2  # the span up to the largest number is open if so many numbers at its end were won


# ---- what is measured --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Shape:
    """A convolution, without its batch."""

    channels: int
    units: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]

    def __str__(self) -> str:
        place = "x".join(map(str, self.kernel)) + f"/{self.stride[0]}"
        return f"{self.channels}-{self.units} {place} on {'x'.join(map(str, self.size))}"


@dataclasses.dataclass(frozen=True)
class Case:
    """What one entry of the table is about."""

    shape: Shape
    rule: str
    precision: str
    channels_last: bool

    def kernels(self) -> list[str]:
        """Those of ours that take it."""
        found = []
        if self.rule not in ("box", "square"):
            if self.precision in ("tf32", "float32"):
                found.append("tiles")
            if self.precision != "float32":  # it would round
                found.append("tensor_cores")
        return found + ["pixels"] * (self.shape.channels <= 4)


@functools.cache
def shapes(size: int = 224) -> list[Shape]:
    """The convolutions of the models, each once."""
    found: dict[Shape, None] = {}

    def note(conv: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        place = (conv.kernel_size, conv.stride, conv.padding)
        found[Shape(conv.in_channels, conv.out_channels, tuple(inputs[0].shape[2:]), *place)] = None  # type: ignore[arg-type]

    for make in MODELS.values():
        with torch.device("meta"):
            model = make().eval()
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(note)
        model(torch.empty(1, 3, size, size, device="meta"))
    return list(found)


def cases(size: int = 224) -> Iterator[Case]:
    """All, the most usual first: a run that is cut short has measured those."""
    order = ("all", "box", "square", "positive", "all z", "negative")
    for place in itertools.product(ROUNDING, order, (False, True), shapes(size)):
        precision, rule, last, shape = place
        case = Case(shape, rule, precision, last)
        if case.kernels():
            yield case


# ---- the rules -----------------------------------------------------------------------------------


class All(rules.LinearRule):
    """One product each way: z+ and gamma where no input is negative."""

    def parts(self, layer, a, z):
        yield rules.Part(a, layer.weight, layer.bias, EPS)


class Negative(ShareRule):
    """The second half of alpha-beta, which finds the inputs split already."""

    bias, stabilizer = True, EPS

    def __init__(self) -> None:
        self.kept: list[rules.Part] | None = None

    def shares(self):
        return rules.AlphaBeta(2, 1).shares()[1:]

    def parts(self, layer, a, z):
        if self.kept is None:
            self.kept = list(super().parts(layer, a, z))
        yield from self.kept


RULES: dict[str, Callable[[], rules.Rule]] = {
    "all": All,
    "all z": lambda: rules.Epsilon(EPS),
    "positive": lambda: rules.ZPlus(stabilizer=EPS),
    "negative": Negative,
    "box": lambda: rules.ZBox(-4.0, 4.0, stabilizer=EPS),
    "square": lambda: rules.WSquare(stabilizer=EPS),
}


class Problem:
    """A rule at a convolution, with random activations and relevance."""

    def __init__(self, case: Case, batch: int, device: str) -> None:
        shape, g = case.shape, torch.Generator(device).manual_seed(0)
        dtype = getattr(torch, case.precision.replace("tf32", "float32"))
        memory = torch.channels_last if case.channels_last else torch.contiguous_format
        place = (shape.channels, shape.units, shape.kernel, shape.stride, shape.padding)
        self.case = case
        self.conv = nn.Conv2d(*place, device=device, dtype=dtype)  # type: ignore[arg-type]

        def normal(*sizes: int) -> Tensor:
            return torch.randn(sizes, generator=g, device=device).to(dtype)

        one = normal(1, shape.channels, *shape.size)
        flips = [one, -one, one.flip(-1), one.flip(-2)]  # samples differ, and are made at once
        self.a = torch.cat([flips[n % 4] for n in range(batch)]).contiguous(memory_format=memory)
        with torch.no_grad():
            for parameter in self.conv.parameters():
                parameter.copy_(normal(*parameter.shape) * parameter[0].numel() ** -0.5)
            self.z = self.conv(self.a)
        R = normal(1, *self.z.shape[1:]).expand_as(self.z)
        self.R = R.contiguous(memory_format=memory)[None]
        self.rule, self.call = RULES[case.rule](), self._call()

    def _call(self) -> NodeCall:
        """The convolution as a node of a graph whose input may be negative."""

        def leaf(name: str) -> Node:
            shape = tuple(getattr(self.conv, name).shape[1:])
            read = Leaf("parameter", name)
            return Node(name, "constant", "", len, (), {}, leaf=read, shape=shape, constant=True)

        x = Node("x", "input", "", len, (), {}, shape=tuple(self.a.shape[1:]))
        place = map(list, (self.case.shape.stride, self.case.shape.padding, (1, 1)))
        args = (x, leaf("weight"), leaf("bias"), *place, 1)
        node = Node(
            "conv", "conv", "conv2d", torch.ops.aten.conv2d.default, args, {}, inputs=(x,),
            shape=tuple(self.R.shape[2:]),
        )  # fmt: skip
        weights = Weights(self.conv)
        attach_layers([node], weights)
        return NodeCall(node, weights.value)

    def key(self) -> conv_table.Conv:
        """The entry of the table."""
        s = self.case.shape
        return conv_table.describe(self.a, self.conv.weight, s.stride, (1, 1), 1, self.case.rule)

    def run(self) -> Tensor:
        """Relevance of a, [1, N, ...]."""
        (r,) = self.rule.propagate(self.call, (self.a,), self.z, self.R)
        assert r is not None
        return r

    def by(self, kernel: str) -> Callable[[], Tensor]:
        """The run by one kernel."""
        table = {} if kernel == "library" else {tuple(self.key()): ((kernel, 1, None),)}

        def run() -> Tensor:
            conv_table.FASTER = table
            return self.run()

        return run

    def errors(self, kernels: Iterable[str]) -> dict[str, float]:
        """How far the results are from float64, in the first and the last sample."""
        some = sorted({0, len(self.a) - 1})
        s, rule = self.case.shape, self.case.rule.removesuffix(" z")
        bounds = ([-4.0] * s.channels, [4.0] * s.channels) if rule == "box" else ([], [])
        assert self.conv.bias is not None
        b = self.conv.bias.double()
        counted = {"all": b, "positive": b.clamp(min=0), "negative": b.clamp(max=0)}.get(rule)
        with torch.no_grad():
            tensors = (self.a[some], self.R[0, some], self.conv.weight)
            expected = reference.zplus_conv(
                *(x.double() for x in tensors), None, counted, s.stride, s.padding, (1, 1), 1,
                rule, *bounds, False, EPS, "library",
            )  # fmt: skip
            if self.case.rule == "negative":
                expected = -expected  # beta = 1 of alpha-beta
            size = float(expected.abs().sum())
            found = {k: self.by(k)()[0, some].double() - expected for k in kernels}
        return {k: float(x.abs().sum()) / size for k, x in found.items()}


# ---- measuring -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Measured:
    """One kernel at one problem."""

    conv: tuple
    positions: int
    kernel: str
    faster: float  # time of the library / time of the kernel; 0 where the result is wrong


def trusted(errors: dict[str, float], precision: str) -> dict[str, bool]:
    """Whether each result is as good as its precision, or as the library's, allows."""
    limit = max(ROUNDING[precision], 2 * errors["library"])
    sound = errors["library"] <= 0.1  # else there is nothing to compare with
    return {kernel: sound and error <= limit for kernel, error in errors.items()}


def measure(
    case: Case, batch: int, device: str, rounds: int
) -> tuple[list[Measured], list[list[str]]]:
    """Each kernel of ours against the library, and the rows that tell of it."""
    names = ["library", *case.kernels()]
    tf32 = case.precision == "tf32"
    before = conv_table.FASTER
    try:
        with torch.backends.cudnn.flags(allow_tf32=tf32), torch.no_grad():
            problem = Problem(case, batch, device)
            errors = problem.errors(names)
            good = trusted(errors, case.precision)
            functions = {k: problem.by(k) for k in names if k == "library" or good[k]}
            once = seconds_of_many(functions["library"], 2, device)
            times = int(min(max(SECONDS / once, 1), 200))
            seconds = interleave(
                functions, rounds, timer=lambda f: seconds_of_many(f, times, device)
            )
            key = tuple(problem.key())
    finally:
        conv_table.FASTER = before
    positions = conv_table.positions(problem.R, problem.a.dim())[0]
    found, rows = [], []
    for k in names[1:]:
        faster = ratio(seconds, "library", k) if good[k] else 0.0
        found.append(Measured(key, positions, k, faster))
        rows.append([
            case.rule, case.precision, "channels last" if case.channels_last else "contiguous",
            str(case.shape), str(batch), f"{statistics.median(seconds['library']) * 1e6:.0f}", k,
            f"{faster:.2f}" if good[k] else "wrong", f"{errors[k]:.0e}", f"{errors['library']:.0e}",
        ])  # fmt: skip
    return found, rows


# ---- the rule ------------------------------------------------------------------------------------

Spans = tuple[tuple[str, int, "int | None"], ...]


def fit(measured: Iterable[Measured]) -> dict[tuple, Spans]:
    """The spans of positions on which a kernel takes the place of the library.

    At each measured number of positions the fastest kernel of ours wins if it is FASTER than the
    library. Neighbouring numbers with the same winner make a span. It ends at the last of them, but
    is open above the largest number of all if the kernel won at the OPEN largest ones. Between
    spans, below the smallest number, and for convolutions that were not measured, the library runs.
    """
    by_conv: dict[tuple, dict[int, Measured]] = {}
    for m in measured:
        best = by_conv.setdefault(m.conv, {})
        if m.positions not in best or m.faster > best[m.positions].faster:
            best[m.positions] = m
    table = {}
    for conv, best in by_conv.items():
        won = [(p, m.kernel if m.faster >= FASTER else "") for p, m in sorted(best.items())]
        spans = []
        for kernel, group in itertools.groupby(won, key=lambda x: x[1]):
            numbers = [p for p, _ in group]
            if kernel:
                ends = numbers[-1] < won[-1][0] or len(numbers) < OPEN
                spans.append((kernel, numbers[0], numbers[-1] if ends else None))
        if spans:
            table[conv] = tuple(spans)
    return table


def merged(table: dict[tuple, Spans], old: dict[tuple, Spans], capability: Any) -> dict:
    """The table with the old rows of GPUs of other capabilities."""
    return {k: v for k, v in old.items() if k[0] != capability} | table


def written(table: dict[tuple, Spans], devices: dict[tuple[int, int], tuple[str, ...]]) -> str:
    """The text of xaifast/ops/conv_measured.py; the same table gives the same text."""

    def shown(x: Any) -> str:
        if isinstance(x, tuple):
            return f"({', '.join(map(shown, x))}{',' if len(x) == 1 else ''})"
        return f'"{x}"' if isinstance(x, str) else repr(x)

    def row(key: tuple, value: list[str]) -> str:
        return "\n        ".join([f"    {shown(key)}:", *value])

    places = [
        row(k, ["(", *(f"    {shown(fact)}," for fact in v), "),"])
        for k, v in sorted(devices.items())
    ]
    rows = [row(k, [f"{shown(v)},"]) for k, v in sorted(table.items())]
    wide = any(len(line) > 100 for row in (*places, *rows) for line in row.split("\n"))
    return "\n".join([
        '"""Convolutions on which a kernel of ours was measured to be faster than the library.', "",
        "Written by `python -m benchmarks.fit_conv_table`, not by hand; `conv_table` reads it.",
        '"""', "", "# fmt: off", *["# ruff: noqa: E501"] * wide, "",
        "# Where the rows of a GPU's capability come from.",
        "MEASURED_ON: dict[tuple[int, int], tuple[str, ...]] = {", *places, "}", "",
        "# The fields of conv_table.Conv: spans (kernel, positions from, to), None for any more.",
        "FASTER: dict[tuple, tuple[tuple[str, int, int | None], ...]] = {", *rows, "}", "",
    ])  # fmt: skip


def main() -> None:
    p = parser(__doc__, rounds=5, device="cuda")
    p.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    p.add_argument("--seconds", type=float, help="begin no further convolution after so many")
    p.add_argument("--out", default=conv_measured.__file__, help="where the table is written")
    options = p.parse_args()
    if options.device != "cuda" or not torch.cuda.is_available():
        raise SystemExit(
            "fit_conv_table measures CUDA kernels, and there is no CUDA device here (or --device "
            "is not cuda). The table stays as it is: run this on a machine with an NVIDIA GPU."
        )
    begin, report = time.monotonic(), Report(options)
    capability = torch.cuda.get_device_capability()
    found: list[Measured] = []
    done = 0
    everything = list(cases())
    for case in everything:
        if options.seconds and time.monotonic() - begin > options.seconds:
            break
        try:
            of_case = [measure(case, n, "cuda", options.rounds) for n in options.batches]
        except torch.OutOfMemoryError:
            print(f"{case}: left out, the GPU's memory is too small")
            continue
        done += 1
        for results, rows in of_case:
            found += results
            for row, result in zip(rows, results, strict=True):
                report.add(row, dataclasses.asdict(result))
    table = fit(found)
    about = machine("cuda") | {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    about["measured"] = f"{done} of {len(everything)} convolutions at batches {options.batches}"
    devices = {k: v for k, v in conv_measured.MEASURED_ON.items() if k != capability}
    devices[capability] = tuple(f"{k} {v}" for k, v in about.items())
    Path(options.out).write_text(
        written(merged(table, conv_measured.FASTER, capability), devices), encoding="utf-8"
    )
    report.finish(HEAD)
    print(f"{len(table)} of {done} measured convolutions go to a kernel of ours: {options.out}")


if __name__ == "__main__":
    main()
