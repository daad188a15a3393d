"""Are the spikes those of the QCFS network? A trained CIFAR ResNet, converted without training, on a whole test set.

    python -m benchmarks.exactness --data DIR --weights FILE

For each number of levels: the accuracy of the ReLU network, of its QCFS twin and of the spiking network, and, over all
test images, the predictions and spike counts that differ, in both executions. One row for each is appended to
``results/exactness.jsonl``; what has a row, with the same weights, is not run again, so an interrupted run resumes.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import rows
from benchmarks.data import SOURCES, Source, length, read
from benchmarks.models.checkpoints import load_relu
from benchmarks.models.pretrained import as_trained
from pascal_ext import SpikingNetwork, convert, verify
from pascal_ext.comparison.workload import fingerprint
from pascal_ext.data import split_batch

RESULTS = rows.RESULTS / "exactness.jsonl"


def main(
    data: Annotated[Path, typer.Option(help="ImageFolder tree with train/ and test/, or torchvision's CIFAR folder")],
    weights: Annotated[Path, typer.Option(help="ReLU weights of the model, or IMAGENET1K_V1 ... of torchvision")],
    model: Annotated[str, typer.Option(help="name in benchmarks.models")] = "resnet20",
    source: Annotated[str, typer.Option(help="name in benchmarks.data.SOURCES")] = "cifar10-jpeg",
    levels: Annotated[list[int], typer.Option(help="levels, may be repeated")] = [8, 16, 32],
    images: Annotated[int, typer.Option(help="test images")] = 10_000,
    calibration: Annotated[int, typer.Option(help="training images for calibration")] = 1000,
    batch_size: Annotated[int, typer.Option()] = 100,
    settle_ties: Annotated[bool, typer.Option(help="off: how the spikes differ without it")] = True,
    output: Annotated[Path, typer.Option(help="file of result rows")] = RESULTS,
) -> None:
    """Convert at each number of levels and execution, verify, append a row, and print the table."""
    ann = load_relu(model, SOURCES[source].classes, weights)
    images_of = as_trained(SOURCES[source], model, weights)
    train = draw_batches(images_of, data, "train", calibration, batch_size)
    test = draw_batches(images_of, data, "test", images, batch_size)
    done = rows.of_weights(output)
    for count in levels:
        snn: SpikingNetwork | None = None
        for execution in ("spikes", "counts"):
            key = {
                "model": model,
                "data": SOURCES[source].title,
                "levels": count,
                "execution": execution,
                "images": images,
            }
            key |= {"calibration": calibration, "batch_size": batch_size, "fingerprint": fingerprint(ann)}
            key |= {} if settle_ties else {"settle_ties": False}
            if any(all(row.get(name) == key.get(name) for name in {*key, "settle_ties"}) for row in done):
                continue
            snn = snn or convert(ann, train, count)
            snn.execution, snn.settle_ties = execution, settle_ties
            started = time.perf_counter()
            report = verify(ann, snn, test)
            row = {
                **key,
                "predictions_differ": report.mismatched_predictions,
                "counts_differ": report.mismatched_counts,
                "counts_compared": report.compared_counts,
                "ties": report.ties,
                "max_abs_error": report.max_abs_error,
                "accuracy_relu": round(accuracy(ann, test), 4),
                "accuracy_snn": round(accuracy(snn, test), 4) if execution == "counts" else None,
                "seconds": round(time.perf_counter() - started, 1),
                "command": rows.command("benchmarks.exactness"),
                **rows.environment(),
            }
            rows.append(output, row)
            done.append(row)
    show(done)


def accuracy(model: torch.nn.Module, test: list[Any]) -> float:
    """Percentage of samples whose label is the argmax."""
    right = total = 0
    with torch.inference_mode():
        for batch in test:
            args, kwargs, target = split_batch(batch)
            right += int((model(*args, **kwargs).argmax(1) == target).sum())
            total += len(target)
    return 100 * right / total


def show(done: list[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    table = Table(title="Spikes and counts against the QCFS network", title_justify="left")
    for column in ("model, data", "L", "execution", "accuracy", "predictions differ", "counts differ", "ties"):
        table.add_column(column, justify="left" if column == "model, data" else "right")
    for row in done:
        table.add_row(
            rows.title(row),
            str(row["levels"]),
            row["execution"],
            "" if row["accuracy_snn"] is None else f"{row['accuracy_snn']:.2f} (ReLU {row['accuracy_relu']:.2f})",
            f"{row['predictions_differ']} of {row['images']:,}",
            f"{row['counts_differ']:,} of {row['counts_compared']:.2e}",
            f"{row['ties']:,}" if row.get("settle_ties", True) else "not settled",
        )
    Console().print(table)


def draw_batches(
    source: Source, data: Path, split: str, count: int, size: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """``count`` images drawn at random with seed 0, normalised."""
    dataset = read(source, data, split)
    order = torch.randperm(length(dataset), generator=torch.Generator().manual_seed(0))[:count]
    batches = []
    for start in range(0, count, size):
        pairs = [dataset[int(index)] for index in order[start : start + size]]
        images = source.normalise(torch.stack([image for image, _ in pairs]))
        batches.append((images, torch.as_tensor([int(label) for _, label in pairs])))
    return batches


if __name__ == "__main__":
    typer.run(main)
