"""Codes at the two ends of a network: latency-coded spikes in, a spiking answer out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pascal_ext.errors import InvalidArgumentError


def latency_currents(spikes: Tensor, intensities: Tensor | Sequence[float] | None = None) -> Tensor:
    """Latency-coded spikes as currents whose mean over time is the intensity that was coded.

    A PASCAL network reads the temporal mean of its input, and that of a latency code is 1/T for every feature: when
    the spike came is lost. So a synapse is put in front whose strength falls with time: the spike of step t arrives as
    ``T * intensities[t]``. Rate-coded spikes need nothing of the kind; their mean is the intensity already.

    Args:
        spikes: [T, B, ...], at most one spike for each feature, as ``snntorch.spikegen.latency`` makes them.
        intensities: [T], what a spike at each step stands for. Without it, ``1 - t / (T - 1)``, which undoes
            ``spikegen.latency(data, num_steps=T, linear=True, normalize=True)`` to within half a step, 1 / (2T - 2).

    Returns:
        Currents, [T, B, ...].

    Raises:
        InvalidArgumentError: there is no time, or ``intensities`` has another number of steps.
    """
    steps = spikes.shape[0] if spikes.ndim else 0
    if steps < 1:
        raise InvalidArgumentError(f"spikes must be [T, B, ...] with at least one step, got {list(spikes.shape)}")
    dtype = spikes.dtype if spikes.is_floating_point() else torch.get_default_dtype()
    if intensities is None:
        intensities = torch.linspace(1, 0, steps) if steps > 1 else torch.ones(1)
    elif not isinstance(intensities, Tensor):
        intensities = torch.tensor(intensities, dtype=dtype)
    if intensities.shape != (steps,):
        raise InvalidArgumentError(
            f"intensities must have one value for each of the {steps} steps, got shape {list(intensities.shape)}"
        )
    strength = (steps * intensities).to(device=spikes.device, dtype=dtype)
    return spikes * strength.view(-1, *[1] * (spikes.ndim - 1))


def winner_spikes(currents: Tensor) -> Tensor:
    """The answer of a network whose last layer is linear, in spikes: a winner-take-all layer on its currents.

    At every step the class with the largest current in the mean over time fires, and inhibits the others, as
    ``inhibition=True`` does in snnTorch. So each code that reads the spikes, rate or latency, finds the ANN's class:
    ``accuracy_rate``, ``accuracy_temporal``, ``spikeplot.raster`` and ``spikeplot.spike_count`` have spikes to read.

    Args:
        currents: [T, B, C, ...], as :class:`PascalNetwork` returns them.

    Returns:
        Spikes, 0 or 1, of the same shape and dtype.

    Raises:
        InvalidArgumentError: there is no dimension of classes.
    """
    if currents.ndim < 3:
        raise InvalidArgumentError(f"currents must be [T, B, C, ...], got {list(currents.shape)}")
    winner = currents.mean(0).argmax(1, keepdim=True)
    return torch.zeros_like(currents).scatter_(2, winner.unsqueeze(0).expand(len(currents), *winner.shape), 1)
