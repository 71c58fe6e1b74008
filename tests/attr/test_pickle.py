"""Explainers go to other processes: pickled before a call and after one, they give the same."""

import multiprocessing
import pickle

import pytest
import torch
from methods import EXPLAINERS, accepts, net, options_of

from xaifast import attr, catalogue, composites


def split(name):
    """The explainer of a method, and the options of its call."""
    m = catalogue.find(name)
    given = {**m.preset, **options_of(name)}
    build = {k: v for k, v in given.items() if k in m.build_options}
    call = {k: v for k, v in given.items() if k not in build}
    model = net(name)
    if isinstance(build.get("layer"), str):
        build["layer"] = model.get_submodule(build["layer"])
    if accepts(name, "seed"):
        call["seed"] = 3
    if name != "LayerActivation":
        call["target"] = [1, 0, 4]
    return m.make(model, **build), call


def image():
    return torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.sweep(every=True)
@pytest.mark.parametrize("name", EXPLAINERS)
def test_before_and_after_a_call(name):
    explainer, call = split(name)
    before = pickle.loads(pickle.dumps(explainer))
    want = explainer.attribute(image(), **call)
    after = pickle.loads(pickle.dumps(explainer))
    for copy in (before, after):
        assert torch.equal(copy.attribute(image(), **call), want)


def _explained(job):
    """In a worker, which sends numpy: tensors would share memory."""
    data, call = job
    torch.set_num_threads(1)
    return pickle.loads(data).attribute(image(), **call).numpy()


def test_in_spawned_workers():
    """One of each family; before a call, and after one."""
    jobs, wanted = [], []
    for name in ("EpsilonGammaBox", "DeepLift", "IntegratedGradients", "RISE", "KernelShap"):
        explainer, call = split(name)
        jobs.append((pickle.dumps(explainer), call))
        wanted.append(explainer.attribute(image(), **call))
        jobs.append((pickle.dumps(explainer), call))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.map(_explained, jobs)
    for i, R in enumerate(found):
        torch.testing.assert_close(torch.from_numpy(R), wanted[i // 2])


CONDITIONS = {
    "kind": composites.kind("conv", "linear"),
    "module type": composites.module_type(torch.nn.Linear),
    "name": composites.name("features.*"),
    "fraction": composites.fraction(0.0, 0.5),
    "first": composites.first,
    "last and kind": (composites.last, composites.kind("conv")),
}


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
def test_conditions(condition):
    assert pickle.loads(pickle.dumps(condition)) == condition


def test_a_composite_of_ones_own():
    rule = composites.EpsilonPlus().entries[0][1]
    mine = composites.EpsilonPlus().with_rules((composites.name("0"), rule))
    lrp = attr.LRP(net(), mine)
    want = lrp.attribute(image(), 1)
    assert torch.equal(pickle.loads(pickle.dumps(lrp)).attribute(image(), 1), want)
