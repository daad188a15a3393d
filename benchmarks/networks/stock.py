"""A trained ResNet-20: the time of a whole test set, PASCAL against SpikingJelly's strongest stock conversion.

    python -m benchmarks.networks.stock --data DIR --weights FILE

Both are converted without training, from the same calibration images. The stock network is stepped T times; ours is run
at L levels, in spikes and in counts. Accuracies are measured on a part of the test images, times on one batch of them,
in turn, and stated for the 10,000 of the test set, which is what every batch costs, times their number. One row for
each pair (T, L) is appended to ``results/stock.jsonl``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn
from tqdm import tqdm

from benchmarks import rows
from benchmarks.compare.workload import with_plain_shortcuts
from benchmarks.data import SOURCES
from benchmarks.exactness import accuracy, draw_batches
from benchmarks.models.checkpoints import load_relu
from benchmarks.models.pretrained import as_trained
from pascal_ext import SpikingNetwork, calibrate, convert, replace_activations
from pascal_ext.adapters.spikingjelly import stock
from pascal_ext.comparison.timing import interleave

RESULTS = rows.RESULTS / "stock.jsonl"
METHOD = "channel-wise"  # the strongest of SpikingJelly 2's
TEST_SET = 10_000


def main(
    data: Annotated[Path, typer.Option(help="ImageFolder tree with train/ and test/, or torchvision's CIFAR folder")],
    weights: Annotated[Path, typer.Option(help="ReLU weights of the model, or IMAGENET1K_V1 ... of torchvision")],
    model: Annotated[str, typer.Option(help="name in benchmarks.models")] = "resnet20",
    source: Annotated[str, typer.Option(help="name in benchmarks.data.SOURCES")] = "cifar10-jpeg",
    levels: Annotated[list[int], typer.Option(help="levels, may be repeated")] = [4, 8, 16],
    timesteps: Annotated[list[int], typer.Option(help="steps of the stock network")] = [64, 128],
    images: Annotated[int, typer.Option(help="test images for the accuracy")] = 500,
    calibration: Annotated[int, typer.Option(help="training images for calibration")] = 1000,
    batch_size: Annotated[int, typer.Option()] = 50,
    rounds: Annotated[int, typer.Option(help="measurements of each")] = 3,
    output: Annotated[Path, typer.Option(help="file of result rows")] = RESULTS,
) -> None:
    """Measure, append rows and print a table."""
    torch.set_num_threads(1)
    ann = load_relu(model, SOURCES[source].classes, weights)
    images_of = as_trained(SOURCES[source], model, weights)
    train = draw_batches(images_of, data, "train", calibration, batch_size)
    test = draw_batches(images_of, data, "test", images, batch_size)
    theirs = stock.convert_stock(with_plain_shortcuts(ann), train, METHOD)
    ours = {level: _convert(ann, train, level) for level in levels}
    x = test[0][0]
    with torch.inference_mode():
        calls: dict[str, Callable[[], Any]] = {"relu": lambda: ann(x)}
        for level, snn in ours.items():
            for execution in ("spikes", "counts"):
                calls[f"{execution} {level}"] = _runs(snn, execution, x)
        for steps in timesteps:
            calls[f"stock {steps}"] = functools.partial(_present, theirs, x, steps)
        times = interleave(calls, rounds, label="time")
        right = {f"stock {steps}": value for steps, value in _stock_accuracy(theirs, test, timesteps).items()}
        right |= {f"ours {level}": accuracy(snn, test) for level, snn in ours.items()}  # in counts, as just run
    found = []
    for steps in timesteps:
        for level in levels:
            names = {"stock": f"stock {steps}", "spikes": f"spikes {level}", "counts": f"counts {level}"}
            found.append({
                "model": model, "data": SOURCES[source].title, "method": METHOD, "timesteps": steps, "levels": level,
                "accuracy": {"stock": right[f"stock {steps}"], "ours": right[f"ours {level}"],
                             "relu": accuracy(ann, test)},
                "images": images,
                "seconds_of_test_set": {
                    key: round(times.seconds(name) / len(x) * TEST_SET, 1)
                    for key, name in {**names, "relu": "relu"}.items()
                },
                "speedup": {key: times.ratio(names["stock"], names[key]) for key in ("spikes", "counts")},
                "rounds": rounds, "command": rows.command("benchmarks.networks.stock"), **rows.environment(),
            })  # fmt: skip
            rows.append(output, found[-1])
    show(found)


def _convert(ann: nn.Module, train: list[Any], levels: int) -> SpikingNetwork:
    qcfs = replace_activations(ann, levels)
    return convert(calibrate(qcfs, train, correct="bias", per_channel="auto", progress=False), progress=False)


def _runs(snn: SpikingNetwork, execution: str, x: torch.Tensor) -> Callable[[], Any]:
    def run() -> Any:
        snn.execution = execution
        return snn(x)

    return run


def _present(network: nn.Module, x: torch.Tensor, steps: int) -> None:
    for _ in stock.running_mean(network, x, steps):
        pass


def _stock_accuracy(network: nn.Module, test: list[Any], timesteps: list[int]) -> dict[int, float]:
    """Percentage of right answers after each of ``timesteps``."""
    right = dict.fromkeys(timesteps, 0)
    for x, target in tqdm(test, desc="stock accuracy"):
        for step, mean in enumerate(stock.running_mean(network, x, max(timesteps)), start=1):
            if step in right:
                right[step] += int((mean.argmax(1) == target).sum())
    return {step: 100 * count / sum(len(target) for _, target in test) for step, count in right.items()}


def show(found: list[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    table = Table(title="Seconds for the test set; how many times faster than stock", title_justify="left")
    for column in (
        "T",
        "L",
        "accuracy: stock",
        "ours",
        "seconds: stock",
        "spikes",
        "counts",
        "ReLU",
        "spikes ×",
        "counts ×",
    ):
        table.add_column(column, justify="right")
    for row in found:
        seconds, right = row["seconds_of_test_set"], row["accuracy"]
        table.add_row(
            str(row["timesteps"]), str(row["levels"]), f"{right['stock']:.1f}", f"{right['ours']:.1f}",
            *(f"{seconds[key]:.0f}" for key in ("stock", "spikes", "counts", "relu")),
            *(f"{row['speedup'][key]['wall']:.1f}" for key in ("spikes", "counts")),
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
