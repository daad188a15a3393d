"""T_eff: the formula, and which layers and synapses it is about."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import pascal_ext
from pascal_ext.energy import effective_timesteps, energy_ratio, fan_ins, network_effective_timesteps
from pascal_ext.errors import InvalidArgumentError, PlanError
from tests.cases import Net, relu


@given(st.integers(1, 64), st.integers(1, 10_000))
def test_the_ratio_is_the_papers_formula(steps: int, fan_in: int) -> None:
    r = Fraction(4, 3 * fan_in)
    assert energy_ratio(steps, fan_in) == pytest.approx(float((1 + (5 * steps - 2) * r) / (1 + steps * r)))
    assert 1 <= energy_ratio(steps, fan_in) < 5


def test_many_synapses_hide_the_neuron() -> None:
    assert effective_timesteps([4, 2], [1e9, 1e9]) == pytest.approx(3)


def test_t_eff_is_the_mean_over_the_layers() -> None:
    expected = (8 * energy_ratio(8, 27) + energy_ratio(1, 576)) / 2
    assert effective_timesteps([8, 1], [27, 576]) == pytest.approx(expected)
    assert effective_timesteps({"a": 8, "b": 1}, {"b": 576, "a": 27}) == pytest.approx(expected)


def test_the_published_mode_drops_the_layers_beyond_the_shorter_list() -> None:
    assert effective_timesteps([8, 1, 16], [27, 576], published=True) == effective_timesteps([8, 1], [27, 576])
    with pytest.raises(PlanError, match="3 levels and 2 fan-ins"):
        effective_timesteps([8, 1, 16], [27, 576])


@pytest.mark.parametrize(
    ("levels", "fan_in", "message"),
    [
        ([], [], "there are none"),
        ([0], [27], "at least 1"),
        ([2.5], [27], "whole number"),
        ([2], [0], "must be positive"),
        ([2], [float("nan")], "must be positive"),
        ({"a": 2}, {"b": 27}, "only levels has"),
        ({"a": 2}, [27], "both"),
    ],
)
def test_bad_input(levels: object, fan_in: object, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        effective_timesteps(levels, fan_in)
    with pytest.raises(InvalidArgumentError, match="pass lists"):
        effective_timesteps({"a": 2}, {"a": 27}, published=True)


class Block(nn.Module):
    """A shortcut around a depthwise convolution, then a transposed one and a linear layer behind a pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.first = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
        self.depthwise, self.second = nn.Conv2d(8, 8, 5, padding=2, groups=8), nn.ReLU()
        self.up, self.third = nn.ConvTranspose2d(8, 4, 4, stride=2), nn.ReLU()
        self.linear, self.fourth = nn.Linear(4, 6), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.norm(self.stem(x)))
        x = self.second(self.depthwise(x) + x)
        return self.fourth(self.linear(self.third(self.up(x)).mean((2, 3))))


def test_fan_ins_of_a_network() -> None:
    snn = pascal_ext.convert(Block().eval(), [torch.rand(2, 3, 8, 8)], 4, progress=False)
    expected = {"first": 27, "second": 26, "third": 32, "fourth": 4}
    assert fan_ins(snn) == expected
    assert network_effective_timesteps(snn) == effective_timesteps(snn.plan, expected)


def test_synapses_of_branches_that_meet_again_count_once() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        currents = m.b(relu(m.a(x)))
        return m.head(relu(currents + currents.flip(1)))

    network = Net(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 4), head=nn.Linear(4, 2))
    assert list(fan_ins(network).values()) == [3, 4]


def test_behind_a_concatenation_a_neuron_has_the_synapses_of_its_own_branch() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        first = m.b(x).neg() * 2
        second = m.c(relu(torch.cat([F.max_pool2d(first, 1), first.neg()], 1)))
        return m.head(relu(torch.cat([m.norm(first), second], 1)))

    layers = {"b": nn.Conv2d(3, 4, 3), "c": nn.Conv2d(8, 12, 1), "norm": nn.BatchNorm2d(4), "head": nn.Conv2d(16, 2, 1)}
    ann = Net(forward, **layers).eval()
    expected = [27, (4 * 27 + 12 * 8) / 16]
    assert list(fan_ins(ann).values()) == expected
    snn = pascal_ext.convert(ann, [torch.rand(2, 3, 8, 8)], 4, progress=False)
    assert list(fan_ins(snn).values()) == expected
    unknown = Net(lambda m, x: relu(torch.cat([x, m.b(x)], 1)), b=nn.Conv2d(3, 4, 1))
    assert list(fan_ins(unknown).values()) == [1 + 3]


def test_a_size_is_no_synapse() -> None:
    network = Net(lambda m, x: relu(m.b(x).view(relu(m.a(x)).size(0), -1)), a=nn.Linear(3, 4), b=nn.Linear(3, 4))
    assert list(fan_ins(network).values()) == [3, 3]


def test_fan_ins_do_not_need_a_conversion() -> None:
    ann = Block().eval()
    qcfs = pascal_ext.replace_activations(ann, levels=4)
    snn = pascal_ext.convert(qcfs)
    assert fan_ins(ann) == fan_ins(qcfs) == fan_ins(snn)
    assert network_effective_timesteps(qcfs) == network_effective_timesteps(snn)
    plan = snn.plan.updated({"second": 1})
    assert network_effective_timesteps(ann, plan) == effective_timesteps(plan, fan_ins(snn))
    with pytest.raises(InvalidArgumentError, match="pass levels"):
        network_effective_timesteps(ann)
    with pytest.raises(PlanError, match="not of the same layers"):
        network_effective_timesteps(ann, {"first": 4})


def test_fan_ins_that_nobody_knows() -> None:
    weight = nn.Parameter(torch.randn(4, 3))
    network = Net(lambda self, x: self.relu(F.linear(x, self.weight)), weight=weight, relu=nn.ReLU())
    snn = pascal_ext.convert(network, [torch.randn(2, 3)], 4, progress=False)
    assert fan_ins(snn) == {"relu": None}
    assert network_effective_timesteps(snn) is None
