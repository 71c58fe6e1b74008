"""Errors of xaifast: one base class, and one place that words them."""

from __future__ import annotations

__all__ = [
    "FixedError",
    "InputError",
    "InputTypeError",
    "MissingPackageError",
    "ModelError",
    "NativeLibraryError",
    "XaifastError",
]


class XaifastError(Exception):
    """Base class of every error that xaifast raises on purpose."""


class InputError(XaifastError, ValueError, AssertionError):
    """An argument has a value that the call cannot use.

    captum raises AssertionError where an argument does not fit: code that catches it still works.
    """


class InputTypeError(XaifastError, TypeError, AssertionError):
    """An argument has a type that the call cannot use."""


class ModelError(XaifastError, ValueError, AssertionError):
    """The model cannot be explained by this method: a layer has no rule, or no exact one."""


class FixedError(XaifastError, AttributeError):
    """An attribute of an explainer that is fixed when it is made was set."""


class MissingPackageError(XaifastError, ImportError):
    """A package is needed that xaifast does not install by itself."""


class NativeLibraryError(XaifastError, ImportError):
    """The compiled part of the package is missing, or was built for another PyTorch."""


def describe(value: object) -> str:
    """Word a received value for an error: tensors by shape and dtype, the rest by its repr.

    Containers of tensors by how many there are.
    """
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"a {type(value).__name__} of shape {list(shape)} and dtype {value.dtype}"  # type: ignore[attr-defined]
    if any(hasattr(v, "shape") for v in _parts(value)):  # whose own words are long
        return f"a {type(value).__name__} of {len(_parts(value))}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _parts(value: object) -> list:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, (tuple, list)) else []


def word(who: str, must: str, got: object, do: str) -> str:
    """Word an error: who complains, what must hold, what came, what to do next.

    `got` is the value itself, or words about it; a value that may be a string is described first.
    """
    came = got if isinstance(got, str) else describe(got)
    return f"{who} {must}; got {came}. {do}"


def wrong_value(who: str, must: str, got: object, do: str) -> InputError:
    """Make the error for an argument of the wrong value."""
    return InputError(word(who, must, got, do))


def wrong_type(who: str, must: str, got: object, do: str) -> InputTypeError:
    """Make the error for an argument of the wrong type."""
    return InputTypeError(word(who, must, got, do))
