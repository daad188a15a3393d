"""The converted network as a module: its settings, and what it tells about itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pascal_ext import QCFS, LevelPlan, convert
from pascal_ext.activations import qcfs_layers
from pascal_ext.errors import InvalidArgumentError
from pascal_ext.network.spiking_network import SpikingNetwork
from pascal_ext.neuron import PascIF
from tests.cases import Net, assert_close, quantised, relu
from tests.zoo import EXACT, network

pytestmark = pytest.mark.filterwarnings("ignore:layer .* is dead")


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 3, 6, 6, dtype=torch.float64)


# Settings


def test_settings_are_checked() -> None:
    _, snn = network()
    with pytest.raises(InvalidArgumentError, match=r"step_mode='t'.*'s', 'm'"):
        snn.step_mode = "t"
    with pytest.raises(InvalidArgumentError, match=r"execution='fast'.*spikes.*counts"):
        snn.execution = "fast"
    assert (snn.step_mode, snn.execution) == ("s", "spikes")


def test_options_of_the_conversion() -> None:
    case = EXACT["module"]
    qcfs = quantised(case.build(), case.data())
    snn = convert(qcfs, execution="counts", backend="reference")
    assert snn.execution == "counts"
    assert [(neuron.execution, neuron.backend) for neuron in snn.neurons.values()] == [("counts", "reference")]
    snn.execution = "spikes"
    assert_close(snn(*(data := case.data())), qcfs(*data))


class OwnNeuron(PascIF):
    pass


class OwnNetwork(SpikingNetwork):
    pass


def test_own_classes() -> None:
    case = EXACT["module"]
    snn = convert(quantised(case.build(), case.data()), neuron=OwnNeuron, network=OwnNetwork)
    assert type(snn) is OwnNetwork
    assert [type(neuron) for neuron in snn.neurons.values()] == [OwnNeuron]


# What it tells about itself


def test_layers_keep_their_names() -> None:
    qcfs, snn = network("one block, twice")
    assert list(snn.neurons) == list(qcfs_layers(qcfs)) == ["block.act", "block.act_1", "block.act_2", "block.act_3"]
    theirs = {name.replace(".threshold", ".v_threshold") for name in qcfs.state_dict()}
    assert set(snn.state_dict()) == theirs
    for name, tensor in qcfs.state_dict().items():
        assert torch.equal(snn.state_dict()[name.replace(".threshold", ".v_threshold")], tensor)
    assert "(act): PascIF(levels=" in repr(snn)
    assert "execution=spikes, step_mode=s, levels=" in repr(snn)


def test_plan_and_timesteps() -> None:
    qcfs, snn = network()
    levels = {name: layer.levels for name, layer in qcfs_layers(qcfs).items()}
    assert isinstance(snn.plan, LevelPlan)
    assert dict(snn.plan) == snn.timesteps == levels


@pytest.mark.parametrize("levels", [1, 2, 4, 8])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_latency_of_a_chain(levels: int, depth: int) -> None:
    """Σ (T1 + max(T1, L) − 1 + L) along the path: the first layer reads one step."""
    snn = convert(nn.Sequential(*[m for _ in range(depth) for m in (nn.Linear(4, 4), QCFS(levels))], nn.Linear(4, 2)))
    assert snn.latency == 2 * levels + (depth - 1) * (3 * levels - 1)


def test_latency_is_that_of_the_longest_path() -> None:
    model = Net(
        lambda m, x: m.end(m.act3(m.act1(m.a(x)) + m.act2(m.a(m.act1b(m.b(x)))))),
        **{name: nn.Linear(4, 4) for name in ("a", "b", "end")},
        act1=QCFS(2),
        act1b=QCFS(8),
        act2=QCFS(3),
        act3=QCFS(4),
    )
    branches = (2 * 2, 2 * 8 + (8 + 8 - 1 + 3))
    assert convert(model).latency == max(branches) + (3 + 4 - 1 + 4)


def test_ties_and_reset(x: Tensor) -> None:
    _, snn = network("norm after")
    snn.float()(x.float())
    neuron = next(iter(snn.neurons.values()))
    neuron.ties += 3
    assert snn.ties >= 3
    snn.reset()
    assert snn.ties == 0
    assert "ties" not in str(list(snn.state_dict()))


def test_no_state_between_calls(x: Tensor) -> None:
    _, snn = network()
    with torch.no_grad():
        first = snn(x)
        snn(torch.randn(7, 3, 6, 6, dtype=torch.float64))
        assert torch.equal(snn(x), first)


@pytest.mark.parametrize("name", ["plan", "neurons", "reset", "execution", "latency"])
def test_layers_with_names_that_the_network_needs(name: str, x: Tensor) -> None:
    model = Net(lambda m, x: relu(getattr(m, name)(x)), **{name: nn.Conv2d(3, 2, 1)}).double()
    with pytest.raises(InvalidArgumentError, match=f"layer named '{name}'.*rename it"):
        convert(model, [x], progress=False)


def test_networks_without_activations(x: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.MaxPool2d(2)).double().eval()
    with pytest.warns(UserWarning, match="no layer of the network spikes"):
        snn = convert(model)
    assert snn.latency == 0
    assert dict(snn.plan) == {}
    assert "levels=none" in repr(snn)
    for execution in ("spikes", "counts"):
        snn.execution = execution
        assert_close(snn(x), model(x))


def test_a_neuron_on_constants_is_refused(x: Tensor) -> None:
    from pascal_ext.errors import UnsupportedOperationError

    model = Net(lambda m, x: x + m.relu(m.bias), bias=nn.Parameter(torch.randn(3, 1, 1)), relu=nn.ReLU())
    with pytest.raises(UnsupportedOperationError, match="only constants"):
        convert(model.double(), [x], progress=False)


def test_the_backend_of_all_neurons_reads_back() -> None:
    qcfs = nn.Sequential(nn.Linear(4, 5), QCFS(4), nn.Linear(5, 5), QCFS(3))
    snn = convert(qcfs, backend="reference")
    assert snn.backend == "reference"
    snn.backend = "torch"
    assert {neuron.backend for neuron in snn.neurons.values()} == {"torch"}
    snn.neurons["1"].backend = "auto"
    with pytest.raises(InvalidArgumentError, match="different backends"):
        _ = snn.backend
    with pytest.raises(InvalidArgumentError, match="'numpy' is unknown"):
        snn.backend = "numpy"
