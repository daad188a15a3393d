"""Tensors that are stacked only to be reduced again: ``torch.stack([a, b]).mean(0)`` is ``(a + b) / 2``, and needs no
dimension in front of the samples.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from pascal_ext.graph.operations import argument, name_of

_BETWEEN: dict[str, Any] = {"sum": torch.add, "mean": torch.add, "amax": torch.maximum, "amin": torch.minimum}


def reduce_stacks(graph: fx.Graph) -> None:
    """Write sums, means, maxima and minima over the first dimension of a stack as what they do between its tensors."""
    for node in list(graph.nodes):
        first, *others = _stacked(node) or (None,)
        if first is None:
            continue
        stack = argument(node, 0, "input", None)
        steps: list[tuple[Any, fx.Node | int]] = [(_BETWEEN[name_of(node)], other) for other in others]
        if name_of(node) == "mean":
            steps.append((operator.truediv, len(others) + 1))
        reduced = first
        for function, operand in steps:
            with graph.inserting_before(node):
                reduced = graph.call_function(function, (reduced, operand))
            reduced.meta = dict(node.meta)  # with the user's source line
        node.replace_all_uses_with(reduced)
        graph.erase_node(node)
        if not stack.users:
            graph.erase_node(stack)


def _stacked(node: fx.Node) -> list[fx.Node]:
    """The tensors that ``node`` reduces; none where it is something else."""
    stack = argument(node, 0, "input", None)
    if name_of(node) not in _BETWEEN or not isinstance(stack, fx.Node) or name_of(stack) != "stack":
        return []
    along = argument(node, 1, "dim", None) in (0, (0,), [0]) and argument(stack, 1, "dim", 0) == 0
    if not along or argument(node, 2, "keepdim", False) or "dtype" in node.kwargs:
        return []
    tensors = argument(stack, 0, "tensors", ())
    return list(tensors) if isinstance(tensors, (tuple, list)) else []
