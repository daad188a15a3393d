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


def divisor(threshold: Tensor, x_seq: Tensor, levels: int) -> Divisor:
    """For the steps of ``x_seq``, which are dense."""
    value = broadcastable(threshold, x_seq, 2).reshape(-1).to(x_seq.device, accumulation_dtype(x_seq.dtype))
    step = x_seq[0]
    inner = step.shape[2:].numel() if value.numel() > 1 and step.is_contiguous() else 1
    return Divisor(value.contiguous(), are_powers_of_two(x_seq.shape[0], levels), value.numel(), inner)
