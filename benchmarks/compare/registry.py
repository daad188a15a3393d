"""What is compared, as data: the methods, and the suites of models and images that they are run on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pascal_ext.adapters.spikingjelly import stock
from pascal_ext.errors import InvalidArgumentError

KINDS = ("stock", "rate", "converted", "tuned")


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to make a spiking network, with its settings.

    Attributes:
        name: what ``--method`` and the rows call it.
        title: what tables and figures call it.
        kind: ``"stock"``: SpikingJelly's own; ``"rate"``: rate coding of a QCFS network, by others; ``"converted"``:
            PASCAL without training; ``"tuned"``: PASCAL on a trained QCFS network.
        family: the function in :mod:`benchmarks.compare.conversions` that makes it.
        options: for that function.
        delayed: read out as SpikingJelly's ImageNet example does, without the first outputs.
    """

    name: str
    title: str
    kind: str
    family: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    delayed: bool = False

    @property
    def needs_qcfs(self) -> bool:
        """Whether it starts from a trained QCFS network; else from the ReLU network."""
        return self.kind in ("rate", "tuned")


def _stock(name: str, title: str, method: str, delayed: bool = False, **options: Any) -> Method:
    return Method(name, f"SpikingJelly, {title}", "stock", "stock", {"method": method, **options}, delayed)


def _free(levels: int) -> Method:
    title = f"PASCAL without training, L = {levels}"
    return Method(f"pascal-free-{levels}", title, "converted", "pascal", {"levels": levels})


BALANCING = stock.LOCAL_THRESHOLD_BALANCING

#: In the order of tables. τ and ρ are those of the papers' CIFAR experiments.
METHODS = {
    method.name: method
    for method in (
        _stock("sj-max", "max", "max"),
        _stock("sj-99.9", "99.9%", "99.9%"),
        _stock("sj-channel", "channel-wise 99.9%", "channel-wise"),
        _stock("sj-channel-delayed", "channel-wise 99.9%, delayed", "channel-wise", delayed=True),
        _stock("sj-ltb-one-pass", "threshold balancing, one pass", BALANCING),
        _stock("sj-ltb", "threshold balancing", BALANCING, updates=400),
        _stock("sj-ltb-delayed", "threshold balancing, delayed", BALANCING, delayed=True, updates=400),
        Method("qcfs-if", "QCFS, IF neurons", "rate", "rate", {"kind": "if"}),
        Method("srp", "SRP, τ = 4", "rate", "rate", {"kind": "srp", "extra": 4}),
        Method("cos", "COS, ρ = 4", "rate", "rate", {"kind": "cos", "extra": 4}),
        Method("cos-8", "COS, ρ = 8", "rate", "rate", {"kind": "cos", "extra": 8}),
        *(_free(levels) for levels in (4, 8, 16, 32)),
        Method("pascal", "PASCAL, fine-tuned", "tuned", "pascal"),
    )
}


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


def shard_size(row: Mapping[str, Any]) -> int | None:
    """The ``shard`` that a row was measured with; None for costs. It is the suite's own where the row does not say."""
    if row["shard"] is None:
        return None
    size: int = row.get("shard_size") or SUITES[row["suite"]].shard
    return size


def find(name: str) -> Method:
    """The method called ``name``.

    Raises:
        InvalidArgumentError: there is none.
    """
    if name not in METHODS:
        raise InvalidArgumentError(f"there is no method {name!r}; choose one of {list(METHODS)}")
    return METHODS[name]
