"""Every native op in plain PyTorch, written to be read.

It is the oracle of the tests (in float64) and the kernel on devices that have none of ours.
The names, arguments and letters are those of `xaifast.ops`.
"""

from .convolution import zplus_conv
from .few import few_weights, relprop_few
from .fingerprint import fingerprint
from .linear import zplus_linear
from .paths import lstm_path
from .recurrent import GATES as GATES
from .recurrent import Absorbed as Absorbed
from .recurrent import gated_product as gated_product
from .recurrent import recurrent_relprop, recurrent_states
from .regression import weighted_lasso, weighted_least_squares
from .relevance import (
    add_split,
    backward_product,
    multiply_parts,
    pool_redistribute,
    relprop_conv,
    relprop_linear,
    split_signs,
    stabilize,
    stabilized_divide,
)
from .sampling import (
    accumulate_rows_,
    add_noise,
    mask_segments,
    occlude_windows,
    path_points,
    scatter_windows,
    segment_sums,
)
from .windows import cut_boxes
from .winograd import winograd_conv, winograd_weights

__all__ = [
    "accumulate_rows_",
    "add_noise",
    "add_split",
    "backward_product",
    "cut_boxes",
    "few_weights",
    "fingerprint",
    "lstm_path",
    "mask_segments",
    "multiply_parts",
    "occlude_windows",
    "path_points",
    "pool_redistribute",
    "recurrent_relprop",
    "recurrent_states",
    "relprop_conv",
    "relprop_few",
    "relprop_linear",
    "scatter_windows",
    "segment_sums",
    "split_signs",
    "stabilize",
    "stabilized_divide",
    "weighted_lasso",
    "weighted_least_squares",
    "winograd_conv",
    "winograd_weights",
    "zplus_conv",
    "zplus_linear",
]
