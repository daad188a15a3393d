from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import base, functional, layer, neuron
from torch import Tensor, nn

import pascal_ext
from pascal_ext.adapters.spikingjelly import PascalIFNode, PascalNetwork, convert, load
from pascal_ext.adapters.spikingjelly.compat import HAS_RECIPES
from pascal_ext.conversion import convert as core
from pascal_ext.errors import InvalidArgumentError, UnsupportedOperationError

LAYERS = ["relu", "block.relu", "block.relu_1", "relu_1"]
with_counters = pytest.mark.skipif(not HAS_RECIPES, reason="operation counters are of SpikingJelly 2.x")


@pytest.fixture
def snn(qcfs: nn.Module) -> PascalNetwork:
    network = convert(qcfs)
    assert isinstance(network, PascalNetwork)
    return network


def test_resets_and_step_modes_without_a_warning(
    snn: PascalNetwork, qcfs: nn.Module, batch: Tensor, host_warnings: list[str]
) -> None:
    expected = qcfs(batch)
    for _ in range(3):  # resets after the first come from the list that the host remembers
        functional.reset_net(snn)
        functional.set_step_mode(snn, "s")
        assert snn.step_mode == "s"
        torch.testing.assert_close(snn(batch), expected, rtol=0, atol=1e-9)
        functional.set_step_mode(snn, "m")
        assert snn.step_mode == "m"
        assert all(node.step_mode == "m" for node in snn.neurons.values())
        out = snn(batch.unsqueeze(0).expand(3, *batch.shape))
        assert out.shape[1:] == expected.shape
        torch.testing.assert_close(out.mean(0), expected, rtol=0, atol=1e-9)
        functional.detach_net(snn)
    assert host_warnings == []


def test_the_host_does_warn_of_other_networks(qcfs: nn.Module, host_warnings: list[str]) -> None:
    functional.reset_net(pascal_ext.convert(qcfs))
    assert host_warnings != []


def test_stock_evaluation_loop(snn: PascalNetwork, qcfs: nn.Module, batch: Tensor) -> None:
    functional.reset_net(snn)
    total = sum(snn(batch) for _ in range(4))
    torch.testing.assert_close(total / 4, qcfs(batch), rtol=0, atol=1e-9)


def test_unknown_step_mode_is_refused(snn: PascalNetwork) -> None:
    with pytest.raises(ValueError, match="'x'"):
        functional.set_step_mode(snn, "x")


def test_is_a_memory_module_without_memories(snn: PascalNetwork) -> None:
    assert isinstance(snn, base.MemoryModule)
    assert list(snn.named_memories()) == []
    assert set(snn.supported_step_mode()) == {"s", "m"}


def test_layers_keep_the_names_of_the_ann(snn: PascalNetwork, qcfs: nn.Module) -> None:
    ann_names, names = (dict(model.named_modules()) for model in (qcfs, snn))
    assert set(snn.neurons) == {name for name, module in ann_names.items() if isinstance(module, pascal_ext.QCFS)}
    for name, module in ann_names.items():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert type(names[name]) is type(module)
    keys = set(snn.state_dict())
    assert {"stem.weight", "block.conv1.weight", "fc.bias"} <= keys
    assert {f"{name}.v_threshold" for name in snn.neurons} <= keys


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_monitors_record_trains_by_layer(snn: PascalNetwork, qcfs: nn.Module, batch: Tensor, step_mode: str) -> None:
    if not HAS_RECIPES:
        pytest.importorskip("tensorboard", reason="monitor of SpikingJelly 0.0.0.0.14 needs tensorboard")
    from spikingjelly.activation_based import monitor

    functional.set_step_mode(snn, step_mode)
    records = monitor.OutputMonitor(snn, PascalIFNode)
    inputs = monitor.InputMonitor(snn, PascalIFNode)
    snn(batch if step_mode == "s" else batch.unsqueeze(0))
    assert records.monitored_layers == [
        name for name, module in snn.named_modules() if isinstance(module, PascalIFNode)
    ]
    assert set(records.monitored_layers) == set(LAYERS)
    activations: dict[str, Tensor] = {}
    for name in LAYERS:
        layer = qcfs.get_submodule(name)
        layer.register_forward_hook(lambda module, args, out, name=name: activations.__setitem__(name, out))
    qcfs(batch)
    for name in LAYERS:
        (train,) = records[name]
        assert train.shape == (snn.timesteps[name], *activations[name].shape)
        assert torch.isin(train, torch.tensor([0.0, 1.0], dtype=train.dtype)).all()
        torch.testing.assert_close(train.mean(0) * snn.neurons[name].v_threshold, activations[name], rtol=0, atol=1e-9)
        assert inputs[name][0].shape[1:] == train.shape[1:]
    records.remove_hooks()
    records.clear_recorded_data()
    snn(batch if step_mode == "s" else batch.unsqueeze(0))
    assert records[LAYERS[0]] == []


def test_copies_and_pickles(snn: PascalNetwork, batch: Tensor, host_warnings: list[str]) -> None:
    functional.reset_net(snn)  # the host's cache must not tie copies to the original
    for twin in (copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))):
        assert type(twin) is PascalNetwork
        functional.reset_net(twin)
        assert torch.equal(twin(batch), snn(batch))
        assert not {id(node) for node in twin.neurons.values()} & {id(node) for node in snn.neurons.values()}
    assert host_warnings == []


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_loads_what_was_saved(snn: PascalNetwork, batch: Tensor, tmp_path: Path, step_mode: str) -> None:
    path = tmp_path / "network.safetensors"
    pascal_ext.save(snn, path)
    loaded = load(path)
    assert type(loaded) is PascalNetwork
    assert {type(node) for node in loaded.neurons.values()} == {PascalIFNode}
    for network in (snn, loaded):
        functional.set_step_mode(network, step_mode)
    assert repr(loaded) == repr(snn)
    x = batch if step_mode == "s" else batch.unsqueeze(0)
    assert torch.equal(loaded(x), snn(x))


def test_executions_agree(snn: PascalNetwork, batch: Tensor) -> None:
    spikes = snn(batch)
    snn.execution = "counts"
    functional.reset_net(snn)
    torch.testing.assert_close(snn(batch), spikes, rtol=0, atol=1e-9)


def test_backend_of_all_neurons(snn: PascalNetwork, batch: Tensor, host_warnings: list[str]) -> None:
    expected = snn(batch)
    if HAS_RECIPES:
        snn.backend = "reference"
    else:
        functional.set_backend(snn, "reference")
    assert snn.backend == "reference"
    assert {node.backend for node in snn.neurons.values()} == {"reference"}
    assert torch.equal(snn(batch), expected)
    assert host_warnings == []
    snn.neurons["relu"].backend = "torch"
    with pytest.raises(InvalidArgumentError, match="different backends"):
        _ = snn.backend
    with pytest.raises(InvalidArgumentError, match="'numpy' is unknown"):
        snn.backend = "numpy"


def test_layers_behind_neurons_read_binary_spikes(snn: PascalNetwork, batch: Tensor) -> None:
    seen: dict[str, Tensor] = {}
    for name, module in snn.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda module, args, out, name=name: seen.__setitem__(name, args[0]))
    snn(batch)
    for name in ("block.conv1", "block.conv2", "hidden", "fc"):
        assert torch.isin(seen[name], torch.tensor([0.0, 1.0], dtype=torch.float64)).all(), name


@with_counters
def test_synaptic_operations_are_counted_from_spikes() -> None:
    from spikingjelly.activation_based import op_counter

    qcfs = nn.Sequential(
        nn.Linear(12, 9), pascal_ext.QCFS(4, 0.5), nn.Linear(9, 7), pascal_ext.QCFS(3), nn.Linear(7, 5)
    )
    snn = convert(qcfs)
    x = torch.randn(6, 12)
    spikes: dict[str, int] = {}
    for name, node in snn.neurons.items():
        node.register_forward_hook(lambda module, args, out, name=name: spikes.__setitem__(name, int(out.sum())))
    synops, macs, acs = op_counter.SynOpCounter(), op_counter.MACCounter(), op_counter.ACCounter()
    with op_counter.DispatchCounterMode([synops, macs, acs]), torch.no_grad():
        snn(x)
    expected = spikes["1"] * 7 + spikes["3"] * 5
    assert expected > 0
    assert synops.get_total() == expected
    assert macs.get_total() == 6 * 12 * 9  # the first layer reads real numbers, all others spikes
    assert acs.get_total() >= expected


@with_counters
def test_counters_on_a_residual_network(qcfs: nn.Module, batch: Tensor) -> None:
    from spikingjelly.activation_based import op_counter

    def count(model: nn.Module) -> tuple[int, int, dict[str, int]]:
        synops, macs = op_counter.SynOpCounter(), op_counter.MACCounter()
        with op_counter.DispatchCounterMode([synops, macs]), torch.no_grad():
            model(batch)
        by_layer = {name.partition(".")[2]: sum(counts.values()) for name, counts in synops.get_counts().items()}
        return synops.get_total(), macs.get_total(), by_layer

    snn = convert(qcfs, fold_batch_norm=True)  # a batch norm is counted as multiplications
    with torch.no_grad():
        snn(batch)  # the first call multiplies thresholds into weights, once and for all
    synops, macs, by_layer = count(snn)
    ann_synops, ann_macs, _ = count(qcfs)
    assert ann_synops == 0
    assert synops > 0
    assert 0 < macs < ann_macs
    assert macs == batch.numel() * 6 * 9  # the stem alone
    assert all(by_layer[name] > 0 for name in ("block.conv1", "block.conv2", "hidden", "fc"))
    report = op_counter.estimate_simple_energy(snn, batch)
    assert report.counts["synop"] == synops
    assert report.counts["mac"] == macs
    assert report.warnings == []


@pytest.mark.skipif(not HAS_RECIPES, reason="explicit states are of SpikingJelly 2.x")
def test_functional_forward_of_the_host(snn: PascalNetwork, batch: Tensor) -> None:
    outputs, states = base.to_functional_forward(snn)((batch,), ())
    assert torch.equal(outputs[0], snn(batch))
    assert states == ()
    outputs, states = snn.functional_forward((batch,), ())
    assert torch.equal(outputs[0], snn(batch))
    assert states == ()


@with_counters
def test_modes_that_count_function_calls_see_the_spiking_network_alone() -> None:
    from spikingjelly.activation_based import op_counter

    class Convolved(op_counter.BaseCounter):
        def __init__(self) -> None:
            super().__init__()
            self.rules = {torch.conv2d: lambda args, kwargs, out: out.numel()}

    qcfs = nn.Sequential(nn.Conv2d(1, 3, 3), pascal_ext.QCFS(4, 0.5), nn.Conv2d(3, 2, 3))
    snn, x = convert(qcfs), torch.randn(2, 1, 8, 8)
    counter = Convolved()
    with op_counter.FunctionCounterMode([counter]), torch.no_grad():
        snn(x)
    # the first layer reads a constant input, the second four steps: nothing of the pass that settles ties
    assert counter.get_total() == 2 * 3 * 6 * 6 + 4 * (2 * 2 * 4 * 4)


def test_converts_for_a_device_and_leaves_the_model_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device, which every machine has, and on which thresholds cannot be read, so no further than that."""
    handed: list[nn.Module] = []
    monkeypatch.setattr(core, "convert", lambda model, *_, **__: handed.append(model))
    qcfs = nn.Sequential(nn.Linear(4, 3), pascal_ext.QCFS(4, 0.5))
    convert(qcfs, device="meta")
    assert all(tensor.is_meta for tensor in handed[0].state_dict().values())
    assert not any(tensor.is_meta for tensor in qcfs.state_dict().values())


@pytest.mark.parametrize("spiking", [neuron.IFNode(), PascalIFNode(4)])
def test_spiking_networks_are_refused(spiking: nn.Module) -> None:
    name = type(spiking).__name__
    with pytest.raises(UnsupportedOperationError, match=f"'1' is a {name}, a spiking neuron: hand in the ANN"):
        convert(nn.Sequential(nn.Linear(4, 3), spiking), on_unsupported="analog")


def test_layers_that_take_sequences_are_refused() -> None:
    model = nn.Sequential(layer.Conv2d(1, 2, 3), pascal_ext.QCFS(4)).eval()
    assert isinstance(convert(model), PascalNetwork)
    functional.set_step_mode(model, "m")
    with pytest.raises(UnsupportedOperationError, match=r"'0' \(Conv2d\) is in step mode 'm'.*set_step_mode"):
        convert(model)


class Counting(PascalIFNode):
    def __init__(self) -> None:
        super().__init__(4)
        self.register_memory("calls", 0)

    def multi_step_forward(self, *args: Any, **kwargs: Any) -> Tensor:
        self.calls += 1
        return super().multi_step_forward(*args, **kwargs)


def test_memories_of_subclasses_are_reset(snn: PascalNetwork) -> None:
    node = Counting()
    node(torch.rand(2, 3))
    snn.register_memory("seen", 0)
    snn.seen = node.calls
    assert snn.seen == 1
    functional.reset_net(node)
    functional.reset_net(snn)
    assert (node.calls, snn.seen) == (0, 0)
