"""Neurons that run on counts, called without the sequences around them: a small layer costs what its Python costs."""

from __future__ import annotations

import copy
import inspect

from torch import Tensor, fx, nn

from pascal_ext.graph.branches import must_stay
from pascal_ext.network.counting import neuron_calls
from pascal_ext.neuron import PascIF
from pascal_ext.observers import is_changed
from pascal_ext.ops import timefold
from pascal_ext.ops.pasc_if import qcfs_activation


def answering_graph(graph: fx.Graph, root: nn.Module) -> fx.Graph:
    """A copy of a :func:`~pascal_ext.network.counting.counts_graph`, to be run, in which neurons :func:`answer`."""
    graph = copy.deepcopy(graph)
    for node in neuron_calls(graph, root):
        source, readers = node.args[0], list(node.users)
        assert isinstance(source, fx.Node)
        if not takes_place(root.get_submodule(str(node.target))):
            continue
        with graph.inserting_before(node):
            neuron = graph.create_node("get_attr", str(node.target))
            in_place = node.kwargs.get("in_place", False)
            value = graph.call_function(answer, (neuron, source.args[0], in_place))
        for reader in readers:
            assert reader.target is timefold.only_step
            reader.replace_all_uses_with(value)
            graph.erase_node(reader)
        graph.erase_node(node)
    graph.eliminate_dead_code(is_impure_node=must_stay)
    return graph


def answer(neuron: nn.Module, z: Tensor, in_place: bool) -> Tensor:
    """What a neuron answers to one step of currents, [N, ...]; in their place if ``in_place`` and no hook sees them."""
    if isinstance(neuron, PascIF) and neuron.execution == "counts" and not is_changed(neuron):
        return qcfs_activation(z, neuron.v_threshold, neuron.levels, in_place=in_place)
    return timefold.only_step(neuron(timefold.as_sequence(z)))


def takes_place(neuron: nn.Module) -> bool:
    """Whether a neuron can be told to answer in the place of its currents, as those of some adapters cannot."""
    return "in_place" in inspect.signature(neuron.forward).parameters
