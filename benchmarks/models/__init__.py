"""The benchmarks' networks by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from benchmarks import torchvision_cpu
from benchmarks.models.cifar_resnet import resnet20, resnet56
from benchmarks.models.published import (
    resnet18,
    resnet20_projection,
    resnet34,
    vgg16,
    vgg16_imagenet,
    vgg16_plain_imagenet,
)
from pascal_ext.errors import InvalidArgumentError

M = TypeVar("M", bound=nn.Module)

MODELS: dict[str, Callable[[int], nn.Module]] = {
    "resnet20": resnet20,
    "resnet56": resnet56,
    "resnet20-projection": resnet20_projection,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "vgg16": vgg16,
    "vgg16-imagenet": vgg16_imagenet,
    "vgg16-plain-imagenet": vgg16_plain_imagenet,
}


def in_format(model: M, memory_format: torch.memory_format) -> M:
    """``model`` itself, its weights in that memory format."""
    module: Any = model  # torch's stub of Module.to lacks memory_format
    module.to(memory_format=memory_format)
    return model


def torchvision_name(name: str) -> str | None:
    """What torchvision calls the network ``torchvision.<name>``; None where it has none, or the prefix is another."""
    prefix, _, network = name.partition(".")
    if prefix != "torchvision":
        return None
    models = torchvision_cpu.load().models
    return network if network in models.list_models(module=models) else None


def build(name: str, classes: int) -> nn.Module:
    """The network ``name`` with random weights: one of :data:`MODELS`, else ``torchvision.<name>``.

    Raises:
        InvalidArgumentError: there is no such network.
    """
    if name in MODELS:
        return MODELS[name](classes)
    network = torchvision_name(name)
    if network is None:
        raise InvalidArgumentError(f"no network {name!r}; choose one of {list(MODELS)}, or torchvision.NAME")
    model: nn.Module = torchvision_cpu.load().models.get_model(network, weights=None, num_classes=classes)
    return model
