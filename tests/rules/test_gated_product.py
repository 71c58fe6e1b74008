"""GatedProduct where an operand is scaled, moved or constant: in code of one's own."""

import pytest
import torch
from oracle.compare import assert_close
from torch import Tensor, nn

from xaifast import cells, composites, rules
from xaifast.attr import LRP

SHARING = ["prop", "abs"]


def shares(z_g: Tensor, z_s: Tensor, R: Tensor, gate: str) -> tuple[Tensor, Tensor]:
    """(R_g, R_s) of table 11.1, no stabilizer."""
    if gate in ("all", "half"):
        return (0 * R, R) if gate == "all" else (R / 2, R / 2)
    z_g, z_s = (z_g.abs(), z_s.abs()) if gate == "abs" else (z_g, z_s)
    return R * z_g / (z_g + z_s), R * z_s / (z_g + z_s)


class Product(nn.Module):
    """sigm(x_g) times a function of x_s; the gate's half of x comes first."""

    def __init__(self, signal, gate=torch.sigmoid) -> None:
        super().__init__()
        self.signal, self.gate = signal, gate

    def forward(self, x: Tensor) -> Tensor:
        g, s = x.chunk(2, 1)
        return self.gate(g) * self.signal(s)


SCALE = torch.tensor([2.0, -0.5, 1.5]).double()
SIGNALS = {  # what the signal is, and the sign of its z
    "a sigm": (lambda s: 2.0 * s.sigmoid(), 1),
    "a sigm, huge": (lambda s: 1e6 * s.sigmoid(), 1),
    "-a tanh": (lambda s: s.tanh() * -3.0, -1),
    "tanh / a": (lambda s: s.tanh() / -3.0, -1),
    "-tanh": (lambda s: -s.tanh(), -1),
    "--tanh": (lambda s: -(-2.0 * s.tanh()), 1),
    "a tanh, one for each unit": (lambda s: SCALE * s.tanh(), SCALE.sign()),
    "a moved tanh": (lambda s: (2.0 * s.view(-1, 1, 3).tanh()).unbind(1)[0], 1),
    "a (1 - sigm)": (lambda s: 4.0 * (1 - s.sigmoid()), -1),
    "a relu": (lambda s: 4.0 * s.relu(), 1),
}


@pytest.mark.parametrize(
    ("signal", "gate"), [*((signal, "prop") for signal in SIGNALS), ("a sigm", "abs")]
)
def test_factors_of_an_activation_do_not_count_but_for_their_sign(signal, gate):
    function, sign = SIGNALS[signal]
    x, R = torch.randn(5, 6).double(), torch.randn(5, 3).double()
    got = LRP(Product(function), composites.Recurrent(gate, 0.0)).attribute(x, start=R)
    z_g, z_s = x.chunk(2, 1)
    assert_close(got, torch.cat(shares(z_g, sign * z_s, R, gate), 1))


@pytest.mark.parametrize("gate", SHARING)
def test_a_gate_may_be_scaled_too(gate):
    model = Product(torch.tanh, gate=lambda g: 0.25 * (1 - g.sigmoid()))
    x, R = torch.randn(5, 6).double(), torch.randn(5, 3).double()
    got = LRP(model, composites.Recurrent(gate, 0.0)).attribute(x, start=R)
    z_g, z_s = x.chunk(2, 1)
    assert_close(got, torch.cat(shares(-z_g, z_s, R, gate), 1))


VALUES = {
    "a shifted activation": lambda s: s.tanh() + 0.5,
    "no activation": lambda s: -2.0 * s,
    "a padded activation": lambda s: nn.functional.pad(s[:, :2].tanh(), (0, 1), value=0.5),
}


@pytest.mark.parametrize("signal", VALUES)
def test_other_signals_count_with_their_value(signal):
    x = torch.randn(5, 6).double()
    model = Product(VALUES[signal])
    z_g, z_s = x[:, :3], VALUES[signal](x[:, 3:])
    for gate in SHARING:
        lrp = LRP(model, composites.Recurrent(gate, 0.0))
        want, _ = shares(z_g, z_s, torch.ones_like(z_g), gate)
        assert_close(lrp.attribute(x, start=torch.ones_like(z_g))[:, :3], want)


def test_a_relu_that_runs_with_its_layer_keeps_its_z_for_the_product():
    class Layered(nn.Module):
        def __init__(self):
            super().__init__()
            self.s = nn.Linear(3, 4)

        def forward(self, x):
            return torch.sigmoid(x[:, :4]) * self.s(x[:, 4:]).relu()

    model, x = Layered().double(), torch.randn(6, 7).double()
    z_g, z_s = x[:, :4], model.s(x[:, 4:]).detach()
    assert (z_s < 0).any()
    composite = composites.Recurrent("prop", 0.0).with_rules((composites.name("s"), rules.Flat()))
    R = LRP(model, composite).attribute(x, start=torch.ones_like(z_g))
    assert_close(R[:, :4], shares(z_g, z_s, torch.ones_like(z_g), "prop")[0])


# ---- the cells of section 11.4 -----------------------------------------------------------------


def linear(layer: nn.Linear, a: Tensor, z: Tensor, R: Tensor) -> Tensor:
    """R_j = sum_k a_j w_kj / z_k R_k, all terms first."""
    return (a[:, None] * layer.weight / z[..., None] * R[..., None]).sum(1)


def by_steps(layer: cells.MarkovLSTM, x: Tensor, R_y: Tensor, gate: str) -> Tensor:
    """Eqs. 11.7 to 11.15 and their relevance, no stabilizer; R_y of the last output."""
    outer = isinstance(layer, cells.NondecreasingLSTM)
    z = layer.cell_input(x)
    c, y, i, o = [torch.zeros_like(z[:, 0])], [torch.zeros_like(z[:, 0])], [], []
    for t in range(x.shape[1]):
        i.append(layer.input_gate(y[-1]))
        o.append(layer.output_gate(y[-1]) if outer else None)
        c.append(c[-1] + i[-1].sigmoid() * layer.a_g * z[:, t].sigmoid())
        y.append(layer.a_h * c[-1].tanh() * (o[-1].sigmoid() if outer else 1.0))
    R_x, R_c = torch.zeros_like(x), torch.zeros_like(c[0])
    for t in reversed(range(x.shape[1])):
        R_s, R_below = R_y, torch.zeros_like(R_y)
        if outer:
            R_o, R_s = shares(o[t], c[t + 1], R_y, gate)
            R_below = linear(layer.output_gate, y[t], o[t], R_o)
        s = (R_c + R_s) / c[t + 1]
        R_i, R_z = shares(i[t], z[:, t], s * (c[t + 1] - c[t]), gate)
        R_c = s * c[t]
        R_x[:, t] = linear(layer.cell_input, x[:, t], z[:, t], R_z)
        R_y = R_below + linear(layer.input_gate, y[t], i[t], R_i)
    return R_x


class LastOutput(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[:, -1]


@pytest.mark.parametrize("gate", ["all", "prop", "abs", "half"])
@pytest.mark.parametrize("make", [cells.MarkovLSTM, cells.NondecreasingLSTM])
def test_the_cells_that_are_made_to_be_explained_share_by_z(make, gate):
    torch.manual_seed(3)
    layer = make(3, 4, a_g=3.0, a_h=2.0).double()
    x, R = torch.randn(2, 3, 3).double(), torch.randn(2, 4).double()
    got = LRP(LastOutput(layer), composites.Recurrent(gate, 0.0)).attribute(x, start=R)
    with torch.no_grad():
        assert_close(got, by_steps(layer, x, R, gate))


# ---- constant operands -------------------------------------------------------------------------


class WithConstant(nn.Module):
    """A function of x and a tensor that is not explained."""

    def __init__(self, function, constant: Tensor | None = None) -> None:
        super().__init__()
        self.function = function
        self.constant = None if constant is None else nn.Parameter(constant)

    def forward(self, x: Tensor, m: Tensor | None = None) -> Tensor:
        return self.function(x, self.constant if m is None else m)


@pytest.mark.parametrize("gate", ["all", "prop"])
@pytest.mark.parametrize("shape", [(), (3,), (1, 3)])
def test_a_learned_scale_is_a_factor_and_passes_everything(shape, gate):
    model = WithConstant(lambda x, p: p * x.sigmoid(), torch.randn(shape).double())
    x, R = torch.randn(5, 3).double(), torch.randn(5, 3).double()
    assert_close(LRP(model, composites.Recurrent(gate)).attribute(x, start=R), R)


@pytest.mark.parametrize("gate", ["all", "prop"])
def test_a_mask_is_a_factor_and_passes_everything(gate):
    model = WithConstant(lambda x, m: (x.sigmoid() * m).flatten(1))
    x, m = torch.randn(5, 4, 3).double(), (torch.rand(5, 4, 1) > 0.5).double()
    R = torch.randn(5, 12).double()
    got = LRP(model, composites.Recurrent(gate)).attribute(x, additional_forward_args=m, start=R)
    assert_close(got, R.view(5, 4, 3))


@pytest.mark.parametrize("gate", ["all", "prop"])
def test_a_learned_gate_is_a_factor_and_passes_everything(gate):
    x, R = torch.randn(5, 3).double(), torch.randn(5, 3).double()
    model = WithConstant(lambda x, p: p.sigmoid() * x.tanh(), torch.randn(3).double())
    assert_close(LRP(model, composites.Recurrent(gate)).attribute(x, start=R), R)


PRODUCTS = {  # function, and what z of x and of m is; which of them is the gate
    "a state": (lambda x, m: x.sigmoid() * m, 1, 1, True),
    "a squashed state": (lambda x, m: x.sigmoid() * (-2.0 * m.tanh()), 1, -1, True),
    "a gate": (lambda x, m: m.sigmoid() * (2.0 * x.sigmoid()), 1, 1, False),
    "a turned gate": (lambda x, m: (1 - m.sigmoid()) * x.tanh(), 1, -1, False),
}


@pytest.mark.parametrize("gate", ["all", "prop", "abs", "half"])
@pytest.mark.parametrize("product", PRODUCTS)
def test_shares_do_not_depend_on_what_is_explained(product, gate):
    """What a further input keeps is reported; as of the states of `nn.LSTM`."""
    function, sign_x, sign_m, gates = PRODUCTS[product]
    model = WithConstant(function)
    x, m, R = (torch.randn(5, 3).double() for _ in range(3))
    z_x, z_m = sign_x * x, sign_m * m
    g, s = (z_x, z_m) if gates else (z_m, z_x)
    R_g, R_s = shares(g, s, R, gate)
    R_x, R_m = (R_g, R_s) if gates else (R_s, R_g)
    lrp = LRP(model, composites.Recurrent(gate, 0.0))
    for got, want in zip(lrp.attribute((x, m), start=R), (R_x, R_m), strict=True):
        assert_close(got, want)
    assert_close(lrp.attribute(x, additional_forward_args=m, start=R), R_x)
    row = lrp.report(x, additional_forward_args=m, start=R).rows[0]
    assert row.filled == pytest.approx(float(R_m.sum()))
    assert abs(row.gap) < 1e-10 * R_m.abs().sum().clamp(min=1)
