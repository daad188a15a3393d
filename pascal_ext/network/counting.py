"""The ANN's own graph with neurons in it: run on counts, once, in exactly the ANN's arithmetic."""

from __future__ import annotations

import copy
import operator
from collections.abc import Container
from typing import Any

from torch import Tensor, fx, nn

from pascal_ext.graph.branches import must_stay
from pascal_ext.graph.pooling import call_pool
from pascal_ext.neuron import PascIF
from pascal_ext.observers import is_symbolic, makes_weights
from pascal_ext.ops import timefold
from pascal_ext.ops.pasc_if import Reference, counts_and_activation


def counts_graph(traced: fx.GraphModule) -> fx.Graph:
    """A copy of the graph in which neurons get, and give, sequences of one step; nothing else is different."""
    graph = copy.deepcopy(traced.graph)
    for node in neuron_calls(graph, traced):
        with graph.inserting_before(node):
            node.args = (graph.call_function(timefold.as_sequence, (node.args[0],)),)
        readers = list(node.users)
        with graph.inserting_after(node):
            step = graph.call_function(timefold.only_step, (node,))
        for reader in readers:
            reader.replace_input_with(node, step)
    return graph


def reference_graph(counts: fx.Graph, root: nn.Module, watched: Container[str] = ()) -> fx.Graph:
    """From a :func:`counts_graph`, the graph that returns a :class:`Reference` for every layer.

    It calls the modules' ``forward``, not the modules: hooks stay silent in this pass, so that monitors see each spike
    train once, and binary spikes alone.

    Args:
        counts: the graph.
        root: what its modules are found in.
        watched: the layers of which it is to say whether a current is NaN.
    """
    graph = copy.deepcopy(counts)
    found = []
    for node in neuron_calls(graph, root):
        neuron = root.get_submodule(str(node.target))
        assert isinstance(neuron, PascIF)
        with graph.inserting_before(node):
            threshold = graph.get_attr(f"{node.target}.v_threshold")
            in_place = node.kwargs.get("in_place", False)
            args = (node.args[0], threshold, neuron.levels, in_place, str(node.target) in watched)
            both = graph.call_function(counts_and_values, args)
            count, value = (graph.call_function(operator.getitem, (both, index)) for index in range(2))
        node.replace_all_uses_with(value)
        graph.erase_node(node)
        found.append(count)
    for node in [node for node in graph.nodes if node.op == "call_module"]:
        with graph.inserting_before(node):
            module = graph.create_node("get_attr", str(node.target))
            value = graph.call_function(call_silently, (module, *node.args), node.kwargs)
        node.replace_all_uses_with(value)
        graph.erase_node(node)
    for node in graph.nodes:
        if node.target is call_pool:
            node.kwargs = {**node.kwargs, "silent": True}
    output = next(node for node in graph.nodes if node.op == "output")
    output.args = (tuple(found),)
    graph.eliminate_dead_code(is_impure_node=must_stay)
    return graph


def counts_and_values(
    x_seq: Tensor, threshold: Tensor, levels: int, in_place: bool, watched: bool
) -> tuple[Reference, Tensor]:
    """Counts [N, ...] of a one-step sequence [1, N, ...], and what they stand for, a sequence of one step.

    A sum is NaN where an element is, and quickly made. On an accelerator the host would have to wait for it.
    """
    has_nan = watched and x_seq.device.type == "cpu" and not is_symbolic() and bool(x_seq.sum().isnan())
    counts, value = counts_and_activation(x_seq[0], threshold, levels, in_place=in_place)
    return Reference(counts, x_seq.dtype, has_nan), value.unsqueeze(0)


def call_silently(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """``module(*args, **kwargs)``, of whose hooks only torch's own run, which make its weights."""
    for hook in module._forward_pre_hooks.values():
        if makes_weights(hook):
            hook(module, args)
    return module.forward(*args, **kwargs)


def neuron_calls(graph: fx.Graph, root: nn.Module) -> list[fx.Node]:
    calls = [node for node in graph.nodes if node.op == "call_module"]
    return [node for node in calls if isinstance(root.get_submodule(str(node.target)), PascIF)]
