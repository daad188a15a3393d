"""Measuring what callers bring: modes of torch, wrappers, methods of their own, products in any order."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import pascal_ext
from pascal_ext.energy import measure
from pascal_ext.errors import InvalidArgumentError, UnsupportedOperationError
from tests.cases import Net, alive

DATA = [torch.rand(6, 2, 8, 8)]


def network() -> nn.Module:
    layers = [nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)]
    return alive(nn.Sequential(*layers, nn.Flatten(), nn.Linear(96, 5)))


def converted(ann: nn.Module, data: list[Tensor] = DATA, **options: object) -> nn.Module:
    return pascal_ext.convert(ann, data, 4, progress=False, **options)


class Steps(nn.Module):
    """Integrate and fire, with a current of its own, which may be learnt."""

    def __init__(self, learns: bool = True) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(0.1)) if learns else 0.1
        self.potential: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.potential = self.potential + x + self.bias
        spikes = (self.potential >= 1).to(x)
        self.potential = self.potential - spikes
        return spikes

    def reset(self) -> None:
        self.potential = 0.0


def test_inference_mode_hides_nothing() -> None:
    ann = network()
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    steps = nn.Sequential(nn.Flatten(), nn.Linear(128, 20), Steps(), nn.Linear(20, 3))

    def measured(data: list[Tensor]) -> list[object]:
        words = [x.flatten(2).transpose(1, 2)[..., :1].expand(-1, -1, 8) for x in data]
        dense, spikes = measure(ann, data, progress=False), measure(converted(ann), data, progress=False)
        reports = [dense, spikes, measure(encoder, words, progress=False)]
        reports.append(measure(steps, data, timesteps=5, progress=False))
        return [(found.macs, found.synaptic_operations, found.firing_rate, found.latency) for found in reports]

    expected = measured(DATA)
    with torch.inference_mode():
        made_there = [DATA[0].clone()]
        found = [measured(DATA), measured(made_there)]
        with pytest.raises(UnsupportedOperationError, match="recurrent layer"):
            measure(nn.LSTM(4, 5), [torch.rand(2, 3, 4)], progress=False)
        snn = converted(network())
    assert found == [expected, expected]
    assert measured(made_there) == expected
    assert measure(snn, made_there, progress=False).synaptic_operations > 0  # parameters of inference mode


@pytest.mark.parametrize("execution", ["spikes", "counts"])
def test_a_wrapper_changes_nothing(execution: str) -> None:
    snn = converted(network(), execution=execution)
    wrapped = nn.DataParallel(torch.optim.swa_utils.AveragedModel(snn))
    assert measure(wrapped, DATA, progress=False) == measure(snn, DATA, progress=False)
    assert measure(nn.DataParallel(network()), DATA, progress=False).layers.keys() == {"0", "5"}
    with pytest.raises(InvalidArgumentError, match=r"'1' of this Sequential .* network.get_submodule\('1'\)"):
        measure(nn.Sequential(nn.Identity(), snn), DATA, progress=False)


def test_an_anns_own_reset_is_not_called() -> None:
    class Anew(nn.Sequential):
        def reset(self) -> None:
            for parameter in self.parameters():
                nn.init.zeros_(parameter)

    class With(nn.Sequential):
        def reset(self, generator: torch.Generator) -> None:
            raise AssertionError

    expected = measure(network(), DATA, progress=False)
    for kind in (Anew, With):
        ann = kind(*network())
        before = [parameter.clone() for parameter in ann.parameters()]
        found = measure(ann, DATA, progress=False)
        measure(converted(ann), DATA, progress=False)
        assert found == expected
        assert all(map(torch.equal, before, ann.parameters()))
    with pytest.raises(InvalidArgumentError, match=r"'the network' has a reset\(\) .*'generator'.* pass reset="):
        measure(With(*network()), DATA, timesteps=2, progress=False)


def test_neurons_within_a_module_that_makes_the_sequence_are_reset() -> None:
    neurons = Steps(learns=False)
    layers = nn.ModuleList([nn.Linear(4, 8), neurons, nn.Linear(8, 2)])
    whole = Net(lambda m, x: sum(m.layers[2](m.layers[1](m.layers[0](x))) for _ in range(5)), layers=layers)
    data = [torch.rand(3, 4)]
    first = measure(whole, data, progress=False)
    assert neurons.potential == 0.0
    assert measure(whole, data, progress=False) == first
    learnt = nn.Sequential(nn.Linear(4, 8), Steps(), nn.Linear(8, 2))
    measure(learnt, data, timesteps=5, progress=False)
    assert learnt[1].potential == 0.0


@pytest.mark.parametrize(
    ("equation", "weight_first"), [("ij,bjk->bik", True), ("bjk,ij->bik", False), ("ij,bjk->bki", True)]
)
def test_of_a_product_the_input_is_what_no_parameter_is(equation: str, weight_first: bool) -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        spikes = m.relu(m.a(x))
        return torch.einsum(equation, *((m.w, spikes) if weight_first else (spikes, m.w)))

    ann = Net(forward, a=nn.Linear(3, 4), relu=nn.ReLU(), w=nn.Parameter(torch.randn(7, 6)))
    data = [torch.rand(8, 6, 3)]
    snn = converted(ann, data)
    found = measure(snn, data, progress=False)
    spikes = found.neurons["relu"].firing_rate * 4 * 24  # of 24 neurons in 4 steps
    assert found.macs == 6 * 4 * 3
    assert found.synaptic_operations == pytest.approx(7 * spikes)
    assert found.synaptic_operations > 0


def test_a_parameter_times_a_vector() -> None:
    ann = Net(lambda m, x: torch.stack([m.w.mv(row) for row in x]), w=nn.Parameter(torch.randn(7, 6)))
    x = (torch.rand(4, 6) < 0.5).float()
    assert measure(ann, [x], progress=False).synaptic_operations * 4 == 7 * x.sum()


def test_inputs_can_be_analog_whatever_their_values_are() -> None:
    ann = network()
    spikes = [(DATA[0] > 0.5).float()]
    as_spikes, as_images = (measure(ann, spikes, analog_inputs=analog, progress=False) for analog in (False, True))
    assert as_spikes.layers["0"].synaptic_operations > 0
    assert as_images.macs == measure(ann, DATA, progress=False).macs
    assert (as_images.synaptic_operations, as_images.firing_rate) == (0, None)
    assert [layer.reads_input for layer in as_images.layers.values()] == [True, False]
    moved = Net(lambda m, x: m.ann(x.flip(2) / 2), ann=ann)
    assert measure(moved, spikes, analog_inputs=True, progress=False).macs == as_images.macs
    decided = Net(lambda m, x: m.ann((x > 0.7).float()), ann=ann)  # spikes of the network's own
    assert measure(decided, DATA, analog_inputs=True, progress=False).layers["ann.0"].reads_spikes


def test_what_is_written_into_a_part_of_a_tensor_is_known() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        padded = torch.zeros(len(x), 5)
        for row, values in itertools.zip_longest(padded, x):
            row[:4] = values
        return m.a(padded)

    spikes = [(torch.rand(6, 4) < 0.5).float()]
    found = measure(Net(forward, a=nn.Linear(5, 2)), spikes, analog_inputs=True, progress=False)
    assert found.macs == 10
