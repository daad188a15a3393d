"""The cases: a network, its input, and in which ways it is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.models import build
from pascal_ext import convert
from pascal_ext.comparison.timing import Device, Precision


@dataclass(frozen=True)
class Case:
    """A network with random weights on random images; speed does not depend on what they show."""

    network: str
    size: int
    batch: int
    levels: int = 4


@dataclass(frozen=True)
class Setting:
    """On what, and how, the ReLU network and the converted ones are run alike.

    Attributes:
        channels_last: whether weights and images lie in memory with their channels last.
        tf32: whether convolutions and matrix products of float32 may run in TF32 on a GPU.
        compiled: whether it is what :func:`torch.compile` makes of a network that is run.
    """

    device: str = Device.CPU
    dtype: str = Precision.FLOAT32
    channels_last: bool = False
    tf32: bool = False
    compiled: bool = False

    def place(self, it: Any) -> Any:
        """Network or images on the device, in the dtype and the layout."""
        layout = torch.channels_last if self.channels_last else torch.preserve_format
        return it.to(device=self.device, dtype=getattr(torch, self.dtype), memory_format=layout)

    def configure(self) -> None:
        """Tell torch what holds for all networks of the process."""
        if self.device == Device.CUDA:
            torch.backends.cudnn.benchmark = True
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = self.tf32


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
    "mobilenet-224": Case("torchvision.mobilenet_v2", 224, 8),
    "resnet20-32": Case("resnet20", 32, 50),
    "resnet20-32-L8": Case("resnet20", 32, 50, levels=8),
    "resnet20-32-L16": Case("resnet20", 32, 50, levels=16),
    "resnet56-32": Case("resnet56", 32, 50),
    "resnet34-224": Case("torchvision.resnet34", 224, 8, levels=16),
}
GPU_CASES = {
    "resnet18-224-b64": Case("torchvision.resnet18", 224, 64),
    "resnet18-224-b256": Case("torchvision.resnet18", 224, 256),
    "resnet34-224-b256": Case("torchvision.resnet34", 224, 256),
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
BOUNDED = {"resnet34-224": (Variant("spikes", chunk=1),)}  # on a CPU memory only; the others are timed as well


def variants_of(name: str, device: str) -> tuple[Variant, ...]:
    """How the case ``name`` is run; on a GPU ``chunk="auto"`` is the whole batch already."""
    if device == Device.CPU:
        return BOUNDED.get(name, VARIANTS)
    return tuple(variant for variant in VARIANTS if variant.chunk is not None)


def make(case: Case, variant: Variant | None, setting: Setting) -> tuple[nn.Module, Tensor]:
    """The network, converted where there is a variant, and its input. It is converted before it is cast."""
    torch.manual_seed(0)
    model = build(case.network, 10 if case.size == 32 else 1000).eval()
    x = torch.randn(case.batch, 3, case.size, case.size)
    if variant is not None:
        model = _converted(model, case, variant)
    model, x = setting.place(model), setting.place(x)
    return (cast(nn.Module, torch.compile(model)) if setting.compiled else model), x


def _converted(model: nn.Module, case: Case, variant: Variant) -> nn.Module:
    snn = convert(
        model,
        [torch.randn(1, 3, 64, 64)],
        case.levels,
        execution=variant.execution,
        fold_batch_norm=variant.fold_batch_norm,
        progress=False,
    )
    snn.settle_ties, snn.chunk = variant.settle_ties, variant.chunk
    return snn


def call(model: nn.Module, x: Tensor) -> Callable[[], Any]:
    """The network on its input, without arguments."""
    return lambda: model(x)
