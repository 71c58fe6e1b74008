"""captum's rules on modules: attr.LRP(model) does what captum.attr.LRP(model) does with them."""

import pickle
import subprocess
import sys

import pytest
import torch
from captum import attr as captum
from captum.attr._utils.custom_modules import Addition_Module
from captum.attr._utils.lrp_rules import (
    Alpha1_Beta0_Rule,
    EpsilonRule,
    GammaRule,
    IdentityRule,
    PropagationRule,
)
from torch import nn

from xaifast import attr, composites, rules

pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")

RULES = {
    "epsilon": lambda: EpsilonRule(0.1),
    "gamma": lambda: GammaRule(0.5),
    "gamma, no bias": lambda: GammaRule(set_bias_to_zero=True),
    "alpha-beta": Alpha1_Beta0_Rule,
    "alpha-beta, no bias": lambda: Alpha1_Beta0_Rule(set_bias_to_zero=True),
}


def dense():
    return nn.Sequential(
        nn.Linear(5, 7), nn.ReLU(), nn.Dropout(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3)
    )  # fmt: skip


def random_norm(channels):
    norm = nn.BatchNorm2d(channels)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def convolutional():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), random_norm(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1, groups=2), random_norm(8), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(8, 4, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
    )  # fmt: skip


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.relu, self.relu2, self.add = nn.ReLU(), nn.ReLU(), Addition_Module()

    def forward(self, x):
        x = self.relu(self.a(x))
        return self.head(self.add(x, self.relu2(self.b(x))))


MODELS = {
    "dense": (dense, (4, 5), ["0", "3", "5"]),
    "convolutional": (convolutional, (2, 3, 8, 8), ["0", "4", "8"]),
    "pooled": (convolutional, (2, 3, 8, 8), ["3", "7", "10"]),
    "residual": (Residual, (4, 5), ["b", "add"]),
}


def made(make, given, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    model = make().to(dtype).eval()
    for path, rule in given.items():
        model.get_submodule(path).rule = rule()
    return model


def target_of(model, x):
    return (1, *[0] * (model(x).dim() - 2))


def same_as_captum(model, x, tolerance=1e-6):
    """captum takes its rules away at the end: ours goes first."""
    target = target_of(model, x)
    got, delta = attr.LRP(model).attribute(x, target, return_convergence_delta=True)
    expected, off = captum.LRP(model).attribute(x.clone(), target, return_convergence_delta=True)
    scale = expected.abs().max().detach()
    assert (got - expected).abs().max() <= tolerance * scale
    assert (delta - off).abs().max() <= tolerance * max(scale, 1)
    return got


@pytest.mark.parametrize("turn", range(len(RULES)))
@pytest.mark.parametrize("kind", MODELS)
def test_maps_and_delta_are_captums(kind, turn):
    """Each rule at each place, once."""
    make, shape, paths = MODELS[kind]
    order = [*RULES.values()] * 2
    model = made(make, {path: order[turn + i] for i, path in enumerate(paths)}, seed=turn)
    same_as_captum(model, torch.randn(shape, dtype=torch.float64))


@pytest.mark.parametrize("rule", RULES)
def test_the_same_rule_everywhere_and_captums_default_elsewhere(rule):
    x = torch.randn(4, 5, dtype=torch.float64)
    for given in (["0", "3", "5"], ["3"]):
        same_as_captum(made(dense, dict.fromkeys(given, RULES[rule])), x)


def test_in_float32():
    given = zip(["0", "4", "8"], ["gamma", "alpha-beta", "epsilon"], strict=True)
    model = made(convolutional, {path: RULES[rule] for path, rule in given}, torch.float32)
    same_as_captum(model, torch.randn(2, 3, 8, 8), tolerance=1e-3)


def test_epsilon_on_every_module():
    given = dict.fromkeys(["0", "1", "3", "4", "5", "7", "8", "10"], RULES["epsilon"])
    same_as_captum(made(convolutional, given), torch.randn(2, 3, 8, 8, dtype=torch.float64))


@pytest.mark.parametrize("rule", ["gamma", "alpha-beta"])
def test_batch_norm_by_identity_behind_another_rule(rule):
    convs, norms = dict.fromkeys(["0", "4"], RULES[rule]), dict.fromkeys(["1", "5"], IdentityRule)
    model = made(convolutional, {**convs, **norms})
    same_as_captum(model, torch.randn(2, 3, 8, 8, dtype=torch.float64))


def test_identity_of_a_dense_layer():
    def two():
        return nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 3))

    same_as_captum(made(two, {"1": IdentityRule}), torch.randn(4, 5, dtype=torch.float64))


@pytest.mark.parametrize("pool", [nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d])
def test_max_pooling_with_a_large_epsilon(pool):
    axes = int(pool.__name__[-2])
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]

    def make():
        return nn.Sequential(convolution(2, 4, 3), pool(2), convolution(4, 3, 2))

    model = made(make, dict.fromkeys(["0", "2"], EpsilonRule) | {"1": lambda: EpsilonRule(0.5)})
    same_as_captum(model, torch.randn(2, 2, *[6] * axes, dtype=torch.float64))


def test_by_hand():
    """R = a c,  c = w* (R / z),  z = w* a + b;  w = [1 -2], gamma 1: w* = [2 -2]."""
    model = nn.Linear(2, 1).double()
    model.weight.data, model.bias.data = (
        torch.tensor([[1.0, -2.0]]).double(),
        torch.ones(1).double(),
    )
    x = torch.tensor([[3.0, 1.0]], dtype=torch.float64)  # output 3 - 2 + 1 = 2, z = 6 - 2 + 1 = 5
    model.rule = GammaRule(1.0)
    assert torch.allclose(attr.LRP(model).attribute(x, 0), x.new_tensor([[12 / 5, -4 / 5]]))
    model.rule = GammaRule(1.0, set_bias_to_zero=True)  # z = 4
    assert torch.allclose(attr.LRP(model).attribute(x, 0), x.new_tensor([[12 / 4, -4 / 4]]))
    model.rule = Alpha1_Beta0_Rule()  # w* = [1 0], z = 4
    assert torch.allclose(attr.LRP(model).attribute(x, 0), x.new_tensor([[6 / 4, 0]]))
    model.rule = EpsilonRule(2.0)  # z + 2 = 4
    assert torch.allclose(attr.LRP(model).attribute(x, 0), x.new_tensor([[6 / 4, -4 / 4]]))


def test_rules_that_come_change_and_go_are_followed():
    model = made(dense, {})
    x = torch.randn(4, 5, dtype=torch.float64)
    lrp, plain = attr.LRP(model), attr.LRP(model).attribute(x, 1)
    seen = [plain]
    for rule in (GammaRule(), GammaRule(0.5), IdentityRule()):
        model[0].rule = GammaRule()
        model[3].rule = rule if not isinstance(rule, IdentityRule) else Alpha1_Beta0_Rule()
        seen.append(lrp.attribute(x, 1))
        assert torch.equal(seen[-1], attr.LRP(model).attribute(x, 1))
        built = lrp._builder
        assert torch.equal(lrp.attribute(x, 1), seen[-1])
        assert lrp._builder is built  # nothing is built anew for the same rules
    model[3].rule.STABILITY_FACTOR = 0.5
    seen.append(lrp.attribute(x, 1))
    for i, j in ((0, 1), (1, 2), (2, 3), (3, 4)):
        assert (seen[i] - seen[j]).abs().max() > 1e-3 * seen[i].abs().max()
    del model[0].rule, model[3].rule
    assert torch.equal(lrp.attribute(x, 1), plain)


def test_captum_is_left_as_it_was():
    model = made(dense, {"0": GammaRule})
    x, rule = torch.randn(4, 5, dtype=torch.float64), model[0].rule
    before = dict(vars(rule))
    attr.LRP(model).attribute(x, 1)
    assert model[0].rule is rule
    assert vars(rule) == before


def test_all_calls_know_the_rules(capsys):
    model = made(dense, {"0": GammaRule, "3": Alpha1_Beta0_Rule})
    x = torch.randn(4, 5, dtype=torch.float64)
    lrp = attr.LRP(model)
    want = lrp.attribute(x, 1, None, False, True)  # captum's order: verbose is the fifth
    assert "GammaRule" in capsys.readouterr().out
    assert "Alpha1_Beta0_Rule" in lrp.plan(x)
    target = torch.ones(4, dtype=torch.long)
    assert torch.allclose(lrp.core(x, target)(x, target), want)
    assert torch.allclose(lrp.capture(x, target)(x, target), want)
    assert lrp.report(x, 1).rows
    assert torch.equal(pickle.loads(pickle.dumps(attr.LRP(model))).attribute(x, 1), want)


def test_a_composite_beside_rules_is_an_error_that_says_which():
    model = made(dense, {"3": GammaRule})
    with pytest.raises(ValueError, match=r"composite must be None.*EpsilonPlus.*Remove 3\.rule"):
        attr.LRP(model, composites.EpsilonPlus())
    later = attr.LRP(made(dense, {}), composites.EpsilonPlus())
    later.model[5].rule = GammaRule()
    with pytest.raises(ValueError, match=r"Remove 5\.rule"):
        later.attribute(torch.randn(1, 5, dtype=torch.float64), 1)


class Own(GammaRule):
    pass


class Other(PropagationRule):
    def _manipulate_weights(self, module, inputs, outputs):
        pass


@pytest.mark.parametrize("rule", [Own(), Other(), 1, "gamma"])
def test_what_is_none_of_captums_four_is_refused_by_name(rule):
    model = dense()
    model[3].rule = rule
    with pytest.raises(TypeError, match=r"3\.rule must be one of captum's EpsilonRule, GammaRule"):
        attr.LRP(model)


def test_our_own_rules_belong_into_a_composite():
    model = dense()
    model[3].rule = rules.Gamma()
    with pytest.raises(TypeError, match=r"with_rules\(\(composites.name\('3'\), rule\)\)"):
        attr.LRP(model)


def test_a_rule_where_captum_ignores_it_is_refused():
    model = nn.Sequential(dense(), nn.Linear(3, 2))
    model[0].rule = GammaRule()
    with pytest.raises(ValueError, match=r"0\.rule must belong to a module without modules inside"):
        attr.LRP(model)


@pytest.mark.parametrize(
    ("layer", "shape", "rule"),
    [
        (nn.BatchNorm1d(5), (3, 5), GammaRule()),
        (nn.Sigmoid(), (3, 5), EpsilonRule()),
        (nn.LayerNorm(5), (3, 5), EpsilonRule()),
    ],
)
def test_modules_for_which_a_rule_is_not_known_are_listed(layer, shape, rule):
    model = nn.Sequential(layer, nn.Linear(5, 2)).eval()
    layer.rule = rule
    name = type(rule).__name__
    with pytest.raises(ValueError, match=f"captum's {name} is not known here for such a module"):
        attr.LRP(model).attribute(torch.randn(shape), 0)


class WithOwnRule(nn.Module):
    def __init__(self):
        super().__init__()
        self.rule, self.linear = "majority", nn.Linear(3, 2)

    def forward(self, x):
        return self.linear(x)


def test_an_attribute_of_that_name_in_a_module_of_ones_own_means_nothing():
    model, x = WithOwnRule(), torch.randn(2, 3)
    assert torch.equal(attr.LRP(model).attribute(x, 0), attr.LRP(model.linear).attribute(x, 0))


def test_captum_is_not_imported():
    run = (
        "import sys, torch\n"
        "from xaifast import attr\n"
        "class PropagationRule: STABILITY_FACTOR = 1e-9\n"
        "class GammaRule(PropagationRule): gamma, set_bias_to_zero = 0.5, False\n"
        "model = torch.nn.Linear(2, 1)\n"
        "model.rule = GammaRule()\n"
        "assert 'GammaRule' in attr.LRP(model).plan(torch.ones(1, 2))\n"
        "assert not any(m.split('.')[0] == 'captum' for m in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", run], check=True)
