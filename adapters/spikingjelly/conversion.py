"""Converting and loading, with the node and the network that SpikingJelly knows."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pascal_ext.adapters.spikingjelly import compat
from pascal_ext.adapters.spikingjelly.network import PascalNetwork
from pascal_ext.adapters.spikingjelly.node import PascalIFNode
from pascal_ext.conversion import convert as core
from pascal_ext.data import device_of
from pascal_ext.errors import UnsupportedOperationError
from pascal_ext.graph.traceable import copied
from pascal_ext.network.spiking_network import SpikingNetwork
from pascal_ext.neuron import PascIF
from pascal_ext.plan import Levels
from pascal_ext.saving import io


def convert(
    model: nn.Module,
    dataloader: Iterable[Any] | None = None,
    levels: Levels | str | None = None,
    *,
    device: torch.device | str | None = None,
    **options: Any,
) -> SpikingNetwork:
    """What :func:`pascal_ext.convert` does, as a :class:`PascalNetwork` of :class:`PascalIFNode`.

    Args:
        model: a QCFS or ReLU network; neither it nor its device is changed.
        dataloader: see :func:`pascal_ext.convert`.
        levels: see :func:`pascal_ext.convert`.
        device: of the result, and of the calibration; that of the model where nothing is said.
        options: the other keyword arguments of :func:`pascal_ext.convert`.

    Raises:
        UnsupportedOperationError: the model is a spiking network already, or its layers take sequences; or see
            :func:`pascal_ext.convert`.
    """
    core.check_is_ann(model, (compat.load("neuron").BaseNode, PascIF))
    for name, module in model.named_modules():
        if isinstance(module, compat.base.StepModule) and module.step_mode == "m":
            raise UnsupportedOperationError(
                f"{name or 'the model'!r} ({type(module).__name__}) is in step mode 'm', and takes sequences: "
                "functional.set_step_mode(model, 's') makes it the ANN"
            )
    if device is not None and torch.device(device) != device_of(model):
        model = copied(model).to(device)
    classes = {"neuron": PascalIFNode, "network": PascalNetwork}
    return core.convert(model, dataloader, levels, **{**classes, **options})


def load(path: str | Path, device: torch.device | str = "cpu") -> SpikingNetwork:
    """What :func:`pascal_ext.load` does, as a :class:`PascalNetwork` of :class:`PascalIFNode`.

    Args:
        path: a file that :func:`pascal_ext.save` wrote, from whichever framework.
        device: where the tensors go.
    """
    return io.load(path, device=device, neuron=PascalIFNode, network=PascalNetwork)


def check_options(options: Mapping[str, Any]) -> None:
    """Raise :class:`TypeError` where ``options`` has a name that :func:`pascal_ext.convert` does not take."""
    parameters = inspect.signature(core.convert).parameters
    known = [name for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY]
    for name in options:
        if name not in known:
            raise TypeError(
                f"mode 'pascal' got an unexpected argument {name!r}; it takes dataloader, device, levels and {known}"
            )
