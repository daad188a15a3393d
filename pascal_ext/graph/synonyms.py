"""Operations that are others in a shorter form, written out as those: ``y.expand_as(x)`` is ``y.expand(x.shape)``."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from pascal_ext.graph.kinds import is_known_function
from pascal_ext.graph.operations import METADATA_ATTRIBUTES, argument, asked_sizes, name_of

_FILLED = {torch.empty: torch.zeros, torch.empty_like: torch.zeros_like, "new_empty": "new_zeros"}  # later, by parts
_SHAPED_LIKE = {"expand_as": "expand", "view_as": "view", "reshape_as": "reshape"}


def write_out(graph: fx.Graph) -> None:
    """Write out what is shaped, or typed, like another tensor, cuts and joins along dimension 1, interpolations, sums
    with a product of matrices, and numbers of elements, in which the size of the batch is a factor.
    """
    for node in list(graph.nodes):
        if node.op != "call_method" and not (node.op == "call_function" and is_known_function(node.target)):
            continue
        node.target = _FILLED.get(node.target, node.target)
        x, other = argument(node, 0, "input", None), argument(node, 1, "other", None)
        match name_of(node):
            case "expand_as" | "view_as" | "reshape_as" if isinstance(other, fx.Node):
                _become(node, _SHAPED_LIKE[name_of(node)], x, _attribute(node, other, "shape"))
            case "broadcast_to":
                _become(node, "expand", x, argument(node, 1, "size", None))
            case "type_as" | "to" if isinstance(other, fx.Node) and other.op != "get_attr" and not _is_metadata(other):
                _become(node, "to", x, _attribute(node, other, "device"), _attribute(node, other, "dtype"))
            case "numel" | "nelement" if (end := _end(x)) != 0:
                shape = _attribute(node, (asked_sizes(x) or (x,))[0], "shape")
                rest = _insert(node, "numel", _insert(node, operator.getitem, shape, slice(1, end)))
                _become(node, operator.mul, _insert(node, operator.getitem, shape, 0), rest)
            case "hsplit" if len(node.args) == 2:
                _become(node, torch.tensor_split, *node.args, 1)
            case "hstack" if len(node.args) == 1:
                _become(node, torch.cat, *node.args, 1)
            case "lerp" if len(node.args) == 3:
                difference = _insert(node, torch.sub, node.args[1], x)
                _become(node, torch.add, x, _insert(node, torch.mul, difference, node.args[2]))
            case "addmm" if len(node.args) == 3 and not node.kwargs:  # else it has factors
                _become(node, torch.add, _insert(node, torch.mm, *node.args[1:]), x)


def _end(x: Any) -> int | None:
    """Where ``x.shape[:end]`` ends; None where it does not, or ``x`` is a tensor; 0 where it leaves the batch out."""
    _, part = asked_sizes(x) or (x, slice(None))
    return part.stop if part.start in (None, 0) and part.step in (None, 1) else 0


def _become(node: fx.Node, target: Any, *args: Any) -> None:
    node.op, node.target, node.args, node.kwargs = _kind_of_call(target), target, args, {}


def _kind_of_call(target: Any) -> str:
    return "call_method" if isinstance(target, str) else "call_function"


def _attribute(before: fx.Node, tensor: fx.Node, name: str) -> fx.Node:
    return _insert(before, getattr, tensor, name)


def _insert(before: fx.Node, target: Any, *args: Any) -> fx.Node:
    with before.graph.inserting_before(before):
        inserted = before.graph.create_node(_kind_of_call(target), target, args)
    inserted.meta = dict(before.meta)  # with the user's source line
    return inserted


def _is_metadata(node: fx.Node) -> bool:
    """Whether ``x.to(node)`` is given a dtype or a device, and not a tensor."""
    return name_of(node) == "getattr" and node.args[1] in METADATA_ATTRIBUTES
