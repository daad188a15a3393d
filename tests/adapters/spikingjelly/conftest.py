"""Models, data and a view of what SpikingJelly logs, for the adapter's tests on both of its versions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pascal_ext
from pascal_ext.adapters.spikingjelly.compat import HAS_RECIPES


class Residual(nn.Module):
    """A block whose one ReLU module is called twice, once in place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + x)


class Network(nn.Module):
    """Convolutions, batch norms, a shortcut, a max pool and a functional ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.block = Residual(6)
        self.hidden = nn.Linear(6 * 16, 20)
        self.fc = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.pool(self.relu(self.stem(x))))
        return self.fc(F.relu(self.hidden(x.flatten(1))))


@pytest.fixture
def loader() -> list[tuple[Tensor, Tensor]]:
    return [(torch.rand(8, 1, 8, 8), torch.randint(10, (8,))) for _ in range(3)]


@pytest.fixture
def ann() -> nn.Module:
    """A ReLU network with settled batch norms; one of its modules is in evaluation mode, the others train."""
    network = Network()
    for _ in range(5):
        network(torch.rand(32, 1, 8, 8))
    network.block.bn1.eval()
    return network


@pytest.fixture
def qcfs(ann: nn.Module, loader: list[tuple[Tensor, Tensor]]) -> nn.Module:
    """The same network with QCFS activations, different levels in each layer, in float64."""
    network = pascal_ext.calibrate(pascal_ext.replace_activations(ann, levels=4), loader, progress=False)
    for levels, layer in enumerate(network.modules()):
        if isinstance(layer, pascal_ext.QCFS):
            layer.levels = 2 + levels % 5
    return network.double().eval()


@pytest.fixture
def batch() -> Tensor:
    return torch.rand(8, 1, 8, 8, dtype=torch.float64)


@pytest.fixture
def snapshot() -> Callable[[nn.Module], object]:
    """Everything of a model that a conversion must leave as it was, as a value."""

    def take(model: nn.Module) -> object:
        state = {name: (tensor.dtype, tensor.tolist()) for name, tensor in model.state_dict().items()}
        flags = [(name, module.training, getattr(module, "inplace", None)) for name, module in model.named_modules()]
        hooks = [len(module._forward_hooks) for module in model.modules()]
        return state, flags, hooks, repr(model)

    return take


@pytest.fixture
def host_warnings() -> Iterator[list[str]]:
    """What SpikingJelly warns of during the test."""
    messages: list[str] = []
    if HAS_RECIPES:
        from spikingjelly.logger import logger

        logger.enable("spikingjelly")
        sink = logger.add(messages.append, level="WARNING")
        yield messages
        logger.remove(sink)
        logger.disable("spikingjelly")
        return
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    yield messages
    logging.getLogger().removeHandler(handler)
