from __future__ import annotations

import copy
import pickle

import pytest
import torch
from spikingjelly.activation_based import base, functional, layer
from torch import Tensor, nn

from pascal_ext import QCFS
from pascal_ext.adapters.spikingjelly import PascalIFNode
from pascal_ext.adapters.spikingjelly.compat import HAS_RECIPES
from pascal_ext.errors import InvalidArgumentError
from pascal_ext.functional import pasc_if

PER_CHANNEL = torch.tensor([0.5, -1.25, 2.0], dtype=torch.float64)


@pytest.mark.parametrize("threshold", [1.0, 0.75, -0.5, PER_CHANNEL], ids=["1", "0.75", "-0.5", "per channel"])
@pytest.mark.parametrize(("window", "levels"), [(1, 1), (1, 4), (8, 4), (3, 7)])
def test_equals_the_functional(threshold: float | Tensor, window: int, levels: int) -> None:
    currents = torch.randn(window, 5, 3, 4, dtype=torch.float64)
    node = PascalIFNode(levels, threshold).double()
    spikes = node(currents)
    assert spikes.shape == (levels, 5, 3, 4)
    assert torch.equal(spikes, pasc_if(currents, threshold, levels))
    reference = PascalIFNode(levels, threshold, backend="reference").double()
    assert torch.equal(spikes, reference(currents))


def test_is_what_spikingjelly_expects() -> None:
    node = PascalIFNode(4, 0.5)
    assert isinstance(node, base.MemoryModule)
    assert isinstance(node, base.StepModule)
    assert node.step_mode == "m"
    assert list(node.named_memories()) == []
    assert set(node.state_dict()) == {"v_threshold"}
    assert repr(node) == "PascalIFNode(levels=4, threshold=0.5, backend=auto, step_mode=m)"


def hand_built(levels: int) -> tuple[nn.Sequential, nn.Sequential]:
    """A spiking network written by hand, and the QCFS network that it computes."""
    threshold = torch.tensor([0.5, 0.75, 1.0, 1.5])
    snn = nn.Sequential(
        layer.Conv2d(2, 4, 3, padding=1),
        layer.BatchNorm2d(4),
        PascalIFNode(levels, 1.0),
        layer.MaxPool2d(2),
        layer.Conv2d(4, 4, 3, padding=1, groups=2),
        PascalIFNode(2 * levels, threshold),
        layer.AvgPool2d(2),
        layer.Flatten(),
        layer.Linear(16, 3),
    ).double()
    functional.set_step_mode(snn, "m")
    ann = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        QCFS(levels, 1.0),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        QCFS(2 * levels, threshold),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    ).double()
    for mine, theirs in zip(snn, ann, strict=True):
        if not isinstance(theirs, QCFS):
            theirs.load_state_dict(mine.state_dict())
    scale = ann[5].threshold.detach().repeat_interleave(4)  # spikes are 0 and 1: the weights that follow have the λ
    snn[-1].weight.data.mul_(scale)
    return snn.eval(), ann.eval()


@pytest.mark.parametrize("levels", [1, 4, 5])
def test_in_a_network_written_by_hand(levels: int, host_warnings: list[str]) -> None:
    snn, ann = hand_built(levels)
    x = torch.rand(3, 2, 8, 8, dtype=torch.float64)
    out = snn(x.unsqueeze(0).repeat(5, 1, 1, 1, 1))
    assert out.shape == (2 * levels, 3, 3)
    torch.testing.assert_close(out.mean(0), ann(x), rtol=0, atol=1e-12)
    functional.reset_net(snn)
    functional.detach_net(snn)
    assert torch.equal(snn(x.unsqueeze(0).repeat(5, 1, 1, 1, 1)), out)
    assert host_warnings == []


def test_single_steps_are_refused_where_they_are_taken() -> None:
    snn, _ = hand_built(4)
    functional.set_step_mode(snn, "s")
    with pytest.raises(InvalidArgumentError, match=r"answers when its window is complete.*step_mode=\"m\""):
        snn(torch.rand(3, 2, 8, 8, dtype=torch.float64))
    with pytest.raises(InvalidArgumentError, match="window is complete"):
        PascalIFNode(4, step_mode="s")(torch.rand(1, 3))
    with pytest.raises(ValueError, match="step_mode can only be"):
        PascalIFNode(4, step_mode="sequence")


def test_stands_for_a_qcfs() -> None:
    qcfs = QCFS(3, PER_CHANNEL)
    node = PascalIFNode.from_qcfs(qcfs)
    currents = torch.randn(4, 6, 3, dtype=torch.float64)
    for twin in (node, copy.deepcopy(node), pickle.loads(pickle.dumps(node))):
        torch.testing.assert_close(PER_CHANNEL * twin(currents).mean(0), qcfs(currents.mean(0)), rtol=0, atol=1e-12)
    assert node.v_threshold.data_ptr() != qcfs.threshold.data_ptr()


def test_moves_copies_and_loads_like_any_module() -> None:
    node = PascalIFNode(4, PER_CHANNEL)
    assert node.float().v_threshold.dtype == torch.float32
    assert node.to("meta").v_threshold.is_meta
    twin = PascalIFNode(4, torch.ones(3))
    twin.load_state_dict(PascalIFNode(4, PER_CHANNEL).state_dict())
    assert torch.equal(twin.v_threshold, PER_CHANNEL.float())


def test_backends() -> None:
    node = PascalIFNode(4, backend="torch")
    assert node.backend == "torch"
    assert {"auto", "torch", "reference"} <= set(node.supported_backends)
    node.backend = "reference"
    assert "backend=reference" in repr(node)
    with pytest.raises(InvalidArgumentError, match="backend='numpy' is unknown"):
        node.backend = "numpy"
    with pytest.raises(InvalidArgumentError, match="backend='numpy' is unknown"):
        PascalIFNode(4, backend="numpy")


@pytest.mark.skipif(HAS_RECIPES, reason="functional.set_backend is of SpikingJelly 0.0.0.0.14")
def test_set_backend_of_the_host(host_warnings: list[str]) -> None:
    node = PascalIFNode(4)
    functional.set_backend(node, "reference")
    assert node.backend == "reference"
    assert host_warnings == []
    functional.set_backend(node, "no such backend")
    assert node.backend == "reference"
    assert len(host_warnings) == 1


@pytest.mark.skipif(not HAS_RECIPES, reason="explicit states are of SpikingJelly 2.x")
def test_functional_forward_of_the_host() -> None:
    node = PascalIFNode(4)
    currents = torch.randn(3, 5)
    outputs, states = base.to_functional_forward(node)((currents,), ())
    assert torch.equal(outputs[0], node(currents))
    assert states == ()
