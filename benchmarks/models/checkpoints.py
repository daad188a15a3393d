"""Weights on disk: state dicts from elsewhere, and QCFS networks with their levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import fx, nn

from benchmarks.models import build, pretrained
from pascal_ext.activations import qcfs_layers, replace_activations, set_levels
from pascal_ext.calibration.correction import restore_bias_currents
from pascal_ext.errors import InvalidArgumentError, PlanError
from pascal_ext.plan import LevelPlan
from pascal_ext.saving.state_dict import read_checkpoint, read_state_dict


def load_relu(name: str, classes: int, path: Path) -> nn.Module:
    """The network ``name`` in evaluation mode, with the weights in ``path``, or torchvision's of that name.

    Raises:
        InvalidArgumentError: there is no such network, or the weights are not for it, or torchvision's cannot be had.
    """
    named = pretrained.find(name, path)
    if named is not None:
        return pretrained.load(name, classes, named).eval()
    model = build(name, classes)
    try:
        model.load_state_dict(read_state_dict(path, model))
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
    found = read_checkpoint(path)
    if not isinstance(found, Mapping) or not {"name", "classes", "levels", "state_dict"} <= found.keys():
        raise InvalidArgumentError(f"{str(path)!r} holds no QCFS network; benchmarks.train writes such files")
    model = replace_activations(build(found["name"], found["classes"]), LevelPlan(found["levels"]))
    restore_bias_currents(model, found["state_dict"])
    model.load_state_dict(found["state_dict"])
    return model.eval()


def load_published(name: str, classes: int, path: Path, levels: int | Sequence[int] | LevelPlan) -> fx.GraphModule:
    """A QCFS network from a checkpoint of the QCFS or PASCAL repositories, as it is, in evaluation mode.

    Those have thresholds of shape [1] (one for each channel, [1, C, 1, 1], is understood too), called ``thresh``, or
    ``up`` in older files, where the activation after an addition was called ``relu``. Some are negative; they stay so.
    Levels are not in the file.

    Args:
        name: of one of the networks in :mod:`benchmarks.models.published`.
        classes: number of classes.
        path: the checkpoint.
        levels: one number for all layers, one for each in the order of execution, or a plan.

    Raises:
        InvalidArgumentError: the file is not there, or is not for this network.
        PlanError: the levels are not for this network.
    """
    model = replace_activations(build(name, classes))
    if not isinstance(levels, (int, LevelPlan)):
        layers = list(qcfs_layers(model))
        if len(levels) != len(layers):
            raise PlanError(f"{len(levels)} levels for the {len(layers)} activations of {name}")
        levels = LevelPlan(dict(zip(layers, levels, strict=True)))
    set_levels(model, levels)
    state = {published_name(key): value for key, value in read_state_dict(path, model).items()}
    state = {key: value.squeeze() if key.endswith(".threshold") else value for key, value in state.items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InvalidArgumentError(f"{str(path)!r} does not hold a QCFS network {name}: {error}") from None
    return model.eval()


def published_name(key: str) -> str:
    """A key of those repositories, as it is called here."""
    layer, _, leaf = key.rpartition(".")
    if leaf not in ("thresh", "up"):
        return key
    parent, _, last = layer.rpartition(".")
    return f"{parent}.act.threshold" if last == "relu" else f"{layer}.threshold"
