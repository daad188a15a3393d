"""What SpikingJelly's own converted networks cost, in either version: counted as literally as ours."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import pascal_ext
from pascal_ext.adapters.spikingjelly import registration, stock
from pascal_ext.adapters.spikingjelly.compat import load
from pascal_ext.energy import measure

T = 6


def literal_operations(layer: nn.Module, x: Tensor) -> int:
    """Each output adds the inputs that are not zero: counted with weights of one, on ones."""
    spikes = (x != 0).double()
    if isinstance(layer, nn.Linear):
        return int(spikes.sum()) * layer.out_features
    assert isinstance(layer, nn.Conv2d)
    ones = torch.ones(layer.weight.shape, dtype=torch.float64)
    return round(nn.functional.conv2d(spikes, ones, None, layer.stride, layer.padding).sum().item())


@pytest.mark.parametrize("method", stock.STOCK_METHODS)
def test_stock_networks_are_counted_like_ours(method: str) -> None:
    """Their scalers turn spikes into {0, c}, or {0, c} for each channel: still one accumulate a synapse."""
    layers = [nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3, stride=2), nn.ReLU()]
    ann = nn.Sequential(*layers, nn.Flatten(), nn.Linear(36, 5)).eval()
    data = [(torch.rand(size, 1, 8, 8), torch.zeros(size)) for size in (4, 2)]
    network = stock.convert_stock(ann, data, method)
    weighted = {name: m for name, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    assert len(weighted) == 3
    first, *spiking = weighted
    expected: dict[str, int] = dict.fromkeys(spiking, 0)

    def count(layer: nn.Module, args: tuple[Tensor, ...], name: str) -> None:
        expected[name] += literal_operations(layer, args[0])

    handles = [
        weighted[name].register_forward_pre_hook(lambda *seen, name=name: count(*seen, name)) for name in spiking
    ]
    with torch.no_grad():
        for images, _ in data:
            for _ in stock.running_mean(network, images, T):
                pass
    for handle in handles:
        handle.remove()
    found = measure(network, data, timesteps=T, reset=stock.reset, progress=False)
    assert {name: round(6 * found.layers[name].synaptic_operations) for name in spiking} == expected
    assert all(expected.values())
    assert found.macs == found.layers[first].macs == T * measure(ann, data, progress=False).layers["0"].macs
    again = measure(network, data, timesteps=T, progress=False)  # resets by itself
    assert again == found


def test_our_network_in_spikingjellys_neurons() -> None:
    """The neurons that the adapter registers count as the core's do."""
    ann = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4)).eval()
    data = [torch.rand(4, 1, 8, 8)]
    ours = measure(pascal_ext.convert(ann, data, 4, progress=False), data, progress=False)
    registration.register()
    try:
        network = stock.convert_by_mode(ann, data, "pascal", levels=4, progress=False)
    finally:
        registration.unregister()
    theirs = measure(network, data, progress=False)
    assert theirs.layers == ours.layers
    assert theirs.neurons == ours.neurons


def test_networks_of_integrate_and_fire_neurons() -> None:
    network = nn.Sequential(nn.Linear(5, 30), load("neuron").IFNode(), nn.Linear(30, 3))
    found = measure(network, [4 * torch.rand(4, 5)], timesteps=T, progress=False)
    assert found.macs == T * 5 * 30
    assert found.synaptic_operations == pytest.approx(found.firing_rate * T * 30 * 3)
    assert found.synaptic_operations > 0
