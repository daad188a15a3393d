"""The benchmarks' images: CIFAR-10 and CIFAR-100 held in memory, ImageNet read from disk."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from benchmarks import torchvision_cpu
from pascal_ext.errors import InvalidArgumentError

Batch = tuple[Tensor, Tensor]
SPLITS = {"train": ("train",), "test": ("test", "val")}  # split -> names of its folder


@dataclasses.dataclass(frozen=True)
class Source:
    """What a data set is like: the name that tables print, its classes, and how its images are normalised.

    Attributes:
        title: the name in tables.
        classes: number of classes.
        mean, std: per channel, of values in [0, 1].
        pad: pixels that training images are padded by before they are cropped at random; None for images of many sizes,
            which are read from disk and cropped there.
        torchvision: name of the class in ``torchvision.datasets`` that reads the original files, where there is one.
        resize, crop, interpolation: of images from disk: pixels of the shorter side, and of the square cut from the
            middle, or in training at random.
    """

    title: str
    classes: int
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    pad: int | None = 4
    torchvision: str | None = None
    resize: int = 256
    crop: int = 224
    interpolation: str = "bilinear"

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] -> float32: ``(images / 255 - mean) / std``."""
        return images.float().sub_(_per_channel(self.mean, images.device)).div_(_per_channel(self.std, images.device))

    def augment(self, images: Tensor) -> Tensor:
        """Shift and mirror each training image [N, C, H, W] at random; images read from disk were cropped there."""
        if self.pad is None:
            return images
        return random_flip(random_crop(images, self.pad))


SOURCES = {
    "cifar10": Source("CIFAR-10", 10, torchvision="CIFAR10"),
    "cifar10-jpeg": Source("CIFAR-10 (JPEG)", 10),
    "cifar100": Source("CIFAR-100", 100, torchvision="CIFAR100"),
    "imagenet": Source("ImageNet", 1000, pad=None),
}


class InMemory(Dataset[Batch]):
    """Images of one size as a tensor [N, 3, H, W] uint8 and labels [N] int64; indexed by batch, without a copy each."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Batch:
        return self.images[index], self.labels[index]

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """A whole batch at once; :class:`~torch.utils.data.DataLoader` prefers this to item by item."""
        chosen = torch.as_tensor(indices)
        return self.images[chosen], self.labels[chosen]


def read(source: Source, root: Path, split: str, *, limit: int | None = None) -> Dataset[Any]:
    """The images of a data set, uint8 [3, H, W], with their labels.

    ``root`` is either what ``torchvision.datasets.CIFAR10`` reads, or a tree ``train/CLASS/IMAGE``,
    ``test/CLASS/IMAGE`` (or ``val``) as ``torchvision.datasets.ImageFolder`` reads it. With a ``limit`` only so many
    images are decoded, those that :func:`loader` would choose.

    Raises:
        InvalidArgumentError: the split is unknown, nothing is there, or the number of classes is not the source's.
    """
    if split not in SPLITS:
        raise InvalidArgumentError(f"split={split!r} is unknown; choose one of {list(SPLITS)}")
    datasets = torchvision_cpu.load().datasets
    folder = next((root / name for name in SPLITS[split] if (root / name).is_dir()), None)
    if folder is None:
        if source.torchvision is not None:
            try:
                original = getattr(datasets, source.torchvision)(root, train=split == "train")
            except RuntimeError:
                pass  # not there: it says "Dataset not found"
            else:
                chosen = evenly(len(original.targets), limit)
                images, labels = torch.from_numpy(original.data)[chosen], torch.tensor(original.targets)[chosen]
                return InMemory(images.permute(0, 3, 1, 2), labels)
        expected = " or ".join(f"{root / name}/CLASS/IMAGE" for name in SPLITS[split])
        raise InvalidArgumentError(f"no images of {source.title} ({split}) under {str(root)!r}; expected {expected}")
    tree = datasets.ImageFolder(folder)
    if len(tree.classes) != source.classes:
        raise InvalidArgumentError(f"{folder} has {len(tree.classes)} classes; {source.title} has {source.classes}")
    chosen = evenly(len(tree.samples), limit)
    tree.samples = tree.imgs = [tree.samples[index] for index in chosen]
    tree.targets = [tree.targets[index] for index in chosen]
    if source.pad is None:
        tree.transform = _disk_transform(source, split)
        return tree
    return _decoded(tree)


def length(images: Dataset[Any]) -> int:
    """The number of images of what :func:`read` returns; torch's ``Dataset`` promises none."""
    return len(cast(Sized, images))


def evenly(size: int, limit: int | None) -> list[int]:
    """The positions of ``limit`` images, evenly spaced over ``size``; all, where there is no limit or so few."""
    if limit is None or limit >= size:
        return list(range(size))
    return torch.linspace(0, size - 1, limit).round().long().tolist()


def loader(
    source: Source, data: Dataset[Any], batch_size: int, *, limit: int | None = None, workers: int = 0
) -> DataLoader[Any]:
    """Normalised float32 batches in order; of ``limit`` images evenly spaced over the classes, where one is given."""
    size = length(data)
    if limit is not None and limit < size:
        data = Subset(data, evenly(size, limit))

    def collate(batch: Any) -> Batch:
        images, labels = stacked(batch)
        return source.normalise(images), labels

    return DataLoader(data, batch_size, collate_fn=collate, num_workers=workers)


def stacked(batch: Any) -> Batch:
    """A batch as the loader collects it, [(image, label), ...] or already stacked, as two tensors."""
    if isinstance(batch, tuple):
        return batch
    images, labels = zip(*batch, strict=True)
    return torch.stack(images), torch.as_tensor(labels)


def random_crop(images: Tensor, pad: int) -> Tensor:
    """Each image [C, H, W] of a batch, padded by ``pad`` zeros on every side and cropped at random to its old size."""
    n, channels, height, width = images.shape
    padded = F.pad(images, (pad, pad, pad, pad))
    rows = torch.randint(2 * pad + 1, (n, 1), device=images.device) + torch.arange(height, device=images.device)
    columns = torch.randint(2 * pad + 1, (n, 1), device=images.device) + torch.arange(width, device=images.device)
    rows = rows.view(n, 1, height, 1).expand(n, channels, height, padded.shape[3])
    columns = columns.view(n, 1, 1, width).expand(n, channels, height, width)
    return padded.gather(2, rows).gather(3, columns)


def random_flip(images: Tensor) -> Tensor:
    """Each image [C, H, W] of a batch mirrored left to right with probability one half."""
    mirrored = torch.rand(images.shape[0], 1, 1, 1, device=images.device) < 0.5
    return torch.where(mirrored, images.flip(3), images)


@functools.cache
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Values in [0, 1], of pixels in [0, 255], [3, 1, 1]. A copy to a GPU waits for it, so that there is one only."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).view(3, 1, 1) * 255


def _decoded(tree: Any) -> InMemory:
    """All images of an ImageFolder, decoded once."""
    to_tensor = _pil_to_tensor()
    with ThreadPoolExecutor() as pool:  # Pillow decodes without the interpreter lock
        images = torch.stack(list(pool.map(lambda sample: to_tensor(tree.loader(sample[0])), tree.samples)))
    return InMemory(images, torch.tensor(tree.targets))


def _disk_transform(source: Source, split: str) -> Callable[[Any], Tensor]:
    """The usual crops of ImageNet: random in training, the centre otherwise."""
    transforms = torchvision_cpu.load().transforms
    interpolation = transforms.InterpolationMode(source.interpolation)
    if split == "train":
        resized = transforms.RandomResizedCrop(source.crop, interpolation=interpolation)
        crop = [resized, transforms.RandomHorizontalFlip()]
    else:
        crop = [transforms.Resize(source.resize, interpolation), transforms.CenterCrop(source.crop)]
    composed: Callable[[Any], Tensor] = transforms.Compose([*crop, _pil_to_tensor()])
    return composed


def _pil_to_tensor() -> Callable[[Any], Tensor]:
    to_tensor: Callable[[Any], Tensor] = torchvision_cpu.load().transforms.PILToTensor()
    return to_tensor
