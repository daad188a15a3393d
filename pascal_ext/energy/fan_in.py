"""How many synapses a neuron has: one survey of a graph, for T_eff of a network and for plans before a conversion."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from pascal_ext.activations import replace_activations
from pascal_ext.graph.kinds import Kind, kind_of
from pascal_ext.graph.operations import argument, name_of
from pascal_ext.network.spiking_network import SpikingNetwork
from pascal_ext.neuron import PascIF
from pascal_ext.ops import timefold
from pascal_ext.qcfs import QCFS

Synapses = dict[fx.Node, float]
"""What is behind an element of a value, on average: a layer, a neuron or an input -> how many synapses it adds."""

_WEIGHTED = frozenset(
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear matmul mm bmm einsum".split()
)
_CONCATENATIONS = ("cat", "concat", "concatenate")
_KEEP_CHANNELS = (Kind.IDENTITY, Kind.CHANNELWISE, Kind.MAX_POOL, Kind.SUM)
_KEEP_CHANNELS_TOO = ("neg", "mul", "truediv", "maximum", "minimum")


def fan_ins(network: nn.Module) -> dict[str, float | None]:
    """Layer of neurons (or of activations) -> synapses of one of its neurons, away from zero padding.

    Those of all layers with weights between it and the neurons before it are summed; a shortcut without weights is one
    synapse. Behind a concatenation along the channels each neuron has those of its own branch: the layer gets the mean.
    (Where a branch is the input or was reshaped, nobody knows its channels here, and its synapses are added.) None
    where a neuron is reached by functions with weights of their own (``F.conv2d``).

    Args:
        network: a converted network, a QCFS model, or a ReLU model.
    """
    return fan_ins_of(*with_neurons(network))


def fan_ins_of(graph: fx.Graph, root: nn.Module) -> dict[str, float | None]:
    """The same of a graph with a module for each layer of neurons, and of where its modules are."""
    behind: dict[fx.Node, Synapses] = {}
    channels: dict[fx.Node, int | None] = {}
    found: dict[str, float | None] = {}
    for node in graph.nodes:
        module: Any = root.get_submodule(str(node.target)) if node.op == "call_module" else None
        reached = gathered(node, behind, lambda operand, dim: channels[operand] if dim == 1 else None)
        if is_neuron(module):
            total = sum(reached.values())
            found[str(node.target)] = None if math.isnan(total) or not total else total
            reached = {node: 1.0}
        elif node.op == "placeholder":
            reached = {node: 1.0}
        elif (count := layer_fan_in(module)) is not None:
            reached = {node: count}
        elif module is None and name_of(node) in _WEIGHTED and reached:
            reached = {node: math.nan}
        elif node.op not in ("output", "get_attr") and kind_of(node, root) is Kind.METADATA:
            reached = {}
        behind[node] = reached
        channels[node] = _channels(node, root, module, channels)
    return found


def with_neurons(network: nn.Module) -> tuple[fx.Graph, nn.Module]:
    """The graph of ``network`` with a module for each layer of neurons, and where its modules are."""
    if isinstance(network, SpikingNetwork):
        return network.counts_graph, network
    traced = replace_activations(network)
    return traced.graph, traced


def gathered(node: fx.Node, behind: Mapping[fx.Node, Synapses], size: Callable[[fx.Node, int], int | None]) -> Synapses:
    """What is behind ``node``, if it adds no synapses of its own.

    Branches that meet are added, what is behind several of them counts once; those that are put side by side are
    averaged by their sizes.

    Args:
        node: an operation.
        behind: of the nodes that it reads.
        size: of a node's value along a dimension; None where nobody knows.
    """
    merged: Synapses = {}
    operands = argument(node, 0, "tensors", ()) if name_of(node) in _CONCATENATIONS else ()
    dim = argument(node, 1, "dim", 0)
    sizes = [size(operand, dim) for operand in operands] if isinstance(operands, (tuple, list)) else []
    known = [count for count in sizes if count is not None]
    if sum(known) and len(known) == len(sizes):
        for operand, count in zip(operands, known, strict=True):
            for source, synapses in behind[operand].items():
                merged[source] = merged.get(source, 0.0) + synapses * count / sum(known)
        return merged
    for read in node.all_input_nodes:
        for source, synapses in behind[read].items():
            merged[source] = max(merged.get(source, 0.0), synapses)
    return merged


def layer_fan_in(layer: nn.Module | None) -> float | None:
    """Synapses of one output of a convolution or linear layer; None for another module.

    A transposed convolution reaches its outputs in turn: the mean over a stride.
    """
    if isinstance(layer, nn.Linear):
        return layer.in_features
    if not isinstance(layer, _ConvNd):
        return None
    taps = math.prod(layer.kernel_size) / (math.prod(layer.stride) if layer.transposed else 1)
    return layer.in_channels // layer.groups * taps


def is_neuron(module: nn.Module | None) -> bool:
    """Whether ``module`` is a layer of neurons, or what becomes one."""
    return isinstance(module, (PascIF, QCFS))


def _channels(node: fx.Node, root: nn.Module, module: Any, known: Mapping[fx.Node, int | None]) -> int | None:
    """The size of dimension 1 of what ``node`` gives, as far as its layers tell."""
    if isinstance(module, _ConvNd):
        return module.out_channels
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, _BatchNorm):
        return module.num_features
    if not node.all_input_nodes or node.op == "output":
        return None
    name = name_of(node)
    if name in _CONCATENATIONS and argument(node, 1, "dim", 0) == 1:
        sizes = [known[operand] for operand in node.all_input_nodes]
        return sum(size for size in sizes if size is not None) if None not in sizes else None
    keeps = node.target in (timefold.as_sequence, timefold.only_step) or name in _KEEP_CHANNELS_TOO
    if keeps or is_neuron(module) or kind_of(node, root) in _KEEP_CHANNELS:
        return next((size for source in node.all_input_nodes if (size := known[source]) is not None), None)
    return None
