"""The forms of a network that converters ask for: modules in the place of functions, and logits as the outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pascal_ext.graph.operations import argument, name_of, unlike
from pascal_ext.graph.tracing import trace

_POOL = ("kernel_size", "stride", "padding")
_MODULES: dict[Callable[..., Any], tuple[type[nn.Module], tuple[str, ...]]] = {
    F.max_pool2d: (nn.MaxPool2d, (*_POOL, "dilation", "ceil_mode", "return_indices")),
    torch.max_pool2d: (nn.MaxPool2d, (*_POOL, "dilation", "ceil_mode")),
    F.avg_pool2d: (nn.AvgPool2d, (*_POOL, "ceil_mode", "count_include_pad", "divisor_override")),
    F.adaptive_avg_pool2d: (nn.AdaptiveAvgPool2d, ("output_size",)),
}  # function -> the module that computes the same, and its arguments in the function's order, after the input


def in_modules(model: nn.Module, example: Tensor) -> fx.GraphModule:
    """A copy of ``model`` in evaluation mode as a graph in which activations, dropouts and 2-d pools are modules.

    Raises:
        TracingError: it cannot be traced.
    """
    traced = trace(model, [example])  # activations and dropouts are modules already
    for node in list(traced.graph.nodes):
        if node.op != "call_function" or node.target not in _MODULES:
            continue
        kind, names = _MODULES[node.target]
        given = {name: argument(node, position, name, ...) for position, name in enumerate(names, 1)}
        module = kind(**{name: value for name, value in given.items() if value is not ...})
        target = unlike(node.name, dict(traced.named_modules()))
        traced.add_submodule(target, module)
        with traced.graph.inserting_before(node):
            node.replace_all_uses_with(traced.graph.call_module(target, (argument(node, 0, "input", None),)))
        traced.graph.erase_node(node)
    traced.recompile()
    return traced.eval()


def drop_softmax(traced: fx.GraphModule) -> bool:
    """Leave out a softmax, or its logarithm, at the end of a graph; returns whether there was one.

    Rate coding takes means of logits, no spiking network computes a softmax, and the order of classes is the same.
    """
    (output,) = (node for node in traced.graph.nodes if node.op == "output")
    last = output.args[0]
    if not isinstance(last, fx.Node):
        return False
    if last.op == "call_module":
        found = isinstance(traced.get_submodule(str(last.target)), (nn.Softmax, nn.LogSoftmax))
    else:
        found = name_of(last) in ("softmax", "log_softmax")
    if found:
        output.args = (argument(last, 0, "input", None),)
        traced.graph.eliminate_dead_code()
        traced.recompile()
    return found
