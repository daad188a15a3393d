"""Weights on disk: state dicts from elsewhere, and QCFS networks with their levels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from benchmarks.models import build
from pascal_ext import replace_activations
from pascal_ext.errors import InvalidArgumentError
from pascal_ext.plan import LevelPlan
from pascal_ext.tracing import qcfs_layers


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint: bare, or nested under ``state_dict`` or ``model``; ``module.`` is stripped.

    Raises:
        InvalidArgumentError: the file is not there, or holds no state dict.
    """
    found = _read(path)
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
            break
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise InvalidArgumentError(f"{str(path)!r} holds no state dict (bare, or under 'state_dict' or 'model')")
    return {str(name).removeprefix("module."): value for name, value in found.items()}


def load_relu(name: str, classes: int, path: Path) -> nn.Module:
    """The network ``name`` in evaluation mode, with the weights in ``path``.

    Raises:
        InvalidArgumentError: there is no such network, or the weights are not for it.
    """
    model = build(name, classes)
    try:
        model.load_state_dict(read_state_dict(path))
    except RuntimeError as error:
        raise InvalidArgumentError(f"{str(path)!r} does not hold weights of {name}: {error}") from None
    return model.eval()


def save_qcfs(model: nn.Module, path: Path, *, name: str, classes: int) -> None:
    """Write a QCFS network made from :func:`benchmarks.models.build`; tensors and plain values only."""
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    levels = {layer: qcfs.levels for layer, qcfs in qcfs_layers(model).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"name": name, "classes": classes, "levels": levels, "state_dict": state}, path)


def load_qcfs(path: Path) -> fx.GraphModule:
    """The QCFS network that :func:`save_qcfs` wrote, in evaluation mode.

    Raises:
        InvalidArgumentError: the file is not there, or holds something else.
    """
    found = _read(path)
    if not isinstance(found, Mapping) or not {"name", "classes", "levels", "state_dict"} <= found.keys():
        raise InvalidArgumentError(f"{str(path)!r} holds no QCFS network; benchmarks.train writes such files")
    model = replace_activations(build(found["name"], found["classes"]))
    prepare(model, LevelPlan(found["levels"]), found["state_dict"])
    model.load_state_dict(found["state_dict"])
    return model.eval()


def prepare(model: nn.Module, plan: LevelPlan, state: Mapping[str, Tensor], prefix: str = "") -> None:
    """Give the QCFS layers of ``model`` the plan's levels, and thresholds of the shapes in ``state``, ready to load it.

    Raises:
        PlanError: the plan is for another model.
    """
    layers = qcfs_layers(model)
    plan.check_layers(layers)
    for name, layer in layers.items():
        layer.levels = plan[name]
        threshold = state[f"{prefix}{name}.threshold"]
        if threshold.shape != layer.threshold.shape:
            layer.threshold = nn.Parameter(threshold.detach().clone().to(layer.threshold))


def _read(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InvalidArgumentError(f"cannot read {str(path)!r}: {error}") from None
