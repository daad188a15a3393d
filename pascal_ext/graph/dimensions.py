"""Along which dimensions the operations of a traced graph work."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, fx, nn

from pascal_ext.graph.operations import argument, name_of
from pascal_ext.graph.products import einsum_dims, is_matrix, second_factor

# Where the dimensions that an operation works along stand among its arguments: (position, keyword, default).
_DIM_ARGUMENTS: dict[str, list[tuple[int, str, Any]]] = {
    "flatten": [(1, "start_dim", 0)],
    "unflatten": [(1, "dim", None)],
    "transpose": [(1, "dim0", None), (2, "dim1", None)],
    "swapaxes": [(1, "axis0", None), (2, "axis1", None)],
    "swapdims": [(1, "dim0", None), (2, "dim1", None)],
    "movedim": [(1, "source", None), (2, "destination", None)],
    "moveaxis": [(1, "source", None), (2, "destination", None)],
    "squeeze": [(1, "dim", None)],
    "unsqueeze": [(1, "dim", None)],
    "chunk": [(2, "dim", 0)],
    "split": [(2, "dim", 0)],
    "tensor_split": [(2, "dim", 0)],
    "unbind": [(1, "dim", 0)],
    "narrow": [(1, "dim", None)],
    "select": [(1, "dim", None)],
    "index_select": [(1, "dim", None)],
    "repeat_interleave": [(2, "dim", None)],
    "flip": [(1, "dims", None)],
    "roll": [(2, "dims", None)],
    "rot90": [(2, "dims", (0, 1))],
    "mean": [(1, "dim", None)],
    "sum": [(1, "dim", None)],
    "cumsum": [(1, "dim", None)],
    "amax": [(1, "dim", None)],
    "amin": [(1, "dim", None)],
    "cat": [(1, "dim", 0)],
    "stack": [(1, "dim", 0)],
}
_DIM_ARGUMENTS["concat"] = _DIM_ARGUMENTS["concatenate"] = _DIM_ARGUMENTS["cat"]


def dims_of(node: fx.Node, root: nn.Module) -> list[int] | None:
    """The dimensions that the operation works along, as written; None for all of them."""
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        if isinstance(module, nn.Flatten):
            return [int(module.start_dim)]
        return [int(module.dim)] if isinstance(module, nn.Unflatten) else []
    name = name_of(node)
    if name in ("matmul", "mm"):
        return [-1] if is_matrix(second_factor(node), root) else [-2]
    if name == "einsum":
        return einsum_dims(node)
    if name == "getattr":
        return [0] if node.args[1] == "T" else [-2, -1]
    if name in ("getitem", "assigned"):
        return _indexed_dims(node.args[1])
    if name == "permute":
        dims = node.args[1:] if len(node.args) > 2 else argument(node, 1, "dims", ())
        dims = dims[0] if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
        return [] if dims and dims[0] == 0 else [0]
    if name == "unfold" and node.op == "call_method":  # windows along a dimension; F.unfold is another thing
        dim = argument(node, 1, "dimension", 0)
        return [dim] if isinstance(dim, int) else [0]
    found: list[int] = []
    for position, keyword, default in _DIM_ARGUMENTS.get(name, []):
        value = argument(node, position, keyword, default)
        if name in ("flip", "squeeze", "sum", "mean") and isinstance(value, int) and not isinstance(value, bool):
            value = [value, *(arg for arg in node.args[position + 1 :] if name == "flip")]
        if value is None or (value in ([], ()) and name in ("sum", "mean", "amax", "amin")):
            return None
        found += [
            dim if isinstance(dim, int) else 0 for dim in (value if isinstance(value, (tuple, list)) else [value])
        ]
    return found


def padded_dims(node: fx.Node, root: nn.Module) -> int:
    """How many of the last dimensions a padding pads; 0 for other operations."""
    if node.op == "call_module":
        widths = getattr(root.get_submodule(str(node.target)), "padding", ())
        is_padding = type(root.get_submodule(str(node.target))).__module__ == nn.ZeroPad2d.__module__
        return len(widths) // 2 if is_padding else 0
    widths = argument(node, 1, "pad", ()) if name_of(node) == "pad" else ()
    return len(widths) // 2 if isinstance(widths, (tuple, list)) else 0


def pooled_dims(node: fx.Node, root: nn.Module) -> int:
    """The k of ``avg_pool{k}d``, ``MaxPool{k}d`` ...; 0 for other operations."""
    name = type(root.get_submodule(str(node.target))).__name__ if node.op == "call_module" else name_of(node)
    found = re.fullmatch(r".*pool(\d)d", name.lower())
    return int(found.group(1)) if found else 0


def indexed_away(index: Any) -> int | None:
    """How many dimensions fewer than x ``x[index]`` has; None where the index does not tell."""
    entries = index if isinstance(index, tuple) else (index,)
    lists = [entry for entry in entries if isinstance(entry, list)]
    numbers = sum(type(entry) is int for entry in entries)
    known = all(
        entry is None or entry is Ellipsis or isinstance(entry, slice)
        for entry in entries
        if type(entry) not in (int, list)
    )
    if not known or any(type(number) is not int for entry in lists for number in entry):
        return None
    return numbers + max(len(lists) - 1, 0) - sum(entry is None for entry in entries)


def _indexed_dims(index: Any) -> list[int]:
    """The outermost dimension that ``x[index]`` looks into, or [] where that is none but the whole of dimension 0."""
    entries = index if isinstance(index, tuple) else (index,)
    lists = [position for position, entry in enumerate(entries) if isinstance(entry, (list, fx.Node, Tensor))]
    if lists and lists[-1] - lists[0] >= len(lists):
        return [0]  # index lists that are not side by side: their dimension becomes the first
    first = entries[0] if entries else Ellipsis
    if first is Ellipsis:
        rest = [entry for entry in entries[1:] if entry is not None]
        return [-len(rest)] if rest else []
    return [] if first == slice(None) or isinstance(first, str) else [0]
