"""An snnTorch user's CNN on the digits of scikit-learn: converted by PASCAL, beside the same net trained directly.

    python -m examples.snntorch_digits

One side trains the network with ReLU, fine-tunes it with QCFS activations and converts it. The other has snnTorch's
Leaky neurons in the place of the ReLUs and is trained through time with a surrogate gradient, as in snnTorch's
tutorials. Both get the same seconds of one processor core, the same data, optimiser and learning rate schedule.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import snntorch as snn
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from snntorch import functional as SF
from snntorch import spikegen, spikeplot, utils
from snntorch.functional import probe
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pascal_ext
from pascal_ext.adapters.snntorch import PascalIF, convert, latency_currents, winner_spikes

matplotlib.use("Agg")
from matplotlib import pyplot as plt

LEVELS = 4  # and timesteps of a layer; the directly trained network gets as many


def cnn(activation: Callable[[], nn.Module]) -> nn.Sequential:
    """The network, [N, 1, 8, 8] -> [N, 10]."""
    return nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1), activation(),
        nn.Conv2d(24, 24, 3, padding=1), activation(),
        nn.AvgPool2d(2),
        nn.Conv2d(24, 48, 3, padding=1), activation(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(48 * 4, 64), activation(),
        nn.Linear(64, 10),
    )  # fmt: skip


class DirectlyTrained(nn.Module):
    """The same layers with leaky neurons that run step by step, and one at the end: [N, 1, 8, 8] -> [T, N, 10]."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.body = cnn(lambda: snn.Leaky(beta=0.9, init_hidden=True))
        self.readout = snn.Leaky(beta=0.9, init_hidden=True)

    def forward(self, images: Tensor) -> Tensor:
        utils.reset(self.body)
        utils.reset(self)
        return torch.stack([self.readout(self.body(images)) for _ in range(self.steps)])


def digits(seed: int) -> tuple[DataLoader[Any], Tensor, Tensor]:
    """Training batches, test images [360, 1, 8, 8] in [0, 1], and their labels."""
    data = load_digits()
    split = train_test_split(data.images / 16, data.target, test_size=360, stratify=data.target, random_state=0)
    train_x, test_x, train_y, test_y = (torch.as_tensor(part) for part in split)
    train = TensorDataset(train_x.float().unsqueeze(1), train_y)
    return DataLoader(train, 64, True, generator=torch.Generator().manual_seed(seed)), test_x.float()[:, None], test_y


def train(
    model: nn.Module, loader: DataLoader[Any], seconds: float, loss_of: Callable[..., Tensor], rate: float
) -> int:
    """Train with Adam until the time is up, the learning rate falling from ``rate`` to 0; returns the steps taken."""
    optimizer = torch.optim.Adam(model.parameters(), rate)
    start, steps = time.process_time(), 0
    model.train()
    while True:
        for images, labels in loader:
            elapsed = (time.process_time() - start) / seconds
            if elapsed >= 1:
                model.eval()
                return steps
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 + math.cos(math.pi * elapsed)) / 2
            optimizer.zero_grad()
            loss_of(model(images), labels).backward()
            optimizer.step()
            steps += 1


@torch.no_grad()
def compare(seconds: float, seed: int, figure: Path | None = None) -> dict[str, Any]:
    """Train and measure both sides, each for ``seconds`` of one core. Accuracies are percentages."""
    torch.manual_seed(seed)
    loader, images, labels = digits(seed)
    row: dict[str, Any] = {"seed": seed, "seconds": seconds, "levels": LEVELS, "test images": len(labels)}

    # PASCAL: ReLU for two thirds of the time, QCFS for the rest; calibration and conversion are on the clock
    ann = cnn(nn.ReLU)
    with torch.enable_grad():
        row["steps ReLU"] = train(ann, loader, seconds * 2 / 3, nn.functional.cross_entropy, 2e-3)
    start = time.process_time()
    qcfs = pascal_ext.calibrate(pascal_ext.replace_activations(ann, LEVELS), loader, progress=False)
    calibration = time.process_time() - start
    untrained = convert(qcfs)
    with torch.enable_grad():
        left = max(seconds / 3 - calibration, 0.1)
        row["steps QCFS"] = train(qcfs, loader, left, nn.functional.cross_entropy, 1e-3)
    start = time.process_time()
    net = convert(qcfs)
    row["seconds PASCAL"] = seconds * 2 / 3 + calibration + left + time.process_time() - start
    row["seconds calibrating"] = calibration
    row["ReLU"] = accuracy(ann(images).unsqueeze(0), labels)
    row["PASCAL without fine-tuning"] = accuracy(untrained(images.unsqueeze(0)), labels)

    # verified: every spike count of every layer, and every prediction
    report = pascal_ext.verify(qcfs, net, [images], progress=False)
    row["exact"], row["predictions that differ"] = report.exact, report.mismatched_predictions
    row["counts that differ"], row["counts"] = report.mismatched_counts, report.compared_counts

    # direct, rate- and latency-coded input
    record = probe.OutputMonitor(net, PascalIF)
    spk_rec = net(images.unsqueeze(0))
    row["PASCAL"] = accuracy(spk_rec, labels)
    row["spikes per image, PASCAL"] = sum(spikes.sum().item() for spikes in record.records) / len(labels)
    record.disable()
    row["PASCAL, winner spikes"] = accuracy(winner_spikes(spk_rec), labels)
    for steps in (8, 32, 128):
        row[f"PASCAL, rate code, T={steps}"] = accuracy(net(spikegen.rate(images, num_steps=steps)), labels)
    coded = spikegen.latency(images, num_steps=16, linear=True, normalize=True)
    row["PASCAL, latency code, T=16"] = accuracy(net(latency_currents(coded)), labels)

    # directly trained, for the same seconds
    torch.manual_seed(seed)
    direct = DirectlyTrained(LEVELS)
    rate_loss = SF.ce_rate_loss()
    start = time.process_time()
    with torch.enable_grad():
        row["steps direct"] = train(direct, loader, seconds, lambda out, y: rate_loss(out, y).sum(), 2e-3)
    row["seconds direct"] = time.process_time() - start
    neurons = probe.OutputMonitor(direct.body, snn.Leaky)
    row["direct"] = accuracy(direct(images), labels)
    row["spikes per image, direct"] = sum(spikes.sum().item() for spikes in neurons.records) / len(labels)
    if figure is not None:
        draw(record, spk_rec, labels, row, figure)
    return row


def accuracy(spk_rec: Tensor, labels: Tensor) -> float:
    return 100 * float(SF.accuracy_rate(spk_rec, labels))


def draw(record: Any, spk_rec: Tensor, labels: Tensor, row: dict[str, Any], path: Path) -> None:
    """Rasters of the first test image, layer by layer, and the accuracies."""
    names = record.monitored_layers
    figure, axes = plt.subplots(1, len(names) + 2, figsize=(13, 3.2), width_ratios=[1] * len(names) + [1, 1.6])
    for axis, name in zip(axes, names, strict=False):
        spikes = record[name][0][:, 0].flatten(1)[:, :96]
        spikeplot.raster(spikes, axis, s=2, c="black")
        axis.set(title=f"layer {name}", xlabel="timestep", xlim=(-0.5, LEVELS - 0.5), xticks=range(LEVELS))
    axes[0].set_ylabel("neuron (first 96)")
    output = axes[len(names)]
    spikeplot.raster(winner_spikes(spk_rec)[:, 0], output, s=12, c="tab:red")
    output.set(title=f"answer ({int(labels[0])})", xlabel="timestep", ylim=(-0.5, 9.5), yticks=range(10))
    bars = {"ReLU": row["ReLU"], f"PASCAL\nT={LEVELS}": row["PASCAL"], f"direct\nT={LEVELS}": row["direct"]}
    axes[-1].bar(list(bars), list(bars.values()), color=["tab:gray", "tab:blue", "tab:orange"])
    axes[-1].set(title="test accuracy", ylim=(min(bars.values()) - 2, 100.5), ylabel="%")
    axes[-1].bar_label(axes[-1].containers[0], fmt="%.1f")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    torch.set_num_threads(1)  # a network this small gains nothing from more
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30, help="training time of each side")
    parser.add_argument("--seeds", type=int, default=1, help="how many runs, with seeds 0, 1, ...")
    parser.add_argument("--figure", type=Path, default=Path("snntorch_digits.png"), help="the plot of the first run")
    parser.add_argument("--results", type=Path, help="append the rows to this file of JSON lines")
    options = parser.parse_args()
    for seed in range(options.seeds):
        row = compare(options.seconds, seed, options.figure if seed == 0 else None)
        for name, value in row.items():
            print(f"{name:28} {value:.2f}" if isinstance(value, float) else f"{name:28} {value}")
        if options.results:
            from benchmarks import rows

            rows.append(
                options.results, {**row, "command": rows.command("examples.snntorch_digits"), **rows.environment()}
            )
    print(f"plot: {options.figure}")


if __name__ == "__main__":
    main()
