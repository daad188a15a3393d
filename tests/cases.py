"""Small networks as cases of tests: what one is, how it is made, and how two are compared."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pascal_ext import calibrate, replace_activations
from pascal_ext.activations import qcfs_layers
from pascal_ext.network.spiking_network import SpikingNetwork

BATCH = 3
TOLERANCE = 1e-9
LEVELS = (1, 2, 3, 4, 8)  # 3 divides neither 4 nor 8


class Net(nn.Module):
    """A network whose ``forward`` is a function of the module and its input."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


class Pair(Net):
    """The same with two inputs."""

    def forward(self, x: Any, y: Any) -> Any:
        return self.function(self, x, y)


@dataclass(frozen=True)
class Case:
    """A network and the shapes of its inputs without the batch, tuples in any nesting of lists and dicts."""

    network: nn.Module
    inputs: list[Any]

    def build(self) -> nn.Module:
        """A fresh copy in float64 whose layers are alive."""
        return alive(copy.deepcopy(self.network).double())

    def data(self, *leading: int) -> list[Any]:
        """Random inputs [*leading, N, ...]."""
        shapes = pytree.tree_map(
            lambda shape: torch.randn(*leading, BATCH, *shape, dtype=torch.float64),
            self.inputs,
            is_leaf=lambda node: isinstance(node, tuple),
        )
        return list(shapes)


def alive(model: nn.Module) -> nn.Module:
    """Random weights, biases and statistics, in evaluation mode; He initialisation keeps the signal up."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.running_mean is not None:
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)
        elif isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, 0, 0.2)
    return model.eval()


def quantised(model: nn.Module, data: list[Any], kind: str = "scalar") -> nn.Module:
    """The QCFS network of ``model`` with random levels, and thresholds at random around what the data says.

    Args:
        kind: of the thresholds: ``"scalar"``, ``"per-channel"``, or ``"negative"`` (per channel and of random sign).
    """
    qcfs = replace_activations(model)
    calibrate(qcfs, [(tuple(data),)], "max", per_channel=kind != "scalar", progress=False)
    for layer in qcfs_layers(qcfs).values():
        layer.levels = random.choice(LEVELS)
        layer.threshold.data *= torch.empty_like(layer.threshold).uniform_(0.5, 1.1)
        if kind == "negative":
            layer.threshold.data *= torch.randint_like(layer.threshold, 2) * 2 - 1
    return qcfs


def tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def assert_close(found: Any, expected: Any) -> None:
    """Equal structure, and equal values to ``TOLERANCE``."""
    assert pytree.tree_structure(found) == pytree.tree_structure(expected)
    for a, b in zip(tensors(found), tensors(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE)


@torch.no_grad()
def assert_same_function(qcfs: nn.Module, snn: SpikingNetwork, case: Case) -> None:
    """``snn`` computes what ``qcfs`` does: both executions, both step modes, inputs of one and of several steps."""
    for execution, windows in (("spikes", (3, 16)), ("counts", (3,))):  # fewer and more steps than any layer has
        snn.execution = execution
        snn.step_mode = "s"
        data = case.data()
        assert_close(snn(*data), qcfs(*data))
        snn.step_mode = "m"
        for steps in windows:
            sequence = case.data(steps)
            mean = pytree.tree_map(lambda x: x.mean(0), sequence)
            assert_close(pytree.tree_map(lambda x: x.mean(0), snn(*sequence)), qcfs(*mean))
    snn.execution, snn.step_mode = "spikes", "s"


def net(function: Callable[..., Any], *shape: int, **layers: Any) -> Case:
    """A case of one input; its shape is (3, 6, 6) where none is given."""
    return Case(Net(function, **layers), [shape or (3, 6, 6)])


def conv(inputs: int = 3, outputs: int = 4, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, **{"padding": 1, **options})


def branches() -> dict[str, nn.Module]:
    """Three convolutions; with an activation after each, they have different timesteps and thresholds."""
    return {"a": conv(), "b": conv(), "c": conv(), "end": conv(4, 2)}


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


relu = F.relu
