"""The closed form ``k = clip(⌊z·L/λ + 1/2⌋, 0, L)``, shared by the QCFS activation and the neuron."""

from __future__ import annotations

import torch
from torch import Tensor

from pascal_ext.ops.pasc_if.tiles import can_tile, tiles
from pascal_ext.ops.thresholds import accumulation_dtype, broadcastable


def closed_form(total: Tensor, threshold: Tensor, levels: int, window: int = 1, out: Tensor | None = None) -> Tensor:
    """``clip(⌊z·L/λ + 1/2⌋, 0, L)`` of ``z = total / window``, whole numbers in the dtype of ``total``.

    Every implementation, QCFS included, computes this very expression in this very order; another one would round
    differently next to a boundary, and equal pre-activations would not give equal counts. Powers of two change no
    mantissa: ``L/λ`` is then one division, and so is the mean.

    Args:
        total: sums of currents over their window.
        threshold: λ, in the dtype of ``total``, broadcastable against it.
        levels: L.
        window: T1.
        out: where to put the result; may be ``total``.
    """
    return shifted(total, threshold, levels, window, out).floor_().clamp_(0, levels)


def shifted(total: Tensor, threshold: Tensor, levels: int, window: int = 1, out: Tensor | None = None) -> Tensor:
    """``z·L/λ + 1/2``, whose floor is the count; see :func:`closed_form`."""
    if are_powers_of_two(levels, window):
        return torch.div(total, threshold * (window / levels), out=out).add_(0.5)
    mean = total if window == 1 else torch.div(total, window, out=out)
    return torch.mul(mean, levels, out=out).div_(threshold).add_(0.5)


def are_powers_of_two(*numbers: int) -> bool:
    """Whether all of them are."""
    return all(number & (number - 1) == 0 for number in numbers)


def quantise(z: Tensor, threshold: Tensor | float, levels: int, channel_dim: int = 1) -> Tensor:
    """The counts of pre-activations ``z``, in their accumulation dtype; see :func:`closed_form`."""
    return closed_form(z.to(accumulation_dtype(z.dtype)), broadcastable(threshold, z, channel_dim), levels)


def quantised_activation(z: Tensor, threshold: Tensor | float, levels: int, *, in_place: bool = False) -> Tensor:
    """``λ/L · k``, the QCFS activation of ``z``, [N, ...] or [N, C, ...], in its dtype; not differentiable.

    Args:
        z: pre-activations.
        threshold: λ.
        levels: L.
        in_place: put the result into ``z``, as an in-place ReLU would.
    """
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
    if not can_tile(z):
        counts = quantise(z, threshold, levels)
        return counts.to(dtype), activation(counts, threshold, levels, z.dtype)
    out, integers = z if in_place else torch.empty_like(z), torch.empty_like(z, dtype=dtype)
    for by, source, target, counts in tiles((broadcastable(threshold, z, 1),), 1, z, out, integers):
        counts.copy_(closed_form(source, by, levels, out=target))
        target.mul_(by / levels)
    return integers, out


def activation(counts: Tensor, threshold: Tensor | float, levels: int, dtype: torch.dtype) -> Tensor:
    """``λ/L · k``, what a layer's counts [N, C, ...] stand for."""
    accumulate = counts if counts.is_floating_point() else counts.to(accumulation_dtype(dtype))
    return accumulate.mul(broadcastable(threshold, accumulate, 1) / levels).to(dtype)
