"""Which values of a graph are currents, and not spikes any more, and which of them a neuron still waits for."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx, nn

from pascal_ext.graph.dimensions import padded_dims
from pascal_ext.graph.kinds import Kind, kind_of
from pascal_ext.graph.operations import argument, name_of


def averages(node: fx.Node, root: nn.Module) -> bool:
    """Whether an operation turns spikes into averages, or into sums."""
    if node.op in ("placeholder", "output", "get_attr"):
        return False
    kind = kind_of(node, root)
    if kind is Kind.LINEAR:
        return name_of(node) in ("mean", "sum", "cumsum", "fold") or node.op == "call_module"
    if node.op == "call_module":
        mode = getattr(root.get_submodule(str(node.target)), "mode", "")  # of an upsampling
    else:
        mode = argument(node, 3, "mode", "nearest") if name_of(node) in ("interpolate", "upsample") else ""
    return kind is Kind.CHANNELWISE and not padded_dims(node, root) and not mode.startswith("nearest")


def awaited(graph: fx.Graph, is_neuron: Callable[[fx.Node], bool]) -> set[fx.Node]:
    """The nodes from which a neuron is reached: it takes the mean over their timesteps."""
    found: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if any(is_neuron(user) or user in found for user in node.users):
            found.add(node)
    return found
