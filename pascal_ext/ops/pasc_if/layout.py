"""What a fused kernel has to know about currents and thresholds, whatever it is written in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pascal_ext.ops.pasc_if.closed_form import are_powers_of_two
from pascal_ext.ops.thresholds import accumulation_dtype, check_channels


class Divisor(NamedTuple):
    """What a kernel divides by.

    Attributes:
        value: λ; contiguous, in the accumulation dtype, one value or [C].
        powers_of_two: whether T1 and L are, so that λ·T1/L is exact.
        channels: number of values.
        inner: how many neurons of a channel lie side by side in memory: neuron i is of channel ``i // inner % C``; 1
            where there is one value.
    """

    value: Tensor
    powers_of_two: bool
    channels: int
    inner: int


def dense_steps(x_seq: Tensor) -> Tensor:
    """``x_seq``, copied only if its steps have gaps in memory; what is expanded over time stays so."""
    return x_seq if x_seq.is_contiguous() or is_dense(x_seq[0]) else x_seq.contiguous()


def is_dense(step: Tensor) -> bool:
    """Whether [N, ...] has no gaps in memory, with the channels in the place of the last or of the second dimension."""
    if step.is_contiguous():
        return True
    if step.ndim == 4:  # what can be asked without making a view
        return step.is_contiguous(memory_format=torch.channels_last)
    return step.ndim > 2 and step.movedim(1, -1).is_contiguous()


def divisor(threshold: Tensor, step: Tensor, levels: int, window: int = 1) -> Divisor:
    """For a window of currents of which ``step``, [N, ...], is one, dense."""
    powers_of_two, dtype = are_powers_of_two(window, levels), accumulation_dtype(step.dtype)
    value = threshold.to(step.device, dtype)
    if value.numel() == 1:
        return Divisor(value, powers_of_two, 1, 1)
    check_channels(value, step, 1)
    inner = step.shape[2:].numel() if step.is_contiguous() else 1
    return Divisor(value.contiguous(), powers_of_two, value.numel(), inner)
