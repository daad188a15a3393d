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
from benchmarks.compare import conversions, curves, workload
from benchmarks.compare.measure import Measurement
from benchmarks.compare.memory import peak_bytes
from benchmarks.compare.registry import METHODS, SUITES
from benchmarks.models.cifar_resnet import CifarResNet

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
    (found,) = curves.compare(json.loads(line) for line in rows_file.read_text().splitlines())
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
    same = [name for name in last if name not in ("seconds", "ann_seconds", "time", "commit")]
    assert {name: again[name] for name in same} == {name: last[name] for name in same}


def test_a_row_tells_how_to_make_it_again(rows_file: Path) -> None:
    for row in map(json.loads, rows_file.read_text().splitlines()):
        assert row["command"] == f"python -m benchmarks.compare run digits --timesteps {T} --method {row['method']}"
        assert {"versions", "hardware", "commit", "time", "seed"} <= row.keys()


def test_a_report_needs_rows_alone(rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jinja2")
    monkeypatch.setattr(cli, "Measurement", None)
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


def test_shards_add_up() -> None:
    row = {"suite": "digits", "model": "digits", "data": "digits", "network": "", "method": "sj-max", "T": 2, "seed": 0}
    row |= {"calibration": 9, "ann_right": 9, "source_right": None, "timesteps": [1.0, 2.0], "per_layer": [1.0, 2.0]}
    row |= {"latency": [1, 2], "right": [1, 6], "changed": [9, 4], "mismatched": None, "command": "again"}
    row |= {"fingerprint": "", "images": 10, "shard": 0, "seconds": 8.0, "ann_seconds": 2.0}
    other = row | {"shard": 1, "images": 30, "right": [2, 14], "ann_right": 21, "seconds": 16.0, "ann_seconds": 4.0}
    ((curve,),) = (found.curves for found in curves.compare([row, other]))
    assert curve.images == 40
    assert curve.ann_accuracy == 75
    assert [point.accuracy for point in curve.points] == [7.5, 50]
    assert [point.time_ratio for point in curve.points] == [2, 4]
    assert curve.points[1].joules is None
    assert curve.within(25) == curve.points[1]
    assert curve.within(24) is None
    third = row | {"method": "sj-99.9", "shard": 1}
    (found,) = curves.compare([row, other, third])
    assert [(curve.images, curve.ann_accuracy) for curve in found.curves] == [(40, 75), (10, 90)]
    assert found.ann_accuracy == 75  # on the most images


def test_mistakes_are_told() -> None:
    for arguments, message in {
        ("run", "mnist"): "there is no suite 'mnist'",
        ("run", "digits", "--method", "magic"): "there is no method 'magic'",
        ("run", "cifar10"): "needs --data and --weights",
        ("run", "cifar10", "--data", ".", "--weights", "x", "--checkpoint", "u4"): "not of the form NAME=FILE",
        ("report", "--rows", "nothing.jsonl"): "holds no rows",
    }.items():
        result = CliRunner().invoke(cli.app, list(arguments))
        assert result.exit_code == 1
        assert message in result.output


def test_fingerprints_tell_networks_apart() -> None:
    model = CifarResNet(1)
    before = workload.fingerprint(model)
    assert workload.fingerprint(workload.fast(model)) == before
    with torch.no_grad():
        model.linear.bias[3] += 1e-6
    assert workload.fingerprint(model) != before


def test_plain_shortcuts_are_the_same_numbers() -> None:
    model, images = CifarResNet(1).eval(), torch.randn(3, 3, 32, 32)
    plain = workload.with_plain_shortcuts(model)
    assert sum(getattr(module, "moves_only", False) for module in plain.modules()) == 2
    assert torch.equal(plain(images), model(images))


def test_small_batches_are_repeated_as_often_as_asked() -> None:
    data = [(torch.arange(25.0).unsqueeze(1), torch.arange(25)), (torch.arange(25.0, 35).unsqueeze(1), torch.zeros(10))]
    batches = conversions.repeated(data, 9)
    assert [len(labels) for _, labels in batches] == [10, 10, 10, 5, 10, 10, 10, 5, 10]
    assert torch.equal(batches[0][0], batches[4][0])


def test_peak_memory_is_of_what_lives_together() -> None:
    images = torch.zeros(1000)
    assert peak_bytes(lambda x: (x + 1) + 1, images) == 8000
    assert peak_bytes(lambda x: ((x + 1) + 1) + 1, images) == 8000
    assert peak_bytes(lambda x: torch.stack([x + 1, x + 2]), images) == 16000


def test_the_suites_networks_and_data_exist() -> None:
    from benchmarks import data, models

    for suite in SUITES.values():
        assert not suite.dataset or suite.dataset in data.SOURCES
        assert suite.model in models.MODELS or suite.model == "digits" or suite.model.startswith("torchvision.")
