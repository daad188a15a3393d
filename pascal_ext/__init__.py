"""Exact ANN-to-SNN conversion (PASCAL, arXiv 2505.01730): a QCFS network in, the same function in spikes out.

Everything here is imported where it is first used, so that ``import pascal_ext`` costs nothing and touches no device.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pascal_ext import adapters, energy, errors, functional
    from pascal_ext.activations import replace_activations, set_levels
    from pascal_ext.adapters.spikingjelly.registration import register, unregister
    from pascal_ext.allocation.metric import al_metric
    from pascal_ext.allocation.planning import allocate, pareto
    from pascal_ext.calibration.reconstruction import reconstruct
    from pascal_ext.calibration.thresholds import calibrate
    from pascal_ext.comparison.compare import compare
    from pascal_ext.conversion.convert import convert
    from pascal_ext.network.spiking_network import SpikingNetwork
    from pascal_ext.neuron import PascIF
    from pascal_ext.plan import LevelPlan
    from pascal_ext.qcfs import QCFS
    from pascal_ext.saving.io import load, save
    from pascal_ext.verification.verify import verify

__version__ = "0.1.0"

__all__ = [
    "QCFS",
    "LevelPlan",
    "PascIF",
    "SpikingNetwork",
    "adapters",
    "al_metric",
    "allocate",
    "calibrate",
    "compare",
    "convert",
    "energy",
    "errors",
    "functional",
    "load",
    "pareto",
    "reconstruct",
    "register",
    "replace_activations",
    "save",
    "set_levels",
    "unregister",
    "verify",
]

_HOMES = {
    "QCFS": "qcfs",
    "LevelPlan": "plan",
    "PascIF": "neuron",
    "SpikingNetwork": "network.spiking_network",
    "al_metric": "allocation.metric",
    "allocate": "allocation.planning",
    "calibrate": "calibration.thresholds",
    "compare": "comparison.compare",
    "convert": "conversion.convert",
    "load": "saving.io",
    "pareto": "allocation.planning",
    "reconstruct": "calibration.reconstruction",
    "register": "adapters.spikingjelly.registration",
    "replace_activations": "activations",
    "save": "saving.io",
    "set_levels": "activations",
    "unregister": "adapters.spikingjelly.registration",
    "verify": "verification.verify",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    elif name in __all__:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
