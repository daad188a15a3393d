"""PASCAL in SpikingJelly, 2.x and 0.0.0.0.14: a neuron, a conversion recipe, and a mode of its ``Converter``."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

from pascal_ext.adapters.spikingjelly.host import HOST
from pascal_ext.ops.pasc_if import register_backend

if TYPE_CHECKING:
    from pascal_ext.adapters.spikingjelly.conversion import convert, load
    from pascal_ext.adapters.spikingjelly.network import PascalNetwork
    from pascal_ext.adapters.spikingjelly.node import PascalIFNode
    from pascal_ext.adapters.spikingjelly.recipe import PascalRecipe
    from pascal_ext.adapters.spikingjelly.registration import register, unregister

register_backend("host", HOST)


def _has_recipes() -> bool:
    """What :mod:`~pascal_ext.adapters.spikingjelly.compat` knows better, which imports SpikingJelly."""
    try:
        return not metadata.version("spikingjelly").startswith("0.")
    except metadata.PackageNotFoundError:
        return True


__all__ = ["PascalIFNode", "PascalNetwork", "convert", "load", "register", "unregister"]
if _has_recipes():  # so that "import *" works on 0.0.0.0.14, too
    __all__ += ["PascalRecipe"]

_HOMES = {
    "PascalIFNode": "node",
    "PascalNetwork": "network",
    "PascalRecipe": "recipe",  # 2.x only; importing it says so
    "convert": "conversion",
    "load": "conversion",
    "register": "registration",
    "unregister": "registration",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
