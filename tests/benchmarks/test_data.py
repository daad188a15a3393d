"""Images: what is read, how it is normalised, and that augmentation only shifts and mirrors."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import data
from pascal_ext.errors import InvalidArgumentError

SOURCE = data.SOURCES["cifar10-jpeg"]


def test_a_tree_is_read_in_order(tree: Path) -> None:
    train, test = (data.read(SOURCE, tree, split) for split in ("train", "test"))
    assert isinstance(train, data.InMemory)
    assert isinstance(test, data.InMemory)
    assert train.images.shape == (40, 3, 32, 32)
    assert train.images.dtype == torch.uint8
    assert test.labels.tolist() == [label for label in range(10) for _ in range(2)]
    for label in range(10):
        brightness = test.images[test.labels == label].float().mean()
        assert abs(brightness - (20 * label + 24.5)) < 2


def test_val_is_another_name_of_test(tree: Path) -> None:
    (tree / "test").rename(tree / "val")
    assert len(data.read(SOURCE, tree, "test")) == 20


def test_original_files_are_read_through_torchvision(
    tmp_path: Path, torchvision: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.arange(2 * 32 * 32 * 3, dtype=np.int64).reshape(2, 32, 32, 3).astype(np.uint8)

    def original(root: Path, train: bool) -> SimpleNamespace:
        assert root == tmp_path
        assert train
        return SimpleNamespace(data=pixels, targets=[3, 7])

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", original)
    read = data.read(data.SOURCES["cifar10"], tmp_path, "train")
    assert isinstance(read, data.InMemory)
    assert read.labels.tolist() == [3, 7]
    assert read.images[1, 2, 5, 6] == pixels[1, 5, 6, 2]


@pytest.mark.parametrize("name", ["cifar10", "cifar10-jpeg", "imagenet"])
def test_a_missing_folder_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"no images of .*expected .*train/CLASS/IMAGE"):
        data.read(data.SOURCES[name], tmp_path, "train")


def test_wrong_number_of_classes(tree: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="has 10 classes; CIFAR-100 has 100"):
        data.read(data.SOURCES["cifar100"], tree, "train")


def test_unknown_split(tree: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="split='dev' is unknown"):
        data.read(SOURCE, tree, "dev")


def test_imagenet_is_cropped_from_disk(tree: Path) -> None:
    source = dataclasses.replace(data.SOURCES["imagenet"], classes=10)
    for split in ("train", "test"):
        image, label = data.read(source, tree, split)[0]
        assert image.shape == (3, 224, 224)
        assert image.dtype == torch.uint8
        assert label == 0
    batch, labels = next(iter(data.loader(source, data.read(source, tree, "test"), 4)))
    assert batch.shape == (4, 3, 224, 224)
    assert labels.tolist() == [0, 0, 1, 1]


def test_normalisation_is_torchvisions(torchvision: ModuleType) -> None:
    images = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8)
    wanted = torchvision.transforms.functional.normalize(images / 255, SOURCE.mean, SOURCE.std)
    torch.testing.assert_close(SOURCE.normalise(images), wanted)


def test_a_limited_loader_takes_images_of_every_class(tree: Path) -> None:
    test = data.read(SOURCE, tree, "test")
    batches = list(data.loader(SOURCE, test, 4, limit=10))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert sorted(torch.cat([labels for _, labels in batches]).tolist()) == list(range(10))
    assert sum(len(labels) for _, labels in data.loader(SOURCE, test, 8, limit=1000)) == 20


def numbered(n: int) -> Tensor:
    """Images whose pixels are all different within a channel, and never zero."""
    return (torch.arange(1, 65).view(1, 1, 8, 8) + torch.arange(3).view(1, 3, 1, 1) * 64).expand(n, 3, 8, 8)


def test_a_crop_is_a_window_of_the_padded_image() -> None:
    images = numbered(500)
    padded = torch.nn.functional.pad(images[0], (2, 2, 2, 2))
    windows = {
        tuple(padded[:, row : row + 8, column : column + 8].flatten().tolist())
        for row in range(5)
        for column in range(5)
    }
    cropped = {tuple(image.flatten().tolist()) for image in data.random_crop(images, 2)}
    assert cropped == windows  # all 25 places, and nothing else


def test_images_are_mirrored_half_of_the_time() -> None:
    images = numbered(1000)
    flipped = data.random_flip(images)
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    same = (flipped == images).flatten(1).all(1)
    assert bool((mirrored ^ same).all())
    assert 400 < int(mirrored.sum()) < 600


def test_augmentation_keeps_shape_and_dtype_and_follows_the_seed() -> None:
    images = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8)
    torch.manual_seed(1)
    first = SOURCE.augment(images)
    torch.manual_seed(1)
    assert torch.equal(first, SOURCE.augment(images))
    assert first.shape == images.shape
    assert first.dtype == torch.uint8
    assert not torch.equal(first, images)
    assert data.SOURCES["imagenet"].augment(images) is images


def test_a_limit_decodes_the_images_that_the_loader_would_choose(tree: Path) -> None:
    source = data.SOURCES["cifar10"]
    wanted = list(data.loader(source, data.read(source, tree, "train"), 3, limit=7))
    found = list(data.loader(source, data.read(source, tree, "train", limit=7), 3))
    assert sum(len(labels) for _, labels in found) == 7
    assert all(torch.equal(x, y) for a, b in zip(wanted, found, strict=True) for x, y in zip(a, b, strict=True))
