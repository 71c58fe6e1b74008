"""The made-up basin of benchmarks/snow_basin.py keeps its water; TSOI is Eq. 19.7."""

import numpy as np
import pytest
import torch

from benchmarks import snow_basin as basin


@pytest.mark.parametrize("seed", [0, 1])
def test_no_water_is_lost(seed):
    forcing = basin.weather(3, seed)
    found = basin.simulate(forcing, 7.0, 11.0)
    out = (found.flow + found.evaporation).cumsum()
    np.testing.assert_allclose(18 + forcing[0].cumsum(), out + found.snow + found.water, rtol=1e-12)
    assert all((series >= 0).all() for series in found)
    assert found.snow.max() > 50  # there is a winter
    assert (found.snow == 0).mean() > 0.2  # and a summer


def test_snow_gathers_below_zero_and_melts_above():
    rain, mean = np.array([4.0, 5, 0, 2]), np.array([-1.0, -9, 2, 1])
    found = basin.simulate(np.stack([rain, 0 * rain, mean - 3, mean + 3, rain]))
    np.testing.assert_allclose(found.snow, [4, 9, 3, 0])
    np.testing.assert_allclose(found.melt, [0, 0, 6, 3])
    np.testing.assert_allclose(found.flow[:3], [0, 0, 6 / 15])
    np.testing.assert_allclose(found.flow[3], (6 * 14 / 15 + 3 + 2) / 15)


@pytest.mark.parametrize("last", [1, 3, 9])
def test_the_influence_of_the_last_days_alone(last):
    ig = torch.zeros(2, 10, 5)
    ig[0, -last:] = 0.1
    ig[1, -last:, 0] = -0.001  # below the threshold: noise
    assert basin.tsoi(ig).tolist() == [last - 1, 0]
    assert basin.tsoi(ig, 1e-4).tolist() == [last - 1, last - 1]


def test_a_rise_by_several_forcings_counts_as_their_sum():
    ig = torch.zeros(1, 10, 2)
    ig[0, 2] = torch.tensor([1.0, -1.0])  # they cancel
    ig[0, 6] = torch.tensor([0.0015, 0.0015])
    assert basin.tsoi(ig).tolist() == [10 - 7]


def test_the_memory_of_the_basin_reaches_back_to_the_first_snow():
    forcing = np.zeros((5, 500))
    forcing[2:4] = 5.0
    forcing[2:4, 300:390] = -5.0  # a winter; its snow melts at once after it
    forcing[0, [320, 395]] = 9.0
    found = basin.simulate(forcing)
    assert basin.memory(forcing, found, 400, 1.0) == 400 - 320
    assert basin.memory(forcing, found, 389, 1.0) == 0  # still frozen: no flow at all


def test_a_correlation_is_pearsons_of_the_years_that_change():
    state = torch.randn(4, 30)
    state[3] = 2.0  # no snow all year
    cells = torch.stack([3 * state + 1, -state, torch.randn(4, 30)], -1)
    found = basin.correlation(cells, state)
    want = [np.corrcoef(cells[n, :, 2], state[n])[0, 1] for n in range(3)]
    torch.testing.assert_close(found, torch.tensor([1.0, -1.0, np.mean(want)]).float())
