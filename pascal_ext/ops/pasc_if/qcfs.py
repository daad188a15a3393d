"""The QCFS activation of whole layers, with as few passes over memory as the device allows."""

from __future__ import annotations

import torch
from torch import Tensor

from pascal_ext.ops.pasc_if.closed_form import activation, closed_form, counts_dtype, divisor_of, quantise
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
    by = broadcastable(threshold, z, 1)
    for divisor, step, source, target in tiles((divisor_of(by, levels), by / levels), 1, z, out):
        closed_form(source, divisor, levels, out=target).mul_(step)
    return out


def counts_and_activation(
    z: Tensor, threshold: Tensor, levels: int, *, in_place: bool = False
) -> tuple[Tensor, Tensor]:
    """The counts, in their :func:`counts_dtype`, and what :func:`quantised_activation` gives."""
    dtype = counts_dtype(levels)
    backend = fused(z)
    if backend is not None and backend.activation is not None:
        out, integers = z if in_place else torch.empty_like(z), torch.empty_like(z, dtype=dtype)
        backend.activation(z, threshold, levels, out, integers)
        return integers, out
    if not can_tile(z):
        counts = quantise(z, threshold, levels)
        return counts.to(dtype), activation(counts, threshold, levels, z.dtype)
    out, integers = z if in_place else torch.empty_like(z), torch.empty_like(z, dtype=dtype)
    by = broadcastable(threshold, z, 1)
    for divisor, step, source, target, counts in tiles((divisor_of(by, levels), by / levels), 1, z, out, integers):
        counts.copy_(closed_form(source, divisor, levels, out=target))
        target.mul_(step)
    return integers, out
