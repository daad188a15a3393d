"""Costs: operations against a literal count, loop by loop, and what must hold for any network."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

import pascal_ext
from pascal_ext.energy import HOROWITZ_45NM, OperationEnergies, measure
from pascal_ext.errors import CalibrationError, InvalidArgumentError, UnsupportedOperationError
from tests.cases import Net, Pair, alive


def literal_operations(layer: nn.Module, x: Tensor) -> int:
    """One for each pair of a nonzero input and a weight that joins it to an output, by the definitions."""
    if isinstance(layer, nn.Linear):
        return sum(int(value != 0) for value in x.flatten()) * layer.out_features
    assert isinstance(layer, _ConvNd)
    size = layer.forward(x).shape[2:]
    operations = 0
    for n, o in itertools.product(range(x.shape[0]), range(layer.out_channels)):
        group = o // (layer.out_channels // layer.groups)
        for c in range(layer.in_channels // layer.groups):
            channel = x[n, group * (layer.in_channels // layer.groups) + c]
            operations += sum(int(channel[i] != 0) for i in met_inputs(layer, tuple(channel.shape), tuple(size)))
    return operations


def met_inputs(layer: _ConvNd, size: tuple[int, ...], out: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The input positions that the outputs of one channel meet, once for each tap."""
    geometry = list(zip(layer.stride, layer.padding, layer.dilation, strict=True))
    ranges = [range(n) for n in (size if isinstance(layer, _ConvTransposeNd) else out)]
    for here in itertools.product(*ranges):
        for taps in itertools.product(*[range(k) for k in layer.kernel_size]):
            there = tuple(i * s - int(p) + k * d for i, k, (s, p, d) in zip(here, taps, geometry, strict=True))
            limits = out if isinstance(layer, _ConvTransposeNd) else size
            if all(0 <= t < limit for t, limit in zip(there, limits, strict=True)):
                yield here if isinstance(layer, _ConvTransposeNd) else there


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """A convolution of any kind, and spikes that it can read."""
    dims = draw(st.integers(1, 2))
    transposed, groups = draw(st.booleans()), draw(st.integers(1, 2))
    each = st.tuples(*[st.integers(1, 3)] * dims)
    kernel, stride, dilation = draw(each), draw(each), draw(each)
    padding = draw(st.tuples(*[st.integers(0, 2)] * dims))
    kinds = {
        (1, False): nn.Conv1d, (2, False): nn.Conv2d, (1, True): nn.ConvTranspose1d, (2, True): nn.ConvTranspose2d,
    }  # fmt: skip
    options: dict[str, object] = {}
    if transposed and draw(st.booleans()):
        options["output_padding"] = tuple(max(s, d) - 1 for s, d in zip(stride, dilation, strict=True))
    layer = kinds[dims, transposed](
        groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2)), kernel,
        stride=stride, padding=padding, dilation=dilation, groups=groups, **options,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    size = [draw(st.integers(3, 6)) for _ in range(dims)]
    x = (torch.rand(2, layer.in_channels, *size, generator=generator) < 0.4).float()
    try:
        layer(x)
    except RuntimeError:  # no output is left
        assume(False)
    return layer, x


@given(convolutions())
def test_convolutions_are_counted_synapse_by_synapse(case: tuple[nn.Module, Tensor]) -> None:
    layer, x = case
    found = measure(layer, [x], progress=False)
    assert found.synaptic_operations * len(x) == literal_operations(layer, x)
    assert found.macs == 0
    dense = measure(layer, [torch.rand_like(x) + 0.1], progress=False)
    assert dense.macs * len(x) == literal_operations(layer, torch.ones_like(x))
    assert dense.synaptic_operations == 0


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(4, 6), (2, 5, 6)])
def test_linear_layers_and_functions(shape: tuple[int, ...], bias: bool) -> None:
    x = (torch.rand(shape) < 0.5).float()
    layer = nn.Linear(6, 7, bias=bias)
    function = Net(lambda self, x: F.linear(x, self.weight), weight=nn.Parameter(torch.randn(7, 6)))
    for network in (layer, function):
        assert measure(network, [x], progress=False).synaptic_operations * len(x) == literal_operations(layer, x)


@pytest.mark.parametrize("amplitude", [1.0, -0.3, torch.tensor([0.1, 0.7, 2.0]).reshape(1, 3, 1, 1)])
def test_an_amplitude_belongs_into_the_weights(amplitude: float | Tensor) -> None:
    x = (torch.rand(4, 3, 6, 6) < 0.4).float()
    layer = nn.Conv2d(3, 4, 3)
    found = measure(layer, [x[:2] * amplitude, x[2:] * amplitude], progress=False)
    assert found.macs == 0
    assert found.synaptic_operations * 4 == literal_operations(layer, x)
    assert found.firing_rate == pytest.approx(x.mean().item())


@pytest.mark.parametrize("values", [(0.0, 1.0, 2.0), (-1.0, 1.0), (0.5, 0.25)], ids=str)
def test_more_amplitudes_than_one_are_analog(values: tuple[float, ...]) -> None:
    x = torch.tensor([random.choice(values) for _ in range(2 * 3 * 25)]).reshape(2, 3, 5, 5)
    x[0, :, 0, 0], x[0, :, 0, 1], x[0, :, 0, 2] = values[0], values[1], values[-1]
    found = measure(nn.Conv2d(3, 4, 3), [x], progress=False)
    assert found.macs == 3 * 3 * 3 * 4 * 3 * 3
    assert found.firing_rate is None


@pytest.mark.parametrize("per_channel", [False, True])
def test_an_amplitude_on_either_side_of_zero_belongs_into_the_weights(per_channel: bool) -> None:
    spikes = torch.rand(4, 3, 6, 6) < 0.4
    amplitudes = torch.tensor([[0.7, 0.1, 2.0], [-0.2, -0.3, -0.5]] if per_channel else [[0.7] * 3, [-0.2] * 3])
    x = torch.where(torch.rand(4, 3, 6, 6) < 0.5, *amplitudes.reshape(2, 1, 3, 1, 1)) * spikes
    layer = nn.Conv2d(3, 4, 3)
    found = measure(layer, [x[:2], x[2:]], progress=False)
    assert found.macs == 0
    assert found.synaptic_operations * 4 == literal_operations(layer, spikes.float())
    other = x.clone()
    other[0, 0, 0, 0] = 0.6
    assert measure(layer, [x, other], progress=False).synaptic_operations == 0


def test_behind_a_leaky_relu_synapses_read_the_spikes_of_two_layers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(0.1), nn.Linear(8, 3)).eval()
    data = [torch.randn(20, 6)]
    qcfs = pascal_ext.calibrate(pascal_ext.replace_activations(model, 4), data)
    found = measure(pascal_ext.convert(qcfs), data, progress=False)
    assert found.macs == 6 * 8
    z = model[0](data[0])
    sides = ((qcfs.get_submodule("1.positive"), z), (qcfs.get_submodule("1.negative"), -z))
    spikes = sum((side(x) * side.levels / side.threshold).round().sum().item() for side, x in sides)
    assert found.synaptic_operations == pytest.approx(3 * spikes / 20)


def test_an_amplitude_that_changes_between_batches_is_analog() -> None:
    x = (torch.rand(4, 3, 6, 6) < 0.4).float()
    assert measure(nn.Conv2d(3, 4, 3), [x, 2 * x], progress=False).synaptic_operations == 0


def test_the_features_of_a_single_sample_are_no_amplitudes() -> None:
    x = torch.rand(1, 5)
    assert measure(nn.Linear(5, 2), [x], timesteps=3, progress=False).macs == 30


def test_sparse_analog_features_are_no_amplitudes() -> None:
    x = torch.rand(3, 30) * torch.eye(3).repeat(1, 10)  # each feature of one sample only
    assert measure(nn.Linear(30, 2), [x], progress=False).macs == 60


class Integrator(nn.Module):
    """Integrate and fire with a soft reset; what a call gives depends on the calls before."""

    def __init__(self) -> None:
        super().__init__()
        self.potential: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.potential = self.potential + x
        spikes = (self.potential >= 1).to(x)
        self.potential = self.potential - spikes
        return spikes

    def reset(self) -> None:
        self.potential = 0.0


def test_a_network_of_single_steps_is_reset_and_called_t_times() -> None:
    network = nn.Sequential(nn.Linear(5, 20), Integrator(), nn.Linear(20, 3)).train()
    data = [torch.randn(6, 5), torch.randn(2, 5)]
    expected = 0
    for x in data:
        neurons = Integrator()
        with torch.no_grad():
            expected += sum(literal_operations(network[2], neurons(network[0](x))) for _ in range(7))
    for _ in range(2):  # the first measurement leaves nothing behind
        found = measure(network, data, timesteps=7, progress=False)
        assert found.synaptic_operations * 8 == expected
        assert found.macs == 7 * 5 * 20
        assert (found.timesteps, found.latency, found.samples) == (7, 7, 8)
    assert network.training
    assert network[1].potential == 0.0


def test_resetting_can_be_handed_in() -> None:
    seen = []
    network = nn.Linear(5, 2)
    measure(network, [torch.rand(2, 5)] * 3, reset=seen.append, progress=False)
    assert seen == [network] * 4


def small_network() -> nn.Module:
    layers = [nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(6, 4, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5)]
    return alive(nn.Sequential(*layers))


@pytest.mark.parametrize("levels", [1, 3, 8])
def test_a_spiking_network_costs_what_its_spikes_reach(levels: int) -> None:
    ann = small_network().double()
    data = [torch.randn(3, 2, 8, 8, dtype=torch.float64), torch.randn(1, 2, 8, 8, dtype=torch.float64)]
    snn = pascal_ext.convert(ann, data, levels, execution="counts", progress=False)
    found = measure(snn, data, progress=False)
    counts: dict[str, float] = dict.fromkeys(("4", "7"), 0.0)

    def count(layer: nn.Module, args: tuple[Tensor, ...], name: str) -> None:
        counts[name] += literal_operations(layer, args[0])

    for name in counts:
        snn.get_submodule(name).register_forward_pre_hook(lambda *seen, name=name: count(*seen, name))
    with snn.configured(execution="spikes"), torch.no_grad():
        for x in data:
            snn(x)
    assert {name: found.layers[name].synaptic_operations * 4 for name in counts} == counts
    assert found.layers["0"].macs == measure(ann, data, progress=False).layers["0"].macs
    assert found.macs == found.layers["0"].macs
    assert snn.execution == "counts"
    assert sum(neurons.latency for neurons in found.neurons.values()) == snn.latency == found.latency
    assert found.timesteps == levels


def test_a_layer_costs_at_most_all_its_synapses_in_every_timestep() -> None:
    data = [torch.randn(3, 2, 8, 8)]
    ann = small_network()
    dense = measure(ann, data, progress=False)
    found = measure(pascal_ext.convert(ann, data, 4, progress=False), data, progress=False)
    assert found.layers.keys() == dense.layers.keys()
    for name in ("4", "7"):
        layer = found.layers[name]
        assert layer.synapses == 4 * dense.layers[name].macs
        assert 0 < layer.synaptic_operations < layer.synapses
        assert 0 < layer.firing_rate < 1


def test_energy_is_that_of_all_operations() -> None:
    data = [torch.randn(3, 2, 8, 8)]
    snn = pascal_ext.convert(small_network(), data, 4, progress=False)
    found = measure(snn, data, energies=OperationEnergies(mac=100.0, ac=1.0, source="this test"), progress=False)
    assert found.energy_joules == pytest.approx(100 * found.macs + found.synaptic_operations)
    assert found.energy_joules == pytest.approx(sum(layer.energy_joules for layer in found.layers.values()))
    assert (HOROWITZ_45NM.mac, HOROWITZ_45NM.ac) == (4.6e-12, 0.9e-12)
    for line in (*found.layers, "total", "T_eff", "latency"):
        assert line in str(found)


def test_operations_outside_modules_have_rows_of_their_own() -> None:
    def forward(self: Net, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.a), self.b) + self.layer(self.layer(x))

    weights = {"a": nn.Parameter(torch.randn(6, 6)), "b": nn.Parameter(torch.randn(6, 6))}
    found = measure(Net(forward, layer=nn.Linear(6, 6), **weights), [torch.rand(4, 6)], progress=False)
    assert {name: layer.macs for name, layer in found.layers.items()} == {"mm": 36, "mm_1": 36, "layer": 72}


def test_products_of_activations() -> None:
    network = Pair(lambda self, x, y: x @ y)
    spikes, values = (torch.rand(2, 3, 4) < 0.5).float(), torch.rand(2, 4, 5)
    assert measure(network, [((spikes, values), None)], progress=False).synaptic_operations == spikes.sum() * 5 / 2
    gram = Net(lambda self, x: x.T @ x)
    assert measure(gram, [torch.rand(4, 3), torch.rand(2, 3)], progress=False).macs * 6 == 3 * 3 * (4 + 2)
    attention = Net(lambda self, x: F.scaled_dot_product_attention(x, x, x))
    assert measure(attention, [torch.rand(2, 1, 3, 4)], progress=False).macs == 2 * 3 * 3 * 4
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    projections, attended = 3 * 8 * (3 + 1) * 8, 2 * 3 * 3 * 8
    found = measure(encoder, [torch.rand(2, 3, 8)], progress=False)
    assert found.macs == projections + attended + 2 * 3 * 8 * 16


def test_what_cannot_be_counted_is_an_error() -> None:
    with pytest.raises(UnsupportedOperationError, match="recurrent layer"):
        measure(nn.LSTM(4, 5), [torch.rand(2, 3, 4)], progress=False)


def test_bad_input_changes_nothing() -> None:
    snn = pascal_ext.convert(small_network(), [torch.randn(3, 2, 8, 8)], 4, execution="counts", progress=False)
    with pytest.raises(InvalidArgumentError, match="has its own timesteps"):
        measure(snn, [torch.randn(3, 2, 8, 8)], timesteps=4)
    with pytest.raises(CalibrationError, match="empty"):
        measure(snn, [], progress=False)
    with pytest.raises(InvalidArgumentError, match="timesteps must be"):
        measure(nn.Linear(2, 2), [torch.rand(1, 2)], timesteps=0)
    with pytest.raises(CalibrationError, match="cannot take inputs"):
        measure(snn, [torch.rand(3, 1, 8, 8)], progress=False)
    nans = [torch.full((3, 2, 8, 8), torch.nan)]
    with pytest.raises(CalibrationError, match="the currents of layer '2' are NaN"):
        measure(snn, nans, progress=False)
    with pytest.raises(CalibrationError, match="the network's outputs are NaN"):
        measure(small_network(), nans, progress=False)
    assert snn.execution == "counts"
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in snn.modules()]
    assert hooks == [0] * len(hooks)
