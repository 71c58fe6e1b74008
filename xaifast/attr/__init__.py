"""Explainers, with captum's class names where captum has them."""

from .propagation import LRP, Report

__all__ = ["LRP", "Report"]
