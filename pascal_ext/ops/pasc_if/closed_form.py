"""The closed form ``k = clip(⌊z·L/λ + 1/2⌋, 0, L)``, shared by the QCFS activation and the neuron."""

from __future__ import annotations

import torch
from torch import Tensor

from pascal_ext.ops.thresholds import accumulation_dtype, broadcastable, exactly


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
    mean = total if window == 1 else torch.div(total, exactly(window, total), out=out)
    return torch.mul(mean, levels, out=out).div_(threshold).add_(0.5)


def are_powers_of_two(*numbers: int) -> bool:
    """Whether all of them are."""
    return all(number & (number - 1) == 0 for number in numbers)


def quantise(z: Tensor, threshold: Tensor | float, levels: int, channel_dim: int = 1) -> Tensor:
    """The counts of pre-activations ``z``, in their accumulation dtype; see :func:`closed_form`."""
    return closed_form(z.to(accumulation_dtype(z.dtype)), broadcastable(threshold, z, channel_dim), levels)


def activation(counts: Tensor, threshold: Tensor | float, levels: int, dtype: torch.dtype) -> Tensor:
    """``λ/L · k``, what a layer's counts [N, C, ...] stand for."""
    accumulate = counts if counts.is_floating_point() else counts.to(accumulation_dtype(dtype))
    by = broadcastable(threshold, accumulate, 1)
    return accumulate.mul(by / exactly(levels, by)).to(dtype)
