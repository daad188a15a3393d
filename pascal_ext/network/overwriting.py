"""Writing results over values that nothing reads any more.

An in-place ReLU, or ``out += shortcut``, saves more time by the new memory that it does not touch than its arithmetic
takes. Tracing makes every operation of a model write to memory of its own; where a value has one reader only, that one
may write over it all the same, as long as no gradient is recorded and no hook could notice.
"""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from pascal_ext.graph.branches import must_stay
from pascal_ext.graph.kinds import Kind, kind_of, modules_of
from pascal_ext.network.firing import takes_place
from pascal_ext.network.folding import call_normed
from pascal_ext.observers import unobserved
from pascal_ext.ops import timefold

_FRESH = (Kind.WEIGHTED, Kind.NORM)  # what such layers give is memory of its own
_CLASSES = modules_of(*_FRESH)


def overwriting_graph(graph: fx.Graph, root: nn.Module) -> fx.Graph:
    """A copy of ``graph``, made to be run: neurons that run on counts, and sums, overwrite what they alone read.

    Args:
        graph: a :func:`pascal_ext.network.counting.counts_graph`, or a time-folded graph
            (:mod:`pascal_ext.conversion.lowering`).
        root: what its modules are found in.
    """
    graph = copy.deepcopy(graph)
    for node in list(graph.nodes):
        currents = _before_sequence(node)
        if currents is not None:
            if takes_place(root.get_submodule(str(node.target))) and _is_fresh(currents, root):
                node.kwargs = {**node.kwargs, "in_place": _permission(graph, node, currents)}
        elif _is_sum(node):
            _overwrite_operand(graph, node, root)
    graph.eliminate_dead_code(is_impure_node=must_stay)
    return graph


def _overwrite_operand(graph: fx.Graph, node: fx.Node, root: nn.Module) -> None:
    """Let a sum add its second operand to its first, or to the other way round, and scale spikes on the way."""
    for target, other in (node.args, node.args[::-1]):
        assert isinstance(target, fx.Node)
        assert isinstance(other, fx.Node)
        if _is_fresh(target, root):
            allowed = _permission(graph, node, target)
            scaled = other.op == "call_function" and other.target is timefold.scale
            operands = other.args if scaled else (other,)
            with graph.inserting_before(node):
                result = graph.call_function(add_scaled if scaled else add, (target, *operands, allowed))
            node.replace_all_uses_with(result)
            graph.erase_node(node)
            return


def _permission(graph: fx.Graph, before: fx.Node, *calls: fx.Node) -> fx.Node:
    """A node that tells, when the graph runs, whether what the modules that are called give may be overwritten."""
    with graph.inserting_before(before):
        modules = [graph.create_node("get_attr", str(node.target)) for node in calls if node.op == "call_module"]
        return graph.call_function(may_overwrite, tuple(modules))


def may_overwrite(*modules: nn.Module) -> bool:
    """Whether no one observes ``modules``, and each is, still, one that gives memory of its own."""
    return unobserved(*modules) and all(type(m) in _CLASSES and "forward" not in vars(m) for m in modules)


def _before_sequence(node: fx.Node) -> fx.Node | None:
    """What a neuron of a :func:`pascal_ext.network.counting.counts_graph` reads; None of other nodes."""
    source = node.args[0] if node.op == "call_module" and node.args else None
    if not isinstance(source, fx.Node) or source.target is not timefold.as_sequence or len(source.users) > 1:
        return None
    currents = source.args[0]
    return currents if isinstance(currents, fx.Node) else None


def _is_fresh(value: fx.Node | None, root: nn.Module) -> bool:
    """Whether a value is memory of its own that one node alone reads: the output of a layer, or a sum."""
    if value is None or len(value.users) != 1:
        return False
    if value.op == "call_module":
        return kind_of(value, root) in _FRESH
    return _is_sum(value) or value.target in (add, add_scaled, call_normed)


def _is_sum(node: fx.Node) -> bool:
    plain = node.op == "call_function" and node.target is operator.add
    return plain and len(node.args) == 2 and all(isinstance(arg, fx.Node) for arg in node.args)


def add(x: Any, other: Any, in_place: bool) -> Any:
    """``x + other``; the result takes the place of ``x`` where that is allowed, and fits."""
    return x.add_(other) if in_place and _fits(x, other) else x + other


def add_scaled(x: Any, spikes: Any, threshold: Tensor, in_place: bool) -> Any:
    """``x + threshold * spikes``; likewise, in one pass, for a threshold that is a scalar."""
    if in_place and threshold.numel() == 1 and _fits(x, spikes):
        return x.addcmul_(spikes, threshold.to(x.dtype))  # the product with 0 or 1 is exact, so one rounding is all
    return x + timefold.scale(spikes, threshold)


def _fits(x: Any, other: Any) -> bool:
    """Whether ``x + other`` is as large as ``x``, and of its dtype."""
    if not isinstance(x, Tensor) or not isinstance(other, Tensor) or x.dtype != other.dtype:
        return False
    if x.shape == other.shape:
        return True
    return torch.broadcast_shapes(x.shape, other.shape) == x.shape  # slow: it reckons with symbols
