"""Rules: how one node hands the relevance of its output to its inputs.

The letters, the same in formula, code, kernel and test:

    a_j     activation that enters a node           R_j     relevance of an input
    w_jk    weight from j to k                      R_k     relevance of an output
    b_k     bias (w_0k, with a_0 = 1)               z_k     denominator; z = sum_j a_j w_jk + b_k
    u_j     what enters the weights: a, or its      s_k     R_k / (z_k + eps sgn z_k)
            positive and negative part              c_j     backward product sum_k w_jk s_k
    eps     stabilizer, epsilon of LRP-epsilon      gamma   weight of positive contributions
    alpha, beta   weights of positive and negative  l, h    bounds of the inputs (low, high)
            contributions, alpha - beta = 1         (.)+, (.)-  max(0, .), min(0, .)

    sgn 0 = +1,   0/0 = 0

A rule of your own takes a few lines; `parts` says what enters the weights, which weights, and
which bias counts in the denominator:

>>> from xaifast import rules
>>> class Absolute(rules.LinearRule):
...     def parts(self, layer, a, z):
...         w = layer.derive("abs", lambda w: w.abs())
...         yield rules.Part(a.abs(), w)
"""

from ..graph.rule import Rule
from .base import LinearRule, Part
from .deeplift import Rescale, RescaleMax, RescalePair, RescaleSoftmax, RevealCancel
from .gates import Gate
from .gradient import Clip, Gradient, LinearGradient, ReLUGradient, SumGradient
from .lrp import AlphaBeta, Epsilon, Flat, Gamma, WSquare, ZBox, Zero, ZPlus
from .moves import Pass, Transpose
from .pooling import Pool
from .recurrent import GatedProduct, Recurrent

__all__ = [
    "AlphaBeta",
    "Clip",
    "Epsilon",
    "Flat",
    "Gamma",
    "Gate",
    "GatedProduct",
    "Gradient",
    "LinearGradient",
    "LinearRule",
    "Part",
    "Pass",
    "Pool",
    "ReLUGradient",
    "Recurrent",
    "Rescale",
    "RescaleMax",
    "RescalePair",
    "RescaleSoftmax",
    "RevealCancel",
    "Rule",
    "SumGradient",
    "Transpose",
    "WSquare",
    "ZBox",
    "ZPlus",
    "Zero",
]
