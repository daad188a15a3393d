"""Costs against the converted network, and against counting by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pascal_ext import LevelPlan, convert, replace_activations, set_levels
from pascal_ext.activations import qcfs_layers
from pascal_ext.allocation.costs import Costs
from pascal_ext.allocation.solver import LatencyLimit, Limit, cost
from pascal_ext.allocation.statistics import collect, traced_layers
from pascal_ext.allocation.survey import Operation, survey
from pascal_ext.data import Batch
from pascal_ext.energy import fan_ins, measure
from pascal_ext.energy.cost_model import HOROWITZ_45NM
from pascal_ext.errors import InvalidArgumentError
from pascal_ext.verification.recording import mean_spikes
from tests.cases import Net
from tests.zoo import EXACT

SOONER = {
    "maximum of currents",  # the network takes a mean there, and reads it in one step,
    "prelu",  # as it does with sums of trains of which none can be repeated to be as long as the others
}


@pytest.mark.parametrize("name", sorted(EXACT.keys() - SOONER))
def test_latency_is_that_of_the_converted_network(name: str) -> None:
    model = replace_activations(EXACT[name].build())
    names = list(qcfs_layers(model))
    choices = (1, 2, 3, 5, 8)
    plan = LevelPlan({layer: choices[(7 * index + len(name)) % 5] for index, layer in enumerate(names)})
    set_levels(model, plan)
    traced, layers = traced_layers(model)
    with torch.no_grad():
        structure = survey(traced, layers, Batch(tuple(EXACT[name].data()), {}, None))
    limit = LatencyLimit(structure.sources, structure.ends, 1, structure.windows)
    assert limit.of(plan) == convert(model).latency


@pytest.mark.parametrize("name", sorted(EXACT))
def test_fan_ins_are_those_that_a_network_reports(name: str) -> None:
    model = EXACT[name].build()
    traced, layers = traced_layers(model)
    with torch.no_grad():
        structure = survey(traced, layers, Batch(tuple(EXACT[name].data()), {}, None))
    reported = fan_ins(model)
    assert reported.keys() == structure.fan_in.keys()
    assert {layer: structure.fan_in[layer] for layer, count in reported.items() if count is not None} == {
        layer: pytest.approx(count) for layer, count in reported.items() if count is not None
    }


def classifier() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 2, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * 36, 5),
    ).eval()


DATA = [torch.randn(7, 3, 6, 6, generator=torch.Generator().manual_seed(0))]


def test_synapses_and_operations() -> None:
    traced, layers = traced_layers(classifier())
    with torch.no_grad():
        structure = survey(traced, layers, Batch((DATA[0],), {}, None))
    assert structure.sources == {"2": (), "4": ("2",), "6": ("4",)}
    assert structure.ends == ("6",)
    assert structure.fan_in["2"] == 3 * 9
    assert structure.fan_in["4"] == 2 * 9
    assert structure.fan_in["6"] == 6 * 9
    assert structure.operations == [
        Operation((), 4 * 3 * (6 * 3 - 2) ** 2),  # the padding is no synapse
        Operation(("2",), 6 * 16 * 18),
        Operation(("4",), 6 * 16 * 2 * 9),
        Operation(("6",), 5 * 72),
    ]


@pytest.mark.parametrize(
    "last",
    [
        lambda x, w: F.linear(x, weight=w),
        lambda x, w: x @ w.t(),
        lambda x, w: torch.mm(input=x, mat2=w.t()),
        lambda x, w: torch.einsum("nc,kc->nk", x, w),
        lambda x, w: torch.einsum("kc, nc -> nk", [w, x]),
    ],
)
def test_functions_and_branches(last: Callable[[Tensor, Tensor], Tensor]) -> None:
    model = Net(
        lambda m, x: last(torch.relu(F.linear(x, m.v)) + torch.relu(m.a(x) + m.b(x)), m.w),
        v=nn.Parameter(torch.randn(4, 3)),
        w=nn.Parameter(torch.randn(2, 4)),
        a=nn.Linear(3, 4),
        b=nn.Linear(3, 4),
    )
    traced, layers = traced_layers(model)
    structure = survey(traced, layers, Batch((torch.randn(5, 3),), {}, None))
    assert list(structure.fan_in.values()) == [3, 6]
    assert structure.operations[-1] == Operation(tuple(layers), 8)
    assert structure.ends == tuple(layers)


def test_energy_is_that_of_the_spikes_of_the_converted_network() -> None:
    model = classifier()
    traced, layers = traced_layers(model)
    batch = Batch((DATA[0],), {}, None)
    choices = {name: [2, 4] for name in layers}
    with torch.no_grad():
        collect(traced, layers, [batch], False, None)
        limit = Costs(traced, layers, choices, batch).limit("energy", 1.0)
    assert isinstance(limit, Limit)
    for levels in (2, 4):
        snn = convert(model, DATA, levels, progress=False)
        quantised = replace_activations(model, levels)
        for name, layer in qcfs_layers(quantised).items():
            layer.threshold.data.copy_(snn.neurons[name].v_threshold)
        spikes = mean_spikes(snn, DATA)
        wanted = HOROWITZ_45NM.mac * 4 * 3 * 16**2
        wanted += HOROWITZ_45NM.ac * (6 * 16 * 18 * spikes["2"] + 6 * 16 * 18 * spikes["4"] + 5 * 72 * spikes["6"])
        found = 1e-9 * sum(limit.costs[name][levels] for name in layers)
        assert found == pytest.approx(wanted, rel=0.1)  # spikes of layers behind quantised ones differ a little


@pytest.mark.parametrize(
    "between",
    [
        lambda y: y,
        lambda y: F.max_pool2d(y, 2),
        lambda y: F.avg_pool2d(y, 2),
        lambda y: y.mean((2, 3), keepdim=True),
        lambda y: F.interpolate(y, scale_factor=2),
        lambda y: F.interpolate(y, scale_factor=2, mode="bilinear"),
        lambda y: F.pad(y, (1, 1, 1, 1)),
    ],
)
def test_energy_is_what_is_measured(between: Callable[[Tensor], Tensor]) -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        y = between(torch.relu(m.b(torch.relu(m.a(x)))))
        return m.d(torch.relu(F.conv2d(y, m.w, padding="same")).mean((2, 3)))

    layers = {"a": nn.Conv2d(3, 4, 3, padding=1), "b": nn.Conv2d(4, 6, 3, padding=1), "d": nn.Linear(8, 5)}
    model, x = Net(forward, w=nn.Parameter(torch.randn(8, 6, 3, 3)), **layers).eval(), torch.randn(32, 3, 8, 8)
    traced, found = traced_layers(model)
    choices = {name: [2, 8] for name in found}
    with torch.no_grad():
        batch = Batch((x,), {}, None)
        collect(traced, found, [batch], False, None)
        limit = Costs(traced, found, choices, batch).limit("energy", 1.0)
    assert isinstance(limit, Limit)
    for levels in (2, 8):
        measured = measure(convert(model, [x], levels, progress=False), [x], progress=False).energy_joules
        assert 1e-9 * sum(limit.costs[name][levels] for name in found) == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(
    "between",
    [
        lambda m, y: m.p(m.b(y)),  # as in MobileNets: nothing between two convolutions
        lambda m, y: m.p(m.n(m.b(y)) + y),  # currents join what is passed by
        lambda m, y: m.p(F.avg_pool2d(y, 2)),
        lambda m, y: m.p(torch.cat([m.b(y)[:, :2], y[:, 2:]], 1)),
        lambda m, y: F.conv2d(m.b(y), m.w),
        lambda m, y: m.p(F.leaky_relu(m.b(y))),
    ],
)
def test_energy_and_latency_of_weights_that_read_currents(between: Callable[[Net, Tensor], Tensor]) -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.d(torch.relu(between(m, torch.relu(m.a(x)))).mean((2, 3)))

    layers = {"a": nn.Conv2d(3, 4, 3, padding=1), "b": nn.Conv2d(4, 4, 3, padding=1, groups=4), "p": nn.Conv2d(4, 8, 1)}
    rest = {"n": nn.BatchNorm2d(4), "d": nn.Linear(8, 5), "w": nn.Parameter(torch.randn(8, 4, 1, 1))}
    model, x = Net(forward, **layers, **rest).eval(), torch.randn(32, 3, 8, 8)
    traced, found = traced_layers(model)
    with torch.no_grad():
        batch = Batch((x,), {}, None)
        collect(traced, found, [batch], False, None)
        costs = Costs(traced, found, {name: [2, 8] for name in found}, batch)
        limit, latency = costs.limit("energy", 1.0), costs.limit("latency", 1.0)
    assert isinstance(limit, Limit)
    for levels in (2, 8):
        snn = convert(model, [x], levels, progress=False)
        measured = measure(snn, [x], progress=False).energy_joules
        assert 1e-9 * sum(limit.costs[name][levels] for name in found) == pytest.approx(measured, rel=0.1)
        assert cost(latency, dict.fromkeys(found, levels)) == snn.latency


def test_unknown_costs() -> None:
    traced, layers = traced_layers(classifier())
    with pytest.raises(InvalidArgumentError, match="cost='spikes' is unknown"):
        Costs(traced, layers, {}, Batch((DATA[0],), {}, None)).limit("spikes", 1.0)


def test_a_size_is_no_source() -> None:
    """A tensor in the shape of another one is not made from it."""

    def forward(m: Net, x: Tensor) -> Tensor:
        first = F.avg_pool1d(torch.relu(m.a(x)), 1)
        return m.c(torch.relu(m.b(x)).view(first.size(0), first.size(1), 1).flatten(1))

    model = Net(forward, a=nn.Linear(3, 4), b=nn.Linear(3, 4), c=nn.Linear(4, 2))
    traced, layers = traced_layers(model)
    structure = survey(traced, layers, Batch((torch.randn(5, 3),), {}, None))
    assert structure.operations[-1] == Operation(("relu_1",), 8)
    assert structure.ends == ("relu_1",)
