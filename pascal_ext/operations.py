"""What the conversion knows about operations: which are linear, which only look at channels, which touch the batch.

Everything here is data or a question about one node of a traced graph; :mod:`pascal_ext.lowering` acts on the answers.
"""

from __future__ import annotations

import builtins
import enum
import operator
import os
import re
from collections.abc import Callable, Container
from typing import Any

import torch
from torch import fx, nn


class Kind(enum.Enum):
    """How an operation acts on a train of spikes, of which only the temporal mean counts."""

    WEIGHTED = "a linear layer whose weights can absorb a threshold"
    NORM = "batch norm in evaluation mode: affine, channel by channel"
    IDENTITY = "returns its input"
    CHANNELWISE = "linear without offset, each channel by itself"
    REARRANGE = "moves elements around, changes none"
    LINEAR = "linear without offset"
    AFFINE = "linear with an offset, or with weights that absorb nothing"
    SUM = "adds or subtracts tensors"
    CONCAT = "joins tensors along a dimension"
    MAX_POOL = "maximum within a channel: exact on thermometer codes"
    MAX = "maximum between tensors: exact on accumulated currents"
    METADATA = "shapes and other things that are no tensors"
    UNSUPPORTED = "not linear: no spiking counterpart"


_MODULES: dict[type[nn.Module], Kind] = {
    **dict.fromkeys([nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear], Kind.WEIGHTED),
    **dict.fromkeys([nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d], Kind.WEIGHTED),
    **dict.fromkeys([nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d], Kind.NORM),
    **dict.fromkeys([nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d], Kind.IDENTITY),
    **dict.fromkeys([nn.AlphaDropout, nn.FeatureAlphaDropout, nn.Identity], Kind.IDENTITY),
    **dict.fromkeys([nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d], Kind.CHANNELWISE),
    **dict.fromkeys([nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d], Kind.CHANNELWISE),
    **dict.fromkeys([nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d], Kind.CHANNELWISE),
    **dict.fromkeys([nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d], Kind.CHANNELWISE),
    **dict.fromkeys([nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d], Kind.CHANNELWISE),
    **dict.fromkeys([nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d], Kind.CHANNELWISE),
    **dict.fromkeys([nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d], Kind.AFFINE),
    **dict.fromkeys([nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d], Kind.CHANNELWISE),
    **dict.fromkeys([nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle], Kind.REARRANGE),
    **dict.fromkeys([nn.ChannelShuffle, nn.Unfold], Kind.REARRANGE),
    nn.Fold: Kind.LINEAR,
    **dict.fromkeys([nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d], Kind.MAX_POOL),
    **dict.fromkeys([nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d], Kind.MAX_POOL),
}

# Functions and methods by name: torch.flatten, F.avg_pool2d, Tensor.view, operator.add ...
_NAMES: dict[str, Kind] = {
    **dict.fromkeys(
        "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear".split(), Kind.AFFINE
    ),
    "batch_norm": Kind.AFFINE,
    **dict.fromkeys("dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout".split(), Kind.IDENTITY),
    **dict.fromkeys("stochastic_depth clone detach".split(), Kind.IDENTITY),
    "contiguous": Kind.REARRANGE,
    **dict.fromkeys("to type_as float double half bfloat16 cuda cpu".split(), Kind.LINEAR),
    **dict.fromkeys("avg_pool1d avg_pool2d avg_pool3d".split(), Kind.CHANNELWISE),
    **dict.fromkeys("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d".split(), Kind.CHANNELWISE),
    **dict.fromkeys("interpolate upsample".split(), Kind.CHANNELWISE),
    "pad": Kind.CHANNELWISE,
    **dict.fromkeys(
        "flatten unflatten view reshape permute transpose swapaxes swapdims movedim".split(), Kind.REARRANGE
    ),
    **dict.fromkeys("squeeze unsqueeze chunk split unbind narrow select getitem expand repeat".split(), Kind.REARRANGE),
    **dict.fromkeys("pixel_shuffle pixel_unshuffle channel_shuffle flip roll unfold tile".split(), Kind.REARRANGE),
    **dict.fromkeys("mean sum neg negative mul multiply truediv div divide fold".split(), Kind.LINEAR),
    **dict.fromkeys("add sub".split(), Kind.SUM),
    **dict.fromkeys("cat concat concatenate stack".split(), Kind.CONCAT),
    **dict.fromkeys("max_pool1d max_pool2d max_pool3d".split(), Kind.MAX_POOL),
    **dict.fromkeys("adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d".split(), Kind.MAX_POOL),
    **dict.fromkeys("maximum amax".split(), Kind.MAX),
    **dict.fromkeys("size dim numel getattr _assert is_floating_point ndimension".split(), Kind.METADATA),
}
_ALIASES = {"_assert": "_assert", "rsub": "sub", "radd": "add", "subtract": "sub"}
_METADATA_ATTRIBUTES = frozenset({"shape", "ndim", "dtype", "device", "is_cuda", "requires_grad"})

# Where the dimensions that an operation works along stand among its arguments: (position, keyword, default).
_DIM_ARGUMENTS: dict[str, list[tuple[int, str, Any]]] = {
    "flatten": [(1, "start_dim", 0)],
    "unflatten": [(1, "dim", None)],
    "transpose": [(1, "dim0", None), (2, "dim1", None)],
    "swapaxes": [(1, "axis0", None), (2, "axis1", None)],
    "swapdims": [(1, "dim0", None), (2, "dim1", None)],
    "movedim": [(1, "source", None), (2, "destination", None)],
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
    "amax": [(1, "dim", None)],
    "cat": [(1, "dim", 0)],
    "stack": [(1, "dim", 0)],
}
_DIM_ARGUMENTS["concat"] = _DIM_ARGUMENTS["concatenate"] = _DIM_ARGUMENTS["cat"]


def name_of(node: fx.Node) -> str:
    """The plain name of the function or method that ``node`` calls, e.g. ``flatten``."""
    if isinstance(node.target, str):
        return node.target.rpartition(".")[2] if node.op == "call_module" else node.target
    name = getattr(node.target, "__name__", str(node.target))
    return _ALIASES.get(name, name.strip("_"))


def kind_of(node: fx.Node, root: nn.Module) -> Kind:
    """The kind of the operation ``node`` calls."""
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        return _module_kind(module)
    name = name_of(node)
    if node.op == "call_function" and node.target is builtins.getattr:
        return Kind.METADATA if node.args[1] in _METADATA_ATTRIBUTES else Kind.UNSUPPORTED
    kind = _NAMES.get(name, Kind.UNSUPPORTED)
    if node.op == "call_function" and not _is_known_namespace(node.target):
        return Kind.UNSUPPORTED
    if kind is Kind.IDENTITY and ("dropout" in name or name == "stochastic_depth") and _drops(node, name):
        return Kind.UNSUPPORTED
    if kind is Kind.CHANNELWISE and name == "pad" and not _pads_with_zeros(node):
        return Kind.AFFINE
    if kind is Kind.AFFINE and name == "batch_norm" and argument(node, 5, "training", False):
        return Kind.UNSUPPORTED
    if kind is Kind.MAX_POOL and node.kwargs.get("return_indices"):
        return Kind.UNSUPPORTED
    return kind


def _module_kind(module: nn.Module) -> Kind:
    kind = _MODULES.get(type(module), Kind.UNSUPPORTED)
    if kind is Kind.NORM and getattr(module, "running_mean", None) is None:
        return Kind.UNSUPPORTED  # normalises by the statistics of the batch
    if kind is Kind.MAX_POOL and getattr(module, "return_indices", False):
        return Kind.UNSUPPORTED
    if kind is Kind.WEIGHTED and hasattr(module, "parametrizations"):
        return Kind.AFFINE  # a weight computed anew in each forward absorbs nothing
    return kind


def _is_known_namespace(function: Callable[..., Any] | str) -> bool:
    module = str(getattr(function, "__module__", None) or "torch")
    return module.split(".")[0] in ("torch", "_operator", "operator", "builtins", "math", "torchvision")


def _drops(node: fx.Node, name: str) -> bool:
    position = 3 if name == "stochastic_depth" else 2
    return bool(argument(node, position, "training", True))


def _pads_with_zeros(node: fx.Node) -> bool:
    mode = argument(node, 2, "mode", "constant")
    return mode != "constant" or not argument(node, 3, "value", 0)


def argument(node: fx.Node, position: int, keyword: str, default: Any) -> Any:
    """An argument of a call, given by position or by keyword."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(keyword, default)


def dims_of(node: fx.Node, root: nn.Module) -> list[int] | None:
    """The dimensions that the operation works along, as written; None for all of them."""
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        if isinstance(module, nn.Flatten):
            return [int(module.start_dim)]
        return [int(module.dim)] if isinstance(module, nn.Unflatten) else []
    name = name_of(node)
    if name == "getitem":
        index = node.args[1]
        first = index[0] if isinstance(index, tuple) and index else index
        return [] if first is Ellipsis or first == slice(None) or isinstance(first, str) else [0]
    if name == "permute":
        dims = node.args[1:] if len(node.args) > 2 else argument(node, 1, "dims", ())
        dims = dims[0] if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
        return [] if dims and dims[0] == 0 else [0]
    found: list[int] = []
    for position, keyword, default in _DIM_ARGUMENTS.get(name, []):
        value = argument(node, position, keyword, default)
        if name in ("flip", "squeeze", "sum", "mean") and isinstance(value, int) and not isinstance(value, bool):
            value = [value, *(arg for arg in node.args[position + 1 :] if name == "flip")]
        if value is None:
            return None
        found += [dim for dim in (value if isinstance(value, (tuple, list)) else [value]) if isinstance(dim, int)]
    return found


def is_flatten(node: fx.Node, root: nn.Module) -> bool:
    """Whether ``node`` flattens all dimensions but the first: ``flatten(1)``, ``view(n, -1)``, ``reshape(n, -1)``."""
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        return isinstance(module, nn.Flatten) and bool(module.start_dim == 1 and module.end_dim == -1)
    if name_of(node) == "flatten":
        return argument(node, 1, "start_dim", 0) == 1 and argument(node, 2, "end_dim", -1) == -1
    if name_of(node) not in ("view", "reshape"):
        return False
    shape = node.args[1:]
    shape = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
    return bool(len(shape) == 2 and shape[1] == -1)


def padded_dims(node: fx.Node) -> int:
    """How many of the last dimensions ``F.pad`` pads."""
    widths = argument(node, 1, "pad", ())
    return len(widths) // 2 if isinstance(widths, (tuple, list)) else 0


def returns_sequence(node: fx.Node, root: nn.Module) -> bool:
    """Whether an operation without spiking counterpart returns a tuple of tensors."""
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        return isinstance(module, (nn.MultiheadAttention, nn.RNNBase)) or bool(getattr(module, "return_indices", False))
    return name_of(node) in ("max", "min", "topk", "sort", "kthvalue", "median", "var_mean", "std_mean")


def depends_on_batch(node: fx.Node, signals: Container[fx.Node]) -> bool:
    """Whether arithmetic uses the size of dimension 0, which holds timesteps too in a converted network."""
    if name_of(node) not in ("mul", "multiply", "truediv", "div", "divide", "add", "sub"):
        return False
    pending = [source for source in node.all_input_nodes if source not in signals]
    while pending:
        source = pending.pop()
        name = name_of(source)
        if name == "size" and argument(source, 1, "dim", None) == 0:
            return True
        if name == "getitem" and source.args[1] == 0 and name_of(source.args[0]) in ("size", "getattr"):  # type: ignore[arg-type]
            return True
        pending += [n for n in source.all_input_nodes if n not in signals]
    return False


def describe(node: fx.Node, root: nn.Module) -> str:
    """The node for a person: its name, what it calls, and the source line where tracing knows it."""
    if node.op == "call_module":
        what = f"layer {str(node.target)!r} ({type(root.get_submodule(str(node.target))).__name__})"
    else:
        what = f"operation {node.name!r} ({name_of(node)})"
    frames = re.findall(r'File "([^"]+)", line (\d+), in (\w+)\n\s+(.*)', node.meta.get("stack_trace") or "")
    own = [frame for frame in frames if f"{os.sep}torch{os.sep}" not in frame[0]]
    return f"{what} at {own[-1][0]}:{own[-1][1]}, `{own[-1][3].strip()}`," if own else what


def is_torch_function(function: Any) -> bool:
    """Whether ``function`` is an ordinary tensor function or operator, safe to be named in a file."""
    known = {item for functions in torch.overrides.get_overridable_functions().values() for item in functions}
    return function in known or getattr(operator, getattr(function, "__name__", ""), None) is function
