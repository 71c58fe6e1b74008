"""Explainers, with captum's class names where captum has them."""

from .base import Attribution, GradientAttribution, PerturbationAttribution
from .baselines import blur
from .deeplift import DeepLift, DeepLiftShap
from .gradient import InputXGradient, Saliency
from .path import IntegratedGradients
from .propagation import LRP, Report

__all__ = [
    "LRP",
    "Attribution",
    "DeepLift",
    "DeepLiftShap",
    "GradientAttribution",
    "InputXGradient",
    "IntegratedGradients",
    "PerturbationAttribution",
    "Report",
    "Saliency",
    "blur",
]
