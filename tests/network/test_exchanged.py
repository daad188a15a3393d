"""Other parameters for one call: nobody else gets them, and none that were kept are used once they are not true."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.utils import parametrizations, prune

from pascal_ext import QCFS, convert
from pascal_ext.network.exchanged import call_with
from pascal_ext.network.folding import call_scaled
from tests.cases import alive


def two_convolutions() -> nn.Module:
    convolutions = [nn.Conv2d(3, 8, 3), QCFS(4, 0.5), nn.Conv2d(8, 8, 3), QCFS(4, 0.7), nn.Conv2d(8, 8, 1)]
    return alive(nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(128, 5)))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(6, 3, 8, 8)


@pytest.mark.parametrize("hooked", [False, True])
def test_threads_share_a_network(hooked: bool, x: Tensor) -> None:
    snn = convert(two_convolutions())
    if hooked:
        snn.get_submodule("2").register_forward_hook(lambda *_: None)
    before = {name: tensor.clone() for name, tensor in snn.state_dict().items()}
    with torch.no_grad():
        expected = snn(x)
    wrong: list[str] = []

    def use() -> None:
        with torch.no_grad():
            for _ in range(50):
                try:
                    assert torch.equal(snn(x), expected)
                except Exception as error:
                    wrong.append(repr(error))

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert all(torch.equal(tensor, before[name]) for name, tensor in snn.state_dict().items())


def _weight_norm(layer: Any) -> None:
    parametrizations.weight_norm(layer)


def _pruned(layer: Any) -> None:
    prune.random_unstructured(layer, "weight", 0.5)


def _compiled(layer: Any) -> None:
    layer.compile(backend="eager")


def _patched(layer: Any) -> None:
    forward = layer.forward
    layer.forward = lambda x: forward(x)


@pytest.mark.parametrize("change", [_weight_norm, _pruned, _compiled, _patched])
def test_layers_of_every_sort(change: Callable[[Any], None]) -> None:
    layer, x = nn.Conv1d(2, 3, 3), torch.randn(4, 2, 7)
    change(layer)
    weight = torch.randn(3, 2, 3)
    expected = nn.functional.conv1d(x, weight, layer.bias)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    assert torch.equal(call_with(layer, {"weight": weight}, x), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


def test_hooks_get_the_layer() -> None:
    layer, x = nn.Conv1d(2, 3, 3), torch.randn(4, 2, 7, requires_grad=True)
    seen: list[nn.Module] = []
    layer.register_forward_pre_hook(lambda module, args: seen.append(module))
    layer.register_forward_pre_hook(lambda module, args, kwargs: seen.append(module), with_kwargs=True)
    layer.register_forward_hook(lambda module, args, output: seen.append(module))
    layer.register_full_backward_pre_hook(lambda module, grads: seen.append(module))
    layer.register_full_backward_hook(lambda module, *grads: seen.append(module))
    call_with(layer, {"weight": torch.randn(3, 2, 3)}, x).sum().backward()
    assert len(seen) == 5
    assert all(module is layer for module in seen)


def _handed_in(layer: nn.Conv1d, call: Callable[[], Tensor]) -> Tensor:
    return functional_call(_Called(layer, call), {"layer.weight": torch.randn(64, 64, 3)}, ())


class _Called(nn.Module):
    def __init__(self, layer: nn.Module, call: Callable[[], Tensor]) -> None:
        super().__init__()
        self.layer, self.call = layer, call

    def forward(self) -> Tensor:
        return self.call()


def _replaced(layer: nn.Conv1d, call: Callable[[], Tensor]) -> Tensor:
    layer.weight = None  # type: ignore[assignment]  # which frees its memory
    layer.weight = nn.Parameter(torch.randn(64, 64, 3))
    return call()


def _rounded(layer: nn.Conv1d, call: Callable[[], Tensor]) -> Tensor:
    layer.weight.data = torch.randn(64, 64, 3)
    call()
    layer.half().float()  # sets the data of the same parameter
    return call()


def _shared(layer: nn.Conv1d, call: Callable[[], Tensor]) -> Tensor:
    layer.weight = nn.Parameter(torch.randn(64, 64, 3))
    layer.weight.mul_(2)
    call()
    layer.weight = nn.Parameter(layer.weight.data)
    layer.weight.mul_(2)
    return call()


@pytest.mark.parametrize("change", [_handed_in, _replaced, _rounded, _shared])
@torch.no_grad()
def test_other_weights_in_the_same_memory(change: Callable[[nn.Conv1d, Callable[[], Tensor]], Tensor]) -> None:
    layer, spikes, scale = nn.Conv1d(64, 64, 3), (torch.rand(2, 64, 5) < 0.5).float(), torch.tensor(0.25)

    def difference() -> Tensor:
        return (call_scaled(layer, spikes, scale) - layer(spikes * scale)).abs().max()

    for _ in range(20):
        assert change(layer, difference) < 1e-4


@torch.inference_mode()
def test_inference_tensors_are_changed(x: Tensor) -> None:
    qcfs = two_convolutions()
    snn = convert(qcfs)
    snn(x)
    for network in (qcfs, snn):
        network.get_submodule("2").weight.mul_(3)
    torch.testing.assert_close(snn(x), qcfs(x))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_several_weights_at_once(x: Tensor) -> None:
    qcfs = two_convolutions()
    snn, weights = convert(qcfs), torch.randn(3, 8, 8, 3, 3)
    with torch.no_grad():
        found = vmap(lambda weight: functional_call(snn, {"2.weight": weight}, (x,)))(weights)
        expected = [functional_call(qcfs, {"2.weight": weight}, (x,)) for weight in weights]
        torch.testing.assert_close(found, torch.stack(expected))
        torch.testing.assert_close(snn(x), qcfs(x))


class _Wrapped(nn.Module):
    """As a layer with low-rank adaptation is."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.layer(x)


@pytest.mark.parametrize("name", ["2", "6"], ids=["convolution", "linear"])
@pytest.mark.parametrize("thresholds", [0.5, torch.linspace(0.4, 0.6, 8)], ids=["scalar", "per channel"])
def test_other_layers_in_the_place_of_those_that_read_spikes(name: str, thresholds: Any, x: Tensor) -> None:
    qcfs = two_convolutions()
    qcfs[3] = QCFS(4, thresholds)
    qcfs[4] = nn.Identity()
    qcfs[6] = nn.Linear(128, 5)
    snn = convert(qcfs)
    for network in (qcfs, snn):
        network.set_submodule(name, _Wrapped(network.get_submodule(name)))
    with torch.no_grad():
        torch.testing.assert_close(snn(x), qcfs(x))


def test_an_exchanged_forward_is_called(x: Tensor) -> None:
    snn = convert(nn.Sequential(nn.Flatten(), nn.Linear(192, 8), QCFS(4), nn.Linear(8, 5)))
    layer: Any = snn.get_submodule("3")
    with torch.no_grad():
        before = snn(x)
        layer.forward = lambda spikes: nn.Linear.forward(layer, spikes) + 100
        torch.testing.assert_close(snn(x), before + 100)
