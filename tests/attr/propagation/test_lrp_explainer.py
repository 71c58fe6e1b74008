"""LRP on whole networks: parity with gradient x input, conservation, targets, results, promises."""

import copy
import gc

import nets
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from xaifast import composites as c
from xaifast import rules as r
from xaifast.attr import LRP
from xaifast.errors import InputError, InputTypeError, ModelError, XaifastError


def relative(a, b):
    return float((a - b).abs().max() / b.abs().max())


def gradient_times_input(model, x, target):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x)[:, target].sum(), x)[0] * x.detach()


# ---- formulas on whole networks -----------------------------------------------------------------


@pytest.mark.parametrize("kind", nets.RECTIFIED)
def test_zero_everywhere_is_gradient_times_input(kind, device):
    model, x = nets.shared(kind, device), nets.inputs(kind).to(device)
    got = LRP(model, c.Uniform(r.Zero())).attribute(x, target=3)
    assert relative(got, gradient_times_input(model, x, 3)) < 1e-12


# Where a unit has no contribution of one sign, z+ and alpha-beta have nothing to hand that share to
# (0/0 = 0): they conserve only where every unit with relevance has both.
CONSERVING = [
    *((r.Zero(), kind) for kind in nets.SHAPES),
    *((r.Gamma(stabilizer=1e-12), kind) for kind in nets.SHAPES),
    *((r.ZPlus(stabilizer=1e-12), kind) for kind in nets.RECTIFIED),
    *((r.AlphaBeta(2, 1, stabilizer=1e-12), kind) for kind in (nets.ResNet, nets.DenseNet)),
]


@pytest.mark.parametrize(
    ("rule", "kind"), CONSERVING, ids=lambda x: getattr(x, "__name__", type(x).__name__)
)
def test_without_biases_relevance_is_conserved(kind, rule, device):
    model, x = nets.shared(kind, device, biases=False), nets.inputs(kind).to(device)
    output = model(x)[:, 1]
    R = LRP(model, c.Uniform(rule)).attribute(x, target=1)
    assert torch.allclose(R.flatten(1).sum(1), output, rtol=1e-6, atol=1e-9)


@pytest.mark.sweep
@pytest.mark.parametrize(
    "composite",
    [
        c.Uniform(r.Epsilon(0.1)),
        c.Uniform(r.Epsilon(0.25, relative=True)),
        c.Uniform(r.WSquare(bias=True)),
        c.EpsilonPlusFlat(),
        c.EpsilonAlpha2Beta1Flat(),
        c.EpsilonGammaBox(-5.0, 5.0),
        c.EpsilonGammaBox(-5.0, 5.0, bias=False),
        c.ZeroEpsilonGammaBox(-5.0, 5.0),
    ],
    ids=repr,
)
@pytest.mark.parametrize("kind", [nets.ResNet, nets.Depthwise, nets.Smooth, nets.Sequence])
def test_the_report_closes_the_balance_of_every_node(kind, composite):
    model, x = nets.shared(kind), nets.inputs(kind)
    explainer = LRP(model, composite)
    report = explainer.report(x, target=2)
    scale = max(abs(b.received) for b in report.rows)
    assert max(abs(b.gap) for b in report.rows) < 1e-12 * scale
    _, delta = explainer.attribute(x, target=2, return_convergence_delta=True)
    absorbed = sum(b.bias + b.stabilizer + b.filled for b in report.rows)
    assert abs(float(delta.sum()) - absorbed) < 1e-11 * scale
    assert report.rows[0].node.name in str(report)


def test_report_numbers_by_hand():
    model = nn.Linear(2, 1).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, 1.0]]))
        model.bias.copy_(torch.tensor([1.0]))
    x = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    # z = 2 + 1 + 1 = 4, eps = 1: s = 4/5; inputs get 12/5, the bias 4/5, the stabilizer 4/5
    (row,) = LRP(model, c.Uniform(r.Epsilon(1.0))).report(x, target=0).rows
    found = (row.received, row.passed, row.bias, row.stabilizer)
    assert found == pytest.approx((4.0, 2.4, 0.8, 0.8))


@pytest.mark.parametrize("kind", nets.SHAPES)
def test_float32_is_close_to_float64(kind, device):
    model, x = nets.shared(kind, device), nets.inputs(kind).to(device)
    exact = LRP(model, c.EpsilonPlus()).attribute(x, target=0)
    single = LRP(copy.deepcopy(model).float(), c.EpsilonPlus()).attribute(x.float(), target=0)
    assert single.dtype == torch.float32
    assert relative(single.double(), exact) < 1e-3


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [nets.ResNet, nets.Smooth, nets.Volume])
def test_half_precision_is_finite_and_keeps_its_dtype(kind, dtype, device):
    model, x = nets.prepared(kind()).to(device).to(dtype), nets.inputs(kind).to(device).to(dtype)
    exact = LRP(copy.deepcopy(model).double(), c.EpsilonPlus()).attribute(x.double(), target=0)
    for composite in (c.EpsilonPlus(), c.EpsilonAlpha2Beta1(), c.Uniform(r.Epsilon(1e-9))):
        R = LRP(model, composite).attribute(x, target=0)
        assert R.dtype == dtype
        assert torch.isfinite(R).all()
    R = LRP(model, c.EpsilonPlus()).attribute(x, target=0)
    assert relative(R.double(), exact) < 0.05


# ---- targets and starts -------------------------------------------------------------------------


@pytest.fixture
def resnet():
    model, x = nets.shared(nets.ResNet), nets.inputs(nets.ResNet, 3)
    return LRP(model, c.EpsilonPlus()), model, x


def test_all_forms_of_a_target(resnet):
    explainer, _, x = resnet
    one = explainer.attribute(x, target=2)
    for target in (
        torch.tensor(2),
        torch.tensor([2]),
        [2],
        [2, 2, 2],
        torch.tensor([2] * 3),
        (2,),
        [(2,)] * 3,
        -3,
    ):
        assert torch.equal(explainer.attribute(x, target=target), one)
    mixed = explainer.attribute(x, target=[0, 2, 4])
    assert torch.equal(mixed[1], one[1])
    mask = torch.zeros(5, dtype=torch.bool)
    mask[2] = True
    assert torch.allclose(explainer.attribute(x, target=mask), one)


def test_many_targets_are_the_single_ones(resnet):
    explainer, _, x = resnet
    several = explainer.attribute(x, target=[[0, 4], [1, 2], [3, 3]])
    assert several.shape == (2, *x.shape)
    assert torch.allclose(several[0], explainer.attribute(x, target=[0, 1, 3]))
    assert torch.allclose(several[1], explainer.attribute(x, target=torch.tensor([4, 2, 3])))
    everything = explainer.attribute(x, target="all")
    assert everything.shape == (5, *x.shape)
    assert torch.allclose(everything[4, 0], several[1, 0])


def test_relevance_starts_where_it_is_told(resnet):
    explainer, model, x = resnet
    output = model(x)
    R, delta = explainer.attribute(x, target=1, return_convergence_delta=True)
    assert torch.allclose(R.flatten(1).sum(1) + delta, output[:, 1])
    one, delta = explainer.attribute(x, target=1, start="one", return_convergence_delta=True)
    assert torch.allclose(one.flatten(1).sum(1) + delta, torch.ones(3, dtype=torch.float64))
    assert torch.allclose(one * output[:, 1].view(3, 1, 1, 1), R)
    seed = torch.zeros(3, 5, dtype=torch.float64)
    seed[:, 1] = output[:, 1]
    assert torch.allclose(explainer.attribute(x, start=seed), R)
    several = explainer.attribute(x, start=torch.stack([seed, 2 * seed]))
    assert torch.allclose(several[1], 2 * R)


def test_log_odds_is_the_rule_on_the_layer_of_differences():
    model = nn.Sequential(nn.Linear(3, 20), nn.ReLU(), nn.Linear(20, 3)).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    R = LRP(model, c.Uniform(r.Zero(bias=False))).attribute(x, target=1, start="log_odds")
    a = model[1](model[0](x))
    w, b, z = model[2].weight, model[2].bias, model(x)
    p = torch.softmax(z[:, [0, 2]] - z[:, [1]], 1)  # min takes most: exp(-z_cc')
    R_pairs = (z[:, [1]] - z[:, [0, 2]]) * p
    difference = w[1] - w[[0, 2]]
    R_hidden = a * ((R_pairs / (a @ difference.T)) @ difference)
    v = model[0].weight
    expected = x * ((R_hidden / (x @ v.T)) @ v)
    assert relative(R, expected.detach()) < 1e-12
    assert b is not None


def test_log_odds_of_logits_without_a_dense_layer():
    model = nn.Sequential(
        nn.Conv2d(2, 3, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).double()
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    explainer = LRP(model, c.Uniform(r.Zero()))
    R = explainer.attribute(x, target=2, start="log_odds")
    z = model(x)
    p = torch.softmax(z[:, :2] - z[:, 2:], 1)
    expected = (p * (z[:, 2:] - z[:, :2])).sum(1)
    assert torch.allclose(R.flatten(1).sum(1), expected, rtol=1e-4)


def test_a_dense_output_by_position_region_and_mask():
    model = nets.prepared(
        nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))
    )
    x = torch.randn(2, 2, 6, 5, dtype=torch.float64)
    explainer = LRP(model, c.Uniform(r.Zero()))
    at = explainer.attribute(x, target=(1, 2, 3))
    mask = torch.zeros(3, 6, 5, dtype=torch.bool)
    mask[1, 2, 3] = True
    assert torch.allclose(explainer.attribute(x, target=mask), at)
    region = explainer.attribute(x, target=(1, slice(None), slice(0, 2)))
    single = [explainer.attribute(x, target=(1, i, j)) for i in range(6) for j in range(2)]
    assert torch.allclose(region, torch.stack(single).sum(0))
    each = torch.stack([mask, torch.roll(mask, 1, 0)])
    assert torch.allclose(explainer.attribute(x, target=each)[0], at[0])


BAD_TARGETS = [
    (5, "must lie in \\[-5, 4\\]"),
    (None, "is needed"),
    ([0, 1], "one entry for each of the 3 samples"),
    ((0, 1), "must have 1 indices"),
    ("cat", 'other than "all"'),
    (1.5, "unknown form"),
    (torch.tensor([0.5, 1.0, 2.0]), "made of ints"),
    ([[0, 1], [2], [3, 4]], "same number"),
    (torch.zeros(4, dtype=torch.bool), "shape of the output"),
    ((slice(3, 3),), "must select some output"),
]


@pytest.mark.parametrize(("target", "message"), BAD_TARGETS, ids=[m for _, m in BAD_TARGETS])
def test_a_wrong_target_is_refused_with_the_forms(resnet, target, message):
    explainer, _, x = resnet
    with pytest.raises(XaifastError, match=message) as error:
        explainer.attribute(x, target=target)
    assert "Allowed: an int" in str(error.value)


# ---- other arguments ----------------------------------------------------------------------------


def test_wrong_arguments_are_refused(resnet):
    explainer, model, x = resnet
    cases = [
        (lambda: LRP(print), InputTypeError, "must be a torch.nn.Module"),
        (lambda: LRP(torch.jit.trace(model, x)), InputTypeError, "scripted"),
        (lambda: LRP(model, r.Epsilon()), InputTypeError, "composites.Uniform"),
        (lambda: explainer.attribute([1, 2], target=0), InputTypeError, "tensor or a tuple"),
        (lambda: explainer.attribute((), target=0), InputError, "at least one"),
        (lambda: explainer.attribute(x * float("nan"), target=0), InputError, "finite"),
        (
            lambda: explainer.attribute(x, target=0, start="two"),
            InputError,
            "output, one, log_odds",
        ),
        (lambda: explainer.attribute(x, target=0, start=3), InputTypeError, "word or a tensor"),
        (lambda: explainer.attribute(x, target=0, start=x), InputError, "must be None"),
        (lambda: explainer.attribute(x, start=x), InputError, "shape of the output"),
        (lambda: explainer.attribute(x, target=0, layers=["nope"]), InputError, "blocks.0"),
        (
            lambda: explainer.attribute(x, target=0, start="log_odds", layers=["head"]),
            InputError,
            "must not name the output",
        ),
        (lambda: explainer.attribute(x, target=0, internal_batch_size=0), InputError, "at least 1"),
        (lambda: explainer.attribute(x, target=0, internal_batch_size=1.5), InputTypeError, "auto"),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()


def test_a_wrong_shape_is_the_models_own_error_in_one_sentence(resnet):
    explainer, _, x = resnet
    with pytest.raises(ModelError, match=r"fails on these inputs itself.*Check that model"):
        explainer.attribute(x[:, :2], target=0)


@pytest.mark.parametrize("size", [1, 2, "auto"])
def test_the_internal_batch_size_changes_nothing(resnet, size):
    explainer, _, x = resnet
    whole, delta = explainer.attribute(
        x, target=[0, 1, 2], return_convergence_delta=True, internal_batch_size=3
    )
    parts, delta_parts = explainer.attribute(
        x, target=[0, 1, 2], return_convergence_delta=True, internal_batch_size=size
    )
    assert torch.allclose(parts, whole)
    assert torch.allclose(delta_parts, delta)


def test_batches_of_none_and_one(resnet):
    explainer, _, x = resnet
    assert torch.allclose(
        explainer.attribute(x[:1], target=2), explainer.attribute(x, target=2)[:1]
    )
    R, delta = explainer.attribute(x[:0], target=2, return_convergence_delta=True)
    assert (R.shape, R.dtype, delta.shape) == ((0, 3, 13, 10), torch.float64, (0,))
    assert LRP(nets.shared(nets.ResNet)).attribute(x[:0], target=[]).shape == (0, 3, 13, 10)


def test_any_layout_of_the_input(resnet):
    explainer, _, x = resnet
    expected = explainer.attribute(x, target=1)
    wide = torch.randn(3, 3, 13, 20, dtype=torch.float64)
    wide[..., ::2] = x
    for y in (x.to(memory_format=torch.channels_last), wide[..., ::2]):
        assert torch.allclose(explainer.attribute(y, target=1), expected)


def test_relevance_at_inner_layers(resnet):
    explainer, model, x = resnet
    R, layers = explainer.attribute(
        x, target=1, layers=["blocks.0", "stem", "blocks.1.relu", "head"]
    )
    hidden = F.max_pool2d(F.relu(model.stem(x)), 3, 2, 1)
    tail = nn.Sequential(model.blocks[1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.head)
    after = model.blocks[0](hidden).detach()
    assert torch.allclose(layers["blocks.0"], LRP(tail, c.EpsilonPlus()).attribute(after, target=1))
    assert layers["stem"].shape == (3, 8, 13, 10)
    assert [len(layers["blocks.1.relu"]), layers["head"].shape] == [2, (3, 5)]
    assert torch.allclose(layers["head"].sum(1), model(x)[:, 1])
    assert torch.allclose(R, explainer.attribute(x, target=1))


def test_several_inputs_and_further_arguments():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(3, 9), nn.Linear(2, 9), nn.Linear(9, 2)

        def forward(self, x, y, scale, shift=None):
            h = F.relu(self.a(x)) * scale + F.relu(self.b(y))
            return self.head(h if shift is None else h + shift)

    model = nets.prepared(Two(), biases=False)
    x, y = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)
    explainer = LRP(model, c.Uniform(r.Zero()))
    Rx, Ry = explainer.attribute((x, y), target=0, additional_forward_args=(2.0,))
    assert torch.allclose(Rx.sum(1) + Ry.sum(1), model(x, y, 2.0)[:, 0])
    shift = torch.randn(2, 9, dtype=torch.float64)
    R = explainer.attribute((x, y), target=0, additional_forward_args=(2.0, shift))
    assert torch.isfinite(R[0]).all()
    assert not torch.allclose(R[0], Rx)


def test_embeddings_get_relevance_at_their_output():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(10, 6)
            self.conv, self.head = nn.Conv1d(6, 5, 3), nn.Linear(5, 3)

        def forward(self, tokens):
            return self.head(F.relu(self.conv(self.embedding(tokens).transpose(1, 2))).amax(-1))

    model, tokens = Text().double(), torch.randint(0, 10, (2, 7))
    R, layers = LRP(model, c.Uniform(r.Zero(bias=False))).attribute(
        tokens, target=1, layers=["embedding"]
    )
    assert R.shape == (2, 7, 6)
    assert torch.equal(layers["embedding"], R)
    assert torch.allclose(R.sum((1, 2)), model(tokens)[:, 1])


# ---- promises -----------------------------------------------------------------------------------


def snapshot(model):
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = {
        name: (t.data_ptr(), t._version, t.requires_grad, t.grad) for name, t in tensors.items()
    }
    hooks = [(len(m._forward_hooks), len(m._backward_hooks), m.training) for m in model.modules()]
    attributes = [sorted(vars(m)) for m in model.modules()]
    return state, {n: t.clone() for n, t in tensors.items()}, hooks, attributes


@pytest.mark.parametrize("kind", nets.SHAPES)
def test_the_users_model_is_untouched(kind):
    model, x = nets.prepared(kind()), nets.inputs(kind)
    next(model.parameters()).requires_grad_(False)
    state, values, hooks, attributes = snapshot(model)
    x_before, version = x.clone(), x._version
    for composite in (c.EpsilonPlusFlat(), c.Uniform(r.Zero())):
        LRP(model, composite).attribute(x, target=0)
    state_after, values_after, hooks_after, attributes_after = snapshot(model)
    assert state == state_after
    assert all(torch.equal(values[n], values_after[n]) for n in values)
    assert (hooks, attributes) == (hooks_after, attributes_after)
    assert torch.equal(x, x_before)
    assert x._version == version


def test_training_goes_on_and_the_next_call_sees_it():
    model, x = nets.prepared(nets.ResNet()), nets.inputs(nets.ResNet, 3)
    explainer = LRP(model, c.EpsilonPlus())
    before = explainer.attribute(x, target=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(x).square().sum().backward()
    optimizer.step()
    after = explainer.attribute(x, target=1)
    fresh = LRP(copy.deepcopy(model), c.EpsilonPlus()).attribute(x, target=1)
    assert torch.equal(after, fresh)
    assert not torch.allclose(after, before)
    model.head.weight.data.mul_(0.5)  # leaves no version behind
    assert torch.allclose(
        explainer.attribute(x, target=1),
        LRP(copy.deepcopy(model), c.EpsilonPlus()).attribute(x, target=1),
    )
    model.head = nn.Linear(8, 5).double()
    assert torch.allclose(
        explainer.attribute(x, target=1),
        LRP(copy.deepcopy(model), c.EpsilonPlus()).attribute(x, target=1),
    )


def test_a_model_in_training_mode_is_explained_as_in_eval_mode_with_a_warning():
    model, x = nets.prepared(nets.ResNet()), nets.inputs(nets.ResNet)
    expected = LRP(model, c.EpsilonPlus()).attribute(x, target=0)
    model.train()
    with pytest.warns(UserWarning, match="as in eval mode"):
        R = LRP(model, c.EpsilonPlus()).attribute(x, target=0)
    assert torch.equal(R, expected)
    assert all(m.training for m in model.modules())


def test_hooks_that_watch_are_left_alone_and_hooks_that_change_are_obeyed():
    model, x = nets.prepared(nets.ResNet()), nets.inputs(nets.ResNet, 3)
    expected = LRP(model, c.EpsilonPlus()).attribute(x, target=0)
    seen = []
    handle = model.stem.register_forward_hook(lambda m, i, o: seen.append(type(o)))
    assert torch.allclose(LRP(model, c.EpsilonPlus()).attribute(x, target=0), expected)
    assert all(t is torch.Tensor for t in seen)
    handle.remove()
    model.stem.register_forward_hook(lambda m, i, o: 2 * o)
    doubled = LRP(model, c.EpsilonPlus()).attribute(x, target=0)
    assert not torch.allclose(doubled, expected)


def test_it_runs_in_any_mode_and_for_any_layout_of_the_weights(resnet):
    explainer, model, x = resnet
    expected = explainer.attribute(x, target=1)
    with torch.inference_mode():
        assert torch.allclose(LRP(model, c.EpsilonPlus()).attribute(x.clone(), target=1), expected)
    with torch.no_grad():
        assert torch.equal(explainer.attribute(x.requires_grad_(), target=1), expected)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    assert torch.allclose(LRP(last, c.EpsilonPlus()).attribute(x, target=1), expected)
    single = LRP(copy.deepcopy(last).float(), c.EpsilonPlus()).attribute(x.float(), target=1)
    assert relative(single.double(), expected) < 1e-3
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(LRP(compiled, c.EpsilonPlus()).attribute(x, target=1), expected)


def test_calls_leak_nothing(resnet):
    explainer, _, x = resnet

    def count():
        gc.collect()
        return sum(isinstance(o, torch.Tensor) for o in gc.get_objects())

    for _ in range(3):
        explainer.attribute(x, target=1)
    before = count()
    for _ in range(100):
        explainer.attribute(x, target=1, return_convergence_delta=True)
    assert count() <= before + 2


def test_an_output_that_is_not_finite_names_the_first_operation():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            return self.second(F.relu(self.first(x)))

    model = Broken()
    with torch.no_grad():
        model.first.bias.fill_(float("inf"))
    with pytest.raises(InputError, match=r"linear in first"):
        LRP(model).attribute(torch.ones(1, 2), target=0)


def test_a_random_model_is_refused():
    class Random(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(50, 3)

        def forward(self, x):
            return self.linear(F.dropout(x, 0.5))

    with pytest.raises(ModelError, match="random in eval mode"):
        LRP(Random()).attribute(torch.ones(2, 50), target=0)


def test_operations_without_a_rule_are_all_named_before_any_work():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

        def forward(self, x):
            weights = torch.softmax(self.q(x) @ x.transpose(1, 2), -1)
            return self.norm(weights @ x).sum(1)

    explainer = LRP(Attention(), c.EpsilonPlus())
    with pytest.raises(ModelError) as error:
        explainer.attribute(torch.randn(2, 3, 4), target=0)
    text = str(error.value)
    for word in (
        "4 operation(s)",
        "softmax",
        "matmul",
        "layer_norm in norm",
        "self.norm(weights @ x)",
        "with_rules",
    ):
        assert word in text


def test_code_that_depends_on_the_data_is_traced_anew_for_each_input():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            return self.a(x) if x.sum() > 0 else self.b(x) * 3

    model, x = Branching().double(), torch.ones(2, 3, dtype=torch.float64)
    explainer = LRP(model, c.Uniform(r.Zero()))
    for y in (x, -x):
        assert torch.allclose(explainer.attribute(y, target=0), gradient_times_input(model, y, 0))
    assert "traced for this input" in explainer.plan(x)


def test_the_plan_names_rules_and_facts(resnet):
    explainer, _, x = resnet
    plan = explainer.plan(x)
    assert "LRP of ResNet by EpsilonPlus" in plan
    assert "blocks.1.conv2" in plan
    assert "ZPlus(" in plan
    assert "inputs >= 0" in plan
    assert "relprop_conv" in plan
