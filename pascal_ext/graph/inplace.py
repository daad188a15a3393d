"""In-place operations of a traced graph, made ordinary ones, whose results no other name can change."""

from __future__ import annotations

import inspect
import operator
import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pascal_ext.errors import TracingError
from pascal_ext.graph.branches import is_number
from pascal_ext.graph.kinds import is_known_function
from pascal_ext.graph.operations import argument, describe, source_line

# What may return its input, or a view of it. A test runs all functions of torch to see that none is missing.
_VIEWS = frozenset(
    "adjoint alpha_dropout as_strided atleast_1d atleast_2d atleast_3d bfloat16 broadcast_tensors broadcast_to "
    "cartesian_prod chunk conj conj_physical contiguous cpu cuda dequantize detach diagonal double drop_block2d "
    "drop_block3d dropout dropout1d dropout2d dropout3d dsplit einsum expand expand_as feature_alpha_dropout flatten "
    "float getitem half hsplit imag index linalg_diagonal meshgrid moveaxis movedim narrow permute positive ravel real "
    "reshape reshape_as resize resize_as resolve_conj resolve_neg select slice_inverse split split_with_sizes squeeze "
    "stochastic_depth sum_to_size swapaxes swapdims t tensor_split to to_dense transpose type type_as unbind unflatten "
    "unfold unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze view view_as view_as_complex view_as_real "
    "vsplit".split()
)
_VIEW_ATTRIBUTES = ("H", "T", "data", "imag", "mH", "mT", "real")
_FILLING: dict[str, Any] = {"zero_": torch.zeros_like, "fill_": torch.full_like}
_VIEW_MODULES = (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)


def remove_inplace(traced: fx.GraphModule) -> None:
    """Make in-place operations ordinary ones whose result every later reader of the operand sees.

    Raises:
        TracingError: such an operation changes a tensor of which another name, a view, is read later; or nothing does
            the same out of place; or an operation writes into ``out=``.
    """
    inplace_modules = {name for name, module in traced.named_modules() if getattr(module, "inplace", False) is True}
    for name in inplace_modules:
        module: Any = traced.get_submodule(name)
        module.inplace = False  # of the copy: the model keeps its own
    order = {node: position for position, node in enumerate(traced.graph.nodes)}
    aliases: dict[fx.Node, list[fx.Node]] = {}  # the nodes that share memory with a node, in one list for all of them
    for node in traced.graph.nodes:
        if node.kwargs.get("out") is not None:
            raise TracingError(f"{describe(node, traced)} writes into out={node.kwargs['out']}; use what it returns")
        if not (node.target in inplace_modules if node.op == "call_module" else _make_out_of_place(node, traced)):
            sources = _sharing(node, traced)
            if sources:
                family = list(dict.fromkeys([*(n for source in sources for n in aliases.get(source, [source])), node]))
                aliases.update(dict.fromkeys(family, family))
            continue
        source = _operand(node)
        if source is None or is_number(source):
            continue  # n += 1 makes another number, and leaves the first alone
        for alias in aliases.get(source, []):
            late = [user for user in alias.users if order[user] > order[node]] if alias is not source else []
            if late:
                raise TracingError(
                    f"the in-place operation {node.name!r}{source_line(node)} changes {source.name!r}, which shares "
                    f"memory with {alias.name!r}, and {late[0].name!r} reads that later; write it out of place in "
                    "forward()"
                )
        for user in list(source.users):
            if order[user] > order[node]:
                user.replace_input_with(source, node)


def _operand(node: fx.Node) -> fx.Node | None:
    source = node.args[0] if node.args else node.kwargs.get("input")
    return source if isinstance(source, fx.Node) else None


def _sharing(node: fx.Node, traced: fx.GraphModule) -> list[fx.Node]:
    """The values of which the result of ``node`` may be a view, or that tensor itself."""
    first = [] if (operand := _operand(node)) is None else [operand]
    if node.op == "call_module":
        return first if isinstance(traced.get_submodule(str(node.target)), _VIEW_MODULES) else []
    if node.op not in ("call_function", "call_method"):
        return []
    if node.target is getattr:
        return first if node.args[1] in _VIEW_ATTRIBUTES else []
    name = _plain_name(node)
    if name.endswith("_as") and name in _VIEWS:
        return first  # of the other tensor, it takes the shape or the dtype
    if name in _VIEWS or (node.op == "call_function" and not is_known_function(node.target)):
        return [source for source in node.all_input_nodes if not is_number(source)]
    return []


def _plain_name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _make_out_of_place(node: fx.Node, traced: fx.GraphModule) -> bool:
    """Rewrite a function or method that works in place; False where the node is none.

    Raises:
        TracingError: nothing does the same out of place.
    """
    name = _plain_name(node)
    if node.op == "call_function" and getattr(operator, name, None) is node.target:
        plain = getattr(operator, name[1:], None) if name.startswith("i") else None  # iadd -> add
        node.target = plain or node.target
        return plain is not None
    position = _inplace_position(node.target) if node.op == "call_function" else sys.maxsize
    if node.op == "call_function" and argument(node, position, "inplace", False):
        node.args = node.args[:position]
        node.kwargs = {**node.kwargs, "inplace": False}
        return True
    is_call = node.op == "call_method" or (node.op == "call_function" and is_known_function(node.target))
    if not is_call or not name.endswith("_") or name.endswith("__"):
        return False
    if name in _FILLING and all(not isinstance(value, fx.Node) for value in node.args[1:]):
        node.op, node.target = "call_function", _FILLING[name]
        return True
    if node.op == "call_method":
        plain = name[:-1] if callable(getattr(Tensor, name[:-1], None)) else None
    else:
        plain = getattr(F, name[:-1], None) or getattr(torch, name[:-1], None)
    if plain is None or _operand(node) is None:
        raise TracingError(
            f"{describe(node, traced)} works in place, and nothing does the same out of place; write in forward() what "
            "it computes as an expression with a name of its own"
        )
    node.target = plain
    return True


def _inplace_position(function: Any) -> int:
    """Where the flag ``inplace`` stands among the arguments of ``function``; beyond all of them where it has none."""
    try:
        return list(inspect.signature(function).parameters).index("inplace")
    except (TypeError, ValueError):
        return sys.maxsize
