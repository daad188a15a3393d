"""The spikes go on behind the first neurons, and nobody can tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pascal_ext import QCFS, convert
from pascal_ext.network.shared_layers import counts_of, train_of_layer
from pascal_ext.network.spiking_network import SpikingNetwork
from pascal_ext.neuron import PascIF
from pascal_ext.ops.pasc_if import Reference
from tests.cases import Net, quantised, relu, tensors
from tests.refused import ANALOG
from tests.zoo import EXACT


class Calls:
    """How many rows each call of a layer has had."""

    def __init__(self, layer: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        forward = layer.forward
        monkeypatch.setattr(layer, "forward", lambda x, *args: self.rows.append(len(x)) or forward(x, *args))


def small(pool: nn.Module | None = None) -> SpikingNetwork:
    """Convolution, neurons, and pool, convolution, neurons, convolution; in float32, in one piece."""
    between = [pool] if pool else []
    layers = [nn.Conv1d(1, 4, 3), QCFS(4, 0.5), *between, nn.Conv1d(4, 4, 3), QCFS(4, 0.5), nn.Conv1d(4, 2, 1)]
    snn = convert(nn.Sequential(*layers))
    snn.chunk = None
    return snn


@pytest.mark.filterwarnings("ignore:layer .* is dead")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", {**ANALOG, **EXACT})
def test_the_same_answers(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "average pools 3d" and dtype == torch.bfloat16:
        pytest.skip("torch has no such pool in bfloat16 on a CPU")
    case = {**ANALOG, **EXACT}[name]
    kinds = {"on_unsupported": "analog"} if name in ANALOG else {}
    qcfs = quantised(case.build(), case.data())
    snn = convert(qcfs, **kinds).to(dtype)
    inputs = pytree.tree_map(lambda x: x.to(dtype) if x.is_floating_point() else x, case.data())
    with torch.no_grad():
        found = tensors(snn(*inputs))
        monkeypatch.setattr(snn, "_continues", lambda *_: False)
        for ours, whole in zip(found, tensors(snn(*inputs)), strict=True):
            assert ours.dtype == whole.dtype
            assert torch.equal(ours, whole)


def test_layers_before_the_first_neurons_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    snn, x = small(), torch.randn(3, 1, 9)
    first, second = (Calls(snn.get_submodule(name), monkeypatch) for name in ("0", "2"))
    with torch.no_grad():
        snn(x)
        assert first.rows == [3], "in the settling pass"
        assert second.rows == [3, 12], "and on spikes"
        snn.step_mode = "m"
        snn(x.unsqueeze(0))
        assert first.rows == [3, 3]
        snn(x.repeat(2, 1, 1, 1))
        assert first.rows == [3, 3, 3, 6], "an input of two steps is simulated"
        with torch.autocast("cpu"):
            snn(x.unsqueeze(0))
        assert first.rows == [3, 3, 3, 6, 3, 3]


def test_max_pools_choose_among_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    snn, x = small(nn.MaxPool1d(2, padding=1)), torch.randn(3, 1, 9)
    pool = Calls(snn.get_submodule("2"), monkeypatch)
    with torch.no_grad():
        before = snn(x)
        assert pool.rows == [3, 3]
        snn.settle_ties = False
        torch.testing.assert_close(snn(x), before)
        assert pool.rows == [3, 3, 12]


@pytest.mark.parametrize(
    ("function", "first"),
    [
        (lambda m, x: m.b(relu(m.a(x))), 1),
        (lambda m, x: m.b(relu(m.a(x)) + relu(m.a(-x))), 2),
        (lambda m, x: m.b(relu(m.a(x) + relu(m.a(-x)))), 1),
        (lambda m, x: m.b(F.max_pool1d(F.max_pool1d(relu(m.a(x)), 2), 2)), 1),
    ],
)
def test_first_neurons_read_the_input_through_layers_alone(function: Callable[..., Any], first: int) -> None:
    snn = convert(Net(function, a=nn.Conv1d(1, 4, 3), b=nn.Conv1d(4, 2, 1)), [torch.randn(2, 1, 12)], 4)
    assert len(snn._first_neurons) == first
    assert set(snn._first_neurons) <= set(snn.neurons)


class Silent(PascIF):
    """A neuron of the user's own."""

    def forward(self, x_seq: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return torch.zeros_like(super().forward(x_seq, *args, **kwargs))


def test_neurons_of_the_users_own_are_asked() -> None:
    """Counts say nothing of a ``forward`` from elsewhere."""
    snn, x = small(), torch.randn(3, 1, 9)
    with torch.no_grad():
        before = snn(x)
        snn.set_submodule("1", Silent(4, 0.5))
        silent = snn(x)
        assert not torch.equal(silent, before)
        snn.settle_ties = False
        assert torch.equal(snn(x), silent)


def test_hooks_see_the_first_neurons() -> None:
    snn, x = small(), torch.randn(3, 1, 9)
    trains: list[Tensor] = []
    handle = snn.get_submodule("1").register_forward_hook(lambda module, args, train: trains.append(train))
    with torch.no_grad():
        before = snn(x)
        assert trains[0].shape == (4, 3, 4, 7)
        handle.remove()
        assert torch.equal(snn(x), before)


def test_trains_of_more_spikes_than_the_precision_counts() -> None:
    """bfloat16 has no 257."""
    neuron, counts = PascIF(300), torch.arange(301, dtype=torch.int16)
    references = (Reference(counts, torch.bfloat16),)
    train = train_of_layer(neuron, counts_of(references, 0), references, 0)
    assert train.dtype == torch.bfloat16
    assert train.float().sum(0).tolist() == counts.tolist()
