"""Planned against uniform levels at the same mean T, without training, on a whole test set.

    python -m benchmarks.plans --data DIR --weights FILE

For each mean T, strategy and correction: the plan of the front that loses least at that mean, thresholds from the
calibration images, and the accuracy of the QCFS network, which is that of the spiking network converted from it. One
row for each is appended to ``results/plans.jsonl``; what has a row, with the same weights, is not run again, so an
interrupted run resumes.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from torch import nn
from tqdm.auto import tqdm

from benchmarks import rows
from benchmarks.data import SOURCES
from benchmarks.exactness import accuracy, draw_batches
from benchmarks.models.checkpoints import load_relu
from benchmarks.models.pretrained import as_trained
from pascal_ext import LevelPlan, calibrate, pareto, replace_activations
from pascal_ext.activations import qcfs_layers
from pascal_ext.comparison.workload import fingerprint

RESULTS = rows.RESULTS / "plans.jsonl"
STRATEGIES = ("uniform", "sensitivity", "al")
CORRECTIONS = {"none": {}, "bias": {"correct": "bias", "per_channel": "auto"}}


def main(
    data: Annotated[Path, typer.Option(help="ImageFolder tree with train/ and test/, or torchvision's CIFAR folder")],
    weights: Annotated[Path, typer.Option(help="ReLU weights of the model, or IMAGENET1K_V1 ... of torchvision")],
    model: Annotated[str, typer.Option(help="name in benchmarks.models")] = "resnet20",
    source: Annotated[str, typer.Option(help="name in benchmarks.data.SOURCES")] = "cifar10-jpeg",
    strategy: Annotated[list[str], typer.Option(help="may be repeated")] = list(STRATEGIES),
    mean_levels: Annotated[list[int], typer.Option(help="mean T, may be repeated")] = [4, 6, 8],
    correction: Annotated[list[str], typer.Option(help="none, bias; may be repeated")] = ["none", "bias"],
    images: Annotated[int, typer.Option(help="test images")] = 10_000,
    calibration: Annotated[int, typer.Option(help="training images for calibration")] = 1000,
    measured: Annotated[int, typer.Option(help="how many of them plans are measured on")] = 300,
    batch_size: Annotated[int, typer.Option()] = 100,
    output: Annotated[Path, typer.Option(help="file of result rows")] = RESULTS,
) -> None:
    """Plan, calibrate and evaluate each case, append a row, and print the table."""
    ann = load_relu(model, SOURCES[source].classes, weights)
    images_of = as_trained(SOURCES[source], model, weights)
    train = draw_batches(images_of, data, "train", calibration, batch_size)
    test = cache(lambda: draw_batches(images_of, data, "test", images, batch_size))
    front = cache(lambda planner: pareto(ann, train[: -(-measured // batch_size)], planner))
    accuracy_relu = cache(lambda: round(accuracy(ann, test()), 2))
    done = rows.of_weights(output)
    cases = [(mean, how, planner) for mean in mean_levels for how in correction for planner in strategy]
    for mean, how, planner in tqdm(cases, desc="plans"):
        key: dict[str, Any] = {"model": model, "data": SOURCES[source].title, "strategy": planner}
        key |= {"mean_levels": mean, "correction": how, "images": images, "calibration": calibration}
        key |= {"measured": None if planner == "uniform" else measured, "batch_size": batch_size}
        key |= {"fingerprint": fingerprint(ann)}
        if any(all(row.get(name) == value for name, value in key.items()) for row in done):
            continue
        started = time.perf_counter()
        if planner == "uniform":
            plan = LevelPlan.uniform(qcfs_layers(replace_activations(ann)), mean)
        else:
            plan = next(point.plan for point in reversed(front(planner)) if point.cost <= mean + 1e-9)
        planned = time.perf_counter()
        network = quantised(ann, plan, train, **CORRECTIONS[how])
        calibrated = time.perf_counter()
        row = {
            **key,
            "plan": dict(plan),
            "plan_mean": plan.mean_levels,
            "accuracy": round(accuracy(network, test()), 2),
            "accuracy_relu": accuracy_relu(),
            "seconds_front": round(planned - started, 1),  # of a strategy's first row
            "seconds_calibrate": round(calibrated - planned, 1),
            "command": rows.command("benchmarks.plans"),
            **rows.environment(),
        }
        rows.append(output, row)
        done.append(row)
    show(done)


def quantised(ann: nn.Module, plan: LevelPlan, train: list[Any], **options: Any) -> nn.Module:
    """``ann`` with QCFS activations at the plan's levels, calibrated on ``train``."""
    return calibrate(replace_activations(ann, plan), train, **options).eval()


def show(done: list[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    table = Table(title="Plans at equal mean T, without training", title_justify="left")
    for column in ("model, data", "mean T", "correction", *STRATEGIES):
        table.add_column(column, justify="left" if column in ("model, data", "correction") else "right")
    cases = {(rows.title(row), row["mean_levels"], row["correction"]) for row in done}
    for title, mean, how in sorted(cases):
        found = {
            row["strategy"]: f"{row['accuracy']:.2f}"
            for row in done
            if (rows.title(row), row["mean_levels"], row["correction"]) == (title, mean, how)
        }
        table.add_row(title, str(mean), how, *(found.get(strategy, "") for strategy in STRATEGIES))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
