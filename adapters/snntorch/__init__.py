"""PASCAL in snnTorch, 1.0 and 0.9.4: a time-parallel neuron, a conversion, and the codes that go in and out of it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pascal_ext.adapters.snntorch.coding import latency_currents, winner_spikes
    from pascal_ext.adapters.snntorch.conversion import convert, load
    from pascal_ext.adapters.snntorch.network import PascalNetwork
    from pascal_ext.adapters.snntorch.neuron import PascalIF

__all__ = ["PascalIF", "PascalNetwork", "convert", "latency_currents", "load", "winner_spikes"]

_HOMES = {
    "PascalIF": "neuron",
    "PascalNetwork": "network",
    "convert": "conversion",
    "latency_currents": "coding",
    "load": "conversion",
    "winner_spikes": "coding",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
