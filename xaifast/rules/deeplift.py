"""The rules of DeepLIFT: multipliers m = (difference of outputs) / (difference of inputs).

A message is a multiplier of the explained output: sum_i m_i (a_i - a'_i) = S(x) - S(x'), where
a' is the activation in the run of the baseline. Linear operations hand it down as a derivative; the
rules here are for what is not linear. The letter stays R, so that the engine has one name for what
it hands down.

    da = a - a',   dz = z - z',   0/0: the derivative at a
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from .. import ops
from ..graph.layers.base import Layer, unbroadcast
from ..graph.node import Node
from ..graph.rule import Rule
from .base import weighed
from .gradient import vector_jacobian
from .lrp import NEGATIVE, POSITIVE
from .pooling import pool_geometry, to_first_largest

# Functions of one value at a time that are no activation functions to the graph engine.
UNARY = (
    "exp", "expm1", "log", "log1p", "log2", "log10", "sqrt", "rsqrt", "reciprocal", "pow", "abs",
    "sin", "cos", "tan", "atan", "erf", "sinh", "cosh", "asinh", "square", "softsign", "logit",
)  # fmt: skip
OF_TWO = ("maximum", "minimum", "max", "min")  # elementwise if one of two operands is a constant


def is_elementwise(node: Node) -> bool:
    """Whether each output is a function of the one input value at its place."""
    if len(set(node.inputs)) != 1 or node.inputs[0].shape != node.shape:
        return False
    if len(node.inputs) == 2 and node.op != "mul":
        return False
    if node.op == "mul":  # x x is the square
        return len(node.inputs) == 2
    if node.op in OF_TWO:
        return len(node.args) == 2 and isinstance(node.args[1], Node)
    return node.kind == "activation" or node.op in UNARY


def is_linear_before_activation(node: Node) -> bool:
    """Whether a conv or dense layer is read by one elementwise activation and nothing else."""
    if node.kind not in ("conv", "linear") or node.layer is None or len(node.users) != 1:
        return False
    return node.users[0].kind == "activation" and is_elementwise(node.users[0])


def is_activation_of_linear(node: Node) -> bool:
    """Whether a node is the activation of `is_linear_before_activation`."""
    return (
        len(node.inputs) == 1
        and node in node.inputs[0].users
        and is_linear_before_activation(node.inputs[0])
    )


def quotient(numerator: Tensor, denominator: Tensor, otherwise: Tensor, eps: float) -> Tensor:
    """Numerator / denominator, and `otherwise` where the denominator is smaller than eps."""
    small = denominator.abs() < eps
    return torch.where(small, otherwise, numerator / denominator.masked_fill(small, 1.0))


def derivative(f: Callable[[Tensor], Tensor], a: Tensor) -> Tensor:
    """f'(a) of a function of one value."""
    return vector_jacobian(f, (a,), torch.ones_like(a).unsqueeze(0))[0][0]


class Rescale(Rule):
    """DeepLIFT's rescale rule, for functions of one value.

    m_a = m_z (f(a) - f(a')) / (a - a')

    Parameters
    ----------
    eps : float, default 1e-10
        Where |a - a'| is smaller, the derivative f'(a) is taken.

    References
    ----------
    Shrikumar et al. 2017; book, Eq. 9.18, proposition 2 and table 9.1.

    Examples
    --------
    >>> from xaifast import rules
    >>> rules.Rescale()
    Rescale(eps=1e-10)
    """

    needs_output = False

    def __init__(self, eps: float = 1e-10) -> None:
        self.eps = eps

    def __repr__(self) -> str:
        return f"{type(self).__name__}(eps={self.eps})"

    def propagate(self, node, inputs, output, R, balance=None) -> Iterable[Tensor | None]:
        """Multiply by the average slope between the two values."""
        a, a0 = inputs[0], node.reference(node.inputs[0])

        def f(x: Tensor) -> Tensor:
            return node.rerun(*[x] * len(node.inputs))

        slope = (a > 0).to(a) if node.op == "relu" else derivative(f, a)
        message = R * quotient(f(a) - f(a0), a - a0, slope, self.eps)
        return (message, *[None] * (len(inputs) - 1))


class RescaleSoftmax(Rescale):
    """The rescale rule for softmax and log-softmax.

    softmax:      m_j = s_j (R_j - sum_i R_i s_i / sum_i s_i),   s_j = (p_j - p'_j) / (l_j - l'_j)
    log-softmax:  m_j = R_j - s_j sum_i R_i / sum_i s_i,         l = log p

    By the parts l_j = z_j - log sum exp z and p_j = exp l_j: both p and p' sum to 1, so
    sum_j s_j (l_j - l'_j) = 0, which tells how the change of log sum exp is shared: multipliers are
    complete, and a shift of all z changes nothing, as in the softmax itself.

    References
    ----------
    Shrikumar et al. 2017 subtract the plain mean, which is complete for shifts alone (captum 0.9
    takes it over the whole batch).

    Examples
    --------
    >>> from xaifast import rules
    >>> rules.RescaleSoftmax()
    RescaleSoftmax(eps=1e-10)
    """

    def propagate(self, node, inputs, output, R, balance=None) -> Iterable[Tensor | None]:
        """Weigh by the slopes between the two probabilities."""
        (z,), z0 = inputs, node.reference(node.inputs[0])
        dim = node.args[1] % z.dim()
        log_p, log_p0 = z.log_softmax(dim), z0.log_softmax(dim)
        p, p0 = log_p.exp(), log_p0.exp()
        s = quotient(p - p0, log_p - log_p0, p, self.eps)
        share = s / s.sum(dim, keepdim=True)
        if "log" in node.op:
            return (R - share * R.sum(dim + 1, keepdim=True),)
        return (s * (R - (R * share).sum(dim + 1, keepdim=True)),)


class RescaleMax(Rescale):
    """The rescale rule for maxima: what the larger input won, and what the other then loses.

    With y = max a and y' = max a', the part max(y, y') - y' of the difference goes to the winner in
    a, and y - max(y, y') to the winner in a'; each over its difference of inputs.

    References
    ----------
    Shrikumar et al. 2017 (as captum implements it, but with each sample's own derivative).

    Examples
    --------
    >>> from xaifast import rules
    >>> rules.RescaleMax()
    RescaleMax(eps=1e-10)
    """

    needs_output = True

    def propagate(self, node, inputs, output, R, balance=None) -> Iterable[Tensor | None]:
        """Contributions of both winners over the differences of their inputs."""
        (a,), a0 = inputs, node.reference(node.inputs[0])
        y0 = node.rerun(a0).expand_as(output)
        a0 = a0.expand_as(a).contiguous()
        larger = torch.maximum(output, y0)
        won = _to_winner(node, a, R * (larger - y0))
        lost = _to_winner(node, a0, R * (output - larger))
        return (quotient(won + lost, a - a0, _to_winner(node, a, R), self.eps),)


def _to_winner(node, a: Tensor, R: Tensor) -> Tensor:
    """R of each maximum to the first input that attains it."""
    if node.kind == "max_reduce":
        return to_first_largest(node, a, R)
    kernel, stride, padding, dilation = pool_geometry(node, a.dim() - 2)
    return ops.pool_redistribute(a, R, kernel, stride, padding, dilation)


class RescalePair(Rescale):
    """The rescale rule for the larger or the smaller of two values.

    max(a, b) = a + relu(b - a),   min(a, b) = a - relu(a - b):   m_a = m_z (1 - t),   m_b = m_z t,

    t the average slope of the ReLU.

    References
    ----------
    Shrikumar et al. 2017, for the ReLU.

    Examples
    --------
    >>> from xaifast import rules
    >>> rules.RescalePair()
    RescalePair(eps=1e-10)
    """

    def check(self, node: Node) -> str | None:
        """Two operands."""
        return None if len(node.inputs) == 2 else "RescalePair needs two operands"

    def propagate(self, node, inputs, output, R, balance=None) -> Iterable[Tensor | None]:
        """Share by the slope of the ReLU between the two differences."""
        a, b = inputs
        a0, b0 = (node.reference(n) for n in node.inputs)
        sign = 1 if "max" in node.op else -1
        d, d0 = sign * (b - a), sign * (b0 - a0)
        t = quotient(d.relu() - d0.relu(), d - d0, (d > 0).to(d), self.eps)
        return unbroadcast(R * (1 - t), a.shape), unbroadcast(R * t, b.shape)


class RevealCancel(Rule):
    """DeepLIFT's RevealCancel rule, for a conv or dense layer and the activation f behind it.

    With the sums of the positive and of the negative contributions, dz+ and dz-,

        dy+ = 1/2 (f(z' + dz+) - f(z')) + 1/2 (f(z' + dz+ + dz-) - f(z' + dz-))
        dy- = 1/2 (f(z' + dz-) - f(z')) + 1/2 (f(z' + dz+ + dz-) - f(z' + dz+))

    a contribution w_jk da_j > 0 gets the multiplier dy+ / dz+, a negative one dy- / dz-, and one of
    zero their mean. So what cancels inside the activation is seen: min(x, y) gives half to each.

    Parameters
    ----------
    eps : float, default 1e-10
        Where |dz+| or |dz-| is smaller, the derivative f'(z) is taken.

    References
    ----------
    Shrikumar et al. 2017, section 3.5.3; book, section 9.4.3.

    Examples
    --------
    >>> from xaifast import rules
    >>> rules.RevealCancel()
    RevealCancel(eps=1e-10)
    """

    needs_output = False

    def __init__(self, eps: float = 1e-10) -> None:
        self.eps = eps

    def __repr__(self) -> str:
        return f"RevealCancel(eps={self.eps})"

    def check(self, node: Node) -> str | None:
        """Only a layer that one activation reads."""
        if is_linear_before_activation(node):
            return None
        return "RevealCancel needs a conv or dense layer that only an activation reads"

    def propagate(self, node, inputs, output, R, balance=None) -> Iterable[Tensor | None]:
        """Multipliers of the positive and the negative contributions, each to their inputs."""
        layer: Layer = node.layer
        (a,), a0 = inputs, node.reference(node.inputs[0])
        da = (a - a0).expand_as(a)
        m_plus, m_minus = self._multipliers(node, layer, a0, da)
        same = _transposed(layer, R * m_plus, R * m_minus)
        opposite = _transposed(layer, R * m_minus, R * m_plus)
        return (torch.where(da > 0, same, torch.where(da < 0, opposite, (same + opposite) / 2)),)

    def _multipliers(self, node, layer: Layer, a0: Tensor, da: Tensor) -> tuple[Tensor, Tensor]:
        f = _activation_of(node)
        up, down = da.clamp(min=0), da.clamp(max=0)
        w_plus, w_minus = weighed(layer, POSITIVE), weighed(layer, NEGATIVE)
        dz_plus = layer.forward(up, w_plus) + layer.forward(down, w_minus)
        dz_minus = layer.forward(up, w_minus) + layer.forward(down, w_plus)
        z0 = layer.forward(a0, layer.weight, layer.bias).expand_as(dz_plus)
        z = z0 + dz_plus + dz_minus
        f0, f_plus, f_minus, f_both = f(z0), f(z0 + dz_plus), f(z0 + dz_minus), f(z)
        dy_plus = ((f_plus - f0) + (f_both - f_minus)) / 2
        dy_minus = ((f_minus - f0) + (f_both - f_plus)) / 2
        of = (derivative(f, z), self.eps)
        return quotient(dy_plus, dz_plus, *of), quotient(dy_minus, dz_minus, *of)


def _transposed(layer: Layer, R_plus: Tensor, R_minus: Tensor) -> Tensor:
    """w+^T R+ + w-^T R-."""
    like = layer._like(R_plus)
    parts = ((R_plus, weighed(layer, POSITIVE)), (R_minus, weighed(layer, NEGATIVE)))
    first, second = (layer.transpose(R, w, like) for R, w in parts)
    return first + second


def _activation_of(node) -> Callable[[Tensor], Tensor]:
    """The function behind a layer."""
    behind = node.node.users[0]
    return lambda z: behind.call(lambda n: z if n is node.node else node.lookup(n))
