"""What stands behind each layer of a network: the layers that it reads, its synapses, and their multiplications."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from pascal_ext.allocation.statistics import Layer
from pascal_ext.data import Batch, inputs_of
from pascal_ext.energy.fan_in import Synapses, gathered, layer_fan_in
from pascal_ext.graph.currents import averages, awaited
from pascal_ext.graph.dimensions import padded_dims
from pascal_ext.graph.kinds import Kind, kind_of
from pascal_ext.graph.operations import name_of
from pascal_ext.graph.products import einsum_products, einsum_terms, is_constant

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_CURRENTS = (Kind.WEIGHTED, Kind.NORM, Kind.AFFINE)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


class Operation(NamedTuple):
    """One convolution or linear map.

    Attributes:
        sources: the layers that it reads; none where it reads the network's inputs.
        products: its multiplications for one sample; zero padding is no synapse.
        currents: whether it reads currents, averages of spikes say, which are no spikes.
        once: whether it reads one timestep, since a neuron waits for it: see the conversion's rule of weights.
        density: how much more often its inputs are active than the layers that they come from: behind a max pooling
            more, behind a padding less often.
    """

    sources: tuple[str, ...]
    products: float
    currents: bool = False
    once: bool = False
    density: float = 1.0


@dataclass
class Structure:
    """Which layers a layer reads, and through how many synapses.

    Attributes:
        sources: layer -> the layers that its currents come from, in the order of execution; empty for the inputs.
        windows: layer -> those of its sources that it reads step by step, and not by way of their mean.
        fan_in: layer -> synapses of one neuron, as :func:`pascal_ext.energy.fan_ins` has them; functions with weights
            count here, too.
        operations: the convolutions and linear maps, in the order of execution.
        ends: the layers that the outputs come from.
    """

    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)
    windows: dict[str, tuple[str, ...]] = field(default_factory=dict)
    fan_in: dict[str, float] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
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
        self._windows: dict[fx.Node, dict[str, None]] = {}  # those of them that make timesteps of it
        self._currents: set[fx.Node] = set()
        self._density: dict[fx.Node, float] = {}
        self._awaited = awaited(traced.graph, self._is_layer)

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        sources: dict[str, None] = {}
        windows: dict[str, None] = {}
        synapses = gathered(n, self._behind, self._size)
        for node in n.all_input_nodes:
            sources |= self._sources[node]
            windows |= self._windows[node]
        density = max((self._density[node] for node in n.all_input_nodes if self._sources[node]), default=1.0)
        reads_currents = not self._currents.isdisjoint(n.all_input_nodes)
        currents = reads_currents or self._makes_currents(n)
        if isinstance(result, Tensor):
            self._shapes[n] = result.shape
            density *= self._gain(n, result)
        if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(result)):
            sources, windows, synapses, currents = {}, {}, {}, False  # a size, say: no activation is in it
        elif n.op == "placeholder":
            synapses = {n: 1.0}
        elif self._is_layer(n):
            name = str(n.target)
            self.structure.sources[name] = tuple(sources)
            self.structure.windows[name] = tuple(windows)
            self.structure.fan_in[name] = sum(synapses.values()) or 1.0  # of constants alone
            sources, windows, synapses, currents, density = {name: None}, {name: None}, {n: 1.0}, False, 1.0
        elif n.op == "output":
            self.structure.ends = tuple(sources)
        elif (found := self._synapses(n, result)) is not None:
            fan_in, operations = found
            reads_currents = reads_currents and bool(sources)
            once = reads_currents and n in self._awaited
            operation = Operation(tuple(sources), operations / self.samples, reads_currents, once, density)
            self.structure.operations.append(operation)
            windows = {} if once else windows
            synapses, density = {n: fan_in}, 1.0
        self._sources[n], self._windows[n], self._behind[n], self._density[n] = sources, windows, synapses, density
        if currents:
            self._currents.add(n)
        return result

    def _is_layer(self, n: fx.Node) -> bool:
        return n.op == "call_module" and n.target in self.layers

    def _makes_currents(self, n: fx.Node) -> bool:
        """Whether ``n``, not a layer, gives currents where it reads spikes."""
        if n.op in ("placeholder", "output", "get_attr"):
            return False
        kind = kind_of(n, self.module)
        read = [node for node in n.all_input_nodes if node in self._shapes and not is_constant(node)]
        return kind in _CURRENTS or averages(n, self.module) or (kind is Kind.SUM and len(read) == 1)

    def _gain(self, n: fx.Node, result: Tensor) -> float:
        """How much higher the mean of a max pooling, or of a padding, is than that of what it reads; 1 of others."""
        if n.op in ("placeholder", "output", "get_attr"):
            return 1.0
        if kind_of(n, self.module) is not Kind.MAX_POOL and not padded_dims(n, self.module):
            return 1.0
        before = self.env[n.all_input_nodes[0]].mean(dtype=torch.float64)
        return float(result.mean(dtype=torch.float64) / before) if before > 0 else 1.0

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
            products = einsum_products(*args)
            return products / result.numel(), float(products)
        else:
            return None
        if transposed:
            return fan_in, float(source.numel() * weight[0].numel())  # each input reaches weight[0] outputs
        if isinstance(module, nn.Linear) or n.target is F.linear:
            return fan_in, float(result.numel() * weight[0].numel())
        ones = torch.ones(source.shape, device=source.device), torch.ones(weight.shape, device=source.device)
        if module is not None:
            reached = module._conv_forward(*ones, None)
        else:
            options = {key: value for key, value in kwargs.items() if key not in ("input", "weight", "bias")}
            function: Any = n.target
            reached = function(*ones, None, *args[3:], **options)
        return fan_in, float(reached.sum(dtype=torch.float64))  # taps in the padding are no synapses


def survey(traced: fx.GraphModule, layers: Mapping[str, Layer], batch: Batch) -> Structure:
    """The structure of a graph; ``batch`` gives the shapes."""
    inputs = inputs_of(traced, batch)
    samples = next(len(leaf) for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.ndim > 0)
    run = _Survey(traced, layers, samples)
    run.run(*inputs)
    return run.structure
