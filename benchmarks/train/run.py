"""What one training run is: its data, network, levels and recipe, and the networks that follow from them."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

import pascal_ext
from benchmarks import data
from benchmarks.models import pretrained
from benchmarks.models.checkpoints import load_qcfs, load_relu
from benchmarks.train.finetuning import Recipe
from pascal_ext.activations import qcfs_layers
from pascal_ext.data import device_of
from pascal_ext.errors import InvalidArgumentError
from pascal_ext.plan import LevelPlan

RELU = "relu"
FIRST_THRESHOLD = 3.0  # from scratch: three standard deviations of what a batch norm puts out


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run; everything that decides what comes out, but for the data and the machine.

    Attributes:
        dataset: name in :data:`benchmarks.data.SOURCES`.
        model: see :func:`benchmarks.models.build`.
        levels: the number of levels of every layer, or a plan's JSON file; ``"relu"``: activations stay as they are.
        weights: a ReLU checkpoint, or the name of torchvision's weights, to start from, and the teacher; from scratch
            where there is none.
        start: a QCFS network that this benchmark has trained, to go on from.
        teacher: another ReLU network to distil from, ``NAME=FILE``.
        views: how many views of each image the teacher sees, see :class:`~benchmarks.train.views.Views`; 0: a new one
            in every epoch.
        per_channel: a threshold for each channel instead of one for each layer.
        calibration_images: how many training images thresholds (and plans) are derived from.
        epochs, batch_size, seed: as ever; the batch is that of one process. Without epochs, only levels change, and
            batch norms' statistics.
        recipe: see :class:`~benchmarks.train.finetuning.Recipe`.
        reallocate_at: the epoch before which levels are reallocated; never where None.
        strategy, mean_levels: of the reallocation.
    """

    dataset: str
    model: str
    levels: str
    weights: str | None
    start: str | None
    teacher: str | None
    views: int
    per_channel: bool
    calibration_images: int
    epochs: int
    batch_size: int
    seed: int
    recipe: Recipe
    reallocate_at: int | None
    strategy: str
    mean_levels: float

    def source(self) -> data.Source:
        """What the data set is like, its images prepared as for torchvision's weights where these are named."""
        if self.dataset not in data.SOURCES:
            raise InvalidArgumentError(f"no data set {self.dataset!r}; choose one of {list(data.SOURCES)}")
        weights = None if self.weights is None else Path(self.weights)
        return pretrained.as_trained(data.SOURCES[self.dataset], self.model, weights)

    def find_teacher(self, relu: nn.Module) -> nn.Module | None:
        """The ReLU network to distil from: ``relu``, unless the run names another one."""
        if self.recipe.distillation == "none":
            return None
        if self.teacher is None:
            if self.weights is None:
                raise InvalidArgumentError("distillation needs the ReLU network's weights, or another teacher")
            return relu
        name, separator, file = self.teacher.partition("=")
        if not separator:
            raise InvalidArgumentError(f"the teacher {self.teacher!r} is not of the form NAME=FILE")
        return load_relu(name, self.source().classes, Path(file))

    def student(self, relu: nn.Module, calibration: DataLoader[Any]) -> nn.Module:
        """``relu`` with QCFS activations, or the network to go on from, at the run's levels and first thresholds.

        It is on the device of ``relu``.
        """
        if self.levels == RELU:
            return copy.deepcopy(relu)
        levels = int(self.levels) if self.levels.isdecimal() else LevelPlan.from_json(Path(self.levels))
        if self.start is not None:
            model = load_qcfs(Path(self.start)).to(device_of(relu))
            if relu.state_dict().keys() - model.state_dict().keys():
                raise InvalidArgumentError(f"{self.start!r} does not hold a QCFS network of the model {self.model!r}")
            return pascal_ext.set_levels(model, levels)  # thresholds stay as learnt
        model = pascal_ext.replace_activations(relu, levels)
        if self.weights is None and not self.per_channel:
            for layer in qcfs_layers(model).values():
                torch.nn.init.constant_(layer.threshold, min(FIRST_THRESHOLD, layer.ceiling))
        else:
            pascal_ext.calibrate(model, calibration, per_channel=self.per_channel)
        return model
