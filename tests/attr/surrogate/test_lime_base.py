"""LimeBase, and functions of the user in Lime: captum's interfaces, called as captum calls them."""

import peers
import pytest
import torch
from captum._utils.models import linear_model as captum_models
from oracle import surrogates as oracle
from sklearn import linear_model
from torch import nn

from xaifast import attr
from xaifast.errors import InputError, InputTypeError, ModelError

captum = peers.captum


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def point(n=1):
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(1)).double()


def noise(x, **kwargs):
    assert kwargs == {"scale": 0.5}
    return x + kwargs["scale"] * torch.randn_like(x)


def noise_forever(x, **kwargs):
    while True:
        yield noise(x, **kwargs)


def closeness(x, y, z, **kwargs):
    assert kwargs == {"scale": 0.5}
    return torch.exp(-(x - y).square().sum())


def itself(sample, x, **kwargs):
    assert kwargs == {"scale": 0.5}
    return sample


def in_inputs(cls, model, regressor, perturb=noise, **options):
    """LimeBase of a package that samples inputs."""
    return cls(model, regressor, closeness, perturb, False, None, itself, **options)


@pytest.mark.parametrize("perturb", [noise, noise_forever])
def test_samples_in_the_input_space_are_captums(perturb):
    model, x, options = net(), point(), {"target": 1, "n_samples": 30, "scale": 0.5}
    torch.manual_seed(5)
    with peers.float64():
        theirs = in_inputs(captum.LimeBase, model, captum_models.SkLearnRidge(), perturb)
        expected = theirs.attribute(x, **options)
    for size in ({}, {"perturbations_per_eval": 1}, {"internal_batch_size": 7}):
        torch.manual_seed(5)
        got = in_inputs(attr.LimeBase, model, attr.Ridge(1.0), perturb).attribute(
            x, **options, **size
        )
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def masks(x, **kwargs):
    return (torch.rand(1, 4, dtype=torch.float32) < 0.5).long()


def apply(z, x, **kwargs):
    return tuple(z * part for part in x)


def count(x, y, z, **kwargs):
    assert isinstance(x, tuple)
    assert isinstance(y, tuple)
    return float(z.sum() + 1)


def test_samples_in_the_interpretable_space_are_captums():
    model = net()

    def both(x, y):
        return model(x * y)

    inputs = (point(), point() + 1)
    arguments = (count, masks, True, apply, None)
    torch.manual_seed(5)
    with peers.float64():
        theirs = captum.LimeBase(both, captum_models.SkLearnLinearRegression(), *arguments)
        expected = theirs.attribute(inputs, target=2, n_samples=40)
    torch.manual_seed(5)
    ours = attr.LimeBase(both, attr.LinearRegression(), *arguments)
    got = ours.attribute(inputs, target=2, n_samples=40)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_one_value_for_a_batch_and_additional_arguments():
    model, x = net(), point(3)

    def loss(x, scale):
        assert len(x) == 3
        return (model(x)[:, 0] * scale).sum()

    options = {"n_samples": 30, "scale": 0.5, "additional_forward_args": torch.arange(3.0)}
    regressor = attr.Ridge()
    ours = attr.LimeBase(
        loss, regressor, closeness, noise, False, None, lambda s, x, **kwargs: s.flatten()[None]
    )
    assert ours.attribute(x, **options).shape == (1, 12)
    with pytest.raises(InputError, match="must be 1 for a model that returns one value"):
        ours.attribute(x, perturbations_per_eval=2, **options)
    per_sample = attr.LimeBase(model, regressor, closeness, noise, False, None, itself)
    with pytest.raises(InputError, match="must be one sample, with one target; got 3 scores"):
        per_sample.attribute(x, target=0, scale=0.5)


def test_samples_of_different_shapes():
    """A text from which words are left out."""
    words = torch.tensor([[3, 1, 4, 1, 5]])
    value = torch.arange(10.0).double()

    def leave_out(x):
        return (torch.rand(1, 5) < 0.7).long()

    lime = attr.LimeBase(
        lambda ids: value[ids].sum(1), attr.LinearRegression(), lambda x, y, z: 1.0, leave_out,
        True, lambda z, x: x[:, z[0].bool()], None,
    )  # fmt: skip
    got = lime.attribute(words, n_samples=60)
    torch.testing.assert_close(got, value[words].float(), rtol=1e-5, atol=1e-5)


def test_what_the_model_says_of_itself_is_returned():
    class Counts:
        def fit(self, data):
            self.seen = [v.shape for v in next(iter(data))]

        def representation(self):
            return self.seen

    lime = in_inputs(attr.LimeBase, net(), Counts())
    found = lime.attribute(point(), target=0, n_samples=9, scale=0.5)
    assert found == [(9, 4), (9,), (9,)]


def test_a_trained_model_of_captum_keeps_its_gradients():
    lime = in_inputs(attr.LimeBase, net().float(), captum_models.SGDRidge())
    assert lime.attribute(point().float(), target=0, n_samples=9, scale=0.5).shape == (1, 4)


def test_a_generator_that_ends_early():
    def few(x, **kwargs):
        for _ in range(7):
            yield noise(x, **kwargs)

    lime = in_inputs(attr.LimeBase, net(), attr.Ridge(), few)
    with pytest.warns(UserWarning, match="completed after 7 of n_samples=20"):
        assert lime.attribute(point(), target=0, n_samples=20, scale=0.5).shape == (1, 4)


def test_the_progress_bar_counts_samples(capsys):
    lime = in_inputs(attr.LimeBase, net(), attr.Ridge())
    lime.attribute(point(), target=0, n_samples=7, scale=0.5, show_progress=True)
    err = capsys.readouterr().err
    assert "Lime Base attribution: 100%" in err
    assert "7/7" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((noise, True, None, itself), "from_interp_rep_transform must be a function; got None"),
        ((noise, False, itself, None), "to_interp_rep_transform must be a function; got None"),
        (("noise", False, None, itself), "perturb_func must be a function; got 'noise'"),
    ],
)
def test_missing_functions_are_refused(arguments, message):
    with pytest.raises(InputTypeError, match=f"LimeBase: {message}"):
        attr.LimeBase(net(), attr.Ridge(), closeness, *arguments)


def test_wrong_samples_and_models_are_refused():
    lime = in_inputs(attr.LimeBase, lambda x: (x, x), attr.Ridge())
    with pytest.raises(InputError, match="n_samples must be at least 1; got 0"):
        lime.attribute(point(), n_samples=0)
    with pytest.raises(ModelError, match="must return one tensor"):
        lime.attribute(point(), scale=0.5)
    with pytest.raises(InputError, match="is needed for an output of shape"):
        in_inputs(attr.LimeBase, net(), attr.Ridge()).attribute(point(), scale=0.5)
    with pytest.raises(NotImplementedError, match="call attribute"):
        lime.attribute_future()


# ---- functions of the user in Lime -------------------------------------------------------------


def test_lime_calls_functions_as_captum_does():
    told = []

    def similarity(original, perturbed, z, **kwargs):
        told.append((original, perturbed, z, kwargs))
        return torch.tensor([0.5])

    x = point(2)
    lime = attr.Lime(net(), attr.Ridge(), similarity)
    options = {"target": 0, "feature_mask": torch.tensor([[0, 0, 1, 2]]), "n_samples": 6}
    lime.attribute(x, 0.25, seed=0, **options)
    for original, perturbed, z, kwargs in told:
        assert set(kwargs) == {"baselines", "feature_mask", "num_interp_features"}
        assert kwargs["num_interp_features"] == 3
        assert kwargs["feature_mask"].tolist() == [[0, 0, 1, 2]]
        assert original.shape == perturbed.shape == (1, 4)
        assert z.shape == (1, 3)
        assert z.dtype == torch.long
        on = z[0][kwargs["feature_mask"]].bool()
        assert torch.equal(perturbed, torch.where(on, original, kwargs["baselines"]))
    assert {float(o[0, 0]) for o, *_ in told} == set(x[:, 0].tolist())


def test_a_similarity_of_the_user_is_used():
    def similarity(original, perturbed, z, **kwargs):
        return float(1 + z.sum())

    model, x = net(), point(2)
    Z = (torch.rand(30, 4, generator=torch.Generator().manual_seed(0)) < 0.5).long()
    lime = attr.Lime(model, attr.Ridge(), similarity, lambda x, **kw: (z[None] for z in Z))
    got = lime.attribute(x, target=1, n_samples=30)
    for n in range(2):
        zero, mask = [torch.zeros(1, 4).double()], [torch.arange(4).view(1, 4)]
        _, y = oracle.samples(model, [x[n : n + 1]], zero, mask, Z.numpy(), 1)
        weight = 1 + Z.sum(1).double().numpy()
        expected = oracle.fit(linear_model.Ridge(), Z.numpy(), y, weight)
        torch.testing.assert_close(got[n], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "model",
    [linear_model.ElasticNet(alpha=0.001), captum_models.SkLearnLasso(alpha=0.001, max_iter=5000)],
)
def test_lime_fits_models_of_the_user(model):
    x, lime = point(2), attr.Lime(net(), model)
    got = lime.attribute(x, target=1, n_samples=200, seed=0)
    near = attr.Lime(net(), attr.Lasso(0.001)).attribute(x, target=1, n_samples=200, seed=0)
    assert got.shape == x.shape
    torch.testing.assert_close(got, near, rtol=0.1, atol=0.02)


def test_a_perturb_func_that_is_no_function_is_refused():
    with pytest.raises(InputTypeError, match="Lime: perturb_func must be a function; got 'x'"):
        attr.Lime(net(), perturb_func="x")
