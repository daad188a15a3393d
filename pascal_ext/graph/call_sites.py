"""Calls of activations and dropouts in a traced graph: each a module with a name of its own."""

from __future__ import annotations

import copy
import inspect
import math
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pascal_ext.graph.branches import varying
from pascal_ext.graph.kinds import Kind, is_known_function, kind_of
from pascal_ext.graph.operations import argument, name_of
from pascal_ext.qcfs import QCFS

_DROPOUTS = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
}
_DROPS = {"stochastic_depth": 3, "drop_block2d": 5, "drop_block3d": 5}  # the position of ``training``
_FUNCTIONS: dict[Any, str] = {
    F.relu: "relu",
    torch.relu: "relu",
    F.relu6: "relu6",
    F.hardtanh: "hardtanh",
    torch.clamp: "clamp",
    torch.clip: "clamp",
    torch.clamp_min: "clamp",
    F.threshold: "threshold",
    torch.threshold: "threshold",
    F.leaky_relu: "leaky_relu",
    torch.prelu: "prelu",  # F.prelu is the same
}
_METHODS: dict[Any, str] = {
    "relu": "relu",
    "clamp": "clamp",
    "clip": "clamp",
    "clamp_min": "clamp",
    "prelu": "prelu",
}


def activation_ceiling(node: fx.Node, root: nn.Module) -> float | None:
    """The upper bound of the ReLU-like activation that ``node`` calls (∞ for ReLU); None where it calls none."""
    if leaky_slope(node, root) == 0:
        return math.inf
    low, high = bounds(node, root) or (None, None)
    return high if low == 0 else None


def bounds(node: fx.Node, root: nn.Module) -> tuple[float, float] | None:
    """a <= 0 < b of the clamp(a, b) that ``node`` calls, 0 and ∞ for ReLU; None where it calls none."""
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        if isinstance(module, nn.ReLU):
            return 0.0, math.inf
        if isinstance(module, nn.Hardtanh):  # ReLU6 is one
            return _bounds(module.min_val, module.max_val)
        if isinstance(module, nn.Threshold) and module.threshold == module.value == 0:
            return 0.0, math.inf
        return None
    match function_kind(node):
        case "relu":
            return 0.0, math.inf
        case "relu6":
            return 0.0, 6.0
        case "hardtanh":
            return _bounds(argument(node, 1, "min_val", -1.0), argument(node, 2, "max_val", 1.0))
        case "clamp" if not _is_looked_up(node, root):
            return _bounds(argument(node, 1, "min", None), argument(node, 2, "max", None))
        case "threshold" if argument(node, 1, "threshold", None) == argument(node, 2, "value", None) == 0:
            return 0.0, math.inf
    return None


def _is_looked_up(node: fx.Node, root: nn.Module) -> bool:
    """Whether ``node`` gives the numbers of rows, and nothing that spikes could stand for."""
    return bool(node.users) and all(kind_of(user, root) is Kind.LOOKUP for user in node.users)


def _bounds(low: Any, high: Any) -> tuple[float, float] | None:
    high = math.inf if high is None else high
    numbers = isinstance(low, (int, float)) and isinstance(high, (int, float))
    return (float(low), float(high)) if numbers and low <= 0 < high else None


def leaky_slope(node: fx.Node, root: nn.Module) -> float | None:
    """The slope below zero of the LeakyReLU that ``node`` calls; None where it calls none."""
    slope: Any = None
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        slope = module.negative_slope if isinstance(module, nn.LeakyReLU) else None
    elif function_kind(node) == "leaky_relu":
        slope = argument(node, 1, "negative_slope", 0.01)
    return float(slope) if isinstance(slope, (int, float)) and math.isfinite(slope) else None


def function_kind(node: fx.Node) -> str:
    """The activation that ``node`` calls as a function or a method, as layers are named after it; else empty."""
    kinds: dict[Any, str] = {"call_function": _FUNCTIONS, "call_method": _METHODS}.get(node.op, {})
    return kinds.get(node.target, "")


def name_rectifiers(traced: fx.GraphModule) -> None:
    """Let ``torch.maximum(x, zeros)``, ``torch.where(x > 0, x, 0)``, ``x.masked_fill(x < 0, 0)`` and ``x * (x > 0)``
    call ``F.relu``, which they are; and ``relu(x).clamp(max=c)`` ``x.clamp(0, c)``.
    """
    changing = varying(traced.graph)
    for node in traced.graph.nodes:
        ceiling = _second_ceiling(node, traced)
        if ceiling is not None:
            source = first_argument(first_argument(node))
            node.op, node.target, node.args, node.kwargs = "call_function", torch.clamp, (source, 0, ceiling), {}
        source = _rectified(node, traced) if node in changing and node.op != "call_module" else None
        if source is not None:
            node.op, node.target, node.args, node.kwargs = "call_function", F.relu, (source,), {}


def _rectified(node: fx.Node, root: nn.Module) -> fx.Node | None:
    """The x of which ``node`` computes max(x, 0); None where it computes something else."""
    if node.op == "call_function" and not is_known_function(node.target):
        return None
    first, second = argument(node, 0, "input", None), argument(node, 1, "other", None)
    choices: list[tuple[Any, Any, Any]] = []  # a mask, what is taken where it is true, and elsewhere
    match name_of(node):
        case "maximum" | "max" if isinstance(second, fx.Node):  # else it is a dimension
            pairs = ((first, second), (second, first))
            return next((x for x, other in pairs if isinstance(x, fx.Node) and _is_zero(other, x, root)), None)
        case "mul" | "multiply":
            choices = [(second, first, 0), (first, second, 0)]
        case "where":
            is_method = node.op == "call_method"  # x.where(condition, other)
            condition = argument(node, int(is_method), "condition", None)
            taken = argument(node, int(not is_method), "input", None)
            choices = [(condition, taken, argument(node, 2, "other", None))]
        case "masked_fill":
            choices = [(argument(node, 1, "mask", None), argument(node, 2, "value", None), first)]
    for mask, chosen, other in choices:
        while isinstance(mask, fx.Node) and name_of(mask) in ("float", "double", "half", "to", "type_as"):
            mask = mask.args[0]
        if not isinstance(mask, fx.Node) or len(mask.args) != 2 or not _is_zero(mask.args[1], mask.args[0], root):
            continue
        if name_of(mask) in ("lt", "le"):
            chosen, other = other, chosen
        elif name_of(mask) not in ("gt", "ge"):
            continue
        if isinstance(chosen, fx.Node) and chosen is mask.args[0] and _is_zero(other, chosen, root):
            return chosen
    return None


def _second_ceiling(node: fx.Node, root: nn.Module) -> float | None:
    """The upper bound of a ReLU-like activation after another, of what ``relu(x).clamp(max=c)`` computes of x."""
    if name_of(node) == "clamp_max":
        low, high = None, argument(node, 1, "max", None)
    elif function_kind(node) == "clamp":
        low, high = argument(node, 1, "min", None), argument(node, 2, "max", None)
    else:
        return None
    if low is not None or not isinstance(high, (int, float)) or not 0 < high < math.inf:
        return None
    source = first_argument(node)
    first = activation_ceiling(source, root) if isinstance(source, fx.Node) else None
    return None if first is None else min(high, first)  # as it is written: integers stay integers


def _is_zero(value: Any, like: Any, root: nn.Module) -> bool:
    """Whether ``value`` is the number 0, a constant that holds it alone, or ``torch.zeros_like(like)``."""
    if not isinstance(value, fx.Node):
        return isinstance(value, (int, float)) and value == 0
    if value.op == "get_attr":
        constant = operator.attrgetter(str(value.target))(root)
        single = type(constant) is Tensor and not constant.is_meta and constant.ndim <= 1 and constant.numel() == 1
        return single and not bool(constant)
    return name_of(value) == "zeros_like" and value.args == (like,) and "dtype" not in value.kwargs


def first_arguments_by_position(traced: fx.GraphModule) -> None:
    """Let modules that are called by keyword, ``self.act(input=x)``, be called as all others are, ``self.act(x)``."""
    for node in traced.graph.nodes:
        if node.op == "call_module" and not node.args and node.kwargs:
            first = next(iter(inspect.signature(traced.get_submodule(str(node.target)).forward).parameters))
            if first in node.kwargs:
                node.args = (node.kwargs[first],)
                node.kwargs = {name: value for name, value in node.kwargs.items() if name != first}


def remove_frozen_drops(traced: fx.GraphModule) -> None:
    """Take out torchvision's functions that drop nothing any more, since tracing has frozen them in evaluation mode.

    They return their input itself; torch could neither copy nor pickle the graph that calls them, nor a file hold it.
    """
    for node in list(traced.graph.nodes):
        position = _DROPS.get(name_of(node)) if node.op == "call_function" else None
        if position is not None and not argument(node, position, "training", True):
            node.replace_all_uses_with(argument(node, 0, "input", None))
            traced.graph.erase_node(node)


def dropouts_to_modules(traced: fx.GraphModule) -> None:
    """Functional dropouts follow ``train()`` and ``eval()`` again; tracing has frozen them in evaluation mode."""
    for node in traced.graph.nodes:
        if node.op != "call_function" or node.target not in _DROPOUTS:
            continue
        if argument(node, 2, "training", True):
            continue  # drops in evaluation mode too: left alone, refused by the conversion
        dropout = _DROPOUTS[node.target](argument(node, 1, "p", 0.5))
        _to_module(traced, node, unique_name(traced, scope_of(node), "dropout"), dropout)


def name_call_sites(traced: fx.GraphModule) -> None:
    """Give each call of an activation a module of its own.

    A function of parameters, or of sizes alone, is left as it is: no spikes need to stand for constants.
    """
    changing = varying(traced.graph)
    seen: set[str] = set()
    for node in traced.graph.nodes:
        if node.op != "call_module" and node not in changing:
            continue
        is_qcfs = node.op == "call_module" and isinstance(traced.get_submodule(str(node.target)), QCFS)
        ceiling = activation_ceiling(node, traced)
        if not is_qcfs and ceiling is None:
            continue
        if node.op == "call_module":
            path = str(node.target)
            if path in seen:
                scope, _, leaf = path.rpartition(".")
                module = copy.deepcopy(traced.get_submodule(path))
                path = unique_name(traced, scope, leaf)
                traced.add_submodule(path, module)
                node.target = path
            seen.add(path)
        elif ceiling is not None:
            path = unique_name(traced, scope_of(node), function_kind(node))
            _to_module(traced, node, path, rectifier(ceiling))
            seen.add(path)


def rectifier(ceiling: float) -> nn.Module:
    """clamp(0, ceiling) as a module."""
    return nn.ReLU() if math.isinf(ceiling) else nn.Hardtanh(0.0, ceiling)


def _to_module(traced: fx.GraphModule, node: fx.Node, name: str, module: nn.Module) -> None:
    """Let ``node`` call ``module``, kept as ``name``, on its first argument instead of what it called before."""
    source = first_argument(node)
    traced.add_submodule(name, module.eval())
    node.op, node.target = "call_module", name
    node.args, node.kwargs = (source,), {}


def first_argument(node: fx.Node) -> Any:
    """What an activation or a dropout works on."""
    return node.args[0] if node.args else node.kwargs["input"]


def scope_of(node: fx.Node) -> str:
    """The path of the module in whose ``forward`` the node was made."""
    stack = node.meta.get("nn_module_stack")
    return str(next(reversed(stack.values()))[0]) if stack else ""


def unique_name(root: nn.Module, scope: str, leaf: str) -> str:
    """A dotted path under ``scope`` that ``root`` does not have yet: ``leaf``, or ``leaf_1``, ``leaf_2`` ..."""
    prefix = f"{scope}." if scope else ""
    parent: Any = root
    for part in scope.split(".") if scope else ():
        parent = getattr(parent, part, None)
    name, count = leaf, 0
    while hasattr(parent, name):
        count += 1
        name = f"{leaf}_{count}"
    return prefix + name
