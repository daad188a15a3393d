"""Compare conversions: ``python -m benchmarks.compare run``, then ``report``."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import shlex
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from tqdm.auto import tqdm

from benchmarks import rows
from benchmarks.compare import figures, page, tables, workload
from benchmarks.compare.curves import compare
from benchmarks.compare.measure import Measurement
from benchmarks.compare.registry import METHODS, SUITES, Method, find, shard_size
from benchmarks.timing import Device
from pascal_ext.errors import InvalidArgumentError, PascalError

RESULTS = rows.RESULTS / "compare.jsonl"
KEY = ("suite", "model", "network", "fingerprint", "method", "T", "calibration", "seed", "shard", "shard_size")

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.callback()(lambda: None)  # or else typer makes a single command the program itself


class Measure(StrEnum):
    """Which rows are wanted."""

    ACCURACY = "accuracy"
    COSTS = "costs"
    ALL = "all"


@dataclasses.dataclass(frozen=True)
class Task:
    """One row that is wanted: a method, on one network, on one shard of the test images; or its costs (shard None)."""

    method: Method
    network: str
    shard: int | None

    def key(self, suite: str, made: workload.Workload, seed: int) -> dict[str, Any]:
        """What tells the row from others: see :data:`KEY`. Costs do not depend on the size of shards."""
        steps = None if self.method.family == "pascal" else made.suite.timesteps
        size = None if self.shard is None else made.layout.shard
        network = made.networks.get(self.network, made.relu)
        values = (suite, made.model, self.network, workload.fingerprint(network), self.method.name, steps)
        return dict(zip(KEY, (*values, made.suite.calibration, seed, self.shard, size), strict=True))


def tasks(methods: Sequence[Method], networks: Sequence[str], shards: Iterable[int | None]) -> Iterator[list[Task]]:
    """What is to be done, shard by shard; tasks that read out the same conversion come in one list."""
    for shard in shards:
        for _, group in itertools.groupby(methods, lambda method: (method.family, repr(method.options))):
            same = list(group)
            for network in networks if same[0].needs_qcfs else [""]:
                yield [Task(method, network, shard) for method in same]


def run_suite(
    name: str,
    made: workload.Workload,
    methods: Sequence[Method],
    *,
    measure: Measure,
    images: int,
    seed: int,
    command: str,
    output: Path,
) -> int:
    """Measure what ``output`` has no rows of yet, and append them; returns how many those were."""
    environment, written = rows.environment(), 0
    same = (row | {"shard_size": shard_size(row)} for row in rows.read(output) if row["suite"] == name)
    done = {tuple(row.get(name) for name in KEY) for row in same}
    shards = [] if measure == Measure.COSTS else list(range(min(made.shards, -(-images // made.layout.shard))))
    costs = [] if measure == Measure.ACCURACY else [None]
    wanted = list(tasks(methods, list(made.networks), [*shards, *costs]))
    measurement = Measurement(made, made.suite.timesteps)
    for group in tqdm(wanted, desc=f"{name}, {made.model}"):
        keys = [task.key(name, made, seed) for task in group]
        missing = [index for index, key in enumerate(keys) if tuple(key.values()) not in done]
        if not missing:
            continue
        chosen, network, shard = [group[index].method for index in missing], group[0].network, group[0].shard
        if shard is None:
            found = [measurement.costs(chosen[0], network)] * len(missing)
        else:
            found = measurement.rows(chosen, network, shard)
        for index, row in zip(missing, found, strict=True):
            again = {"command": f"{command} --method {group[index].method.name}"}
            known = {"data": made.title, "device": made.layout.device}
            rows.append(output, {**keys[index], **known, **row, **again, **environment})
            written += 1
    return written


def parse_checkpoints(pairs: Sequence[str]) -> dict[str, workload.Checkpoint]:
    """``NAME=FILE`` and ``NAME=FILE:LEVELS`` arguments as a mapping.

    Raises:
        InvalidArgumentError: an argument is not of this form.
    """
    found = {}
    for pair in pairs:
        name, separator, file = pair.partition("=")
        path, colon, levels = file.rpartition(":")
        if not separator or not name or not file or (colon and not (path and levels)):
            raise InvalidArgumentError(f"--checkpoint {pair!r} is not of the form NAME=FILE or NAME=FILE:LEVELS")
        found[name] = workload.Checkpoint(Path(path), levels) if colon else workload.Checkpoint(Path(file))
    return found


@app.command()
def run(
    suite: Annotated[str, typer.Argument(help=f"One of {', '.join(SUITES)}.")],
    root: Annotated[Path | None, typer.Option("--data", help="Folder of the images; not for digits.")] = None,
    weights: Annotated[Path | None, typer.Option(help="ReLU weights of the model; not for digits.")] = None,
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
    with _errors():
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
            made = workload.digits(settings, layout, seed)
        elif root is None or weights is None:
            raise InvalidArgumentError(f"suite {suite!r} needs --data and --weights")
        else:
            made = workload.images(settings, layout, root, weights, parse_checkpoints(checkpoint or []))
        options = {"--data": root, "--weights": weights, "--model": model, "--timesteps": timesteps}
        options |= {"--images": images, "--batch-size": batch_size, "--shard": shard, "--seed": seed or None}
        options |= {"--device": None if device == Device.CPU else device}
        options |= {"--measure": None if measure == Measure.ALL else measure}
        words = [word for name, value in options.items() if value for word in (name, str(value))]
        words += [word for pair in checkpoint or [] for word in ("--checkpoint", pair)]
        command = shlex.join(["python", "-m", "benchmarks.compare", "run", suite, *words])
        images = images or made.size
        written = run_suite(
            suite, made, methods, measure=measure, images=images, seed=seed, command=command, output=output
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
        comparisons = compare(found)
        if not comparisons:
            raise InvalidArgumentError(f"{str(source)!r} holds no rows of a comparison; `run` writes them")
        output.mkdir(parents=True, exist_ok=True)
        (output / "report.html").write_text(page.html(comparisons, found), encoding="utf-8")
        (output / "points.csv").write_text(tables.to_csv(comparisons), encoding="utf-8")
        (output / "tables.md").write_text(tables.document(comparisons), encoding="utf-8")
        for comparison in comparisons:
            for name, suffix in itertools.product(figures.drawable(comparison), ("png", "svg")):
                figures.save(comparison, name, output / f"{figures.slug(comparison)}-{name}.{suffix}")
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
