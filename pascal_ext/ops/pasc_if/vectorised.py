"""PASC-IF without its loops: only the sum of the input currents counts.

The three stages of the neuron emit ``k = clip(⌊z·L/λ + 1/2⌋, 0, L)`` spikes whatever the order of the currents whose
mean is ``z``; the train is the thermometer code of ``k``.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from pascal_ext.ops.pasc_if.closed_form import closed_form, divisor_of, shifted
from pascal_ext.ops.pasc_if.ties import agrees, margins, settle
from pascal_ext.ops.pasc_if.tiles import can_tile, tiles
from pascal_ext.ops.thresholds import accumulation_dtype, broadcastable


def window_mean(x_seq: Tensor) -> Tensor:
    """The pre-activation ``z``: the mean of the currents over their window, in the accumulation dtype."""
    if x_seq.shape[0] == 1:
        return x_seq[0]
    return x_seq.mean(0, dtype=accumulation_dtype(x_seq.dtype))


def pasc_if_counts(x_seq: Tensor, v_threshold: Tensor | float, levels: int) -> Tensor:
    """The spike counts alone, [N, ...] int32; arguments as in :func:`pascal_ext.functional.pasc_if`."""
    window = x_seq.shape[0]
    divisor = divisor_of(broadcastable(v_threshold, x_seq, 2), levels, window)
    return closed_form(_total(x_seq), divisor, levels, window).int()


def pasc_if_vectorised(x_seq: Tensor, v_threshold: Tensor | float, levels: int) -> Tensor:
    """The spike train; arguments and shapes as in :func:`pascal_ext.functional.pasc_if`."""
    window = x_seq.shape[0]
    divisor = divisor_of(broadcastable(v_threshold, x_seq, 2), levels, window)
    if not can_tile(x_seq):
        return train_of(closed_form(_total(x_seq), divisor, levels, window), levels, x_seq.dtype)
    train = empty_train(x_seq, levels)
    for by, *pieces in tiles((divisor,), 1, *x_seq.unbind(0), *train.unbind(0)):
        u = shifted(_total(pieces[:window]), by, levels, window)
        for time, emitted in enumerate(pieces[window:], start=1):
            torch.ge(u, time, out=emitted)  # ⌊u⌋ > t − 1
    return train


def pasc_if_settled(
    x_seq: Tensor, v_threshold: Tensor | float, levels: int, reference: Tensor
) -> tuple[Tensor, Tensor]:
    """The spike train, its ties settled, and how many of them were; see :mod:`pascal_ext.ops.pasc_if.ties`.

    Args:
        x_seq, v_threshold, levels: as in :func:`pascal_ext.functional.pasc_if`.
        reference: counts [N, ...] of any integer dtype that holds L, from a pass in the ANN's own arithmetic.
    """
    threshold = broadcastable(v_threshold, x_seq, 2)
    within, window = margins(threshold, levels, x_seq.dtype), x_seq.shape[0]
    divisor = divisor_of(threshold, levels, window)
    if not can_tile(x_seq):
        u = shifted(_total(x_seq), divisor, levels, window)
        counts, ties = settle(u, levels, reference, within)
        return train_of(counts, levels, x_seq.dtype), ties
    train = empty_train(x_seq, levels)
    ties = torch.zeros((), dtype=torch.int64)
    for by, near, settled, *pieces in tiles((divisor, within), 1, reference, *x_seq.unbind(0), *train.unbind(0)):
        u = shifted(_total(pieces[:window]), by, levels, window)
        if not agrees(u, levels, settled):  # rare: ties are
            counts, changed = settle(u, levels, settled, near)
            u = counts.to(u.dtype)
            ties += changed
        for time, emitted in enumerate(pieces[window:], start=1):
            torch.ge(u, time, out=emitted)
    return train, ties


def empty_train(x_seq: Tensor, levels: int, device: torch.device | str | None = None) -> Tensor:
    """Room for a train [levels, N, ...] whose steps lie in memory like those of ``x_seq``, on its device or another."""
    return _room(x_seq[0], levels, x_seq.dtype, device or x_seq.device)


def _room(step: Tensor, levels: int, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    step = torch.empty_like(step, device="meta")
    strides = (step.numel(), *step.stride())
    return torch.empty_strided((levels, *step.shape), strides, dtype=dtype, device=device)


def train_of(counts: Tensor, levels: int, dtype: torch.dtype) -> Tensor:
    """The thermometer code of ``counts``: [N, ...] whole numbers -> [levels, N, ...] in {0, 1}, ones first."""
    if counts.is_floating_point() and can_tile(counts):
        train = _room(counts, levels, dtype, counts.device)
        for time, emitted in enumerate(train, start=1):
            torch.ge(counts, time, out=emitted)
        return train
    steps = torch.arange(levels, dtype=counts.dtype, device=counts.device)
    return (steps.view(-1, *[1] * counts.ndim) < counts).to(dtype)


def _total(currents: Tensor | list[Tensor]) -> Tensor:
    """The sum of a window of currents, in the accumulation dtype."""
    if isinstance(currents, Tensor):
        dtype = accumulation_dtype(currents.dtype)
        return currents[0].to(dtype) if currents.shape[0] == 1 else currents.sum(0, dtype=dtype)
    if len(currents) == 1:
        return currents[0]
    return functools.reduce(Tensor.add_, currents[2:], currents[0] + currents[1])
