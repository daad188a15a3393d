"""The converted network as a module: executions, step modes, what it tells about itself, and its life."""

from __future__ import annotations

import copy
import gc
import linecache
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pascal_ext import QCFS, LevelPlan, convert
from pascal_ext.activations import qcfs_layers
from pascal_ext.errors import InvalidArgumentError
from pascal_ext.network import SpikingNetwork
from pascal_ext.neuron import PascIF
from tests.cases import Net, Pair, assert_close, quantised, relu, tensors
from tests.networks import EXACT

pytestmark = pytest.mark.filterwarnings("ignore:layer .* is dead")


def network(name: str = "one block, twice", thresholds: str = "scalar") -> tuple[nn.Module, SpikingNetwork]:
    case = EXACT[name]
    qcfs = quantised(case.build(), case.data(), thresholds)
    return qcfs, convert(qcfs)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 3, 6, 6, dtype=torch.float64)


# Shapes


def test_shapes(x: Tensor) -> None:
    _, snn = network()
    with torch.no_grad():
        single = snn(x)
        assert single.shape == (3, 2, 6, 6)
        snn.step_mode = "m"
        sequence = snn(x.unsqueeze(0))
        assert sequence.shape[1:] == single.shape
        assert sequence.shape[0] > 1, "the spikes are spelled out"
        assert_close(sequence.mean(0), single)
        snn.execution = "counts"
        assert snn(x.unsqueeze(0)).shape == (1, *single.shape)


def test_neurons_read_and_emit_sequences(x: Tensor) -> None:
    _, snn = network("sum of branches")
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for name, neuron in snn.neurons.items():
        neuron.register_forward_hook(lambda _, args, out, name=name: seen.update({name: (args[0], out)}))
    with torch.no_grad():
        snn(x)
        for name, (currents, spikes) in seen.items():
            assert spikes.shape == (snn.timesteps[name], 3, 4, 6, 6)
            assert currents.shape[1:] == spikes.shape[1:]
            assert set(spikes.unique().tolist()) <= {0.0, 1.0}
            assert (spikes[1:] <= spikes[:-1]).all(), "ones first"
        assert seen["relu_3"][0].shape[0] == max(snn.timesteps[name] for name in ("relu", "relu_1", "relu_2"))
        snn.execution = "counts"
        snn(x)
        assert all(out.shape == (1, 3, 4, 6, 6) for _, out in seen.values())


def test_outputs_keep_their_structure(x: Tensor) -> None:
    qcfs, snn = network("many outputs")
    out = snn(x)
    assert list(out) == ["logits", "features"]
    assert isinstance(out["features"], tuple)
    assert isinstance(out["features"][1], list)
    assert_close(out, qcfs(x))


def test_outputs_that_are_no_signals(x: Tensor) -> None:
    model = Net(
        lambda m, x: (relu(m.a(x)), m.scale, x.size(1), None), a=nn.Conv2d(3, 2, 1), scale=nn.Parameter(torch.ones(4))
    )
    snn = convert(model.double(), [x], progress=False)
    for execution in ("spikes", "counts"):
        snn.execution = execution
        found, scale, channels, nothing = snn(x)
        assert found.shape == (3, 2, 6, 6)
        assert torch.equal(scale, torch.ones(4).double())
        assert (channels, nothing) == (3, None)


def test_inputs_by_name(x: Tensor) -> None:
    qcfs, snn = network("two inputs")
    assert_close(snn(x, y=2 * x), qcfs(x, y=2 * x))
    assert_close(snn(y=x, x=2 * x), qcfs(2 * x, x))


class Awkward(nn.Module):
    """Arguments with the names that the graphs use themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 2, 1)

    def forward(self, batch_size: Tensor, references: Tensor) -> Tensor:
        return relu(self.a(batch_size)) + relu(self.a(references))


def test_awkward_names_of_inputs(x: Tensor) -> None:
    snn = convert(Awkward().double(), [((x, x), None)], 8, progress=False)
    assert snn(batch_size=x, references=-x).shape == (3, 2, 6, 6)


def test_batches_of_any_size(x: Tensor) -> None:
    qcfs, snn = network()
    with torch.no_grad():
        for size in (1, 2, 5, 0):
            batch = torch.randn(size, 3, 6, 6, dtype=torch.float64)
            assert_close(snn(batch), qcfs(batch))


@pytest.mark.parametrize(
    ("mode", "args", "match"),
    [
        ("s", (torch.ones(2, 3, 6, 6), torch.ones(3, 3, 6, 6)), r"same batch size; got \[2, 3\]"),
        ("m", (torch.ones(4, 2, 3, 6, 6), torch.ones(1, 3, 3, 6, 6)), r"same batch size; got \[2, 3\]"),
        ("s", (), "no tensor"),
        ("m", (torch.ones(3), torch.ones(3)), r"takes inputs \[T, N, ...\] of at least 2 dimensions, got \(3,\)"),
        ("s", (torch.ones(()), torch.ones(3)), r"takes inputs \[N, ...\] of at least 1 dimensions, got \(\)"),
    ],
)
def test_inputs_that_do_not_fit(mode: str, args: tuple[Tensor, ...], match: str) -> None:
    _, snn = network("two inputs")
    snn.step_mode = mode
    with pytest.raises(InvalidArgumentError, match=match):
        snn(*args)


@pytest.mark.parametrize(
    ("model", "shape", "mode", "match"),
    [
        (nn.Conv2d(3, 2, 3), (4, 3, 6, 6), "m", r"of 5 dimensions, got \(4, 3, 6, 6\); .* x.unsqueeze\(0\)"),
        (nn.Conv2d(3, 2, 3), (1, 4, 3, 6, 6), "s", r"of 4 dimensions, got \(1, 4, 3, 6, 6\); set step_mode='m'"),
        (nn.Conv2d(3, 2, 3), (3, 6, 6), "s", r"of 4 dimensions, got \(3, 6, 6\)$"),
        (nn.Linear(6, 2), (4, 6), "m", r"of at least 3 dimensions, got \(4, 6\); .* x.unsqueeze\(0\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(6, 2)), (6,), "s", r"of at least 2 dimensions, got \(6,\)$"),
    ],
)
def test_forgotten_dimensions(model: nn.Module, shape: tuple[int, ...], mode: str, match: str) -> None:
    snn = convert(nn.Sequential(model, QCFS(4)))
    snn.step_mode = mode
    with pytest.raises(InvalidArgumentError, match=match):
        snn(torch.ones(shape))


def test_no_timesteps(x: Tensor) -> None:
    _, snn = network()
    snn.step_mode = "m"
    for execution in ("spikes", "counts"):
        snn.execution = execution
        with pytest.raises(InvalidArgumentError, match=r"no timesteps, \(0, 3, 3, 6, 6\)"):
            snn(x.new_empty(0, *x.shape))


@pytest.mark.parametrize("dimension", [torch.export.Dim("batch"), torch.export.Dim.AUTO])
@pytest.mark.parametrize("settle_ties", [False, True])
@pytest.mark.parametrize("execution", ["spikes", "counts"])
@torch.no_grad()
def test_batch_sizes_of_an_exported_network(execution: str, settle_ties: bool, dimension: Any, x: Tensor) -> None:
    _, snn = network("sum of branches")
    snn.float().execution = execution
    snn.settle_ties = settle_ties
    exported = torch.export.export(snn, (x.float(),), dynamic_shapes=(({0: dimension},),)).module()
    for size in (1, 2, 7):
        batch = torch.randn(size, 3, 6, 6)
        torch.testing.assert_close(exported(batch), snn(batch))


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


# Its life


def test_copies_are_independent(x: Tensor) -> None:
    _, snn = network()
    with torch.no_grad():
        before = snn(x)
        twin = copy.deepcopy(snn)
        for tensor in (*twin.parameters(), *twin.buffers()):
            tensor.zero_() if tensor.ndim else None
        twin.execution = "counts"
        assert torch.equal(snn(x), before)
        assert snn.execution == "spikes"
        assert not torch.equal(twin(x), before)


@pytest.mark.parametrize("change", ["weight", "threshold", "load_state_dict", "data", "to and back"])
def test_scaled_weights_follow_changes(change: str, x: Tensor) -> None:
    """The products of weights and thresholds are kept from call to call, but not longer than they are true."""
    qcfs, snn = network("norm after")
    with torch.no_grad():
        snn(x)
        state = snn.state_dict()
        if change == "weight":
            qcfs.get_submodule("b").weight.mul_(1.5)
            snn.get_submodule("b").weight.mul_(1.5)
        elif change == "threshold":
            qcfs.get_submodule("relu").threshold.mul_(0.5)
            snn.get_submodule("relu").v_threshold.mul_(0.5)
        elif change == "load_state_dict":
            snn.load_state_dict({**state, "b.weight": state["b.weight"] * 2})
            qcfs.get_submodule("b").weight.mul_(2)
        elif change == "data":
            snn.get_submodule("b").weight.data = state["b.weight"] * 2
            qcfs.get_submodule("b").weight.mul_(2)
        else:
            snn.half().double()
            qcfs.half().double()
        assert_close(snn(x), qcfs(x))


@pytest.mark.parametrize("name", ["norm after", "grouped", "transposed", "flatten", "concatenation"])
def test_gradients_reach_the_weights(name: str, x: Tensor) -> None:
    """After the last neuron, the spiking network is as differentiable as the ANN."""
    case = EXACT[name]
    qcfs = quantised(case.build(), case.data(), "per-channel")
    snn = convert(qcfs)
    snn(x).square().sum().backward()
    qcfs(x).square().sum().backward()
    last = [name for name, p in snn.named_parameters() if p.grad is not None]
    assert last
    for parameter in last:
        torch.testing.assert_close(
            snn.get_parameter(parameter).grad, qcfs.get_parameter(parameter).grad, rtol=0, atol=1e-9
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", ["one block, twice", "maximum after concatenation", "average pools", "flatten module"])
def test_lower_precisions(name: str, dtype: torch.dtype, x: Tensor) -> None:
    qcfs, _ = network(name)
    qcfs = qcfs.to(dtype)
    snn = convert(qcfs)
    with torch.no_grad():
        expected = qcfs(x.to(dtype))
        spikes = snn(x.to(dtype))
        snn.execution = "counts"
        assert torch.equal(snn(x.to(dtype)), expected), "the ANN's own arithmetic"
    assert spikes.dtype == dtype
    torch.testing.assert_close(spikes, expected, rtol=0.05, atol=64 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("name", ["one block, twice", "sum of branches"])
def test_autocast(name: str, x: Tensor) -> None:
    qcfs, _ = network(name)
    qcfs = qcfs.float()
    snn = convert(qcfs)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected, found = qcfs(x.float()), snn(x.float())
        snn.execution = "counts"
        assert torch.equal(snn(x.float()), expected)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.1)


def test_inference_mode(x: Tensor) -> None:
    case = EXACT["norm after"]
    qcfs = quantised(case.build(), case.data())
    with torch.inference_mode():
        assert_close(convert(qcfs)(x), qcfs(x))


@pytest.mark.parametrize("execution", ["spikes", "counts"])
def test_training_updates_statistics_once(execution: str, x: Tensor) -> None:
    qcfs = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), QCFS(4, 1.0), nn.Conv2d(4, 2, 3)).double()
    snn = convert(qcfs, execution=execution).train()
    snn(x)
    norm: Any = next(module for module in snn.modules() if isinstance(module, nn.BatchNorm2d))
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("make", [convert, lambda qcfs: copy.deepcopy(convert(qcfs))])
def test_networks_made_in_inference_mode(make: Callable[[nn.Module], SpikingNetwork], x: Tensor) -> None:
    qcfs, _ = network("norm after")
    with torch.inference_mode():
        snn = make(qcfs.float())
        snn(x.float())
    with torch.no_grad():
        torch.testing.assert_close(snn(x.float()), qcfs(x.float()))
        snn.reset()
    assert snn.ties == 0


def test_channels_last(x: Tensor) -> None:
    qcfs, snn = network()
    with torch.no_grad():
        assert_close(snn.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last)), qcfs(x))


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

    model = Net(lambda m, x: x + relu(m.bias), bias=nn.Parameter(torch.randn(3, 1, 1)))
    with pytest.raises(UnsupportedOperationError, match="only constants"):
        convert(model.double(), [x], progress=False)


def test_hooks_see_each_spike_train_once(x: Tensor) -> None:
    _, snn = network()
    calls: list[Any] = []
    for module in snn.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda module, args, output: calls.append(module))
    snn.float()(x.float())
    neurons = [module for module in calls if isinstance(module, PascIF)]
    assert len(neurons) == len(set(neurons)) == len(snn.neurons)


def test_pairs_of_inputs_of_different_rank(x: Tensor) -> None:
    model = Pair(
        lambda m, x, y: m.b(relu(m.a(x)).mean((2, 3)) + relu(m.c(y))),
        a=nn.Conv2d(3, 4, 1),
        b=nn.Linear(4, 2),
        c=nn.Linear(5, 4),
    )
    y = torch.randn(3, 5, dtype=torch.float64)
    qcfs = quantised(model.double(), [x, y])
    snn = convert(qcfs)
    assert_close(snn(x, y), qcfs(x, y))
    assert len(tensors(snn(x, y))) == 1


SIGNS = {"negative": -0.5, "zero": 0.0, "infinite": float("inf"), "not a number": float("nan")}


@pytest.mark.parametrize("sign", SIGNS)
def test_thresholds_that_the_graphs_are_not_made_for(sign: str, x: Tensor) -> None:
    qcfs, snn = network("norm after")
    before = snn(x)
    state = {**snn.state_dict(), "relu.v_threshold": torch.full_like(snn.state_dict()["relu.v_threshold"], SIGNS[sign])}
    for assign in (False, True):
        with pytest.raises(RuntimeError, match=r"'relu\.v_threshold'.*convert"):
            snn.load_state_dict(state, assign=assign)
        assert_close(snn(x), before)
    state["relu.v_threshold"] = qcfs.get_parameter("relu.threshold").detach() * 0.5
    snn.load_state_dict(state)
    qcfs.get_parameter("relu.threshold").data.mul_(0.5)
    assert_close(snn(x), qcfs(x))


def test_sources_go_with_their_network() -> None:
    def sources() -> int:
        return sum(str(name).startswith("<pascal_ext network") for name in linecache.cache)

    gc.collect()
    before = sources()
    _, snn = network("norm after")
    assert sources() > before
    del snn
    gc.collect()
    assert sources() == before


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
