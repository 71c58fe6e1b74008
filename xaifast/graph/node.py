"""A node of the canonical graph, and the facts that are proven about it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

INF = math.inf


@dataclass(frozen=True)
class Leaf:
    """The value that a placeholder of the graph stands for."""

    kind: str  # "parameter" (also buffers and other tensors of modules), "constant" or "input"
    path: str = ""  # of a parameter, in the user's model
    value: Any = None  # of a constant
    index: int = -1  # of an input, in the order of the call


@dataclass(eq=False)
class Node:
    """One operation of the canonical graph.

    name: unique; kind: the word that composites match ("conv", "linear", "activation", ...); op:
    the ATen operation; module, module_type, source: where in the user's model; shape: of the
    output, without the batch; by_sample: whether the leading dimension is the batch, and no other
    depends on it; elements: how many numbers one sample has; inputs: the operands that carry
    relevance; low, high: bounds of the values; floating: a tensor of real numbers; constant:
    depends on parameters only; carries: has relevance; first, last, depth: position among the
    layers with weights; layer: its linear map; tokens: the inputs whose token numbers it holds,
    each at a known place; mixed: what it depends on as on token numbers otherwise, and by which
    node.
    """

    name: str
    kind: str
    op: str
    target: Callable
    args: tuple
    kwargs: dict[str, Any]
    leaf: Leaf | None = None
    module: str = ""
    module_type: type | None = None
    source: str = ""
    shape: tuple = ()
    by_sample: bool = False
    elements: int = 0
    inputs: tuple[Node, ...] = ()
    users: list[Node] = field(default_factory=list)
    floating: bool = False
    constant: bool = False
    carries: bool = False
    low: float = -INF
    high: float = INF
    first: bool = False
    last: bool = False
    depth: float = 0.0
    layer: Any = None
    tokens: frozenset[Node] = frozenset()
    mixed: dict[Node, Node] = field(default_factory=dict)

    def __repr__(self) -> str:
        place = self.module or "the model's forward"
        return f"{self.name} ({self.op} in {place})"

    @cached_property
    def operands(self) -> tuple[Node, ...]:
        """All nodes among the arguments, in order, lists opened."""
        return tuple(nodes_in([*self.args, *self.kwargs.values()]))

    @property
    def nonnegative(self) -> bool:
        """Whether no value of the output can be negative."""
        return self.low >= 0

    def call(self, value: Callable[[Node], Any]) -> Any:
        """Run the operation on the values of its arguments."""
        args = [_resolve(a, value) for a in self.args]
        if not self.kwargs:
            return self.target(*args)
        return self.target(*args, **{k: _resolve(v, value) for k, v in self.kwargs.items()})


def _resolve(argument: Any, value: Callable[[Node], Any]) -> Any:
    if isinstance(argument, Node):
        return value(argument)
    if isinstance(argument, (list, tuple)):
        return [_resolve(a, value) for a in argument]
    return argument


def nodes_in(argument: Any) -> Iterator[Node]:
    """All nodes in an argument, in order, lists opened."""
    if isinstance(argument, Node):
        yield argument
    elif isinstance(argument, (list, tuple)):
        for a in argument:
            yield from nodes_in(a)


def reached(output: Node, edges: Callable[[Node], Iterable[Node]]) -> dict[Node, None]:
    """Nodes below a node along some edges, itself included, the nearest first."""
    found, left = {output: None}, [output]
    for node in left:
        for x in edges(node):
            if x not in found:
                found[x] = None
                left.append(x)
    return found
