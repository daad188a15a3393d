"""The comparison on scikit-learn's digits: rows make sense, resume, and are all that a report needs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.compare import __main__ as cli
from benchmarks.compare import workload
from benchmarks.compare.suites import SUITES
from benchmarks.models.cifar_resnet import CifarResNet
from benchmarks.rows import read
from pascal_ext.comparison import curves, runner
from pascal_ext.comparison.measure import Measurement
from pascal_ext.comparison.methods import METHODS
from pascal_ext.comparison.timing import Device
from pascal_ext.comparison.workload import fingerprint

T = 32
CHOSEN = "sj-99.9 sj-channel sj-channel-delayed sj-ltb qcfs-if srp cos pascal-free-4 pascal-free-16 pascal".split()
RUN = ["run", "digits", "--timesteps", str(T), *(word for name in CHOSEN for word in ("--method", name))]


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sklearn")
    path = tmp_path_factory.mktemp("compare") / "rows.jsonl"
    torch.manual_seed(0)
    invoke(*RUN, "--output", str(path))
    return path


@pytest.fixture(scope="module")
def comparison(rows_file: Path) -> curves.Comparison:
    (found,) = curves.comparisons(json.loads(line) for line in rows_file.read_text().splitlines())
    return found


@pytest.fixture(scope="module")
def found(comparison: curves.Comparison) -> dict[str, curves.Curve]:
    return {curve.method.name: curve for curve in comparison.curves}


def test_every_method_has_its_rows(found: dict[str, curves.Curve], comparison: curves.Comparison) -> None:
    assert list(found) == [name for name in METHODS if name in CHOSEN]
    assert comparison.ann_accuracy > 95
    for curve in found.values():
        assert curve.images == 360
        for point in curve.points:
            assert point.low <= point.accuracy <= point.high
            assert point.latency >= point.per_layer >= point.timesteps >= 1
            assert point.time_ratio > 0
            assert (point.counts_time_ratio is not None) == (curve.method.family == "pascal")
            assert point.joules is not None
            assert point.joules > 0
        assert [point.joules for point in curve.points] == sorted(point.joules for point in curve.points)


def test_rate_coding_gets_better_with_time(found: dict[str, curves.Curve], comparison: curves.Comparison) -> None:
    for name in ("sj-99.9", "sj-channel", "sj-ltb", "qcfs-if"):
        early, middle, late = (found[name].at(step) for step in (1, 8, T))
        assert early.accuracy < middle.accuracy <= late.accuracy + 1
        assert late.changed < middle.changed + 1 < early.changed
    assert found["sj-channel"].at(T).accuracy > comparison.ann_accuracy - 2
    assert found["sj-channel"].within(2).timesteps > found["pascal"].within(2).timesteps


def test_pascal_is_its_network(found: dict[str, curves.Curve]) -> None:
    for name in ("pascal", "pascal-free-4", "pascal-free-16"):
        (point,) = found[name].points
        assert point.mismatched == 0
        assert point.accuracy == found[name].source_accuracy
        assert point.latency > point.timesteps
        assert found[name].effective_timesteps > point.timesteps
    assert found["pascal-free-16"].points[0].changed <= found["pascal-free-4"].points[0].changed


def test_extra_steps_are_counted(found: dict[str, curves.Curve]) -> None:
    plain, srp, cos = (found[name].at(4) for name in ("qcfs-if", "srp", "cos"))
    assert (plain.per_layer, srp.per_layer, cos.per_layer) == (4, 8, 8)
    assert (plain.latency, srp.latency, cos.latency) == (4, 8, 7 * 4 + 4)  # 7 activations, one after the other
    for point in (srp, cos):
        assert point.accuracy >= plain.accuracy
        assert point.synaptic_operations > 1.5 * plain.synaptic_operations


def test_delayed_readout_is_another_mean_of_the_same_outputs(found: dict[str, curves.Curve]) -> None:
    plain, delayed = found["sj-channel"], found["sj-channel-delayed"]
    assert [point.joules for point in plain.points] == [point.joules for point in delayed.points]
    assert [point.accuracy for point in plain.points] != [point.accuracy for point in delayed.points]


def test_rows_that_exist_are_not_measured_again(
    rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = rows_file.read_text().splitlines()
    interrupted = tmp_path / "rows.jsonl"
    interrupted.write_text("\n".join(complete[:-1]) + "\n")
    measured: list[str] = []
    for name in ("rows", "costs"):
        original = getattr(Measurement, name)

        def noted(self: Any, methods: Any, *rest: Any, original: Any = original) -> Any:
            measured.extend(method.name for method in (methods if isinstance(methods, list) else [methods]))
            return original(self, methods, *rest)

        monkeypatch.setattr(Measurement, name, noted)
    invoke(*RUN, "--output", str(interrupted))
    last = json.loads(complete[-1])
    assert measured == [last["method"]]
    again = json.loads(interrupted.read_text().splitlines()[-1])
    same = [name for name in last if not name.endswith("seconds") and name not in ("time", "commit")]
    assert {name: again[name] for name in same} == {name: last[name] for name in same}


def test_a_row_tells_how_to_make_it_again(rows_file: Path) -> None:
    for row in map(json.loads, rows_file.read_text().splitlines()):
        assert row["command"] == f"python -m benchmarks.compare run digits --timesteps {T} --method {row['method']}"
        assert {"versions", "hardware", "commit", "time", "seed"} <= row.keys()


def test_the_command_of_a_row_makes_that_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr(workload.training, "train", lambda *_, **__: None)
    options = "--images 100 --shard 90 --batch-size 45 --seed 3 --measure accuracy --method pascal-free-4".split()
    invoke("run", "digits", *options, "--output", str(tmp_path / "rows.jsonl"))
    made = read(tmp_path / "rows.jsonl")
    assert [row["shard"] for row in made] == [0, 1]
    _, command = made[0]["command"].split("benchmarks.compare ")
    invoke(*command.split(), "--output", str(tmp_path / "again.jsonl"))
    again = read(tmp_path / "again.jsonl")
    assert [row | {"time": ""} for row in again] == [row | {"time": ""} for row in made]


def test_a_report_needs_rows_alone(rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jinja2")
    monkeypatch.setattr(runner, "Measurement", None)
    for folder in ("one", "two"):
        invoke("report", "--rows", str(rows_file), "--output", str(tmp_path / folder))
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert {"report.html", "points.csv", "tables.md", "digits-digits-steps.png", "digits-digits-energy.svg"} <= names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    page = (tmp_path / "one" / "report.html").read_text()
    assert all(METHODS[name].title in page for name in CHOSEN)
    assert not re.search(r'(?:src|href)="(?!#)', page)  # nothing to load
    assert "prefers-color-scheme: dark" in page
    lines = (tmp_path / "one" / "points.csv").read_text().splitlines()
    assert len(lines) == 1 + 7 * T + 3


def test_a_report_of_accuracies_alone(rows_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    rows = [line for line in rows_file.read_text().splitlines(keepends=True) if json.loads(line)["shard"] is not None]
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    invoke("report", "--rows", str(tmp_path / "rows.jsonl"), "--output", str(tmp_path))
    assert {path.stem for path in tmp_path.glob("*.png")} == {"digits-digits-steps"}
    assert "simulation time, relative" not in (tmp_path / "report.html").read_text()


def test_accuracy_and_costs_can_be_measured_apart(rows_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    chosen = [word for name in ("sj-channel", "pascal") for word in ("--method", name)]
    run = ["run", "digits", "--timesteps", str(T), *chosen, "--output", str(path)]
    invoke(*run, "--measure", "accuracy", "--shard", "100", "--batch-size", "50")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["method"], row["shard"]) for row in rows] == [
        (name, shard) for shard in range(4) for name in ("sj-channel", "pascal")
    ]
    assert not any("seconds" in row for row in rows)
    invoke(*run, "--measure", "costs")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["method"], row["shard"]) for row in rows[8:]] == [("sj-channel", None), ("pascal", None)]
    assert "--measure costs" in rows[8]["command"]
    assert "--shard 100 --measure accuracy" in rows[0]["command"]
    invoke(*run, "--shard", "100")  # all there
    assert len(path.read_text().splitlines()) == len(rows)
    all_at_once = [json.loads(line) for line in rows_file.read_text().splitlines()]
    for apart in curves.comparisons(rows)[0].curves:
        (same,) = (curve for curve in curves.comparisons(all_at_once)[0].curves if curve.method == apart.method)
        assert (apart.images, apart.ann_accuracy) == (same.images, same.ann_accuracy)
        assert [point.joules for point in apart.points] == [point.joules for point in same.points]


def test_only_test_images_are_cut_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr(workload.training, "train", lambda *_, **__: None)
    suite = SUITES["digits"]
    made = workload.digits("digits", suite, workload.layout(suite, Device.CPU, 70, 150), 0)
    cut = [[len(labels) for _, labels in made.shard(index)] for index in made.pieces()]
    assert cut == [[70, 50], [70, 50], [70, 50]]
    assert [len(labels) for _, labels in made.sample()] == [60] * 6
    assert [len(labels) for _, labels in made.calibration] == [60] * 23 + [57]


@pytest.mark.gpu
def test_a_gpu_gives_the_accuracy_of_a_cpu(rows_file: Path, found: dict[str, curves.Curve], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    invoke(*RUN, "--device", "cuda", "--output", str(path))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == len(rows_file.read_text().splitlines())
    assert {row["device"] for row in rows} == {"cuda"}
    (comparison,) = curves.comparisons(rows)
    assert comparison.accuracy_on == comparison.time_on == (torch.cuda.get_device_name(0),)
    for curve in comparison.curves:
        here, there = curve.points[-1], found[curve.method.name].points[-1]
        assert abs(here.accuracy - there.accuracy) < 1
        assert here.mismatched == there.mismatched or curve.method.family == "rate"
        assert here.joules == pytest.approx(there.joules, rel=0.02)


def test_mistakes_are_told() -> None:
    for arguments, message in {
        ("run", "mnist"): "there is no suite 'mnist'",
        ("run", "digits", "--method", "magic"): "there is no method 'magic'",
        ("run", "cifar10"): "needs --data and --weights",
        **({} if torch.cuda.is_available() else {("run", "digits", "--device", "cuda"): "finds no CUDA device"}),
        ("run", "cifar10", "--data", ".", "--weights", "x", "--checkpoint", "u4"): "not of the form NAME=FILE",
        ("report", "--rows", "nothing.jsonl"): "there are no rows",
    }.items():
        result = CliRunner().invoke(cli.app, list(arguments))
        assert result.exit_code == 1
        assert message in result.output


def test_fingerprints_tell_networks_apart() -> None:
    model = CifarResNet(1)
    before = fingerprint(model)
    assert fingerprint(workload.fast(model)) == before
    with torch.no_grad():
        model.linear.bias[3] += 1e-6
    assert fingerprint(model) != before


def test_plain_shortcuts_are_the_same_numbers() -> None:
    model, images = CifarResNet(1).eval(), torch.randn(3, 3, 32, 32)
    plain = workload.with_plain_shortcuts(model)
    assert sum(getattr(module, "moves_only", False) for module in plain.modules()) == 2
    assert torch.equal(plain(images), model(images))


def test_the_suites_networks_and_data_exist() -> None:
    from benchmarks import data, models

    for suite in SUITES.values():
        assert not suite.dataset or suite.dataset in data.SOURCES
        assert suite.model in models.MODELS or suite.model == "digits" or suite.model.startswith("torchvision.")
