"""Which SpikingJelly is installed: the one place that knows how its versions differ."""

from __future__ import annotations

import importlib
from importlib import metadata
from types import ModuleType
from typing import Any

from torch.overrides import _get_current_function_mode_stack

from pascal_ext.errors import PascalError


class UnsupportedHostError(PascalError, ImportError):
    """SpikingJelly is missing, cannot be imported, or is a version this package does not know."""


def installed_version() -> str | None:
    """The version of the installed SpikingJelly, None where there is none."""
    try:
        return metadata.version("spikingjelly")
    except metadata.PackageNotFoundError:
        return None


def load(name: str) -> Any:
    """Import ``spikingjelly.activation_based.<name>``.

    Raises:
        UnsupportedHostError: it is not installed, too old to have this module, or lacks a dependency.
    """
    try:
        return importlib.import_module(f"spikingjelly.activation_based.{name}")
    except ImportError as error:
        version = installed_version()
        if version is None and (error.name or "").partition(".")[0] == "spikingjelly":
            raise UnsupportedHostError(
                'SpikingJelly is not installed; get it with: pip install "spikingjelly>=0.0.0.0.14"'
            ) from None
        raise UnsupportedHostError(
            f"SpikingJelly {version or 'of unknown version'} cannot be used: {error}. "
            "pascal-ext supports spikingjelly 2.x and 0.0.0.0.14"
        ) from error


def has_recipes(ann2snn: ModuleType) -> bool:
    """True where conversions are recipes (2.x), False where they are modes of the converter (0.0.0.0.14).

    Raises:
        UnsupportedHostError: neither.
    """
    converter = getattr(ann2snn, "Converter", None)
    if hasattr(ann2snn, "FXConversionRecipe") and hasattr(converter, "convert"):
        return True
    if hasattr(converter, "_check_mode") and hasattr(converter, "forward"):
        return False
    raise UnsupportedHostError(
        f"SpikingJelly {installed_version() or 'of unknown version'} has a converter that pascal-ext does not know; "
        "it supports spikingjelly 2.x and 0.0.0.0.14"
    )


base = load("base")
ann2snn = load("ann2snn")
VERSION = installed_version()
HAS_RECIPES = has_recipes(ann2snn)
Converter: Any = ann2snn.Converter


def is_counting() -> bool:
    """Whether SpikingJelly 2.x counts function calls; modes that count dispatched operations the core sees itself."""
    modes = _get_current_function_mode_stack() if HAS_RECIPES else []
    return any(isinstance(mode, load("op_counter").FunctionCounterMode) for mode in modes)
