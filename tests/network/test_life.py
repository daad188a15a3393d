"""What happens to a converted network: copies, changed weights, gradients, precisions, hooks, files of weights."""

from __future__ import annotations

import copy
import gc
import linecache
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn.utils import prune

from pascal_ext import QCFS, convert
from pascal_ext.errors import SerializationError
from pascal_ext.network.spiking_network import SpikingNetwork
from pascal_ext.neuron import PascIF
from tests.cases import Net, assert_close, quantised
from tests.zoo import EXACT, network

pytestmark = pytest.mark.filterwarnings("ignore:layer .* is dead")


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 3, 6, 6, dtype=torch.float64)


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


@pytest.mark.parametrize("change", ["weight", "threshold", "load_state_dict", "data", "to and back", "step"])
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
        elif change == "step":  # of a fused optimizer, which does not count what it changes
            for weight in (snn.get_parameter("b.weight"), qcfs.get_parameter("b.weight")):
                weight.grad = torch.ones_like(weight)
                torch.optim.SGD([weight], lr=0.1, fused=True).step()
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


def test_hooks_see_each_spike_train_once(x: Tensor) -> None:
    _, snn = network()
    calls: list[Any] = []
    for module in snn.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda module, args, output: calls.append(module))
    snn.float()(x.float())
    neurons = [module for module in calls if isinstance(module, PascIF)]
    assert len(neurons) == len(set(neurons)) == len(snn.neurons)


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


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda snn: pickle.loads(pickle.dumps(snn))])
def test_copies_of_a_compiled_network(copied: Callable[[SpikingNetwork], SpikingNetwork], x: Tensor) -> None:
    """``compile()`` compiles the network that it is called on; a copy's weights are its own."""
    _, snn = network()
    snn.compile(backend="eager")
    twin = copied(snn)
    with torch.no_grad():
        assert torch.equal(twin(x), snn(x))
        for parameter in twin.parameters():
            parameter.zero_()
        assert_close(twin(x), twin.forward(x))
        assert not torch.equal(twin(x), snn(x))


def test_copies_of_what_no_file_could_hold(x: Tensor) -> None:
    snn = convert(Net(lambda m, x: torch.relu(whitened(x))), [x], on_unsupported="analog", progress=False)
    assert torch.equal(copy.deepcopy(snn)(x), snn(x))
    with pytest.raises(SerializationError, match="whitened"):
        pickle.dumps(snn)


@fx.wrap
def whitened(x: Tensor) -> Tensor:
    return x - x.mean((2, 3), keepdim=True)


@pytest.mark.parametrize("execution", ["spikes", "counts"])
def test_weights_that_hooks_make(execution: str, x: Tensor) -> None:
    """Pruned ones, in another precision and after a change: every pass makes them anew, as the ANN does."""
    qcfs, _ = network("norm after")
    prune.random_unstructured(qcfs.get_submodule("a"), "weight", 0.5)
    snn = convert(qcfs.float(), execution=execution)
    with torch.no_grad():
        for model in (snn, qcfs):
            model(x.float())
            model.double()
        assert_close(snn(x), qcfs(x))
        for model in (snn, qcfs):
            model.get_parameter("a.weight_orig").mul_(-2)
        assert_close(snn(x), qcfs(x))
    assert snn.ties == 0


@pytest.mark.parametrize("execution", ["spikes", "counts"])
def test_hooks_of_gradients_fire_at_every_layer(execution: str, x: Tensor) -> None:
    _, snn = network("flatten")
    snn.execution = execution
    layers = {name: module for name, module in snn.named_modules() if name and not any(module.children())}
    seen: list[str] = []
    for name, layer in layers.items():
        layer.register_full_backward_hook(lambda *_, name=name: seen.append(name))
        layer.register_full_backward_pre_hook(lambda *_, name=name: seen.append(name))
    snn(x.requires_grad_()).sum().backward()
    assert sorted(seen) == sorted([*layers, *layers])


@pytest.mark.parametrize("execution", ["spikes", "counts"])
def test_layers_that_are_not_numbers_any_more(execution: str, x: Tensor) -> None:
    """NaN in a weight, as of a training that has diverged, is not silenced."""
    qcfs, snn = network("norm after")
    snn.execution = execution
    with torch.no_grad():
        for model in (qcfs, snn):
            model.get_parameter("a.weight")[0, 0, 0, 0] = torch.nan
        assert torch.equal(snn(x).isnan(), qcfs(x).isnan())
        assert snn(x).isnan().any()


@pytest.mark.parametrize("dropout", [nn.Dropout(0.5), nn.Dropout2d(0.5)])
def test_dropout_in_training(dropout: nn.Module) -> None:
    """The same is dropped in both executions, and at all timesteps, so that a max pool behind it is exact, too."""
    layers = [nn.Conv2d(3, 8, 3), QCFS(3, torch.linspace(0.5, 1.0, 8)), dropout, nn.MaxPool2d(2), nn.Conv2d(8, 2, 1)]
    qcfs = nn.Sequential(*layers, dropout).double().train()
    snn = convert(qcfs).train()
    x = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    for execution in ("spikes", "counts"):
        snn.execution = execution
        torch.manual_seed(1)
        expected = qcfs(x)
        torch.manual_seed(1)
        assert_close(snn(x), expected)
        assert not torch.equal(snn(x), snn(x))
        assert torch.equal(snn.eval()(x), snn(x))
        snn.train()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit.trace")
@pytest.mark.parametrize("execution", ["spikes", "counts"])
def test_recorded_for_one_batch_and_run_on_another(execution: str) -> None:
    """On layers of several tiles, whose number the record must not hold."""
    qcfs = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), QCFS(8, torch.rand(64) + 0.5), nn.Conv2d(64, 2, 1)).eval()
    snn = convert(qcfs.double(), execution=execution)
    few, more = (torch.randn(size, 3, 32, 32, dtype=torch.float64) for size in (4, 7))
    with torch.no_grad():
        assert_close(torch.jit.trace(qcfs, few, check_trace=False)(more), qcfs(more))
        assert_close(torch.jit.trace(snn, few, check_trace=False)(more), qcfs(more))


@torch.no_grad()
def test_tensors_are_made_where_the_network_is(x: Tensor) -> None:
    qcfs, snn = network()
    torch.set_default_device("meta")
    try:
        found = snn(x)
    finally:
        torch.set_default_device(None)
    assert_close(found, qcfs(x))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's, of vmap
@pytest.mark.parametrize("execution", ["spikes", "counts"])
def test_gradients_of_each_sample(execution: str, x: Tensor) -> None:
    qcfs, snn = network("norm after")
    snn.execution = execution
    qcfs.eval()

    def gradients(model: nn.Module) -> Any:
        def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
            return torch.func.functional_call(model, weights, (x.unsqueeze(0),)).square().sum()

        weights = {name: weight.detach() for name, weight in model.named_parameters() if "threshold" not in name}
        return torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, x)

    assert_close(gradients(snn), gradients(qcfs))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's, of vmap
def test_vmap(x: Tensor) -> None:
    qcfs, snn = network()
    with torch.no_grad():
        assert_close(torch.func.vmap(snn)(torch.stack([x, -x])), torch.stack([qcfs(x), qcfs(-x)]))
