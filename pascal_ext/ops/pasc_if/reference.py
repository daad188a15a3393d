"""PASC-IF, step by step: the definition that every other implementation is tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from pascal_ext.ops.thresholds import accumulation_dtype, broadcastable, exactly


def pasc_if_reference(x_seq: Tensor, v_threshold: Tensor | float, levels: int) -> Tensor:
    r"""The three stages of PASCAL's neuron (arXiv 2505.01730, section 4), one timestep at a time.

    The paper's neuron takes currents whose *sum* is the pre-activation ``z`` and fires at ``θ = λ/L``. Here the *mean*
    of the currents is ``z``; so currents sum to ``T1·z``, and the neuron fires at ``T1·λ/L`` instead. A negative ``λ``
    mirrors the neuron: ``z/λ = (−z)/(−λ)``.

    Args and shapes are those of :func:`pascal_ext.functional.pasc_if`.
    """
    window = x_seq.shape[0]
    threshold = broadcastable(v_threshold, x_seq, channel_dim=2)
    currents = x_seq.to(accumulation_dtype(x_seq.dtype)) * threshold.sign()
    theta = threshold.abs() * window / exactly(levels, threshold)

    v = (theta / 2).expand_as(currents[0]).clone()
    count = torch.zeros_like(v, dtype=torch.int32)
    for current in currents:  # stage 1: integrate, fire, reset by subtraction
        v = v + current
        fired = v >= theta
        v = torch.where(fired, v - theta, v)
        count = count + fired.int()

    for _ in range(max(window, levels) - 1):  # stage 2: settle the residue with excitatory and inhibitory spikes
        fired, inhibited = v >= theta, v < 0
        v = torch.where(fired, v - theta, torch.where(inhibited, v + theta, v))
        count = count + fired.int() - inhibited.int()

    spikes = []
    for _ in range(levels):  # stage 3: emit the count, spikes first
        fired = count >= 1
        count = count - fired.int()
        spikes.append(fired)
    return torch.stack(spikes).to(x_seq.dtype)
