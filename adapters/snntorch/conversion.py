"""Converting and loading, with the neuron and the network of this adapter."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pascal_ext.adapters.snntorch.compat import SpikingNeuron
from pascal_ext.adapters.snntorch.network import PascalNetwork
from pascal_ext.adapters.snntorch.neuron import PascalIF
from pascal_ext.conversion import convert as core
from pascal_ext.network.spiking_network import SpikingNetwork
from pascal_ext.neuron import PascIF
from pascal_ext.plan import Levels
from pascal_ext.saving import io


def convert(
    model: nn.Module, dataloader: Iterable[Any] | None = None, levels: Levels | str | None = None, **options: Any
) -> SpikingNetwork:
    """What :func:`pascal_ext.convert` does, as a :class:`PascalNetwork` of :class:`PascalIF`.

    Args:
        model: the trained ANN, with ReLU-like or QCFS activations; it is not changed.
        dataloader: batches (images, labels) of the ANN, without time; they calibrate the thresholds of ReLUs.
        levels: see :func:`pascal_ext.convert`.
        options: the other keyword arguments of :func:`pascal_ext.convert`.

    Raises:
        UnsupportedOperationError: the model is a spiking network already; or see :func:`pascal_ext.convert`.
    """
    core.check_is_ann(model, (SpikingNeuron, PascIF))
    classes = {"neuron": PascalIF, "network": PascalNetwork}
    return core.convert(model, dataloader, levels, **{**classes, **options})


def load(path: str | Path, device: torch.device | str = "cpu") -> SpikingNetwork:
    """What :func:`pascal_ext.load` does, as a :class:`PascalNetwork` of :class:`PascalIF` that takes sequences.

    Args:
        path: a file that :func:`pascal_ext.save` wrote, from whichever framework.
        device: where the tensors go.
    """
    network = io.load(path, device=device, neuron=PascalIF, network=PascalNetwork)
    network.step_mode = "m"
    return network
