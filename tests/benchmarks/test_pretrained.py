"""torchvision's weights by name, from a cache that the tests fill, and images prepared as for them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn
from urllib.error import URLError

import pytest
import torch

from benchmarks import data
from benchmarks.models import pretrained
from benchmarks.models.checkpoints import load_relu
from benchmarks.train.run import Run
from pascal_ext.errors import InvalidArgumentError

NAME = "torchvision.squeezenet1_1"
IMAGENET = dataclasses.replace(data.SOURCES["imagenet"], classes=10)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torchvision: ModuleType) -> Path:
    """Where torch looks for downloads, and there is no connection."""

    def download(*_: Any, **__: Any) -> NoReturn:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    folder = tmp_path / "cache" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", ["DEFAULT", "IMAGENET1K_V1", "SqueezeNet1_1_Weights.IMAGENET1K_V1"])
def test_weights_have_names(cache: Path, torchvision: ModuleType, name: str) -> None:
    state = torchvision.models.squeezenet1_1().state_dict()
    file = Path(torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.url).name
    torch.save(state, cache / file)
    loaded = load_relu(NAME, 1000, Path(name))
    assert not loaded.training
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())


def test_a_file_of_that_name_comes_first(
    cache: Path, tmp_path: Path, torchvision: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state = torchvision.models.squeezenet1_1(num_classes=10).state_dict()
    torch.save(state, "DEFAULT")
    loaded = load_relu(NAME, 10, Path("DEFAULT"))
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())


def test_weights_that_cannot_be_had(cache: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"no route to host.* where torch looks for it: ") as caught:
        load_relu(NAME, 1000, Path("DEFAULT"))
    assert str(cache) in str(caught.value)
    with pytest.raises(InvalidArgumentError, match=r"'IMAGENET1K_V9' is neither .*\['IMAGENET1K_V1', 'DEFAULT'\]"):
        load_relu(NAME, 1000, Path("IMAGENET1K_V9"))
    with pytest.raises(InvalidArgumentError, match="tell 1000 classes apart, not 10"):
        load_relu(NAME, 10, Path("DEFAULT"))
    with pytest.raises(InvalidArgumentError, match="there is no file of weights 'DEFAULT'"):
        load_relu("resnet20", 10, Path("DEFAULT"))


@pytest.mark.parametrize(
    ("model", "weights"),
    [
        ("resnet50", "IMAGENET1K_V1"),
        ("resnet50", "IMAGENET1K_V2"),
        ("efficientnet_b0", "DEFAULT"),
        ("vgg16", "IMAGENET1K_FEATURES"),
    ],
)
def test_images_are_prepared_as_for_the_weights(tree: Path, torchvision: ModuleType, model: str, weights: str) -> None:
    source = pretrained.as_trained(IMAGENET, f"torchvision.{model}", Path(weights))
    found, _ = next(iter(data.loader(source, data.read(source, tree, "test"), 4)))
    preset = torchvision.models.get_model_weights(model)[weights].transforms()
    images = torchvision.datasets.ImageFolder(tree / "test", preset)
    torch.testing.assert_close(found, torch.stack([images[index][0] for index in range(4)]), atol=1e-5, rtol=1e-5)
    train, _ = data.read(source, tree, "train")[0]
    assert train.shape == found[0].shape


def test_all_weights_say_how_images_are_prepared(torchvision: ModuleType) -> None:
    """In the one way that sources know."""
    models = torchvision.models
    for name in models.list_models(module=models):
        for weights in models.get_model_weights(name).__members__:
            source = pretrained.as_trained(IMAGENET, f"torchvision.{name}", Path(weights))
            assert source.crop <= source.resize


def test_other_images_stay_as_they_are(tmp_path: Path) -> None:
    cifar = data.SOURCES["cifar10"]
    assert pretrained.as_trained(cifar, NAME, Path("DEFAULT")) is cifar
    assert pretrained.as_trained(IMAGENET, NAME, None) is IMAGENET
    (tmp_path / "weights.pt").touch()
    assert pretrained.as_trained(IMAGENET, NAME, tmp_path / "weights.pt") is IMAGENET


def test_training_prepares_them_too() -> None:
    fields = dict.fromkeys(field.name for field in dataclasses.fields(Run))
    known = {"dataset": "imagenet", "model": "torchvision.resnet50", "weights": "IMAGENET1K_V2"}
    run = Run(**{**fields, **known})  # type: ignore[arg-type]
    assert run.source().resize == 232
