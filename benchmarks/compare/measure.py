"""Measuring a conversion on a shard of the test images: one row for each way to read it out."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from benchmarks.compare.conversions import FAMILIES, Batches, Conversion
from benchmarks.compare.memory import peak_bytes
from benchmarks.compare.operations import ann_operations, operations
from benchmarks.compare.registry import Method
from benchmarks.compare.workload import Workload

COUNTED = 20  # images that operations are counted on


@dataclasses.dataclass
class _Tally:
    """Predictions of each answer, over the batches so far."""

    right: Tensor
    changed: Tensor
    mismatched: Tensor | None


class Measurement:
    """Networks of one workload, made once and measured on one shard after another.

    Args:
        workload: what they are made from and run on.
        timesteps: T of rate coding.
    """

    def __init__(self, workload: Workload, timesteps: int) -> None:
        self.workload, self.timesteps = workload, timesteps
        self._made: dict[tuple[str, str], Conversion] = {}

    def conversion(self, method: Method, network: str) -> Conversion:
        """What ``method`` makes of the QCFS network called ``network`` (empty: of the ReLU network)."""
        key = (network, repr((method.family, method.options)))
        if key not in self._made:
            ann = self.workload.networks[network] if method.needs_qcfs else self.workload.relu
            build = FAMILIES[method.family]
            self._made[key] = build(ann, self.workload.calibration, self.timesteps, **method.options)
        return self._made[key]

    def rows(self, methods: Sequence[Method], network: str, shard: int) -> list[dict[str, Any]]:
        """Measure one conversion, which all ``methods`` read out in their own way, on a shard of the test images."""
        made = self.conversion(methods[0], network)
        batches = self.workload.shard(shard)
        found, seconds, ann_seconds = self._run(made, methods, batches, f"{methods[0].title} {network}")
        images = sum(len(labels) for _, labels in batches)
        rows = []
        for method, tally in zip(methods, found["tallies"], strict=True):
            row = {"images": images, "ann_right": found["ann_right"], "source_right": found["source_right"]}
            row |= {"timesteps": made.timesteps, "per_layer": made.per_layer, "latency": made.latency}
            row |= {"right": tally.right.tolist(), "changed": tally.changed.tolist()}
            row |= {"mismatched": None if tally.mismatched is None else tally.mismatched.tolist()}
            row |= {"seconds": round(seconds, 4), "ann_seconds": round(ann_seconds, 4)}
            rows.append(row | ({"delay": made.delay} if method.delayed else {}))
        return rows

    def costs(self, method: Method, network: str) -> dict[str, Any]:
        """A row on the operations, energy and memory of what ``method`` makes, from some images of the first shard."""
        made, relu = self.conversion(method, network), self.workload.relu
        batches = self.workload.shard(0)
        images, labels = (torch.cat([batch[index] for batch in batches]) for index in (0, 1))
        chosen = torch.linspace(0, len(labels) - 1, min(COUNTED, len(labels))).long()
        some = images[chosen], labels[chosen]
        return {
            "images": len(chosen),
            "operations": operations(made, some),
            "ann_operations": ann_operations(relu, some),
            "peak_bytes": peak_bytes(made.sums, batches[0][0]),
            "ann_peak_bytes": peak_bytes(relu, batches[0][0]),
        }

    @torch.inference_mode()
    def _run(
        self, made: Conversion, methods: Sequence[Method], batches: Batches, description: str
    ) -> tuple[dict[str, Any], float, float]:
        answers = len(made.timesteps)
        zeros = functools.partial(torch.zeros, answers, dtype=torch.int64)
        tallies = [_Tally(zeros(), zeros(), None if made.source is None else zeros()) for _ in methods]
        ann_right = source_right = 0
        seconds = ann_seconds = 0.0
        for images, labels in tqdm(batches, desc=description, leave=False):
            logits, took = timed(self.workload.relu, images)
            ann_seconds += took
            sums, took = timed(made.sums, images)
            seconds += took
            reference = logits.argmax(1)
            ann_right += int((reference == labels).sum())
            source = None if made.source is None else made.source(images).argmax(1)
            source_right += 0 if source is None else int((source == labels).sum())
            for method, tally in zip(methods, tallies, strict=True):
                predicted = made.answers(sums, method.delayed).argmax(2)
                tally.right += (predicted == labels).sum(1)
                tally.changed += (predicted != reference).sum(1)
                if tally.mismatched is not None and source is not None:
                    tally.mismatched += (predicted != source).sum(1)
        found = {
            "tallies": tallies,
            "ann_right": ann_right,
            "source_right": None if made.source is None else source_right,
        }
        return found, seconds, ann_seconds


def timed(run: nn.Module | Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, float]:
    """What ``run(images)`` returns, and its seconds: of this thread's work where there is one, else of the clock."""
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    clock = time.thread_time if torch.get_num_threads() == 1 and not images.is_cuda else time.perf_counter
    start = clock()
    out = run(images)
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    return out, clock() - start
