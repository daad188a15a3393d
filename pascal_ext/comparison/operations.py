"""Synaptic operations and estimated energy of a conversion, for answers after more and more timesteps."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pascal_ext.comparison.conversions import Conversion, Part
from pascal_ext.energy import HOROWITZ_45NM, EnergyReport, LayerCost, measure


def operations(made: Conversion, batch: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """What an image costs on average, counted from real spikes by :func:`pascal_ext.energy.measure`.

    Three things are set right. An image is no spikes, even one of {0, 1}: what reads it multiplies. It is the same at
    every timestep, so its products with weights are counted once, for all methods alike. And a shortcut that only moves
    values has no operations.

    Args:
        made: the conversion.
        batch: images and labels.

    Returns:
        Lists over answers after 0 (what the extra steps cost alone), 1, 2, 4, ... timesteps; of one entry for a PASCAL
        network: ``timesteps``, ``macs``, ``synaptic_operations``, ``joules``, ``firing_rate``; and T_eff, where the
        network has one.
    """
    found: dict[str, Any] = {"timesteps": [], "macs": [], "synaptic_operations": [], "joules": [], "firing_rate": []}
    found["effective_timesteps"] = None
    for timesteps in made.anchors:
        macs = synaptic = 0.0
        rate: float | None = None
        for part in made.parts(timesteps):
            one = part_operations(part, batch)
            macs, synaptic, rate = macs + one["macs"], synaptic + one["synaptic_operations"], one["firing_rate"]
            found["effective_timesteps"] = one["effective_timesteps"]
        found["timesteps"].append(timesteps)
        found["macs"].append(round(macs))
        found["synaptic_operations"].append(round(synaptic))
        found["joules"].append(macs * HOROWITZ_45NM.mac + synaptic * HOROWITZ_45NM.ac)
        found["firing_rate"].append(None if rate is None else round(rate, 5))
    return found


def part_operations(part: Part, batch: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """The operations of one network, for one image."""
    report = measure(part.network, [batch], timesteps=part.calls, analog_inputs=True, progress=False)
    layers = _with_operations(part.network, report)
    repeated = sum(layer.macs for layer in layers if layer.reads_input) * (1 - 1 / part.presentations)
    return {
        "macs": sum(layer.macs for layer in layers) - repeated,
        "synaptic_operations": sum(layer.synaptic_operations for layer in layers),
        "firing_rate": report.firing_rate,
        "effective_timesteps": report.effective_timesteps,
    }


def ann_operations(ann: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, float]:
    """The same for the ANN, which multiplies whatever the values are."""
    report = measure(ann, [batch], progress=False)
    macs = sum(layer.synapses for layer in _with_operations(ann, report))
    return {"macs": macs, "joules": macs * HOROWITZ_45NM.mac}


def _with_operations(network: nn.Module, report: EnergyReport) -> list[LayerCost]:
    """The layers but for those that only move values."""
    moving = {name for name, module in network.named_modules() if getattr(module, "moves_only", False)}
    return [layer for name, layer in report.layers.items() if name not in moving]
