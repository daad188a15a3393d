"""The neuron against the literal three-stage loop and SpikingJelly's IFNode, on the same currents.

    python -m benchmarks.ops [--device cuda] [--dtype bfloat16]

For each case of :mod:`benchmarks.ops.cases`, all competitors in turn, and ratios of their times within each turn; a row
each is appended to ``results/ops.jsonl``, and ``docs/speed_ops.png``, or ``docs/speed_ops_gpu.png``, is drawn. On a GPU
the rows tell, too, which share of a copy's bytes per second the competitors reach.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import rows
from benchmarks.ops.cases import CASES, GPU_CASES, Case, competitors, host_implementation, working
from pascal_ext.comparison.timing import Device, Precision, Times, interleave, repeats

RESULTS = rows.RESULTS / "ops.jsonl"
DOCS = Path(__file__).parents[2] / "docs"
PLOTS = {Device.CPU: DOCS / "speed_ops.png", Device.CUDA: DOCS / "speed_ops_gpu.png"}
ELEMENTS = 1 << 22  # that one measurement should at least work on, so that the clock is fine enough
GPU_SECONDS = 2e-3  # that one measurement should at least take on a GPU; launches vary by some 1e-5


def main(
    device: Annotated[Device, typer.Option(help="where to measure")] = Device.CPU,
    dtype: Annotated[Precision, typer.Option(help="of the currents")] = Precision.FLOAT32,
    rounds: Annotated[int, typer.Option(help="measurements of each competitor")] = 15,
    threads: Annotated[int, typer.Option(help="of torch")] = 1,
    output: Annotated[Path, typer.Option(help="file of result rows")] = RESULTS,
    plot: Annotated[Path | None, typer.Option(help="the plot, PNG or SVG; by default in docs/")] = None,
) -> None:
    """Measure all cases, append rows, print a table and draw."""
    torch.set_num_threads(threads)
    found = []
    for case in GPU_CASES if device == Device.CUDA else CASES:
        measured = _on_gpu(case, dtype, rounds) if device == Device.CUDA else _on_cpu(case, dtype, rounds)
        row = {
            **asdict(case),
            "device": device,
            "dtype": dtype,
            **measured,
            "rounds": rounds,
            "command": rows.command("benchmarks.ops"),
            **rows.environment(),
        }
        rows.append(output, row)
        found.append(row)
    show(found)
    draw(found, plot or PLOTS[device])


def _on_cpu(case: Case, dtype: Precision, rounds: int) -> dict[str, Any]:
    calls = competitors(case, Device.CPU, getattr(torch, dtype))
    repeat = max(1, ELEMENTS // (case.neurons * case.window))
    with torch.inference_mode():
        return compared(interleave(calls, rounds, repeat=repeat, label=str(case)))


def _on_gpu(case: Case, dtype: Precision, rounds: int) -> dict[str, Any]:
    with torch.inference_mode():
        calls, left_out = working(competitors(case, Device.CUDA, getattr(torch, dtype)))
        for name, reason in left_out.items():
            Console().print(f"{case}: without {name}: {reason}", markup=False)
        repeat = repeats(calls, GPU_SECONDS, device=Device.CUDA)
        times = interleave(calls, rounds, device=Device.CUDA, repeat=repeat, label=str(case))
    return {
        **compared(times),
        **bandwidth(case, getattr(torch, dtype).itemsize, times),
        "repeat": repeat,
        "left_out": left_out,
        "host_implementation": host_implementation(Device.CUDA),
    }


def compared(times: Times) -> dict[str, Any]:
    """The times of all competitors, and what the first of them, the base, takes of the time of each other."""
    base, *others = times.wall
    return {
        "milliseconds": {name: round(1000 * times.seconds(name), 4) for name in times.wall},
        "base": base,
        "ratio": {name: times.ratio(base, name) for name in others},
    }


def bandwidth(case: Case, itemsize: int, times: Times) -> dict[str, Any]:
    """Bytes per second: those of the copy, and which share of them the others reach.

    What is counted is what has to be read and written, so the share is that of the times where a train is as large as
    its currents; else, and for counts, none is given.
    """
    moved = 2 * case.window * case.neurons * itemsize
    found: dict[str, Any] = {"copy_gb_per_second": round(moved / times.seconds("copy") / 1e9, 1)}
    if case.window == case.levels:
        trains = [name for name in times.wall if name not in ("copy", "counts")]
        found["bandwidth"] = {name: times.ratio("copy", name)["wall"] for name in trains}
    return found


def show(found: list[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    names = _names(found)
    table = Table(title=f"Milliseconds, and the share of them that {found[0]['base']} takes", title_justify="left")
    for column in ("T1", "L", "N", *names):
        table.add_column(column, justify="right")
    for row in found:
        cells = [
            (f"{row['milliseconds'][name]:.3g}" if name in row["milliseconds"] else "")
            + (f" ({row['ratio'][name]['wall']:.2f})" if name in row["ratio"] else "")
            for name in names
        ]
        table.add_row(str(row["window"]), str(row["levels"]), f"{row['neurons']:,}", *cells)
    Console().print(table)


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Milliseconds against T and against N."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    by_steps, by_neurons = figure.subplots(1, 2)
    same = [row for row in found if row["window"] == row["levels"]]
    neurons = statistics.mode(row["neurons"] for row in same)  # those of the cases that differ in T
    for axes, key, chosen in (
        (by_steps, "window", [row for row in same if row["neurons"] == neurons]),
        (by_neurons, "neurons", [row for row in same if row["window"] == 8]),
    ):
        chosen.sort(key=lambda row: row[key])
        for name in _names(found):
            points = [(row[key], row["milliseconds"].get(name, math.nan)) for row in chosen]
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
        axes.set(xscale="log", yscale="log", ylabel="milliseconds")
    by_steps.set_xscale("log", base=2)
    by_steps.xaxis.set_major_formatter("{x:g}")
    by_steps.set(xlabel="timesteps T1 = L", title=f"N = {neurons:,}")
    by_neurons.set(xlabel="neurons N", title="T1 = L = 8")
    figure.legend(*by_neurons.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(path, dpi=120)


def _names(found: list[dict[str, Any]]) -> list[str]:
    """All competitors; not all of them take part in every case."""
    return list(dict.fromkeys(name for row in found for name in row["milliseconds"]))


if __name__ == "__main__":
    typer.run(main)
