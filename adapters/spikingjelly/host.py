"""The backend ``"host"``: stage 1 of the neuron runs on SpikingJelly's own multi-step integrate-and-fire neuron.

On 2.x that is its registered operator, ``functional.if_multi_step`` (native CUDA, Triton or Torch, as SpikingJelly
chooses); on 0.0.0.0.14 its ``IFNode``, whose CuPy kernel runs on a GPU where CuPy is installed. SpikingJelly is
imported when the backend runs.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from pascal_ext.ops.pasc_if import Backend, train_of
from pascal_ext.ops.pasc_if.selection import installed
from pascal_ext.ops.thresholds import accumulation_dtype, broadcastable


@torch.no_grad()
def host_counts(x_seq: Tensor, threshold: Tensor, levels: int) -> Tensor:
    """Counts [N, ...], int32, from the spikes and the membrane potential that the host's neuron is left with.

    The host's soft reset takes θ away for each spike, so the potential v that stays says what stages 2 and 3 would add
    and take back: ``k = clip(Σ spikes + ⌊v/θ⌋, 0, L)``. Its neurons know one threshold; with one for each channel, the
    currents are brought to units of θ first.
    """
    threshold = broadcastable(threshold, x_seq, 2)
    currents = x_seq.to(accumulation_dtype(x_seq.dtype)) * threshold.sign()
    theta = threshold.abs() * (x_seq.shape[0] / levels)
    if theta.numel() > 1:
        currents, theta = currents / theta, torch.ones((), dtype=theta.dtype)
    v = (theta / 2).to(currents.device).expand_as(currents[0]).contiguous()
    spikes, v = _integrate(currents, v, float(theta))
    return (spikes.sum(0) + (v / float(theta)).floor()).clamp_(0, levels).int()


def host_spikes(x_seq: Tensor, threshold: Tensor, levels: int) -> Tensor:
    """The train [L, N, ...] of :func:`host_counts`."""
    return train_of(host_counts(x_seq, threshold, levels), levels, x_seq.dtype)


def _integrate(currents: Tensor, v: Tensor, theta: float) -> tuple[Tensor, Tensor]:
    """Spikes [T1, N, ...], and the membrane potential [N, ...] after them."""
    from pascal_ext.adapters.spikingjelly.compat import HAS_RECIPES, load

    if HAS_RECIPES:
        spikes, v, _ = load("functional").if_multi_step(currents, v, v_threshold=theta, v_reset=None)
        return spikes, v
    on_cupy = currents.is_cuda and currents.dtype == torch.float32 and bool(importlib.util.find_spec("cupy"))
    neuron = load("neuron").IFNode(
        v_threshold=theta, v_reset=None, step_mode="m", backend="cupy" if on_cupy else "torch"
    )
    neuron.train(on_cupy)  # where its CuPy kernel runs; in evaluation mode it is scripted torch
    neuron.v = v
    return neuron(currents), neuron.v


def _missing() -> str:
    return installed("spikingjelly", 'pip install "spikingjelly>=0.0.0.0.14"')


HOST = Backend(host_spikes, host_counts, missing=_missing)
