"""A folder of images, one sub-folder per class, as batches; for the command line, without torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from pascal_ext.errors import InvalidArgumentError
from pascal_ext.extras import require

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"})
CROP = 0.875  # the usual share of the shorter side that a centre crop keeps: 224 of 256


class ImageTree(Dataset[tuple[Tensor, int]]):
    """The images of ``root/CLASS/**/*.jpg`` as (image [3, H, W] float32, class), in the order of ImageFolder.

    Of one mean and one std, images are grey, [1, H, W].

    Args:
        root: the folder; its sub-folders, sorted, are the classes.
        image_size: where given, an image's shorter side is resized to ``image_size / 0.875`` (bilinear) and its centre
            is cropped, as is usual for ImageNet; else images are taken as they are, and must all have one size, at
            least within a batch.
        mean, std: per channel, of values in [0, 1]; three of each, or one; where they are empty, images are in colour
            and nothing is normalised.

    Raises:
        InvalidArgumentError: there are no images, or mean and std are not of three values each, nor of one; and when
            they are read: an image cannot be, or those of a batch have several sizes.
        MissingExtraError: Pillow is not installed.
    """

    def __init__(
        self, root: Path, image_size: int | None = None, mean: tuple[float, ...] = (), std: tuple[float, ...] = ()
    ) -> None:
        if (mean or std) and (len(mean) not in (1, 3) or len(std) != len(mean) or min(std) <= 0):
            raise InvalidArgumentError(
                f"mean and std need three values each, or one for grey images, std positive; got {mean} and {std}"
            )
        self.classes = sorted(folder.name for folder in root.iterdir() if folder.is_dir())
        self.samples = [
            (path, index)
            for index, name in enumerate(self.classes)
            for path in sorted((root / name).rglob("*"))
            if path.suffix.lower() in SUFFIXES
        ]
        if not self.samples:
            raise InvalidArgumentError(f"no images in {str(root)!r}; expected {root}/CLASS/IMAGE.jpg")
        self.image_size = image_size
        self.mean = torch.tensor(mean or (0.0, 0.0, 0.0)).view(-1, 1, 1)
        self.std = torch.tensor(std or (1.0, 1.0, 1.0)).view(-1, 1, 1)
        self._pillow: Any = require("PIL.Image", package="Pillow", extra="report")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.samples[index]
        try:
            with self._pillow.open(path) as file:
                image = file.convert("L" if len(self.mean) == 1 else "RGB")
        except Exception as error:  # whatever a decoder raises
            raise InvalidArgumentError(f"cannot read the image {str(path)!r}: {error}") from error
        if self.image_size is not None:
            image = self._resized(image, self.image_size)
        width, height = image.size
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(height, width, -1)
        return (pixels.permute(2, 0, 1).float() / 255 - self.mean) / self.std, label

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        """The images of one batch, which a DataLoader asks for at once."""
        found = [self[index] for index in indices]
        first = found[0][0]
        for index, (image, _) in zip(indices, found, strict=True):
            if image.shape != first.shape:
                sizes = (
                    f"{str(self.samples[number][0])!r} has {width}×{height} pixels"
                    for number, (_, height, width) in ((indices[0], first.shape), (index, image.shape))
                )
                raise InvalidArgumentError(f"{' and '.join(sizes)}: give --image-size, to resize and crop all of them")
        return found

    def loader(self, batch_size: int, limit: int | None = None) -> DataLoader[Any]:
        """Batches in order; of ``limit`` images evenly spaced over the classes, where one is given."""
        if limit is None or limit >= len(self):
            return DataLoader(self, batch_size)
        chosen = torch.linspace(0, len(self) - 1, limit).round().int().tolist()
        return DataLoader(Subset(self, chosen), batch_size)

    def _resized(self, image: Any, size: int) -> Any:
        width, height = image.size
        shorter = round(size / CROP)
        scale = shorter / min(width, height)
        width, height = max(int(width * scale), shorter), max(int(height * scale), shorter)
        image = image.resize((width, height), self._pillow.Resampling.BILINEAR)
        left, top = round((width - size) / 2), round((height - size) / 2)
        return image.crop((left, top, left + size, top + size))
