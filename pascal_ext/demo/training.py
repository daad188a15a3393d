"""The demo's data and its training loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from pascal_ext.extras import require

BATCH_SIZE = 60


Batches = list[tuple[Tensor, Tensor]]


def digits(seed: int = 0) -> tuple[DataLoader[Any], Batches]:
    """The 1797 images of scikit-learn's digits as (training loader, test batches): 1437 and 360 images, stratified.

    Batches are (images [N, 1, 8, 8] float32 in [0, 1], labels [N]). The split does not depend on ``seed``, the order
    of the training batches does. The test batches are a list, so that timing them times the network alone.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    datasets = require("sklearn.datasets", package="scikit-learn", extra="report")
    selection = require("sklearn.model_selection", package="scikit-learn", extra="report")
    data = datasets.load_digits()
    split = selection.train_test_split(data.images, data.target, test_size=360, stratify=data.target, random_state=0)
    train_x, test_x, train_y, test_y = (torch.as_tensor(part) for part in split)
    train = TensorDataset(train_x.unsqueeze(1).float() / 16, train_y.long())
    test = TensorDataset(test_x.unsqueeze(1).float() / 16, test_y.long())
    order = torch.Generator().manual_seed(seed)
    return DataLoader(train, BATCH_SIZE, shuffle=True, generator=order), list(DataLoader(test, BATCH_SIZE))


def shifted(images: Tensor) -> Tensor:
    """The batch [N, 1, H, W] moved by up to one pixel in each direction, differently every time: the augmentation."""
    down, right = torch.randint(-1, 2, (2,)).tolist()
    padded = F.pad(images, (1, 1, 1, 1))
    height, width = images.shape[-2:]
    return padded[..., 1 + down : 1 + down + height, 1 + right : 1 + right + width]


def train(
    model: nn.Module,
    loader: DataLoader[Any],
    epochs: int,
    learning_rate: float,
    teacher: nn.Module | None = None,
    on_batch: Callable[[], None] = lambda: None,
) -> None:
    """Train ``model`` in place with AdamW and a one-cycle learning rate; it is in eval mode afterwards.

    Weight decay is for weights: norms, biases and the thresholds of QCFS are left alone.

    Args:
        teacher: a trained network whose soft answers are learnt beside the labels (distillation), for fine-tuning.
        on_batch: called after every batch, for a progress bar.
    """
    model.train()
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": weights, "weight_decay": 1e-2}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=epochs * len(loader))
    for _ in range(epochs):
        for images, labels in loader:
            images = shifted(images)
            logits = model(images)
            loss = F.cross_entropy(logits, labels, label_smoothing=0.05)
            if teacher is not None:
                with torch.no_grad():
                    target = teacher(images).softmax(1)
                loss = loss + F.cross_entropy(logits, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            on_batch()
    model.eval()


@torch.no_grad()
def predictions(model: nn.Module, batches: Batches) -> Tensor:
    """The predicted class of every sample, in order, [samples]."""
    return torch.cat([model(images).argmax(1) for images, _ in batches])


def targets(batches: Batches) -> Tensor:
    """The true class of every sample, in order, [samples]."""
    return torch.cat([labels for _, labels in batches])


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Percentage of predictions that are right."""
    return 100 * (predicted == labels).double().mean().item()
