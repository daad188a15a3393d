"""T_eff: the timesteps of an integrate-and-fire network that would cost as much as the PASC-IF neurons do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from pascal_ext.activations import relu_layers
from pascal_ext.energy.cost_model import energy_ratio
from pascal_ext.energy.fan_in import fan_ins_of, with_neurons
from pascal_ext.errors import InvalidArgumentError, PlanError
from pascal_ext.graph.tracing import trace
from pascal_ext.network.spiking_network import SpikingNetwork

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
    """T_eff of a network with its real fan-ins, :func:`pascal_ext.energy.fan_ins`; None where nobody knows one of them.

    Args:
        network: a converted network, a QCFS model, or a ReLU model.
        levels: of each layer, a :class:`~pascal_ext.LevelPlan` say; by default the network's own.

    Raises:
        PlanError: ``levels`` is not of the network's layers.
        InvalidArgumentError: a ReLU model without ``levels``.
    """
    graph, root = with_neurons(network)
    inputs = fan_ins_of(graph, root)
    if levels is None:
        if not isinstance(network, SpikingNetwork) and relu_layers(trace(network)):
            raise InvalidArgumentError("the network has ReLU-like activations, which have no levels: pass levels")
        modules: dict[str, Any] = {name: root.get_submodule(name) for name in inputs}
        levels = {name: module.levels for name, module in modules.items()}
    known = {name: count for name, count in inputs.items() if count is not None}
    if not known or len(known) < len(inputs):
        return None
    return effective_timesteps(levels, known)
