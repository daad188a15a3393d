"""Costs as values: of a layer with weights, of a layer of neurons, and of a network."""

from __future__ import annotations

from dataclasses import dataclass, field

from pascal_ext.energy.cost_model import HOROWITZ_45NM, OperationEnergies
from pascal_ext.plan import barrier


@dataclass(frozen=True)
class LayerCost:
    """A layer with weights, for one sample, over all its timesteps.

    Attributes:
        reads_spikes: whether its inputs had one amplitude, see :mod:`pascal_ext.energy.synapses`.
        synapses: weights times the places where they apply, times timesteps: the operations of a dense layer. Zero
            padding is no synapse.
        macs: multiply-accumulates: all ``synapses`` of a layer that reads analog values; 0 where it reads spikes.
        synaptic_operations: accumulates, one for each synapse that a spike reaches; 0 where it reads analog values.
        firing_rate: the share of its inputs that are spikes, in [0, 1]; None where it reads analog values.
        energy_joules: of its operations.
        reads_input: whether all that it reads is the network's input: as it is, or moved, scaled, normalised, clipped.
            Of a static image that is the same at every timestep.
    """

    name: str
    reads_spikes: bool
    synapses: float
    macs: float
    synaptic_operations: float
    firing_rate: float | None
    energy_joules: float
    reads_input: bool = False


@dataclass(frozen=True)
class NeuronCost:
    """A layer of PASC-IF neurons, for one sample.

    Attributes:
        neurons: how many.
        window: T1, the timesteps that it integrates.
        levels: L, the timesteps over which it emits.
        latency: T1 + max(T1, L) − 1 + L, what it adds to its path on the barrier schedule.
        firing_rate: mean of its spikes, in [0, 1].
        updates: membrane updates, ``neurons`` times ``latency``; they are in no energy.
    """

    name: str
    neurons: int
    window: int
    levels: int
    firing_rate: float

    @property
    def latency(self) -> int:
        return barrier(self.window, self.levels)

    @property
    def updates(self) -> int:
        return self.neurons * self.latency


@dataclass(frozen=True)
class EnergyReport:
    """What :func:`pascal_ext.energy.measure` found, all for one sample on average; ``print`` it for a table.

    Attributes:
        samples: how many it was measured on.
        layers: layer name -> :class:`LayerCost`, in order of execution.
        timesteps: simulated timesteps, the mean over the layers of neurons where they differ; 1 for an ANN.
        latency: timesteps until the answer, on the barrier schedule for a PASCAL network; 1 for an ANN.
        neurons: layer name -> :class:`NeuronCost`, of a PASCAL network; else empty.
        effective_timesteps: T_eff of a PASCAL network, see :func:`pascal_ext.energy.effective_timesteps`; else None.
        energies: what was taken for one operation.
    """

    samples: int
    layers: dict[str, LayerCost]
    timesteps: float
    latency: int
    neurons: dict[str, NeuronCost] = field(default_factory=dict)
    effective_timesteps: float | None = None
    energies: OperationEnergies = HOROWITZ_45NM
    _spikes: tuple[float, float] = (0.0, 0.0)

    @property
    def macs(self) -> float:
        """Multiply-accumulates, of the layers that read analog values."""
        return sum(layer.macs for layer in self.layers.values())

    @property
    def synaptic_operations(self) -> float:
        """Accumulates, of the layers that read spikes."""
        return sum(layer.synaptic_operations for layer in self.layers.values())

    @property
    def energy_joules(self) -> float:
        """Of all MACs and accumulates; of nothing else, see docs/energy.md."""
        return sum(layer.energy_joules for layer in self.layers.values())

    @property
    def firing_rate(self) -> float | None:
        """The share of spikes among the inputs of the layers that read spikes; None where no layer does."""
        spikes, inputs = self._spikes
        return spikes / inputs if inputs else None

    def __str__(self) -> str:
        width = max([5, *map(len, self.layers)])
        lines = [f"{'layer':<{width}}  {'reads':<6}  firing rate          MACs           ACs    energy/nJ"]
        lines += [
            _line(width, layer.name, "spikes" if layer.reads_spikes else "analog", layer.firing_rate, layer)
            for layer in self.layers.values()
        ]
        lines.append(_line(width, "total", "", self.firing_rate, self))
        if self.neurons:
            width = max([7, *map(len, self.neurons)])
            lines.append(f"{'neurons':<{width}}  window  levels  latency  firing rate  updates")
            lines += [
                f"{row.name:<{width}}  {row.window:>6}  {row.levels:>6}  {row.latency:>7}  {row.firing_rate:>11.4f}  "
                f"{row.updates:>7,}"
                for row in self.neurons.values()
            ]
        told = [f"per sample, mean over {self.samples:,}; {self.timesteps:.4g} timesteps, latency {self.latency}"]
        if self.effective_timesteps is not None:
            told.append(f"T_eff {self.effective_timesteps:.4g}")
        lines.append("; ".join(told))
        lines.append(
            f"{self.energies.mac * 1e12:.3g} pJ a MAC, {self.energies.ac * 1e12:.3g} pJ an AC, no memory traffic"
        )
        return "\n".join(lines)


def _line(width: int, name: str, reads: str, rate: float | None, cost: LayerCost | EnergyReport) -> str:
    told = "" if rate is None else f"{rate:.4f}"
    return (
        f"{name:<{width}}  {reads:<6}  {told:>11}  {cost.macs:>12,.0f}  {cost.synaptic_operations:>12,.0f}  "
        f"{cost.energy_joules * 1e9:>11,.2f}"
    )
