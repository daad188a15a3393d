"""torchvision's convolutional networks: random weights, thresholds and levels, and the same function in spikes."""

from __future__ import annotations

import copy
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pascal_ext import convert, verify
from pascal_ext.activations import qcfs_layers
from tests.cases import TOLERANCE, alive, assert_close, quantised

# name -> image size, the smallest at which every feature map still has some pixels
EXACT = {
    "resnet18": 64,
    "resnet34": 64,
    "resnext50_32x4d": 64,
    "vgg11_bn": 32,
    "alexnet": 64,
    "mobilenet_v2": 64,
    "densenet121": 64,
    "googlenet": 64,
    "squeezenet1_1": 64,
    "shufflenet_v2_x1_0": 64,
    "mnasnet1_0": 64,
    "regnet_x_400mf": 64,
}
PER_CHANNEL = ("resnet18", "resnext50_32x4d", "mobilenet_v2", "squeezenet1_1", "shufflenet_v2_x1_0", "regnet_x_400mf")
ANALOG = {"regnet_y_400mf": 64, "mobilenet_v3_small": 64}  # squeeze-excitation, hard swish
CLASSES = 10
BATCH = 2

pytestmark = pytest.mark.filterwarnings("ignore:layer .* is dead")


def build(torchvision: ModuleType, name: str) -> nn.Module:
    options: dict[str, Any] = {"num_classes": CLASSES}
    if name == "googlenet":
        options |= {"aux_logits": False, "init_weights": False}
    elif name == "vgg11_bn":
        options |= {"init_weights": False}
    return alive(torchvision.models.get_model(name, weights=None, **options)).double()


def images(size: int) -> Tensor:
    return torch.randn(BATCH, 3, size, size, dtype=torch.float64)


@pytest.mark.parametrize("name", EXACT)
def test_the_same_function(name: str, torchvision: ModuleType) -> None:
    x = images(EXACT[name])
    qcfs = quantised(build(torchvision, name), [x], "per-channel" if name in PER_CHANNEL else "scalar")
    snn = convert(qcfs)
    assert not snn.analog_nodes
    for execution in ("spikes", "counts"):
        snn.execution = execution
        report = verify(qcfs, snn, [x], progress=False)
        assert report.exact
        assert report.max_abs_error < TOLERANCE
    assert sum(layer.firing_rate > 0 for layer in report.layers.values()) > 0.9 * len(report.layers)

    # In float32 sums round, but every prediction is the same.
    ann32, snn32 = copy.deepcopy(qcfs).float(), copy.deepcopy(snn).float()
    snn32.execution = "spikes"
    assert verify(ann32, snn32, [x.float()], progress=False).mismatched_predictions == 0


@pytest.mark.parametrize("name", ANALOG)
def test_products_and_hard_swish_run_as_in_the_ann(name: str, torchvision: ModuleType) -> None:
    x = images(ANALOG[name])
    qcfs = quantised(build(torchvision, name), [x])
    snn = convert(qcfs, on_unsupported="analog")
    assert snn.analog_nodes
    with torch.no_grad():
        assert_close(snn(x), qcfs(x))
    assert qcfs_layers(qcfs).keys() == snn.plan.keys()
