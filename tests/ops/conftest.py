"""Each op meets each dtype and each layout."""

import pytest
from tensors import DTYPES, LAYOUTS


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return LAYOUTS[request.param]


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param
