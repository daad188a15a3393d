"""The paper's schedule: train at uniform levels, measure, reallocate, continue."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pascal_ext
from benchmarks.lightning_cpu import L
from benchmarks.train.finetuning import FineTuning


class Reallocate(L.Callback):
    """Gives the layers new levels at the start of one epoch (arXiv 2505.01730, section 5).

    Every process measures the same images, so that all come to the same plan.

    Args:
        epoch: the epoch, counted from 0, at whose start levels are reallocated.
        strategy: see ``pascal_ext.allocate``.
        mean_levels: the budget.
        loader: normalised batches to measure with.
        path: where the plan is written, as JSON.
    """

    def __init__(self, epoch: int, strategy: str, mean_levels: float, loader: Iterable[Any], path: Path) -> None:
        self.epoch, self.strategy, self.mean_levels = epoch, strategy, mean_levels
        self.loader, self.path = loader, path

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch != self.epoch:
            return
        assert isinstance(pl_module, FineTuning)
        student = pl_module.student
        shown = trainer.is_global_zero
        plan = pascal_ext.allocate(
            student, self.loader, strategy=self.strategy, mean_levels=self.mean_levels, progress=shown
        )
        pascal_ext.set_levels(student, plan)
        if trainer.is_global_zero:
            plan.to_json(self.path)
