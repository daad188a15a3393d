"""The demo from beginning to end: train, convert, fine-tune, convert through SpikingJelly, verify, compare, report."""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
import platform
import sys
from collections.abc import Sized
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from torch import nn

from pascal_ext import __version__
from pascal_ext.activations import replace_activations
from pascal_ext.adapters.spikingjelly import compat, registration, stock
from pascal_ext.calibration.thresholds import calibrate
from pascal_ext.conversion.convert import convert
from pascal_ext.demo import text
from pascal_ext.demo.measure import Measure
from pascal_ext.demo.model import DigitsResNet
from pascal_ext.demo.training import digits, train
from pascal_ext.errors import InvalidArgumentError
from pascal_ext.extras import require
from pascal_ext.network.spiking_network import SpikingNetwork
from pascal_ext.plan import LevelPlan
from pascal_ext.reports.report import Layer, Method, Point, Raster, Report
from pascal_ext.verification.recording import mean_spikes, spike_trains
from pascal_ext.verification.results import VerificationReport
from pascal_ext.verification.verify import verify

#: Levels by hand: four where the residual stream is written, two inside the blocks.
PLAN = LevelPlan(
    {f"block{block}.relu{index}": 2 * index for block in (1, 2, 3) for index in (1, 2)} | {"relu": 4},
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the demo does; the defaults take about half a minute on two cores."""

    seed: int = 0
    width: int = 16
    epochs: int = 15
    tune_epochs: int = 8
    training_free: tuple[int, ...] = (2, 4, 8)
    tuned: tuple[int | LevelPlan, ...] = (2, PLAN, 4)
    timesteps: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)


def run_demo(output: Path, settings: Settings = Settings(), console: Console | None = None) -> Report:
    """Run the demo and write ``report.html`` and ``report.json`` into the folder ``output``.

    Args:
        output: made where it is missing.
        settings: see :class:`Settings`.
        console: where the progress goes; standard output where none is given.

    Returns:
        The report; :func:`pascal_ext.demo.text.table` prints it.

    Raises:
        InvalidArgumentError: ``output`` cannot be a folder.
        MissingExtraError: scikit-learn, matplotlib or jinja2 is not installed.
    """
    for needed in ("matplotlib", "jinja2"):  # now, rather than after the work
        require(needed, extra="report")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgumentError(f"output={str(output)!r} cannot be a folder: {error}") from error
    columns = (
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}"),
        BarColumn(24),
        TimeElapsedColumn(),
        TextColumn("[bold]{task.fields[result]}"),
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the layers are tiny: more threads wait for each other, much longer on a busy machine
    try:
        with registration.registered(), Progress(*columns, console=console) as progress:
            report = _Run(settings, progress).report()
    finally:
        torch.set_num_threads(threads)
    report.to_json(output / "report.json")
    report.to_html(output / "report.html")
    return report


class _Run:
    """One run: what the steps share."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self.settings = settings
        self.progress = progress
        self.train_loader, self.test = digits(settings.seed)
        self.verified: list[VerificationReport] = []

    def report(self) -> Report:
        torch.manual_seed(self.settings.seed)
        ann = self._train_ann()
        self.measure = Measure(ann, self.test)
        converted = [self._training_free(ann, levels) for levels in self.settings.training_free]
        tuned = [self._fine_tuned(ann, levels) for levels in self.settings.tuned]
        focus_point, focus = max(tuned, key=lambda pair: (len(set(pair[1].plan.values())), pair[1].plan.mean_levels))
        methods = [
            *(self._stock(ann, name) for name in stock.STOCK_METHODS),
            Method("PASCAL, training-free", "converted", tuple(point for point, _ in converted)),
            Method("PASCAL, fine-tuned", "tuned", tuple(point for point, _ in tuned)),
        ]
        train = cast(Sized, self.train_loader.dataset)  # torch's Dataset promises no length; this one has it
        return Report(
            title="Handwritten digits, from ReLU to spikes",
            summary=text.summary(len(train), len(self.measure.targets)),
            samples=len(self.measure.targets),
            ann_accuracy=self.measure.ann_accuracy,
            methods=tuple(methods),
            focus=f"PASCAL, fine-tuned, {focus_point.label}",
            layers=self._layers(focus),
            raster=self._raster(focus),
            figures_of_merit=text.figures_of_merit(
                self.measure.ann_accuracy, focus_point, self.verified, self._counts_ratio(focus)
            ),
            notes=text.notes(methods, self.measure.ann_accuracy, len(self.measure.targets)),
            facts=_facts(self.settings),
        )

    def _step(self, description: str, total: int) -> TaskID:
        return self.progress.add_task(description, total=total, result="")

    def _done(self, step: TaskID, accuracy: float) -> None:
        total = self.progress.tasks[step].total
        self.progress.update(step, completed=total, result=f"{accuracy:.2f}%")

    def _train_ann(self) -> nn.Module:
        ann = DigitsResNet(self.settings.width)
        step = self._step("Train a residual network with ReLU", self.settings.epochs * len(self.train_loader))
        train(ann, self.train_loader, self.settings.epochs, 1e-2, on_batch=lambda: self.progress.advance(step))
        self._done(step, Measure(ann, self.test).ann_accuracy)
        return ann

    def _training_free(self, ann: nn.Module, levels: int) -> tuple[Point, SpikingNetwork]:
        step = self._step(f"Convert it without training, L = {levels}", 1)
        snn = convert(ann, self.train_loader, levels, progress=False)
        return self._verified(step, f"L = {levels}", ann, snn), snn

    def _fine_tuned(self, ann: nn.Module, levels: int | LevelPlan) -> tuple[Point, SpikingNetwork]:
        label = (
            f"L = {levels}" if isinstance(levels, int) else "L = " + " and ".join(map(str, sorted({*levels.values()})))
        )
        step = self._step(f"Fine-tune with QCFS, {label}", self.settings.tune_epochs * len(self.train_loader) + 1)
        qcfs = replace_activations(ann, levels)
        calibrate(qcfs, self.train_loader, progress=False)
        advance = functools.partial(self.progress.advance, step)
        train(qcfs, self.train_loader, self.settings.tune_epochs, 2e-3, teacher=ann, on_batch=advance)
        snn = stock.convert_by_mode(qcfs, None, "pascal")
        assert isinstance(snn, SpikingNetwork)
        return self._verified(step, label, qcfs, snn), snn

    def _verified(self, step: TaskID, label: str, ann: nn.Module, snn: SpikingNetwork) -> Point:
        found = verify(ann, snn, self.test, progress=False)
        self.verified.append(found)
        point = self.measure.spiking(label, snn, found.mismatched_predictions)
        self._done(step, point.accuracy)
        return point

    def _stock(self, ann: nn.Module, name: str) -> Method:
        step = self._step(f"SpikingJelly {name}, T = {max(self.settings.timesteps)}", len(self.test) + 1)
        network = stock.convert_stock(ann, self.train_loader, name)
        points = self.measure.stock(network, self.settings.timesteps, lambda: self.progress.advance(step))
        self._done(step, points[-1].accuracy)
        return Method(f"SpikingJelly {name}", "stock", points)

    def _layers(self, snn: SpikingNetwork) -> tuple[Layer, ...]:
        spikes = mean_spikes(snn, self.test)
        return tuple(Layer(name, levels, spikes[name]) for name, levels in snn.plan.items())

    def _raster(self, snn: SpikingNetwork) -> Raster:
        images, labels = self.test[0]
        with torch.no_grad():
            answer = int(snn(images[:1]).argmax())
        label = f"a {int(labels[0])}, read as {answer}"
        return Raster(spike_trains(snn, images[:1]), images[0, 0].tolist(), label)

    def _counts_ratio(self, snn: SpikingNetwork) -> float:
        snn = copy.deepcopy(snn)
        snn.execution = "counts"
        return self.measure.seconds(snn) / self.measure.ann_seconds


def _facts(settings: Settings) -> dict[str, Any]:
    versions = {"pascal-ext": __version__, "spikingjelly": compat.VERSION, "torch": torch.__version__}
    return {
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"Python {sys.version.split()[0]}",
        "settings": ", ".join(
            f"{name} {value}" for name, value in dataclasses.asdict(settings).items() if name != "tuned"
        ),
        "again": "pascal-ext demo",
    }
