"""Maxima that do not look for positions, in the place of a network's own: of max pools, see
:mod:`pascal_ext.ops.max_pool`, and of ``torch.max``.
"""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pascal_ext.graph.operations import argument
from pascal_ext.observers import unobserved
from pascal_ext.ops.max_pool import max_pool

_FUNCTIONS: dict[Any, int] = {F.max_pool2d: 2, torch.max_pool2d: 2, F.max_pool3d: 3, torch.max_pool3d: 3}
_EXTREMA: dict[Any, tuple[Any, Any]] = {
    **dict.fromkeys(("max", torch.max), (torch.amax, torch.maximum)),
    **dict.fromkeys(("min", torch.min), (torch.amin, torch.minimum)),
}
_MODULES: dict[type[nn.Module], int] = {nn.MaxPool2d: 2, nn.MaxPool3d: 3}


def pooling_graph(graph: fx.Graph, root: nn.Module) -> fx.Graph:
    """A copy of ``graph``, made to be run, whose max pools give values alone. Hooks of the modules see what they did.

    Args:
        graph: see :func:`pascal_ext.network.overwriting.overwriting_graph`.
        root: what its modules are found in.
    """
    graph = copy.deepcopy(graph)
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in _FUNCTIONS and not _wants_positions(node):
            node.args = (_FUNCTIONS[node.target], *node.args)
            node.target = max_pool
        elif node.op == "call_module" and _has_values_alone(root.get_submodule(str(node.target))):
            with graph.inserting_before(node):
                module = graph.create_node("get_attr", str(node.target))
                pooled = graph.call_function(call_pool, (module, *node.args), node.kwargs)
            node.replace_all_uses_with(pooled)
            graph.erase_node(node)
    return graph


def name_extrema(graph: fx.Graph) -> None:
    """``torch.max(x, dim)`` becomes ``torch.amax`` where nothing reads positions, and ``torch.max(x, y)`` becomes
    ``torch.maximum``; minima likewise.
    """
    calls = [node for node in graph.nodes if node.op in ("call_function", "call_method") and node.target in _EXTREMA]
    for node in calls:
        along, between = _EXTREMA[node.target]
        x, other = argument(node, 0, "input", None), argument(node, 1, "other", None)
        dim = argument(node, 1, "dim", None)
        if isinstance(other, fx.Node):
            node.op, node.target, node.args, node.kwargs = "call_function", between, (x, other), {}
        elif isinstance(dim, int) and all(_takes_values(user) for user in node.users):
            for user in list(node.users):
                user.replace_all_uses_with(node)
                graph.erase_node(user)
            keepdim = argument(node, 2, "keepdim", False)
            node.op, node.target, node.args, node.kwargs = "call_function", along, (x, dim, keepdim), {}


def _takes_values(node: fx.Node) -> bool:
    """Of a pair of values and positions."""
    return (node.target, *node.args[1:]) in ((operator.getitem, 0), (getattr, "values"))


def _wants_positions(node: fx.Node) -> bool:
    """Whether a function is told anything about ``return_indices``, its seventh argument."""
    return len(node.args) > 6 or "return_indices" in node.kwargs


def _has_values_alone(module: Any) -> bool:
    return type(module) in _MODULES and not module.return_indices


def call_pool(pool: Any, input: Tensor, *, silent: bool = False) -> Tensor:
    """``pool(input)``, faster where no hook is to see it, or ``silent`` says that none shall."""
    dims = _MODULES.get(type(pool))  # None where the user has put another module into the network
    if dims is None or not (silent or unobserved(pool)):
        output: Tensor = pool(input)
        return output
    return max_pool(dims, input, pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
