"""Rows that are not samples: every explainer against captum's defaults, or a loop of ours.

captum changes one thing at a time by default (integrated gradients with internal_batch_size=N), and
so calls the model with the batch that the user gave. Where it has no such method, the same batches
are evaluated in a loop here.
"""

import itertools

import peers
import pytest
import torch
from calls import Counting
from torch import nn

from xaifast import attr
from xaifast.attr.path.gradient_shap import _Draws
from xaifast.attr.path.quadrature import nodes_and_weights
from xaifast.engine.independence import Rows, rows_by_trial
from xaifast.engine.randomness import noisy
from xaifast.errors import InputError, ModelError
from xaifast.graph.model import model_graph

captum = peers.captum
pytestmark = pytest.mark.filterwarnings(
    "ignore:Internal batch size", "ignore:Attempting to", "ignore:Input Tensor . did not already"
)


class Code(nn.Module):
    """A model whose forward is a function of itself and the inputs."""

    def __init__(self, code, features=4, outputs=2):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.l = nn.Linear(features, outputs, dtype=torch.float64)
            self.a = nn.Parameter(torch.randn(3, 3, dtype=torch.float64))
            self.e = nn.Linear(features, features, dtype=torch.float64)
        self.register_buffer("ones", torch.ones(9, 1, dtype=torch.float64))
        self.code = code

    def forward(self, *inputs):
        return self.code(self, *inputs)


def doubles(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def attention(self, h):
    return (torch.softmax(self.e(h)[:, :1], 0) * h).sum(0, keepdim=True)


# name -> (model, inputs, additional arguments)
MIXING = {
    "contrast": (lambda s, h: s.l(torch.relu(h - h.mean(0))), (3, 4), ()),
    "contrast of two": (lambda s, h: s.l(torch.relu(h / (1 + h.sum(0)))), (2, 4), ()),
    "below the greatest": (lambda s, h: s.l(torch.relu(h.amax(0) - h)), (2, 4), ()),
    "above the greatest": (lambda s, h: s.l((h - h.amax(0)).square()), (2, 4), ()),
    "running sum": (lambda s, h: s.l(h.cumsum(0).square()), (3, 4), ()),
    "running sum from the end": (lambda s, h: s.l(h.flip(0).cumsum(0).square()), (3, 4), ()),
    "batch statistics": (
        lambda s, h: s.l(nn.functional.batch_norm(s.e(h), None, None, training=True)), (5, 4), (),
    ),
    "graph nodes": (lambda s, h: s.l(torch.relu(s.a @ s.e(h))), (3, 4), ()),
    "an adjacency": (lambda s, h, a: s.l(torch.relu(a @ s.e(h))), (3, 4), ((3, 3),)),
    "as many codes as samples": (
        lambda s, h, c: s.l(torch.softmax(h @ c.T, -1) @ c), (3, 4), ((3, 4),),
    ),
    "a bag of one": (lambda s, h: s.l(attention(s, h.squeeze(0))), (1, 5, 4), ()),
    "a bag of rows": (lambda s, h: s.l(attention(s, h)), (5, 4), ()),
    "steps first": (lambda s, h: s.l(torch.tanh(s.e(h)).mean(0)), (3, 5, 4), ()),
    "as many steps as samples": (lambda s, h: s.l(torch.tanh(s.e(h)).cumsum(0)[-1]), (3, 3, 4), ()),
    "the size of the batch": (lambda s, h: s.l(h.square()) * len(h), (3, 4), ()),
}  # fmt: skip


def case(name):
    code, shape, extra = MIXING[name]
    given = tuple(doubles(*e, seed=i + 1) for i, e in enumerate(extra)) or None
    return Code(code).eval(), doubles(*shape) + 0.1, given


def close(got, want, tolerance=1e-6):  # captum keeps some of its numbers in float32
    assert got.shape == want.shape
    assert float((got - want).abs().max()) <= tolerance * max(1.0, float(want.abs().max()))


windows = lambda x: {"sliding_window_shapes": (1,) * (x.dim() - 2) + (2,)}  # noqa: E731
halves = lambda x: {"feature_mask": (torch.arange(4) // 2).view((1,) * (x.dim() - 1) + (4,))}  # noqa: E731

METHODS = {
    "Saliency": lambda x: ({}, {}),
    "InputXGradient": lambda x: ({}, {}),
    "IntegratedGradients": lambda x: ({"n_steps": 7}, {"internal_batch_size": len(x)}),
    "FeatureAblation": lambda x: ({}, {}),
    "Occlusion": lambda x: (windows(x), {}),
    "ShapleyValues": lambda x: (halves(x), {}),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MIXING)
def test_as_captum_one_change_at_a_time(name, method):
    model, x, extra = case(name)
    options, its_own = METHODS[method](x)
    explained = {"target": 1, "additional_forward_args": extra, **options}
    want = getattr(captum, method)(model).attribute(x, **explained, **its_own)
    got = getattr(attr, method)(model).attribute(x, **explained)
    close(got, want.detach())
    function = lambda *inputs: model(*inputs)  # noqa: E731
    close(getattr(attr, method)(function).attribute(x, **explained), want.detach())


@pytest.mark.parametrize("name", MIXING)
def test_shapley_sampling_and_permutation_go_by_the_batch(name, monkeypatch):
    check_against_loop(
        name, monkeypatch,
        lambda f, x, **o: attr.ShapleyValueSampling(f).attribute(
            x, n_samples=3, seed=2, **halves(x), **o
        ),
    )  # fmt: skip


@pytest.mark.parametrize("name", [n for n, (_, shape, _) in MIXING.items() if shape[0] > 1])
def test_permutation_goes_by_the_batch(name, monkeypatch):
    check_against_loop(
        name, monkeypatch,
        lambda f, x, **o: attr.FeaturePermutation(f).attribute(x, seed=2, **o),
    )  # fmt: skip


def check_against_loop(name, monkeypatch, explain):
    """The same with rows that may be joined, in a function that takes them apart again."""
    model, x, extra = case(name)
    options = {"target": 1, "additional_forward_args": extra}
    got = explain(model, x, **options)

    def loop(rows, *more):
        return torch.cat([model(part, *more) for part in rows.split(len(x))])

    if len(model(x, *(extra or ()))) == len(x):
        trust = Rows(True, (False,) * len(extra or ()))
        monkeypatch.setattr("xaifast.engine.evaluation.rows_by_trial", lambda *a: trust)
    close(got, explain(loop, x, **options))


IMAGES = {
    "contrast": lambda h: (h - h.mean(0)).relu().sum((2, 3)),
    "running sum": lambda h: h.cumsum(0).square().sum((2, 3)),
    "weights of this batch": lambda h: (doubles(2, 3, 1, 1) * h.square()).sum((2, 3)),
}
BY_MASKS = {
    "RISE": lambda f, x: attr.RISE(f, 2).attribute(x, target=1, n_samples=9, seed=1),
    "PredictionDifference": lambda f, x: attr
    .PredictionDifference(f, doubles(9, *x.shape[1:]), "score")
    .attribute(x, 2, target=1, strides="window", n_samples=3, seed=1),
}  # fmt: skip


@pytest.mark.parametrize("method", BY_MASKS)
@pytest.mark.parametrize("f", IMAGES.values(), ids=IMAGES)
def test_masks_and_draws_go_by_the_batch(f, method, monkeypatch):
    x = doubles(2, 3, 4, 4)
    got = BY_MASKS[method](f, x)
    monkeypatch.setattr("xaifast.engine.evaluation.rows_by_trial", lambda *a: Rows(True, ()))
    loop = lambda rows: torch.cat([f(part) for part in rows.split(2)])  # noqa: E731
    close(got, BY_MASKS[method](loop, x))


# ---- gradients ---------------------------------------------------------------------------------


def gradient(model, x, extra):
    x = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(model(x, *(extra or ()))[:, 1].sum(), x)
    return g


# Batch statistics jump at the baseline, where the variance is 0: no number of steps is enough.
@pytest.mark.parametrize("name", [name for name in MIXING if name != "batch statistics"])
def test_as_many_steps_as_the_path_of_the_batch_needs(name):
    model, x, extra = case(name)
    got = attr.IntegratedGradients(model).attribute(
        x, target=1, additional_forward_args=extra, n_steps="auto", tolerance=1e-3
    )
    want = captum.IntegratedGradients(model).attribute(
        x, target=1, additional_forward_args=extra, n_steps=300, internal_batch_size=len(x)
    )
    close(got, want, 2e-2)


@pytest.mark.parametrize("name", MIXING)
def test_one_draw_at_a_time(name):
    model, x, extra = case(name)
    baselines = doubles(2, *x.shape[1:], seed=9)
    got, delta = attr.GradientShap(model).attribute(
        x, baselines, n_samples=4, stdevs=0.1, target=1, additional_forward_args=extra, seed=3,
        return_convergence_delta=True,
    )  # fmt: skip
    call = attr.GradientShap(model)._call(x, 1, extra)
    draws = _Draws(call, (baselines,), [0.1], 4, torch.Generator().manual_seed(3))
    want = torch.zeros_like(x)
    for k in range(4):
        _, (u,), (v,), alpha = draws.rows(torch.arange(len(x)) * 4 + k)
        point = v + alpha.view(-1, *[1] * (x.dim() - 1)) * (u - v)
        want += (u - v) * gradient(model, point, extra) / 4
    close(got, want)
    assert delta.numel() % 4 == 0


@pytest.mark.parametrize("name", MIXING)
def test_one_noisy_copy_at_a_time(name):
    model, x, extra = case(name)
    got = attr.NoiseTunnel(attr.Saliency(model)).attribute(
        x, nt_samples=3, stdevs=0.1, seed=4, target=1, additional_forward_args=extra, abs=False
    )
    seeds = torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(4)).tolist()
    sample, want = torch.arange(len(x)), torch.zeros_like(x)
    for k in range(3):
        (copy,) = noisy((x,), sample, torch.full((len(x),), k), [0.1], seeds)
        want += gradient(model, copy, extra) / 3
    close(got, want)


def test_integrated_gradients_hold_no_bound_below_the_batch():
    model, x, _ = case("contrast")
    want = captum.IntegratedGradients(model).attribute(x, target=1, internal_batch_size=3)
    with pytest.warns(UserWarning, match="internal_batch_size=2 is less than the 3 samples"):
        got = attr.IntegratedGradients(model).attribute(x, target=1, internal_batch_size=2)
    close(got, want)
    close(attr.IntegratedGradients(model).attribute(x, target=1, internal_batch_size=30), want)
    for explain in (attr.Saliency(model).attribute, attr.FeatureAblation(model).attribute):
        with pytest.raises(InputError, match="must be at least 3, the size of the batch"):
            explain(x, target=1, internal_batch_size=2)


def test_the_gap_of_a_batch():
    for name in ("contrast", "steps first", "a bag of rows"):
        model, x, _ = case(name)
        got, delta = attr.IntegratedGradients(model).attribute(
            x, target=1, n_steps=400, return_convergence_delta=True
        )
        total = (model(x) - model(0 * x))[:, 1].sum().detach()
        assert float((got.sum() - total).abs()) < 1e-2
        assert float((delta.sum() - (got.sum() - total)).abs()) < 1e-9


# ---- surrogates: samples without the others, as captum's ----------------------------------------


@pytest.mark.parametrize("name", ["running sum", "above the greatest", "the size of the batch"])
def test_surrogates_explain_each_sample_by_itself(name):
    model, x, _ = case(name)
    got = attr.KernelShap(model).attribute(x, target=1, n_samples=100)
    for n in range(len(x)):
        alone = captum.ShapleyValues(model).attribute(x[n : n + 1], target=1)
        close(got[n : n + 1], alone, 1e-4)
    got = attr.Lime(model).attribute(x, target=[1, 0, 1][: len(x)], n_samples=30, seed=0)
    for n, target in enumerate([1, 0, 1][: len(x)]):
        alone = attr.Lime(model).attribute(x[n : n + 1], target=target, n_samples=30, seed=0)
        close(got[n : n + 1], alone)


@pytest.mark.parametrize("name", ["graph nodes", "an adjacency"])
def test_samples_that_cannot_be_without_others_are_refused(name):
    model, x, extra = case(name)
    with pytest.raises(ModelError, match="explains each sample without the others"):
        attr.KernelShap(model).attribute(x, target=1, additional_forward_args=extra)


def test_a_bag_is_one_sample_of_a_surrogate():
    model, x, _ = case("a bag of one")
    got = attr.KernelShap(model).attribute(x, target=1, n_samples=100, **halves(x))
    close(got, captum.ShapleyValues(model).attribute(x, target=1, **halves(x)), 1e-4)
    lime = attr.LimeBase(
        model, attr.Ridge(1e-6), lambda *_, **__: 1.0, lambda x: x * (torch.rand_like(x) < 0.5),
        False, None, lambda sample, x: sample.flatten(1),
    )  # fmt: skip
    assert lime.attribute(x, target=1, n_samples=9).shape == (1, 20)


# ---- layers ------------------------------------------------------------------------------------


class Doc(nn.Module):
    """Documents of sentences of words: the layers see N S rows."""

    def __init__(self, tokens):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.e = nn.Embedding(9, 4) if tokens else nn.Linear(3, 4)
            self.l = nn.Linear(4, 2)
        self.double()

    def forward(self, t):
        N, S = t.shape[:2]
        words = torch.tanh(self.e(t.reshape(N * S, *t.shape[2:])))
        return self.l(words.mean(1).view(N, S, -1).max(1)[0])


class StepsFirst(nn.Module):
    """A layer that sees the steps first."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.e, self.l = nn.Linear(3, 4), nn.Linear(4, 2)
        self.double()

    def forward(self, x):
        return self.l(torch.tanh(self.e(x.transpose(0, 1))).mean(0))


class Mixing(StepsFirst):
    """Rows that see each other behind the layer."""

    def forward(self, x):
        h = torch.tanh(self.e(x))
        return self.l(torch.relu(h - h.mean(0)))


LAYERS = {
    "documents": (Doc(False), doubles(2, 3, 5, 3)),
    "steps first": (StepsFirst(), doubles(2, 5, 3)),
    "as many steps as samples": (StepsFirst(), doubles(3, 3, 3)),
    "mixing": (Mixing(), doubles(3, 3)),
}
OF_LAYERS = {
    "LayerActivation": ({}, {}),
    "LayerGradientXActivation": ({"target": 1}, {}),
    "LayerGradCam": ({"target": 1}, {}),
    "LayerIntegratedGradients": ({"target": 1, "n_steps": 7}, {"internal_batch_size": True}),
}


@pytest.mark.parametrize("method", OF_LAYERS)
@pytest.mark.parametrize("name", LAYERS)
def test_layers_whose_first_dimension_is_not_the_batch(name, method):
    model, x = LAYERS[name]
    options, its_own = OF_LAYERS[method]
    its_own = {key: len(x) for key in its_own}
    want = getattr(captum, method)(model, model.e).attribute(x, **options, **its_own)
    close(getattr(attr, method)(model, model.e).attribute(x, **options), want.detach())


@pytest.mark.parametrize("name", LAYERS)
def test_conductance_goes_step_by_step(name):  # captum's joins two steps at least
    model, x = LAYERS[name]
    seen, want = [], 0
    handle = model.e.register_forward_hook(lambda module, given, output: seen.append(output))
    for alpha in nodes_and_weights("gausslegendre", 8)[0]:
        score = model(alpha * x)[:, 1].sum()
        seen[-1] = (seen[-1].detach(), torch.autograd.grad(score, seen[-1])[0])
    handle.remove()
    for (a, g), (after, _) in itertools.pairwise(seen):
        want = want + g * (after - a)
    close(attr.LayerConductance(model, model.e).attribute(x, target=1, n_steps=7), want)


def test_words_of_documents():
    model, t = Doc(True), torch.randint(9, (2, 3, 5), generator=torch.Generator().manual_seed(0))
    want = captum.LayerIntegratedGradients(model, model.e).attribute(
        t, t * 0, target=1, internal_batch_size=2
    )
    close(attr.LayerIntegratedGradients(model, model.e).attribute(t, t * 0, target=1), want)


# ---- the graph ---------------------------------------------------------------------------------


def folded(model, extra):
    """The batch as one sample of a model that returns the sum over it."""
    return Code(lambda s, z: model(z[0], *(extra or ()))[:, 1].unsqueeze(0) @ s.ones[: z.shape[1]])


# A mean over the batch is refused by some rules, and products of two tensors by LRP's epsilon rule.
BY_GRAPH = {
    "LRP": ["contrast", "below the greatest", "graph nodes"],
    "DeepLift": ["below the greatest", "graph nodes", "an adjacency"],
    "GuidedBackprop": ["below the greatest", "graph nodes", "an adjacency"],
}


@pytest.mark.parametrize(("method", "name"), [(m, n) for m, ns in BY_GRAPH.items() for n in ns])
def test_graphs_take_the_batch_as_it_came(method, name):
    model, x, extra = case(name)
    explain = getattr(attr, method)
    got = explain(model).attribute(x, target=1, additional_forward_args=extra)
    close(got, explain(folded(model, extra)).attribute(x[None], target=0)[0], 1e-3)  # epsilon


@pytest.mark.parametrize("name", BY_GRAPH["DeepLift"])
def test_deeplift_shap_takes_one_baseline_at_a_time(name):
    model, x, extra = case(name)
    baselines = doubles(3, 4, seed=8)
    got, delta = attr.DeepLiftShap(model).attribute(
        x, baselines, target=1, additional_forward_args=extra, return_convergence_delta=True
    )
    one = [
        attr.DeepLift(folded(model, extra)).attribute(x[None], b.expand_as(x)[None], target=0)[0]
        for b in baselines
    ]
    close(got, torch.stack(one).mean(0))
    assert delta.shape == (3 * len(x),)


KEEP_ROWS = {
    "dense": lambda s, x: s.l(torch.relu(s.e(x))),
    "another axis": lambda s, x: s.l(x.softmax(1).cumsum(1).flip(1) / x.norm(dim=1)[:, None]),
    "folded and unfolded": lambda s, x: s.l(s.e(x.reshape(-1, 2, 2).flatten(1).T.T)),
    "steps first": lambda s, x: s.l(torch.stack([x, x * 2], 0).transpose(0, 1).mean(1)),
    "pairs in each": lambda s, x: s.l((x[:, :, None] @ x[:, None]).sum(2)),
    "a token for all": lambda s, x: s.l(
        torch.cat([x[:, None], s.l.weight[:1].expand(x.shape[0], 1, 4)], 1).mean(1)
    ),
    "zeros of its size": lambda s, x: s.l(x) + torch.zeros(x.shape[0], 2, dtype=x.dtype),
}  # fmt: skip
MIX_ROWS = {
    "mean": lambda s, x: s.l(x - x.mean(0)),
    "sum": lambda s, x: s.l(x / x.sum(0)),
    "running sum": lambda s, x: s.l(x.cumsum(0)),
    "softmax": lambda s, x: s.l(x.softmax(0)),
    "turned": lambda s, x: s.l(x.flip(0)),
    "rolled": lambda s, x: s.l(x.roll(1, 0)),
    "sorted": lambda s, x: s.l(x.sort(0)[0]),
    "products of all": lambda s, x: s.l(x @ x.T @ x),
    "the first": lambda s, x: s.l(x + x[:1]),
    "the size": lambda s, x: s.l(x) / x.shape[0],
    "filled with the size": lambda s, x: s.l(x) + torch.full((x.shape[0], 2), x.shape[0]),
    "the place": lambda s, x: s.l(x) + torch.arange(x.shape[0])[:, None],
    "the norm": lambda s, x: s.l(x / x.norm()),
    "interleaved": lambda s, x: s.l(x.repeat(2, 1)[::2]),
    "folded otherwise": lambda s, x: s.l(x.T.reshape(x.shape[0], 4)),
}


@pytest.mark.parametrize("code", KEEP_ROWS.values(), ids=KEEP_ROWS)
def test_a_graph_shows_that_rows_are_apart(code):
    model, x = Code(code).eval(), doubles(3, 4)
    assert model_graph(model, (x,), 1).apart
    assert rows_by_trial((x,), (), None, lambda inputs, extra: [model(*inputs)]).apart


@pytest.mark.sweep
@pytest.mark.parametrize("batch", [1, 2, 3, 7])
@pytest.mark.parametrize("code", MIX_ROWS.values(), ids=MIX_ROWS)
def test_rows_that_see_each_other_are_never_apart(code, batch):
    model, x = Code(code).eval(), doubles(batch, 4)
    assert not model_graph(model, (x,), 1).apart
    evaluate = lambda inputs, extra: [model(*inputs)]  # noqa: E731
    assert not rows_by_trial((x,), (), None, evaluate).apart
    assert not rows_by_trial((x,), (), None, evaluate, [model(x)]).apart
    assert not rows_by_trial((torch.ones_like(x),), (), None, evaluate).apart


# ---- additional arguments ----------------------------------------------------------------------

ARGUMENTS = {
    "per sample": (lambda s, h, w: s.l(h) * w[:, None], (3,), True),
    "for all": (lambda s, h, w: s.l(h) * w.sum(), (3,), False),
    "codes": (lambda s, h, c: s.l(h) * c.mean(), (3, 4), False),
}


@pytest.mark.parametrize(("code", "shape", "row"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_an_argument_is_of_samples_where_that_is_shown(code, shape, row):
    model, x, extra = Code(code), doubles(3, 4), doubles(*shape, seed=1)
    evaluate = lambda inputs, more: [model(*inputs, *more)]  # noqa: E731
    assert rows_by_trial((x,), (extra,), None, evaluate) == Rows(True, (row,))
    options = {"target": 1, "additional_forward_args": extra}
    want = captum.FeatureAblation(model).attribute(x, **options)
    counting = Counting(model)
    close(attr.FeatureAblation(counting).attribute(x, **options), want)
    assert counting.rows in ([3, 12], [3, 1, 12])  # one row measured
    close(attr.FeatureAblation(model, per_sample=(row,)).attribute(x, **options), want)


def test_what_is_said_of_arguments_is_checked():
    model, x, w = Code(ARGUMENTS["per sample"][0]), doubles(3, 4), doubles(3)
    with pytest.raises(InputError, match="per_sample must hold one bool for each of the 1 add"):
        attr.Saliency(model, per_sample=(True, False)).attribute(
            x, target=1, additional_forward_args=w
        )
    with pytest.raises(InputError, match="with one row for each of the 3 samples"):
        attr.Saliency(model, per_sample=(True,)).attribute(
            x, target=1, additional_forward_args=doubles(2)
        )
    with pytest.raises(TypeError, match="per_sample must be a tuple of bools"):
        attr.Saliency(model, per_sample="yes")
    # What is said wrongly is not believed: the batch is evaluated as it came in.
    want = captum.FeatureAblation(model).attribute(x, target=1, additional_forward_args=w)
    said = attr.FeatureAblation(model, per_sample=(False,))
    close(said.attribute(x, target=1, additional_forward_args=w), want)


# ---- ordinary models go on in batches ----------------------------------------------------------

ORDINARY = {
    "ablation": (lambda f, x: attr.FeatureAblation(f).attribute(x, target=1), [2, 8]),
    "integrated gradients": (
        lambda f, x: attr.IntegratedGradients(f).attribute(x, target=1, n_steps=4), [8],
    ),
    "gradient shap": (
        lambda f, x: attr.GradientShap(f).attribute(x, x * 0, n_samples=4, target=1), [8],
    ),
    "noise": (
        lambda f, x: attr.NoiseTunnel(attr.Saliency(f)).attribute(x, nt_samples=4, target=1), [8],
    ),
    "saliency": (lambda f, x: attr.Saliency(f).attribute(x, target=1), [2]),
}  # fmt: skip


@pytest.mark.parametrize(("explain", "rows"), ORDINARY.values(), ids=ORDINARY)
def test_ordinary_models_are_evaluated_in_batches(explain, rows):
    counting = Counting(Code(KEEP_ROWS["dense"]))
    explain(counting, doubles(2, 4))
    assert counting.rows == rows
    assert len(counting.tried) <= 2
    assert sum(counting.tried) <= 6
    if rows == [2]:  # nothing is joined, and nothing tried
        assert not counting.tried
