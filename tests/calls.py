"""Functions to explain that write down how they are called."""

import inspect
import sys

import torch
from torch import nn


def on_trial():
    """Whether a call is one of the two that try out whether rows depend on each other."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "rows_by_trial":
        frame = frame.f_back
    return frame is not None


class Counting:
    """A function of rows that remembers how many rows each call had, and `tried` ones apart."""

    def __init__(self, function):
        self.function = function
        self.rows, self.tried = [], []

    def __call__(self, x, *more):
        (self.tried if on_trial() else self.rows).append(len(x))
        return self.function(x, *more)


def flat_net(features, outputs=3, hidden=7, seed=3):
    """A small smooth network in float64 on flattened inputs."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, outputs)
        ).double()


def explained(explainer, model, *args, **options):
    """Make an explainer and call it, with the options of its constructor and of `attribute`."""
    known = inspect.signature(explainer.__init__).parameters
    built = {k: options.pop(k) for k in list(options) if k in known}
    return explainer(model, **built).attribute(*args, **options)
