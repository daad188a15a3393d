"""Comparisons as text: Markdown tables, and CSV with all points."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pascal_ext.comparison.curves import Comparison, Curve, Point

COLUMNS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MISSING = "–"
HEAD = ("method", "accuracy", "timesteps", "latency", "operations / ReLU", "energy / ReLU", "time / ReLU")
NEAR = (0.5, 0.7, 1.0, 2.0)  # points below the ReLU network that count as "as accurate"


def document(comparisons: Iterable[Comparison]) -> str:
    """All tables, as Markdown."""
    parts = []
    for comparison in comparisons:
        parts += [f"## {comparison.model}, {comparison.data}\n", accuracy_table(comparison)]
        told = measured_on(comparison).items()
        parts.append("; ".join(f"{name}: {' and '.join(machines) or MISSING}" for name, machines in told) + "\n")
        parts += [f"Left out: {title}: {reason}\n" for title, reason in comparison.refused.items()]
        for points in NEAR:
            parts += [f"Within {points} points of the ReLU network:\n", same_accuracy_table(comparison, points)]
    return "\n".join(parts)


def accuracy_table(comparison: Comparison) -> str:
    """Accuracy of every method after 1, 2, 4, ... timesteps, as Markdown."""
    steps = [step for step in COLUMNS if any(_near(curve, step) for curve in comparison.curves)]
    head = ["method", *(f"T = {step}" for step in steps), "images", "ReLU on them"]
    body = [
        [curve.title, *(_cell(curve, step) for step in steps), f"{curve.images:,}", f"{curve.ann_accuracy:.2f}"]
        for curve in comparison.curves
    ]
    return markdown(head, body)


def same_accuracy_table(comparison: Comparison, points: float = 1.0) -> str:
    """What each method takes to come within ``points`` of the ReLU network, as Markdown; the cheapest of each kind."""
    body = []
    for curve in nearest(comparison, points):
        point, relu = curve.within(points), f"(ReLU {curve.ann_accuracy:.2f})"
        if point is None:
            last = curve.points[-1]
            told = f"{last.accuracy:.2f} at T = {last.timesteps:g} {relu}"
            body.append([curve.title, told, "more", *[""] * (len(HEAD) - 3)])
        else:
            body.append([curve.title, f"{point.accuracy:.2f} {relu}", *costs(comparison, point)])
    return markdown(HEAD, body)


def summary(comparison: Comparison, points: float = 1.0) -> Table:
    """The same for a terminal, shorter, with the methods that were left out."""
    told = f"{comparison.model} on {comparison.data}: ReLU {comparison.ann_accuracy:.2f}%"
    table = Table(
        title=f"{told}, costs within {points:g} points", title_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("", min_width=28)
    for column in ("accuracy", "steps", "latency", "energy", "time"):
        table.add_column(column, justify="right", no_wrap=True)
    for curve in nearest(comparison, points):
        point = curve.within(points)
        if point is None:
            table.add_row(curve.title, f"{curve.points[-1].accuracy:.2f}", f"> {curve.points[-1].timesteps:g}")
        else:
            steps, latency, _, energy, duration = costs(comparison, point)
            table.add_row(curve.title, f"{point.accuracy:.2f}", steps, latency, energy, duration.partition(" ")[0])
    for name in comparison.refused:
        table.add_row(name, "left out")
    return table


def nearest(comparison: Comparison, points: float) -> list[Curve]:
    """The curves of :func:`same_accuracy_table`: of the PASCAL networks of one kind, the one with the fewest steps."""
    chosen: dict[str, Curve] = {}
    for curve in comparison.curves:
        group = curve.method.series or curve.title
        best = chosen.get(group)
        if best is None or _steps(curve, points) < _steps(best, points):
            chosen[group] = curve
    return list(chosen.values())


def costs(comparison: Comparison, point: Point) -> list[str]:
    """Timesteps, latency, operations, energy and time of a point, the last three relative to the ReLU network's."""
    operations = point.synaptic_operations
    return [
        f"{point.timesteps:.3g}"
        + ("" if point.per_layer == point.timesteps else f" + {point.per_layer - point.timesteps:g}"),
        f"{point.latency:,}",
        MISSING if operations is None or not comparison.ann_macs else f"{operations / comparison.ann_macs:.2f}",
        MISSING if point.joules is None or not comparison.ann_joules else f"{point.joules / comparison.ann_joules:.2f}",
        time(point),
    ]


def time(point: Point) -> str:
    """Relative to the ReLU network's; that of a PASCAL network by way of spike counts, too."""
    if point.time_ratio is None:
        return MISSING
    return f"{point.time_ratio:.1f}" + (
        "" if point.counts_time_ratio is None else f" (counts {point.counts_time_ratio:.1f})"
    )


def measured_on(comparison: Comparison) -> dict[str, Sequence[str]]:
    """What was measured -> on which hardware."""
    return {"accuracy on": comparison.accuracy_on, "time on": comparison.time_on}


def to_csv(comparisons: Iterable[Comparison]) -> str:
    """Every point of every curve, a line each; what is about a curve as a whole is on each of its lines.

    ``within_…`` are the timesteps of the first point that comes so many points close to the ReLU network.
    """
    of_curve = ["images", "ann_accuracy", "source_accuracy", "firing_rate", "effective_timesteps", "memory_ratio"]
    of_point = [field.name for field in dataclasses.fields(Point)]
    near = [f"within_{points:g}" for points in NEAR]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["model", "data", "method", "network", *of_curve, *near, *of_point])
    for comparison in comparisons:
        for curve in comparison.curves:
            known: list[Any] = [comparison.model, comparison.data, curve.method.name, curve.network]
            known += [getattr(curve, name) for name in of_curve]
            known += [point and point.timesteps for point in map(curve.within, NEAR)]
            writer.writerows([*known, *dataclasses.astuple(point)] for point in curve.points)
    return buffer.getvalue()


def markdown(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table; all columns but the first are aligned to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    cells = ([cell.replace("|", r"\|") for cell in line] for line in lines)  # names may have what ends a cell
    return "\n".join("| " + " | ".join(line) + " |" for line in cells) + "\n"


def _near(curve: Curve, step: int) -> Point | None:
    """The point of a column; a mean of L stands in the column that it is nearest to."""
    if len(curve.points) > 1:
        return curve.at(step)
    point = curve.points[0]
    return point if min(COLUMNS, key=lambda column: abs(column - point.timesteps)) == step else None


def _cell(curve: Curve, step: int) -> str:
    point = _near(curve, step)
    if point is None:
        return ""
    return f"{point.accuracy:.2f}" + ("" if point.timesteps == step else f" (T = {point.timesteps:.3g})")


def _steps(curve: Curve, points: float) -> tuple[float, float]:
    """Steps to come so close; of networks that never do, the most accurate comes first."""
    point = curve.within(points)
    return (float("inf"), -curve.points[-1].accuracy) if point is None else (point.per_layer, 0.0)
