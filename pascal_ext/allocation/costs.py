"""What levels cost: timesteps, effective timesteps, energy and latency, as tables for the solver."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from pascal_ext.allocation.solver import LatencyLimit, Limit, Table
from pascal_ext.allocation.statistics import Layer
from pascal_ext.data import Batch, inputs_of
from pascal_ext.energy.cost_model import HOROWITZ_45NM, energy_ratio
from pascal_ext.energy.fan_in import Synapses, gathered, layer_fan_in
from pascal_ext.errors import InvalidArgumentError
from pascal_ext.graph.operations import einsum_terms, name_of

COSTS = ("mean_levels", "effective_timesteps", "energy", "latency")

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


@dataclass
class Structure:
    """Which layers a layer reads, and through how many synapses.

    Attributes:
        sources: layer -> the layers that its currents come from, in the order of execution; empty for the inputs.
        fan_in: layer -> synapses of one neuron, as :func:`pascal_ext.energy.fan_ins` has them; functions with weights
            count here, too.
        operations: for each linear operation, the layers that it reads, and its multiplications for one sample.
        ends: the layers that the outputs come from.
    """

    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)
    fan_in: dict[str, float] = field(default_factory=dict)
    operations: list[tuple[tuple[str, ...], float]] = field(default_factory=list)
    ends: tuple[str, ...] = ()


class _Survey(fx.Interpreter):
    """Runs the graph on one batch, and notes for each value which layers and synapses stand behind it."""

    def __init__(self, traced: fx.GraphModule, layers: Mapping[str, Layer], samples: int) -> None:
        super().__init__(traced)
        self.layers, self.samples = layers, samples
        self.structure = Structure()
        self._sources: dict[fx.Node, dict[str, None]] = {}  # the layers that a value is made from
        self._behind: dict[fx.Node, Synapses] = {}
        self._shapes: dict[fx.Node, torch.Size] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        sources: dict[str, None] = {}
        synapses = gathered(n, self._behind, self._size)
        for node in n.all_input_nodes:
            sources |= self._sources[node]
        if isinstance(result, Tensor):
            self._shapes[n] = result.shape
        if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(result)):
            sources, synapses = {}, {}  # a size, say: no activation is in it
        elif n.op == "placeholder":
            synapses = {n: 1.0}
        elif n.op == "call_module" and n.target in self.layers:
            name = str(n.target)
            self.structure.sources[name] = tuple(sources)
            self.structure.fan_in[name] = sum(synapses.values()) or 1.0  # of constants alone
            sources, synapses = {name: None}, {n: 1.0}
        elif n.op == "output":
            self.structure.ends = tuple(sources)
        elif (found := self._synapses(n, result)) is not None:
            fan_in, operations = found
            self.structure.operations.append((tuple(sources), operations / self.samples))
            synapses = {n: fan_in}
        self._sources[n], self._behind[n] = sources, synapses
        return result

    def _size(self, n: fx.Node, dim: int) -> int | None:
        return self._shapes[n][dim] if n in self._shapes else None

    def _synapses(self, n: fx.Node, result: Any) -> tuple[float, float] | None:
        """Synapses of one output, and multiplications for all, of a convolution or linear map; None for others."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        source: Any = args[0] if args else kwargs.get("input")
        module: Any = self.module.get_submodule(str(n.target)) if n.op == "call_module" else None
        fan_in = layer_fan_in(module)
        if fan_in is not None:
            weight, transposed = module.weight, getattr(module, "transposed", False)
        elif n.target is F.linear or n.target in (*_CONVOLUTIONS, *_TRANSPOSED):
            weight, transposed = args[1] if len(args) > 1 else kwargs["weight"], n.target in _TRANSPOSED
            fan_in = source.numel() * weight[0].numel() / result.numel() if transposed else weight[0].numel()
        elif name_of(n) in ("matmul", "mm", "bmm"):
            return source.shape[-1], float(result.numel() * source.shape[-1])
        elif name_of(n) == "einsum" and einsum_terms(n)[0]:
            products = _products(*args)
            return products / result.numel(), float(products)
        else:
            return None
        # of a transposed one, each input reaches weight[0] outputs
        return fan_in, float((source if transposed else result).numel() * weight[0].numel())


def _products(equation: str, *operands: Any) -> int:
    """Multiplications of an einsum: the product of the sizes that its subscripts stand for."""
    tensors = operands[0] if isinstance(operands[0], (tuple, list)) else operands
    sizes: dict[str, int] = {}
    for term, operand in zip(equation.replace(" ", "").partition("->")[0].split(","), tensors, strict=True):
        sizes |= zip(term, operand.shape, strict=True)
    return math.prod(sizes.values())


def survey(traced: fx.GraphModule, layers: Mapping[str, Layer], batch: Batch) -> Structure:
    """The structure of a graph; ``batch`` gives the shapes."""
    inputs = inputs_of(traced, batch)
    samples = next(len(leaf) for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.ndim > 0)
    run = _Survey(traced, layers, samples)
    run.run(*inputs)
    return run.structure


def energy(structure: Structure, layers: Mapping[str, Layer], choices: Mapping[str, Sequence[int]]) -> Table:
    r"""Layer -> levels -> nanojoules for one sample.

    The model counts what synapses do, and neither neurons nor memory: a convolution or linear map that reads spikes
    does as many accumulations as the ANN's multiplications times the spikes of a neuron of its source, at 0.9 pJ; one
    that reads the network's inputs does the ANN's multiplications once, at 4.6 pJ (a constant, spread over the layers).
    What reads several layers does the accumulations of each. Spikes are those of the histogram that the thresholds are
    from. What lies between a layer and its synapses, such as pooling, or a meeting with a train of another window
    (docs/allocation.md), is not looked into.
    """
    constant = sum(count for sources, count in structure.operations if not sources) * HOROWITZ_45NM.mac / len(layers)
    found: dict[str, dict[int, float]] = {}
    for name, layer in layers.items():
        reached = sum(count for sources, count in structure.operations if name in sources)
        found[name] = {
            level: 1e9 * (constant + reached * HOROWITZ_45NM.ac * layer.mean_spikes(level)) for level in choices[name]
        }
    return found


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
                return LatencyLimit(self._structure().sources, self._structure().ends, budget)
            case _:
                raise InvalidArgumentError(f"cost={cost!r} is unknown; choose one of {list(COSTS)}")
        return Limit(cost, table, budget)

    def _table(self, value: Callable[[str, int], float]) -> Table:
        return {name: {level: value(name, level) for level in self._choices[name]} for name in self._layers}
