"""What levels cost: timesteps, effective timesteps, energy and latency, as tables for the solver."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

from torch import fx

from pascal_ext.allocation.solver import LatencyLimit, Limit, Table
from pascal_ext.allocation.statistics import Layer
from pascal_ext.allocation.survey import Structure, survey
from pascal_ext.data import Batch
from pascal_ext.energy.cost_model import HOROWITZ_45NM, energy_ratio
from pascal_ext.errors import InvalidArgumentError

COSTS = ("mean_levels", "effective_timesteps", "energy", "latency")


def energy(structure: Structure, layers: Mapping[str, Layer], choices: Mapping[str, Sequence[int]]) -> Table:
    r"""Layer -> levels -> nanojoules for one sample.

    The model counts what synapses do, and neither neurons nor memory: a convolution or linear map that reads spikes
    does as many accumulations as the ANN's multiplications times the spikes of a neuron of its source, at 0.9 pJ; one
    that reads the network's inputs does the ANN's multiplications once, at 4.6 pJ (a constant, spread over the layers),
    and one that reads currents, averages of spikes say, does them once, too, if a neuron follows, and else at every
    timestep. What reads several layers does the operations of each. Spikes are those of the histogram that the
    thresholds are from, behind a max pooling or a padding as many more or fewer as its mean is higher or lower than
    that of what it reads. Where a train meets one of another window (docs/allocation.md) is not looked into.
    """
    constant = sum(found.products for found in structure.operations if found.once or not found.sources)
    table: dict[str, dict[int, float]] = {}
    for name, layer in layers.items():
        reads = [found for found in structure.operations if name in found.sources]
        accumulates = sum(found.products * found.density for found in reads if not found.currents)
        multiplies = sum(found.products for found in reads if found.currents and not found.once)
        table[name] = {
            level: 1e9 * HOROWITZ_45NM.mac * (constant / len(layers) + multiplies * level)
            + 1e9 * HOROWITZ_45NM.ac * accumulates * layer.mean_spikes(level)
            for level in choices[name]
        }
    return table


class Costs:
    """The costs of each layer and choice, made when they are asked for."""

    def __init__(
        self, traced: fx.GraphModule, layers: Mapping[str, Layer], choices: Mapping[str, Sequence[int]], batch: Batch
    ) -> None:
        self._layers, self._choices = layers, choices
        self._structure = cache(lambda: survey(traced, layers, batch))

    def limit(self, cost: str, budget: float) -> Limit | LatencyLimit:
        """What keeps ``cost``, one of :data:`COSTS`, within ``budget``."""
        count = len(self._layers)
        match cost:
            case "mean_levels":
                table = self._table(lambda name, level: level / count)
            case "effective_timesteps":
                fan_in = self._structure().fan_in
                table = self._table(lambda name, level: level * energy_ratio(level, fan_in[name]) / count)
            case "energy":
                table = energy(self._structure(), self._layers, self._choices)
            case "latency":
                structure = self._structure()
                return LatencyLimit(structure.sources, structure.ends, budget, structure.windows)
            case _:
                raise InvalidArgumentError(f"cost={cost!r} is unknown; choose one of {list(COSTS)}")
        return Limit(cost, table, budget)

    def _table(self, value: Callable[[str, int], float]) -> Table:
        return {name: {level: value(name, level) for level in self._choices[name]} for name in self._layers}
