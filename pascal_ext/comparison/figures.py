"""The comparison's curves: accuracy against timesteps, against latency, and against energy."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pascal_ext.comparison.curves import Comparison, Curve, Point
from pascal_ext.comparison.methods import METHODS
from pascal_ext.extras import require
from pascal_ext.reports.figures import ACCENT, INK, LINE, MUTED, PAPER, THEMED, drawing, themed_svg

LIGHT = {INK: "#1d1c1a", MUTED: "#68645d", LINE: "#d3cec5", ACCENT: "#b3401c", PAPER: "#fbfaf8"}
_STOCK = (
    ("o", (0, (1, 1.6))), ("^", (0, (4, 2))), ("s", "-"), ("v", (0, (6, 1.5, 1, 1.5))), ("P", (0, (2, 3))),
    ("h", (0, (8, 2))), ("*", (0, (6, 1.5, 1, 1.5, 1, 1.5))),
)  # fmt: skip
_RATE = (("<", (0, (1, 1.6))), (">", (0, (4, 2))), ("X", "-"), ("p", (0, (6, 1.5, 1, 1.5))))
_PASCAL = (
    ("D", PAPER, (0, (3, 2))), ("d", PAPER, (0, (1, 2))), ("s", PAPER, (0, (5, 1.5, 1, 1.5))), ("D", ACCENT, "none"),
)  # fmt: skip
#: Name of each rate-coded method -> marker and line, the same in every figure.
STYLES = {
    method.name: style
    for kind, styles in (("stock", _STOCK), ("rate", _RATE))
    for method, style in zip([one for one in METHODS.values() if one.kind == kind], styles, strict=True)
}
#: Name of a series of PASCAL networks -> marker, the colour that fills it, and line.
SERIES = dict(zip(dict.fromkeys(method.series for method in METHODS.values() if method.series), _PASCAL, strict=True))
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
    shown = [curve for curve in comparison.curves if any(point.accuracy >= floor for point in curve.points)]
    by_kind = {kind: [curve for curve in shown if curve.method.kind == kind] for kind in ("stock", "rate", "tuned")}
    with drawing(8.2, 4.8, 1, 2, palette, sharey=True) as (figure, axes):
        for axis, (label, x) in zip(axes, panels, strict=True):
            axis.axhline(comparison.ann_accuracy, color=palette[INK], lw=0.9, label="ReLU network")
            for kind, colour in (("stock", MUTED), ("rate", INK)):
                for curve in by_kind[kind]:
                    _line(axis, curve, x, palette[colour], palette[PAPER])
            for series, (marker, face, line) in SERIES.items():
                curves = [curve for curve in shown if curve.method.series == series]
                if curves:
                    _points(axis, curves, x, palette[ACCENT], palette[face], marker, line, series)
            axis.set_ylim(floor, best + (best - floor) * 0.05)
            axis.set_xscale("log", base=2)
            named = [(at, point, curve.network) for curve in by_kind["tuned"] for at, point in _seen(curve, x)]
            visible = [found for curve in shown for found in _seen(curve, x) if found[1].accuracy >= floor]
            _limit(axis, [at for at, _ in visible] or [1], [at for at, *_ in named])
            if named:
                _name(axis, named, visible, palette[ACCENT], palette[PAPER])
            axis.set_xlabel(label)
            axis.grid(axis="y")
        axes[0].set_ylabel("accuracy, %")
        handles, labels = axes[0].get_legend_handles_labels()
        for curve in comparison.curves:
            if curve not in shown:
                handles += axes[0].plot([], [], " ")
                labels.append(f"{curve.title}: below {floor:.0f}")
        figure.legend(handles, labels, loc="outside upper left", ncols=3, handlelength=3, fontsize=7, columnspacing=1.2)
    return figure


def _seen(curve: Curve, x: X) -> list[tuple[float, Point]]:
    """The points that have a place on the axis, and which."""
    return [(at, point) for point in curve.points if (at := x(point))]


def _limit(axis: Any, visible: list[float], named: list[float]) -> None:
    """Limits a little beyond the visible points, with room for names beside the leftmost of ``named``; plain ticks."""
    low, high = math.log2(min(visible)), math.log2(max(visible))
    margin = 0.05 * max(high - low, 1)
    low = min(low, *(math.log2(at) - 4 * margin for at in named)) if named else low
    low, high = low - margin, high + margin
    axis.set_xlim(2**low, 2**high)
    powers = [2.0**power for power in range(12)]
    if low < -1:  # below 1, powers of 2 are not plain
        powers = [digit * 10.0**power for power in range(-4, 4) for digit in (1, 2, 5)]
    ticks = [tick for tick in powers if 2**low <= tick <= 2**high]
    ticks = ticks[:: 1 + len(ticks) // 11]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()


def _name(
    axis: Any, named: list[tuple[float, Point, str]], visible: list[tuple[float, Point]], colour: str, paper: str
) -> None:
    """The names of networks in a column, each with a line to its point: to the left, or, where curves are, below."""
    floor, top = axis.get_ylim()
    low, high = map(math.log2, axis.get_xlim())
    gap, aside = 0.045 * (top - floor), 2 ** (0.04 * (high - low))
    left, right = min(at for at, *_ in named), max(at for at, *_ in named)
    lowest = min(point.accuracy for _, point, _ in named)
    below = any(left / aside**5 < at < left and point.accuracy > lowest - gap * len(named) for at, point in visible)
    column, height = (right * aside, lowest - 2 * gap) if below else (left / aside, top)
    for at, point, name in sorted(named, key=lambda one: (-one[0] if below else 0, -one[1].accuracy)):
        height = min(point.accuracy, height - gap)
        axis.annotate(
            name, (at, point.accuracy), (column, height), color=colour, fontsize=7, zorder=5, va="center",
            ha="left" if below else "right", bbox={"facecolor": paper, "edgecolor": "none", "pad": 0.6},
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.5, "relpos": (0 if below else 1, 0.5)},
        )  # fmt: skip


def _line(axis: Any, curve: Curve, x: X, colour: str, paper: str) -> None:
    marker, line = STYLES[curve.method.name]
    seen = _seen(curve, x)
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


def _points(axis: Any, curves: list[Curve], x: X, colour: str, face: str, marker: str, line: Any, label: str) -> None:
    seen = [found for curve in curves for found in _seen(curve, x)]
    accuracies = [point.accuracy for _, point in seen]
    errors = [[point.accuracy - point.low for _, point in seen], [point.high - point.accuracy for _, point in seen]]
    axis.errorbar(
        [at for at, _ in seen],
        accuracies,
        yerr=errors,
        color=colour,
        ls=line,
        lw=1.2,
        elinewidth=0.8,
        marker=marker,
        markersize=6,
        markerfacecolor=face,
        zorder=4,
        label=label,
    )
