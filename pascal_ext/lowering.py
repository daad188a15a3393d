"""Rewriting a traced QCFS network into a time-folded spiking one, node by node.

Each value of the graph is a :class:`Signal`: how many timesteps it has, whether it is a spike train, and which
threshold still has to be multiplied into it. Thresholds travel along the wires until a layer with weights absorbs them;
so the wires carry binary spikes, and a multiplication appears only where no weights do (at a residual addition, say).
No module is changed or copied: the same layers serve the ANN's own graph, which runs on counts.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import fx, nn

from pascal_ext.errors import UnsupportedOperationError
from pascal_ext.folding import call_scaled
from pascal_ext.neuron import PascIF
from pascal_ext.operations import (
    Kind,
    argument,
    depends_on_batch,
    describe,
    dims_of,
    is_flatten,
    kind_of,
    name_of,
    padded_dims,
    returns_sequence,
)
from pascal_ext.ops import timefold


@dataclass(frozen=True)
class Signal:
    """What is known about one value of the graph, for an input of one timestep.

    Attributes:
        steps: number of timesteps.
        ready: timesteps passed on the barrier schedule when the value is complete.
        thermometer: each element is a thermometer code, with one amplitude for each channel, or constant in time.
        scale: the node of a positive threshold still to be multiplied in; None where there is none.
        scales: how many values ``scale`` has: 1, or one for each channel.
        channels: size of dimension 1, where known.
        ndim: number of dimensions, where known.
        sequence: the value is a tuple of tensors (of ``chunk``, say), each like this.
    """

    steps: int = 1
    ready: int = 0
    thermometer: bool = False
    scale: fx.Node | None = None
    scales: int = 1
    channels: int | None = None
    ndim: int | None = None
    sequence: bool = False

    @property
    def per_channel(self) -> bool:
        return self.scale is not None and self.scales > 1

    def as_current(self, **changes: Any) -> Signal:
        """The same wire after a linear operation: no train any more."""
        return replace(self, **{"thermometer": False, **changes})

    def positive(self, dims: list[int]) -> list[int]:
        """``dims`` counted from the front, as far as the number of dimensions is known."""
        return [dim if dim >= 0 or self.ndim is None else dim + self.ndim for dim in dims]


@dataclass
class Lowered:
    """The result: a time-folded graph over the modules of the traced model, and what is to be known about it.

    The graph takes the batch size and the reference counts (or None) before the model's own inputs.
    """

    graph: fx.Graph
    latency: int = 0
    analog_nodes: list[str] = field(default_factory=list)


class Lowering:
    """One conversion.

    Args:
        traced: a graph made by :func:`pascal_ext.tracing.trace`, with neurons where its activations were; its own graph
        is
            not changed.
        analog: decode and go on at operations without a spiking counterpart, instead of raising.
    """

    def __init__(self, traced: fx.GraphModule, analog: bool) -> None:
        self.root = traced
        self.graph = copy.deepcopy(traced.graph)
        self.analog = analog
        self.result = Lowered(self.graph)
        self.signals: dict[fx.Node, Signal] = {}
        self.scaled: dict[fx.Node, fx.Node] = {}  # wire -> the node that multiplies its threshold in
        self.neurons = 0

    def run(self) -> Lowered:
        """Rewrite a copy of the graph.

        Raises:
            UnsupportedOperationError: an operation has no exact spiking counterpart.
        """
        nodes = list(self.graph.nodes)
        with self.graph.inserting_before(nodes[0]):
            self.batch = self.graph.placeholder("batch_size", type_expr=int)
            self.references = self.graph.placeholder("references")
        for node in nodes:
            if node.op == "placeholder":
                self.signals[node] = Signal()
            elif node.op == "output":
                for source in self._sources(node):
                    self._materialise(source, node)
                self.result.latency = max((self.signals[n].ready for n in self._sources(node)), default=0)
            elif node.op != "get_attr":  # parameters and buffers have no time
                self._lower(node)
        self.graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
        self.graph.lint()
        return self.result

    def _sources(self, node: fx.Node) -> list[fx.Node]:
        return [source for source in node.all_input_nodes if source in self.signals]

    def _lower(self, node: fx.Node) -> None:
        sources = self._sources(node)
        is_neuron = node.op == "call_module" and isinstance(self.root.get_submodule(str(node.target)), PascIF)
        if is_neuron and not sources:
            raise UnsupportedOperationError(
                f"{describe(node, self.root)} reads no input of the network, only constants; apply it once, in __init__"
            )
        if is_neuron:
            self._neuron(node, sources[0])
            return
        if not sources:
            return  # sizes, constants, computations on parameters
        kind = kind_of(node, self.root)
        if kind is Kind.METADATA:
            return
        several = len(sources) > 1 and kind not in (Kind.SUM, Kind.CONCAT, Kind.MAX)
        divides_by_signal = kind is Kind.LINEAR and "div" in name_of(node) and node.args[0] not in self.signals
        if kind is Kind.UNSUPPORTED or several or divides_by_signal:
            self._analog(node)
            return
        if self._mixes_samples(node, sources[0]):
            self._analog(node, "it works across dimension 0, so samples, or timesteps, would mix")
            return
        handlers: dict[Kind, Callable[..., None]] = {
            Kind.WEIGHTED: self._weighted,
            Kind.NORM: self._norm,
            Kind.IDENTITY: self._identity,
            Kind.CHANNELWISE: self._channelwise,
            Kind.REARRANGE: self._rearrange,
            Kind.LINEAR: self._linear,
            Kind.AFFINE: self._affine,
            Kind.SUM: self._sum,
            Kind.CONCAT: self._concat,
            Kind.MAX_POOL: self._max_pool,
            Kind.MAX: self._max,
        }
        handlers[kind](node, *self._sources(node))

    # The neuron

    def _neuron(self, node: fx.Node, source: fx.Node) -> None:
        """Unfold the window, fire, fold the train."""
        source = self._materialise(source, node)
        signal = self.signals[source]
        name = str(node.target)
        neuron = self.root.get_submodule(name)
        assert isinstance(neuron, PascIF)
        with self.graph.inserting_before(node):
            window = self.graph.call_function(timefold.unfold, (source, self.batch))
            reference = self.graph.call_function(timefold.pick, (self.references, self.neurons))
            scale = self.graph.get_attr(f"{name}.v_threshold")
        self.neurons += 1
        node.args, node.kwargs = (window,), {"reference": reference}
        train = self._insert_after(node, timefold.fold, (node,))
        threshold = neuron.v_threshold
        self.signals[train] = Signal(
            steps=neuron.levels,
            ready=signal.ready + signal.steps + max(signal.steps, neuron.levels) - 1 + neuron.levels,
            thermometer=True,
            scale=scale,
            scales=threshold.numel(),
            channels=signal.channels if threshold.numel() == 1 else threshold.numel(),
            ndim=signal.ndim,
        )
        if bool((threshold < 0).any()):  # max(λs) = λ·max(s) for positive λ only: a negative one goes onto the wire
            for user in list(train.users):
                self._materialise(train, user)

    # Layers with weights

    def _weighted(self, node: fx.Node, source: fx.Node) -> None:
        """Convolutions and linear layers absorb the threshold of the spikes they read."""
        layer: Any = self.root.get_submodule(str(node.target))
        is_linear = isinstance(layer, nn.Linear)
        signal = self.signals[source]
        inputs = layer.in_features if is_linear else layer.in_channels
        channels = (layer.out_features if signal.ndim == 2 else None) if is_linear else layer.out_channels
        result = signal.as_current(scale=None, channels=channels, ndim=signal.ndim if is_linear else layer.weight.ndim)
        if signal.per_channel and (inputs % signal.scales or (is_linear and signal.ndim != 2)):
            self._materialise(source, node)
        elif signal.scale is not None:
            with self.graph.inserting_before(node):
                module = self.graph.create_node("get_attr", str(node.target))
                call = self.graph.call_function(call_scaled, (module, source, signal.scale))
            node.replace_all_uses_with(call)
            self.graph.erase_node(node)
            node = call
        self.signals[node] = result

    def _norm(self, node: fx.Node, source: fx.Node) -> None:
        norm: Any = self.root.get_submodule(str(node.target))
        signal = self.signals[self._materialise(source, node)]
        self.signals[node] = signal.as_current(channels=norm.num_features)

    # Layers without weights

    def _identity(self, node: fx.Node, source: fx.Node) -> None:
        self._bypass(node, source)

    def _channelwise(self, node: fx.Node, source: fx.Node) -> None:
        """Average pooling and its like: a threshold passes, a train becomes a current unless elements are copied."""
        signal = self.signals[source]
        channels = signal.channels
        if name_of(node) == "pad" and padded_dims(node) >= (signal.ndim or 0) - 1:  # perhaps channels are added
            signal, channels = self.signals[self._materialise(source, node)] if signal.per_channel else signal, None
        copies = "pad" in name_of(node).lower() or "pad" in self._module_name(node)
        thermometer = signal.thermometer and copies
        self.signals[node] = replace(signal, thermometer=thermometer, channels=channels)

    def _rearrange(self, node: fx.Node, source: fx.Node) -> None:
        """Reshaping and indexing: a scalar threshold passes everywhere, one per channel through ``flatten(1)``."""
        signal = self.signals[source]
        name = name_of(node)
        if signal.sequence and name == "getitem":
            self.signals[node] = replace(signal, sequence=False)
            return
        if name == "contiguous":
            self.signals[node] = signal
            return
        flat = is_flatten(node, self.root)
        thermometer = signal.thermometer
        if signal.per_channel and not flat:
            signal = self.signals[self._materialise(source, node)]
            thermometer = False  # channels may be mixed, and their amplitudes differ
        sequence = name in ("chunk", "split", "unbind")
        ndim = (
            2
            if flat
            else signal.ndim
            if name in ("flip", "roll", "chunk", "split", "narrow", "channel_shuffle")
            else None
        )
        self.signals[node] = replace(signal, thermometer=thermometer, sequence=sequence, channels=None, ndim=ndim)
        if node.op != "call_module" and name in ("view", "reshape", "expand", "repeat", "tile"):
            guard = self._insert_after(node, timefold.keep_batch, (node, source, describe(node, self.root)))
            self.signals[guard] = self.signals[node]

    def _linear(self, node: fx.Node, source: fx.Node) -> None:
        """Means and sums over dimensions, products with constants."""
        signal = self.signals[source]
        dims = signal.positive(dims_of(node, self.root) or [])
        spatial = name_of(node) in ("mean", "sum") and all(dim > 1 for dim in dims)
        if signal.per_channel and not spatial:
            signal = self.signals[self._materialise(source, node)]
        ndim = signal.ndim
        if ndim is not None and dims and not argument(node, 2, "keepdim", False):
            ndim -= len(dims)
        channels = signal.channels if spatial else None
        self.signals[node] = signal.as_current(
            channels=channels, ndim=ndim if name_of(node) in ("mean", "sum") else None
        )

    def _affine(self, node: fx.Node, source: fx.Node) -> None:
        signal = self.signals[self._materialise(source, node)]
        self.signals[node] = signal.as_current(channels=None, ndim=None)

    def _max_pool(self, node: fx.Node, source: fx.Node) -> None:
        """Exact step by step on thermometer codes; on currents, once they are accumulated."""
        if self.signals[source].thermometer:
            self.signals[node] = self.signals[source]
        else:
            self._max(node, source)

    def _max(self, node: fx.Node, *sources: fx.Node) -> None:
        signals = [self.signals[self._decode(source, node)] for source in sources]
        self.signals[node] = replace(signals[0], ready=max(signal.ready for signal in signals), ndim=None)

    # Several branches

    def _sum(self, node: fx.Node, *sources: fx.Node) -> None:
        signals = [self.signals[source] for source in self._align(node, list(sources))]
        channels = {signal.channels for signal in signals}
        self.signals[node] = Signal(
            steps=max(signal.steps for signal in signals),
            ready=max(signal.ready for signal in signals),
            channels=channels.pop() if len(channels) == 1 and len(signals) > 1 else None,
            ndim=signals[0].ndim if len({signal.ndim for signal in signals}) == 1 else None,
        )

    def _concat(self, node: fx.Node, *sources: fx.Node) -> None:
        """Along the channels, thresholds are joined like the spikes are, and trains stay trains."""
        operands = list(argument(node, 0, "tensors", ()))
        along_channels = name_of(node) != "stack" and argument(node, 1, "dim", 0) == 1
        known = [self.signals[n].channels if n in self.signals else None for n in operands]
        channels = sum(c for c in known if c is not None) if along_channels and None not in known else None
        scale = self._join_scales(node, operands) if channels is not None else None
        aligned = self._align(node, list(sources), materialise=channels is None)
        signals = [self.signals[source] for source in aligned]
        self.signals[node] = Signal(
            steps=max(signal.steps for signal in signals),
            ready=max(signal.ready for signal in signals),
            thermometer=along_channels and all(signal.thermometer for signal in signals),
            scale=scale,
            scales=channels or 1,
            channels=channels,
            ndim=signals[0].ndim if name_of(node) != "stack" else None,
        )

    def _join_scales(self, node: fx.Node, operands: list[fx.Node]) -> fx.Node | None:
        signals = [self.signals[operand] for operand in operands]
        if all(signal.scale is None for signal in signals):
            return None
        with self.graph.inserting_before(node):
            parts = ([signal.scale for signal in signals], [signal.channels for signal in signals])
            return self.graph.call_function(timefold.join_scales, parts)

    def _align(self, node: fx.Node, sources: list[fx.Node], materialise: bool = True) -> list[fx.Node]:
        """Let ``node`` read ``sources`` at the longest number of timesteps among them; returns what it reads."""
        if materialise:
            sources = list(dict.fromkeys(self._materialise(source, node) for source in sources))
        steps = {self.signals[source].steps for source in sources}
        if len(sources) == 1 or (len(steps) == 1 and steps != {1}):  # an input may have more steps at run time than 1
            return sources
        with self.graph.inserting_before(node):
            aligned = self.graph.call_function(timefold.align, (sources, self.batch))
            results = [self.graph.call_function(operator.getitem, (aligned, index)) for index in range(len(sources))]
        for source, result in zip(sources, results, strict=True):
            node.replace_input_with(source, result)
            self.signals[result] = self.signals[source]
        return results

    # Thresholds, barriers, guards

    def _materialise(self, source: fx.Node, user: fx.Node) -> fx.Node:
        """The node that carries ``source`` times its threshold; ``user`` reads that one from now on."""
        signal = self.signals[source]
        if signal.scale is None:
            return source
        if source not in self.scaled:
            with self.graph.inserting_after(source):
                self.scaled[source] = self.graph.call_function(timefold.scale, (source, signal.scale))
            self.signals[self.scaled[source]] = replace(signal, scale=None)
        user.replace_input_with(source, self.scaled[source])
        return self.scaled[source]

    def _decode(self, source: fx.Node, user: fx.Node) -> fx.Node:
        """The temporal mean of ``source``, which ``user`` reads from now on."""
        source = self._materialise(source, user)
        with self.graph.inserting_before(user):
            mean = self.graph.call_function(timefold.decode, (source, self.batch))
        user.replace_input_with(source, mean)
        self.signals[mean] = replace(self.signals[source], steps=1, thermometer=True)  # constant in time
        return mean

    def _analog(self, node: fx.Node, reason: str | None = None) -> None:
        """No exact counterpart: refuse, or decode, run the operation once, and go on with one timestep."""
        where = describe(node, self.root)
        if not self.analog:
            raise UnsupportedOperationError(
                f"{where} has no exact spiking counterpart: {reason or 'it is not linear in its input'}. Replace it in "
                'the model, or pass on_unsupported="analog" to decode there, run it once, and go on with one timestep.'
            )
        self.result.analog_nodes.append(where)
        ready = max(self.signals[self._decode(source, node)].ready for source in self._sources(node))
        self.signals[node] = Signal(ready=ready, thermometer=True, sequence=returns_sequence(node, self.root))

    def _mixes_samples(self, node: fx.Node, source: fx.Node) -> bool:
        """Whether the operation works along the batch; where its rank leaves that open, a run-time check is put in."""
        signal = self.signals[source]
        if depends_on_batch(node, self.signals):
            return True
        if signal.sequence:
            return False
        dims = dims_of(node, self.root)
        if dims is None:
            return True
        dims = signal.positive(dims)
        if 0 in dims:
            return True
        lowest = min(dims, default=0)
        needed = 1 - lowest if lowest < -1 else padded_dims(node) + 1 if name_of(node) == "pad" else 0
        if needed > 2:
            with self.graph.inserting_before(node):
                guard = self.graph.call_function(timefold.need_ndim, (source, needed, describe(node, self.root)))
            node.replace_input_with(source, guard)
            self.signals[guard] = signal
        return False

    # The graph

    def _insert_after(self, node: fx.Node, function: Callable[..., Any], args: tuple[Any, ...]) -> fx.Node:
        """Call ``function`` right after ``node``; whoever read ``node`` reads its result instead."""
        with self.graph.inserting_after(node):
            inserted = self.graph.call_function(function, args)
        node.replace_all_uses_with(inserted, delete_user_cb=lambda user: user is not inserted)
        return inserted

    def _bypass(self, node: fx.Node, source: fx.Node) -> None:
        node.replace_all_uses_with(source)
        self.graph.erase_node(node)

    def _module_name(self, node: fx.Node) -> str:
        return type(self.root.get_submodule(str(node.target))).__name__.lower() if node.op == "call_module" else ""
