"""How each kind of operation changes the signal that passes through it, and what that takes in the graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import fx, nn

from pascal_ext.conversion.batch_dimension import BatchDimension
from pascal_ext.conversion.signals import Signal, joined
from pascal_ext.graph.currents import averages
from pascal_ext.graph.dimensions import dims_of, padded_dims, pooled_dims
from pascal_ext.graph.kinds import Kind
from pascal_ext.graph.operations import DIVISIONS, argument, describe, is_flatten, name_of
from pascal_ext.network.folding import call_scaled
from pascal_ext.ops import timefold

_KEEP_NDIM = "flip roll rot90 narrow permute transpose swapaxes swapdims movedim moveaxis".split()
_KEEP_NDIM += "chunk split tensor_split index_select repeat_interleave".split()
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)  # each a product with a mask
_NORM_NDIM: dict[type[nn.Module], int] = {nn.BatchNorm2d: 4, nn.BatchNorm3d: 5}


class SignalRules(BatchDimension):
    """A rule for each kind of operation that the temporal mean passes: linear ones, and maxima of thermometer codes."""

    awaited: set[fx.Node]  # the nodes on the way to a neuron

    def _follow(self, node: fx.Node, kind: Kind) -> None:
        """Note the signal of ``node``, an operation of a kind that has a rule."""
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
            Kind.ASSIGN: self._assign,
            Kind.MAX_POOL: self._max_pool,
            Kind.MAX: self._max,
            Kind.LOOKUP: self._lookup,
            Kind.CONSTANT: self._constant_like,
        }
        handlers[kind](node, *self._sources(node))

    # Layers with weights

    def _once(self, node: fx.Node, source: fx.Node) -> fx.Node:
        """Let weights on the way to a neuron read the mean of currents: one pass gives what one for each step would."""
        signal = self.signals[source]
        return self._decode(source, node) if signal.current and signal.steps > 1 and node in self.awaited else source

    def _weighted(self, node: fx.Node, source: fx.Node) -> None:
        """Convolutions and linear layers absorb the threshold of the spikes they read."""
        layer: Any = self.root.get_submodule(str(node.target))
        is_linear = isinstance(layer, nn.Linear)
        source = self._once(node, source)
        signal = self.signals[source]
        inputs = layer.in_features if is_linear else layer.in_channels
        channels = (layer.out_features if signal.ndim == 2 else None) if is_linear else layer.out_channels
        result = signal.as_current(scale=None, channels=channels, ndim=signal.ndim if is_linear else layer.weight.ndim)
        if signal.per_channel and (inputs % signal.scales or (is_linear and signal.ndim not in (2, None))):
            self._materialise(source, node)
        elif signal.scale is not None:
            self._let_call(node, call_scaled, source, signal.scale, *node.args[1:])
        self.signals[node] = result

    def _norm(self, node: fx.Node, source: fx.Node) -> None:
        norm: Any = self.root.get_submodule(str(node.target))
        signal = self.signals[self._materialise(source, node)]
        ndim = _NORM_NDIM.get(type(norm), signal.ndim)
        self.signals[node] = signal.as_current(channels=norm.num_features, ndim=ndim)

    # Layers without weights

    def _identity(self, node: fx.Node, source: fx.Node) -> None:
        module = self.root.get_submodule(str(node.target)) if node.op == "call_module" else None
        if type(module) in _DROPOUTS:
            self._let_call(node, timefold.drop, source, self.batch)
            self.signals[node] = self.signals[source]
        else:
            self._bypass(node, source)

    def _channelwise(self, node: fx.Node, source: fx.Node) -> None:
        """Average pooling and its like: a threshold passes, a train becomes a current unless elements are copied."""
        signal = self.signals[source]
        padded = padded_dims(node, self.root)
        if not self._within_channels(node, signal) or (padded and padded >= (signal.ndim or 0) - 1):
            signal = replace(self.signals[self._unscaled(source, node)], channels=None)
        current = signal.current or averages(node, self.root)
        self.signals[node] = replace(signal, thermometer=signal.thermometer and padded > 0, current=current)

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
            sequence=name in DIVISIONS,
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
        current = signal.current or averages(node, self.root)
        self.signals[node] = signal.as_current(
            channels=signal.channels if spatial else None, ndim=ndim, current=current
        )

    def _constant_like(self, node: fx.Node, source: fx.Node) -> None:
        signal = self.signals[source]
        self.signals[node] = replace(signal, ready=0, thermometer=True, uniform=True, scale=None)

    def _affine(self, node: fx.Node, source: fx.Node) -> None:
        if name_of(node) != "batch_norm":
            source = self._once(node, source)
        signal = self.signals[self._materialise(source, node)]
        self.signals[node] = signal.as_current(channels=None, ndim=None)

    def _lookup(self, node: fx.Node, source: fx.Node) -> None:
        """An embedding, of one timestep: integers have no temporal mean."""
        self.signals[node] = self.signals[source].as_current(channels=None, ndim=None)

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
            current=len(signals) == 1 or any(signal.current for signal in signals),  # of one and a constant
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
            current=any(signal.current for signal in signals),
            uniform=False,
            scale=scale,
            scales=channels or 1,
            channels=channels,
            **({"ndim": None} if name_of(node) == "stack" else {}),
        )

    def _assign(self, node: fx.Node, *sources: fx.Node) -> None:
        """Each element is one of the two tensors', so trains stay trains, of more than one threshold in a channel."""
        signals = [self.signals[source] for source in self._align(node, list(sources))]
        current = any(signal.current for signal in signals)
        self.signals[node] = joined(signals, current=current, channels=signals[0].channels, ndim=signals[0].ndim)
