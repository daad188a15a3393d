"""What a fused kernel has to know about currents and thresholds, whatever it is written in."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from pascal_ext.ops.pasc_if.closed_form import are_powers_of_two
from pascal_ext.ops.thresholds import accumulation_dtype, broadcastable


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
    return x_seq if is_dense(x_seq[0]) else x_seq.contiguous()


def is_dense(step: Tensor) -> bool:
    """Whether [N, ...] has no gaps in memory, with the channels in the place of the last or of the second dimension."""
    return step.is_contiguous() or (step.ndim > 2 and step.movedim(1, -1).is_contiguous())


def divisor(threshold: Tensor, step: Tensor, levels: int, window: int = 1) -> Divisor:
    """For a window of currents of which ``step``, [N, ...], is one, dense."""
    powers_of_two, dtype = are_powers_of_two(window, levels), accumulation_dtype(step.dtype)
    if threshold.numel() == 1:
        return Divisor(threshold.to(step.device, dtype), powers_of_two, 1, 1)
    value = broadcastable(threshold, step, 1).reshape(-1).to(step.device, dtype).contiguous()
    inner = step.shape[2:].numel() if step.is_contiguous() else 1
    return Divisor(value, powers_of_two, value.numel(), inner)
