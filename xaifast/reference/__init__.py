# ruff: noqa: F403
"""Every native op in plain PyTorch, written to be read.

It is the oracle of the tests (in float64) and the kernel on devices that have none of ours.
The names, arguments and letters are those of `xaifast.ops`. Each module names its ops in `__all__`.
"""

from .cut_boxes import *
from .fingerprint import *
from .lstm_path import *
from .recurrent import *
from .regression import *
from .relevance import *
from .relprop_few import *
from .sampling import *
from .winograd_conv import *
from .zplus_conv import *
from .zplus_linear import *
