"""The demo, shrunk: a real run with everything in it, and what its sentences are computed from."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

pytest.importorskip("sklearn", reason="the demo's data comes with scikit-learn")

from pascal_ext.activations import qcfs_layers, replace_activations
from pascal_ext.adapters.spikingjelly import stock
from pascal_ext.adapters.spikingjelly.compat import Converter
from pascal_ext.demo import Settings, run_demo, text
from pascal_ext.demo.model import DigitsResNet
from pascal_ext.demo.run import PLAN
from pascal_ext.demo.training import digits, shifted
from pascal_ext.reports.report import Report

SHRUNK = Settings(width=8, epochs=3, tune_epochs=2, training_free=(4,), tuned=(2, PLAN), timesteps=(1, 4, 16))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path, str]:
    """(report, folder, what the progress printed) of one run."""
    folder = tmp_path_factory.mktemp("demo") / "output"
    printed = io.StringIO()
    return run_demo(folder, SHRUNK, Console(file=printed, width=100)), folder, printed.getvalue()


def test_every_step_was_run_and_told(run: tuple[Report, Path, str]) -> None:
    report, _, printed = run
    assert [method.kind for method in report.methods] == ["stock"] * len(stock.STOCK_METHODS) + ["converted", "tuned"]
    assert [[point.label for point in method.points] for method in report.methods[-2:]] == [
        ["L = 4"], ["L = 2", "L = 2 and 4"],
    ]  # fmt: skip
    assert all([point.timesteps for point in method.points] == [1, 4, 16] for method in report.methods[:-2])
    for told in (
        "Train a residual network",
        "without training, L = 4",
        "Fine-tune with QCFS, L = 2",
        *stock.STOCK_METHODS,
    ):
        assert told in printed


def test_what_was_measured_makes_sense(run: tuple[Report, Path, str]) -> None:
    report, _, _ = run
    ours = [point for method in report.methods[-2:] for point in method.points]
    assert report.samples == 360
    assert report.ann_accuracy > 85
    assert all(point.mismatched == 0 for point in ours)
    assert all(point.accuracy > 80 for point in ours)
    for method in report.methods[:-2]:
        assert method.points[-1].accuracy > method.points[0].accuracy
        assert method.points[-1].time_ratio > method.points[0].time_ratio
    assert {layer.name: layer.levels for layer in report.layers} == dict(PLAN)
    assert all(0 < layer.mean_spikes < layer.levels for layer in report.layers)


def test_the_files_and_the_table(run: tuple[Report, Path, str]) -> None:
    report, folder, _ = run
    assert Report.from_json(folder / "report.json") == report
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 3
    console = Console(file=io.StringIO(), width=80)
    console.print(text.table(report))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    rows = sum(len(method.points) for method in report.methods)
    assert sum("%" in line for line in lines) >= rows + 1


def test_the_converter_and_the_threads_are_left_as_they_were(run: tuple[Report, Path, str]) -> None:
    assert not hasattr(Converter.__init__, "__wrapped__")
    assert torch.get_num_threads() == 1  # of the tests


def test_the_plan_names_the_layers_of_the_model() -> None:
    PLAN.check_layers(qcfs_layers(replace_activations(DigitsResNet())))


def test_the_split_is_fixed_and_stratified() -> None:
    first, again = digits(0), digits(1)
    assert len(first[0].dataset) == 1437
    labels = torch.cat([labels for _, labels in first[1]])
    assert labels.bincount().tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first[1], again[1], strict=True))
    images = first[1][0][0]
    assert images.shape == (60, 1, 8, 8)
    assert 0 <= float(images.min()) < float(images.max()) <= 1


def test_shifted_images_keep_their_shape_and_content() -> None:
    image = torch.zeros(2, 1, 8, 8)
    image[:, :, 4, 4] = 1
    for _ in range(20):
        moved = shifted(image)
        assert moved.shape == image.shape
        _, _, rows, columns = moved.nonzero(as_tuple=True)
        assert set((rows - 4).abs().tolist()) | set((columns - 4).abs().tolist()) <= {0, 1}
        assert moved.sum() == 2


def test_wilson_interval_against_known_values() -> None:
    low, high = text.wilson_interval(0.5, 100)
    assert low == pytest.approx(0.4038, abs=1e-4)
    assert high == pytest.approx(0.5962, abs=1e-4)
    low, high = text.wilson_interval(1.0, 360)
    assert low == pytest.approx(0.98944, abs=1e-4)
    assert high == pytest.approx(1.0)
