"""The cases: a network, its input, and in which ways it is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.models import build
from pascal_ext import convert


@dataclass(frozen=True)
class Case:
    """A network with random weights on random images; speed does not depend on what they show."""

    network: str
    size: int
    batch: int
    levels: int = 4


@dataclass(frozen=True)
class Variant:
    """A way to run a converted network."""

    execution: str
    fold_batch_norm: bool = False
    settle_ties: bool = True
    chunk: int | str | None = "auto"

    @property
    def name(self) -> str:
        parts = [self.execution, "folded" * self.fold_batch_norm, "unsettled" * (not self.settle_ties)]
        chunk = "whole batch" if self.chunk is None else f"chunk {self.chunk}" * (self.chunk != "auto")
        return ", ".join(part for part in (*parts, chunk) if part)


CASES = {
    "resnet18-96": Case("torchvision.resnet18", 96, 16),
    "resnet18-224": Case("torchvision.resnet18", 224, 8),
    "vgg11-224": Case("torchvision.vgg11_bn", 224, 4),
    "resnet20-32": Case("resnet20", 32, 50),
    "resnet20-32-L8": Case("resnet20", 32, 50, levels=8),
    "resnet20-32-L16": Case("resnet20", 32, 50, levels=16),
    "resnet56-32": Case("resnet56", 32, 50),
    "resnet34-224": Case("torchvision.resnet34", 224, 8, levels=16),
}
VARIANTS = (
    Variant("counts"),
    Variant("counts", fold_batch_norm=True),
    Variant("spikes"),
    Variant("spikes", fold_batch_norm=True),
    Variant("spikes", settle_ties=False),
    Variant("spikes", fold_batch_norm=True, settle_ties=False),
    Variant("spikes", chunk=None),
)
BOUNDED = {"resnet34-224": (Variant("spikes", chunk=1),)}  # memory only; the others are timed as well


def make(case: Case, variant: Variant | None) -> tuple[nn.Module, Tensor]:
    """The network, converted where there is a variant, and its input."""
    torch.manual_seed(0)
    model = build(case.network, 10 if case.size == 32 else 1000).eval()
    x = torch.randn(case.batch, 3, case.size, case.size)
    if variant is None:
        return model, x
    snn = convert(
        model,
        [torch.randn(1, 3, 64, 64)],
        case.levels,
        execution=variant.execution,
        fold_batch_norm=variant.fold_batch_norm,
        progress=False,
    )
    snn.settle_ties, snn.chunk = variant.settle_ties, variant.chunk
    return snn, x


def call(model: nn.Module, x: Tensor) -> Callable[[], Any]:
    """The network on its input, without arguments."""
    return lambda: model(x)
