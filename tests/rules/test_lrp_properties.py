"""What holds of LRP for any input: linearity, conservation, independence, identities."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracle.compare import (
    EPS,
    HIGH,
    LOW,
    RULES,
    TOLERANCE,
    assert_close,
    explain,
    randomize,
)
from torch import Tensor, nn

from xaifast import composites, rules
from xaifast.attr import LRP

# ---- properties ------------------------------------------------------------------------------

# Eighths are exact in floating point and make zeros and ties likely.
EIGHTHS = st.integers(-16, 16).map(lambda i: i / 8)
POSITIVE_EIGHTHS = st.integers(1, 16).map(lambda i: i / 8)

# The same examples in every run: a failure is one of the code.
quick = settings(max_examples=25, deadline=None, database=None, derandomize=True)


def tensors(*shape: int, elements: st.SearchStrategy[float] = EIGHTHS) -> st.SearchStrategy[Tensor]:
    return hnp.arrays(np.float64, shape, elements=elements).map(torch.from_numpy)


SMALL_SHAPE = (2, 3, 3)


@cache
def small_model() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(2, 3, 2, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 4)
    )
    return randomize(model.double(), seed=13)


@cache
def small_lrp(rule: str) -> LRP:
    return LRP(small_model(), composites.Uniform(RULES[rule][0]))


@pytest.mark.parametrize("rule", RULES)
@quick
@given(x=tensors(2, *SMALL_SHAPE), R=tensors(2, 4), S=tensors(2, 4), p=EIGHTHS, q=EIGHTHS)
def test_linear_in_the_relevance(
    rule: str, x: Tensor, R: Tensor, S: Tensor, p: float, q: float
) -> None:
    lrp = small_lrp(rule)
    of_R, of_S = lrp.attribute(x, start=R), lrp.attribute(x, start=S)
    want = p * of_R + q * of_S
    scale = (p * of_R).abs().max() + (q * of_S).abs().max()
    got = lrp.attribute(x, start=p * R + q * S)
    assert (got - want).abs().max() <= TOLERANCE * scale


@pytest.mark.parametrize("rule", RULES)
@quick
@given(x=tensors(3, *SMALL_SHAPE), R=tensors(3, 4), order=st.permutations(range(3)))
def test_samples_do_not_see_each_other(rule: str, x: Tensor, R: Tensor, order: list[int]) -> None:
    lrp = small_lrp(rule)
    together = lrp.attribute(x, start=R)
    # A product may round in another way for another batch, which LRP-0 divides by a small z.
    assert_close(lrp.attribute(x[order], start=R[order]), together[order], tolerance=1e-9)
    assert_close(lrp.attribute(x[:1], start=R[:1]), together[:1], tolerance=1e-9)


@pytest.mark.parametrize("rule", RULES)
@settings(quick, max_examples=10)  # six calls each
@given(x=tensors(2, *SMALL_SHAPE))
def test_several_targets_are_separate_calls(rule: str, x: Tensor) -> None:
    lrp = small_lrp(rule)
    apart = [lrp.attribute(x, target=t) for t in range(4)]
    assert_close(lrp.attribute(x, target="all"), torch.stack(apart))
    # Other targets for each sample
    several = lrp.attribute(x, target=[[3, 0], [1, 1]])
    assert_close(several[:, 0], torch.stack([apart[3][0], apart[0][0]]))
    assert_close(several[:, 1], torch.stack([apart[1][1], apart[1][1]]))


# Rules that lose nothing but to a stabilizer; the layers have biases, which must not count.
CONSERVING: dict[str, rules.Rule] = {
    "zero": rules.Zero(bias=False),
    "epsilon": rules.Epsilon(1e-14, bias=False),
    "gamma": rules.Gamma(0.5, bias=False, stabilizer=1e-14),
    "alpha2 beta1": rules.AlphaBeta(2, 1, bias=False, stabilizer=1e-14),
    "z+": rules.ZPlus(bias=False, stabilizer=1e-14),
    "z-box": rules.ZBox(-3.0, 3.0, stabilizer=1e-14),
    "w^2": rules.WSquare(stabilizer=1e-14),
    "flat": rules.Flat(stabilizer=1e-14),
}


@cache
def conserving_layer(kind: str) -> nn.Module:
    """A layer each unit of which has weights of both signs."""
    layer = nn.Linear(18, 5) if kind == "linear" else nn.Conv2d(2, 3, 2)
    model = nn.Sequential(nn.Flatten(), layer) if kind == "linear" else layer
    return randomize(model.double(), seed=14)


@cache
def conserving_lrp(kind: str, rule: str) -> LRP:
    return LRP(conserving_layer(kind), composites.Uniform(CONSERVING[rule]))


@pytest.mark.parametrize("rule", CONSERVING)
@pytest.mark.parametrize("kind", ["linear", "conv"])
@quick
@given(x=tensors(2, *SMALL_SHAPE, elements=POSITIVE_EIGHTHS), data=st.data())
def test_relevance_is_conserved(kind: str, rule: str, x: Tensor, data: st.DataObject) -> None:
    model = conserving_layer(kind)
    with torch.no_grad():
        out = model(x)
        without_bias = out - model(torch.zeros_like(x))
    # Below that, rounding is a visible part of the denominator, and gamma may meet a zero in it.
    assume(out.abs().min() > 1e-3)
    assume(without_bias.abs().min() > 1e-3)
    if rule == "gamma":  # the bias decides the sign of z, and may leave a denominator near zero
        assume((without_bias.sign() == out.sign()).all())
    R = data.draw(tensors(*out.shape))
    got = conserving_lrp(kind, rule).attribute(x, start=R)
    sums = got.flatten(1).sum(1)
    scale = got.abs().flatten(1).sum(1) + R.abs().flatten(1).sum(1)
    assert ((sums - R.flatten(1).sum(1)).abs() <= 1e-10 * scale).all()


@pytest.mark.parametrize("proportional", [False, True], ids=["winner", "proportional"])
@quick
@given(
    x=tensors(2, 2, 4, 4, elements=POSITIVE_EIGHTHS),
    R=tensors(2, 2, 3, 3),
)
def test_pooling_conserves(proportional: bool, x: Tensor, R: Tensor) -> None:
    rule = rules.Pool(proportional=proportional, stabilizer=0.0)
    composite = composites.Composite(composites.base(pool=rule))
    got = LRP(overlapping_pool(), composite).attribute(x, start=R)
    scale = R.abs().sum()
    assert (got.sum((2, 3)) - R.sum((2, 3))).abs().max() <= TOLERANCE * scale


@cache
def overlapping_pool() -> nn.Module:
    return nn.MaxPool2d(2, stride=1)


@pytest.mark.parametrize("rule", ["z+", "z+, no bias", "z-box", "w^2", "w^2, bias", "flat"])
@quick
@given(
    x=tensors(2, *SMALL_SHAPE, elements=st.integers(-8, 12).map(lambda i: i / 8)),
    R=tensors(2, 4, elements=POSITIVE_EIGHTHS),
)
def test_positive_relevance_stays_positive(rule: str, x: Tensor, R: Tensor) -> None:
    # -1 <= x <= 1.5 is the box of the z-box rule, and so are the activations behind the ReLU.
    ours = RULES[rule][0]
    assert x.min() >= LOW
    assert x.max() <= HIGH
    composite = composites.Composite(
        [
            ((composites.first, composites.kind("conv")), ours),
            (composites.kind("linear"), rules.ZPlus(stabilizer=EPS) if rule == "z-box" else ours),
            *composites.base(),
        ]
    )
    got = LRP(small_model(), composite).attribute(x, start=R)
    assert (got >= 0).all()


@quick
@given(x=tensors(2, *SMALL_SHAPE), R=tensors(2, 4))
def test_gamma_of_zero_is_epsilon(x: Tensor, R: Tensor) -> None:
    gamma = explain(small_model(), rules.Gamma(0.0, stabilizer=EPS), x, R)
    # Uniform's stabilizer of sums has no part here: the model has none.
    assert_close(gamma, explain(small_model(), rules.Epsilon(EPS), x, R))


@quick
@given(x=tensors(2, *SMALL_SHAPE), R=tensors(2, 4))
def test_alpha1_beta0_is_z_plus(x: Tensor, R: Tensor) -> None:
    alpha_beta = explain(small_model(), rules.AlphaBeta(1, 0, stabilizer=EPS), x, R)
    assert_close(alpha_beta, explain(small_model(), rules.ZPlus(stabilizer=EPS), x, R))


@quick
@given(x=tensors(2, *SMALL_SHAPE), R=tensors(2, 3, 4, 4))
def test_a_large_gamma_is_z_plus(x: Tensor, R: Tensor) -> None:
    # For non-negative inputs of rectified units: where z <= 0 the unit is off and has no relevance.
    model = rectified_input()
    with torch.no_grad():
        R = R * (model(x) > 0)
    large = explain(model, rules.Gamma(1e13, stabilizer=0.0), x, R)
    assert_close(large, explain(model, rules.ZPlus(stabilizer=0.0), x, R), tolerance=1e-8)


@cache
def rectified_input() -> nn.Module:
    return nn.Sequential(nn.ReLU(), small_model()[0])
