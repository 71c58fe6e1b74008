"""A pass that leaves the range of its dtype is an error that names the node, never a map."""

import copy

import pytest
import torch
from torch import nn

from xaifast import attr
from xaifast import composites as c
from xaifast import rules as r
from xaifast.errors import InputError

HUGE = torch.tensor([[1e36, 0.0]])  # relevance that a division by 1e-6 takes out of float32


def dense(weight):
    """A dense layer with these weights [out, in]."""
    w = torch.tensor(weight)
    layer = nn.Linear(w.shape[1], w.shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(w)
    return layer


class Cancelling(nn.Module):
    """An upper layer whose contributions of 1 leave about 1e-6."""

    def __init__(self):
        super().__init__()
        self.lower, self.upper = dense([[1.0, 0.0], [0.0, 1.0]]), dense([[1.0, -1.0], [0.5, 0.5]])

    def forward(self, x):
        return self.upper(torch.relu(self.lower(x)))


X = torch.tensor([[1.0, 1.0 + 1e-6]])


@pytest.mark.parametrize("rule", [r.Zero(), r.Epsilon(1e-9), r.Epsilon(1e-9, relative=True)])
def test_a_tiny_denominator_names_its_layer_the_line_and_what_to_do(rule):
    model = Cancelling()
    words = r"first so at linear_1 \(linear in upper\), .*self\.upper\(.*Epsilon.*epsilon.*float64"
    with pytest.raises(InputError, match=words):
        attr.LRP(model, c.Uniform(rule)).attribute(X, start=HUGE)
    # What the error says to do helps.
    exact = attr.LRP(copy.deepcopy(model).double(), c.Uniform(rule))
    R = exact.attribute(X.double(), start=HUGE.double())
    assert torch.isfinite(R).all()
    assert float(R.abs().max()) > torch.finfo(torch.float32).max
    assert torch.isfinite(attr.LRP(model, c.Uniform(r.Epsilon(1.0))).attribute(X, start=HUGE)).all()


def test_only_the_sample_that_overflows_is_the_matter():
    lrp = attr.LRP(Cancelling(), c.Uniform(r.Zero()))
    x = torch.cat([torch.tensor([[3.0, 1.0]]), X])
    assert torch.isfinite(lrp.attribute(x[:1], start=HUGE)).all()
    with pytest.raises(InputError, match="linear in upper"):
        lrp.attribute(x, start=HUGE.expand(2, 2), internal_batch_size=1)


def test_at_layers_and_in_a_report_too():
    lrp = attr.LRP(Cancelling(), c.Uniform(r.Zero()))
    with pytest.raises(InputError, match="linear in upper"):
        lrp.attribute(X, start=HUGE, layers=["lower"])
    with pytest.raises(InputError, match="linear in upper"):
        lrp.report(X, start=HUGE)


def test_a_sum_of_messages_that_overflows_names_the_node_at_which_they_meet():
    class Twice(nn.Module):
        def forward(self, x):
            y = torch.relu(x)
            return torch.cat([y, y], 1)

    start = torch.full((1, 2), 3e38)
    with pytest.raises(InputError, match=r"in what arrives at relu"):
        attr.LRP(Twice(), c.Uniform(r.Zero())).attribute(torch.ones(1, 1), start=start)


def test_relevance_that_is_finite_but_whose_sum_is_not_is_returned():
    start = torch.full((1, 2), 3e38)
    R = attr.LRP(nn.ReLU(), c.Uniform(r.Zero())).attribute(torch.ones(1, 2), start=start)
    assert torch.equal(R, start)


@pytest.mark.parametrize("explainer", [attr.GuidedBackprop, attr.Deconvolution])
def test_a_signal_that_overflows_names_its_layer(explainer):
    model = nn.Sequential(dense([[1e20, 0.0], [0.0, 1.0]]), nn.ReLU(), dense([[1e20, 1.0]]))
    with pytest.raises(InputError, match="linear in 0"):
        explainer(model).attribute(torch.tensor([[1e-20, 1.0]]), target=0)


def test_multipliers_that_overflow_name_their_layer_and_products_say_so():
    model = nn.Sequential(dense([[1e20, 0.0], [0.0, 1.0]]), nn.Tanh(), dense([[1e20, 1.0]]))
    x, baseline = torch.tensor([[1e-20, 1.0]]), torch.zeros(1, 2)
    with pytest.raises(InputError, match="linear in 0"):
        attr.DeepLift(model).attribute(x, baseline, target=0)
    with pytest.raises(InputError, match="linear in 0"):
        attr.DeepLiftShap(model).attribute(x, baseline.expand(3, 2), target=0)
    far = torch.tensor([[2e18, 0.0]])
    with pytest.raises(InputError, match="multiply_by_inputs"):
        attr.DeepLift(dense([[1e20, 1.0]])).attribute(far, -far, target=0)


def test_phrases_that_overflow_name_the_layer_of_the_lstm():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(2, 3, 2, batch_first=True), nn.Linear(3, 1)

        def forward(self, x):
            return self.head(self.lstm(x)[0][:, -1])

    torch.manual_seed(0)
    model = Reader()
    with torch.no_grad():
        model.lstm.weight_ih_l0.fill_(3e30)
    x = torch.full((1, 4, 2), 1e8)
    assert torch.isfinite(model(x)).all()
    with pytest.raises(InputError, match=r"layer 0 of .*lstm"):
        attr.ContextualDecomposition(model).attribute(x, 0, torch.ones(1, 1, 4, dtype=torch.bool))


def test_infinite_masks_that_get_no_relevance_are_no_overflow():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", torch.tensor([0.0, 0.0, -torch.inf]))

        def forward(self, x):
            return torch.relu(x + self.mask)

    x = torch.tensor([[1.0, 2.0, 3.0]])
    R = attr.LRP(Masked(), c.Uniform(r.Epsilon())).attribute(x, target=1)
    assert torch.allclose(R, torch.tensor([[0.0, 2.0, 0.0]]), atol=1e-5)


def test_relevance_that_float16_cannot_hold_is_refused():
    model = nn.Linear(2, 1, bias=False).half()
    with torch.no_grad():
        model.weight.fill_(1.0)
    x = torch.tensor([[200.0, -199.0]], dtype=torch.float16)
    lrp = attr.LRP(model, c.Uniform(r.Zero()))
    assert torch.equal(lrp.attribute(x, target=0), x)
    with pytest.raises(InputError, match="float32"):
        lrp.attribute(x, start=torch.tensor([[1000.0]], dtype=torch.float16))
