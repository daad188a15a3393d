"""Calls of activations and dropouts in a traced graph: each a module with a name of its own."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from pascal_ext.operations import argument, name_of
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
}
_METHODS: dict[Any, str] = {"relu": "relu", "clamp": "clamp", "clip": "clamp", "clamp_min": "clamp"}


def activation_ceiling(node: fx.Node, root: nn.Module) -> float | None:
    """The upper bound of the ReLU-like activation that ``node`` calls (∞ for ReLU); None where it calls none."""
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        if isinstance(module, nn.ReLU):
            return math.inf
        if isinstance(module, nn.Hardtanh):  # ReLU6 is one
            return _ceiling(module.min_val, module.max_val)
        if isinstance(module, nn.Threshold):
            return math.inf if module.threshold == module.value == 0 else None
        return None
    kinds: dict[Any, str] = {"call_function": _FUNCTIONS, "call_method": _METHODS}.get(node.op, {})
    match kinds.get(node.target):
        case "relu":
            return math.inf
        case "relu6":
            return 6.0
        case "hardtanh":
            return _ceiling(argument(node, 1, "min_val", -1.0), argument(node, 2, "max_val", 1.0))
        case "clamp":
            return _ceiling(argument(node, 1, "min", None), argument(node, 2, "max", None))
        case "threshold" if argument(node, 1, "threshold", None) == argument(node, 2, "value", None) == 0:
            return math.inf
    return None


def _ceiling(low: Any, high: Any) -> float | None:
    if not isinstance(low, (int, float)) or low != 0:
        return None
    if high is None:
        return math.inf
    return float(high) if isinstance(high, (int, float)) and high > 0 else None


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
        _to_module(traced, node, unique_name(traced, _scope(node), "dropout"), dropout)


def name_call_sites(traced: fx.GraphModule) -> None:
    """Give each call of an activation a module of its own."""
    seen: set[str] = set()
    for node in traced.graph.nodes:
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
            kind = _FUNCTIONS.get(node.target) or _METHODS[node.target]
            module = nn.ReLU() if math.isinf(ceiling) else nn.Hardtanh(0.0, ceiling)
            path = unique_name(traced, _scope(node), kind)
            _to_module(traced, node, path, module)
            seen.add(path)


def _to_module(traced: fx.GraphModule, node: fx.Node, name: str, module: nn.Module) -> None:
    """Let ``node`` call ``module``, kept as ``name``, on its first argument instead of what it called before."""
    source = node.args[0] if node.args else node.kwargs["input"]
    traced.add_submodule(name, module.eval())
    node.op, node.target = "call_module", name
    node.args, node.kwargs = (source,), {}


def _scope(node: fx.Node) -> str:
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
