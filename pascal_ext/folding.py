"""Multiplying thresholds and batch norms into weights; all of it in float64, rounded once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from pascal_ext.ops.thresholds import broadcastable


class Scale(nn.Module):
    """Multiplies spikes by a threshold that no layer with weights absorbs: one value, or one per channel."""

    scale: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return x * broadcastable(self.scale, x, channel_dim=1).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.scale.item():.4g}" if self.scale.numel() == 1 else f"{self.scale.numel()} channels"


def absorb_input_scale(layer: Any, scale: Tensor) -> None:
    """Change the weights of ``layer`` so that ``layer(s)`` becomes what ``layer(scale * s)`` was.

    Args:
        layer: a convolution, transposed convolution or linear layer.
        scale: one value, or one for each input channel (input feature).
    """
    weight = layer.weight.detach()
    factor = scale.detach().double()
    if factor.numel() > 1:
        if isinstance(layer, _ConvTransposeNd):  # weight [in, out / groups, ...]
            factor = factor.reshape(-1, *[1] * (weight.ndim - 1))
        elif isinstance(layer, _ConvNd):  # weight [out, in / groups, ...]
            grouped = factor.reshape(layer.groups, -1)
            factor = grouped.repeat_interleave(layer.out_channels // layer.groups, 0)
            factor = factor.reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))
    layer.weight = _parameter(weight.double() * factor, like=layer.weight)


def fold_batch_norm(layer: Any, norm: Any) -> None:
    """Change ``layer`` so that it computes what ``norm(layer(x))`` did in evaluation mode."""
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.detach().double()
    bias = -norm.running_mean.double() if layer.bias is None else layer.bias.detach().double() - norm.running_mean
    shift = 0 if norm.bias is None else norm.bias.detach().double()
    weight = layer.weight.detach().double()
    if isinstance(layer, _ConvTransposeNd):
        per_group = factor.reshape(layer.groups, -1).repeat_interleave(layer.in_channels // layer.groups, 0)
        weight = weight * per_group.reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))
    else:
        weight = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    layer.bias = _parameter(bias * factor + shift, like=layer.weight)
    layer.weight = _parameter(weight, like=layer.weight)


def absorb_norm_scale(norm: Any, scale: Tensor) -> None:
    """Change ``norm``, in evaluation mode, so that ``norm(s)`` becomes what ``norm(scale * s)`` was."""
    scale = scale.detach().double()
    mean = norm.running_mean
    gamma = torch.ones_like(mean) if norm.weight is None else norm.weight.detach()
    beta = torch.zeros_like(mean) if norm.bias is None else norm.bias.detach()
    norm.affine = True
    norm.weight = _parameter(gamma.double() * scale, like=mean)
    norm.bias = _parameter(beta, like=mean)
    norm.running_mean = (mean.double() / scale).to(mean.dtype)


def _parameter(value: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.to(like.dtype).contiguous(), requires_grad=like.requires_grad)
