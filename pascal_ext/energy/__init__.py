"""What a network costs: synaptic operations counted from real spikes, energy, latency, effective timesteps."""

from pascal_ext.energy.cost import HOROWITZ_45NM, EnergyReport, LayerCost, NeuronCost, OperationEnergies
from pascal_ext.energy.effective import effective_timesteps, energy_ratio, network_effective_timesteps
from pascal_ext.energy.measurement import measure

__all__ = [
    "HOROWITZ_45NM",
    "EnergyReport",
    "LayerCost",
    "NeuronCost",
    "OperationEnergies",
    "effective_timesteps",
    "energy_ratio",
    "measure",
    "network_effective_timesteps",
]
