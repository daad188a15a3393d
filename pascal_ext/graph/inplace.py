"""In-place operations of a traced graph, made ordinary ones, whose results no other name can change."""

from __future__ import annotations

import inspect
import operator
import sys
from types import EllipsisType, NoneType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pascal_ext.errors import TracingError
from pascal_ext.graph.branches import is_number
from pascal_ext.graph.kinds import is_known_function
from pascal_ext.graph.operations import argument, describe, name_of, source_line
from pascal_ext.ops.assignment import assigned

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
_MADE_IN_FORWARD = "_tensor_constant"  # how tracing names a tensor that is no parameter and no buffer
_FILLING: dict[str, Any] = {"zero_": torch.zeros_like, "fill_": torch.full_like}
_VIEW_MODULES = (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)


def remove_inplace(traced: fx.GraphModule) -> None:
    """Make in-place operations ordinary ones whose result every later reader of the operand sees.

    So does a reader of the tensor that the operand is a part of: ``part = x[:, 1:]; part += y`` is written back into x.

    Raises:
        TracingError: such an operation changes a parameter or a buffer, or a tensor of which another name, a view, is
            read later; or nothing does the same out of place; or an operation writes into ``out=``.
    """
    inplace_modules = {name for name, module in traced.named_modules() if getattr(module, "inplace", False) is True}
    for name in inplace_modules:
        module: Any = traced.get_submodule(name)
        module.inplace = False  # of the copy: the model keeps its own
    memory = _Memory(traced)
    for node in list(traced.graph.nodes):
        if node.kwargs.get("out") is not None:
            raise TracingError(f"{describe(node, traced)} writes into out={node.kwargs['out']}; use what it returns")
        if _repeats(node):
            traced.graph.erase_node(node)
            continue
        is_module = node.op == "call_module"
        inplace = node.target in inplace_modules if is_module else _make_out_of_place(node, traced)
        source = _operand(node)
        if not inplace:
            memory.share(node, _sharing(node, traced))
        elif source is not None and not is_number(source):  # n += 1 makes another number, and leaves the first alone
            memory.change(source, node)


class _Memory:
    """Which values of a graph share memory, as its nodes are looked at one after the other.

    Args:
        traced: the graph; what reads a parameter or buffer reads one node for it afterwards.
    """

    def __init__(self, traced: fx.GraphModule) -> None:
        self._root = traced
        self._families: dict[fx.Node, list[fx.Node]] = {}  # the nodes that share memory with a node, one list for all
        self._parts: dict[fx.Node, tuple[fx.Node, Any]] = {}  # what x[index] made -> x, index
        self._order: dict[fx.Node, int] = {}
        attributes: dict[str, fx.Node] = {}
        places: dict[int, fx.Node] = {}
        for node in list(traced.graph.nodes):
            first = attributes.setdefault(str(node.target), node) if node.op == "get_attr" else node
            if first is not node:
                node.replace_all_uses_with(first)
                traced.graph.erase_node(node)
                continue
            self._order[node] = len(self._order)
            value = operator.attrgetter(str(node.target))(traced) if node.op == "get_attr" else None
            if isinstance(value, Tensor) and value.layout is torch.strided:
                self._join([places.setdefault(value.untyped_storage()._cdata, node), node])

    def _join(self, nodes: list[fx.Node]) -> None:
        family = list(dict.fromkeys(name for node in nodes for name in self._families.get(node, [node])))
        self._families.update(dict.fromkeys(family, family))

    def share(self, node: fx.Node, sources: list[fx.Node]) -> None:
        """``node`` may be a view of the ``sources``, or one of them."""
        if sources:
            self._join([*sources, node])
        source = _operand(node)
        if source is not None and _is_part(node):
            self._parts[node] = source, node.args[1]

    def change(self, source: fx.Node, node: fx.Node) -> None:
        """Let what reads ``source`` after ``node``, which stands for writing into it, read the result.

        Raises:
            TracingError: another value shares the memory, of which ``source`` is no part, and is read later; or it is
                the model's own.
        """
        family = self._families.get(source, [source])
        for alias in family:
            if alias.op == "get_attr" and not str(alias.target).startswith(_MADE_IN_FORWARD):
                raise TracingError(
                    f"{describe(node, self._root)} changes {alias.target!r}, and the next inputs would find it "
                    "changed, which a network cannot do; write it out of place in forward()"
                )
        late = {alias: [user for user in alias.users if self._order[user] > self._order[node]] for alias in family}
        operand, changed, last = source, {source: node}, node
        while any(late[alias] for alias in family if alias not in changed) and source in self._parts:
            part, (source, index) = source, self._parts[source]
            with self._root.graph.inserting_after(last):
                last = self._root.graph.call_function(assigned, (source, index, changed[part]))
            last.meta = dict(node.meta)
            self._order[last] = self._order[node]
            changed[source] = last
            self._parts[changed[part]] = last, index
        for alias in family:
            if late[alias] and alias not in changed:
                raise TracingError(
                    f"the in-place operation {node.name!r}{source_line(node)} changes {operand.name!r}, which shares "
                    f"memory with {alias.name!r}, and {late[alias][0].name!r} reads that later; write it out of place "
                    "in forward()"
                )
        for old, new in changed.items():
            for user in late[old]:
                user.replace_input_with(old, new)
        self._join(list(changed.values()))


def _operand(node: fx.Node) -> fx.Node | None:
    source = node.args[0] if node.args else node.kwargs.get("input")
    return source if isinstance(source, fx.Node) else None


def _is_part(node: fx.Node) -> bool:
    """Whether a node is ``x[index]`` of a tensor x, and a view of that."""
    if node.target is not operator.getitem or not isinstance(node.args[1], tuple | EllipsisType):
        return False  # a bare number or slice may be one of a sequence
    entries = node.args[1] if isinstance(node.args[1], tuple) else ()
    basic = (int, slice, EllipsisType, NoneType)
    return all(is_number(entry) if isinstance(entry, fx.Node) else type(entry) in basic for entry in entries)


def _repeats(node: fx.Node) -> bool:
    """Whether a node writes what has just been written back, as the end of ``x[index] += y`` does."""
    if node.target is not operator.setitem or not isinstance(node.args[0], fx.Node):
        return False
    return node.args[0].target is assigned and node.args[0].args[1:] == node.args[1:]


def _is_copy(index: Any, root: nn.Module) -> bool:
    """Whether ``x[index]`` is surely no view of x, since there are lists or tensors in the index."""
    for entry in index if isinstance(index, tuple) else (index,):
        if isinstance(entry, fx.Node) and entry.op == "get_attr":
            entry = operator.attrgetter(str(entry.target))(root)
        if isinstance(entry, list) or (isinstance(entry, Tensor) and entry.ndim):
            return True
    return False


def _fills(node: fx.Node) -> bool:
    """Whether an item assignment is ``x[x < 0] = 0``, say; a mask of another tensor may have fewer dimensions."""
    x, mask, value = node.args
    compares = isinstance(mask, fx.Node) and name_of(mask) in ("ge", "gt", "le", "lt") and mask.args[:1] == (x,)
    return compares and isinstance(value, int | float)


def _sharing(node: fx.Node, traced: fx.GraphModule) -> list[fx.Node]:
    """The values of which the result of ``node`` may be a view, or that tensor itself."""
    first = [] if (operand := _operand(node)) is None else [operand]
    if node.op == "call_module":
        return first if isinstance(traced.get_submodule(str(node.target)), _VIEW_MODULES) else []
    if node.op not in ("call_function", "call_method"):
        return []
    if node.target is assigned or (node.target is operator.getitem and _is_copy(node.args[1], traced)):
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
    if node.target in (operator.setitem, "__setitem__"):
        node.op, node.target = "call_function", torch.masked_fill if _fills(node) else assigned
        return True
    if node.op == "call_method" and name == "copy_":
        node.op, node.target = "call_function", assigned
        written: Any = (node.args[0], ..., argument(node, 1, "src", None))
        node.args, node.kwargs = written, {}
        return True
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
