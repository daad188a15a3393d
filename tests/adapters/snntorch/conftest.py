"""Models and data for the snnTorch adapter's tests, on both of its versions."""

from __future__ import annotations

import os

os.environ.setdefault("MPLBACKEND", "Agg")  # before snnTorch's spikeplot imports matplotlib

import pytest
import torch
from torch import Tensor, nn

import pascal_ext
from pascal_ext.adapters.snntorch import PascalNetwork, convert


class Block(nn.Module):
    """A shortcut around two convolutions, so that it is a nested module whose branches differ in timesteps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.act1, self.act2 = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act2(self.conv2(self.act1(self.conv1(x))) + x)


class Network(nn.Module):
    """Three activations, one of them after a shortcut, and a linear layer at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.act = nn.ReLU()
        self.block = Block(4)
        self.pool = nn.AvgPool2d(4)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.block(self.act(self.stem(x)))).flatten(1))


@pytest.fixture
def ann() -> nn.Module:
    return Network().double().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(12, 1, 8, 8, dtype=torch.float64)


@pytest.fixture
def qcfs(ann: nn.Module, images: Tensor) -> nn.Module:
    """The network with QCFS activations at 2, 5 and 3 levels."""
    network = pascal_ext.calibrate(pascal_ext.replace_activations(ann), [images], progress=False)
    return pascal_ext.set_levels(network, {"act": 2, "block.act1": 5, "block.act2": 3})


@pytest.fixture
def snn(qcfs: nn.Module) -> PascalNetwork:
    network = convert(qcfs)
    assert isinstance(network, PascalNetwork)
    return network
