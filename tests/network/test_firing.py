"""Neurons that run on counts are called without sequences, and as modules where a hook asks for that."""

from __future__ import annotations

import copy
import inspect

import torch
from torch import Tensor, nn

from pascal_ext import QCFS, SpikingNetwork, convert


def network() -> tuple[nn.Sequential, SpikingNetwork, Tensor]:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), QCFS(4, torch.tensor([0.5, 1.0, 1.5, 2.0])))
    qcfs = nn.Sequential(block, nn.Flatten(), nn.Linear(4 * 36, 5), QCFS(3, 0.7), nn.Linear(5, 2)).eval()
    snn = convert(qcfs)
    snn.execution = "counts"
    return qcfs, snn, torch.randn(6, 3, 8, 8)


@torch.no_grad()
def test_hooks_of_a_neuron_see_sequences_that_nothing_overwrites() -> None:
    qcfs, snn, x = network()
    seen: list[Tensor] = []
    before: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        seen.extend((args[0], output))
        before.extend((args[0].clone(), output.clone()))

    for neuron in snn.neurons.values():
        neuron.register_forward_hook(keep)
    assert torch.equal(snn(x), qcfs(x))
    assert [tensor.shape for tensor in seen] == [(1, 6, 4, 6, 6)] * 2 + [(1, 6, 5)] * 2
    assert all(map(torch.equal, seen, before))


@torch.no_grad()
def test_a_hook_may_change_what_a_neuron_answers() -> None:
    _, snn, x = network()
    handle = next(iter(snn.neurons.values())).register_forward_hook(lambda *args: 0 * args[-1])
    silenced = snn(x)
    assert torch.equal(silenced, snn(torch.zeros_like(x)))
    handle.remove()
    assert not torch.equal(snn(x), silenced)


@torch.no_grad()
def test_a_neuron_may_be_replaced() -> None:
    """By what records what it is called with, say."""
    qcfs, snn, x = network()
    calls: list[Tensor] = []

    class Recorder(nn.Module):
        def __init__(self, neuron: nn.Module) -> None:
            super().__init__()
            self.neuron = neuron

        def forward(self, x_seq: Tensor) -> Tensor:
            calls.append(x_seq)
            answer: Tensor = self.neuron(x_seq)
            return answer

    snn.set_submodule("0.2", Recorder(snn.get_submodule("0.2")))
    other = snn.get_submodule("3")
    other.forward = Recorder(copy.copy(other)).forward
    assert torch.equal(snn(x), qcfs(x))
    assert [call.shape for call in calls] == [(1, 6, 4, 6, 6), (1, 6, 5)]


@torch.no_grad()
def test_modules_and_parameters_are_looked_up_in_every_call() -> None:
    qcfs, snn, x = network()
    last, other = str(len(qcfs) - 1), nn.Linear(5, 2)
    for model in (qcfs, snn):
        setattr(model, last, other)
        model.get_submodule("0.0").weight = nn.Parameter(2 * model.get_submodule("0.0").weight)
    for execution in ("counts", "spikes"):
        snn.execution = execution
        torch.testing.assert_close(snn(x), qcfs(x))


def test_a_module_is_looked_up_once() -> None:
    """``nn.Module`` takes longer to find an attribute than torch to start an operation."""
    _, snn, _ = network()
    source = inspect.getsource(snn._run_counts)
    for path in ("0", "2", "3", "4"):
        assert source.count(f"getattr(self, '{path}')") + source.count(f'getattr(self, "{path}")') == 1
