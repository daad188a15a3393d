"""The neuron against the literal three-stage loop and SpikingJelly's IFNode, on the same currents.

    python -m benchmarks.ops

For each case of :mod:`benchmarks.ops.cases`, all competitors in turn, and ratios of their times within each turn; a row
each is appended to ``results/ops.jsonl``, and ``docs/speed_ops.png`` is drawn.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import rows
from benchmarks.ops.cases import CASES, competitors
from benchmarks.timing import interleave

RESULTS = rows.RESULTS / "ops.jsonl"
PLOT = Path(__file__).parents[2] / "docs" / "speed_ops.png"
ELEMENTS = 1 << 22  # that one measurement should at least work on, so that the clock is fine enough


def main(
    rounds: Annotated[int, typer.Option(help="measurements of each competitor")] = 15,
    threads: Annotated[int, typer.Option(help="of torch")] = 1,
    output: Annotated[Path, typer.Option(help="file of result rows")] = RESULTS,
    plot: Annotated[Path, typer.Option(help="the plot, PNG or SVG")] = PLOT,
) -> None:
    """Measure all cases, append rows, print a table and draw."""
    torch.set_num_threads(threads)
    found = []
    for case in CASES:
        calls = competitors(case)
        repeat = max(1, ELEMENTS // (case.neurons * case.window))
        with torch.inference_mode():
            times = interleave(calls, rounds, repeat=repeat, label=str(case))
        row = {
            **asdict(case),
            "milliseconds": {name: round(1000 * times.seconds(name), 4) for name in calls},
            "ratio": {name: times.ratio("pasc_if", name) for name in calls if name != "pasc_if"},
            "rounds": rounds,
            "command": rows.command("benchmarks.ops"),
            **rows.environment(),
        }
        rows.append(output, row)
        found.append(row)
    show(found)
    draw(found, plot)


def show(found: list[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    names = list(found[0]["milliseconds"])
    table = Table(title="Milliseconds, and pasc_if's share of them", title_justify="left")
    for column in ("T1", "L", "N", *names):
        table.add_column(column, justify="right")
    for row in found:
        cells = [
            f"{row['milliseconds'][name]:.3g}"
            + (f" ({row['ratio'][name]['wall']:.2f})" if name in row["ratio"] else "")
            for name in names
        ]
        table.add_row(str(row["window"]), str(row["levels"]), f"{row['neurons']:,}", *cells)
    Console().print(table)


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Milliseconds against T and against N."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    by_steps, by_neurons = figure.subplots(1, 2)
    same = [row for row in found if row["window"] == row["levels"]]
    for axes, key, chosen in (
        (by_steps, "window", [row for row in same if row["neurons"] == 1 << 20]),
        (by_neurons, "neurons", [row for row in same if row["window"] == 8]),
    ):
        chosen.sort(key=lambda row: row[key])
        for name in chosen[0]["milliseconds"]:
            axes.plot([r[key] for r in chosen], [r["milliseconds"][name] for r in chosen], marker="o", label=name)
        axes.set(xscale="log", yscale="log", ylabel="milliseconds")
    by_steps.set(xlabel="timesteps T1 = L", title="N = 1,048,576")
    by_neurons.set(xlabel="neurons N", title="T1 = L = 8")
    by_neurons.legend(fontsize="small")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    typer.run(main)
