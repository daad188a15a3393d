"""Multiplying thresholds and batch norms into weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from pascal_ext.graph.kinds import Kind, kind_of
from pascal_ext.network.exchanged import call_with, kept
from pascal_ext.observers import is_changed
from pascal_ext.ops import timefold


def call_scaled(layer: Any, spikes: Tensor, scale: Tensor, *args: Any, **kwargs: Any) -> Any:
    """``layer(scale * spikes, ...)``, with the scale multiplied into the weights: the layer reads binary spikes.

    The layer keeps its own weights, which are the ANN's. The product is kept for the next call where no gradient is
    recorded, until the weights or the scale change, see :func:`pascal_ext.network.exchanged.kept`. A linear layer has
    far more weights than outputs, so there the latter are multiplied by a single value, and there is no second copy of
    the weights.

    Args:
        layer: a convolution, transposed convolution or linear layer, or what has been put in its place since.
        spikes: its input, [N, C, ...].
        scale: one value, or one for each input channel; a linear layer after ``flatten`` has several features for each,
            and one on more dimensions absorbs one value only.
        args, kwargs: what else the layer is called with, as the ``output_size`` of a transposed convolution.
    """
    along_channels = scale.numel() == 1 or spikes.ndim <= 2
    if not isinstance(layer, _ConvNd) and not (isinstance(layer, nn.Linear) and along_channels):
        return layer(timefold.scale(spikes, scale), *args, **kwargs)
    if scale.numel() == 1 and type(layer) is nn.Linear and not is_changed(layer):
        currents = F.linear(spikes, layer.weight)
        currents = currents * scale.to(currents.dtype)
        return currents if layer.bias is None else currents + layer.bias.to(currents.dtype)
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        parameters = {"weight": scaled_weight(layer, scale)}
    else:
        parameters = kept(layer, (layer.weight, scale), None, lambda: {"weight": scaled_weight(layer, scale)})
    return call_with(layer, parameters, spikes, *args, **kwargs)


def call_normed(layer: Any, norm: Any, spikes: Tensor, scale: Tensor, *args: Any, **kwargs: Any) -> Any:
    """``norm(layer(scale * spikes, ...))``, with the norm multiplied into the weights of a convolution, too.

    That rounds otherwise than the ANN does, so it is for spikes whose ties another pass settles; in precisions below
    float32, which know currents to about a level only, it is not done.
    """
    if not _can_fold(layer, norm):
        return norm(call_scaled(layer, spikes, scale, *args, **kwargs))
    # torch changes running statistics in training without counting it as a change; batches it does count
    statistics = (norm.running_mean, norm.running_var, norm.num_batches_tracked)
    tensors = (layer.weight, layer.bias, scale, norm.weight, norm.bias, *statistics)
    parameters = kept(layer, tensors, norm.eps, lambda: _folded(layer, scaled_weight(layer, scale), norm))
    return call_with(layer, parameters, spikes, *args, **kwargs)


def _can_fold(layer: Any, norm: Any) -> bool:
    """Whether these are, still, a convolution and torch's own batch norm in evaluation mode, in float32."""
    if not isinstance(layer, _ConvNd) or getattr(norm.forward, "__func__", None) is not _BatchNorm.forward:
        return False
    return not norm.training and norm.running_var is not None and layer.weight.dtype == torch.float32


def scaled_weight(layer: Any, scale: Tensor) -> Tensor:
    """The weights with which ``layer`` reads spikes instead of activations; see :func:`call_scaled`."""
    weight: Tensor = layer.weight
    factor = scale.to(weight.dtype)
    if factor.numel() > 1:
        if isinstance(layer, _ConvTransposeNd):  # weight [in, out / groups, ...]
            factor = factor.reshape(-1, *[1] * (weight.ndim - 1))
        elif isinstance(layer, _ConvNd):  # weight [out, in / groups, ...]
            grouped = factor.reshape(layer.groups, -1).repeat_interleave(layer.out_channels // layer.groups, 0)
            factor = grouped.reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))
        else:
            factor = factor.repeat_interleave(weight.shape[1] // factor.numel())
    return weight * factor


def normed_graph(spikes: fx.Graph, root: nn.Module) -> fx.Graph:
    """A copy of a time-folded graph in which convolutions that read spikes take the batch norms behind them along.

    Args:
        spikes: see :class:`pascal_ext.conversion.lowering.Lowering`; to be run where no hook is to see the layers,
            without gradients, and with references that settle ties.
        root: what its modules are found in.
    """
    graph = copy.deepcopy(spikes)
    for node in list(graph.nodes):
        if node.op != "call_module" or kind_of(node, root) is not Kind.NORM:
            continue
        source: Any = node.args[0]
        if source.target is not call_scaled or len(source.users) > 1:
            continue
        module, *rest = source.args
        if isinstance(root.get_submodule(str(module.target)), _ConvNd):
            with graph.inserting_before(node):
                norm = graph.create_node("get_attr", str(node.target))
                currents = graph.call_function(call_normed, (module, norm, *rest), source.kwargs)
            node.replace_all_uses_with(currents)
            graph.erase_node(node)
            graph.erase_node(source)
    return graph


def fold_batch_norms(traced: fx.GraphModule) -> None:
    """Fold each batch norm of a traced graph into the convolution before it, where nothing else reads that one."""
    calls = [str(node.target) for node in traced.graph.nodes if node.op == "call_module"]
    for node in list(traced.graph.nodes):
        source = node.args[0] if node.args else None
        if node.op != "call_module" or not isinstance(source, fx.Node) or source.op != "call_module":
            continue
        if kind_of(node, traced) is not Kind.NORM or kind_of(source, traced) is not Kind.WEIGHTED:
            continue
        layer, norm = traced.get_submodule(str(source.target)), traced.get_submodule(str(node.target))
        if isinstance(layer, _ConvNd) and len(source.users) == 1 and calls.count(str(source.target)) == 1:
            fold_batch_norm(layer, norm)
            node.replace_all_uses_with(source)
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()


def fold_batch_norm(layer: Any, norm: Any) -> None:
    """Change the convolution ``layer`` so that it computes what ``norm(layer(x))`` did in evaluation mode."""
    for name, value in _folded(layer, layer.weight, norm).items():
        setattr(layer, name, nn.Parameter(value, requires_grad=layer.weight.requires_grad))


@torch.no_grad()
def _folded(layer: Any, weight: Tensor, norm: Any) -> dict[str, Tensor]:
    """The weight and the bias of ``norm(layer(x))``, where ``layer`` has ``weight``; rounded once, from float64."""
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.detach().double()
    bias = -norm.running_mean.double() if layer.bias is None else layer.bias.detach().double() - norm.running_mean
    shift = 0 if norm.bias is None else norm.bias.detach().double()
    wide = weight.double()
    if isinstance(layer, _ConvTransposeNd):
        per_group = factor.reshape(layer.groups, -1).repeat_interleave(layer.in_channels // layer.groups, 0)
        wide = wide * per_group.reshape(*wide.shape[:2], *[1] * (wide.ndim - 2))
    else:
        wide = wide * factor.reshape(-1, *[1] * (wide.ndim - 1))
    return {"weight": wide.to(weight), "bias": (bias * factor + shift).to(weight)}
