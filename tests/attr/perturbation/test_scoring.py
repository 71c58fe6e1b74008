"""Scores of perturbed inputs: blocks of samples, batches, values for the whole batch."""

import pytest
import torch
from calls import Counting, flat_net

from xaifast.attr import FeatureAblation, Occlusion
from xaifast.attr.perturbation import scoring
from xaifast.errors import ModelError


def close(got, expected, tolerance=1e-12):
    assert got.shape == expected.shape
    scale = max(1.0, float(expected.abs().max()))
    assert float((got.double() - expected.double()).abs().max()) <= tolerance * scale


def test_samples_go_in_blocks_where_memory_is_short(monkeypatch):
    f = flat_net(10)
    x = torch.randn(9, 2, 5).double()
    expected = FeatureAblation(f).attribute(x, target=1)
    monkeypatch.setattr(scoring, "rows_in_memory", lambda need, device: 2)
    counting = Counting(f)
    close(FeatureAblation(counting).attribute(x, target=1), expected)
    assert counting.rows.count(9) == 0


def test_half_the_rows_where_the_device_runs_out_of_memory():
    f = flat_net(10)

    def tight(x):
        if len(x) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return f(x)

    x = torch.randn(2, 10).double()
    close(FeatureAblation(tight).attribute(x, target=1), FeatureAblation(f).attribute(x, target=1))


def test_as_many_values_as_samples_by_chance():
    f = lambda x: torch.stack([x.sum(), x.prod()])  # noqa: E731
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    expected = [[4.0, 6.0], [24.0, 24.0]]
    assert FeatureAblation(f).attribute(x).tolist() == expected
    assert FeatureAblation(f).attribute(x, perturbations_per_eval=1).tolist() == expected
    with pytest.raises(ModelError, match="its output does not grow with the batch"):
        FeatureAblation(f).attribute(x, perturbations_per_eval=2)


def test_batches_are_of_one_size():
    counting = Counting(flat_net(10))
    x = torch.randn(1, 10).double()
    FeatureAblation(counting).attribute(x, target=0, internal_batch_size=9)
    assert counting.rows == [1, 5, 5]
    counting.rows.clear()
    FeatureAblation(counting).attribute(x, target=0, perturbations_per_eval=9)
    assert counting.rows == [1, 9, 1]  # as captum


def test_a_progress_bar_that_arrives(capsys):
    f, x = flat_net(6), torch.randn(2, 6).double()
    FeatureAblation(f).attribute(x, target=0, show_progress=True)
    assert "Feature Ablation attribution: 100%" in capsys.readouterr().err
    FeatureAblation(f).attribute(x, target=0)
    assert capsys.readouterr().err == ""


WHOLE = {
    "number": (lambda x: float(x.prod(1).sum()), (1,), torch.float64),
    "integer": (lambda x: int(x.prod(1).sum()), (1,), torch.int64),
    "no dimension": (lambda x: x.prod(1).sum(), (1,), torch.float32),
    "one element": (lambda x: x.prod(1).sum().view(1), (1,), torch.float32),
    "several": (lambda x: torch.stack([x.prod(1).sum(), x.sum()]).view(1, 2), (2,), torch.float32),
}


@pytest.mark.parametrize(("f", "shape", "dtype"), WHOLE.values(), ids=WHOLE)
def test_values_for_the_whole_batch(f, shape, dtype):
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [1.0, 1.0, 1.0]])
    # without a column all products vanish; sum(x) loses the column
    products, columns = [127.0] * 3, [6.0, 8.0, 10.0]
    expected = torch.tensor([products, columns] if shape == (2,) else [products])
    for r in (
        FeatureAblation(f).attribute(x),
        FeatureAblation(f).attribute(x, feature_mask=torch.tensor([[5, 6, 7]])),
        FeatureAblation(f).attribute(x, internal_batch_size=64),
    ):
        assert r.dtype == dtype
        close(r, expected)
    close(Occlusion(f).attribute(x, (1,)), expected)
