"""Thresholds below zero: a network turned around computes the same function, before a calibration and after it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pascal_ext import QCFS, calibrate, convert, replace_activations, verify
from pascal_ext.activations import qcfs_layers
from pascal_ext.errors import InvalidArgumentError
from tests.cases import alive


def network() -> nn.Module:
    layers = [nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU6(), nn.Flatten(), nn.Linear(6 * 36, 40), nn.ReLU()]
    return alive(nn.Sequential(*layers, nn.Linear(40, 5)).double())


def turned(qcfs: nn.Module, channels: Tensor) -> nn.Module:
    """The same function, with the other sign in some channels of the first activation."""
    other = copy.deepcopy(qcfs)
    sign = 1 - 2 * channels.double()
    norm, activation, following = (other.get_submodule(name) for name in ("1", "2", "4"))
    with torch.no_grad():
        norm.weight *= sign
        norm.bias *= sign
        activation.threshold.data = activation.threshold * (sign if len(set(sign.tolist())) > 1 else sign[0])
        following.weight *= sign.repeat_interleave(36)
    return other


ALL, SOME = torch.ones(6, dtype=torch.bool), torch.tensor([True, False, True, False, False, True])
OPTIONS = [
    {},
    {"method": "max"},
    {"per_channel": True},
    {"correct": "bias"},
    {"correct": "bias", "per_channel": True},
    {"correct": "bias", "per_channel": "auto"},
]


CASES = [(ALL, options) for options in OPTIONS] + [(SOME, options) for options in OPTIONS if "per_channel" in options]


@pytest.mark.parametrize(("channels", "options"), CASES)
def test_a_network_turned_around_is_the_same_after_a_calibration(channels: Tensor, options: dict[str, Any]) -> None:
    qcfs = replace_activations(network(), 4)
    other = turned(qcfs, channels)
    data = [torch.randn(160, 2, 8, 8, dtype=torch.float64) for _ in range(2)]
    assert torch.equal(qcfs(data[0]), other(data[0]))
    for model in (qcfs, other):
        calibrate(model, data, progress=False, **options)
    thresholds = [qcfs_layers(model)["2"].threshold.detach() for model in (qcfs, other)]
    assert torch.equal(thresholds[0].abs(), thresholds[1].abs())
    assert torch.equal(thresholds[0] != thresholds[1], channels if thresholds[0].ndim else channels[0])
    torch.testing.assert_close(other(data[0]), qcfs(data[0]))
    assert verify(other, convert(other), data[:1], progress=False).exact


@pytest.mark.parametrize("correct", [None, "bias"])
def test_one_threshold_for_channels_of_both_signs_is_refused(correct: str | None) -> None:
    model = replace_activations(nn.Sequential(nn.Conv2d(2, 6, 3), QCFS(4, 1.0 - 2 * SOME.float())))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InvalidArgumentError, match=r"layer '1' are negative in 3 of 6 channels.*per_channel=True"):
        calibrate(model, [torch.randn(4, 2, 8, 8)], correct=correct, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_dead_layer_keeps_its_sign() -> None:
    model = nn.Sequential(QCFS(4, -2.0))
    with pytest.warns(UserWarning, match=r"layer '0' is dead"):
        calibrate(model, [torch.rand(4, 3)], progress=False)
    assert model[0].threshold.item() == -2.0
