"""Views of training images with the teacher's logits: what they hold, their order, and the file that keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from benchmarks import data
from benchmarks.train import views
from benchmarks.train.finetuning import Images
from benchmarks.train.views import OneView, Views
from pascal_ext.errors import InvalidArgumentError

SOURCE = data.SOURCES["cifar10-jpeg"]
N, COUNT = 24, 3


@pytest.fixture
def images() -> data.InMemory:
    return data.InMemory(torch.randint(256, (N, 3, 8, 8), dtype=torch.uint8), torch.arange(N))


@pytest.fixture
def teacher() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).eval()


def made(images: data.InMemory, teacher: nn.Module, file: Path, seed: int = 0) -> Views:
    return Views(SOURCE, images, teacher, COUNT, seed, file, progress=False)


def test_each_view_comes_with_its_label_and_what_the_teacher_says_of_it(
    images: data.InMemory, teacher: nn.Module, tmp_path: Path
) -> None:
    state = torch.get_rng_state()
    found = made(images, teacher, tmp_path / "out" / "views.safetensors")
    assert torch.equal(torch.get_rng_state(), state)
    assert len(found) == COUNT * N
    pictures, labels, logits = found.__getitems__(range(len(found)))
    for index, item in enumerate(zip(pictures, labels, logits, strict=True)):
        assert all(map(torch.equal, item, found[index]))
    assert torch.equal(labels, torch.arange(N).repeat(COUNT))
    torch.testing.assert_close(logits, teacher(SOURCE.normalise(pictures)))
    first, second, third = pictures.view(COUNT, N, 3, 8, 8)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


def test_an_epoch_shows_each_image_once_and_the_next_one_its_next_view(
    images: data.InMemory, teacher: nn.Module, tmp_path: Path
) -> None:
    found = made(images, teacher, tmp_path / "views.safetensors")
    loader = Images(found, images, 8, 0).train_dataloader()
    shown: dict[int, list[int]] = {label: [] for label in range(N)}
    orders = set()
    for epoch in range(COUNT):
        loader.sampler.set_epoch(epoch)
        pictures, labels, logits = map(torch.cat, zip(*loader, strict=True))
        orders.add(tuple(labels.tolist()))
        for picture, label, known in zip(pictures, labels.tolist(), logits, strict=True):
            view = int((found.logits == known).all(1).nonzero()[0]) // N
            assert all(map(torch.equal, (picture, known), (found[view * N + label][0], found[view * N + label][2])))
            shown[label].append(view)
    assert all(sorted(seen) == list(range(COUNT)) for seen in shown.values())
    assert len(orders) == COUNT


def test_two_processes_share_an_epoch(images: data.InMemory, teacher: nn.Module, tmp_path: Path) -> None:
    found = made(images, teacher, tmp_path / "views.safetensors")
    halves = [{index % N for index in OneView(found, 2, rank, 0)} for rank in range(2)]
    assert halves[0] | halves[1] == set(range(N))
    assert not halves[0] & halves[1]


def test_logits_are_kept_for_the_same_teacher_and_views_only(
    images: data.InMemory, teacher: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "views.safetensors"
    calls = []
    logits = views._logits
    monkeypatch.setattr(views, "_logits", lambda *args: calls.append(None) or logits(*args))
    first = made(images, teacher, file)
    assert torch.equal(made(images, teacher, file).logits, first.logits)
    assert len(calls) == 1
    assert not torch.equal(made(images, teacher, file, seed=1).images, first.images)
    assert len(calls) == 2
    with torch.no_grad():
        teacher[0].weight.neg_()
    torch.testing.assert_close(made(images, teacher, file).logits, teacher(SOURCE.normalise(first.images)))
    assert len(calls) == 3
    file.write_bytes(file.read_bytes()[:100])
    made(images, teacher, file)
    assert len(calls) == 4


def test_images_from_disk_have_no_views(teacher: nn.Module, tmp_path: Path) -> None:
    disk: Any = TensorDataset(torch.zeros(3, 3, 8, 8))
    with pytest.raises(InvalidArgumentError, match="without --views"):
        Views(data.SOURCES["imagenet"], disk, teacher, 2, 0, tmp_path / "views.safetensors")
