"""What a network costs: synaptic operations counted from real spikes, energy, latency, effective timesteps."""

from pascal_ext.energy.cost import EnergyReport, LayerCost, NeuronCost
from pascal_ext.energy.cost_model import HOROWITZ_45NM, OperationEnergies, energy_ratio
from pascal_ext.energy.effective import effective_timesteps, network_effective_timesteps
from pascal_ext.energy.fan_in import fan_ins
from pascal_ext.energy.measurement import measure

__all__ = [
    "HOROWITZ_45NM",
    "EnergyReport",
    "LayerCost",
    "NeuronCost",
    "OperationEnergies",
    "effective_timesteps",
    "energy_ratio",
    "fan_ins",
    "measure",
    "network_effective_timesteps",
]
