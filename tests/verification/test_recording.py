"""Spikes per neuron and trains, against what the neurons themselves say."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import pascal_ext
from pascal_ext.verification.recording import mean_spikes, spike_trains


def network() -> tuple[pascal_ext.SpikingNetwork, list[torch.Tensor]]:
    model = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 8), nn.ReLU(), nn.Linear(8, 3))
    data = [torch.randn(5, 6), torch.randn(3, 6)]
    return pascal_ext.convert(model, data, {"1": 4, "3": 2}, progress=False), data


def test_mean_spikes_are_those_of_the_counts() -> None:
    snn, data = network()
    spikes = mean_spikes(snn, data)
    counts = snn.neurons["1"](snn.get_submodule("0")(torch.cat(data)).unsqueeze(0)).sum(0)
    assert list(spikes) == ["1", "3"]
    assert spikes["1"] == pytest.approx(counts.double().mean().item())
    snn.execution = "counts"
    assert mean_spikes(snn, data) == spikes
    assert snn.execution == "counts"


def test_trains_come_first_and_leave_the_network_alone() -> None:
    snn, data = network()
    snn.execution = "counts"
    trains = spike_trains(snn, data[0], neurons=24)
    assert {name: (len(train), len(train[0])) for name, train in trains.items()} == {"1": (4, 24), "3": (2, 8)}
    for train in trains.values():
        steps = torch.tensor(train)
        assert set(steps.unique().tolist()) <= {0, 1}
        assert bool((steps.diff(dim=0) <= 0).all())
    assert snn.execution == "counts"
    assert all(not neuron._forward_hooks for neuron in snn.neurons.values())


def test_a_network_for_sequences_is_left_as_it_was() -> None:
    snn, data = network()
    expected = mean_spikes(snn, data)
    snn.step_mode = "m"
    assert mean_spikes(snn, data) == expected
    assert snn.step_mode == "m"


def test_a_network_in_training_mode_runs_in_evaluation_mode_and_keeps_its_statistics() -> None:
    layers = [nn.Linear(6, 40), nn.ReLU(), nn.MaxPool1d(2), nn.BatchNorm1d(20), nn.Dropout(), nn.Linear(20, 8)]
    data = [torch.randn(5, 6), torch.randn(3, 6)]
    snn = pascal_ext.convert(nn.Sequential(*layers, nn.ReLU()).eval(), data, 4, progress=False)
    expected = mean_spikes(snn, data), spike_trains(snn, data[0])
    snn.train()
    before = copy.deepcopy(snn.state_dict())
    assert (mean_spikes(snn, data), spike_trains(snn, data[0])) == expected
    assert all(module.training for module in snn.modules())
    assert all(torch.equal(value, before[name]) for name, value in snn.state_dict().items())
