"""In-place operations of a traced graph, made ordinary ones, whose results no other name can change."""

from __future__ import annotations

import inspect
import operator
import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from pascal_ext.branches import is_number
from pascal_ext.errors import TracingError
from pascal_ext.operations import argument

_VIEWS = frozenset(
    "alpha_dropout as_strided chunk contiguous cpu detach diagonal double dropout dropout1d dropout2d dropout3d expand "
    "expand_as feature_alpha_dropout flatten float getitem half movedim narrow permute ravel reshape select split "
    "squeeze swapaxes swapdims to transpose type_as unbind unflatten unfold unsqueeze view view_as".split()
)
_VIEW_MODULES = (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)


def remove_inplace(traced: fx.GraphModule) -> None:
    """Make in-place operations ordinary ones whose result every later reader of the operand sees.

    Raises:
        TracingError: such an operation changes a tensor of which another name, a view, is read later.
    """
    inplace_modules = {name for name, module in traced.named_modules() if getattr(module, "inplace", False) is True}
    for name in inplace_modules:
        module: Any = traced.get_submodule(name)
        module.inplace = False  # of the copy: the model keeps its own
    order = {node: position for position, node in enumerate(traced.graph.nodes)}
    aliases: dict[fx.Node, list[fx.Node]] = {}  # the nodes that share memory with a node, in one list for all of them
    for node in traced.graph.nodes:
        source = node.args[0] if node.args else node.kwargs.get("input")
        if not isinstance(source, fx.Node):
            continue
        if not (node.target in inplace_modules if node.op == "call_module" else _make_out_of_place(node)):
            if _shares_memory(node, traced):
                family = aliases.setdefault(source, [source])
                family.append(node)
                aliases[node] = family
            continue
        if is_number(source):
            continue  # n += 1 makes another number, and leaves the first alone
        for alias in aliases.get(source, []):
            late = [user for user in alias.users if order[user] > order[node]] if alias is not source else []
            if late:
                raise TracingError(
                    f"the in-place operation {node.name!r} changes {source.name!r}, which shares memory with "
                    f"{alias.name!r}, and {late[0].name!r} reads that later; write it out of place in forward()"
                )
        for user in list(source.users):
            if order[user] > order[node]:
                user.replace_input_with(source, node)


def _shares_memory(node: fx.Node, traced: fx.GraphModule) -> bool:
    """Whether the result of ``node`` may be a view of its first argument, or be that tensor itself."""
    if node.op == "call_module":
        return isinstance(traced.get_submodule(str(node.target)), _VIEW_MODULES)
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in ("T", "mT", "data", "real")
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("call_method", "call_function") and name in _VIEWS


def _make_out_of_place(node: fx.Node) -> bool:
    """Rewrite a function or method that works in place; False where the node is none."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if node.op == "call_function" and getattr(operator, name, None) is node.target:
        plain = getattr(operator, name[1:], None) if name.startswith("i") else None  # iadd -> add
        node.target = plain or node.target
        return plain is not None
    if node.op == "call_function" and argument(node, _inplace_position(node.target), "inplace", False) is True:
        position = _inplace_position(node.target)
        node.args = node.args[:position]
        node.kwargs = {**node.kwargs, "inplace": False}
        return True
    if not name.endswith("_") or name.endswith("__"):
        return False
    if node.op == "call_method":
        node.target = name[:-1]
        return True
    plain = getattr(F, name[:-1], None) or getattr(torch, name[:-1], None)
    if node.op == "call_function" and plain is not None:
        node.target = plain
        return True
    return False


def _inplace_position(function: Any) -> int:
    """Where the flag ``inplace`` stands among the arguments of ``function``; beyond all of them where it has none."""
    try:
        return list(inspect.signature(function).parameters).index("inplace")
    except (TypeError, ValueError):
        return sys.maxsize
