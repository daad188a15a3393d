"""Batch norms of other classes than torch's own, made torch's own: their statistics follow ``train()`` again."""

from __future__ import annotations

import warnings
from typing import Any

import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pascal_ext.graph.operations import argument
from pascal_ext.observers import hooks_of

_OWN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_STATE = ("running_mean", "running_var", "weight", "bias")  # the second to fifth argument of F.batch_norm


def is_plain(module: nn.Module) -> bool:
    """Whether ``module`` is one of torch's batch norms, or a subclass, and does what these do."""
    return isinstance(module, _OWN) and type(module).forward is _BatchNorm.forward


def norms_to_modules(traced: fx.GraphModule, model: nn.Module) -> None:
    """Let batch norms whose class is not torch's own be such, where ``F.batch_norm`` is called with their state, too.

    Tracing looks into classes that do more (SpikingJelly's layers, timm's norms with an activation), and has frozen
    what they do in evaluation mode. So they are left where a class has a ``train()`` of its own, which freezes it on
    purpose. Parameters, buffers and their names stay.

    Args:
        traced: the graph.
        model: what it was traced from, whose parameters and buffers it has.
    """
    for node in traced.graph.nodes:
        is_module = node.op == "call_module" and is_plain(traced.get_submodule(str(node.target)))
        path = str(node.target) if is_module else _owner(node, model)
        original = model.get_submodule(path) if path else None
        own = next((known for known in _OWN if isinstance(original, known)), None)
        if own is None or not isinstance(original, _BatchNorm):
            continue
        if type(original).train is not nn.Module.train and original.running_mean is not None:
            if is_module:
                _freeze(node, original)
            continue
        present = traced.get_submodule(path)
        if type(present) is not own:
            norm = own.__new__(own)
            kept = {k: v for k, v in vars(original).items() if is_module or not k.endswith("_hooks")}  # traced, too
            vars(norm).update(vars(nn.Module()) | kept | {"_modules": present._modules})
            vars(norm).pop("forward", None)
            traced.set_submodule(path, norm.eval())
        if not is_module:
            node.op, node.target = "call_module", path
            node.args, node.kwargs = (argument(node, 0, "input", None),), {}


def _freeze(node: fx.Node, norm: _BatchNorm) -> None:
    """Let ``node``, a call of ``norm``, be what this does in evaluation mode, whatever the mode."""
    graph, path = node.graph, node.target
    if hooks_of(norm):
        warnings.warn(f"{path!r} is a frozen batch norm: the graph of the model loses its forward hooks", stacklevel=5)
    with graph.inserting_before(node):
        state = [None if getattr(norm, name) is None else graph.get_attr(f"{path}.{name}") for name in _STATE]
    node.op, node.target = "call_function", F.batch_norm
    node.args, node.kwargs = (argument(node, 0, "input", None), *state), {"eps": norm.eps}


def _owner(node: fx.Node, model: nn.Module) -> str:
    """The path of the module that computes what ``node``, a batch norm by running statistics, does; else empty."""
    if node.op != "call_function" or node.target is not F.batch_norm or argument(node, 5, "training", False):
        return ""
    values: list[Any] = [argument(node, 1 + index, name, None) for index, name in enumerate(_STATE)]
    if not isinstance(values[0], fx.Node):
        return ""
    path = str(values[0].target).rpartition(".")[0]
    module = model.get_submodule(path)
    for name, value in zip(_STATE, values, strict=True):
        read = (value.op, value.target) if isinstance(value, fx.Node) else None
        if read != (None if getattr(module, name, None) is None else ("get_attr", f"{path}.{name}")):
            return ""
    return path if argument(node, 7, "eps", 1e-5) == getattr(module, "eps", None) else ""
