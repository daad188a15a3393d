"""Rewriting a traced QCFS network into a time-folded spiking one, node by node.

For each value of the graph a :class:`~pascal_ext.conversion.signals.Signal` tells how many timesteps it has, whether it
is a spike train, and which threshold still has to be multiplied into it. Thresholds travel along the wires until a
layer with weights absorbs them; so the wires carry binary spikes, and a multiplication appears only where no weights do
(at a residual addition, say). No module is changed or copied: the same layers serve the ANN's own graph, which runs on
counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import fx, nn

from pascal_ext.conversion.batch_dimension import BatchDimension
from pascal_ext.conversion.signals import Signal, joined
from pascal_ext.errors import UnsupportedOperationError
from pascal_ext.graph.branches import must_stay
from pascal_ext.graph.kinds import Kind, kind_of, why_unsupported
from pascal_ext.graph.operations import (
    argument,
    describe,
    dims_of,
    is_first_argument,
    is_flatten,
    name_of,
    padded_dims,
    pooled_dims,
    reads,
    returns_sequence,
    unlike,
)
from pascal_ext.graph.outputs import only_contains
from pascal_ext.graph.pooling import name_extrema
from pascal_ext.network.folding import call_scaled
from pascal_ext.neuron import PascIF
from pascal_ext.ops import timefold
from pascal_ext.plan import barrier

_MIXES = "it works across dimension 0, so samples, or timesteps, would mix"
_BRANCHES = (Kind.SUM, Kind.CONCAT, Kind.MAX)
_KEEP_NDIM = "flip roll chunk split narrow permute transpose swapaxes swapdims movedim moveaxis".split()
_NORM_NDIM: dict[type[nn.Module], int] = {nn.BatchNorm2d: 4, nn.BatchNorm3d: 5}


@dataclass
class Lowered:
    """The result: a time-folded graph over the modules of the traced model, and what is to be known about it.

    The graph takes the batch size and the reference counts (or None) before the model's own inputs.
    """

    graph: fx.Graph
    latency: int = 0
    analog_nodes: list[str] = field(default_factory=list)


class Lowering(BatchDimension):
    """One conversion.

    Args:
        traced: a graph made by :func:`pascal_ext.graph.tracing.trace`, with neurons where its activations were; its own
            graph is not changed.
        analog: decode and go on at operations without a spiking counterpart, instead of raising.
    """

    def __init__(self, traced: fx.GraphModule, analog: bool) -> None:
        super().__init__(traced)
        self.analog = analog
        self.result = Lowered(self.graph)
        self.neurons = 0

    def run(self) -> Lowered:
        """Rewrite a copy of the graph.

        Raises:
            UnsupportedOperationError: an operation has no exact spiking counterpart.
        """
        name_extrema(self.graph)
        nodes = list(self.graph.nodes)
        inputs = {str(node.target) for node in nodes if node.op == "placeholder"}
        with self.graph.inserting_before(nodes[0]):
            self.batch = self.graph.placeholder(unlike("batch_size", inputs), type_expr=int)
            self.references = self.graph.placeholder(unlike("references", inputs))
        for node in nodes:
            if node.op == "placeholder":
                self.signals[node] = Signal(elastic=True)
            elif node.op == "output":
                self._output(node)
            elif node.op != "get_attr" and not only_contains(node):  # parameters and buffers have no time
                self._lower(node)
        self.graph.eliminate_dead_code(is_impure_node=must_stay)
        self.graph.lint()
        return self.result

    def _output(self, node: fx.Node) -> None:
        """Every output leaves as [T, N, ...], in whatever container."""
        self.result.latency = max(
            [self.result.latency, *(self.signals[source].ready for source in self._sources(node))]
        )
        for source in node.all_input_nodes:
            if only_contains(source):
                self._output(source)
                continue
            folded = source in self.signals and not self.signals[source].loose
            value = self._materialise(source, node) if folded else source
            with self.graph.inserting_before(node):
                presented = self.graph.call_function(timefold.present, (value, self.batch if folded else None))
            node.replace_input_with(value, presented)

    def _lower(self, node: fx.Node) -> None:
        sources = self._sources(node)
        is_neuron = node.op == "call_module" and isinstance(self.root.get_submodule(str(node.target)), PascIF)
        if is_neuron and not sources:
            raise UnsupportedOperationError(
                f"{describe(node, self.root)} reads no input of the network, only constants; apply it once, in __init__"
            )
        if self._size(node) or self._branch(node) or self._constant(node, sources) or self._entry(node, sources):
            return
        if not sources:
            return  # constants, computations on parameters
        if any(self.signals[source].loose for source in sources):
            self._loose(node, sources, is_neuron)
            return
        if is_neuron:
            self._neuron(node, sources[0])
            return
        kind = kind_of(node, self.root)
        if kind is Kind.METADATA:
            return
        first = kind in _BRANCHES or is_first_argument(node, sources[0])
        if kind is Kind.UNSUPPORTED or (kind not in _BRANCHES and len(reads(node, self.signals)) > 1):
            self._analog(node)
        elif not first and kind is Kind.LINEAR:
            self._analog(node)  # a divisor
        elif not first or self._mixes_samples(node, sources, kind):
            self._analog(node, _MIXES)
        else:
            self._linear_operation(node, kind)

    def _linear_operation(self, node: fx.Node, kind: Kind) -> None:
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
            Kind.LOOKUP: self._lookup,
            Kind.CONSTANT: self._constant_like,
        }
        handlers[kind](node, *self._sources(node))

    # The neuron

    def _neuron(self, node: fx.Node, source: fx.Node) -> None:
        """Unfold the window, fire, fold the train."""
        source = self._materialise(source, node)
        signal = self.signals[source]
        neuron, scale = self._fire(node, source, timefold.unfold, self.batch)
        train = self._insert_after(node, timefold.fold, (node,))
        threshold = neuron.v_threshold
        self.signals[train] = Signal(
            steps=neuron.levels,
            ready=signal.ready + barrier(signal.steps, neuron.levels),
            thermometer=True,
            scale=scale,
            scales=threshold.numel(),
            channels=signal.channels if threshold.numel() == 1 else threshold.numel(),
            ndim=signal.ndim,
            uniform=threshold.numel() == 1,
        )
        if bool((threshold < 0).any()):  # max(λs) = λ·max(s) for positive λ only: a negative one goes onto the wire
            for user in list(train.users):
                self._materialise(train, user)

    def _fire(self, node: fx.Node, source: fx.Node, window: Callable[..., Any], *args: Any) -> tuple[PascIF, fx.Node]:
        """Let a neuron read a window of ``source`` and its reference counts; returns it, and its threshold's node."""
        name = str(node.target)
        neuron = self.root.get_submodule(name)
        assert isinstance(neuron, PascIF)
        with self.graph.inserting_before(node):
            currents = self.graph.call_function(window, (source, *args))
            reference = self.graph.call_function(timefold.pick, (self.references, self.neurons))
            threshold = self.graph.get_attr(f"{name}.v_threshold")
        self.neurons += 1
        node.args, node.kwargs = (currents,), {"reference": reference}
        return neuron, threshold

    # Layers with weights

    def _weighted(self, node: fx.Node, source: fx.Node) -> None:
        """Convolutions and linear layers absorb the threshold of the spikes they read."""
        layer: Any = self.root.get_submodule(str(node.target))
        is_linear = isinstance(layer, nn.Linear)
        signal = self.signals[source]
        inputs = layer.in_features if is_linear else layer.in_channels
        channels = (layer.out_features if signal.ndim == 2 else None) if is_linear else layer.out_channels
        result = signal.as_current(scale=None, channels=channels, ndim=signal.ndim if is_linear else layer.weight.ndim)
        if signal.per_channel and (inputs % signal.scales or (is_linear and signal.ndim not in (2, None))):
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
        ndim = _NORM_NDIM.get(type(norm), signal.ndim)
        self.signals[node] = signal.as_current(channels=norm.num_features, ndim=ndim)

    # Layers without weights

    def _identity(self, node: fx.Node, source: fx.Node) -> None:
        self._bypass(node, source)

    def _channelwise(self, node: fx.Node, source: fx.Node) -> None:
        """Average pooling and its like: a threshold passes, a train becomes a current unless elements are copied."""
        signal = self.signals[source]
        padded = padded_dims(node, self.root)
        if not self._within_channels(node, signal) or (padded and padded >= (signal.ndim or 0) - 1):
            signal = replace(self.signals[self._unscaled(source, node)], channels=None)
        self.signals[node] = replace(signal, thermometer=signal.thermometer and padded > 0)

    def _within_channels(self, node: fx.Node, signal: Signal) -> bool:
        """Whether a pooling surely leaves dimension 1 alone, which torch pools, too, on one dimension less."""
        pooled = pooled_dims(node, self.root)
        return not pooled or signal.ndim == pooled + 2

    def _rearrange(self, node: fx.Node, source: fx.Node) -> None:
        """Reshaping and indexing: a scalar threshold passes everywhere, one per channel through ``flatten(1)``."""
        signal = self.signals[source]
        name = name_of(node)
        if signal.sequence and name == "getitem":
            self._part(node, signal)
            return
        if name == "contiguous":
            self.signals[node] = signal
            return
        flat = is_flatten(node, self.root)
        if not flat:
            source = self._unscaled(source, node)
        kept = name in _KEEP_NDIM
        signal = replace(
            self.signals[source],
            thermometer=signal.thermometer and signal.uniform,  # else amplitudes may differ within a channel now
            sequence=name in ("chunk", "split", "unbind"),
            channels=None,
            ndim=2 if flat else signal.ndim if kept else None,
        )
        self.signals[node] = signal
        if node.op == "call_module" or name not in ("view", "reshape", "expand", "repeat", "tile"):
            return
        self._lead_shape(node, source)
        guard = self._insert_after(node, timefold.keep_batch, (node, source, describe(node, self.root)))
        self.signals[guard] = signal

    def _part(self, node: fx.Node, signal: Signal) -> None:
        """One tensor of a sequence, or some of them."""
        self.signals[node] = replace(signal, sequence=isinstance(node.args[1], slice), where="")
        if signal.where:
            guard = self._insert_after(node, timefold.keep_rows, (node, self.batch, signal.where))
            self.signals[guard] = self.signals[node]

    def _linear(self, node: fx.Node, source: fx.Node) -> None:
        """Means and sums over dimensions, products with constants."""
        signal = self.signals[source]
        reduces = name_of(node) in ("mean", "sum")
        dims = signal.positive(dims_of(node, self.root) or [])
        spatial = reduces and all(dim > 1 for dim in dims)
        if not spatial:
            signal = self.signals[self._unscaled(source, node)]
        known = name_of(node) not in ("", "fold") and all(other.op == "get_attr" for other in self._others(node))
        ndim = signal.ndim if reduces or known else None
        if ndim is not None and reduces and not argument(node, 2, "keepdim", False):
            ndim -= len(dims)
        self.signals[node] = signal.as_current(channels=signal.channels if spatial else None, ndim=ndim)

    def _constant_like(self, node: fx.Node, source: fx.Node) -> None:
        signal = self.signals[source]
        self.signals[node] = replace(signal, ready=0, thermometer=True, uniform=True, scale=None)

    def _affine(self, node: fx.Node, source: fx.Node) -> None:
        signal = self.signals[self._materialise(source, node)]
        self.signals[node] = signal.as_current(channels=None, ndim=None)

    def _lookup(self, node: fx.Node, source: fx.Node) -> None:
        """An embedding: of one timestep, which integers always have, since they have no temporal mean."""
        signal = self.signals[source]
        if signal.steps > 1 or signal.scale is not None:
            self._analog(node)
        else:
            self.signals[node] = signal.as_current(channels=None, ndim=None)

    def _max_pool(self, node: fx.Node, source: fx.Node) -> None:
        """Exact step by step on thermometer codes; on currents, once they are accumulated."""
        signal = self.signals[source]
        within = self._within_channels(node, signal)
        if not signal.thermometer or not (within or (signal.uniform and not signal.per_channel)):
            source = self._decode(source, node)
        self.signals[node] = self.signals[source] if within else replace(self.signals[source], channels=None)

    def _max(self, node: fx.Node, *sources: fx.Node) -> None:
        signals = [self.signals[self._decode(source, node)] for source in sources]
        self.signals[node] = joined(signals, thermometer=True, ndim=None)

    # Several branches

    def _sum(self, node: fx.Node, *sources: fx.Node) -> None:
        signals = [self.signals[source] for source in self._align(node, list(sources))]
        channels = {signal.channels for signal in signals}
        known = all(other.op == "get_attr" for other in self._others(node))
        self.signals[node] = joined(
            signals,
            channels=channels.pop() if len(channels) == 1 and len(signals) > 1 else None,
            **({} if known else {"ndim": None}),
        )

    def _concat(self, node: fx.Node, *sources: fx.Node) -> None:
        """Along the channels, thresholds are joined like the spikes are, and trains stay trains."""
        operands = argument(node, 0, "tensors", ())
        operands = list(operands) if isinstance(operands, (tuple, list)) else []  # else the whole result of chunk, say
        along_channels = name_of(node) != "stack" and argument(node, 1, "dim", 0) == 1
        known = [self.signals[n].channels if n in self.signals else None for n in operands]
        joins = along_channels and operands and None not in known
        channels = sum(c for c in known if c is not None) if joins else None
        scale = self._join_scales(node, operands) if channels is not None else None
        aligned = self._align(node, list(sources), materialise=channels is None)
        signals = [self.signals[source] for source in aligned]
        self.signals[node] = joined(
            signals,
            thermometer=along_channels and all(signal.thermometer for signal in signals),
            uniform=False,
            scale=scale,
            scales=channels or 1,
            channels=channels,
            **({"ndim": None} if name_of(node) == "stack" else {}),
        )

    # Operations without a spiking counterpart

    def _analog(self, node: fx.Node, reason: str = "") -> None:
        """No exact counterpart: refuse, or decode, run the operation once, and go on with one timestep."""
        where = describe(node, self.root)
        if not self.analog:
            way_out = "Replace it in the model, or"
            if all(user.op == "output" for user in node.users):
                way_out = "It comes last: apply it to what the spiking network returns instead, or"
            raise UnsupportedOperationError(
                f"{where} has no exact spiking counterpart: {reason or why_unsupported(node)}. {way_out} "
                'pass on_unsupported="analog" to decode there, run it once, and go on with one timestep.'
            )
        self.result.analog_nodes.append(where)
        ready = max(self.signals[self._decode(source, node)].ready for source in self._sources(node))
        is_recurrent = node.op == "call_module" and isinstance(self.root.get_submodule(str(node.target)), nn.RNNBase)
        if reason == _MIXES or is_recurrent:  # whose state has its layers in dimension 0
            self.signals[node] = Signal(ready=ready, loose=True)
        elif returns_sequence(node, self.root):
            self.signals[node] = Signal(ready=ready, thermometer=True, sequence=True, where=where)
        else:
            guard = self._insert_after(node, timefold.keep_rows, (node, self.batch, where))
            self.signals[guard] = Signal(ready=ready, thermometer=True)

    def _loose(self, node: fx.Node, sources: list[fx.Node], is_neuron: bool) -> None:
        """Beyond an operation that has moved the batch: the ANN's own operations, on tensors without timesteps."""
        ready = max(self.signals[self._decode(source, node)].ready for source in sources)
        self.signals[node] = Signal(ready=ready, loose=True)
        if is_neuron:
            neuron, threshold = self._fire(node, sources[0], timefold.as_sequence)
            rate = self._insert_after(node, timefold.rate, (node, threshold))
            self.signals[rate] = Signal(ready=ready + 2 * neuron.levels, loose=True)
        elif kind_of(node, self.root) is Kind.UNSUPPORTED:
            self.result.analog_nodes.append(describe(node, self.root))
