"""T_eff: the timesteps of an integrate-and-fire network that would cost as much as the PASC-IF neurons do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from pascal_ext.errors import InvalidArgumentError, PlanError
from pascal_ext.network import SpikingNetwork
from pascal_ext.neuron import PascIF
from pascal_ext.operations import name_of
from pascal_ext.plan import check_levels

_WEIGHTED = frozenset(
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear matmul mm bmm einsum".split()
)

LevelsOrFanIn = Mapping[str, float] | Sequence[float]


def energy_ratio(levels: int, fan_in: float) -> float:
    """What a PASC-IF neuron and its synapses cost, relative to an IF neuron over as many timesteps.

    With r = 4 / (3 · fan_in), the cost of a neuron's update relative to its synapses', and T = L (arXiv 2505.01730;
    the constants are those of the authors' code):

        r_E = (1 + (5T − 2)·r) / (1 + T·r)

    Raises:
        PlanError: ``levels`` is not a whole number of at least 1.
        InvalidArgumentError: ``fan_in`` is not positive.
    """
    steps = check_levels(levels)
    if not (0 < fan_in < math.inf):
        raise InvalidArgumentError(f"fan_in, the synapses of a neuron, must be positive, got {fan_in!r}")
    ratio = 4 / (3 * fan_in)
    return (1 + (5 * steps - 2) * ratio) / (1 + steps * ratio)


def effective_timesteps(levels: LevelsOrFanIn, fan_in: LevelsOrFanIn, published: bool = False) -> float:
    """T_eff = mean over the layers of r_E·T, see :func:`energy_ratio`.

    Args:
        levels: of each layer of neurons, in a list or under its name.
        fan_in: synapses of one neuron of each layer, likewise.
        published: reproduce the published figures, which pair a list of levels with a shorter list of coefficients, so
            that the layers beyond the shorter one are dropped; for lists only.

    Raises:
        PlanError: there are no layers, or levels and fan-ins are not of the same layers.
        InvalidArgumentError: ``published`` with mappings; or see :func:`energy_ratio`.
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


def network_effective_timesteps(network: SpikingNetwork) -> float | None:
    """T_eff of a converted network with its real fan-ins, see :func:`fan_ins`; None where they cannot be told."""
    inputs = fan_ins(network)
    known = {name: count for name, count in inputs.items() if count is not None}
    if not known or len(known) < len(inputs):
        return None
    return effective_timesteps(network.plan, known)


def fan_ins(network: SpikingNetwork) -> dict[str, float | None]:
    """Layer of neurons -> synapses of one of its neurons, away from zero padding.

    Those of all layers with weights between it and the neurons before it are summed; a shortcut without weights is one
    synapse. None where a neuron is reached by functions with weights of their own (``F.conv2d``).
    """
    found: dict[str, float | None] = {}
    for node in network.counts_graph.nodes:
        if node.op == "call_module" and isinstance(network.get_submodule(str(node.target)), PascIF):
            found[str(node.target)] = _synapses(network, node.all_input_nodes)
    return found


def _synapses(network: SpikingNetwork, sources: Iterable[fx.Node]) -> float | None:
    """Of a neuron that reads ``sources``."""
    pending, seen, total = list(sources), set(), 0.0
    while pending:
        node = pending.pop()
        if node in seen or node.op == "get_attr":
            continue
        seen.add(node)
        module = network.get_submodule(str(node.target)) if node.op == "call_module" else None
        if module is not None and (count := layer_fan_in(module)) is not None:
            total += count
        elif isinstance(module, PascIF) or node.op == "placeholder":
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
