"""Converted networks against the ReLU network: time and peak memory, in one run.

    python -m benchmarks.networks [--device cuda] [--dtype bfloat16]

For each case of :mod:`benchmarks.networks.cases`, the ReLU network and every variant in turn, and the ratio of their
times within each turn; then the peak memory of each. A row each is appended to ``results/networks.jsonl``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import rows
from benchmarks.networks.cases import BOUNDED, CASES, GPU_CASES, Case, Setting, Variant, call, make, variants_of
from benchmarks.networks.memory import measure, measure_on_gpu
from pascal_ext.comparison.timing import Device, Precision, interleave

RESULTS = rows.RESULTS / "networks.jsonl"
GPU_WARMUP = 3  # calls, in which cuDNN chooses its algorithms and the allocator gets its memory


def main(
    cases: Annotated[
        list[str] | None, typer.Argument(help="names of cases; all of the device's where none is given")
    ] = None,
    device: Annotated[Device, typer.Option(help="where to measure")] = Device.CPU,
    dtype: Annotated[Precision, typer.Option(help="of weights and images; bfloat16 has channels last")] = (
        Precision.FLOAT32
    ),
    tf32: Annotated[bool, typer.Option(help="let float32 run in TF32 on a GPU")] = False,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="compile all networks")] = False,
    rounds: Annotated[int, typer.Option(help="measurements of each variant")] = 9,
    threads: Annotated[int, typer.Option(help="of torch")] = 1,
    memory: Annotated[bool, typer.Option(help="measure peak memory, too")] = True,
    output: Annotated[Path, typer.Option(help="file of result rows")] = RESULTS,
) -> None:
    """Measure, append rows and print a table."""
    torch.set_num_threads(threads)
    if tf32 and device == Device.CPU:
        raise typer.BadParameter("TF32 is an arithmetic of GPUs")
    setting = Setting(device, dtype, channels_last=dtype == Precision.BFLOAT16, tf32=tf32, compiled=compiled)
    setting.configure()
    found = []
    for name in cases or list(GPU_CASES if device == Device.CUDA else CASES):
        case, variants = {**CASES, **GPU_CASES}[name], variants_of(name, device)
        measured = (_on_gpu if device == Device.CUDA else _on_cpu)(name, case, variants, setting, rounds, memory)
        for variant in variants:
            row = {
                "case": name,
                **asdict(case),
                **asdict(setting),
                "variant": variant.name,
                **measured[variant.name],
                "rounds": rounds,
                "command": rows.command("benchmarks.networks"),
                **rows.environment(),
            }
            rows.append(output, row)
            found.append(row)
    show(found)


def _on_cpu(
    name: str, case: Case, variants: tuple[Variant, ...], setting: Setting, rounds: int, memory: bool
) -> dict[str, dict[str, Any]]:
    """Variant -> what was measured of it."""
    measured: dict[str, dict[str, Any]] = {variant.name: {} for variant in variants}
    if name not in BOUNDED:
        measured = _times(_calls(case, variants, setting), rounds, name, setting.device)
    if memory:
        relu = measure(name, None, setting)
        for variant in variants:
            measured[variant.name] |= compared_memory(relu, measure(name, variant, setting))
    return measured


def _on_gpu(
    name: str, case: Case, variants: tuple[Variant, ...], setting: Setting, rounds: int, memory: bool
) -> dict[str, dict[str, Any]]:
    """Likewise."""
    calls = _calls(case, variants, setting)
    measured = _times(calls, rounds, name, setting.device, GPU_WARMUP)
    if memory:
        relu = measure_on_gpu(calls["relu"])
        for variant in variants:
            measured[variant.name] |= compared_memory(relu, measure_on_gpu(calls[variant.name]))
    return measured


def compared_memory(relu: dict[str, float], ours: dict[str, float]) -> dict[str, Any]:
    """The memory of both passes, and how many times that of the ReLU network ours takes."""
    ratio = (ours["peak"] - ours["before"]) / (relu["peak"] - relu["before"])
    return {"memory_mib": {"relu": relu, "ours": ours}, "memory_ratio": round(ratio, 3)}


def _calls(case: Case, variants: tuple[Variant, ...], setting: Setting) -> dict[str, Callable[[], Any]]:
    if setting.compiled:
        torch.compiler.reset()  # torch gives up on code that it compiles too often, as for one network after another
    calls = {"relu": call(*make(case, None, setting))}
    return calls | {variant.name: call(*make(case, variant, setting)) for variant in variants}


def _times(
    calls: dict[str, Callable[[], Any]], rounds: int, label: str, device: str, warmup: int = 1
) -> dict[str, dict[str, Any]]:
    with torch.inference_mode():
        times = interleave(calls, rounds, device=device, warmup=warmup, label=label)
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
    setting = f"{found[0]['device']}, {found[0]['dtype']}"
    table = Table(title=f"Against the ReLU network ({setting})", title_justify="left")
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
