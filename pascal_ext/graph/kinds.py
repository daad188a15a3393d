"""What the conversion knows about operations: which are linear, which only look at channels, which have no counterpart.

:mod:`pascal_ext.conversion.lowering` acts on the answers, by the rules of :mod:`pascal_ext.conversion.signal_rules`.
"""

from __future__ import annotations

import builtins
import enum
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils import parametrize

from pascal_ext.graph.branches import number_of_inputs
from pascal_ext.graph.operations import METADATA_ATTRIBUTES, argument, name_of
from pascal_ext.graph.products import einsum_terms, is_matrix, second_factor
from pascal_ext.ops.assignment import assigned


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
    ASSIGN = "writes one tensor into a part of another"
    MAX_POOL = "maximum within a channel: exact on thermometer codes"
    MAX = "maximum or minimum between tensors: exact on accumulated currents"
    LOOKUP = "rows of a table, by the numbers in its input"
    CONSTANT = "a tensor of the same number, as large as its input"
    METADATA = "shapes and other things that are no tensors"
    UNSUPPORTED = "not linear: no spiking counterpart"


_MODULES: dict[type[nn.Module], Kind] = {
    **dict.fromkeys([nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear], Kind.WEIGHTED),
    **dict.fromkeys([nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d], Kind.WEIGHTED),
    **dict.fromkeys([nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm], Kind.NORM),
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
    **dict.fromkeys([nn.Embedding, nn.EmbeddingBag], Kind.LOOKUP),
    **dict.fromkeys([nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d], Kind.MAX_POOL),
    **dict.fromkeys([nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d], Kind.MAX_POOL),
}

# Functions and methods by name: torch.flatten, F.avg_pool2d, Tensor.view, operator.add ...
_NAMES: dict[str, Kind] = {
    **dict.fromkeys(
        "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear".split(), Kind.AFFINE
    ),
    **dict.fromkeys("batch_norm matmul mm einsum".split(), Kind.AFFINE),
    **dict.fromkeys("dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout".split(), Kind.IDENTITY),
    **dict.fromkeys("stochastic_depth clone detach".split(), Kind.IDENTITY),
    "contiguous": Kind.REARRANGE,
    **dict.fromkeys("to type_as float double half bfloat16 cuda cpu".split(), Kind.LINEAR),
    **dict.fromkeys("avg_pool1d avg_pool2d avg_pool3d".split(), Kind.CHANNELWISE),
    **dict.fromkeys("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d".split(), Kind.CHANNELWISE),
    **dict.fromkeys("interpolate upsample".split(), Kind.CHANNELWISE),
    "pad": Kind.CHANNELWISE,
    **dict.fromkeys(
        "flatten unflatten view reshape permute transpose swapaxes swapdims movedim moveaxis".split(), Kind.REARRANGE
    ),
    **dict.fromkeys(
        "squeeze unsqueeze chunk split tensor_split unbind narrow select getitem expand repeat".split(), Kind.REARRANGE
    ),
    **dict.fromkeys(
        "pixel_shuffle pixel_unshuffle channel_shuffle flip roll rot90 unfold tile".split(), Kind.REARRANGE
    ),
    **dict.fromkeys("index_select repeat_interleave".split(), Kind.REARRANGE),
    **dict.fromkeys("mean sum cumsum neg negative mul multiply truediv div divide fold".split(), Kind.LINEAR),
    **dict.fromkeys("add sub".split(), Kind.SUM),
    **dict.fromkeys("cat concat concatenate stack".split(), Kind.CONCAT),
    **dict.fromkeys("max_pool1d max_pool2d max_pool3d".split(), Kind.MAX_POOL),
    **dict.fromkeys("adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d".split(), Kind.MAX_POOL),
    **dict.fromkeys("maximum amax minimum amin".split(), Kind.MAX),
    "embedding": Kind.LOOKUP,
    **dict.fromkeys("zeros_like ones_like full_like".split(), Kind.CONSTANT),
    **dict.fromkeys("new_zeros new_ones new_full".split(), Kind.METADATA),  # unless they are as large as the batch
    **dict.fromkeys("size dim getattr _assert is_floating_point ndimension".split(), Kind.METADATA),
}
_OWN: dict[Any, Kind] = {assigned: Kind.ASSIGN, number_of_inputs: Kind.METADATA}
_WRITTEN_OUT = frozenset("abs ge gt le lt masked_fill where".split())  # what else a ReLU is made of


def kind_of(node: fx.Node, root: nn.Module) -> Kind:
    """The kind of the operation ``node`` calls."""
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        return _module_kind(module)
    name = name_of(node)
    if node.op == "call_function" and node.target is builtins.getattr:
        if node.args[1] in ("T", "mT"):
            return Kind.REARRANGE
        return Kind.METADATA if node.args[1] in METADATA_ATTRIBUTES else Kind.UNSUPPORTED
    if node.target in _OWN:
        return _OWN[node.target]
    kind = _NAMES.get(name, Kind.UNSUPPORTED)
    if node.op == "call_function" and not is_known_function(node.target):
        return Kind.UNSUPPORTED
    if _drops(node):
        return Kind.UNSUPPORTED
    if kind is Kind.CHANNELWISE and name == "pad" and not _pads_with_zeros(node):
        return Kind.AFFINE
    if kind is Kind.AFFINE and name == "batch_norm" and argument(node, 5, "training", False):
        return Kind.UNSUPPORTED
    if name in ("matmul", "mm") and not any(
        is_matrix(factor, root) for factor in (argument(node, 0, "input", None), second_factor(node))
    ):
        return Kind.UNSUPPORTED
    if name == "einsum" and len(einsum_terms(node)[0]) != 1:
        return Kind.UNSUPPORTED
    if kind is Kind.MAX_POOL and node.kwargs.get("return_indices"):
        return Kind.UNSUPPORTED
    if kind is Kind.LINEAR and _truncates(node, root):
        return Kind.UNSUPPORTED
    if node.kwargs.get("rounding_mode") is not None:
        return Kind.UNSUPPORTED
    return kind


def _module_kind(module: nn.Module) -> Kind:
    parametrized = parametrize.is_parametrized(module)
    kind = _MODULES.get(parametrize.type_before_parametrizations(module), Kind.UNSUPPORTED)
    if kind is Kind.NORM and getattr(module, "running_mean", None) is None:
        return Kind.UNSUPPORTED  # normalises by the statistics of the batch
    if kind is Kind.MAX_POOL and getattr(module, "return_indices", False):
        return Kind.UNSUPPORTED
    if kind is Kind.WEIGHTED and (parametrized or "weight" not in module._parameters):
        return Kind.AFFINE  # a weight computed anew in each forward absorbs nothing
    return kind


def modules_of(*kinds: Kind) -> frozenset[type[nn.Module]]:
    """The classes of modules of these kinds, as long as nothing is exchanged in the object."""
    return frozenset(module for module, kind in _MODULES.items() if kind in kinds)


def is_known_function(function: Callable[..., Any] | str) -> bool:
    """Whether a function is torch's, torchvision's or Python's own, and does what its name says."""
    module = str(getattr(function, "__module__", None) or "torch")
    return module.split(".")[0] in ("torch", "_operator", "operator", "builtins", "math", "torchvision")


def why_unsupported(node: fx.Node) -> str:
    """The reason, where :func:`kind_of` says so."""
    if _drops(node):
        return "it drops elements in evaluation mode, too; pass training=self.training"
    if name_of(node) in _WRITTEN_OUT:
        return "it is not linear; where it is a part of a ReLU, write nn.ReLU or x.clamp(min=0)"
    return "it is not known to be linear in its input"


def _drops(node: fx.Node) -> bool:
    name = name_of(node)
    if _NAMES.get(name) is not Kind.IDENTITY or not ("dropout" in name or name == "stochastic_depth"):
        return False
    return bool(argument(node, 3 if name == "stochastic_depth" else 2, "training", True))


def _pads_with_zeros(node: fx.Node) -> bool:
    mode = argument(node, 2, "mode", "constant")
    return mode != "constant" or not argument(node, 3, "value", 0)


def _truncates(node: fx.Node, root: nn.Module) -> bool:
    """Whether the result is one of integers or truth values, by the dtype, or the constant of that dtype, asked for."""
    converts = name_of(node) in ("to", "type_as")
    asked = (*node.args[1:], *node.kwargs.values()) if converts else (node.kwargs.get("dtype"),)
    for value in asked:
        if isinstance(value, fx.Node) and value.op == "get_attr":
            value = operator.attrgetter(str(value.target))(root)
        dtype = value.dtype if isinstance(value, torch.Tensor) else value
        if isinstance(dtype, torch.dtype) and not (dtype.is_floating_point or dtype.is_complex):
            return True
    return False
