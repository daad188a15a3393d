"""Thresholds and batch norms in weights: the same currents, and never of what the layers no longer are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pascal_ext import QCFS, convert
from pascal_ext.network import exchanged
from pascal_ext.network.folding import call_normed, call_scaled
from tests.cases import alive, assert_close

CONVOLUTIONS = {
    "plain": (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)),
    "bare": (nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6, affine=False)),
    "grouped": (nn.Conv1d(4, 6, 3, groups=2, padding=1), nn.BatchNorm1d(6)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, groups=2, stride=2), nn.BatchNorm2d(6)),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(5, 7), (5, 3, 7)])
def test_linear_layers_keep_one_copy_of_their_weights(shape: tuple[int, ...], bias: bool) -> None:
    """And hooks see spikes go in, and the currents that they make come out."""
    layer, scale = nn.Linear(7, 4, bias=bias).double(), torch.tensor([0.3], dtype=torch.float64)
    spikes = (torch.rand(shape) < 0.5).double()
    with torch.no_grad():
        expected = layer(scale * spikes)
        assert_close(call_scaled(layer, spikes, scale), expected)
        assert layer not in exchanged._kept
        seen: list[Tensor] = []
        layer.register_forward_hook(lambda module, args, output: seen.extend((*args, output)))
        assert_close(call_scaled(layer, spikes, scale), expected)
    assert torch.equal(seen[0], spikes)
    assert_close(seen[1], expected)


@pytest.mark.parametrize("scale", [torch.tensor(0.3), torch.linspace(0.2, 0.8, 4)], ids=["scalar", "per channel"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_norms_go_with_convolutions(name: str, scale: Tensor) -> None:
    layer, norm = alive(nn.Sequential(*CONVOLUTIONS[name]))
    spikes = (torch.rand(5, 4, *[7] * (layer.weight.ndim - 2)) < 0.5).float()
    with torch.no_grad():
        expected = norm(call_scaled(layer, spikes, scale))
        torch.testing.assert_close(call_normed(layer, norm, spikes, scale), expected)
        norm.train()
        expected = norm(call_scaled(layer, spikes, scale))
        assert torch.equal(call_normed(layer, norm, spikes, scale), expected), "by the statistics of the batch"


def _double_weight(layer: Any, norm: Any) -> None:
    layer.weight.mul_(2)


def _other_statistics(layer: Any, norm: Any) -> None:
    norm.train()(torch.randn(8, 4, 5))
    norm.eval()


def _other_parameters(layer: Any, norm: Any) -> None:
    norm.bias += 1


def _other_epsilon(layer: Any, norm: Any) -> None:
    norm.eps = 0.5


def _patched(layer: Any, norm: Any) -> None:
    norm.forward = torch.tanh


@pytest.mark.parametrize("change", [_double_weight, _other_statistics, _other_parameters, _other_epsilon, _patched])
def test_norms_are_those_of_now(change: Callable[[Any, Any], None]) -> None:
    """What is kept from call to call is not kept longer than it is true."""
    layers = [nn.Conv1d(2, 4, 3), QCFS(4, 0.5), nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4), QCFS(4, 0.5), nn.Conv1d(4, 2, 1)]
    qcfs = alive(nn.Sequential(*layers))
    snn, x = convert(qcfs), torch.randn(3, 2, 9)
    with torch.no_grad():
        torch.testing.assert_close(snn(x), qcfs(x))
        for network in (qcfs, snn):
            torch.manual_seed(0)
            change(network.get_submodule("2"), network.get_submodule("3"))
        torch.testing.assert_close(snn(x), qcfs(x))


def test_hooks_see_the_norm() -> None:
    layers = [nn.Conv1d(2, 4, 3), QCFS(4, 0.5), nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4), QCFS(4, 0.5), nn.Conv1d(4, 2, 1)]
    snn, x = convert(alive(nn.Sequential(*layers))), torch.randn(3, 2, 9)
    seen: list[Tensor] = []
    with torch.no_grad():
        before = snn(x)
        handle = snn.get_submodule("3").register_forward_hook(lambda module, args, output: seen.append(output))
        torch.testing.assert_close(snn(x), before)
        handle.remove()
        assert torch.equal(snn(x), before)
    assert [len(currents) for currents in seen] == [12]
