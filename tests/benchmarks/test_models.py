"""Networks by name, and weights on disk."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

import pascal_ext
from benchmarks import rows
from benchmarks.models import build
from benchmarks.models.checkpoints import load_qcfs, load_relu, save_qcfs
from pascal_ext.activations import qcfs_layers
from pascal_ext.errors import InvalidArgumentError

KEPT = sorted((rows.RESULTS.parent / "weights").glob("*.pt"))


@pytest.mark.parametrize(("name", "depth", "parameters"), [("resnet20", 20, 269_722), ("resnet56", 56, 853_018)])
def test_the_resnets_are_those_of_the_paper(name: str, depth: int, parameters: int) -> None:
    model = build(name, 10).eval()
    weighted = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert len(weighted) == depth  # option A: shortcuts have no weights
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert len(qcfs_layers(pascal_ext.replace_activations(model))) == depth - 1
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_torchvision_models_have_a_prefix(torchvision: ModuleType) -> None:
    model = build("torchvision.squeezenet1_1", 7).eval()
    assert isinstance(model, torchvision.models.SqueezeNet)
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 7)


@pytest.mark.parametrize("name", ["resnet21", "torchvision.", "torchvision.no_such_net", "os.getcwd"])
def test_unknown_networks(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"no network '{name}'; choose one of"):
        build(name, 10)


def test_checkpoints_of_training_scripts(tmp_path: Path, tiny: str) -> None:
    state = build(tiny, 10).state_dict()
    prefixed = {f"module.{name}": value for name, value in state.items()}
    torch.save({"net": prefixed, "acc": np.float64(87.4), "args": argparse.Namespace(lr=0.1)}, tmp_path / "weights.pt")
    loaded = load_relu(tiny, 10, tmp_path / "weights.pt")
    assert not loaded.training
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())


def test_files_that_are_no_checkpoints(tmp_path: Path, tiny: str) -> None:
    model = build(tiny, 10)
    with pytest.raises(InvalidArgumentError, match="there is no file of weights"):
        load_relu(tiny, 10, tmp_path / "missing.pt")
    torch.save(model, tmp_path / "model.pt")
    with pytest.raises(InvalidArgumentError, match=r"but a benchmarks\.models\.cifar_resnet\.CifarResNet"):
        load_relu(tiny, 10, tmp_path / "model.pt")
    torch.save(model.state_dict(), tmp_path / "relu.pt")
    for file in ("model.pt", "relu.pt"):
        with pytest.raises(InvalidArgumentError, match="holds no QCFS network"):
            load_qcfs(tmp_path / file)
    with pytest.raises(InvalidArgumentError, match="does not hold weights of resnet56"):
        load_relu("resnet56", 10, tmp_path / "relu.pt")


@pytest.mark.parametrize("per_channel", [False, True])
def test_qcfs_networks_come_back_as_they_were(tmp_path: Path, tiny: str, per_channel: bool) -> None:
    images = torch.randn(4, 3, 32, 32)
    model = pascal_ext.replace_activations(build(tiny, 10).eval(), levels=4)
    pascal_ext.calibrate(model, [images], per_channel=per_channel, progress=False)
    for levels, layer in enumerate(qcfs_layers(model).values(), 1):
        layer.levels = levels
    wanted = model(images)
    save_qcfs(model.to(memory_format=torch.channels_last), tmp_path / "new" / "model.pt", name=tiny, classes=10)
    loaded = load_qcfs(tmp_path / "new" / "model.pt")
    assert torch.equal(loaded(images), wanted)
    assert [layer.levels for layer in qcfs_layers(loaded).values()] == list(range(1, 8))
    torch.testing.assert_close(pascal_ext.convert(loaded)(images), loaded(images))


@pytest.mark.parametrize("file", [file for file in KEPT if "relu" not in file.stem], ids=lambda file: file.stem)
def test_the_networks_that_are_kept(file: Path) -> None:
    """They load, have the levels that their names say, and their spikes are theirs."""
    qcfs, mean = load_qcfs(file), int(file.stem.removesuffix("_mixup")[-1])
    snn = pascal_ext.convert(qcfs)
    assert snn.plan.mean_levels == mean
    report = pascal_ext.verify(qcfs, snn, [torch.randn(8, 3, 32, 32)], progress=False)
    assert report.exact
    assert not any(layer.firing_rate == 0 for layer in report.layers.values())


@pytest.mark.parametrize("file", [file for file in KEPT if "relu" in file.stem], ids=lambda file: file.stem)
def test_the_relu_networks_that_are_kept(file: Path) -> None:
    model = load_relu(file.stem.partition("_")[0], 10, file)
    logits = model(torch.randn(8, 3, 32, 32))
    assert logits.shape == (8, 10)
    assert logits.isfinite().all()
