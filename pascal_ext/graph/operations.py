"""Questions about one node of a traced graph: what it calls, on what, along which dimensions, written where."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Container
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

_ALIASES = {"_assert": "_assert", "rsub": "sub", "radd": "add", "subtract": "sub"}
CREATIONS: frozenset[Any] = frozenset((torch.arange, torch.eye, torch.full, torch.linspace, torch.ones, torch.zeros))
"""What makes tensors of numbers alone, which torch lets no proxy override."""
METADATA_ATTRIBUTES = frozenset({"shape", "ndim", "dtype", "device", "is_cuda", "requires_grad"})
_NUMPY_KEYWORDS = {"dim": "axis", "keepdim": "keepdims"}

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
    "unbind": [(1, "dim", 0)],
    "narrow": [(1, "dim", None)],
    "select": [(1, "dim", None)],
    "flip": [(1, "dims", None)],
    "roll": [(2, "dims", None)],
    "mean": [(1, "dim", None)],
    "sum": [(1, "dim", None)],
    "cumsum": [(1, "dim", None)],
    "amax": [(1, "dim", None)],
    "amin": [(1, "dim", None)],
    "cat": [(1, "dim", 0)],
    "stack": [(1, "dim", 0)],
}
_DIM_ARGUMENTS["concat"] = _DIM_ARGUMENTS["concatenate"] = _DIM_ARGUMENTS["cat"]


def name_of(node: fx.Node) -> str:
    """The plain name of the function or method that ``node`` calls, e.g. ``flatten``; empty for a module."""
    if node.op == "call_module":
        return ""
    if isinstance(node.target, str):
        return node.target
    name = getattr(node.target, "__name__", str(node.target))
    return _ALIASES.get(name, name.strip("_"))


def argument(node: fx.Node, position: int, keyword: str, default: Any) -> Any:
    """An argument of a call, given by position or by keyword; NumPy's keywords, which torch knows too, included."""
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(keyword, node.kwargs.get(_NUMPY_KEYWORDS.get(keyword, keyword), default))


def unlike(name: str, taken: Container[str]) -> str:
    """``name``, with as many underscores after it as it takes to be none of ``taken``."""
    return name if name not in taken else unlike(f"{name}_", taken)


def reads(node: fx.Node, signals: Container[fx.Node]) -> list[fx.Node]:
    """The signals among the arguments of ``node``, each as often as it is read."""
    found: list[fx.Node] = []
    fx.node.map_arg((node.args, node.kwargs), found.append)
    return [source for source in found if source in signals]


def is_first_argument(node: fx.Node, source: fx.Node) -> bool:
    """Whether ``source`` is what ``node`` works on, and not its weight or its divisor; a factor may be either."""
    if node.op == "call_module" or name_of(node) in ("mul", "multiply", "matmul", "mm", "einsum"):
        return True
    return argument(node, 0, "input", None) is source


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
        varying, parameters, output = einsum_terms(node)
        leads = bool(varying) and all(term[:1] == output[:1] for term in varying)
        return [] if leads and "".join(varying + parameters).count(output[0]) == len(varying) else [0]
    if name == "getattr":
        return [0] if node.args[1] == "T" else [-2, -1]
    if name == "getitem":
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


def second_factor(node: fx.Node) -> Any:
    """What a product of matrices has on the right."""
    return argument(node, 1, "mat2" if name_of(node) == "mm" else "other", None)


def is_matrix(factor: Any, root: nn.Module) -> bool:
    """Whether the factor of a product is a parameter or buffer without a batch, perhaps transposed."""
    while isinstance(factor, fx.Node) and (
        name_of(factor) in ("t", "transpose") or factor.args[1:] in (("T",), ("mT",))
    ):
        factor = factor.args[0]
    if not isinstance(factor, fx.Node) or factor.op != "get_attr":
        return False
    return bool(operator.attrgetter(str(factor.target))(root).ndim <= 2)


def einsum_terms(node: fx.Node) -> tuple[list[str], list[str], str]:
    """The subscripts of the operands of an einsum that vary, of those that are parameters, and of its output.

    Nothing varies where the subscripts are left to torch: no output, an ellipsis, or numbers in the place of letters.
    """
    equation, *operands = node.args
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = list(operands[0])
    inputs, arrow, output = str(equation).replace(" ", "").partition("->")
    if not isinstance(equation, str) or not arrow or "." in inputs:
        return [], [], ""
    terms: tuple[list[str], list[str]] = [], []
    for term, operand in zip(inputs.split(","), operands, strict=False):  # torch says if one is missing
        terms[isinstance(operand, fx.Node) and operand.op == "get_attr"].append(term)
    return *terms, output


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


def is_flatten(node: fx.Node, root: nn.Module) -> bool:
    """Whether ``node`` flattens all dimensions but the first: ``flatten(1)``, ``view(n, -1)``, ``reshape(n, -1)``."""
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        return isinstance(module, nn.Flatten) and bool(module.start_dim == 1 and module.end_dim == -1)
    if name_of(node) == "flatten":
        return argument(node, 1, "start_dim", 0) == 1 and argument(node, 2, "end_dim", -1) == -1
    shape = shape_argument(node)
    return name_of(node) in ("view", "reshape") and bool(len(shape) == 2 and shape[1] == -1)


def shape_argument(node: fx.Node) -> tuple[Any, ...]:
    """The sizes that ``view``, ``reshape``, ``expand``, ``new_zeros``, ``zeros`` and their like are given."""
    first = 0 if node.op == "call_function" and node.target in CREATIONS else 1
    shape: tuple[Any, ...] = node.args[first:] or (node.kwargs.get("shape", node.kwargs.get("size", ())),)
    return tuple(shape[0]) if isinstance(shape[0], (tuple, list)) else shape


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


def returns_sequence(node: fx.Node, root: nn.Module) -> bool:
    """Whether an operation without spiking counterpart returns a tuple of tensors."""
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        return isinstance(module, (nn.MultiheadAttention, nn.RNNBase)) or bool(getattr(module, "return_indices", False))
    name = name_of(node)
    if name in ("max", "min", "median"):
        return "dim" in node.kwargs or (len(node.args) > 1 and isinstance(node.args[1], int))
    return name in ("topk", "sort", "kthvalue", "mode", "aminmax", "var_mean", "std_mean")


def asked_size(node: fx.Node) -> tuple[fx.Node, int] | None:
    """The tensor and the dimension of ``x.size(dim)`` or ``x.shape[dim]``; None where ``node`` asks for no one size."""
    if node.op not in ("call_function", "call_method") or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    tensor: Any = node.args[0]
    dim: Any = None
    if name_of(node) == "size":
        dim = argument(node, 1, "dim", None)
    elif name_of(node) == "getitem":
        tensor, dim = asked_shape(tensor), node.args[1]
    return (tensor, dim) if isinstance(tensor, fx.Node) and isinstance(dim, int) else None


def asked_shape(node: Any) -> fx.Node | None:
    """The tensor of ``x.size()`` or ``x.shape``; None where ``node`` is something else."""
    if not isinstance(node, fx.Node) or node.op not in ("call_function", "call_method") or not node.args:
        return None
    is_shape = name_of(node) == "getattr" and node.args[1] == "shape"
    is_shape = is_shape or (name_of(node) == "size" and argument(node, 1, "dim", None) is None)
    return node.args[0] if is_shape and isinstance(node.args[0], fx.Node) else None


def asked_sizes(node: fx.Node) -> tuple[fx.Node, slice] | None:
    """The tensor, and the part of its shape, of ``x.shape`` or ``x.shape[1:]``; None of something else."""
    whole = asked_shape(node)
    if whole is not None:
        return whole, slice(None)
    if name_of(node) != "getitem" or not isinstance(node.args[1], slice):
        return None
    tensor, part = asked_shape(node.args[0]), node.args[1]
    numbers = all(isinstance(end, int | None) for end in (part.start, part.stop, part.step))
    return None if tensor is None or not numbers else (tensor, part)


_TRACING = [str(Path(__file__).with_name(name)) for name in ("tracing.py", "tracer.py", "branches.py")]


def describe(node: fx.Node, root: nn.Module) -> str:
    """The node for a person: its name, what it calls, and the source line where tracing knows it."""
    if node.op == "call_module":
        what = f"layer {str(node.target)!r} ({type(root.get_submodule(str(node.target))).__name__})"
    else:
        what = f"operation {node.name!r} ({node.args[1] if node.target is getattr else name_of(node)})"
    return f"{what}{where}," if (where := source_line(node)) else what


def source_line(node: fx.Node) -> str:
    """Where in the model's code a node was made: " at FILE:LINE, `CODE`"; empty where tracing does not know it."""
    frames = re.findall(r'File "([^"]+)", line (\d+), in (\S+)\n\s+(.*)', node.meta.get("stack_trace") or "")
    own = [frame for frame in frames if f"{os.sep}torch{os.sep}" not in frame[0] and frame[0] not in _TRACING]
    return f" at {own[-1][0]}:{own[-1][1]}, `{own[-1][3].strip()}`" if own else ""
