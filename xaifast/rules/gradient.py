"""The rules of gradients, and of the backward signals that bend them at rectifiers.

A message is here what the chain rule hands down, not a share: dz_k is the derivative of the
explained output with respect to z_k, and

    gradient           da_j = sum_k (dz_k / da_j) dz_k
    guided backprop    the same with max(0, dz) in place of dz, at rectifiers
    deconvnet          max(0, dz) alone, at rectifiers

The letter stays R, so that the engine has one name for what it hands down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..errors import ModelError
from ..graph.layers.dense import Linear
from ..graph.node import Node
from ..graph.rule import Rule

# Activation functions that let positive values through and (nearly) nothing else: where guided
# backprop and deconvnet clip the signal. ReLU6 is a hardtanh, and clamp(min=0) is a ReLU.
RECTIFIERS = (
    "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish",
    "softplus", "prelu", "rrelu",
)  # fmt: skip


def is_rectifier(node: Node) -> bool:
    """Whether the node is an activation of the ReLU family, however it is spelled."""
    if node.kind != "activation":
        return False
    bounded = node.op in ("hardtanh", "clamp", "clamp_min")
    return node.op in RECTIFIERS or (bounded and _lower_bound(node) == 0)


def _lower_bound(node: Node) -> object:
    return node.args[1] if len(node.args) > 1 else None


def vector_jacobian(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...], R: Tensor
) -> list[Tensor]:
    """R^T J for each target and each input, J the Jacobian of a function of these inputs."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        z = function(*leaves)
    if not z.requires_grad:  # rounding, comparisons: the derivative is zero
        return [x.new_zeros((len(R), *x.shape)) for x in inputs]
    options = {"retain_graph": len(R) > 1, "allow_unused": True, "materialize_grads": True}
    per_target = [torch.autograd.grad(z, leaves, r, **options) for r in R]
    if len(per_target) == 1:
        return [g.unsqueeze(0) for g in per_target[0]]
    return [torch.stack(gs) for gs in zip(*per_target, strict=True)]


class Gradient(Rule):
    """The derivative of any operation, by automatic differentiation of this one node.

    da_j = sum_k (dz_k / da_j) dz_k,   guided backprop: max(0, dz_k) in place of dz_k

    Parameters
    ----------
    clip : bool, default False
        Whether only a positive signal passes.

    References
    ----------
    Book, Eq. 9.16 with g = f'; Springenberg et al. 2015.

    Examples
    --------
    >>> from xaifast import rules
    >>> rules.Gradient()
    Gradient(clip=False)
    """

    needs_output = False

    def __init__(self, clip: bool = False) -> None:
        self.clip = clip

    def __repr__(self) -> str:
        return f"Gradient(clip={self.clip})"

    def propagate(self, node, inputs, output, R, balance=None) -> Iterable[Tensor | None]:
        """Differentiate the node at its inputs; an operand that enters twice is one variable."""
        R = R.clamp(min=0) if self.clip else R
        distinct = list(dict.fromkeys(node.inputs))
        values = dict(zip(node.inputs, inputs, strict=True))

        def function(*xs: Tensor) -> Tensor:
            given = dict(zip(distinct, xs, strict=True))
            return node.rerun(*(given[n] for n in node.inputs))

        try:
            found = vector_jacobian(function, tuple(values[n] for n in distinct), R)
        except RuntimeError as error:
            if "derivative for" not in str(error):
                raise
            raise ModelError(
                f"{node.node!r} has no derivative ({error}): "
                f"{node.node.source or 'no line is known'}. "
                "Explain what is behind it, or give it a rule."
            ) from error
        messages = dict(zip(distinct, found, strict=True))
        return tuple(messages.pop(n, None) for n in node.inputs)


class LinearGradient(Rule):
    """The derivative of a linear layer, which no value of the run matters for.

    da_j = sum_k w_jk dz_k

    Examples
    --------
    >>> from xaifast import rules
    >>> rules.LinearGradient()
    LinearGradient
    """

    needs_inputs = needs_output = False

    def check(self, node: Node) -> str | None:
        """The weights must not depend on the input, nor the shape of a sample on the batch."""
        if node.layer is None:
            return "LinearGradient needs constant weights"
        if node.inputs[0].by_sample or isinstance(node.layer, Linear):
            return None
        return "LinearGradient needs an input whose rows are samples"

    def fuses(self, node: Node, rectified: bool) -> bool:
        """No value is read: a ReLU behind may be computed with the layer."""
        return True

    def propagate(self, node, inputs, output, R, balance=None) -> Iterable[Tensor | None]:
        """c = w^T R."""
        return (node.layer.gradient(R),)


class SumGradient(Rule):
    """The derivative of z = x + beta y for operands of the same shape.

    dx = dz,   dy = beta dz

    Examples
    --------
    >>> from xaifast import rules
    >>> rules.SumGradient()
    SumGradient
    """

    needs_inputs = needs_output = False

    def check(self, node: Node) -> str | None:
        """Both operands must have the shape of the sum."""
        rows = all(x.by_sample for x in (node, *node.inputs))
        if node.kind == "add" and rows and all(x.shape == node.shape for x in node.inputs):
            return None
        return "SumGradient needs two operands of the shape of their sum"

    def propagate(self, node, inputs, output, R, balance=None) -> Iterable[Tensor | None]:
        """Hand R to both."""
        beta = float(node.kwargs.get("alpha", 1)) * (-1 if node.op == "sub" else 1)
        return (R, R if beta == 1 else beta * R)


class ReLUGradient(Rule):
    """The derivative of the ReLU, for which its output is all that is kept.

    da = [z > 0] dz,   guided backprop: da = [z > 0] max(0, dz)

    Parameters
    ----------
    clip : bool, default False
        Whether only a positive signal passes.

    References
    ----------
    Springenberg et al. 2015; book, section 14.3.2.

    Examples
    --------
    >>> from xaifast import rules
    >>> rules.ReLUGradient(clip=True)
    ReLUGradient(clip=True)
    """

    needs_inputs = False

    def __init__(self, clip: bool = False) -> None:
        self.clip = clip

    def __repr__(self) -> str:
        return f"ReLUGradient(clip={self.clip})"

    def propagate(self, node, inputs, output, R, balance=None) -> Iterable[Tensor | None]:
        """Zero where the unit is off, and with `clip` where the signal is negative."""
        R = R.clamp(min=0) if self.clip else R
        return (torch.ops.aten.threshold_backward(R, output.expand_as(R), 0),)


class Clip(Rule):
    """Deconvnet's ReLU: it rectifies the signal on the way back, whatever the unit did.

    da = max(0, dz)

    References
    ----------
    Zeiler and Fergus 2014; book, section 14.3.2.

    Examples
    --------
    >>> from xaifast import rules
    >>> rules.Clip()
    Clip
    """

    needs_inputs = needs_output = False

    def propagate(self, node, inputs, output, R, balance=None) -> Iterable[Tensor | None]:
        """Positive values pass."""
        return (R.clamp(min=0),)
