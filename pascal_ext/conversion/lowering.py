"""Rewriting a traced QCFS network into a time-folded spiking one, node by node.

For each value of the graph a :class:`~pascal_ext.conversion.signals.Signal` tells how many timesteps it has, whether it
is a spike train, and which threshold still has to be multiplied into it. Thresholds travel along the wires until a
layer with weights absorbs them; so the wires carry binary spikes, and a multiplication appears only where no weights do
(at a residual addition, say). No module is changed or copied: the same layers serve the ANN's own graph, which runs on
counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from pascal_ext.conversion.signal_rules import SignalRules
from pascal_ext.conversion.signals import Signal
from pascal_ext.errors import UnsupportedOperationError
from pascal_ext.graph.branches import must_stay
from pascal_ext.graph.currents import awaited
from pascal_ext.graph.kinds import Kind, kind_of, why_unsupported
from pascal_ext.graph.operations import (
    describe,
    is_first_argument,
    reads,
    returns_sequence,
    unlike,
)
from pascal_ext.graph.outputs import only_contains
from pascal_ext.graph.pooling import name_extrema
from pascal_ext.graph.stacks import reduce_stacks
from pascal_ext.neuron import PascIF
from pascal_ext.ops import timefold
from pascal_ext.plan import barrier

_MIXES = "it works across dimension 0, so samples, or timesteps, would mix"
_CONSTANT_BATCH = "what it writes into was not made for the input: make that by zeros_like(x), or x.new_zeros(x.shape)"
_BRANCHES = (Kind.SUM, Kind.CONCAT, Kind.ASSIGN, Kind.MAX)


@dataclass
class Lowered:
    """The result: a time-folded graph over the modules of the traced model, and what is to be known about it.

    The graph takes the batch size and the reference counts (or None) before the model's own inputs.
    """

    graph: fx.Graph
    latency: int = 0
    analog_nodes: list[str] = field(default_factory=list)


class Lowering(SignalRules):
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
        reduce_stacks(self.graph)
        nodes = list(self.graph.nodes)
        self.awaited = awaited(self.graph, self._is_neuron)
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
        is_neuron = self._is_neuron(node)
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
        elif kind is Kind.ASSIGN and node.args[0] not in self.signals:
            self._analog(node, _CONSTANT_BATCH)
        elif not first or self._mixes_samples(node, sources, kind):
            self._analog(node, _MIXES)
        elif kind is Kind.LOOKUP and (self.signals[sources[0]].steps > 1 or self.signals[sources[0]].scale is not None):
            self._analog(node)  # spikes in the place of numbers of rows
        else:
            self._follow(node, kind)

    # Neurons

    def _is_neuron(self, node: fx.Node) -> bool:
        return node.op == "call_module" and isinstance(self.root.get_submodule(str(node.target)), PascIF)

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
