"""Measuring a conversion: its answers to a shard of the test images, and what it costs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pascal_ext.comparison.conversions import FAMILIES, Batches, Conversion
from pascal_ext.comparison.memory import peak_bytes
from pascal_ext.comparison.methods import Method
from pascal_ext.comparison.operations import ann_operations, operations
from pascal_ext.comparison.timing import Device, interleave
from pascal_ext.comparison.workload import Workload

COUNTED = 20  # images that operations are counted on
ROUNDS = 3  # of timing, in which the ReLU network has its turn, too


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
    """

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self._made: dict[tuple[str, str], Conversion] = {}

    def conversion(self, method: Method, network: str) -> Conversion:
        """What ``method`` makes of the QCFS network called ``network`` (empty: of the ReLU network)."""
        key = (network, repr((method.family, method.options)))
        if key not in self._made:
            ann = self.workload.networks[network] if method.needs_qcfs else self.workload.relu
            build = FAMILIES[method.family]
            self._made[key] = build(ann, self.workload.calibration, self.workload.timesteps, **method.options)
        return self._made[key]

    def rows(self, methods: Sequence[Method], network: str, shard: int) -> list[dict[str, Any]]:
        """Measure one conversion, which all ``methods`` read out in their own way, on a shard of the test images."""
        made = self.conversion(methods[0], network)
        batches = self.workload.shard(shard)
        found = self._run(made, methods, batches, f"{methods[0].title} {network}")
        images = sum(len(labels) for _, labels in batches)
        rows = []
        for method, tally in zip(methods, found["tallies"], strict=True):
            row = {"images": images, "ann_right": found["ann_right"], "source_right": found["source_right"]}
            row |= {"timesteps": made.timesteps, "per_layer": made.per_layer, "latency": made.latency}
            row |= {"right": tally.right.tolist(), "changed": tally.changed.tolist()}
            row |= {"mismatched": None if tally.mismatched is None else tally.mismatched.tolist()}
            rows.append(row | ({"delay": made.delay} if method.delayed else {}))
        return rows

    def costs(self, method: Method, network: str) -> dict[str, Any]:
        """A row on the operations, energy, memory and time of what ``method`` makes.

        Operations are counted on some images that are spread over the workload's sample; memory and time are those of
        its first batch.
        """
        made, relu = self.conversion(method, network), self.workload.relu
        batches = self.workload.sample()
        images, labels = (torch.cat([batch[index] for batch in batches]) for index in (0, 1))
        chosen = torch.linspace(0, len(labels) - 1, min(COUNTED, len(labels))).long().to(labels.device)
        some, batch = (images[chosen], labels[chosen]), batches[0][0]
        return {
            "images": len(chosen),
            "operations": operations(made, some),
            "ann_operations": ann_operations(relu, some),
            "peak_bytes": peak_bytes(made.sums, batch),
            "ann_peak_bytes": peak_bytes(relu, batch),
            **seconds(made, relu, batch, self.workload.device),
        }

    @torch.inference_mode()
    def _run(self, made: Conversion, methods: Sequence[Method], batches: Batches, description: str) -> dict[str, Any]:
        zeros = functools.partial(torch.zeros, len(made.timesteps), dtype=torch.int64, device=batches[0][1].device)
        tallies = [_Tally(zeros(), zeros(), None if made.source is None else zeros()) for _ in methods]
        ann_right = source_right = 0
        for images, labels in tqdm(batches, desc=description, leave=False):
            reference = self.workload.relu(images).argmax(1)
            sums = made.sums(images)
            ann_right += int((reference == labels).sum())
            source = None if made.source is None else made.source(images).argmax(1)
            source_right += 0 if source is None else int((source == labels).sum())
            for method, tally in zip(methods, tallies, strict=True):
                predicted = made.answers(sums, method.delayed).argmax(2)
                tally.right += (predicted == labels).sum(1)
                tally.changed += (predicted != reference).sum(1)
                if tally.mismatched is not None and source is not None:
                    tally.mismatched += (predicted != source).sum(1)
        return {
            "tallies": tallies,
            "ann_right": ann_right,
            "source_right": None if made.source is None else source_right,
        }


@torch.inference_mode()
def seconds(made: Conversion, relu: Callable[[Tensor], Tensor], images: Tensor, device: Device) -> dict[str, Any]:
    """Seconds of each round: of all answers, of the ReLU network, and of a PASCAL network by way of counts.

    They are processor time where one thread does all the work, which other processes disturb less, and else those of
    the clock.
    """
    runs = {"seconds": made.sums, "ann_seconds": relu}
    if made.counts is not None:
        runs["counts_seconds"] = made.counts
    times = interleave(
        {name: functools.partial(run, images) for name, run in runs.items()},
        ROUNDS,
        device=device,
        warmup=int(len(made.timesteps) == 1),  # the others take long, and are warm from measuring their memory
        label="time",
    )
    one_thread = device == Device.CPU and torch.get_num_threads() == 1
    return {name: [round(took, 5) for took in each] for name, each in (times.cpu if one_thread else times.wall).items()}
