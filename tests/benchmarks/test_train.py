"""Training runs: positive thresholds, teachers, resuming, plans, reallocation and the row that is written."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

import pascal_ext
from benchmarks import data
from benchmarks.models import build
from benchmarks.models.checkpoints import load_qcfs, load_relu
from benchmarks.train import training
from benchmarks.train.__main__ import main
from benchmarks.train.finetuning import FineTuning, Recipe
from benchmarks.train.run import FIRST_THRESHOLD, Run
from pascal_ext.activations import qcfs_layers
from pascal_ext.errors import InvalidArgumentError, PlanError

SOURCE = data.SOURCES["cifar10-jpeg"]
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}


@pytest.fixture
def weights(tmp_path: Path, tiny: str) -> str:
    """A ReLU checkpoint for the tiny network."""
    torch.save(build(tiny, 10).state_dict(), tmp_path / "relu.pt")
    return str(tmp_path / "relu.pt")


@pytest.fixture
def run(tiny: str, weights: str) -> Run:
    return Run(
        dataset="cifar10-jpeg",
        model=tiny,
        levels="4",
        weights=weights,
        start=None,
        teacher=None,
        views=0,
        per_channel=False,
        calibration_images=10,
        epochs=2,
        batch_size=16,
        seed=0,
        recipe=Recipe(),
        reallocate_at=None,
        strategy="al",
        mean_levels=3.0,
    )


def trained(run: Run, tree: Path, output: Path, **options: Any) -> nn.Module:
    row = training.train(run, tree, output, **QUIET, **options)
    assert row is not None
    if run.levels == "relu":
        return load_relu(run.model, 10, output / "model.pt")
    return load_qcfs(output / "model.pt")


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def resumed(run: Run, tree: Path, output: Path, epoch: int, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The network of a run that was cut off before ``epoch``, and started again."""

    def stop(self: object, trainer: Any, pl_module: object) -> None:
        if trainer.current_epoch == epoch:
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(training._Remember, "on_train_epoch_start", stop)
        with pytest.raises(RuntimeError, match="power cut"):
            training.train(run, tree, output, **QUIET)
    return trained(run, tree, output)


def test_a_mixed_run_resumes(run: Run, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = dataclasses.replace(run, recipe=Recipe(distillation="kl", mixup=0.3))
    whole = trained(mixed, tree, tmp_path / "whole")
    assert same(resumed(mixed, tree, tmp_path / "cut", 1, monkeypatch), whole)
    assert not same(trained(dataclasses.replace(run, recipe=Recipe(distillation="kl")), tree, tmp_path / "not"), whole)


def test_views_are_not_mixed(run: Run, tree: Path, tmp_path: Path) -> None:
    mixed = dataclasses.replace(run, recipe=Recipe(distillation="kl", mixup=0.3), views=2)
    with pytest.raises(InvalidArgumentError, match="choose one"):
        trained(mixed, tree, tmp_path)


def test_another_teacher(run: Run, tree: Path, tmp_path: Path) -> None:
    """It teaches also where the student has no weights to start from."""
    recipe = Recipe(distillation="kl")
    named = dataclasses.replace(run, weights=None, teacher=f"{run.model}={run.weights}", recipe=recipe)
    teacher = named.find_teacher(build(run.model, 10))
    assert teacher is not None
    assert same(teacher, load_relu(run.model, 10, Path(str(run.weights))))
    assert training.train(named, tree, tmp_path / "out", **QUIET) is not None
    with pytest.raises(InvalidArgumentError, match="NAME=FILE"):
        dataclasses.replace(named, teacher="relu.pt").find_teacher(teacher)
    assert dataclasses.replace(named, recipe=Recipe()).find_teacher(teacher) is None


def test_a_teacher_that_has_spoken_once(run: Run, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with views never asks its teacher in a step, and goes on as it would have."""
    run = dataclasses.replace(run, views=2, recipe=Recipe(distillation="kl"))
    teacher = load_relu(run.model, 10, Path(str(run.weights)))
    calls = []
    teacher.register_forward_hook(lambda *_: calls.append(None))
    monkeypatch.setattr(Run, "find_teacher", lambda *_: teacher)
    whole = trained(run, tree, tmp_path / "whole")
    assert len(calls) == 1, "all views fit in one batch"
    assert same(resumed(run, tree, tmp_path / "cut", 1, monkeypatch), whole)
    assert len(calls) == 2


def test_views_are_a_teachers(run: Run, tree: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="needs --distillation"):
        training.train(dataclasses.replace(run, views=2), tree, tmp_path / "out", **QUIET)


def test_a_relu_network_is_trained_and_can_be_the_start(run: Run, tree: Path, tmp_path: Path) -> None:
    relu = dataclasses.replace(run, levels="relu")
    row = training.train(relu, tree, tmp_path / "relu", **QUIET)
    assert row is not None
    assert row["plan"] == {}
    before, after = (torch.load(path, weights_only=True) for path in (str(run.weights), tmp_path / "relu" / "model.pt"))
    assert before.keys() == after.keys()
    assert not torch.equal(before["conv1.weight"], after["conv1.weight"])
    again = dataclasses.replace(run, weights=str(tmp_path / "relu" / "model.pt"), epochs=1)
    row_of_qcfs = training.train(again, tree, tmp_path / "qcfs", **QUIET)
    assert row_of_qcfs is not None
    assert row_of_qcfs["relu_accuracy"] == row["accuracy"]


def test_a_relu_network_goes_on_as_it_would_have(
    run: Run, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = dataclasses.replace(run, levels="relu")
    whole = trained(run, tree, tmp_path / "whole")
    assert same(resumed(run, tree, tmp_path / "cut", 1, monkeypatch), whole)


@pytest.mark.parametrize("changed", [{"start": "model.pt"}, {"reallocate_at": 1}])
def test_a_relu_network_has_no_levels(run: Run, tree: Path, tmp_path: Path, changed: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="no levels"):
        training.train(dataclasses.replace(run, levels="relu", **changed), tree, tmp_path / "out", **QUIET)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("distillation", ["none", "kl"])
def test_everything_is_trained_and_the_row_says_so(
    run: Run, tree: Path, tmp_path: Path, per_channel: bool, distillation: str
) -> None:
    recipe = Recipe(distillation=distillation)
    run = dataclasses.replace(run, per_channel=per_channel, recipe=recipe)
    row = training.train(run, tree, tmp_path / "out", **QUIET)
    assert row is not None
    model = load_qcfs(tmp_path / "out" / "model.pt")
    assert not model.training
    relu = torch.load(str(run.weights), weights_only=True)
    for name, value in model.state_dict().items():
        if name not in relu:
            assert name.endswith(".threshold")
            assert value.numel() > 1 or not per_channel
        elif value.is_floating_point():
            assert not torch.equal(value, relu[name]), f"{name} has not changed"
    test = data.loader(SOURCE, data.read(SOURCE, tree, "test"), 20)
    assert row["accuracy"] == training.accuracy(model, test)
    assert row["test_images"] == 20
    assert row["plan"] == dict.fromkeys(qcfs_layers(model), 4)
    assert row["recipe"] == dataclasses.asdict(recipe)
    assert row["versions"]["torch"] == torch.__version__
    assert pascal_ext.LevelPlan.from_json(tmp_path / "out" / "plan.json") == row["plan"]
    assert row == json.loads(json.dumps(row))


def test_a_network_learns(run: Run, tree: Path, tmp_path: Path) -> None:
    run = dataclasses.replace(run, epochs=20, batch_size=20, recipe=Recipe(lr=0.1))
    row = training.train(run, tree, tmp_path / "out", **QUIET)
    assert row is not None
    assert row["accuracy"] >= 40  # chance is 10


def test_thresholds_stay_positive(run: Run, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    floors: dict[str, torch.Tensor] = {}
    learnt: list[torch.Tensor] = []

    def hostile(recipe: Recipe, logits: torch.Tensor, *_: object) -> torch.Tensor:
        return logits.sum() * 0 + sum(threshold.sum() for threshold in learnt)  # less the smaller they are

    def remember(module: FineTuning) -> None:
        on_fit_start(module)
        floors.update(module.floors)
        learnt.extend(layer.threshold for layer in qcfs_layers(module.student).values())

    on_fit_start = FineTuning.on_fit_start
    monkeypatch.setattr(Recipe, "loss", hostile)
    monkeypatch.setattr(FineTuning, "on_fit_start", remember)
    run = dataclasses.replace(run, recipe=Recipe(lr=1.0, threshold_lr=100.0, threshold_floor=0.1))
    model = trained(run, tree, tmp_path / "out")
    thresholds = {name: layer.threshold for name, layer in qcfs_layers(model).items()}
    assert len(thresholds) == len(learnt) > 0
    assert all(torch.equal(threshold, floors[name]) for name, threshold in thresholds.items())


def test_an_interrupted_run_goes_on_as_it_would_have(
    run: Run, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(run, tree, tmp_path / "whole")
    assert same(resumed(run, tree, tmp_path / "cut", 1, monkeypatch), whole)


def test_every_epoch_is_kept(run: Run, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of runs that are validated seldom."""
    monkeypatch.setitem(QUIET, "check_val_every_n_epoch", 10)
    whole = trained(run, tree, tmp_path / "whole")
    assert same(resumed(run, tree, tmp_path / "cut", 1, monkeypatch), whole)
    steps = torch.load(tmp_path / "cut" / "last.ckpt", weights_only=False)["global_step"]
    assert steps == torch.load(tmp_path / "whole" / "last.ckpt", weights_only=False)["global_step"]


def test_only_the_same_run_is_resumed(run: Run, tree: Path, tmp_path: Path) -> None:
    trained(run, tree, tmp_path / "out")
    other = dataclasses.replace(run, levels="2", seed=1)
    with pytest.raises(InvalidArgumentError, match=r"another levels, seed; choose another --output, or --restart"):
        training.train(other, tree, tmp_path / "out", **QUIET)
    assert set(qcfs_layers(trained(other, tree, tmp_path / "out", resume=False)).values())


def test_the_seed_decides(run: Run, tree: Path, tmp_path: Path) -> None:
    first = trained(run, tree, tmp_path / "first")
    assert same(trained(run, tree, tmp_path / "again"), first)
    assert not same(trained(dataclasses.replace(run, seed=1), tree, tmp_path / "other"), first)


def test_a_plan_gives_each_layer_its_levels(run: Run, tree: Path, tmp_path: Path, tiny: str) -> None:
    names = list(qcfs_layers(pascal_ext.replace_activations(build(tiny, 10))))
    plan = pascal_ext.LevelPlan({name: 1 + index % 3 for index, name in enumerate(names)})
    plan.to_json(tmp_path / "edited.json")
    run = dataclasses.replace(run, levels=str(tmp_path / "edited.json"))
    model = trained(run, tree, tmp_path / "out")
    assert {name: layer.levels for name, layer in qcfs_layers(model).items()} == plan
    pascal_ext.LevelPlan({"conv1": 4}).to_json(tmp_path / "wrong.json")
    with pytest.raises(PlanError, match="does not fit this model"):
        training.train(dataclasses.replace(run, levels=str(tmp_path / "wrong.json")), tree, tmp_path / "wrong", **QUIET)


def test_from_scratch(run: Run, tree: Path, tmp_path: Path) -> None:
    run = dataclasses.replace(run, weights=None)
    row = training.train(run, tree, tmp_path / "out", **QUIET)
    assert row is not None
    assert row["relu_accuracy"] is None
    thresholds = [layer.threshold.item() for layer in qcfs_layers(load_qcfs(tmp_path / "out" / "model.pt")).values()]
    assert all(math.isclose(threshold, FIRST_THRESHOLD, rel_tol=0.5) for threshold in thresholds)
    with pytest.raises(InvalidArgumentError, match="distillation needs the ReLU network's weights"):
        training.train(dataclasses.replace(run, recipe=Recipe(distillation="kl")), tree, tmp_path / "kl", **QUIET)


def test_training_goes_on_at_other_levels(run: Run, tree: Path, tmp_path: Path, tiny: str) -> None:
    """Thresholds stay as learnt, also where levels change; a network of another model is refused."""
    first = trained(dataclasses.replace(run, per_channel=True), tree, tmp_path / "first")
    start = str(tmp_path / "first" / "model.pt")
    plan = pascal_ext.LevelPlan.uniform(qcfs_layers(first), 4).updated({"layer1.0.relu1": 2})
    plan.to_json(tmp_path / "plan.json")
    still = Recipe(lr=0.0, weight_decay=0.0)
    again = dataclasses.replace(run, start=start, levels=str(tmp_path / "plan.json"), recipe=still, epochs=1)
    second = trained(again, tree, tmp_path / "second")
    before, after = qcfs_layers(first), qcfs_layers(second)
    assert {name: layer.levels for name, layer in after.items()} == plan
    assert all(torch.equal(after[name].threshold, before[name].threshold) for name in plan)
    assert torch.equal(second.get_submodule("linear").weight, first.get_submodule("linear").weight)
    untrained = trained(dataclasses.replace(again, epochs=0, recipe=Recipe()), tree, tmp_path / "untrained")
    assert {name: layer.levels for name, layer in qcfs_layers(untrained).items()} == plan
    assert all(torch.equal(value, dict(first.named_parameters())[name]) for name, value in untrained.named_parameters())
    with pytest.raises(InvalidArgumentError, match=r"does not hold a QCFS network of the model 'resnet20'"):
        training.train(dataclasses.replace(again, model="resnet20", weights=None), tree, tmp_path / "other", **QUIET)


def test_levels_are_reallocated_once_and_kept_on_resuming(
    run: Run, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    allocate = pascal_ext.allocate

    def counted(model: nn.Module, loader: Any, **options: Any) -> pascal_ext.LevelPlan:
        calls.append(options)
        return allocate(model, loader, **options)

    monkeypatch.setattr(pascal_ext, "allocate", counted)
    run = dataclasses.replace(run, epochs=3, reallocate_at=1, strategy="sensitivity", mean_levels=2.5)
    whole = trained(run, tree, tmp_path / "whole")
    assert [(options["strategy"], options["mean_levels"]) for options in calls] == [("sensitivity", 2.5)]
    plan = pascal_ext.LevelPlan({name: layer.levels for name, layer in qcfs_layers(whole).items()})
    assert 1 <= plan.mean_levels <= 2.5
    assert pascal_ext.LevelPlan.from_json(tmp_path / "whole" / "reallocated.json") == plan

    assert same(resumed(run, tree, tmp_path / "cut", 2, monkeypatch), whole)
    assert len(calls) == 2


def test_the_result_converts_exactly(run: Run, tree: Path, tmp_path: Path) -> None:
    model = trained(run, tree, tmp_path / "out")
    test = data.loader(SOURCE, data.read(SOURCE, tree, "test"), 20)
    assert pascal_ext.verify(model, pascal_ext.convert(model), test, progress=False).mismatched_predictions == 0


def application() -> typer.Typer:
    app = typer.Typer()
    app.command()(main)
    return app


def test_the_command_adds_a_row(tree: Path, tmp_path: Path, tiny: str, weights: str) -> None:
    results = tmp_path / "results" / "train.jsonl"
    command = ["--data", str(tree), "--model", tiny, "--weights", weights, "--levels", "2", "--epochs", "1"]
    command += ["--batch-size", "16", "--output", str(tmp_path / "out"), "--results", str(results)]
    for _ in range(2):
        result = CliRunner().invoke(application(), [*command, "--accelerator", "cpu"])
        assert result.exit_code == 0, result.output
        assert "on 20 test images of CIFAR-10 (JPEG)" in result.output
    first, second = (json.loads(line) for line in results.read_text(encoding="utf-8").splitlines())
    assert first["accuracy"] == second["accuracy"]  # the second run had nothing left to train
    assert first["command"].startswith("python -m benchmarks.train")
    assert first["hardware"]["cores"] >= 1

    result = CliRunner().invoke(application(), [*command, "--dataset", "mnist"])
    assert result.exit_code == 1
    assert "error: no data set 'mnist'; choose one of" in result.output
