"""Rounding ties: neurons so close to a floor boundary that float32 cannot tell on which side they are.

A simulated current and the pre-activation of the ANN are the same number, rounded differently. A pre-activation is a sum of
n products; summed in another order, or with the threshold multiplied into the weights first, it differs by about
``√n · ε · max|partial sum|``. In units of the firing threshold λ/L partial sums reach a few times L, and n is at most some
thousands; so with a margin of some ten:

    |u_simulated − u_ann|  <=  TIE · ε · L,     u = z·L/λ + 1/2,    TIE = 1024   (float32, L = 8: 0.001 of a level)

About one neuron in a million falls on the other side, and in a deep network one flipped spike flips others. The counts of
a pass in the ANN's own arithmetic settle such ties, and nothing else: a count further from a boundary stands as simulated.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pascal_ext.ops.pasc_if.vectorised import window_mean
from pascal_ext.ops.thresholds import accumulation_dtype, broadcastable

TIE = 1024.0


def settle_ties(
    x_seq: Tensor, v_threshold: Tensor | float, levels: int, reference: Tensor
) -> tuple[Tensor, Tensor]:
    """Spike counts from currents, with ties settled by ``reference``.

    Args:
        x_seq: currents, [T1, N, ...].
        v_threshold: λ, as in :func:`pascal_ext.functional.pasc_if`.
        levels: L.
        reference: counts [N, ...] of any integer dtype, from a pass in the ANN's own arithmetic.

    Returns:
        Counts, [N, ...] int32, and the number of ties in which the reference differed (a scalar tensor).
    """
    z = window_mean(x_seq)
    shifted = z.to(accumulation_dtype(z.dtype)).mul(levels).div_(broadcastable(v_threshold, z, 1)).add_(0.5)
    counts = shifted.floor().clamp_(0, levels).int()
    tie = (shifted - shifted.round()).abs() <= TIE * torch.finfo(x_seq.dtype).eps * levels
    settled = torch.where(tie & ((reference - counts).abs() == 1), reference.int(), counts)
    return settled, (settled != counts).sum()
