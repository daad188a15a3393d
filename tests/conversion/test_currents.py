"""Weights that read currents and not spikes run once, on their mean."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pascal_ext import LevelPlan, convert, set_levels
from pascal_ext.activations import qcfs_layers
from pascal_ext.energy import measure
from tests.cases import BATCH, Case, Net, assert_same_function, quantised

pytestmark = pytest.mark.filterwarnings("ignore:layer .* is dead")


@pytest.mark.parametrize("levels", [(4, 4, 4), (2, 3, 5)], ids=str)
def test_weights_that_read_currents_run_once(levels: tuple[int, ...]) -> None:
    """An inverted residual block; what comes last keeps its timesteps, and what reads spikes keeps its spikes."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.project(torch.relu(m.stem(x)))  # currents from here on
        y = torch.relu(m.expand(x))
        x = x + m.back(y)
        z = torch.relu(m.again(x))
        return m.head(torch.cat([y, z], 1).mean((2, 3)))

    first = {"stem": nn.Conv2d(3, 8, 3), "project": nn.Conv2d(8, 4, 1), "expand": nn.Conv2d(4, 12, 1)}
    rest = {"back": nn.Conv2d(12, 4, 1), "again": nn.Conv2d(4, 12, 1), "head": nn.Linear(24, 5)}
    case = Case(Net(forward, **first, **rest), [(3, 6, 6)])
    qcfs = quantised(case.build(), case.data(), "per-channel")
    set_levels(qcfs, LevelPlan(dict(zip(qcfs_layers(qcfs), levels, strict=True))))
    snn = convert(qcfs)
    assert_same_function(qcfs, snn, case)
    rows: dict[str, int] = {}
    for name in (*first, *rest):
        layer = snn.get_submodule(name)
        layer.register_forward_pre_hook(lambda _, args, name=name: rows.update({name: args[0].shape[0]}))
    snn.settle_ties = False
    with torch.inference_mode():
        snn(*case.data())
    longest = max(levels[1:])
    expected = {"stem": 1, "project": levels[0], "expand": 1, "back": levels[1], "again": 1, "head": longest}
    assert rows == {name: steps * BATCH for name, steps in expected.items()}


@pytest.mark.parametrize("levels", [(2, 4), (2, 3)], ids=str)
def test_trains_that_meet(levels: tuple[int, int]) -> None:
    """Spikes stay spikes where one window divides the other; else there are averages, which weights read once."""
    layers = {"a": nn.Linear(3, 4), "b": nn.Linear(3, 4), "c": nn.Linear(8, 6), "d": nn.Linear(6, 5)}
    join = lambda m, x: m.d(torch.relu(m.c(torch.cat([torch.relu(m.a(x)), torch.relu(m.b(x))], 1))))  # noqa: E731
    case = Case(Net(join, **layers), [(3,)])
    qcfs = quantised(case.build(), case.data(), "scalar")
    set_levels(qcfs, LevelPlan(dict(zip(qcfs_layers(qcfs), (*levels, 4), strict=True))))
    snn = convert(qcfs)
    assert_same_function(qcfs, snn, case)
    cost = measure(snn, [tuple(case.data())], progress=False).layers["c"]
    if levels[1] % levels[0]:
        assert (cost.macs, cost.synaptic_operations) == (8 * 6, 0)
    else:
        assert cost.macs == 0
        assert cost.synaptic_operations > 0
