"""The command line, end to end in one process, on a network and data that a module of the test gives."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import pascal_ext
from pascal_ext.command import cli, specs
from pascal_ext.errors import InvalidArgumentError, SerializationError
from pascal_ext.plan import LevelPlan

MODULE = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )

def data():
    torch.manual_seed(1)
    return [(torch.randn(5, 3, 8, 8), torch.randint(0, 3, (5,))) for _ in range(2)]

batches = data()
number = 7
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the module ``its_own``, as the working directory."""
    (tmp_path / "its_own.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("its_own", None)


def run(*arguments: str) -> int:
    """The exit status of ``pascal-ext`` with these arguments."""
    argv, sys.argv = sys.argv, ["pascal-ext", *arguments]
    try:
        cli.main()
    except SystemExit as exit_:
        return int(exit_.code or 0)
    finally:
        sys.argv = argv
    return 0


def own_model() -> nn.Module:
    return specs.load_model("its_own:model")


def test_convert_verify_report(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run("convert", "its_own:model", "--data", "its_own:data", "--levels", "4", "--output", "snn.safetensors") == 0
    )
    assert "2 layers, 4 timesteps on average" in capsys.readouterr().out.replace("\n", " ")
    snn = pascal_ext.load("snn.safetensors")
    assert dict(snn.plan) == {"1": 4, "3": 4}
    for execution in ("spikes", "counts"):
        arguments = ("its_own:model", "snn.safetensors", "--data", "its_own:batches", "--execution", execution)
        assert run("verify", *arguments) == 0
        assert "0 of 10 predictions" in capsys.readouterr().out
    arguments = ("snn.safetensors", "--model", "its_own:model", "--data", "its_own:data", "--output", "page.html")
    assert run("report", *arguments) == 0
    page = (project / "page.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    assert run("report", "page.json", "--output", "again.html") == 0
    assert (project / "again.html").read_text(encoding="utf-8") == page


def test_verify_fails_where_predictions_differ(project: Path) -> None:
    assert run("convert", "its_own:model", "--data", "its_own:data", "--output", "snn.safetensors") == 0
    other = own_model()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.neg_()
    torch.save(other.state_dict(), "other.pt")
    arguments = ("its_own:model", "snn.safetensors", "--weights", "other.pt", "--data", "its_own:data")
    assert run("verify", *arguments) == 1


def test_verify_fails_where_counts_differ(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Even where no prediction does."""
    assert run("convert", "its_own:model", "--data", "its_own:data", "--output", "snn.safetensors") == 0
    other = own_model()
    with torch.no_grad():
        other.get_parameter("0.weight").mul_(1 + 1e-3)
    torch.save(other.state_dict(), "other.pt")
    arguments = ("its_own:model", "snn.safetensors", "--weights", "other.pt", "--data", "its_own:data")
    assert run("verify", *arguments) == 1
    assert "not exact: 0 of 10 predictions" in capsys.readouterr().out


def test_a_trained_qcfs_model_with_a_plan(project: Path) -> None:
    plan = LevelPlan({"1": 2, "3": 4})
    plan.to_json("plan.json")
    trained = pascal_ext.calibrate(
        pascal_ext.replace_activations(own_model(), 4), specs.load_data("its_own:data"), progress=False
    )
    save_file(trained.state_dict(), "trained.safetensors")
    torch.save({"state_dict": trained.state_dict()}, "trained.pt")
    torch.save({"net": nn.DataParallel(trained).state_dict(), "acc": np.float64(95.1)}, "script.pt")
    for weights in ("trained.safetensors", "trained.pt", "script.pt"):
        arguments = ("--weights", weights, "--qcfs", "plan.json", "--output", "snn.safetensors")
        assert run("convert", "its_own:model", *arguments) == 0
        assert pascal_ext.load("snn.safetensors").plan == plan


@pytest.mark.parametrize(
    "options", [{"per_channel": True}, {"correct": "bias"}, {"correct": "bias", "per_channel": True}]
)
def test_a_trained_qcfs_model_however_it_was_calibrated(project: Path, options: dict[str, Any]) -> None:
    loader = specs.load_data("its_own:data")
    trained = pascal_ext.replace_activations(own_model(), 4)
    trained = pascal_ext.calibrate(trained, loader, progress=False, **options)
    torch.save(trained.state_dict(), "trained.pt")
    assert run("convert", "its_own:model", "--weights", "trained.pt", "--qcfs", "4", "--output", "snn.safetensors") == 0
    assert pascal_ext.verify(trained, pascal_ext.load("snn.safetensors"), loader, progress=False).exact


@pytest.mark.parametrize("strategy", ["sensitivity", "al"])
def test_a_plan_is_written_for_convert(project: Path, capsys: pytest.CaptureFixture[str], strategy: str) -> None:
    budgets = ("--mean-levels", "3", "--latency", "20", "--choices", "1,2,4")
    arguments = ("--data", "its_own:data", "--strategy", strategy, *budgets, "--output", "plan.json")
    assert run("allocate", "its_own:model", *arguments) == 0
    options: dict[str, Any] = {"mean_levels": 3.0, "latency": 20.0, "choices": (1, 2, 4), "progress": False}
    plan = pascal_ext.allocate(own_model(), specs.load_data("its_own:data"), strategy, **options)
    assert LevelPlan.from_json("plan.json") == plan
    assert f"{plan.mean_levels:.3g} levels on average" in capsys.readouterr().out
    arguments = ("--data", "its_own:data", "--levels", "plan.json", "--output", "snn.safetensors")
    assert run("convert", "its_own:model", *arguments) == 0
    assert pascal_ext.load("snn.safetensors").plan == plan


def test_reconstructed_weights_are_what_convert_takes(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--data", "its_own:data", "--levels", "3", "--steps", "4", "--output", "weights.safetensors")
    assert run("reconstruct", "its_own:model", *arguments) == 0
    assert "--weights weights.safetensors --qcfs 3" in capsys.readouterr().out
    weights = ("--weights", "weights.safetensors", "--qcfs", "3")
    assert run("convert", "its_own:model", *weights, "--output", "snn.safetensors") == 0
    assert run("verify", "its_own:model", "snn.safetensors", "--data", "its_own:data", *weights) == 0
    loader = specs.load_data("its_own:data")
    expected = pascal_ext.reconstruct(own_model(), loader, 3, steps=4, progress=False)
    assert pascal_ext.verify(expected, pascal_ext.load("snn.safetensors"), loader, progress=False).exact
    assert run("reconstruct", "its_own:model", *arguments, "--levels", "auto") == 2
    assert "the plan that allocate wrote" in capsys.readouterr().err


def test_levels_are_chosen_while_converting(project: Path) -> None:
    arguments = ("--data", "its_own:data", "--levels", "auto", "--output", "snn.safetensors")
    assert run("convert", "its_own:model", *arguments) == 0
    plan = pascal_ext.allocate(own_model(), specs.load_data("its_own:data"), progress=False)
    assert pascal_ext.load("snn.safetensors").plan == plan


@pytest.mark.parametrize(
    ("mean", "std"), [((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.1307,), (0.3081,))], ids=["colour", "grey"]
)
def test_a_folder_of_images_is_read_as_torchvision_does(
    project: Path, torchvision: object, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    from PIL import Image
    from torchvision import datasets, transforms

    for index in range(6):
        folder = project / "images" / f"class{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (40, 30 + index, 3), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{index}.png")
    steps = [transforms.Resize(32), transforms.CenterCrop(28), transforms.ToTensor(), transforms.Normalize(mean, std)]
    if len(mean) == 1:
        steps.insert(0, transforms.Grayscale())
    expected = datasets.ImageFolder(str(project / "images"), transforms.Compose(steps))
    (images, labels), (rest, _) = specs.load_data("images", batch_size=4, image_size=28, mean=mean, std=std)
    torch.testing.assert_close(torch.cat([images, rest]), torch.stack([image for image, _ in expected]))
    assert labels.tolist() == [label for _, label in expected][:4]
    assert [len(batch[1]) for batch in specs.load_data("images", image_size=8, limit=3)] == [3]
    assert run("convert", "its_own:model", "--data", "images", "--image-size", "8", "--output", "snn.safetensors") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere:model",), "cannot import the module of 'nowhere:model'"),
        (("its_own",), "is not of the form package.module:name"),
        (("its_own:missing",), "has no 'missing'"),
        (("broken:model",), "cannot import the module of 'broken:model': ZeroDivisionError: division by zero"),
        (("its_own:number",), "gives a int, not a torch.nn.Module"),
        (("its_own:data",), "gives a list, not a torch.nn.Module"),
        (("its_own:model", "--weights", "missing.pt"), "there is no file of weights"),
        (("its_own:model", "--weights", "its_own.py"), "cannot read the weights"),
        (("its_own:model", "--data", "missing"), "there is no folder 'missing'"),
        (("its_own:model", "--data", "its_own:number"), "gives a int, not a loader"),
        (("its_own:model", "--data", "empty"), "no images in 'empty'"),
        (("its_own:model", "--data", "empty", "--mean", "a,b"), "--mean must be numbers"),
        (("its_own:model", "--data", "empty", "--mean", "0.1"), "three values each, or one for grey images"),
        (("its_own:model",), "pass a dataloader"),
        (("its_own:model", "--qcfs", "auto"), "a trained QCFS model has its levels"),
        (("its_own:model", "--data", "its_own:data", "--levels", "0"), "levels must be at least 1"),
        (("its_own:model", "--weights", "its_own.safetensors"), "(SafetensorError): expected a state dict"),
        (("its_own:model", "--data", "its_own:data", "--levels", "missing.json"), "cannot read the plan"),
        (("its_own:model", "--data", "its_own:data", "--levels", "2.5"), "levels must be a whole number of"),
    ],
)
def test_mistakes_get_one_line(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    (project / "empty").mkdir()
    (project / "broken.py").write_text("1 / 0")
    (project / "its_own.safetensors").write_text(MODULE)
    assert run("convert", *arguments, "--output", "snn.safetensors") == 2
    error = re.sub(r"\s+", " ", capsys.readouterr().err)
    assert message in error
    assert "Traceback" not in error
    assert "weights_only" not in error  # torch's advice is to run what is in the file
    assert not (project / "snn.safetensors").exists()


@pytest.mark.parametrize("command", ["convert", "allocate", "reconstruct", "report"])
@pytest.mark.parametrize(("output", "message"), [("missing/file", "no folder 'missing'"), ("folder", "is a folder")])
def test_where_nothing_can_be_written_no_work_is_done(
    project: Path, capsys: pytest.CaptureFixture[str], command: str, output: str, message: str
) -> None:
    (project / "folder").mkdir()
    (project / "slow.py").write_text("raise AssertionError('the work has begun')")
    arguments = ("slow.json",) if command == "report" else ("slow:model", "--data", "slow:data")
    assert run(command, *arguments, "--output", output) == 2
    error = re.sub(r"\s+", " ", capsys.readouterr().err)
    assert message in error
    assert "Traceback" not in error


def test_weights_of_another_model_are_refused(project: Path) -> None:
    state = {**own_model().state_dict(), "1.threshold": torch.tensor(1.0)}
    torch.save(state, "trained.pt")
    with pytest.raises(InvalidArgumentError, match="is --qcfs missing"):
        specs.load_model("its_own:model", project / "trained.pt")


def test_whole_models_are_refused_with_the_way_out(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": own_model()}, "whole.pt")
    assert run("convert", "its_own:model", "--weights", "whole.pt", "--output", "snn.safetensors") == 2
    error = re.sub(r"\s+", " ", capsys.readouterr().err)
    assert "torch.save(torch.load('whole.pt', weights_only=False)['model'].state_dict(), 'weights.pt')" in error


def test_reports_need_what_they_compare_with(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", "snn.safetensors", "--output", "page.html") == 2
    assert "--model and --data" in capsys.readouterr().err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in ("demo", "convert", "allocate", "reconstruct", "verify", "report"))


@pytest.mark.parametrize(
    ("command", "output", "suffix"),
    [("reconstruct", "weights.pt", ".safetensors"), ("report", "page.json", ".html"), ("report", "slow.json", ".html")],
)
def test_a_file_that_says_something_else_is_refused_before_the_work(
    project: Path, capsys: pytest.CaptureFixture[str], command: str, output: str, suffix: str
) -> None:
    (project / "slow.py").write_text("raise AssertionError('the work has begun')")
    (project / "slow.json").write_text("a report")
    arguments = ("slow.json",) if command == "report" else ("slow:model", "--data", "slow:data")
    assert run(command, *arguments, "--output", output) == 2
    assert f"{output!r} must end in {suffix}" in re.sub(r"\s+", " ", capsys.readouterr().err)
    assert (project / "slow.json").read_text() == "a report"


@pytest.mark.parametrize("output", ["x" * 300, "its_own.py/file"])
def test_no_name_of_a_file_is_a_traceback(project: Path, capsys: pytest.CaptureFixture[str], output: str) -> None:
    for command in ("convert", "allocate", "reconstruct"):
        assert run(command, "its_own:model", "--data", "its_own:data", "--output", output) == 2
        assert "cannot be written" in re.sub(r"\s+", " ", capsys.readouterr().err)


def test_weights_that_cannot_be_written(project: Path) -> None:
    with pytest.raises(SerializationError, match="cannot write the weights"):
        specs.save_weights(own_model(), project / "missing" / "weights.safetensors")


@pytest.mark.parametrize("option", ["model", "data"])
@pytest.mark.parametrize("body", ["def made(width): ...", "def made(): return {}['width']"])
def test_a_factory_that_fails_is_named(
    project: Path, capsys: pytest.CaptureFixture[str], option: str, body: str
) -> None:
    (project / "factory.py").write_text(body)
    sys.modules.pop("factory", None)
    given = {"model": "its_own:model", "data": "its_own:data"} | {option: "factory:made"}
    assert run("convert", given["model"], "--data", given["data"], "--output", "snn.safetensors") == 2
    error = re.sub(r"\s+", " ", capsys.readouterr().err)
    assert "'factory:made' failed when it was called without arguments" in error
    assert "width" in error


def test_a_folder_whose_images_make_no_batch(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    folder = project / "images" / "class"
    folder.mkdir(parents=True)
    for name, size in (("a", (8, 8)), ("b", (8, 10))):
        image.new("RGB", size).save(folder / f"{name}.png")
    arguments = ("its_own:model", "--data", "images", "--output", "snn.safetensors")
    for more in ((), ("--limit", "2"), ("--mean", "0.5", "--std", "0.5")):
        assert run("convert", *arguments, *more) == 2
        error = re.sub(r"\s+", " ", capsys.readouterr().err)
        assert "a.png' has 8×8 pixels and" in error
        assert "b.png' has 8×10 pixels: give --image-size" in error
    assert [tuple(images.shape) for images, _ in specs.load_data("images", batch_size=1)] == [
        (1, 3, 8, 8),
        (1, 3, 10, 8),
    ]
    broken = (folder / "a.png").read_bytes()
    for content in (broken[:40], b"no image"):
        (folder / "a.png").write_bytes(content)
        assert run("convert", *arguments, "--image-size", "8") == 2
        assert "cannot read the image 'images/class/a.png'" in re.sub(r"\s+", " ", capsys.readouterr().err)


def test_two_networks_of_one_name_are_refused() -> None:
    assert specs.parse_networks("--network", ["a=x:4", "b=y"]) == {"a": (Path("x"), "4"), "b": (Path("y"), "")}
    with pytest.raises(InvalidArgumentError, match="--network gives 'a' twice"):
        specs.parse_networks("--network", ["a=x:4", "b=y", "a=y:8"])


def test_the_demo_needs_a_folder(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn", reason="the demo's data comes with scikit-learn")
    assert run("demo", "--output", "its_own.py") == 2
    assert "output='its_own.py' cannot be a folder" in re.sub(r"\s+", " ", capsys.readouterr().err)
    assert (project / "its_own.py").read_text() == MODULE
