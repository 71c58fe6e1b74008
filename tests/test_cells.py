"""The cells of section 11.4: their equations, their initialisation, and where relevance goes."""

import pytest
import torch
from torch import nn

from xaifast import cells, composites, rules
from xaifast.attr import LRP, IntegratedGradients
from xaifast.errors import InputError

CELLS = [cells.NoGatesLSTM, cells.MarkovLSTM, cells.NondecreasingLSTM]


class Net(nn.Module):
    """A cell whose last output goes to a dense layer, which is positive where asked for."""

    def __init__(self, cell, inputs=2, hidden=6):
        super().__init__()
        self.cell = cell(inputs, hidden)
        self.head = nn.Linear(hidden, 1, bias=False)

    def forward(self, x):
        return self.head(self.cell(x)[:, -1])


def states(cell, x):
    """The equations one by one: what enters the cells at each step, c and y at the end."""
    sigma, (W_z, b_z) = torch.sigmoid, (cell.cell_input.weight, cell.cell_input.bias)
    c = y = torch.zeros(len(x), len(b_z), dtype=x.dtype)
    entered = []
    for t in range(x.shape[1]):
        z = cell.a_g * sigma(x[:, t] @ W_z.T + b_z)  # 11.7, 11.12, 11.16
        i = o = 1.0
        if hasattr(cell, "input_gate"):  # 11.8, 11.13
            i = sigma(y @ cell.input_gate.weight.T + cell.input_gate.bias)
        if hasattr(cell, "output_gate"):  # 11.10
            o = sigma(y @ cell.output_gate.weight.T + cell.output_gate.bias)
        entered.append(i * z)
        c = i * z + c  # 11.9, 11.14, 11.17
        y = o * cell.a_h * torch.tanh(c)  # 11.11, 11.15, 11.18
    return torch.stack(entered, 1), c, y


@pytest.mark.parametrize("kind", CELLS)
def test_the_equations(kind):
    cell, x = kind(3, 5, a_g=3.0, a_h=2.0).double(), torch.randn(4, 7, 3).double()
    y = cell(x)
    assert y.shape == (4, 7, 5)
    for t in range(7):
        torch.testing.assert_close(y[:, t], states(cell, x[:, : t + 1])[2])


def test_by_hand():
    cell = cells.NoGatesLSTM(1, 1, a_g=2.0, a_h=1.0)
    with torch.no_grad():
        cell.cell_input.weight.fill_(1.0)
        cell.cell_input.bias.fill_(-1.0)
    y = cell(torch.ones(1, 2, 1))  # z = 2 sigma(0) = 1 at each step: c = 1, 2
    torch.testing.assert_close(y[0, :, 0], torch.tanh(torch.tensor([1.0, 2.0])))


@pytest.mark.parametrize("kind", CELLS)
def test_memory_never_decreases_and_biases_are_negative(kind):
    cell = kind(3, 5)
    entered, _, _ = states(cell, 10 * torch.randn(4, 9, 3))
    assert (entered >= 0).all()
    lowest = {"cell_input": -5, "input_gate": -4, "output_gate": -4}
    for name, layer in cell.named_children():
        assert layer.bias[0] == -1
        assert layer.bias[-1] == lowest[name]


@pytest.mark.parametrize("kind", CELLS)
def test_relevance_goes_back_to_the_steps_by_what_they_left(kind):
    """The share of step t in c_T is i_t z_t / c_T, and nothing is lost on the way."""
    net, x = Net(kind).double(), torch.randn(3, 8, 2).double()
    lrp = LRP(net, composite=composites.Uniform(rules.Epsilon(1e-12)))
    _, found = lrp.attribute(x, layers=["cell.cell_input"])
    got = found["cell.cell_input"]
    entered, c, y = (s.detach() for s in states(net.cell, x))
    of_unit = y * net.head.weight.detach()[0]  # R of y_T, and of c_T
    torch.testing.assert_close(got, entered / c[:, None] * of_unit[:, None], rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(got.sum((1, 2)), net(x)[:, 0].detach(), rtol=1e-7, atol=1e-10)


def test_without_gates_early_steps_count_as_much_as_late_ones():
    net, x = Net(cells.NoGatesLSTM).double(), torch.randn(1, 8, 2).double()
    lrp = LRP(net, composite=composites.Uniform(rules.Epsilon(1e-12)))
    there = lrp.attribute(x, layers=["cell.cell_input"])[1]["cell.cell_input"]
    back = lrp.attribute(x.flip(1), layers=["cell.cell_input"])[1]["cell.cell_input"]
    torch.testing.assert_close(back, there.flip(1), rtol=1e-9, atol=1e-13)


def task(n, steps=12):
    """Count the steps at which both inputs are on."""
    x = torch.randint(0, 2, (n, steps, 2)).float()
    return x, x.prod(2).sum(1, keepdim=True) / steps


@pytest.mark.parametrize("kind", CELLS)
def test_they_learn_and_their_explanation_finds_what_they_learnt(kind):
    net = Net(kind)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.03)
    for _ in range(300):
        x, y = task(64)
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(x), y)
        loss.backward()
        optimizer.step()
    x, y = task(200)
    with torch.no_grad():
        error = nn.functional.mse_loss(net(x), y) / y.var()
    assert float(error) < 0.1
    lrp = LRP(net, composite=composites.Uniform(rules.Epsilon()))
    steps = lrp.attribute(x, layers=["cell.cell_input"])[1]["cell.cell_input"].sum(2)
    counted = x.prod(2) > 0
    assert float(steps[counted].mean()) > 2 * float(steps[~counted].abs().mean())
    ig = IntegratedGradients(net).attribute(x[:5], n_steps=50, return_convergence_delta=True)
    assert float(ig[1].abs().max()) < 1e-3


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize(
    "options", [{"input_size": 0}, {"hidden_size": 2.5}, {"a_g": -1}, {"a_h": 0}]
)
def test_wrong_arguments_are_refused(kind, options):
    (name,) = options
    with pytest.raises(InputError, match=f"{kind.__name__}: {name} must be"):
        kind(**({"input_size": 2, "hidden_size": 3} | options))
