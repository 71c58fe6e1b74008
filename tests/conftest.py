"""Shared by all tests: one thread, fixed seeds, each device that is there, and the benchmarks."""

import gc
import sys
from pathlib import Path

import pytest
import torch

# Last, so that an installed xaifast stays the one that is tested.
sys.path.append(str(Path(__file__).parents[1]))

torch.set_num_threads(1)


def pytest_collection_finish():
    """Look no more at what imports have made when garbage is collected.

    A model that keeps what it computes is rehearsed with a full collection at each call.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)
