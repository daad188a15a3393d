"""What a fused kernel has to know about currents and thresholds, whatever it is written in."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from pascal_ext.ops.pasc_if.closed_form import are_powers_of_two
from pascal_ext.ops.thresholds import accumulation_dtype, broadcastable


class Divisor(NamedTuple):
    """What a kernel divides by.

    Attributes:
        value: λ·T1/L where T1 and L are powers of two, else λ; contiguous, in the accumulation dtype, one value or [C].
        powers_of_two: whether they are.
        channels: number of values.
        inner: how many neurons of a channel lie side by side in memory: neuron i is of channel ``i // inner % C``.
    """

    value: Tensor
    powers_of_two: bool
    channels: int
    inner: int


def dense_steps(x_seq: Tensor) -> Tensor:
    """``x_seq``, copied only if its steps have gaps in memory; what is expanded over time stays so."""
    step = x_seq[0]
    if step.is_contiguous() or (step.ndim > 2 and step.movedim(1, -1).is_contiguous()):
        return x_seq
    return x_seq.contiguous()


def divisor(threshold: Tensor, x_seq: Tensor, levels: int) -> Divisor:
    """For the steps of ``x_seq``, which are dense."""
    value = broadcastable(threshold, x_seq, 2).reshape(-1).to(x_seq.device, accumulation_dtype(x_seq.dtype))
    window = x_seq.shape[0]
    powers = are_powers_of_two(window, levels)
    if powers:
        value = value * (window / levels)
    step = x_seq[0]
    inner = 1 if step.ndim < 2 or not step.is_contiguous() else step.shape[2:].numel()
    return Divisor(value.contiguous(), powers, value.numel(), inner)
