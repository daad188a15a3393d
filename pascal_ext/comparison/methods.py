"""What is compared, as data: the ways to make a spiking network of a trained one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pascal_ext.adapters.spikingjelly import stock
from pascal_ext.errors import InvalidArgumentError


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to make a spiking network, with its settings.

    Attributes:
        name: what ``--method`` and the rows call it.
        title: what tables and figures call it.
        kind: ``"stock"``: SpikingJelly's own; ``"rate"``: rate coding of a QCFS network, by others; ``"converted"``:
            PASCAL without training; ``"tuned"``: PASCAL on a trained QCFS network.
        family: the function in :mod:`pascal_ext.comparison.conversions` that makes it.
        options: for that function.
        series: what a line through its points, and those of its like at other levels, is called; empty for methods that
            answer after every timestep.
        delayed: read out as SpikingJelly's ImageNet example does, without the first outputs.
    """

    name: str
    title: str
    kind: str
    family: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    series: str = ""
    delayed: bool = False

    @property
    def needs_qcfs(self) -> bool:
        """Whether it starts from a trained QCFS network; else from the ReLU network."""
        return self.kind in ("rate", "tuned")


def _stock(name: str, title: str, method: str, delayed: bool = False, **options: Any) -> Method:
    return Method(name, f"SpikingJelly, {title}", "stock", "stock", {"method": method, **options}, delayed=delayed)


def _free(levels: int) -> Method:
    return _converted(f"pascal-free-{levels}", "PASCAL without training", f"L = {levels}", levels=levels)


def _planned(mean: int) -> Method:
    return _converted(f"pascal-plan-{mean}", "PASCAL without training, planned", f"mean L = {mean}", mean_levels=mean)


def _adjusted(levels: int) -> Method:
    series = "PASCAL without labels, weights adjusted"
    return _converted(f"pascal-adjusted-{levels}", series, f"L = {levels}", levels=levels, adjust=True)


def _converted(name: str, series: str, which: str, **options: Any) -> Method:
    return Method(name, f"{series}, {which}", "converted", "pascal", options, series)


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
        *map(_free, (4, 8, 16, 32)),
        *map(_planned, (4, 8)),
        *map(_adjusted, (4, 8)),
        Method("pascal", "PASCAL, fine-tuned", "tuned", "pascal", series="PASCAL, fine-tuned"),
    )
}


def find(name: str) -> Method:
    """The method called ``name``.

    Raises:
        InvalidArgumentError: there is none.
    """
    if name not in METHODS:
        raise InvalidArgumentError(f"there is no method {name!r}; choose one of {list(METHODS)}")
    return METHODS[name]
