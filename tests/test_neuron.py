"""The PASC-IF neuron as a module."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from pascal_ext import QCFS, PascIF, functional
from pascal_ext.errors import InvalidArgumentError, PlanError
from pascal_ext.ops import timefold

PER_CHANNEL = torch.tensor([0.2, 1.0, 6.0, -0.8])


def currents(window: int = 3) -> Tensor:
    return torch.randn(window, 16, 4, 3, 3)


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
@pytest.mark.parametrize("threshold", [0.7, -0.7, PER_CHANNEL])
def test_spikes_are_those_of_the_function(threshold: Tensor | float, backend: str) -> None:
    x_seq = currents()
    spikes = PascIF(5, threshold, backend=backend)(x_seq)
    assert torch.equal(spikes, functional.pasc_if(x_seq, threshold, 5, backend))


@pytest.mark.parametrize("threshold", [0.7, -0.7, PER_CHANNEL])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_counts_are_what_the_spikes_stand_for(dtype: torch.dtype, threshold: Tensor | float) -> None:
    """λ times the temporal mean of the train, rounded as QCFS rounds it."""
    x_seq = currents().to(dtype)
    neuron = PascIF(8, threshold)
    spikes = neuron(x_seq)
    neuron.execution = "counts"
    activations = neuron(x_seq)
    assert activations.shape == (1, *x_seq.shape[1:])
    assert activations.dtype == spikes.dtype == dtype
    exact = timefold.scale(spikes.double().mean(0), neuron.v_threshold.double())
    torch.testing.assert_close(activations[0].double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("levels", [1, 3, 4, 16])
@pytest.mark.parametrize("threshold", [1.3, -0.7, PER_CHANNEL.double()])
def test_it_decodes_to_the_activation_it_came_from(threshold: Tensor | float, levels: int) -> None:
    """λ · mean(s) is QCFS(z), whatever the window that z arrives in."""
    qcfs = QCFS(levels, threshold).double()
    neuron = PascIF.from_qcfs(qcfs)
    for window in (1, 2, 5):
        x_seq = currents(window).double()
        expected = qcfs(x_seq.mean(0))
        scale = neuron.v_threshold if neuron.v_threshold.ndim == 0 else neuron.v_threshold.view(4, 1, 1)
        torch.testing.assert_close(scale * neuron(x_seq).mean(0), expected, rtol=0, atol=1e-12)
        assert torch.equal(neuron(x_seq).sum(0).int(), qcfs.counts(x_seq.mean(0)))


def test_from_qcfs_shares_nothing() -> None:
    qcfs = QCFS(6, PER_CHANNEL)
    neuron = PascIF.from_qcfs(qcfs, backend="reference")
    assert (neuron.levels, neuron.backend, neuron.execution) == (6, "reference", "spikes")
    with torch.no_grad():
        qcfs.threshold.zero_()
    assert torch.equal(neuron.v_threshold, PER_CHANNEL)
    assert not neuron.v_threshold.requires_grad


def test_it_keeps_no_state_between_calls() -> None:
    neuron, x_seq = PascIF(4, 0.5), currents()
    first = neuron(x_seq)
    assert torch.equal(neuron(x_seq), first)
    neuron.reset()
    assert torch.equal(neuron(x_seq), first)


def test_the_threshold_is_a_buffer() -> None:
    neuron = PascIF(4, PER_CHANNEL)
    assert list(neuron.state_dict()) == ["v_threshold"]
    assert list(neuron.parameters()) == []
    other = PascIF(4, torch.ones(4))
    other.load_state_dict(neuron.state_dict())
    assert torch.equal(other.v_threshold, PER_CHANNEL)
    assert neuron.double().v_threshold.dtype == torch.float64


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda neuron: pickle.loads(pickle.dumps(neuron))])
def test_copies(copied: object) -> None:
    neuron = PascIF(4, PER_CHANNEL, backend="torch", execution="counts")
    twin = copied(neuron)
    x_seq = currents()
    assert torch.equal(twin(x_seq), neuron(x_seq))
    twin.v_threshold.zero_()
    assert torch.equal(neuron.v_threshold, PER_CHANNEL)


def test_it_works_inside_a_sequence_of_modules() -> None:
    layer = nn.Sequential(PascIF(4, 0.5), PascIF(2, 0.5))
    assert layer(currents()).shape == (2, 16, 4, 3, 3)


def test_repr() -> None:
    assert repr(PascIF(4, 0.5)) == "PascIF(levels=4, threshold=0.5, backend=auto)"
    assert repr(PascIF(4, PER_CHANNEL)) == "PascIF(levels=4, threshold=[4 channels, -0.8..6], backend=auto)"


def test_arguments_are_checked_when_the_neuron_is_made() -> None:
    with pytest.raises(PlanError, match="levels must be at least 1, got 0"):
        PascIF(0)
    with pytest.raises(InvalidArgumentError, match="backend='gpu' is unknown"):
        PascIF(4, backend="gpu")
    with pytest.raises(InvalidArgumentError, match=r"execution='rate' is unknown; choose one of \['spikes'"):
        PascIF(4, execution="rate")


def test_the_threshold_has_to_fit_the_currents() -> None:
    with pytest.raises(InvalidArgumentError, match=r"shape \(4,\).*each of the 5 channels"):
        PascIF(4, PER_CHANNEL)(torch.rand(2, 3, 5))


def test_levels_are_those_of_the_conversion() -> None:
    neuron = PascIF(4)
    with pytest.raises(AttributeError, match="levels"):
        neuron.levels = 8  # type: ignore[misc]  # that it cannot be set is tested
    assert neuron.levels == 4
