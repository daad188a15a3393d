"""The report's figures, as SVG text that takes its colours from the page it stands in.

Matplotlib draws with placeholder colours; each is then replaced by a CSS variable (``--ink``, ``--muted``, ``--line``,
``--accent``, ``--paper``), so one drawing serves the light and the dark theme. Text stays text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pascal_ext.extras import require

if TYPE_CHECKING:
    from pascal_ext.reports.report import Layer, Method, Raster

INK, MUTED, LINE, ACCENT, PAPER = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", ACCENT: "--accent", PAPER: "--paper"}
THEMED = {placeholder: placeholder for placeholder in _VARIABLES}
_ACCURACY_TICKS = (0, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 100)
_STOCK_LINES = ({"ls": (0, (1, 1.6)), "marker": "o"}, {"ls": (0, (4, 2)), "marker": "^"}, {"ls": "-", "marker": "s"})
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names may have a $
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "none",
}


def accuracy_figure(methods: Sequence[Method], ann_accuracy: float, samples: int) -> str:
    """Accuracy against timesteps per layer, and against the steps until the answer, in two panels.

    The error is on a logarithmic scale, 100 - accuracy + half a sample, so that 99 and 99.7 can be told apart.
    """
    margin = 50 / samples
    best = max([ann_accuracy, *(point.accuracy for method in methods for point in method.points)])
    with drawing(8.2, 3.9, 1, 2, sharey=True) as (figure, axes):
        stock_lines = iter(_STOCK_LINES * len(methods))
        for method in methods:
            tuned = method.kind == "tuned"
            style: dict[str, Any] = (
                {"color": MUTED, "markerfacecolor": PAPER, **next(stock_lines)}
                if method.kind == "stock"
                else {"color": ACCENT, "marker": "D", "zorder": 4, "markersize": 6, "clip_on": False,
                      "markerfacecolor": ACCENT if tuned else PAPER, "ls": "-" if tuned else (0, (3, 2))}
            )  # fmt: skip
            for axis, attribute in zip(axes, ("timesteps", "latency"), strict=True):
                x = [getattr(point, attribute) for point in method.points]
                axis.plot(x, [point.accuracy for point in method.points], label=method.name, **style)
        for axis, label in zip(axes, ("timesteps per layer", "steps until the answer"), strict=True):
            axis.axhline(ann_accuracy, color=INK, lw=0.9, label="ReLU network")
            axis.set_xscale("log", base=2)
            axis.set_xlabel(label)
            ticks = [2**power for power in range(12) if 2**power <= axis.get_xlim()[1]]
            axis.set_xticks(ticks, [str(tick) for tick in ticks])
            axis.minorticks_off()
            axis.grid(axis="y")
        axes[0].set_yscale("function", functions=(lambda y: -_log10(100 + margin - y), lambda y: 100 + margin - 10**-y))
        axes[0].set_ylim(0, best + (100 + margin - best) * 0.25)
        told_apart = [tick for tick in _ACCURACY_TICKS if tick <= 100 - 100 / samples or tick == 100]
        ticks = [tick for tick in told_apart if tick <= best + (100 - best) * 0.2]
        axes[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes[0].set_ylabel("accuracy, % (error on a log scale)")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=3, handlelength=3.2)
        return themed_svg(figure, "accuracy")


def levels_figure(layers: Sequence[Layer]) -> str:
    """One row of cells per layer, a cell per level; filled up to the mean number of spikes a neuron emits."""
    most = max(layer.levels for layer in layers)
    with drawing(8.2, 0.5 + 0.27 * len(layers), 1, 1) as (figure, axis):
        for row, layer in enumerate(layers):
            for cell in range(layer.levels):
                filled = min(max(layer.mean_spikes - cell, 0.0), 1.0)
                axis.barh(row, 0.92, left=cell + 0.04, height=0.62, facecolor="none", edgecolor=LINE, linewidth=0.8)
                if filled:
                    axis.barh(row, 0.92 * filled, left=cell + 0.04, height=0.62, facecolor=ACCENT, linewidth=0)
            label = f"{layer.mean_spikes:.2f} of {layer.levels}"
            axis.text(layer.levels + 0.12, row, label, va="center", color=MUTED, fontsize=8.5)
        axis.set_xlim(0, most * 1.16 + 0.3)
        axis.set_ylim(len(layers) - 0.4, -0.6)
        axis.set_yticks(range(len(layers)), [layer.name for layer in layers])
        axis.tick_params(axis="y", labelcolor=INK, pad=6)
        axis.set_xticks([])
        axis.spines[:].set_visible(False)
        return themed_svg(figure, "levels")


def raster_figure(raster: Raster) -> str:
    """The input image, then one panel per layer: neurons from top to bottom, the steps of its window left to right."""
    widths = [len(train) for train in raster.trains.values()]
    image_width = max(widths) * 1.9 if raster.image else 0.01
    ratios: list[float] = [image_width, *widths, max(widths) * 0.3]  # the last one leaves room for the last name
    with drawing(8.2, 3.3, 1, len(ratios), width_ratios=ratios) as (figure, axes):
        axes[0].axis("off")
        axes[-1].axis("off")
        if raster.image:
            height, width = len(raster.image), len(raster.image[0])
            top = max(max(row) for row in raster.image) or 1.0
            for row, values in enumerate(raster.image):
                for column, value in enumerate(values):
                    if value > 0:
                        alpha = round(value / top, 2)
                        axes[0].bar(column, 0.94, width=0.94, bottom=row - 0.47, color=INK, alpha=alpha)
            axes[0].set_xlim(-0.6, width - 0.4)
            axes[0].set_ylim(height - 0.4, -0.6)
            axes[0].set_aspect("equal", anchor="C")
            axes[0].set_title(raster.label, color=INK)
        for index, (axis, (name, train)) in enumerate(zip(axes[1:-1], raster.trains.items(), strict=True)):
            steps, neurons = len(train), len(train[0])
            x: list[float] = []
            y: list[float] = []
            for step, spikes in enumerate(train):
                for neuron, spike in enumerate(spikes):
                    if spike:
                        x += [step + 0.5, step + 0.5, float("nan")]
                        y += [neuron + 0.12, neuron + 0.88, float("nan")]
            axis.plot(x, y, color=ACCENT, lw=2.2, solid_capstyle="butt")
            axis.set_xlim(0, steps)
            axis.set_ylim(neurons, 0)
            axis.set_xticks([step + 0.5 for step in range(steps)], [str(step + 1) for step in range(steps)], fontsize=7)
            axis.set_yticks([])
            axis.spines[:].set_visible(True)
            axis.tick_params(axis="x", length=0, pad=2)
            axis.set_title(name, color=INK, fontsize=7.5, rotation=28, ha="left", va="bottom", x=0, pad=4)
            if index == 0:
                axis.set_ylabel("neurons")
        return themed_svg(figure, "raster")


def _log10(values: Any) -> Any:
    numpy = require("numpy", extra="report")
    return numpy.log10(numpy.maximum(values, 1e-9))


@contextmanager
def drawing(
    width: float, height: float, rows: int, columns: int, palette: Mapping[str, str] = THEMED, **layout: Any
) -> Iterator[tuple[Any, Any]]:
    """A figure and its axes, in the report's style; without pyplot, which would choose a display.

    Args:
        width, height: inches.
        rows, columns: of axes.
        palette: placeholder -> colour; placeholders stay for :func:`themed_svg`, which needs them.
        layout: for :meth:`matplotlib.figure.Figure.subplots`.
    """
    style = {name: palette.get(str(value), value) for name, value in _STYLE.items()}
    with require("matplotlib", extra="report").rc_context(style):
        figure = require("matplotlib.figure", extra="report").Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(rows, columns, **layout)


def themed_svg(figure: Any, name: str) -> str:
    """The figure as SVG text with the page's colours; ``name`` begins all its ids."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", text)
    order = dict.fromkeys(re.findall(r'\bid="([^"]+)"', text))  # matplotlib's ids differ from run to run
    numbers = {old: f"{name}-{number}" for number, old in enumerate(order)}
    text = re.sub(r'(\bid="|url\(#|href="#)([^")]+)', lambda match: match[1] + numbers[match[2]], text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text.replace('width="', 'data-width="', 1).replace('height="', 'data-height="', 1)
