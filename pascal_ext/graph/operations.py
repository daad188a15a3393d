"""Questions about one node of a traced graph: what it calls, on what, written where."""

from __future__ import annotations

import os
import re
from collections.abc import Container
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

_ALIASES = {"_assert": "_assert", "rsub": "sub", "radd": "add", "subtract": "sub"}
CREATIONS: frozenset[Any] = frozenset(
    (torch.arange, torch.empty, torch.eye, torch.full, torch.linspace, torch.ones, torch.zeros)
)
"""What makes tensors of numbers alone, which torch lets no proxy override."""
DIVISIONS = ("chunk", "split", "tensor_split", "unbind")
METADATA_ATTRIBUTES = frozenset({"shape", "ndim", "dtype", "device", "is_cuda", "requires_grad"})
_NUMPY_KEYWORDS = {"dim": "axis", "keepdim": "keepdims"}


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
