"""Every LRP rule on every kind of layer, against hand-computed numbers and the oracle's loops."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from oracle import linear
from oracle.compare import (
    EPS,
    HAND_MADE,
    HIGH,
    LOW,
    RULES,
    TOLERANCE,
    Einsum,
    FromTheLeft,
    OneLayer,
    Oracle,
    assert_close,
    dense,
    explain,
    per_sample,
    row,
)
from torch import Tensor, nn

from xaifast import composites, rules
from xaifast.attr import LRP
from xaifast.errors import ModelError

# PyTorch says so of even kernels; our results are checked.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")

# ---- by hand ---------------------------------------------------------------------------------
# W = [1 2; 3 -1], b = [0 1] (HAND_MADE), a = [2 1]:
# contributions to k=1: 2, 2 (bias 0), to k=2: 6, -1 (bias 1); z = [4 6].  R = [1 1].

BY_HAND: dict[str, tuple[rules.Rule, tuple[float, float]]] = {
    # 2/4 + 6/6,  2/4 - 1/6: the bias keeps 1/6
    "zero": (rules.Zero(), (3 / 2, 1 / 3)),
    # z = [4 5]: 2/4 + 6/5,  2/4 - 1/5
    "zero, no bias": (rules.Zero(bias=False), (17 / 10, 3 / 10)),
    # z + eps = [6 8]: 2/6 + 6/8,  2/6 - 1/8
    "epsilon": (rules.Epsilon(2.0), (13 / 12, 5 / 24)),
    # z + eps = [6 7]: 2/6 + 6/7,  2/6 - 1/7
    "epsilon, no bias": (rules.Epsilon(2.0, bias=False), (25 / 21, 4 / 21)),
    # z = [4 6] has mean 5 and deviation 1, so eps = 3 and z + eps = [7 9]: 2/7 + 6/9,  2/7 - 1/9
    "relative": (rules.Epsilon(3.0, relative=True), (20 / 21, 11 / 63)),
    # positive ones twice: 4, 4 of 8; 12, -1 of 12 - 1 + 2 = 13: 4/8 + 12/13,  4/8 - 1/13
    "gamma": (rules.Gamma(1.0, stabilizer=0.0), (37 / 26, 11 / 26)),
    # 4, 4 of 8; 12, -1 of 11: 4/8 + 12/11,  4/8 - 1/11
    "gamma, no bias": (rules.Gamma(1.0, bias=False, stabilizer=0.0), (35 / 22, 9 / 22)),
    # positive: 2, 2 of 4; 6 of 6 + 1. negative: none (0/0); -1 of -1.
    # 2 (2/4 + 6/7),  2 (2/4) - 1 (-1/-1)
    "alpha2 beta1": (rules.AlphaBeta(2, 1, stabilizer=0.0), (19 / 7, 0.0)),
    # 2 (2/4 + 6/6),  2 (2/4) - 1
    "alpha2 beta1, no bias": (rules.AlphaBeta(2, 1, bias=False, stabilizer=0.0), (3.0, 0.0)),
    # the stabilizer has the sign of each sum, 4 + 1, 7 + 1, -1 - 1: 2 (2/5 + 6/8),  2 (2/5) - 1/2
    "alpha2 beta1, stabilizer": (rules.AlphaBeta(2, 1, stabilizer=1.0), (23 / 10, 3 / 10)),
    # 2/4 + 6/7,  2/4
    "z+": (rules.ZPlus(stabilizer=0.0), (19 / 14, 1 / 2)),
    # 2/4 + 6/6,  2/4
    "z+, no bias": (rules.ZPlus(bias=False, stabilizer=0.0), (3 / 2, 1 / 2)),
    # l = -1, h = 3. k=1: 2+1, 2+2 of 7; k=2: 6+3, -1+3 of 11: 3/7 + 9/11,  4/7 + 2/11
    "z-box": (rules.ZBox(-1.0, 3.0, stabilizer=0.0), (96 / 77, 58 / 77)),
    # the box differs per input: l = [0 -1], h = [2 3]. k=1: 2, 2+2 of 6; k=2: 6, -1+3 of 8
    "z-box of tensors": (
        rules.ZBox(torch.tensor([0.0, -1.0]), torch.tensor([2.0, 3.0]), stabilizer=0.0),
        (2 / 6 + 6 / 8, 4 / 6 + 2 / 8),
    ),
    # 1, 4 of 5; 9, 1 of 10: 1/5 + 9/10,  4/5 + 1/10
    "w^2": (rules.WSquare(stabilizer=0.0), (11 / 10, 9 / 10)),
    # 1, 4 of 5; 9, 1 of 10 + 1: 1/5 + 9/11,  4/5 + 1/11
    "w^2, bias": (rules.WSquare(bias=True, stabilizer=0.0), (56 / 55, 49 / 55)),
    # 1/2 + 1/2 for both
    "flat": (rules.Flat(stabilizer=0.0), (1.0, 1.0)),
    # 1 of 2 + 2 for each unit: 1/4 + 1/4
    "flat, stabilizer": (rules.Flat(stabilizer=2.0), (1 / 2, 1 / 2)),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_rule_by_hand(name: str) -> None:
    rule, expected = BY_HAND[name]
    assert_close(explain(HAND_MADE, rule, row(2.0, 1.0), row(1.0, 1.0)), row(*expected))


def test_start_at_the_output_by_hand() -> None:
    lrp = LRP(HAND_MADE, composites.Uniform(rules.Zero()))
    # R_2 = z_2 = 6: shares 6/6 and -1/6; the bias keeps 1
    assert_close(lrp.attribute(row(2.0, 1.0), target=1), row(6.0, -1.0))
    # R_2 = 1
    assert_close(lrp.attribute(row(2.0, 1.0), target=1, start="one"), row(1.0, -1 / 6))


def test_denominator_below_zero_by_hand() -> None:
    layer = dense([[1.0, 1.0]])
    # z = 1 - 3 = -2, stabilized to -3: 6 (1/-3), 6 (-3/-3)
    x, R = row(1.0, -3.0), row(6.0)
    assert_close(explain(layer, rules.Epsilon(1.0), x, R), row(-2.0, 6.0))
    # z+ takes the positive one alone: 1/(1 + 1)
    assert_close(explain(layer, rules.ZPlus(stabilizer=1.0), x, R), row(3.0, 0.0))
    # what agrees with z < 0 twice: 1, -6 of -5, stabilized to -6: 6 (1/-6), 6 (-6/-6)
    assert_close(explain(layer, rules.Gamma(1.0, stabilizer=1.0), x, R), row(-1.0, 6.0))


def test_denominator_of_zero_by_hand() -> None:
    layer = dense([[1.0, 1.0]])
    x, R = row(2.0, -2.0), row(6.0)
    # sgn 0 = +1: z = 0 is stabilized to +1
    assert_close(explain(layer, rules.Epsilon(1.0), x, R), row(12.0, -12.0))
    # R/0 = 0
    assert not explain(layer, rules.Zero(), x, R).any()
    # where z has no sign, no contribution agrees with it
    assert not explain(layer, rules.Gamma(1.0, stabilizer=1.0), x, R).any()


def test_negative_inputs_by_hand() -> None:
    layer = HAND_MADE
    x, R = row(-2.0, 1.0), row(1.0, 1.0)
    # contributions -2, 2 and -6, -1 (bias 1): z+ sees 2 of 2, and nothing of 1
    assert_close(explain(layer, rules.ZPlus(stabilizer=0.0), x, R), row(0.0, 1.0))
    # 2 (2/2) for the second; minus -2/-2 and -6/-7 for the first, minus -1/-7 for the second
    rule = rules.AlphaBeta(2, 1, stabilizer=0.0)
    assert_close(explain(layer, rule, x, R), row(-13 / 7, 13 / 7))


def test_relative_epsilon_is_taken_sample_by_sample() -> None:
    layer = HAND_MADE
    x = torch.cat([row(2.0, 1.0), row(4.0, 2.0)])
    got = explain(layer, rules.Epsilon(2.0, relative=True), x, torch.ones(2, 2).double())
    # z = [4 6], eps = 2: 2/6 + 6/8, 2/6 - 1/8;  z = [8 11], eps = 3: 4/11 + 12/14, 4/11 - 2/14
    want = torch.cat([row(13 / 12, 5 / 24), row(4 / 11 + 12 / 14, 4 / 11 - 2 / 14)])
    assert_close(got, want)


# ---- every rule on every kind of layer -------------------------------------------------------

# A layer and the shape of one sample.
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(7, 5), (7,)),
    "linear, no bias": (lambda: nn.Linear(7, 5, bias=False), (7,)),
    "linear, one output": (lambda: nn.Linear(4, 1), (4,)),
    "linear 3-D": (lambda: nn.Linear(4, 3), (3, 4)),
    "linear 4-D, no bias": (lambda: nn.Linear(3, 2, bias=False), (2, 3, 3)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3), (3, 7)),
    "conv1d, all options": (
        lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2),
        (4, 9),
    ),
    "conv1d, circular": (
        lambda: nn.Conv1d(2, 3, 3, padding=2, padding_mode="circular"),
        (2, 5),
    ),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, padding=1), (3, 5, 4)),
    "conv2d, no bias": (lambda: nn.Conv2d(3, 4, 3, padding=1, bias=False), (3, 5, 4)),
    "conv2d, pointwise": (lambda: nn.Conv2d(4, 3, 1), (4, 3, 3)),
    "conv2d, all options": (
        lambda: nn.Conv2d(4, 6, (2, 3), (2, 1), (1, 2), (1, 2), groups=2),
        (4, 5, 6),
    ),
    "conv2d, stride leaves a rest": (lambda: nn.Conv2d(2, 3, 2, stride=3), (2, 7, 6)),
    "conv2d, depthwise": (lambda: nn.Conv2d(3, 6, 3, padding=1, groups=3), (3, 4, 4)),
    "conv2d, same": (lambda: nn.Conv2d(2, 3, (2, 4), padding="same"), (2, 4, 5)),
    "conv2d, reflect": (
        lambda: nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode="reflect"),
        (2, 4, 5),
    ),
    "conv2d, replicate": (
        lambda: nn.Conv2d(2, 3, 3, stride=2, padding=2, padding_mode="replicate"),
        (2, 4, 5),
    ),
    "conv2d, circular, grouped": (
        lambda: nn.Conv2d(4, 4, 3, padding=1, groups=2, padding_mode="circular"),
        (4, 3, 4),
    ),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, padding=1), (2, 3, 3, 2)),
    "conv3d, no bias, all options": (
        lambda: nn.Conv3d(
            4, 2, (2, 1, 3), (1, 2, 1), (0, 1, 1), (2, 1, 1), groups=2, bias=False
        ),
        (4, 4, 3, 3),
    ),
    "conv3d, replicate": (
        lambda: nn.Conv3d(1, 2, 2, padding=1, padding_mode="replicate"),
        (1, 2, 3, 2),
    ),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(3, 2, 3), (3, 4)),
    "conv_transpose1d, all options": (
        lambda: nn.ConvTranspose1d(
            4, 6, 3, stride=3, padding=1, output_padding=2, groups=2, dilation=2
        ),
        (4, 3),
    ),
    # PyTorch allows it where the dilation is larger; the outputs would do for one more input.
    "conv_transpose1d, output padding as large as the stride": (
        lambda: nn.ConvTranspose1d(2, 3, 2, stride=1, output_padding=1, dilation=2),
        (2, 4),
    ),
    # An output that no input reaches (stride > kernel) has an empty sum.
    "conv_transpose1d, gaps, no bias": (
        lambda: nn.ConvTranspose1d(2, 3, 1, stride=2, bias=False),
        (2, 4),
    ),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(3, 2, 2, stride=2), (3, 3, 2)),
    "conv_transpose2d, all options": (
        lambda: nn.ConvTranspose2d(
            4, 2, (3, 2), (2, 3), (1, 0), output_padding=(1, 2), groups=2, dilation=(1, 2)
        ),
        (4, 2, 3),
    ),
    "conv_transpose3d": (lambda: nn.ConvTranspose3d(2, 2, 2, stride=2), (2, 2, 1, 2)),
    "conv_transpose3d, no bias, all options": (
        lambda: nn.ConvTranspose3d(
            2, 4, (2, 1, 3), (2, 1, 1), (1, 0, 1), (1, 0, 0), groups=2, bias=False,
            dilation=(1, 1, 1),
        ),
        (2, 2, 2, 3),
    ),
    "matmul from the left": (lambda: FromTheLeft(4, 3), (3, 5)),
    "einsum": (lambda: Einsum("ti,tio->to", 3, 4, 2), (3, 4)),
    "einsum, matrix and vector": (lambda: Einsum("ti,i->t", 4), (3, 4)),
}  # fmt: skip


@cache
def one_layer(name: str, nonnegative: bool) -> OneLayer:
    make, in_shape = LAYERS[name]
    return OneLayer(make(), in_shape, nonnegative)


@pytest.mark.parametrize("layer", LAYERS)
def test_the_oracle_sees_the_same_layer(layer: str) -> None:
    case = one_layer(layer, nonnegative=False)
    z = np.stack([case.connections.forward(a) for a in case.a.numpy()])
    with torch.no_grad():
        assert_close(case.model(case.x), z)


@pytest.mark.sweep
@pytest.mark.parametrize("nonnegative", [False, True], ids=["signed", "non-negative"])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("rule", RULES)
def test_rule_on_layer(rule: str, layer: str, nonnegative: bool) -> None:
    case = one_layer(layer, nonnegative)
    ours, oracle = RULES[rule]
    # The ReLU in front hands relevance on as it is.
    want = per_sample(oracle, case.connections, case.a, case.R)
    # Without epsilon, the rounding of a small z_k is amplified by 1 / z_k.
    tolerance = 1e-10 if rule.startswith("zero") else TOLERANCE
    assert_close(explain(case.model, ours, case.x, case.R), want, tolerance)


@pytest.mark.parametrize("nonnegative", [False, True], ids=["signed", "non-negative"])
@pytest.mark.parametrize("rule", [r for r in RULES if not r.startswith(("w^2", "flat"))])
@pytest.mark.parametrize("layer", ["affine", "sum"])
def test_rule_on_affine_nodes_and_sums(layer: str, rule: str, nonnegative: bool) -> None:
    made = nn.AvgPool1d(3)
    if layer == "affine":  # nothing beside it into which it could be folded
        made = nn.BatchNorm1d(3, eps=0.1)
        made.running_mean.copy_(torch.tensor([0.5, -1.0, 0.0]))
        made.running_var.copy_(torch.tensor([0.5, 2.0, 1.0]))
    case = OneLayer(made, (3, 6), nonnegative)
    ours, oracle = RULES[rule]
    composite = composites.Composite([(composites.kind(layer), ours), *composites.base()])
    want = per_sample(oracle, case.connections, case.a, case.R)
    assert_close(explain(case.model, composite, case.x, case.R), want)


@pytest.mark.parametrize("rule", [rules.Flat(), rules.WSquare()])
def test_rules_that_replace_weights_are_refused_where_there_are_none(rule: rules.Rule) -> None:
    composite = composites.Composite([(composites.kind("sum"), rule), *composites.base()])
    with pytest.raises(ModelError, match="needs weights; for sums and average pooling take Eps"):
        explain(nn.AvgPool1d(3), composite, torch.ones(1, 2, 6), torch.ones(1, 2, 2))


@pytest.mark.parametrize("layer", ["linear", "conv2d", "conv_transpose2d, all options"])
def test_z_box_of_tensors(layer: str) -> None:
    case = one_layer(layer, nonnegative=False)
    shape = (case.x.shape[1], *[1] * (case.x.dim() - 2))  # a box per channel, or per feature
    low, high = -torch.rand(shape).double() - 1, torch.rand(shape).double() + 1.5
    got = explain(case.model, rules.ZBox(low, high, stabilizer=EPS), case.x, case.R)
    want = per_sample(
        lambda c, a, R: linear.z_box(c, a, R, low.numpy(), high.numpy(), EPS),
        case.connections, case.a, case.R,
    )  # fmt: skip
    assert_close(got, want)


@pytest.mark.parametrize("layer", ["linear", "conv2d", "conv_transpose1d, all options"])
@pytest.mark.parametrize("rule", ["gamma", "alpha2 beta1", "z+"])
def test_default_stabilizer(rule: str, layer: str) -> None:
    case = one_layer(layer, nonnegative=False)
    ours, oracle = {
        "gamma": (rules.Gamma(), lambda c, a, R: linear.gamma(c, a, R, 0.25, 1e-6)),
        "alpha2 beta1": (
            rules.AlphaBeta(),
            lambda c, a, R: linear.alpha_beta(c, a, R, 2.0, 1.0, 1e-6),
        ),
        "z+": (rules.ZPlus(), lambda c, a, R: linear.z_plus(c, a, R, 1e-6)),
    }[rule]
    want = per_sample(oracle, case.connections, case.a, case.R)
    assert_close(explain(case.model, ours, case.x, case.R), want)


# ---- sums that are empty, or zero ------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "oracle"),
    [
        (rules.Gamma(0.5, stabilizer=0.0), lambda c, a, R: linear.gamma(c, a, R, 0.5, 0.0)),
        (rules.ZPlus(stabilizer=0.0), lambda c, a, R: linear.z_plus(c, a, R, 0.0)),
        (
            rules.AlphaBeta(2, 1, stabilizer=0.0),
            lambda c, a, R: linear.alpha_beta(c, a, R, 2.0, 1.0, 0.0),
        ),
        (
            rules.ZBox(LOW, HIGH, stabilizer=0.0),
            lambda c, a, R: linear.z_box(c, a, R, np.array(LOW), np.array(HIGH), 0.0),
        ),
        (rules.WSquare(stabilizer=0.0), lambda c, a, R: linear.w_square(c, a, R, 0.0)),
        (rules.Flat(stabilizer=0.0), lambda c, a, R: linear.flat(c, a, R, 0.0)),
    ],
    ids=["gamma", "z+", "alpha-beta", "z-box", "w^2", "flat"],
)
@pytest.mark.parametrize("layer", ["conv_transpose1d, gaps, no bias", "linear, no bias"])
def test_without_stabilizer_nothing_is_shared_by_nothing(
    layer: str, ours: rules.Rule, oracle: Oracle
) -> None:
    case = one_layer(layer, nonnegative=True)
    x = case.x.clone()
    x[0] = -1.0  # behind the ReLU: nothing but zeros
    a = x.relu()
    want = per_sample(oracle, case.connections, a, case.R)
    assert_close(explain(case.model, ours, x, case.R), want)


# ---- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "beta"), [(2, 2), (1, 1), (0.5, 0), (3, 1)])
def test_alpha_beta_that_do_not_conserve(alpha: float, beta: float) -> None:
    wording = rf"AlphaBeta: alpha - beta must be 1; got {alpha} - {beta}\. Usual pairs are \(1, 0\)"
    with pytest.raises(ValueError, match=wording):
        rules.AlphaBeta(alpha, beta)


@pytest.mark.parametrize(
    ("make", "who"),
    [
        (lambda: rules.Epsilon(-0.5), "Epsilon: epsilon"),
        (lambda: rules.Gamma(-0.5), "Gamma: gamma"),
        (lambda: rules.Gamma(stabilizer=-0.5), "Gamma: stabilizer"),
        (lambda: rules.ZPlus(stabilizer=-0.5), "ZPlus: stabilizer"),
        (lambda: rules.AlphaBeta(0.5, -0.5), "AlphaBeta: beta"),
        (lambda: rules.AlphaBeta(stabilizer=-0.5), "AlphaBeta: stabilizer"),
        (lambda: rules.ZBox(0.0, 1.0, stabilizer=-0.5), "ZBox: stabilizer"),
        (lambda: rules.WSquare(stabilizer=-0.5), "WSquare: stabilizer"),
        (lambda: rules.Flat(stabilizer=-0.5), "Flat: stabilizer"),
        (lambda: rules.Pool(stabilizer=-0.5), "Pool: stabilizer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_negative_parameters(make: Callable[[], rules.Rule], who: str) -> None:
    with pytest.raises(
        ValueError, match=rf"{who} must be >= 0 and finite; got -0\.5\. Zero switches it off"
    ):
        make()


@pytest.mark.parametrize("rule", [rules.Epsilon, rules.Gamma])
def test_nan_is_no_parameter(rule: type) -> None:
    with pytest.raises(ValueError, match="must be >= 0 and finite; got nan"):
        rule(float("nan"))


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (1.0, 0.0),
        (1.0, 1.0),
        (torch.tensor([0.0, 2.0]), torch.tensor([1.0, 1.0])),
        (float("nan"), 1.0),
    ],
    ids=["above", "equal", "one above", "nan"],
)
def test_box_that_is_no_box(low: float | Tensor, high: float | Tensor) -> None:
    with pytest.raises(
        ValueError, match=r"ZBox: low and high must be finite and ordered, low < high; got"
    ):
        rules.ZBox(low, high)
