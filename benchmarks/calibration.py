"""What does calibration without training give? A trained CIFAR ResNet, converted at few levels, on a whole test set.

    python -m benchmarks.calibration --data DIR --weights FILE

For each number of levels and each way to calibrate: the accuracy of the spiking network (in its "counts" execution,
whose answers are those of the spikes, see ``benchmarks.exactness``), that of the ReLU network, and the time that
calibration and conversion took. One row for each is appended to ``results/calibration.jsonl``; what has a row,
with the same weights, is not run again, so an interrupted run resumes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import rows
from benchmarks.data import SOURCES
from benchmarks.exactness import accuracy, draw_batches
from benchmarks.models.checkpoints import load_relu
from benchmarks.models.pretrained import as_trained
from pascal_ext import convert, reconstruct
from pascal_ext.comparison.workload import fingerprint

RESULTS = rows.RESULTS / "calibration.jsonl"

# name -> keyword arguments of pascal_ext.calibrate
CASES: dict[str, Mapping[str, Any]] = {
    "least squares": {},
    "least squares, per channel": {"per_channel": True},
    "means": {"correct": "bias"},
    "means, per channel": {"correct": "bias", "per_channel": "auto"},
}
RECONSTRUCTED = "reconstructed"


def main(
    data: Annotated[Path, typer.Option(help="ImageFolder tree with train/ and test/, or torchvision's CIFAR folder")],
    weights: Annotated[Path, typer.Option(help="ReLU weights of the model, or IMAGENET1K_V1 ... of torchvision")],
    model: Annotated[str, typer.Option(help="name in benchmarks.models")] = "resnet20",
    source: Annotated[str, typer.Option(help="name in benchmarks.data.SOURCES")] = "cifar10-jpeg",
    levels: Annotated[list[int], typer.Option(help="levels, may be repeated")] = [4, 8, 16, 32],
    case: Annotated[list[str], typer.Option(help="ways to calibrate, may be repeated")] = [*CASES, RECONSTRUCTED],
    images: Annotated[int, typer.Option(help="test images")] = 10_000,
    calibration: Annotated[int, typer.Option(help="training images for calibration")] = 1000,
    batch_size: Annotated[int, typer.Option()] = 100,
    seed: Annotated[int, typer.Option(help="of a reconstruction")] = 0,
    output: Annotated[Path, typer.Option(help="file of result rows")] = RESULTS,
) -> None:
    """Convert at each number of levels in each way, measure the accuracy, append a row, and print the table."""
    ann = load_relu(model, SOURCES[source].classes, weights)
    images_of = as_trained(SOURCES[source], model, weights)
    train = draw_batches(images_of, data, "train", calibration, batch_size)
    test = draw_batches(images_of, data, "test", images, batch_size)
    done = rows.of_weights(output)
    relu: float | None = None
    for count in levels:
        for name in case:
            key = {"model": model, "data": SOURCES[source].title, "levels": count, "case": name, "images": images}
            key |= {"calibration": calibration, "batch_size": batch_size, "fingerprint": fingerprint(ann)}
            key |= {"seed": seed} if name == RECONSTRUCTED else {}
            if any(all(row.get(name) == value for name, value in key.items()) for row in done):
                continue
            relu = accuracy(ann, test) if relu is None else relu
            wall, cpu = time.perf_counter(), time.process_time()
            if name == RECONSTRUCTED:
                qcfs = reconstruct(ann, train, count, augment=SOURCES[source].augment, seed=seed, progress=False)
                snn = convert(qcfs, execution="counts")
            else:
                snn = convert(ann, train, count, execution="counts", calibration=CASES[name], progress=False)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            row = {
                **key,
                "accuracy_relu": round(relu, 4),
                "accuracy_snn": round(accuracy(snn, test), 4),
                "seconds": round(wall, 1),
                "cpu_seconds": round(cpu, 1),
                "command": rows.command("benchmarks.calibration"),
                **rows.environment(),
            }
            rows.append(output, row)
            done.append(row)
    show(done)


def show(done: list[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    table = Table(title="Accuracy after calibration without training", title_justify="left")
    for column in ("model, data", "L", "calibration", "accuracy", "below ReLU", "seconds", "CPU seconds"):
        table.add_column(column, justify="left" if column in ("model, data", "calibration") else "right")
    for row in done:
        table.add_row(
            rows.title(row),
            str(row["levels"]),
            row["case"],
            f"{row['accuracy_snn']:.2f}",
            f"{row['accuracy_relu'] - row['accuracy_snn']:.2f}",
            f"{row['seconds']:.1f}",
            f"{row['cpu_seconds']:.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
