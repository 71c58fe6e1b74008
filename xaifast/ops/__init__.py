"""The native ops with types and docstrings; each has its formula in `xaifast.reference`.

The ops take float32, float64, bfloat16 and float16 (the last two computed in float32; those of
regression and recurrence take the first two), on the CPU and on CUDA, with any strides; another
dtype is a TypeError. On other devices, and with XAIFAST_REFERENCE=1 in the environment, the same
formulas run in plain PyTorch. None is differentiable: a call that autograd would record is an
error.
"""

from .convolution import zplus_conv
from .few import FEW_CHANNELS as FEW_CHANNELS
from .few import FEW_ROWS as FEW_ROWS
from .few import few_pays as few_pays
from .few import few_weights, relprop_few
from .linear import zplus_linear
from .native import fingerprint as fingerprint
from .native import give_back_memory as give_back_memory
from .native import is_native as is_native
from .native import packs_weights as packs_weights
from .paths import lstm_path
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
from .winograd import winograd_pays as winograd_pays

__all__ = [
    "accumulate_rows_",
    "add_noise",
    "add_split",
    "backward_product",
    "cut_boxes",
    "few_weights",
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
    "stabilized_divide",
    "weighted_lasso",
    "weighted_least_squares",
    "winograd_conv",
    "winograd_weights",
    "zplus_conv",
    "zplus_linear",
]
