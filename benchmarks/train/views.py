"""A fixed number of views of every training image, and what the teacher makes of each, computed once (Shen and Xing,
*A Fast Knowledge Distillation Framework for Visual Recognition*, ECCV 2022, arXiv 2112.01528).

A teacher that is larger than its student takes most of the time of training; over dozens of epochs it would see each
of the few ways to shift and mirror a small image many times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset
from torch.utils.data.distributed import DistributedSampler
from tqdm.auto import tqdm

from benchmarks.data import InMemory, Source
from benchmarks.models import in_format
from pascal_ext.comparison.workload import digest
from pascal_ext.data import device_of
from pascal_ext.errors import InvalidArgumentError

BATCH = 250


class Views(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """``count`` views of each image, one after the other: item ``view * len(images) + index``.

    An item is the augmented image uint8 [C, H, W], its label, and the teacher's logits [classes] for it.

    Args:
        source: how images are augmented and normalised.
        images: the training images.
        teacher: the ReLU network whose logits are kept.
        count: views of each image.
        seed: of the augmentation.
        file: where the logits are kept; they are read from there if they are of this teacher and these views.
        progress: show a progress bar.

    Raises:
        InvalidArgumentError: the images are read from disk one by one.
    """

    def __init__(
        self,
        source: Source,
        images: Dataset[Any],
        teacher: nn.Module,
        count: int,
        seed: int,
        file: Path,
        *,
        progress: bool = True,
    ) -> None:
        if not isinstance(images, InMemory):
            raise InvalidArgumentError(f"views of {source.title} would not fit in memory; train it without --views")
        self.count, self.labels = count, images.labels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.images = torch.cat([source.augment(images.images) for _ in range(count)])
        mark = digest([*teacher.state_dict().items(), ("images", self.images)])
        known = _read(file, mark)
        self.logits = _logits(source, self.images, teacher, progress) if known is None else known
        if known is None:
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({"logits": self.logits}, file, {"of": mark})

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        return self.images[index], self.labels[index % len(self.labels)], self.logits[index]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """A whole batch at once; :class:`~torch.utils.data.DataLoader` prefers this to item by item."""
        chosen = torch.as_tensor(indices)
        return self.images[chosen], self.labels[chosen % len(self.labels)], self.logits[chosen]


class OneView(DistributedSampler[Any]):
    """Each image once an epoch, in a random order; the next of its views in the next epoch."""

    def __init__(self, views: Views, world: int, rank: int, seed: int) -> None:
        super().__init__(TensorDataset(views.labels), world, rank, True, seed)
        self.views = views

    def __iter__(self) -> Iterator[int]:
        for index in super().__iter__():
            yield (self.epoch + index) % self.views.count * len(self.views.labels) + index


@torch.no_grad()
def _logits(source: Source, images: Tensor, teacher: nn.Module, progress: bool) -> Tensor:
    device = device_of(teacher)
    teacher = in_format(teacher, torch.channels_last).eval()
    found = []
    for batch in tqdm(images.split(BATCH), desc="the teacher's logits", disable=not progress):
        inputs = source.normalise(batch.to(device)).to(memory_format=torch.channels_last)
        found.append(teacher(inputs).float().cpu())
    return torch.cat(found)


def _read(file: Path, mark: str) -> Tensor | None:
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as kept:
            if (kept.metadata() or {}).get("of") != mark:
                return None
            logits: Tensor = kept.get_tensor("logits")
            return logits
    except SafetensorError:  # cut off while it was written
        return None
