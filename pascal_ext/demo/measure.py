"""Accuracy, changed predictions and time of the demo's networks, as points of the report."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from pascal_ext.adapters.spikingjelly import stock
from pascal_ext.demo.training import Batches, accuracy, predictions, targets
from pascal_ext.network.spiking_network import SpikingNetwork
from pascal_ext.reports.report import Point

REPEATS = 5


class Measure:
    """Measures networks on the same batches against the same ReLU network.

    Args:
        ann: the ReLU network.
        batches: the test set.
    """

    def __init__(self, ann: nn.Module, batches: Batches) -> None:
        self.batches = batches
        self.targets = targets(batches)
        self.reference = predictions(ann, batches)
        self.ann_accuracy = accuracy(self.reference, self.targets)
        self.ann_seconds = self.seconds(ann)

    def seconds(self, network: nn.Module) -> float:
        """CPU time of one pass over the test set: the median of :data:`REPEATS`.

        The demo computes in one thread, so this is what a clock would say, were nothing else running.
        """
        times = []
        for _ in range(REPEATS):
            start = time.thread_time()
            predictions(network, self.batches)
            times.append(time.thread_time() - start)
        return statistics.median(times)

    def spiking(self, label: str, network: SpikingNetwork, mismatched: int) -> Point:
        """The point of a PASCAL network; ``mismatched`` is what its verification found."""
        predicted = predictions(network, self.batches)
        timesteps, ratio = network.plan.mean_levels, self.seconds(network) / self.ann_seconds
        return self._point(label, timesteps, network.latency, predicted, mismatched, ratio)

    @torch.no_grad()
    def stock(
        self, network: nn.Module, timesteps: Iterable[int], on_batch: Callable[[], None] = lambda: None
    ) -> tuple[Point, ...]:
        """The points of a stock converted network at each of ``timesteps``: the mean output over so many steps."""
        wanted = sorted(timesteps)
        predicted: dict[int, list[Tensor]] = {step: [] for step in wanted}
        seconds = dict.fromkeys(wanted, 0.0)
        for images, _ in self.batches:
            start = time.thread_time()
            for step, mean in enumerate(stock.running_mean(network, images, wanted[-1]), 1):
                if step in predicted:
                    predicted[step].append(mean.argmax(1))
                    seconds[step] += time.thread_time() - start
            on_batch()
        return tuple(
            self._point(f"T = {step}", step, step, torch.cat(predicted[step]), None, seconds[step] / self.ann_seconds)
            for step in wanted
        )

    def _point(
        self, label: str, timesteps: float, latency: int, predicted: Tensor, mismatched: int | None, ratio: float
    ) -> Point:
        changed = int((predicted != self.reference).sum())
        return Point(label, timesteps, latency, accuracy(predicted, self.targets), changed, mismatched, ratio)
