"""Lightning, also where torchvision needs the help of :mod:`benchmarks.torchvision_cpu`: import it from here."""

from __future__ import annotations

from benchmarks import torchvision_cpu

torchvision_cpu.load()
import lightning as L  # noqa: E402  # after load(): it imports torchmetrics, which imports torchvision

__all__ = ["L"]
