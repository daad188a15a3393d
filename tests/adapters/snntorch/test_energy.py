"""What networks of snnTorch's own neurons cost, in either version."""

from __future__ import annotations

import snntorch
import snntorch.utils
import torch
from torch import nn

from pascal_ext.energy import measure

T = 6


def test_spikes_of_snntorchs_neurons_are_counted() -> None:
    neurons = [snntorch.Leaky(beta=0.9, init_hidden=True) for _ in range(2)]
    network = nn.Sequential(nn.Linear(5, 30), neurons[0], nn.Linear(30, 3), neurons[1])
    data = [4 * torch.rand(4, 5), 4 * torch.rand(2, 5)]
    expected = 0
    with torch.no_grad():
        for x in data:
            snntorch.utils.reset(network)
            for _ in range(T):
                expected += 3 * int(torch.count_nonzero(network[:2](x)))
    for _ in range(2):
        found = measure(network, data, timesteps=T, reset=snntorch.utils.reset, progress=False)
        assert round(6 * found.layers["2"].synaptic_operations) == expected > 0
        assert found.macs == found.layers["0"].macs == T * 5 * 30
