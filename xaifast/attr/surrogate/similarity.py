"""Similarity kernels: how much a perturbed input counts in the fit of a surrogate.

A perturbed input x_z is made of the features of x that are on (z_j = 1) and of the features of the
baseline x' that are off. Products of two such inputs are sums over features, so all samples cost
one product of matrices each:

    <x, x_z> = sum_j z_j <x, x>_j + (1 - z_j) <x, x'>_j,   <a, b>_j = sum over i in j of a_i b_i
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ... import ops
from ...engine.arguments import as_tuple
from ...errors import describe, wrong_type, wrong_value

DISTANCES = ("cosine", "euclidean")
SPACES = ("inputs", "features")
# Below this, a norm counts as this much, so that cosines with zero are zero (PyTorch's constant).
LEAST_NORM = 1e-8


@dataclass(frozen=True)
class Products:
    """Inner products of units (samples, or a whole batch) by feature, [units, M], float64."""

    xx: Tensor
    xb: Tensor
    bb: Tensor
    dd: Tensor  # of x - x' with itself

    def part(self, units: Tensor, M: int) -> Products:
        """The products of some units, which have M features."""
        return Products(*(p[units, :M] for p in (self.xx, self.xb, self.bb, self.dd)))

    def total(self) -> Products:
        """The products of all samples taken as one unit."""
        return Products(*(p.sum(0, True) for p in (self.xx, self.xb, self.bb, self.dd)))


def products_of(
    inputs: tuple[Tensor, ...], baseline: tuple[Tensor, ...], labels: tuple[Tensor, ...], M: int
) -> Products:
    """Inner products of each sample by feature, through all inputs."""
    sums = [torch.zeros(len(inputs[0]), M, dtype=torch.float64, device="cpu") for _ in range(4)]
    for x, b, m in zip(inputs, baseline, labels, strict=True):
        if not x[:1].numel():
            continue
        wide = torch.float64 if torch.float64 in (x.dtype, b.dtype) else torch.float32
        x, b = x.to(wide), b.to(wide)
        for total, terms in zip(sums, (x * x, x * b, b * b, (x - b).square()), strict=True):
            total += _by_feature(terms, m, M).cpu()
    return Products(*sums)


def _by_feature(terms: Tensor, labels: Tensor, M: int) -> Tensor:
    """Sums of terms [N or 1, ...] over the elements of each feature, [N or 1, M]."""
    if len(labels) > len(terms):
        terms = terms.expand(len(labels), *terms.shape[1:])
    if terms.dim() > 2 and labels.shape[1] == 1:  # channels share their features
        return ops.segment_sums(terms, labels, M).sum(1)
    own = labels.expand(len(labels), *terms.shape[1:]).reshape(len(labels), 1, -1)
    return ops.segment_sums(terms.reshape(len(terms), 1, -1), own, M)[:, 0]


class Kernel:
    """A similarity that is known from the coalition, without looking at the perturbed input."""

    needs_products = False

    def weights(self, z: Tensor, products: Products | None) -> Tensor:
        """Similarities [units or 1, S] for coalitions z [S, M], float64."""
        raise NotImplementedError


@dataclass(frozen=True)
class ExponentialKernel(Kernel):
    """Exponential kernel on a distance between the input and the perturbed input.

    weight = exp(-d^2 / (2 width^2)),
    d = 1 - <x, x_z> / (|x| |x_z|) (cosine) or |x - x_z| (euclidean)

    It takes the place of captum's `get_exp_kernel_similarity_function(distance, width)`; that
    function's kernels are recognized too.

    Parameters
    ----------
    distance : "cosine" (default) or "euclidean"
        A cosine with a zero vector counts as 0.
    width : float, default 1.0
        In the units of the distance.
    space : "inputs" (default) or "features"
        Whether x and x_z are the flattened inputs (all of a tuple side by side), or the vectors of
        features, all ones and z, as in the book's listing.

    Raises
    ------
    ValueError
        If an argument is none of these.

    References
    ----------
    Ribeiro et al. 2016; book, section 22.2.1: sqrt(exp(-d^2 / width^2)) is the same.

    Examples
    --------
    >>> import torch
    >>> from xaifast import attr
    >>> kernel = attr.ExponentialKernel("euclidean", width=2.0)
    >>> lime = attr.Lime(torch.nn.Linear(4, 1), similarity_func=kernel)
    >>> lime.attribute(torch.rand(2, 4), seed=0).shape
    torch.Size([2, 4])
    """

    distance: str = "cosine"
    width: float = 1.0
    space: str = "inputs"

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("distance", self.distance, DISTANCES), ("space", self.space, SPACES),
        ):  # fmt: skip
            if value not in allowed:
                raise wrong_value(
                    f"ExponentialKernel: {name}", f"must be one of {', '.join(allowed)}",
                    describe(value), "Leave it out.",
                )  # fmt: skip
        number = isinstance(self.width, (int, float)) and not isinstance(self.width, bool)
        if not number or not 0 < self.width < math.inf:
            raise wrong_value(
                "ExponentialKernel: width", "must be a positive number", describe(self.width),
                "Leave it out.",
            )  # fmt: skip

    @property
    def needs_products(self) -> bool:  # type: ignore[override]
        """Whether the inputs are looked at."""
        return self.space == "inputs"

    def weights(self, z: Tensor, products: Products | None) -> Tensor:
        """Similarities [units or 1, S] for coalitions z [S, M]."""
        if self.space == "features":
            ones = torch.ones(1, z.shape[1], dtype=z.dtype, device="cpu")
            products = Products(ones, 0 * ones, 0 * ones, ones)
        p: Products = products  # type: ignore[assignment]
        off = 1 - z
        if self.distance == "euclidean":
            return self._weight(p.dd @ off.T)
        xx, xz = p.xx.sum(1, keepdim=True), p.xx @ z.T + p.xb @ off.T
        return self._weight(self._cosine_distance(xx, xz, p.xx @ z.T + p.bb @ off.T).square())

    def _cosine_distance(self, xx: Tensor, xz: Tensor, zz: Tensor) -> Tensor:
        lengths = [s.sqrt().clamp(min=LEAST_NORM) for s in (xx, zz)]
        return 1 - xz / (lengths[0] * lengths[1])

    def _weight(self, squared: Tensor) -> Tensor:
        return torch.exp(-squared / (2 * self.width**2))

    def __call__(
        self, original_input: Any, perturbed_input: Any, interpretable: Any, **kwargs: Any
    ) -> float:
        """Similarity of one perturbed input, as captum's similarity functions are called."""
        if self.space == "features":
            z = _wide(interpretable).reshape(1, -1)
            return float(self.weights(z, None))
        x, y = (_flat(v) for v in (original_input, perturbed_input))
        if self.distance == "euclidean":
            return float(self._weight((x - y).square().sum()))
        return float(self._weight(self._cosine_distance(x @ x, x @ y, y @ y).square()))


def _wide(x: Any) -> Tensor:
    """Whether numbers or a tensor, in float64."""
    if isinstance(x, Tensor):
        return x.double()
    return torch.as_tensor(x, dtype=torch.float64, device="cpu")


def _flat(inputs: Any) -> Tensor:
    """All inputs side by side, as one vector of float64."""
    return torch.cat([x.detach().reshape(-1).to("cpu", torch.float64) for x in as_tuple(inputs)])


@dataclass(frozen=True)
class ShapleyKernel(Kernel):
    """The kernel of KernelSHAP for coalitions that are drawn by their share of it.

    weight = large for all features or none, else 1
    """

    large: float = 1e6

    def weights(self, z: Tensor, products: Products | None) -> Tensor:
        """Similarities [1, S]."""
        k = z.sum(1)
        ends = (k == 0) | (k == z.shape[1])
        return torch.where(ends, float(self.large), 1.0).to(z.dtype).unsqueeze(0)


# ---- the user's --------------------------------------------------------------------------------


def _recognize(function: Any) -> ExponentialKernel | None:
    """Ours for a kernel that captum's `get_exp_kernel_similarity_function` has made."""
    maker = "get_exp_kernel_similarity_function.<locals>."
    if not str(getattr(function, "__module__", "")).startswith("captum."):
        return None
    if not getattr(function, "__qualname__", "").startswith(maker):
        return None
    chosen = inspect.getclosurevars(function).nonlocals
    if not {"distance_mode", "kernel_width"} <= set(chosen):
        return None
    return ExponentialKernel(chosen["distance_mode"], chosen["kernel_width"])


def check_kernel(who: str, similarity: Any) -> Any:
    """Check a similarity function: a `Kernel` where it is one of ours, else the function itself.

    Raises
    ------
    TypeError
        If it cannot be called.
    """
    if isinstance(similarity, Kernel):
        return similarity
    if not callable(similarity):
        raise wrong_type(
            f"{who}: similarity_func", "must be a kernel or a function", describe(similarity),
            "Allowed: ExponentialKernel(distance, width), or a function of (original_input, "
            "perturbed_input, interpretable_input, **kwargs) that returns a number.",
        )  # fmt: skip
    return _recognize(similarity) or similarity
