"""torchvision's own weights by their names, ``IMAGENET1K_V1`` say, and the images that they were made for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import torchvision_cpu
from benchmarks.data import Source
from benchmarks.models import torchvision_name
from pascal_ext.errors import InvalidArgumentError


def find(name: str, weights: Path) -> Any:
    """torchvision's weights of the network ``name`` that ``weights`` is the name of; None where it is a file.

    Names are those of torchvision's enumerations, with or without the class: ``ResNet18_Weights.DEFAULT``, ``DEFAULT``.
    Networks that are not torchvision's have none: None too.

    Raises:
        InvalidArgumentError: there is neither a file nor such weights.
    """
    network = torchvision_name(name)
    if network is None or weights.is_file():
        return None
    known = torchvision_cpu.load().models.get_model_weights(network)
    wanted = str(weights).removeprefix(f"{known.__name__}.")
    if wanted not in known.__members__:
        names = list(known.__members__)
        raise InvalidArgumentError(f"{str(weights)!r} is neither a file nor among torchvision's weights of it, {names}")
    return known[wanted]


def load(name: str, classes: int, weights: Any) -> nn.Module:
    """The network ``name`` with torchvision's weights, from torch's cache or, where they are not there, downloaded.

    Raises:
        InvalidArgumentError: the weights are for another number of classes, or cannot be had.
    """
    categories = weights.meta["categories"] or ()
    if len(categories) != classes:
        raise InvalidArgumentError(f"torchvision's {weights!r} tell {len(categories)} classes apart, not {classes}")
    try:
        model: nn.Module = torchvision_cpu.load().models.get_model(torchvision_name(name), weights=weights)
    except (OSError, RuntimeError) as error:  # no connection; or what came, or was there, is not what it should be
        cached = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
        raise InvalidArgumentError(
            f"cannot get torchvision's {weights!r}: {error}; without a connection, put the file of {weights.url} where "
            f"torch looks for it: {str(cached)!r}"
        ) from None
    return model


def as_trained(source: Source, name: str, weights: Path | None) -> Source:
    """``source`` with its images resized, cropped and normalised as torchvision did for the weights of that name.

    Images that are not read from disk, and weights in files, which do not say what they were made for, change nothing.

    Raises:
        InvalidArgumentError: see :func:`find`.
    """
    found = None if weights is None or source.pad is not None else find(name, weights)
    if found is None:
        return source
    preset = found.transforms()
    (resize,), (crop,) = preset.resize_size, preset.crop_size
    mean, std, interpolation = tuple(preset.mean), tuple(preset.std), preset.interpolation.value
    return dataclasses.replace(source, resize=resize, crop=crop, mean=mean, std=std, interpolation=interpolation)
