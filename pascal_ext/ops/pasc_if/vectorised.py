r"""PASC-IF in closed form: only the mean of the input currents counts.

The three stages of the neuron emit ``k = clip(⌊z·L/λ + 1/2⌋, 0, L)`` spikes whatever the order of the currents whose
mean is ``z``; the train is the thermometer code of ``k``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pascal_ext.ops.thresholds import accumulation_dtype, broadcastable


def quantise(z: Tensor, threshold: Tensor | float, levels: int, channel_dim: int = 1) -> Tensor:
    """``clip(⌊z·L/λ + 1/2⌋, 0, L)``, whole numbers in the accumulation dtype of ``z``.

    The QCFS activation and the neuron share this very function, so that equal pre-activations give equal counts. The
    order of the operations is the formula's; another one would round differently next to a boundary.
    """
    threshold = broadcastable(threshold, z, channel_dim)
    return z.to(accumulation_dtype(z.dtype)).mul(levels).div_(threshold).add_(0.5).floor_().clamp_(0, levels)


def window_mean(x_seq: Tensor) -> Tensor:
    """The pre-activation ``z``: the mean of the currents over their window, in the accumulation dtype."""
    if x_seq.shape[0] == 1:
        return x_seq[0]
    return x_seq.mean(0, dtype=accumulation_dtype(x_seq.dtype))


def pasc_if_counts(x_seq: Tensor, v_threshold: Tensor | float, levels: int) -> Tensor:
    """The spike counts alone, [N, ...] int32; arguments as in :func:`pascal_ext.functional.pasc_if`."""
    return quantise(window_mean(x_seq), v_threshold, levels).int()


def train_of(counts: Tensor, levels: int, dtype: torch.dtype) -> Tensor:
    """The thermometer code of ``counts``: [N, ...] integers -> [levels, N, ...] in {0, 1}, ones first."""
    steps = torch.arange(levels, dtype=counts.dtype, device=counts.device)
    return (steps.view(-1, *[1] * counts.ndim) < counts).to(dtype)


def pasc_if_vectorised(x_seq: Tensor, v_threshold: Tensor | float, levels: int) -> Tensor:
    """The spike train; arguments and shapes as in :func:`pascal_ext.functional.pasc_if`."""
    return train_of(pasc_if_counts(x_seq, v_threshold, levels), levels, x_seq.dtype)


def activation(counts: Tensor, threshold: Tensor | float, levels: int, dtype: torch.dtype) -> Tensor:
    """``λ/L · k``, what a layer's counts [N, C, ...] stand for."""
    accumulate = counts if counts.is_floating_point() else counts.to(accumulation_dtype(dtype))
    return accumulate.mul(broadcastable(threshold, accumulate, 1) / levels).to(dtype)
