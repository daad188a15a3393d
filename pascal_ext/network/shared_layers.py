"""Layers of which both passes of a spiking network, the one that settles ties and the spikes' own, make the same.

A static input is one timestep, and up to the first neurons nothing else goes on than in the ANN. The neurons that read
the input through layers alone therefore emit the counts that the settling pass has found: the layers before them, with
the largest tensors of most networks, are computed once. Where a max pool follows, it chooses among counts instead of
trains, which are L times as large; the train of the largest count is the largest of the trains.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, fx, nn

from pascal_ext.graph.branches import must_stay
from pascal_ext.graph.kinds import Kind, kind_of
from pascal_ext.network.counting import neuron_calls
from pascal_ext.ops import timefold
from pascal_ext.ops.pasc_if import Reference, train_of
from pascal_ext.ops.thresholds import accumulation_dtype


def continuing_graph(spikes: fx.Graph, root: nn.Module) -> fx.Graph:
    """From a time-folded graph, the one that goes on behind its first neurons, for an input of one timestep.

    Args:
        spikes: see :class:`pascal_ext.conversion.lowering.Lowering`.
        root: what its modules are found in.
    """
    graph = copy.deepcopy(spikes)
    neurons = set(neuron_calls(graph, root))
    behind: set[fx.Node] = set()  # the first neurons, and all that depends on a neuron
    for node in list(graph.nodes):
        if not behind.isdisjoint(node.all_input_nodes):
            behind.add(node)
        elif node in neurons:
            behind.add(_take_counts(graph, node, root))
    graph.eliminate_dead_code(is_impure_node=must_stay)
    return graph


def _take_counts(graph: fx.Graph, neuron: fx.Node, root: nn.Module) -> fx.Node:
    """Put the train of a layer's counts in the place of what ``neuron`` makes of its currents; the new node."""
    reference: Any = neuron.kwargs["reference"]
    with graph.inserting_before(neuron):
        module = graph.create_node("get_attr", str(neuron.target))
        counts = graph.call_function(counts_of, reference.args)
        train = graph.call_function(train_of_layer, (module, counts, *reference.args))
    neuron.replace_all_uses_with(train)
    graph.erase_node(neuron)
    fold = _only_reader(train)
    if fold is not None and fold.target is timefold.fold:
        while (pool := _only_reader(fold)) is not None and kind_of(pool, root) is Kind.MAX_POOL:
            pool.replace_all_uses_with(fold)
            pool.replace_input_with(fold, counts)
            train.replace_input_with(counts, pool)
            pool.append(train)
            train.append(fold)
            counts = pool
    return train


def _only_reader(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def first_neurons(continuing: fx.Graph) -> list[str]:
    """The names of the neurons that a :func:`continuing_graph` does not call."""
    return [str(node.args[0].target) for node in continuing.nodes if node.target is train_of_layer]


def fires_as_counted(neuron: nn.Module) -> bool:
    """Whether its answer is the train of its counts, which is not for us to say of a ``forward`` from elsewhere."""
    return str(neuron.forward.__module__).startswith("pascal_ext.")


def counts_of(references: tuple[Reference, ...], index: int) -> Tensor:
    """The counts of a layer, [N, ...], in floating point that holds them."""
    reference = references[index]
    return reference.counts.to(accumulation_dtype(reference.dtype))


def train_of_layer(neuron: Any, counts: Tensor, references: tuple[Reference, ...], index: int) -> Tensor:
    """The spikes, [levels, N, ...], of a layer whose neurons fire ``counts`` times."""
    return train_of(counts, neuron.levels, references[index].dtype)
