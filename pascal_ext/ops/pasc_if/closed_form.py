"""The closed form ``k = clip(⌊z·L/λ + 1/2⌋, 0, L)``, shared by the QCFS activation and the neuron."""

from __future__ import annotations

import torch
from torch import Tensor

from pascal_ext.ops.thresholds import accumulation_dtype, broadcastable, exactly


def closed_form(total: Tensor, divisor: Tensor, levels: int, window: int = 1, out: Tensor | None = None) -> Tensor:
    """``clip(⌊z·L/λ + 1/2⌋, 0, L)`` of ``z = total / window``, whole numbers in the dtype of ``total``.

    Every implementation, QCFS included, computes this very expression in this very order; another one would round
    differently next to a boundary, and equal pre-activations would not give equal counts. Powers of two change no
    mantissa: ``L/λ`` is then one division, and so is the mean.

    Args:
        total: sums of currents over their window.
        divisor: of this threshold, these levels and this window, see :func:`divisor_of`; broadcastable against
            ``total``.
        levels: L.
        window: T1.
        out: where to put the result; may be ``total``.
    """
    return shifted(total, divisor, levels, window, out).floor_().clamp_(0, levels)


def shifted(total: Tensor, divisor: Tensor, levels: int, window: int = 1, out: Tensor | None = None) -> Tensor:
    """``z·L/λ + 1/2``, whose floor is the count; see :func:`closed_form`."""
    if are_powers_of_two(levels, window):
        return torch.div(total, divisor, out=out).add_(0.5)
    mean = total if window == 1 else torch.div(total, exactly(window, total), out=out)
    return torch.mul(mean, levels, out=out).div_(divisor).add_(0.5)


def divisor_of(threshold: Tensor, levels: int, window: int = 1) -> Tensor:
    """What :func:`closed_form` divides by: λ, or λ·T1/L where that is exact. λ is in the dtype of the sums."""
    return threshold * (window / levels) if are_powers_of_two(levels, window) else threshold


def are_powers_of_two(*numbers: int) -> bool:
    """Whether all of them are."""
    return all(number & (number - 1) == 0 for number in numbers)


def quantise(z: Tensor, threshold: Tensor | float, levels: int, channel_dim: int = 1) -> Tensor:
    """The counts of pre-activations ``z``, in their accumulation dtype; see :func:`closed_form`."""
    by = broadcastable(threshold, z, channel_dim)
    return closed_form(z.to(accumulation_dtype(z.dtype)), divisor_of(by, levels), levels)


def counts_dtype(levels: int) -> torch.dtype:
    """The smallest integer dtype that holds L; signed, since a CPU is slow to make unsigned integers of floats."""
    return next(dtype for dtype in (torch.int8, torch.int16, torch.int32) if levels <= torch.iinfo(dtype).max)


def activation(counts: Tensor, threshold: Tensor | float, levels: int, dtype: torch.dtype) -> Tensor:
    """``λ/L · k``, what a layer's counts [N, C, ...] stand for."""
    accumulate = counts if counts.is_floating_point() else counts.to(accumulation_dtype(dtype))
    by = broadcastable(threshold, accumulate, 1)
    return accumulate.mul(by / exactly(levels, by)).to(dtype)
