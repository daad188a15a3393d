"""torchvision, also where its wheel was compiled for CUDA and torch is CPU-only."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library: torch.library.Library | None = None  # schemas last as long as the object that defined them


def load() -> ModuleType:
    """Import torchvision, defining first, where they are missing, the two operators its Python part registers.

    The wheel's compiled part needs CUDA libraries; without it, ``import torchvision`` ends with "operator
    torchvision::nms does not exist". Models, transforms and data sets work all the same. Lightning imports torchvision
    through torchmetrics, so this comes before ``import lightning``.
    """
    global _library
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    _library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        _library.define(f"{name}{_SCHEMA}")
    return importlib.import_module("torchvision")
