"""xaifast: fast, exact explanations of PyTorch models on native kernels."""

from .errors import XaifastError

__version__ = "0.1.0"
__all__ = ["XaifastError", "__version__"]
