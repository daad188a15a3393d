"""Measuring what there are no rows of yet, and appending those."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from pascal_ext.comparison import rows
from pascal_ext.comparison.measure import Measurement
from pascal_ext.comparison.methods import Method
from pascal_ext.comparison.workload import Workload, fingerprint

KEY = ("suite", "model", "network", "fingerprint", "method", "T", "calibration", "seed", "shard", "shard_size")
_log = logging.getLogger(__name__)


class Measure(StrEnum):
    """Which rows are wanted."""

    ACCURACY = "accuracy"
    COSTS = "costs"
    ALL = "all"


@dataclasses.dataclass(frozen=True)
class Task:
    """One row that is wanted: a method, on one network, on one shard of the test images; or its costs (shard None)."""

    method: Method
    network: str
    shard: int | None

    def key(self, workload: Workload, weights: str, seed: int) -> dict[str, Any]:
        """What tells the row from others: see :data:`KEY`. Costs do not depend on the size of shards."""
        steps = None if self.method.family == "pascal" else workload.timesteps
        size = None if self.shard is None else workload.shard_size
        values = (workload.suite, workload.model, self.network, weights, self.method.name, steps)
        return dict(zip(KEY, (*values, workload.calibrated_on, seed, self.shard, size), strict=True))


def tasks(methods: Sequence[Method], networks: Sequence[str], shards: Iterable[int | None]) -> Iterator[list[Task]]:
    """What is to be done, shard by shard; tasks that read out the same conversion come in one list."""
    for shard in shards:
        for _, group in itertools.groupby(methods, lambda method: (method.family, repr(method.options))):
            same = list(group)
            for network in networks if same[0].needs_qcfs else [""]:
                yield [Task(method, network, shard) for method in same]


def run(
    workload: Workload,
    methods: Sequence[Method],
    output: Path,
    *,
    commands: Mapping[str, str],
    environment: Mapping[str, Any],
    measure: Measure = Measure.ALL,
    shards: int | None = None,
    seed: int = 0,
) -> int:
    """Measure what ``output`` has no rows of yet, and append them; an interrupted run goes on where it was.

    A row on fewer images than a loader now has in that shard, whose end it was, is measured again. What fails on a
    method does not end the run: a row says that the method was refused, and why.

    Args:
        workload: networks and images.
        methods: what to measure.
        output: file of rows.
        commands: name of a method -> the command that makes its rows again.
        environment: versions and hardware, for the rows.
        measure: which rows.
        shards: how many shards of the test images; None: all there are.
        seed: of the run, for the rows.

    Returns:
        How many rows were appended.
    """
    written = 0
    done = {tuple(row.get(name) for name in KEY): row["images"] for row in rows.read(output) if "refused" not in row}
    refused: set[tuple[str, str]] = set()
    measurement = Measurement(workload)
    weights = {name: fingerprint(network) for name, network in {**workload.networks, "": workload.relu}.items()}
    pieces = itertools.islice(workload.pieces(), 0 if measure == Measure.COSTS else shards)
    costs = [] if measure == Measure.ACCURACY else [None]
    wanted = tasks(methods, list(workload.networks), itertools.chain(pieces, costs))
    for group in tqdm(wanted, desc=f"{workload.model} on {workload.title}"):
        keys = [task.key(workload, weights[task.network], seed) for task in group]
        network, shard = group[0].network, group[0].shard
        images = (
            0 if shard is None or workload.shards is not None else sum(len(one) for one, _ in workload.shard(shard))
        )
        missing = [index for index, key in enumerate(keys) if done.get(tuple(key.values()), -1) < images]
        chosen = [group[index].method for index in missing]
        if not missing or (chosen[0].name, network) in refused:
            continue
        try:
            if shard is None:
                found = [measurement.costs(chosen[0], network)] * len(missing)
            else:
                found = measurement.rows(chosen, network, shard)
        except Exception as error:  # a converter by others may raise anything
            reason = f"{type(error).__name__}: {error}"
            _log.warning("%s was left out: %s", chosen[0].title, reason)
            _log.debug("where it failed:", exc_info=error)
            refused.update((method.name, network) for method in chosen)
            found = [{"refused": reason}] * len(missing)
        for index, row in zip(missing, found, strict=True):
            known = {"data": workload.title, "device": workload.device}
            again = {"command": commands[group[index].method.name]}
            rows.append(output, {**keys[index], **known, **row, **again, **environment})
            written += 1
    return written
