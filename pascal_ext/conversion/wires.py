"""Editing a time-folded graph: what a node reads, with or without its threshold, its timesteps, its mean."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import fx

from pascal_ext.conversion.signals import Signal
from pascal_ext.graph.operations import describe
from pascal_ext.ops import timefold


class Wires:
    """A copy of a traced graph, and what is known about its values.

    Args:
        traced: a graph made by :func:`pascal_ext.graph.tracing.trace`, with neurons where its activations were; its own
            graph is not changed.
    """

    batch: fx.Node  # the batch size, a placeholder

    def __init__(self, traced: fx.GraphModule) -> None:
        self.root = traced
        self.graph = copy.deepcopy(traced.graph)
        self.signals: dict[fx.Node, Signal] = {}
        self.scaled: dict[fx.Node, fx.Node] = {}  # wire -> the node that multiplies its threshold in

    def _sources(self, node: fx.Node) -> list[fx.Node]:
        return [source for source in node.all_input_nodes if source in self.signals]

    def _others(self, node: fx.Node) -> list[fx.Node]:
        return [source for source in node.all_input_nodes if source not in self.signals]

    def _align(self, node: fx.Node, sources: list[fx.Node], materialise: bool = True) -> list[fx.Node]:
        """Let ``node`` read ``sources`` at the longest number of timesteps among them; returns what it reads.

        Trains whose steps do not divide the longest are averaged for that, and are currents then.
        """
        if materialise:
            sources = list(dict.fromkeys(self._materialise(source, node) for source in sources))
        steps = {self.signals[source].steps for source in sources}
        if len(sources) == 1 or (len(steps) == 1 and not any(self.signals[source].elastic for source in sources)):
            return sources
        with self.graph.inserting_before(node):
            aligned = self.graph.call_function(timefold.align, (sources, self.batch))
            results = [self.graph.call_function(operator.getitem, (aligned, index)) for index in range(len(sources))]
        for source, result in zip(sources, results, strict=True):
            node.replace_input_with(source, result)
            signal = self.signals[source]
            self.signals[result] = replace(signal, current=signal.current or max(steps) % signal.steps > 0)
        return results

    def _join_scales(self, node: fx.Node, operands: list[fx.Node]) -> fx.Node | None:
        signals = [self.signals[operand] for operand in operands]
        if all(signal.scale is None for signal in signals):
            return None
        with self.graph.inserting_before(node):
            parts = ([signal.scale for signal in signals], [signal.channels for signal in signals])
            return self.graph.call_function(timefold.join_scales, parts)

    def _materialise(self, source: fx.Node, user: fx.Node) -> fx.Node:
        """The node that carries ``source`` times its threshold; ``user`` reads that one from now on."""
        signal = self.signals[source]
        if signal.scale is None:
            return source
        if source not in self.scaled:
            with self.graph.inserting_after(source):
                self.scaled[source] = self.graph.call_function(timefold.scale, (source, signal.scale))
            self.signals[self.scaled[source]] = replace(
                signal, scale=None, uniform=signal.uniform and signal.scales == 1
            )
        user.replace_input_with(source, self.scaled[source])
        return self.scaled[source]

    def _unscaled(self, source: fx.Node, user: fx.Node) -> fx.Node:
        """``source`` without a threshold for each channel, which ``user`` would mix; one for all of them stays."""
        return self._materialise(source, user) if self.signals[source].per_channel else source

    def _decode(self, source: fx.Node, user: fx.Node) -> fx.Node:
        """The temporal mean of ``source``, which ``user`` reads from now on."""
        source = self._materialise(source, user)
        if self.signals[source].loose:
            return source
        with self.graph.inserting_before(user):
            mean = self.graph.call_function(timefold.decode, (source, self.batch))
        user.replace_input_with(source, mean)
        signal = self.signals[source]
        self.signals[mean] = replace(signal, steps=1, elastic=False, thermometer=True, uniform=True)
        return mean

    def _guard_ndim(self, node: fx.Node, source: fx.Node, needed: int) -> None:
        """Let ``node`` read ``source`` after a check that it has ``needed`` dimensions."""
        with self.graph.inserting_before(node):
            guard = self.graph.call_function(timefold.need_ndim, (source, needed, describe(node, self.root)))
        node.replace_input_with(source, guard)
        if source in self.signals:
            self.signals[guard] = self.signals[source]

    def _insert_after(self, node: fx.Node, function: Callable[..., Any], args: tuple[Any, ...]) -> fx.Node:
        """Call ``function`` right after ``node``; whoever read ``node`` reads its result instead."""
        with self.graph.inserting_after(node):
            inserted = self.graph.call_function(function, args)
        node.replace_all_uses_with(inserted, delete_user_cb=lambda user: user is not inserted)
        return inserted

    def _let_call(self, node: fx.Node, function: Callable[..., Any], *args: Any) -> None:
        """Let ``node``, a call of a module, call ``function`` instead, with the module and ``args``."""
        with self.graph.inserting_before(node):
            module = self.graph.create_node("get_attr", str(node.target))
        node.op, node.target, node.args = "call_function", function, (module, *args)

    def _bypass(self, node: fx.Node, source: fx.Node) -> None:
        node.replace_all_uses_with(source)
        self.graph.erase_node(node)
