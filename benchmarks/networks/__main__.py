"""Converted networks against the ReLU network: time and peak memory, in one run.

    python -m benchmarks.networks

For each case of :mod:`benchmarks.networks.cases`, the ReLU network and every variant in turn, and the ratio of their
times within each turn; then the peak memory of each, in a process of its own. A row each is appended to
``results/networks.jsonl``.
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
from benchmarks.networks.cases import BOUNDED, CASES, VARIANTS, call, make
from benchmarks.networks.memory import measure
from benchmarks.timing import interleave

RESULTS = rows.RESULTS / "networks.jsonl"


def main(
    cases: Annotated[list[str] | None, typer.Argument(help="names of cases; all of them where none is given")] = None,
    rounds: Annotated[int, typer.Option(help="measurements of each variant")] = 9,
    threads: Annotated[int, typer.Option(help="of torch")] = 1,
    memory: Annotated[bool, typer.Option(help="measure peak memory, too")] = True,
    output: Annotated[Path, typer.Option(help="file of result rows")] = RESULTS,
) -> None:
    """Measure, append rows and print a table."""
    torch.set_num_threads(threads)
    found = []
    for name in cases or list(CASES):
        variants = BOUNDED.get(name, VARIANTS)
        times = {} if name in BOUNDED else _times(name, rounds)
        base = measure(name, None) if memory else None
        for variant in variants:
            row: dict[str, Any] = {"case": name, **asdict(CASES[name]), "variant": variant.name}
            row |= times.get(variant.name, {})
            if base is not None:
                ours = measure(name, variant)
                row["memory_mib"] = {"relu": base, "ours": ours}
                row["memory_ratio"] = round((ours["peak"] - ours["before"]) / (base["peak"] - base["before"]), 3)
            row |= {"rounds": rounds, "command": rows.command("benchmarks.networks"), **rows.environment()}
            rows.append(output, row)
            found.append(row)
    show(found)


def _times(name: str, rounds: int) -> dict[str, dict[str, Any]]:
    case = CASES[name]
    calls = {"relu": call(*make(case, None))}
    calls |= {variant.name: call(*make(case, variant)) for variant in VARIANTS}
    with torch.inference_mode():
        times = interleave(calls, rounds, label=name)
    return {
        key: {
            "milliseconds": {
                "relu": round(1000 * times.seconds("relu"), 2),
                "ours": round(1000 * times.seconds(key), 2),
            },
            "ratio": times.ratio(key, "relu"),
        }
        for key in calls
        if key != "relu"
    }


def show(found: list[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    table = Table(title="Against the ReLU network", title_justify="left")
    for column in ("case", "L", "variant", "time", "(processor)", "memory of the pass", "peak MiB"):
        table.add_column(column, justify="left" if column in ("case", "variant") else "right")
    for row in found:
        ratio, memory = row.get("ratio"), row.get("memory_mib")
        table.add_row(
            row["case"],
            str(row["levels"]),
            row["variant"],
            f"{ratio['wall']:.3f}" if ratio else "",
            f"{ratio['cpu']:.3f}" if ratio else "",
            f"{row['memory_ratio']:.2f}" if memory else "",
            f"{memory['ours']['peak']:.0f}" if memory else "",
        )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
