"""Data made on the spot, and a network small enough to train on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import models
from benchmarks.models.cifar_resnet import CifarResNet

IMAGES = {"train": 4, "test": 2}  # of each class


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An ImageFolder tree of ten classes, 32×32: class ``k`` is a grey of brightness ``20 k`` under noise."""
    image = pytest.importorskip("PIL.Image")
    generator = np.random.default_rng(0)
    for split, number in IMAGES.items():
        for label in range(10):
            folder = tmp_path / "images" / split / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(number):
                pixels = generator.integers(0, 50, (32, 32, 3)) + 20 * label
                image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
    return tmp_path / "images"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a residual network of 8 layers."""
    monkeypatch.setitem(models.MODELS, "tiny", lambda classes: CifarResNet(1, classes))
    return "tiny"
