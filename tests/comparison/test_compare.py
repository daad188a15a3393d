"""The comparison on a model of one's own: what is measured is true, nothing is lost, and bad input is told."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pascal_ext
from pascal_ext.adapters.spikingjelly import stock
from pascal_ext.comparison import given, rows, tables
from pascal_ext.errors import CalibrationError, InvalidArgumentError

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()]
    nn.init.constant_(layers[0].bias, 0.5)  # so that no channel is dead
    return nn.Sequential(*layers, nn.Linear(96, 12), nn.ReLU(), nn.Linear(12, 5))


@pytest.fixture
def batches() -> Batches:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(90, 1, 8, 8, generator=generator), torch.randint(5, (90,), generator=generator)
    return list(zip(images.split(40), labels.split(40), strict=True))


def accuracy(model: nn.Module, batches: Batches) -> float:
    with torch.no_grad():
        right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in batches)
    return 100 * right / sum(len(labels) for _, labels in batches)


def test_what_is_measured_is_what_the_networks_do(model: nn.Module, batches: Batches, tmp_path: Path) -> None:
    before = copy.deepcopy(model.state_dict())
    tuned = pascal_ext.calibrate(pascal_ext.replace_activations(model.eval(), 4), batches)
    model.train()
    found = pascal_ext.compare(
        model,
        batches,
        batches,
        tmp_path,
        networks={"mine": tuned},
        methods=["sj-99.9", "qcfs-if", "pascal-free-8", "pascal-plan-4", "pascal-adjusted-4", "pascal"],
        timesteps=8,
        data="noise",
    )
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (found.model, found.data, found.refused) == ("Sequential", "noise", {})
    assert found.ann_accuracy == accuracy(model.eval(), batches)
    curves = {curve.method.name: curve for curve in found.curves}
    assert len(curves) == 6
    for name, curve in curves.items():
        assert curve.images == 90
        assert len(curve.points) == (1 if curve.method.family == "pascal" else 8)
        if name.startswith("pascal"):
            assert curve.points[0].mismatched == 0
            assert curve.points[0].accuracy == curve.source_accuracy
    assert curves["pascal"].points[0].accuracy == accuracy(tuned.eval(), batches)
    free = pascal_ext.convert(model, batches, 8, calibration={"correct": "bias", "per_channel": "auto"})
    assert curves["pascal-free-8"].points[0].accuracy == accuracy(free, batches)
    assert curves["pascal-plan-4"].points[0].timesteps <= 4
    names = {path.name for path in tmp_path.iterdir()}
    assert {"rows.jsonl", "report.html", "points.csv", "tables.md", "sequential-noise-steps.svg"} <= names


def test_methods_can_be_added_later_and_nothing_is_measured_twice(
    model: nn.Module, batches: Batches, tmp_path: Path
) -> None:
    first = pascal_ext.compare(model, batches, batches, tmp_path, methods=["pascal-free-4"], measure="accuracy")
    assert [curve.points[0].joules for curve in first.curves] == [None]
    written = rows.read(tmp_path / "rows.jsonl")
    both = ["pascal-free-4", "sj-max"]
    second = pascal_ext.compare(model, batches, batches, tmp_path, methods=both, timesteps=4, measure="accuracy")
    assert {curve.method.name for curve in second.curves} == set(both)
    assert rows.read(tmp_path / "rows.jsonl")[: len(written)] == written
    assert len(rows.read(tmp_path / "rows.jsonl")) == len(written) + 1


def test_an_interrupted_comparison_leaves_a_page_and_goes_on(
    model: nn.Module, batches: Batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(given, "SHARD", 1)  # a shard for each batch

    class Interrupted(list[Any]):
        """Batches whose reader presses Ctrl-C before the last one, once a row was written."""

        def __iter__(self) -> Any:
            yield from self[:-1]
            if rows.read(tmp_path / "rows.jsonl"):
                raise KeyboardInterrupt
            yield self[-1]

    options: dict[str, Any] = {"methods": ["pascal-free-4", "sj-max"], "timesteps": 4, "measure": "accuracy"}
    with pytest.raises(KeyboardInterrupt):
        pascal_ext.compare(model, batches, Interrupted(batches), tmp_path, **options)
    written = rows.read(tmp_path / "rows.jsonl")
    assert 0 < len(written) < 2 * len(batches)
    assert (tmp_path / "report.html").exists()
    found = pascal_ext.compare(model, batches, batches, tmp_path, **options)
    assert [curve.images for curve in found.curves] == [90, 90]
    every = rows.read(tmp_path / "rows.jsonl")
    assert every[: len(written)] == written
    assert len(every) == 2 * len(batches)


def test_more_test_images_are_measured_where_there_were_fewer(
    model: nn.Module, batches: Batches, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"methods": ["pascal-free-4"], "measure": "accuracy"}
    assert pascal_ext.compare(model, batches, batches[:1], tmp_path, **options).curves[0].images == 40
    assert pascal_ext.compare(model, batches, batches, tmp_path, **options).curves[0].images == 90
    written = (tmp_path / "rows.jsonl").read_bytes()
    assert pascal_ext.compare(model, batches, batches[:1], tmp_path, **options).curves[0].images == 90
    assert (tmp_path / "rows.jsonl").read_bytes() == written


def test_a_changed_network_is_measured_anew_and_the_page_is_about_the_one_that_is_given(
    model: nn.Module, batches: Batches, tmp_path: Path
) -> None:
    fine = pascal_ext.calibrate(pascal_ext.replace_activations(model.eval(), 8), batches)
    coarse = copy.deepcopy(fine)
    for layer in coarse.modules():
        if isinstance(layer, pascal_ext.QCFS):
            layer.levels = 1  # the same weights
    options: dict[str, Any] = {"methods": ["pascal"], "measure": "accuracy"}
    for network, levels in ((fine, 8), (coarse, 1), (fine, 8)):
        found = pascal_ext.compare(model, batches, batches, tmp_path, networks={"mine": network}, **options)
        ((point,),) = (curve.points for curve in found.curves)
        assert (point.timesteps, point.accuracy) == (levels, accuracy(network.eval(), batches))
    assert len(rows.read(tmp_path / "rows.jsonl")) == 2


def test_a_method_that_refuses_the_model_is_told_and_the_others_go_on(
    model: nn.Module,
    batches: Batches,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("converters by others may raise anything")

    monkeypatch.setattr(stock, "convert_stock", refuse)
    found = pascal_ext.compare(
        model, batches, batches, tmp_path, methods=["sj-max", "pascal-free-4"], timesteps=2, measure="accuracy"
    )
    assert [curve.method.name for curve in found.curves] == ["pascal-free-4"]
    assert list(found.refused) == ["SpikingJelly, max"]
    (told,) = (record for record in caplog.records if record.name.startswith("pascal_ext"))
    assert "SpikingJelly, max was left out: AssertionError: converters by others" in told.getMessage()
    assert told.exc_info is None  # a traceback into other packages says no more
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Left out: SpikingJelly, max" in page


def test_spikingjelly_gets_modules_where_it_refuses_functions(
    model: nn.Module, batches: Batches, tmp_path: Path
) -> None:
    class Functional(nn.Module):
        """``model``, as those write it who name no layers but those with weights."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, _, _, _, self.fc1, _, self.fc2 = model

        def forward(self, x: Tensor) -> Tensor:
            x = F.avg_pool2d(F.relu(self.norm(self.conv(x))), 2)
            return self.fc2(torch.relu(self.fc1(x.flatten(1))))

    curves = []
    for name, network in (("modules", model), ("functions", Functional())):
        options = {"methods": ["sj-max", "sj-99.9"], "timesteps": 8, "measure": "accuracy"}
        found = pascal_ext.compare(network, batches, batches, tmp_path / name, **options)
        assert found.refused == {}
        curves.append([(curve.method.name, curve.points) for curve in found.curves])
    assert len(curves[0]) == 2
    assert curves[0] == curves[1]


def test_a_softmax_at_the_end_makes_no_difference(model: nn.Module, batches: Batches, tmp_path: Path) -> None:
    tuned = pascal_ext.calibrate(pascal_ext.replace_activations(model.eval(), 4), batches)
    curves = []
    for name, last in (("logits", nn.Identity()), ("softmax", nn.LogSoftmax(1))):
        found = pascal_ext.compare(
            nn.Sequential(*model, last),
            batches,
            batches,
            tmp_path / name,
            networks={"mine": nn.Sequential(tuned, last)},
            methods=["sj-max", "qcfs-if", "pascal-free-4", "pascal"],
            timesteps=4,
            measure="accuracy",
        )
        assert found.refused == {}
        curves.append([(curve.method.name, curve.points) for curve in found.curves])
    assert len(curves[0]) == 4
    assert curves[0] == curves[1]


def test_shards_are_all_batches_once_and_in_order(model: nn.Module) -> None:
    images = torch.arange(1300.0).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    loader = DataLoader(TensorDataset(images, torch.zeros(1300, dtype=torch.int64)), 96)
    shards = given.Shards(loader, model, classes=5)
    cut = [shards(index) for index in range(4)]
    assert [sum(len(labels) for _, labels in shard) for shard in cut] == [576, 576, 148, 0]
    assert torch.equal(torch.cat([part for shard in cut for part, _ in shard]), images)
    again = shards(1)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(again, cut[1], strict=True))


def test_labels_of_calibration_images_are_not_looked_at(model: nn.Module, batches: Batches, tmp_path: Path) -> None:
    options: dict[str, Any] = {"methods": ["sj-99.9", "pascal-free-4"], "timesteps": 4, "measure": "accuracy"}
    with_labels = pascal_ext.compare(model, batches, batches, tmp_path / "a", **options)
    without = pascal_ext.compare(model, [images for images, _ in batches], batches, tmp_path / "b", **options)
    assert [curve.points for curve in without.curves] == [curve.points for curve in with_labels.curves]


def test_mistakes_are_told(model: nn.Module, batches: Batches, tmp_path: Path) -> None:
    images, labels = batches[0]
    shuffled = DataLoader(TensorDataset(images, labels), 8, shuffle=True)
    wide, file = torch.rand(40, 1, 28, 28), tmp_path / "file"
    file.touch()
    four = pascal_ext.replace_activations(nn.Sequential(*model[:-1], nn.Linear(12, 4)).eval())

    class Undefined(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.nan

    def run(**changed: Any) -> None:
        arguments = {"model": model, "calibration": batches, "test": batches, "methods": ["pascal-free-4"]} | changed
        pascal_ext.compare(**{"output": tmp_path / "out", "measure": "accuracy", **arguments})

    for changed, message in (
        ({"methods": ["magic"]}, "there is no method 'magic'"),
        ({"methods": "sj-max"}, r"give methods=\['sj-max'\]"),
        ({"methods": []}, "methods has no names"),
        ({"methods": ["pascal-free-4", "pascal"]}, "'pascal' starts from a network with QCFS activations"),
        ({"calibration_images": 0}, "calibration_images must be a whole number of at least 1, got 0"),
        ({"measure": "costs"}, "costs are shown at accuracies"),
        ({"output": file}, "cannot be a folder"),
        ({"model": model.forward}, "must be a torch.nn.Module, got method"),
        ({"model": nn.Sequential(model, Undefined())}, "outputs of the model on the test images are not finite"),
        ({"test": [(wide, labels)]}, r"cannot take the test images torch.float32 \(40, 1, 28, 28\): RuntimeError"),
        ({"calibration": [wide]}, r"cannot take the calibration images torch.float32 \(40, 1, 28, 28\)"),
        ({"networks": {"": model}}, "names, which are not empty"),
        ({"networks": {"mine": four}}, "network 'mine' has 4 outputs, and the model 5"),
        ({"timesteps": 0}, "timesteps must be a whole number of at least 1, got 0"),
        ({"measure": "speed"}, "measure='speed' is unknown"),
        ({"test": iter(batches)}, "can be read only once"),
        ({"test": shuffled}, "gives other images each time"),
        ({"test": [images]}, r"must yield \(images \[N, ...\], labels \[N\]\), got labels NoneType"),
        ({"test": [(images, labels + 3)]}, "labels must be 0 to 4"),
        ({"test": [(images, F.one_hot(labels))]}, "got labels torch.int64"),
        ({"model": model[:3]}, r"logits \[N, classes\]"),
        ({"model": pascal_ext.replace_activations(model)}, "give its ReLU model"),
        ({"networks": {"mine": model}}, r"network 'mine' must have QCFS activations and no others.*'2', '6'"),
        ({"test": [((images, images), labels)]}, "2 inputs, which are not the arguments of forward"),
    ):
        with pytest.raises((InvalidArgumentError, CalibrationError), match=message):
            run(**changed)
    for empty in ({"calibration": []}, {"test": []}):
        with pytest.raises(CalibrationError, match="empty"):
            run(**empty)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InvalidArgumentError, match="labels must be 0 to 4, as the model has outputs; got 3 to 7"):
        run(test=[*batches, (images, labels + 3)], output=tmp_path / "late")
    run()
    kept = (tmp_path / "out" / "rows.jsonl").read_bytes()
    other_activation = copy.deepcopy(model)
    other_activation[2] = nn.ReLU6()
    joined = [tuple(map(torch.cat, zip(*batches, strict=True)))]  # threshold balancing goes by batches
    for other in (
        {"data": "others"},
        {"calibration": batches[1:]},
        {"calibration": joined},
        {"model": model[:-1]},
        {"model": other_activation},
    ):
        with pytest.raises(InvalidArgumentError, match="is about another model, other data or names"):
            run(**other)
    assert (tmp_path / "out" / "rows.jsonl").read_bytes() == kept


def test_where_every_method_refuses_there_is_nothing_to_report(batches: Batches, tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :5].relu().sort(1).values  # order is no linear operation

    with pytest.raises(InvalidArgumentError, match=r"no rows.*; pascal-free-4 was left out: Unsupported"):
        pascal_ext.compare(Odd(), batches, batches, tmp_path, methods=["pascal-free-4"], measure="accuracy")
    (row,) = rows.read(tmp_path / "rows.jsonl")
    assert "refused" in row


def test_a_calibration_loader_that_shuffles_is_named_where_nothing_can_go_on(
    model: nn.Module, batches: Batches, tmp_path: Path
) -> None:
    shuffled = DataLoader(TensorDataset(*map(torch.cat, zip(*batches, strict=True))), 30, shuffle=True)
    options: dict[str, Any] = {"methods": ["pascal-free-4"], "measure": "accuracy"}
    pascal_ext.compare(model, shuffled, batches, tmp_path, **options)
    with pytest.raises(InvalidArgumentError, match="the calibration loader gives other images each time: give one"):
        pascal_ext.compare(model, shuffled, batches, tmp_path, **options)


@pytest.mark.parametrize("row", ['{"a": 1}', "123", '{"suite": [], "model": 1, "data": 2}'])
def test_rows_of_something_else_are_left_alone(model: nn.Module, batches: Batches, tmp_path: Path, row: str) -> None:
    (tmp_path / "rows.jsonl").write_text(row + "\n")
    with pytest.raises(InvalidArgumentError, match=r"rows\.jsonl' holds rows of something else"):
        pascal_ext.compare(model, batches, batches, tmp_path, methods=["pascal-free-4"], measure="accuracy")
    assert (tmp_path / "rows.jsonl").read_text() == row + "\n"


def test_names_of_networks_are_shown_as_they_are(model: nn.Module, batches: Batches, tmp_path: Path) -> None:
    tuned = pascal_ext.calibrate(pascal_ext.replace_activations(model.eval(), 4), batches)
    networks = {"a|b": tuned, r"$\no$": tuned}
    found = pascal_ext.compare(
        model, batches, batches, tmp_path, networks=networks, methods=["qcfs-if", "pascal"], timesteps=2,
        measure="accuracy", data="noise",
    )  # fmt: skip
    assert {curve.network for curve in found.curves} == set(networks)
    assert r"$\no$" in (tmp_path / "sequential-noise-steps.svg").read_text(encoding="utf-8")
    rows_of_table = [line for line in tables.accuracy_table(found).splitlines() if r"a\|b" in line]
    width = tables.accuracy_table(found).splitlines()[0].count("|")
    assert [line.replace(r"\|", "").count("|") for line in rows_of_table] == [width, width]
