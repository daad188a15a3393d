from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from snntorch import spikegen
from torch import Tensor, nn

from pascal_ext.adapters.snntorch import PascalNetwork, latency_currents, winner_spikes
from pascal_ext.errors import InvalidArgumentError


@given(steps=st.integers(2, 40), seed=st.integers(0, 100))
def test_latency_code_is_undone_to_half_a_step(steps: int, seed: int) -> None:
    data = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(seed)).clamp_min(0.01)
    spikes = spikegen.latency(data, num_steps=steps, linear=True, normalize=True)
    decoded = latency_currents(spikes).mean(0)
    assert (decoded - data).abs().max() <= 0.5 / (steps - 1) + 1e-5


def test_own_intensities() -> None:
    data, tau, smallest = torch.tensor([[1.0, 0.03, 0.015]]), 3.0, 0.01
    spikes = spikegen.latency(data, num_steps=12, tau=tau, threshold=smallest, bypass=True)
    times = torch.arange(12).clamp_min(0.25)
    decoded = latency_currents(spikes, smallest / (1 - torch.exp(-times / tau))).mean(0)
    torch.testing.assert_close(decoded[0, 1:], data[0, 1:], rtol=0.3, atol=0)
    values = [0.75, 0.5, 0.3]
    for numbers in (values, tuple(values)):
        spikes = torch.eye(3, dtype=torch.float64).unsqueeze(1)
        assert torch.equal(latency_currents(spikes, numbers), latency_currents(spikes, spikes.new_tensor(values)))


def test_latency_coded_network_answers_what_was_coded(snn: PascalNetwork, qcfs: nn.Module, images: Tensor) -> None:
    spikes = spikegen.latency(images, num_steps=64, linear=True, normalize=True)
    currents = latency_currents(spikes.double())
    torch.testing.assert_close(snn(currents).mean(0), qcfs(currents.mean(0)), rtol=0, atol=1e-9)


def test_latency_of_one_step_and_of_booleans() -> None:
    spikes = torch.tensor([[[1.0, 0.0]]])
    assert torch.equal(latency_currents(spikes), spikes)
    assert torch.equal(latency_currents(spikes.bool()), spikes)


@pytest.mark.parametrize(("shape", "intensities"), [((), None), ((0, 2), None), ((3, 2), torch.ones(2))])
def test_latency_refuses(shape: tuple[int, ...], intensities: Tensor | None) -> None:
    with pytest.raises(InvalidArgumentError, match="step"):
        latency_currents(torch.zeros(shape), intensities)


def test_the_winner_takes_all() -> None:
    currents = torch.randn(5, 7, 3)
    spikes = winner_spikes(currents)
    assert torch.equal(spikes.sum(2), torch.ones(5, 7))
    assert torch.equal(spikes.argmax(2), currents.mean(0).argmax(1).expand(5, 7))
    maps = winner_spikes(torch.randn(5, 7, 3, 2, 2))
    assert torch.equal(maps.sum(2), torch.ones(5, 7, 2, 2))
    with pytest.raises(InvalidArgumentError, match=r"\[7, 3\]"):
        winner_spikes(torch.randn(7, 3))
