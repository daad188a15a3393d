"""Running a graph node by node with all batches at once, so that a layer can be set before what follows it is run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import fx

from pascal_ext.data import Batch, inputs_of, refusals_told
from pascal_ext.graph.operations import describe

Values = dict[fx.Node, Any]


class Lockstep:
    """The values of a graph's nodes for each of some batches, as far as the graph has been run.

    Args:
        traced: a graph in evaluation mode.
        data: the batches.

    Attributes:
        values: one dict for each batch, of the nodes that are still to be read.
    """

    def __init__(self, traced: fx.GraphModule, data: Iterable[Batch]) -> None:
        self.traced = traced
        self._interpreter = fx.Interpreter(traced, garbage_collect_values=False)
        placeholders = [node for node in traced.graph.nodes if node.op == "placeholder"]
        self.values: list[Values] = [dict(zip(placeholders, inputs_of(traced, batch), strict=True)) for batch in data]
        order = {node: index for index, node in enumerate(traced.graph.nodes)}
        self._dying: dict[fx.Node, list[fx.Node]] = {}
        for node in traced.graph.nodes:
            if node.users:
                self._dying.setdefault(max(node.users, key=order.__getitem__), []).append(node)

    def inputs(self, node: fx.Node) -> list[Any]:
        """What ``node`` reads as its first argument, for each batch."""
        source: Any = node.args[0]  # an fx.Node, here
        return [values[source] for values in self.values]

    def run(self, node: fx.Node) -> None:
        """Run ``node``, which comes next, on all batches."""
        self.assign(node, [self.run_alone(node, values) for values in self.values])

    def assign(self, node: fx.Node, results: Iterable[Any]) -> None:
        """Go on as if ``node``, which comes next, had given ``results``, one for each batch."""
        for values, result in zip(self.values, results, strict=True):
            values[node] = result
            for dead in self._dying.get(node, ()):
                values.pop(dead, None)

    def run_alone(self, node: fx.Node, values: Values) -> Any:
        """Run ``node`` on ``values``, keep the result there, and return it."""
        if node.op != "placeholder":
            self._interpreter.env = values
            with refusals_told(lambda: describe(node, self.traced), self._interpreter.fetch_args_kwargs_from_env(node)):
                values[node] = self._interpreter.run_node(node)
        return values[node]


def finish(lane: Lockstep, values: Values, nodes: Iterable[fx.Node]) -> Any:
    """Run ``nodes``, the rest of the graph, on a copy of ``values``; returns what the last of them gives."""
    values = dict(values)
    result = None
    for node in nodes:
        result = lane.run_alone(node, values)
    return result
