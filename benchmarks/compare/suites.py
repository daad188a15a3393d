"""The models and images that methods are compared on, as data."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Suite:
    """A data set, and the network that is converted on it unless another one is asked for.

    Attributes:
        dataset: name in :data:`benchmarks.data.SOURCES`; empty for scikit-learn's digits, whose networks are trained on
            the spot.
        model: see :func:`benchmarks.models.build`.
        timesteps: T of rate coding, unless another one is asked for.
        calibration: training images that thresholds are derived from.
        batch_size: of calibration; and of measuring, unless another one is asked for.
        shard: test images that one row is about, spread evenly over the classes, unless asked otherwise.
    """

    dataset: str
    model: str
    timesteps: int = 64
    calibration: int = 1000
    batch_size: int = 50
    shard: int = 500


SUITES = {
    "digits": Suite("", "digits", calibration=1437, batch_size=60, shard=360),
    "cifar10": Suite("cifar10", "resnet20"),
    "cifar10-jpeg": Suite("cifar10-jpeg", "resnet20"),
    "cifar100": Suite("cifar100", "resnet20"),
    "imagenet": Suite("imagenet", "torchvision.resnet34", batch_size=10),
}
