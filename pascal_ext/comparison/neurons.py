"""Spiking neurons that others have put in the place of QCFS, in units of the threshold, a whole window at a time.

All start at half a threshold, fire at 1 and are reset by subtraction; they differ in what they do first:

- :func:`integrate_and_fire`: nothing (Bu et al., ICLR 2022);
- :func:`silence`: τ steps find out which neurons should not fire at all (SRP: Hao et al., AAAI 2023);
- :func:`shift`: ρ steps find out which neurons fire once too often or too rarely, and move the potential that they
  start from (COS: Hao et al., ICLR 2023).

Written from the papers; the two constants are those of the published evaluations.
"""

from __future__ import annotations

import torch
from torch import Tensor

START = 0.5  # membrane potential, in thresholds: the shift that makes QCFS round (Bu et al., section 4.2)
RESIDUE = 1e-3  # SRP: a residual potential up to here counts as none
MARGIN = 1e-3  # COS: how far beyond the boundary a shift goes


def integrate_and_fire(currents: Tensor, potential: Tensor) -> tuple[Tensor, Tensor]:
    """Run IF neurons with soft reset: ``v ← v + x_t``; fire if ``v ≥ 1``; ``v ← v − 1``.

    Args:
        currents: in thresholds, [T, N, ...].
        potential: before the first step, [N, ...].

    Returns:
        Spikes [T, N, ...] in {0, 1}, and the potential after the last step, [N, ...].
    """
    spikes = torch.empty_like(currents)
    potential = potential.clone()
    for current, spike in zip(currents, spikes, strict=True):
        potential.add_(current)
        torch.ge(potential, 1, out=spike)
        potential.sub_(spike)
    return spikes, potential


def plain(currents: Tensor) -> Tensor:
    """IF neurons that start at half a threshold: [T, N, ...] -> spikes [T, N, ...]."""
    return integrate_and_fire(currents, torch.full_like(currents[0], START))[0]


def silence(currents: Tensor, steps: int) -> Tensor:
    """SRP: neurons whose residual potential is not positive after ``steps`` (τ) steps are silent in those that follow.

    A residual potential below zero means that early currents made a neuron fire which later ones took back: its QCFS
    most often answers 0 (Hao et al., AAAI 2023, theorem 2).

    Args:
        currents: in thresholds, [τ + T, N, ...].
        steps: τ; all layers run them together.

    Returns:
        Spikes of all steps, [τ + T, N, ...]; the network's answer is that of the last T.
    """
    start = torch.full_like(currents[0], START)
    first, residual = integrate_and_fire(currents[:steps], start)
    then, _ = integrate_and_fire(currents[steps:], start)
    return torch.cat([first, then.mul_(residual > RESIDUE)])


def shift(currents: Tensor, steps: int) -> Tensor:
    """COS: neurons that ``steps`` (ρ) steps leave with too little or too much potential start anew, a spike apart.

    After ρ steps, a potential below 0 says that a neuron fired once too often: it starts again from so much less that
    the weakest of its spikes is lost, at least 1. One of 1 or more says that a spike is missing: it starts from so much
    more that it fires where it was nearest to, at least 1 (Hao et al., ICLR 2023, section 4.3). Then all T steps run.

    Args:
        currents: in thresholds, [T, N, ...], T ≥ ρ.
        steps: ρ; the first ρ currents are used twice, here and in the answer.

    Returns:
        Spikes [T, N, ...] of the second run.
    """
    start = torch.full_like(currents[0], START)
    spikes, residual = integrate_and_fire(currents[:steps], start)
    reached = _before_reset(currents[:steps], spikes, start)
    weakest = reached.masked_fill(spikes == 0, torch.inf).amin(0)
    nearest = reached.masked_fill(spikes == 1, -torch.inf).amax(0)
    too_many = (residual < 0) & (weakest < torch.inf)
    too_few = (residual >= 1) & (nearest > -torch.inf)
    start = torch.where(too_many, start - (weakest - (1 - MARGIN)).clamp(min=1), start)
    start = torch.where(too_few, start + ((1 + MARGIN) - nearest).clamp(min=1), start)
    return integrate_and_fire(currents, start)[0]


def _before_reset(currents: Tensor, spikes: Tensor, start: Tensor) -> Tensor:
    """The potential that each step reached before it was reset: start + currents so far − spikes before."""
    return start + currents.cumsum(0) - (spikes.cumsum(0) - spikes)
