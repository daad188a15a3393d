"""What the neurons of a converted network emit: spikes per neuron, and trains to draw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pascal_ext.data import batches, call
from pascal_ext.network.spiking_network import SpikingNetwork
from pascal_ext.observers import evaluating


@contextmanager
def _observed(network: SpikingNetwork, observe: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call ``observe(name, spikes)`` on each layer's train, [levels, N, ...], for the length of the block."""
    handles = [
        neuron.register_forward_hook(lambda module, args, output, name=name: observe(name, output))
        for name, neuron in network.neurons.items()
    ]
    try:
        with evaluating(network), network.configured(execution="spikes", step_mode="s"):
            yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def mean_spikes(network: SpikingNetwork, dataloader: Iterable[Any]) -> dict[str, float]:
    """Layer name -> spikes that a neuron of the layer emits for one sample, on average; between 0 and its levels.

    Args:
        network: a converted network; it is run in evaluation mode, "spikes" execution and single-step mode, and left as
            it was.
        dataloader: see :func:`pascal_ext.data.batches`.
    """
    spikes: dict[str, float] = dict.fromkeys(network.neurons, 0.0)
    counts: dict[str, int] = dict.fromkeys(network.neurons, 0)

    def observe(name: str, train: Tensor) -> None:
        spikes[name] += train.sum(dtype=torch.float64).item()
        counts[name] += train[0].numel()

    with _observed(network, observe):
        for batch in batches(dataloader, network):
            call(network, batch)
    return {name: spikes[name] / max(counts[name], 1) for name in spikes}


@torch.no_grad()
def spike_trains(network: SpikingNetwork, *args: Any, neurons: int = 24, **kwargs: Any) -> dict[str, list[list[int]]]:
    """Layer name -> the train, [levels][neurons] of 0 and 1, of the first sample of ``args`` in every layer.

    Args:
        network: a converted network; it is run in evaluation mode, "spikes" execution and single-step mode, and left as
            it was.
        args, kwargs: what the network is called with.
        neurons: at most how many neurons of each layer are kept: evenly spaced over the flattened layer.
    """
    trains: dict[str, list[list[int]]] = {}

    def observe(name: str, train: Tensor) -> None:
        flat = train[:, 0].flatten(1) if train.ndim > 2 else train[:, :1]
        chosen = torch.linspace(0, flat.shape[1] - 1, min(neurons, flat.shape[1]), device=flat.device).round().long()
        trains[name] = flat[:, chosen].int().tolist()

    with _observed(network, observe):
        network(*args, **kwargs)
    return {name: trains[name] for name in network.neurons if name in trains}
