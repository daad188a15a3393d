"""Compare conversions: ``python -m benchmarks.compare run``, then ``report``."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks import rows
from benchmarks.compare import workload
from benchmarks.compare.suites import SUITES
from pascal_ext.command.specs import parse_networks
from pascal_ext.comparison import page, runner
from pascal_ext.comparison.methods import METHODS, find
from pascal_ext.comparison.runner import Measure
from pascal_ext.comparison.timing import Device
from pascal_ext.comparison.workload import in_float32
from pascal_ext.errors import InvalidArgumentError, PascalError

RESULTS = rows.RESULTS / "compare.jsonl"

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.callback()(lambda: None)  # or else typer makes a single command the program itself


@app.command()
def run(
    suite: Annotated[str, typer.Argument(help=f"One of {', '.join(SUITES)}.")],
    root: Annotated[Path | None, typer.Option("--data", help="Folder of the images; not for digits.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="ReLU weights of the model, a file or a name of torchvision; not for digits.")
    ] = None,
    model: Annotated[str, typer.Option(help="See benchmarks.models; the suite's own where left out.")] = "",
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=FILE, a QCFS network of benchmarks.train, or NAME=FILE:LEVELS, a checkpoint of the QCFS or "
            "PASCAL repositories and its levels, a number or a plan's JSON file; may be repeated."
        ),
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(METHODS)}; may be repeated. [default: all]")
    ] = None,
    measure: Annotated[Measure, typer.Option(help="Which rows: those of shards of the test images, or costs.")] = (
        Measure.ALL
    ),
    device: Annotated[Device, typer.Option(help="Where networks run; on a GPU in float32, without TF32.")] = Device.CPU,
    images: Annotated[
        int | None, typer.Option(min=1, help="Test images, in whole shards spread over them. [default: all]")
    ] = None,
    shard: Annotated[
        int | None, typer.Option(min=1, help="Test images of one row. [default: the suite's, 500 but for digits]")
    ] = None,
    timesteps: Annotated[int | None, typer.Option(min=1, help="T of rate coding. [default: the suite's, 64]")] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Of test images; not of calibration and costs. [default: the suite's; 500 on a GPU]"),
    ] = None,
    seed: Annotated[int, typer.Option()] = 0,
    output: Annotated[Path, typer.Option(help="File of result rows.")] = RESULTS,
) -> None:
    """Measure methods on a suite; rows that are there already are not run again, so an interrupted run resumes."""
    with _errors(), in_float32(device):
        if suite not in SUITES:
            raise InvalidArgumentError(f"there is no suite {suite!r}; choose one of {list(SUITES)}")
        settings = SUITES[suite]
        settings = dataclasses.replace(
            settings,
            model=model or settings.model,
            timesteps=timesteps or settings.timesteps,
        )
        layout = workload.layout(settings, device, batch_size, shard)
        methods = [find(name) for name in dict.fromkeys(method)] if method else list(METHODS.values())
        torch.manual_seed(seed)
        if suite == "digits":
            made = workload.digits(suite, settings, layout, seed)
        elif root is None or weights is None:
            raise InvalidArgumentError(f"suite {suite!r} needs --data and --weights")
        else:
            named = parse_networks("--checkpoint", checkpoint or [])
            checkpoints = {name: workload.Checkpoint(*found) for name, found in named.items()}
            made = workload.images(suite, settings, layout, root, weights, checkpoints)
        options = {"--data": root, "--weights": weights, "--model": model, "--timesteps": timesteps}
        options |= {"--images": images, "--batch-size": batch_size, "--shard": shard, "--seed": seed or None}
        options |= {"--device": None if device == Device.CPU else device}
        options |= {"--measure": None if measure == Measure.ALL else measure}
        words = [word for name, value in options.items() if value for word in (name, str(value))]
        words += [word for pair in checkpoint or [] for word in ("--checkpoint", pair)]
        command = shlex.join(["python", "-m", "benchmarks.compare", "run", suite, *words])
        written = runner.run(
            made,
            methods,
            output,
            commands={method.name: f"{command} --method {method.name}" for method in methods},
            environment=rows.environment(),
            measure=measure,
            shards=None if images is None else -(-images // made.shard_size),
            seed=seed,
        )
        typer.echo(f"{written} rows written to {output}")


@app.command()
def report(
    source: Annotated[Path, typer.Option("--rows", help="File of result rows.", dir_okay=False)] = RESULTS,
    output: Annotated[Path, typer.Option(help="Folder for what is written.")] = rows.RESULTS / "compare",
) -> None:
    """Write the page, the figures, the CSV file and the Markdown tables, from the rows alone."""
    with _errors():
        found = rows.read(source)
        page.write(found, output)
        typer.echo(f"{len(found)} rows: {output / 'report.html'}")


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """An error of this project is one line and exit status 1, not a traceback."""
    try:
        yield
    except PascalError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app()
