"""PASC-IF without its loops: only the sum of the input currents counts.

The three stages of the neuron emit ``k = clip(⌊z·L/λ + 1/2⌋, 0, L)`` spikes whatever the order of the currents whose
mean is ``z``; the train is the thermometer code of ``k``.
"""

from __future__ import annotations

import functools
import math

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
    for by, currents, emitted in tiles((divisor,), 2, x_seq, train):
        _write(shifted(_total(currents), by, levels, window), emitted)  # ⌊u⌋ > t − 1
    return train


def pasc_if_settled(
    x_seq: Tensor, v_threshold: Tensor | float, levels: int, reference: Tensor
) -> tuple[Tensor, Tensor]:
    """The spike train, its ties settled, and how many of them were; see :mod:`pascal_ext.ops.pasc_if.ties`.

    Where a current is NaN, the train is NaN too, as the ANN's activation is, and not silent.

    Args:
        x_seq, v_threshold, levels: as in :func:`pascal_ext.functional.pasc_if`.
        reference: counts [N, ...] of any integer dtype that holds L, from a pass in the ANN's own arithmetic.
    """
    threshold, window = broadcastable(v_threshold, x_seq, 2), x_seq.shape[0]
    divisor = divisor_of(threshold, levels, window)
    if not can_tile(x_seq):
        u = shifted(_total(x_seq), divisor, levels, window)
        counts, ties = settle(u, levels, reference, margins(threshold, levels, x_seq.dtype))
        return train_of(counts, levels, x_seq.dtype).masked_fill(u.isnan(), math.nan), ties
    train = empty_train(x_seq, levels)
    ties = torch.zeros((), dtype=torch.int64, device=x_seq.device)
    settled = reference.unsqueeze(0)
    for by, scale, expected, currents, emitted in tiles((divisor, threshold), 2, settled, x_seq, train):
        u = shifted(_total(currents), by, levels, window)
        if agrees(u, levels, expected[0]):
            _write(u, emitted)
        else:  # rare: ties are
            within = margins(scale, levels, x_seq.dtype, threshold.abs().amax())
            counts, changed = settle(u, levels, expected[0], within)
            _write(counts.to(u.dtype), emitted).masked_fill_(u.isnan(), math.nan)
            ties += changed
    return train, ties


def empty_train(x_seq: Tensor, levels: int, device: torch.device | str | None = None) -> Tensor:
    """Room for a train [levels, N, ...] whose steps lie in memory like those of ``x_seq``, on its device or another."""
    return _room(x_seq[0], levels, x_seq.dtype, device or x_seq.device)


def _room(step: Tensor, levels: int, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    if step.is_contiguous():
        return torch.empty((levels, *step.shape), dtype=dtype, device=device)
    strides = torch.empty_like(step, device="meta").stride()
    return torch.empty_strided((levels, *step.shape), (step.numel(), *strides), dtype=dtype, device=device)


def train_of(counts: Tensor, levels: int, dtype: torch.dtype) -> Tensor:
    """The thermometer code of ``counts``: [N, ...] whole numbers -> [levels, N, ...] in {0, 1}, ones first."""
    if counts.is_floating_point() and can_tile(counts):
        return _write(counts, _room(counts, levels, dtype, counts.device))
    steps = torch.arange(levels, dtype=counts.dtype, device=counts.device)
    return (steps.view(-1, *[1] * counts.ndim) < counts).to(dtype)


def _write(u: Tensor, train: Tensor) -> Tensor:
    """Fill ``train``, [L, N, ...], with what neurons of ``u``, [N, ...], emit: step t = 1 ... L holds ``u >= t``."""
    times = torch.arange(1, train.shape[0] + 1, dtype=u.dtype, device=u.device)
    written: Tensor = torch.ge(u, times.view(-1, *[1] * u.ndim), out=train)
    return written


def _total(x_seq: Tensor) -> Tensor:
    """The sum of a window of currents, in the accumulation dtype.

    Where there are tiles, one step after the other: the order in which ``sum`` adds depends on where an element lies.
    """
    dtype = accumulation_dtype(x_seq.dtype)
    if x_seq.shape[0] == 1:
        return x_seq[0].to(dtype)
    if not can_tile(x_seq):
        return x_seq.sum(0, dtype=dtype)
    first, second, *others = x_seq.unbind(0)
    return functools.reduce(Tensor.add_, others, first + second)
