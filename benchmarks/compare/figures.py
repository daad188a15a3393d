"""The comparison's curves: accuracy against timesteps, against latency, and against energy."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.compare.curves import Comparison, Curve, Point
from pascal_ext.extras import require
from pascal_ext.figures import ACCENT, INK, LINE, MUTED, PAPER, THEMED, drawing, themed_svg

LIGHT = {INK: "#1d1c1a", MUTED: "#68645d", LINE: "#d3cec5", ACCENT: "#b3401c", PAPER: "#fbfaf8"}
_STOCK = (("o", (0, (1, 1.6))), ("^", (0, (4, 2))), ("s", "-"), ("v", (0, (6, 1.5, 1, 1.5))), ("P", (0, (2, 3))))
_RATE = (("<", (0, (1, 1.6))), (">", (0, (4, 2))), ("X", "-"), ("p", (0, (6, 1.5, 1, 1.5))))
_MARKED = {2**power for power in range(12)}

X = Callable[[Point], "float | None"]


def _timesteps(comparison: Comparison) -> list[tuple[str, X]]:
    """Accuracy against the steps that a layer is simulated for, and against those until the answer."""
    return [
        ("timesteps per layer", lambda point: point.per_layer),
        ("steps until the answer", lambda point: point.latency),
    ]


def _costs(comparison: Comparison) -> list[tuple[str, X]]:
    """Accuracy against estimated energy and against time, both relative to the ReLU network."""

    def energy(point: Point) -> float | None:
        return None if point.joules is None or not comparison.ann_joules else point.joules / comparison.ann_joules

    return [
        ("estimated energy / ReLU network", energy),
        ("simulation time / ReLU network", lambda point: point.time_ratio),
    ]


FIGURES = {"steps": _timesteps, "energy": _costs}  # name -> what each panel shows accuracy against


def drawable(comparison: Comparison) -> list[str]:
    """The names of the figures that there are numbers for; a comparison may be one of accuracies alone."""
    points = [point for curve in comparison.curves for point in curve.points]
    return [
        name for name, panels in FIGURES.items() if any(x(point) for _, x in panels(comparison) for point in points)
    ]


def svg(comparison: Comparison, name: str) -> str:
    """One of :data:`FIGURES` for a page, with the page's colours."""
    with _saving():
        return themed_svg(_figure(comparison, FIGURES[name](comparison), THEMED), f"{name}-{slug(comparison)}")


def slug(comparison: Comparison) -> str:
    """Model and data as they can stand in a file's name."""
    return "-".join(re.findall(r"[a-z0-9.]+", f"{comparison.model} {comparison.data}".lower()))


def save(comparison: Comparison, name: str, path: Path) -> None:
    """Write one of :data:`FIGURES` into ``path``, .png or .svg, in the light colours."""
    figure = _figure(comparison, FIGURES[name](comparison), LIGHT)
    with _saving():
        figure.savefig(
            path, dpi=160, facecolor=LIGHT[PAPER], metadata={"Date": None} if path.suffix == ".svg" else None
        )


def _saving() -> Any:
    """Within the context, SVG files hold text as text, and the same figure is the same file."""
    return require("matplotlib", extra="report").rc_context({"svg.fonttype": "none", "svg.hashsalt": "pascal-ext"})


def _figure(comparison: Comparison, panels: list[tuple[str, X]], palette: Mapping[str, str]) -> Any:
    lowest = min(point.accuracy for curve in comparison.curves for point in curve.points)
    best = max(comparison.ann_accuracy, *(point.high for curve in comparison.curves for point in curve.points))
    floor = max(lowest, best - 45)
    with drawing(8.2, 4.8, 1, 2, palette, sharey=True) as (figure, axes):
        for axis, (label, x) in zip(axes, panels, strict=True):
            axis.axhline(comparison.ann_accuracy, color=palette[INK], lw=0.9, label="ReLU network")
            styles = {"stock": iter(_STOCK * 9), "rate": iter(_RATE * 9)}
            free = [curve for curve in comparison.curves if curve.method.kind == "converted"]
            for curve in comparison.curves:
                if curve.method.kind in styles:
                    marker, line = next(styles[curve.method.kind])
                    colour = palette[MUTED] if curve.method.kind == "stock" else palette[INK]
                    _line(axis, curve, x, colour, palette[PAPER], marker, line)
                elif curve.method.kind == "tuned":
                    _points(axis, [curve], x, palette[ACCENT], palette[ACCENT], curve.title)
            if free:
                _points(axis, free, x, palette[ACCENT], palette[PAPER], "PASCAL without training")
            axis.set_xscale("log", base=2)
            axis.set_xlabel(label)
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}" if value > 0.1 else f"{value:.2g}")
            axis.minorticks_off()
            axis.grid(axis="y")
            axis.set_ylim(floor, best + (best - floor) * 0.05)
        axes[0].set_ylabel("accuracy, %")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=3, handlelength=3, fontsize=7, columnspacing=1.2)
    return figure


def _line(axis: Any, curve: Curve, x: X, colour: str, paper: str, marker: str, line: Any) -> None:
    seen = [(at, point) for point in curve.points if (at := x(point))]
    marked = [index for index, (_, point) in enumerate(seen) if point.timesteps in _MARKED]
    axis.plot(
        [at for at, _ in seen],
        [point.accuracy for _, point in seen],
        color=colour,
        ls=line,
        lw=1.1,
        marker=marker,
        markevery=marked,
        markerfacecolor=paper,
        label=curve.title,
    )


def _points(axis: Any, curves: list[Curve], x: X, colour: str, face: str, label: str) -> None:
    seen = [(at, point) for curve in curves for point in curve.points if (at := x(point))]
    accuracies = [point.accuracy for _, point in seen]
    errors = [[point.accuracy - point.low for _, point in seen], [point.high - point.accuracy for _, point in seen]]
    axis.errorbar(
        [at for at, _ in seen],
        accuracies,
        yerr=errors,
        color=colour,
        ls=(0, (3, 2)),
        lw=1.2,
        elinewidth=0.8,
        marker="D",
        markersize=6,
        markerfacecolor=face,
        zorder=4,
        label=label,
    )
