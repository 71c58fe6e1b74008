# ruff: noqa: F403
"""The native ops with types and docstrings; each has its formula in `xaifast.reference`.

The ops take float32, float64, bfloat16 and float16 (the last two computed in float32; those of
regression and recurrence take the first two), on the CPU and on CUDA, with any strides; another
dtype is a TypeError. On other devices, and with XAIFAST_REFERENCE=1 in the environment, the same
formulas run in plain PyTorch. None is differentiable: a call that autograd would record is an
error.

Each module names its public ops in `__all__`.
"""

from .cut_boxes import *
from .lstm_path import *
from .recurrent import *
from .regression import *
from .relevance import *
from .relprop_few import *
from .sampling import *
from .winograd_conv import *
from .zplus_conv import *
from .zplus_linear import *

__all__ = sorted(name for name, op in globals().items() if callable(op) and name[0] != "_")

# What the package asks about kernels; no op of its own.
from .native import fingerprint as fingerprint
from .native import give_back_memory as give_back_memory
from .native import is_native as is_native
from .native import packs_weights as packs_weights
from .relprop_few import FEW_CHANNELS as FEW_CHANNELS
from .relprop_few import FEW_ROWS as FEW_ROWS
from .relprop_few import few_pays as few_pays
from .winograd_conv import winograd_pays as winograd_pays
