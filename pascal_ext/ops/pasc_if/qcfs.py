"""The QCFS activation of whole layers, with as few passes over memory as the device allows."""

from __future__ import annotations

import torch
from torch import Tensor

from pascal_ext.ops.pasc_if.closed_form import activation, closed_form, quantise
from pascal_ext.ops.pasc_if.fusion import fused
from pascal_ext.ops.pasc_if.tiles import can_tile, tiles
from pascal_ext.ops.thresholds import broadcastable


def quantised_activation(z: Tensor, threshold: Tensor, levels: int, *, in_place: bool = False) -> Tensor:
    """``λ/L · k``, the QCFS activation of ``z``, [N, ...] or [N, C, ...], in its dtype; not differentiable.

    Args:
        z: pre-activations.
        threshold: λ.
        levels: L.
        in_place: put the result into ``z``, as an in-place ReLU would.
    """
    backend = fused(z)
    if backend is not None and backend.activation is not None:
        out = z if in_place else torch.empty_like(z)
        backend.activation(z, threshold, levels, out, None)
        return out
    if not can_tile(z):
        return activation(quantise(z, threshold, levels), threshold, levels, z.dtype)
    out = z if in_place else torch.empty_like(z)
    for by, source, target in tiles((broadcastable(threshold, z, 1),), 1, z, out):
        closed_form(source, by, levels, out=target).mul_(by / levels)
    return out


def counts_and_activation(
    z: Tensor, threshold: Tensor, levels: int, *, in_place: bool = False
) -> tuple[Tensor, Tensor]:
    """The counts, in the smallest integer dtype that holds them, and what :func:`quantised_activation` gives."""
    dtype = torch.uint8 if levels < 256 else torch.int32
    backend = fused(z)
    if backend is not None and backend.activation is not None:
        out, integers = z if in_place else torch.empty_like(z), torch.empty_like(z, dtype=dtype)
        backend.activation(z, threshold, levels, out, integers)
        return integers, out
    if not can_tile(z):
        counts = quantise(z, threshold, levels)
        return counts.to(dtype), activation(counts, threshold, levels, z.dtype)
    out, integers = z if in_place else torch.empty_like(z), torch.empty_like(z, dtype=dtype)
    for by, source, target, counts in tiles((broadcastable(threshold, z, 1),), 1, z, out, integers):
        counts.copy_(closed_form(source, by, levels, out=target))
        target.mul_(by / levels)
    return integers, out
