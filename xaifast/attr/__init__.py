"""Explainers, with captum's class names where captum has them."""

from ..engine.baselines import blur
from ..engine.report import Report
from .base import Attribution, GradientAttribution, PerturbationAttribution
from .gradient.noise_tunnel import NoiseTunnel
from .gradient.saliency import InputXGradient, Saliency
from .layer.activation import (
    LayerActivation,
    LayerAttribution,
    LayerGradCam,
    LayerGradientXActivation,
)
from .layer.output import LayerOutput
from .layer.path import LayerConductance, LayerIntegratedGradients
from .path.cell_states import CellStates
from .path.gradient_shap import GradientShap
from .path.integrated_gradients import IntegratedGradients
from .perturbation.ablation import FeatureAblation, FeaturePermutation
from .perturbation.occlusion import Occlusion
from .perturbation.prediction_difference import PredictionDifference
from .perturbation.rise import RISE
from .perturbation.shapley import ShapleyValues, ShapleyValueSampling
from .propagation.contextual import ContextualDecomposition
from .propagation.deeplift import DeepLift, DeepLiftShap
from .propagation.guided import Deconvolution, GuidedBackprop, GuidedGradCam
from .propagation.lrp import LRP
from .surrogate.lime import KernelShap, Lime, LimeImage
from .surrogate.lime_base import LimeBase
from .surrogate.regressors import Lasso, LinearRegression, Ridge
from .surrogate.similarity import ExponentialKernel

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
