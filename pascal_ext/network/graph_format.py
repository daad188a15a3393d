"""A traced graph as plain JSON data, and back; no code in it, only names of known functions."""

from __future__ import annotations

import functools
import importlib
import keyword
import math
import operator
from typing import Any

import torch
from torch import Tensor, fx

from pascal_ext.errors import SerializationError
from pascal_ext.graph.branches import as_traced, number_of_inputs
from pascal_ext.graph.operations import CREATIONS
from pascal_ext.graph.outputs import Outputs, is_named_tuple, named_tuple
from pascal_ext.network.folding import call_scaled
from pascal_ext.ops import timefold
from pascal_ext.ops.assignment import assigned

_TIMEFOLD = (
    "unfold fold decode present align scale rate join_scales as_sequence only_step pick entry keep_batch keep_rows "
    "need_ndim with_rows drop"
).split()
_OWN: dict[str, Any] = {
    **{f"pascal_ext:{name}": getattr(timefold, name) for name in _TIMEFOLD},
    "pascal_ext:call_scaled": call_scaled,
    "pascal_ext:assigned": assigned,
    "pascal_ext:as_traced": as_traced,
    "pascal_ext:number_of_inputs": number_of_inputs,
    **{f"math:{name}": getattr(math, name) for name in ("ceil", "floor", "sqrt")},  # of sizes
    "builtins:getattr": getattr,
    "torch:_assert": torch._assert,
    "pascal_ext:Outputs": Outputs,
}
_OPERATORS = frozenset(
    getattr(operator, name)
    for name in "abs add and_ eq floordiv ge getitem gt invert le lshift lt matmul mod mul ne neg or_ pos pow rshift "
    "sub truediv xor".split()
)
_NAMED_TUPLE = "namedtuple"
_MODULES = ("torch", "torch.nn.functional", "torch._C._nn", "torch.linalg", "torch.special", "torch.fft", "operator")
_ATOMS = (str, int, float, bool, type(None))


def graph_to_dict(graph: fx.Graph) -> dict[str, Any]:
    """The graph as JSON data.

    Raises:
        SerializationError: a node calls a function that is not torch's, Python's ``operator``'s or this package's, or
            has an argument that JSON cannot hold.
    """
    return {
        "nodes": [
            {
                "name": node.name,
                "op": node.op,
                "target": function_name(node.target) if node.op == "call_function" else str(node.target),
                "args": [_encode(arg) for arg in node.args],
                "kwargs": {key: _encode(value) for key, value in node.kwargs.items()},
            }
            for node in graph.nodes
        ]
    }


def graph_from_dict(data: dict[str, Any]) -> fx.Graph:
    """The graph that :func:`graph_to_dict` described.

    Raises:
        SerializationError: the data names an unknown function, or is malformed.
    """
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}
    try:
        for item in data["nodes"]:
            target = function_named(item["target"]) if item["op"] == "call_function" else item["target"]
            args = tuple(_decode(arg, nodes) for arg in item["args"])
            kwargs = {key: _decode(value, nodes) for key, value in item["kwargs"].items()}
            _check_names(item["op"], target, args, kwargs)
            if item["op"] == "output":
                nodes[item["name"]] = graph.output(args[0])
            else:
                nodes[item["name"]] = graph.create_node(item["op"], target, args, kwargs, name=item["name"])
        graph.lint()
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, AssertionError) as error:
        raise SerializationError(f"not a graph: {type(error).__name__}: {error}") from error
    return graph


def _check_names(op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse names that would be more than names in the source code that is made from a graph.

    Raises:
        ValueError: a name is not an identifier, or leads to anything but a tensor, a layer or a method of tensors.
    """
    names = [*kwargs]
    if op == "placeholder":
        names.append(target.lstrip("*"))
    elif op in ("get_attr", "call_module"):
        names += [part for part in target.split(".") if not _is_quoted(part)]
    elif op == "call_method":
        names.append(target)
        if not callable(getattr(Tensor, target, None)):
            raise ValueError(f"{target!r} is no method of tensors")
    elif op == "call_function" and target is getattr:
        names.append(args[1])
    for name in names:
        if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("__"):
            raise ValueError(f"{name!r} is no name that a network may use")


def _is_quoted(part: str) -> bool:
    """Whether fx writes this part of a layer's name as a string, and nothing in it ends the string.

    Such are ``"0"`` of a Sequential and ``"block1-0"`` of a RegNet.
    """
    return not part.isidentifier() and part.isprintable() and not set(part) & set("\"'\\") and part != ""


def function_name(function: Any) -> str:
    """``module:name`` of a function that may stand in a file."""
    for name, own in _OWN.items():
        if function is own:
            return name
    plain = getattr(function, "__name__", "")
    if is_named_tuple(function):
        return ":".join((_NAMED_TUPLE, plain, *function._fields))
    for module in _MODULES:
        short = plain.removeprefix(f"{module.rpartition('.')[2]}_")  # torch.linalg.norm calls itself linalg_norm
        if getattr(importlib.import_module(module), short, None) is function and function in _torch_functions():
            return f"{module}:{short}"
    raise SerializationError(
        f"the network calls {function!r}, which a file cannot hold; only torch functions can be saved"
    )


def function_named(name: str) -> Any:
    """The function that :func:`function_name` named."""
    if name in _OWN:
        return _OWN[name]
    module, _, plain = name.partition(":")
    if module == _NAMED_TUPLE:
        kind, *fields = plain.split(":")
        return named_tuple(kind, tuple(fields))
    function = getattr(importlib.import_module(module), plain, None) if module in _MODULES else None
    if function is None or function not in _torch_functions():
        raise SerializationError(f"the file calls {name!r}, which is no tensor function that may be loaded")
    return function


@functools.cache
def _torch_functions() -> frozenset[Any]:
    """The ordinary tensor functions and operators, which are safe to be named in a file."""
    overridable = torch.overrides.get_overridable_functions().values()
    return _OPERATORS | CREATIONS | {function for functions in overridable for function in functions}


def _encode(value: Any) -> Any:
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, torch.memory_format):
        return {"memory_format": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, slice):
        return {"slice": [_encode(part) for part in (value.start, value.stop, value.step)]}
    if value is Ellipsis:
        return {"ellipsis": True}
    if isinstance(value, dict):
        return {"dict": {key: _encode(item) for key, item in value.items()}}
    if isinstance(value, torch.Size) or type(value) is tuple:
        return {"tuple": [_encode(item) for item in value]}
    if isinstance(value, list):
        return [_encode(item) for item in value]
    if isinstance(value, _ATOMS):
        return value
    raise SerializationError(
        f"the graph has an argument of type {type(value).__name__}, which a file cannot hold: {value!r}"
    )


def _decode(value: Any, nodes: dict[str, fx.Node]) -> Any:
    if isinstance(value, list):
        return [_decode(item, nodes) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    match kind:
        case "node":
            return nodes[content]
        case "dtype" | "memory_format":
            named = getattr(torch, content, None)
            if isinstance(named, getattr(torch, kind)):
                return named
            raise ValueError(f"{content!r} is no {kind}")
        case "device":
            return torch.device(content)
        case "slice":
            return slice(*(_decode(part, nodes) for part in content))
        case "ellipsis":
            return Ellipsis
        case "dict":
            return {key: _decode(item, nodes) for key, item in content.items()}
        case "tuple":
            return tuple(_decode(item, nodes) for item in content)
    raise ValueError(f"unknown kind of value {kind!r}")
