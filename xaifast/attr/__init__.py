"""Explainers, with captum's class names where captum has them."""

from .base import Attribution, GradientAttribution, PerturbationAttribution
from .baselines import blur
from .cell_states import CellStates
from .contextual import ContextualDecomposition
from .deeplift import DeepLift, DeepLiftShap
from .gradient import InputXGradient, Saliency
from .gradient_shap import GradientShap
from .guided import Deconvolution, GuidedBackprop, GuidedGradCam
from .kernels import ExponentialKernel
from .layer import LayerActivation, LayerAttribution, LayerGradCam, LayerGradientXActivation
from .layer_output import LayerOutput
from .layer_path import LayerConductance, LayerIntegratedGradients
from .noise import NoiseTunnel
from .path import IntegratedGradients
from .perturbation import FeatureAblation, FeaturePermutation, Occlusion
from .prediction_difference import PredictionDifference
from .propagation import LRP, Report
from .regressors import Lasso, LinearRegression, Ridge
from .rise import RISE
from .shapley import ShapleyValues, ShapleyValueSampling
from .surrogate import KernelShap, Lime, LimeImage
from .surrogate_base import LimeBase

__all__ = [
    "LRP",
    "RISE",
    "Attribution",
    "CellStates",
    "ContextualDecomposition",
    "Deconvolution",
    "DeepLift",
    "DeepLiftShap",
    "ExponentialKernel",
    "FeatureAblation",
    "FeaturePermutation",
    "GradientAttribution",
    "GradientShap",
    "GuidedBackprop",
    "GuidedGradCam",
    "InputXGradient",
    "IntegratedGradients",
    "KernelShap",
    "Lasso",
    "LayerActivation",
    "LayerAttribution",
    "LayerConductance",
    "LayerGradCam",
    "LayerGradientXActivation",
    "LayerIntegratedGradients",
    "LayerOutput",
    "Lime",
    "LimeBase",
    "LimeImage",
    "LinearRegression",
    "NoiseTunnel",
    "Occlusion",
    "PerturbationAttribution",
    "PredictionDifference",
    "Report",
    "Ridge",
    "Saliency",
    "ShapleyValueSampling",
    "ShapleyValues",
    "blur",
]
