"""T_eff: the timesteps of an integrate-and-fire network that would cost as much as the PASC-IF neurons do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from pascal_ext.activations import relu_layers, replace_activations
from pascal_ext.energy.cost_model import energy_ratio
from pascal_ext.errors import InvalidArgumentError, PlanError
from pascal_ext.graph.operations import name_of
from pascal_ext.graph.tracing import trace
from pascal_ext.network.spiking_network import SpikingNetwork
from pascal_ext.neuron import PascIF
from pascal_ext.qcfs import QCFS

_WEIGHTED = frozenset(
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear matmul mm bmm einsum".split()
)

LevelsOrFanIn = Mapping[str, float] | Sequence[float]


def effective_timesteps(levels: LevelsOrFanIn, fan_in: LevelsOrFanIn, published: bool = False) -> float:
    """T_eff = mean over the layers of r_E·T, see :func:`pascal_ext.energy.cost_model.energy_ratio`.

    Args:
        levels: of each layer of neurons, in a list or under its name.
        fan_in: synapses of one neuron of each layer, likewise.
        published: reproduce the published figures, which pair a list of levels with a shorter list of coefficients, so
            that the layers beyond the shorter one are dropped; for lists only.

    Raises:
        PlanError: there are no layers, or levels and fan-ins are not of the same layers.
        InvalidArgumentError: ``published`` with mappings; or see :func:`pascal_ext.energy.cost_model.energy_ratio`.
    """
    if isinstance(levels, Mapping) != isinstance(fan_in, Mapping):
        raise InvalidArgumentError("levels and fan_in must both be lists, or both go by the layers' names")
    pairs: list[tuple[Any, Any]]
    if isinstance(levels, Mapping) and isinstance(fan_in, Mapping):
        if published:
            raise InvalidArgumentError("published=True pairs layers by their position: pass lists")
        if levels.keys() != fan_in.keys():
            raise PlanError(
                f"levels and fan_in are not of the same layers: only levels has {sorted(levels.keys() - fan_in.keys())}"
                f", only fan_in has {sorted(fan_in.keys() - levels.keys())}"
            )
        pairs = [(levels[name], fan_in[name]) for name in levels]
    else:
        if len(levels) != len(fan_in) and not published:
            raise PlanError(f"{len(levels)} levels and {len(fan_in)} fan-ins: every layer needs one of each")
        pairs = list(zip(levels, fan_in, strict=False))
    if not pairs:
        raise PlanError("T_eff is a mean over layers, and there are none")
    return sum(energy_ratio(steps, inputs) * steps for steps, inputs in pairs) / len(pairs)


def network_effective_timesteps(network: nn.Module, levels: Mapping[str, int] | None = None) -> float | None:
    """T_eff of a network with its real fan-ins, see :func:`fan_ins`; None where one of them cannot be told.

    Args:
        network: a converted network, a QCFS model, or a ReLU model.
        levels: of each layer, a :class:`~pascal_ext.LevelPlan` say; by default the network's own.

    Raises:
        PlanError: ``levels`` is not of the network's layers.
        InvalidArgumentError: a ReLU model without ``levels``.
    """
    graph, root = _with_neurons(network)
    neurons = _neurons(graph, root)
    if levels is None:
        if not isinstance(network, SpikingNetwork) and relu_layers(trace(network)):
            raise InvalidArgumentError("the network has ReLU-like activations, which have no levels: pass levels")
        modules: dict[str, Any] = {name: root.get_submodule(name) for name in neurons}
        levels = {name: module.levels for name, module in modules.items()}
    inputs = {name: _synapses(root, node.all_input_nodes) for name, node in neurons.items()}
    known = {name: count for name, count in inputs.items() if count is not None}
    if not known or len(known) < len(inputs):
        return None
    return effective_timesteps(levels, known)


def fan_ins(network: nn.Module) -> dict[str, float | None]:
    """Layer of neurons (or of activations) -> synapses of one of its neurons, away from zero padding.

    Those of all layers with weights between it and the neurons before it are summed; a shortcut without weights is one
    synapse. None where a neuron is reached by functions with weights of their own (``F.conv2d``).

    Args:
        network: a converted network, a QCFS model, or a ReLU model.
    """
    graph, root = _with_neurons(network)
    return {name: _synapses(root, node.all_input_nodes) for name, node in _neurons(graph, root).items()}


def _with_neurons(network: nn.Module) -> tuple[fx.Graph, nn.Module]:
    """The graph of ``network`` with a module for each layer of neurons, and where its modules are."""
    if isinstance(network, SpikingNetwork):
        return network.counts_graph, network
    traced = replace_activations(network)
    return traced.graph, traced


def _neurons(graph: fx.Graph, root: nn.Module) -> dict[str, fx.Node]:
    calls = {str(node.target): node for node in graph.nodes if node.op == "call_module"}
    return {name: node for name, node in calls.items() if isinstance(root.get_submodule(name), (PascIF, QCFS))}


def _synapses(root: nn.Module, sources: Iterable[fx.Node]) -> float | None:
    """Of a neuron that reads ``sources``."""
    pending, seen, total = list(sources), set(), 0.0
    while pending:
        node = pending.pop()
        if node in seen or node.op == "get_attr":
            continue
        seen.add(node)
        module = root.get_submodule(str(node.target)) if node.op == "call_module" else None
        if module is not None and (count := layer_fan_in(module)) is not None:
            total += count
        elif isinstance(module, (PascIF, QCFS)) or node.op == "placeholder":
            total += 1
        elif node.op != "call_module" and name_of(node) in _WEIGHTED:
            return None
        else:
            pending += node.all_input_nodes
    return total or None


def layer_fan_in(layer: nn.Module) -> float | None:
    """Synapses of one output of a convolution or linear layer; None for another module.

    A transposed convolution reaches its outputs in turn: the mean over a stride.
    """
    if isinstance(layer, nn.Linear):
        return layer.in_features
    if not isinstance(layer, _ConvNd):
        return None
    taps = math.prod(layer.kernel_size) / (math.prod(layer.stride) if layer.transposed else 1)
    return layer.in_channels // layer.groups * taps
