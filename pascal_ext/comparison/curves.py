"""Rows put together: for each method a curve over its timesteps, with confidence intervals and costs."""

from __future__ import annotations

import bisect
import dataclasses
import statistics
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pascal_ext.comparison.methods import METHODS, Method
from pascal_ext.demo.text import wilson_interval

_Shard = tuple[int | None, int | None]  # its number and size; None of costs


class _Run(NamedTuple):
    """What rows have in common that add up."""

    method: str
    network: str
    T: int | None
    seed: int
    fingerprint: str
    calibration: int


@dataclasses.dataclass(frozen=True)
class Point:
    """A method, read out after some timesteps.

    Attributes:
        timesteps: T; the mean of L of a PASCAL network.
        per_layer: steps that a layer is simulated for, extra steps included.
        latency: steps from the first input to the answer.
        accuracy, low, high: in percent, with the bounds of Wilson's 95% interval.
        changed: share of the predictions that differ from the ReLU network's, in percent.
        mismatched: number of predictions that differ from the QCFS network's; None where there is none.
        time_ratio: time, relative to the ReLU network on the same images; None where it was not measured.
        counts_time_ratio: the same of a PASCAL network by way of spike counts; None for others.
        synaptic_operations, joules: for an image; None where they were not counted.
    """

    timesteps: float
    per_layer: float
    latency: int
    accuracy: float
    low: float
    high: float
    changed: float
    mismatched: int | None
    time_ratio: float | None
    counts_time_ratio: float | None
    synaptic_operations: float | None
    joules: float | None


@dataclasses.dataclass(frozen=True)
class Curve:
    """A method on a network: its points, and what the networks it is compared with do on the same images.

    Attributes:
        method: see :mod:`pascal_ext.comparison.methods`.
        network: name of the QCFS network that it started from; empty for the ReLU network.
        images: test images that were run.
        ann_accuracy, source_accuracy: of the ReLU network, and of the QCFS network where there is one, in percent.
        points: after more and more timesteps.
        firing_rate: share of spikes among what layers read, at the last point; None where it was not counted.
        effective_timesteps: T_eff of a PASCAL network.
        memory_ratio: peak memory, relative to the ReLU network's.
        commands: that make these rows again.
    """

    method: Method
    network: str
    images: int
    ann_accuracy: float
    source_accuracy: float | None
    points: tuple[Point, ...]
    firing_rate: float | None
    effective_timesteps: float | None
    memory_ratio: float | None
    commands: tuple[str, ...]

    @property
    def title(self) -> str:
        """The method's title, with the name of its network."""
        return _title(self.method, self.network)

    def within(self, points: float) -> Point | None:
        """The first point whose accuracy is less than ``points`` below the ReLU network's on the same images."""
        return next((point for point in self.points if point.accuracy >= self.ann_accuracy - points), None)

    def at(self, timesteps: float) -> Point | None:
        """The point after ``timesteps``, where there is one."""
        return next((point for point in self.points if point.timesteps == timesteps), None)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All curves of one network on one data set.

    Attributes:
        model, data: their names.
        ann_joules, ann_macs: what the ReLU network takes for an image; None where that was not counted.
        curves: in the order of :data:`pascal_ext.comparison.methods.METHODS`.
        accuracy_on, time_on: the hardware on which these were measured.
        refused: title of a method that could not be measured -> why.
    """

    model: str
    data: str
    ann_joules: float | None
    ann_macs: float | None
    curves: tuple[Curve, ...]
    accuracy_on: tuple[str, ...]
    time_on: tuple[str, ...]
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def ann_accuracy(self) -> float:
        """That of the ReLU network on the most images that any method was run on."""
        return max(self.curves, key=lambda curve: curve.images).ann_accuracy


def comparisons(rows: Iterable[Mapping[str, Any]]) -> list[Comparison]:
    """Rows put together: shards of the same method, network and T are added up.

    Where methods were run on different numbers of shards, each is set beside the ReLU network on the same images: on
    other ones the same network is a point or two better or worse, which is as much as methods differ by. Shards of
    another size are other shards of the same images: of a method that was run on shards of several sizes, those are
    taken that cover most, and of as many the newest. Of a shard, or costs, that were measured more than once, the
    newest row counts, which comes last. Of a network that was trained again under its name, or calibrated on other
    images, the newest counts; of a method that was run to several T, the run on most images, of as many the longest.
    """
    suites: dict[tuple[str, str], dict[_Run, dict[_Shard, Mapping[str, Any]]]] = {}
    for row in rows:
        if row["method"] in METHODS:
            run = _Run(*(row[name] for name in _Run._fields))
            suite = suites.setdefault((row["model"], row["data"]), {})
            measured = suite[run] = suite.pop(run, {})  # the newest come last
            shard = (row["shard"], row["shard_size"])
            measured.pop(shard, None)  # the newer row also takes the last place
            measured[shard] = row
    found = [_comparison(model, data, grouped) for (model, data), grouped in suites.items()]
    return [comparison for comparison in found if comparison.curves]


def _comparison(model: str, data: str, grouped: Mapping[_Run, Mapping[_Shard, Mapping[str, Any]]]) -> Comparison:
    order = list(METHODS)
    found = {run: [row for row in same.values() if "refused" not in row] for run, same in grouped.items()}
    newest = {(run.method, run.network, run.seed): run for run in grouped}
    last = sorted(newest.values(), key=lambda run: (order.index(run.method), run.network, run.seed))
    chosen = [
        max((run for run in grouped if run._replace(T=one.T) == one), key=lambda run: (_images(found[run]), run.T or 0))
        for one in last
    ]
    rows = [row for run in chosen for row in found[run]]
    curves = [_curve(found[run]) for run in chosen if _images(found[run])]
    costs = next((row["ann_operations"] for row in rows if row["shard"] is None), None)
    joules, macs = (costs["joules"], costs["macs"]) if costs else (None, None)
    accuracy = dict.fromkeys(_machine(row) for row in rows if row["shard"] is not None)
    time = dict.fromkeys(_machine(row) for row in rows if "seconds" in row and row["shard"] is None)
    refused = {
        _title(METHODS[row["method"]], row["network"]): row["refused"]
        for run in last
        for row in grouped[run].values()
        if "refused" in row
    }
    return Comparison(model, data, joules, macs, tuple(curves), tuple(accuracy), tuple(time), refused)


def _images(rows: Iterable[Mapping[str, Any]]) -> int:
    """The test images that the rows are about; 0 where there are only costs."""
    return sum(row["images"] for row in _shards(rows))


def _title(method: Method, network: str) -> str:
    return f"{method.title} ({network})" if network else method.title


def _machine(row: Mapping[str, Any]) -> str:
    """The processor that a row was measured on."""
    found = row["hardware"]
    if row.get("device", "cpu") == "cpu":
        return f"{found['cpu']}, {found['threads']} thread{'s' * (found['threads'] > 1)}"
    return str(found["gpus"][0])


def _shards(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The shards among the rows; of one size, see :func:`comparisons`."""
    sizes: dict[int | None, list[Mapping[str, Any]]] = {}
    for row in rows:
        sizes.setdefault(row["shard_size"], []).append(row)
    sizes.pop(None, None)
    return max(reversed(sizes.values()), key=lambda same: sum(row["images"] for row in same), default=[])


def _time_ratio(costs: Mapping[str, Any] | None, name: str) -> float | None:
    """Median of the rounds' ratios."""
    if costs is None or name not in costs:
        return None
    return statistics.median(took / ann for took, ann in zip(costs[name], costs["ann_seconds"], strict=True))


def _curve(rows: list[Mapping[str, Any]]) -> Curve:
    shards = _shards(rows)
    costs = next((row for row in rows if row["shard"] is None), None)
    first, images = shards[0], sum(row["images"] for row in shards)
    added = {name: _added([row[name] for row in shards]) for name in ("right", "changed", "mismatched")}
    ratio, counts_ratio = _time_ratio(costs, "seconds"), _time_ratio(costs, "counts_seconds")
    points = []
    for index, timesteps in enumerate(first["timesteps"]):
        low, high = wilson_interval(added["right"][index] / images, images)
        operations = costs["operations"] if costs else None
        per_layer = first["per_layer"][index]
        points.append(
            Point(
                timesteps=timesteps,
                per_layer=per_layer,
                latency=first["latency"][index],
                accuracy=100 * added["right"][index] / images,
                low=100 * low,
                high=100 * high,
                changed=100 * added["changed"][index] / images,
                mismatched=added["mismatched"][index] if added["mismatched"] else None,
                time_ratio=None if ratio is None else ratio * per_layer / first["per_layer"][-1],
                counts_time_ratio=counts_ratio,
                synaptic_operations=_between(operations, "synaptic_operations", timesteps),
                joules=_between(operations, "joules", timesteps),
            )
        )
    source = None if first["source_right"] is None else sum(row["source_right"] for row in shards)
    return Curve(
        method=METHODS[first["method"]],
        network=first["network"],
        images=images,
        ann_accuracy=100 * sum(row["ann_right"] for row in shards) / images,
        source_accuracy=None if source is None else 100 * source / images,
        points=tuple(points),
        firing_rate=costs["operations"]["firing_rate"][-1] if costs else None,
        effective_timesteps=costs["operations"]["effective_timesteps"] if costs else None,
        memory_ratio=costs["peak_bytes"] / costs["ann_peak_bytes"] if costs else None,
        commands=tuple(dict.fromkeys(row["command"] for row in [*shards, *([costs] if costs else [])])),
    )


def _added(lists: list[Any]) -> list[int]:
    return [] if lists[0] is None else [sum(values) for values in zip(*lists, strict=True)]


def _between(operations: Mapping[str, Any] | None, name: str, timesteps: float) -> float | None:
    """A cost after ``timesteps``, on the line between the two counts next to it."""
    if operations is None:
        return None
    steps, values = operations["timesteps"], operations[name]
    if len(steps) == 1:
        return float(values[0])
    right = min(max(bisect.bisect_left(steps, timesteps), 1), len(steps) - 1)
    share = (timesteps - steps[right - 1]) / (steps[right] - steps[right - 1])
    return float(values[right - 1] + share * (values[right] - values[right - 1]))
