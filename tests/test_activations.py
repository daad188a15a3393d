"""Activations: which they are, what replaces them, and their levels."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pascal_ext import QCFS, LevelPlan, convert, replace_activations, set_levels, verify
from pascal_ext.activations import qcfs_layers, relu_layers
from pascal_ext.errors import InvalidArgumentError, PlanError
from pascal_ext.graph.tracing import trace
from tests.cases import Net

LAYERS = ["relu", "act", "relu_1"]


def network(act: nn.Module | None = None) -> nn.Module:
    """Three activations in a row, the second one ``act``."""
    return Net(
        lambda m, x: F.relu(m.c(m.act(m.b(F.relu(m.a(x)))))),
        a=nn.Conv2d(3, 4, 3),
        b=nn.Conv2d(4, 4, 3),
        act=act or nn.ReLU(),
        c=nn.Conv2d(4, 4, 3),
    )


def levels_in(model: nn.Module) -> dict[str, int]:
    return {name: layer.levels for name, layer in qcfs_layers(model).items()}


@pytest.mark.parametrize(
    ("activation", "ceiling"),
    [
        (nn.ReLU(), math.inf),
        (nn.ReLU6(), 6.0),
        (nn.Hardtanh(0.0, 2.5), 2.5),
        (nn.Hardtanh(-2.0, -1.0), None),
        (nn.LeakyReLU(0.0), math.inf),
        (nn.ELU(), None),
        (F.relu, math.inf),
        (F.relu6, 6.0),
        (lambda x: F.hardtanh(x, 0, 3), 3.0),
        (lambda x: F.hardtanh(x, min_val=0.0), 1.0),
        (lambda x: F.hardtanh(x, 0.5, 1.0), None),
        (lambda x: F.leaky_relu(x, negative_slope=0), math.inf),
        (torch.relu, math.inf),
        (lambda x: x.relu(), math.inf),
        (lambda x: x.clamp(0), math.inf),
        (lambda x: x.clamp(min=0.0, max=4), 4.0),
        (lambda x: x.clamp_min(0), math.inf),
        (lambda x: torch.clip(x, 0, 1), 1.0),
        (lambda x: torch.clamp_min(x, 0), math.inf),
        (lambda x: x.clamp(max=3), None),
        (lambda x: x.clamp(min=0.1), None),
        (lambda x: x.clamp(0, 0), None),
        (lambda x: x.clamp(min=torch.zeros(())), None),
        (lambda x: x.relu_(), math.inf),
        (lambda x: F.relu(x, inplace=True), math.inf),
        (lambda x: F.relu(input=x), math.inf),
        (lambda x: x.clamp_(0, 2), 2.0),
        (lambda x: torch.relu_(x), math.inf),
    ],
)
def test_what_counts_as_an_activation(activation: Any, ceiling: float | None) -> None:
    layers = {"act": activation} if isinstance(activation, nn.Module) else {}
    model = Net((lambda m, x: m.act(x)) if layers else (lambda m, x: activation(x)), **layers)
    assert list(relu_layers(trace(model)).values()) == ([] if ceiling is None else [ceiling])
    replaced = list(qcfs_layers(replace_activations(model)).values())
    assert [layer.ceiling for layer in replaced] == ([] if ceiling is None else [ceiling])
    assert [layer.threshold.item() for layer in replaced] == (
        [] if ceiling is None else [min(ceiling, 6) if ceiling < math.inf else 1.0]
    )


@pytest.mark.parametrize(
    "written",
    [
        lambda x: torch.maximum(x, torch.tensor(0.0)),
        lambda x: torch.max(torch.zeros_like(x), x),
        lambda x: x.max(torch.zeros(1)),
        lambda x: torch.where(x > 0, x, 0.0),
        lambda x: torch.where(x <= 0, torch.zeros_like(x), x),
        lambda x: x.where(x >= 0.0, torch.tensor(0.0)),
        lambda x: x.masked_fill(x < 0, 0),
        lambda x: x.masked_fill_(x.le(0), 0),
        lambda x: x * (x > 0),
        lambda x: x.gt(0).to(x.dtype).mul(x),
        lambda x: (x >= 0).float() * x,
        lambda x: torch.where(x > 0, other=torch.tensor(0.0), input=x),
        lambda x: x.where(other=torch.tensor(0.0), condition=x > 0),
        lambda x: x.masked_fill(value=0, mask=x < 0),
    ],
)
def test_a_relu_may_be_written_out(written: Any) -> None:
    model, x = Net(lambda m, x: m.a(x) + written(m.b(x)), a=nn.Linear(6, 4), b=nn.Linear(6, 4)), torch.randn(32, 6)
    traced = trace(model)
    assert list(relu_layers(traced).items()) == [("relu", math.inf)]
    assert torch.equal(traced(x), model(x))


@pytest.mark.parametrize(
    ("written", "ceiling"),
    [
        (lambda x: F.relu(x).clamp(max=2), 2.0),
        (lambda x: torch.clamp(F.relu(x), None, 0.5), 0.5),
        (lambda x: x.relu().clamp_max(0.5), 0.5),
        (lambda x: F.relu6(x).clamp_(max=0.5), 0.5),
        (lambda x: x.clamp(0, 0.25).clamp(max=0.5), 0.25),
        (lambda x: torch.maximum(x, torch.tensor(0.0)).clip(max=0.5).clamp(max=0.25), 0.25),
    ],
)
def test_a_ceiling_may_come_second(written: Any, ceiling: float) -> None:
    model, x = Net(lambda m, x: m.a(x) + written(m.b(x)), a=nn.Linear(6, 4), b=nn.Linear(6, 4)), torch.randn(32, 6)
    traced = trace(model)
    assert list(relu_layers(traced).values()) == [ceiling]
    assert torch.equal(traced(x), model(x))


def test_a_ceiling_of_the_activation_alone() -> None:
    """What else reads the ReLU reads it still."""
    model = Net(lambda m, x: (lambda y: y - y.clamp(max=0.5))(F.relu(m.a(x))), a=nn.Linear(6, 4))
    x = torch.randn(32, 6)
    traced = trace(model)
    assert sorted(relu_layers(traced).values()) == [0.5, math.inf]
    assert torch.equal(traced(x), model(x))


@pytest.mark.parametrize(
    "other",
    [
        lambda x: torch.maximum(x, torch.tensor(0.1)),
        lambda x: torch.maximum(x, torch.zeros(3, 1, 1)),
        lambda x: torch.minimum(x, torch.tensor(0.0)),
        lambda x: x.max(0).values,
        lambda x: torch.where(x > 0.1, x, 0.0),
        lambda x: torch.where(x > 0, x, 0.1),
        lambda x: torch.where(x > 0, x * 2, 0.0),
        lambda x: torch.where(x < 0, x, 0.0),
        lambda x: torch.where(x > 0, other=x, input=torch.tensor(0.0)),  # min(x, 0)
        lambda x: torch.where(other=x, input=torch.tensor(0.0), condition=x > 0),
        lambda x: torch.maximum(x, torch.zeros_like(x, dtype=torch.float64)).cos(),
        lambda x: x.masked_fill(x > 0, 0),
        lambda x: x * (x * 2 > 0),
        lambda x: x * (x == 0),
        lambda x: x.clamp(max=0.5),
        lambda x: (x + 1).clamp(max=0.5).cos(),
    ],
)
def test_what_is_nearly_a_relu(other: Any) -> None:
    model, x = Net(lambda m, x: other(m.a(x)), a=nn.Linear(6, 4)), torch.randn(32, 6)
    traced = trace(model)
    assert not relu_layers(traced)
    assert torch.equal(traced(x), model(x))


@pytest.mark.parametrize(
    "rectify",
    [
        F.relu,
        lambda x: x.clamp(min=0),
        lambda x: x * (x > 0),
        lambda x: torch.where(x > 0, x, 0),
        lambda x: x.masked_fill(x < 0, 0),
        lambda x: torch.maximum(x, torch.zeros_like(x)),
    ],
)
def test_constants_are_rectified_as_before(rectify: Any) -> None:
    """No spikes stand for weights, nor for positions, which are whole numbers."""

    def forward(m: Any, x: Tensor) -> Tensor:
        position = torch.arange(x.shape[1], device=x.device)
        table = m.table(rectify(position[:, None] - position)).mean(1)
        return F.linear(F.relu(m.a(x)) + table, rectify(m.a.weight))

    model = Net(forward, a=nn.Linear(6, 6), table=nn.Embedding(5, 6)).double()
    batches = [torch.randn(8, 5, 6, dtype=torch.float64)]
    traced = trace(model)
    assert list(relu_layers(traced)) == ["relu"]
    assert torch.equal(traced(batches[0]), model(batches[0]))
    snn = convert(model, batches, 3, progress=False)
    assert verify(model, snn, batches, progress=False).exact


def test_qcfs_layers_stay_as_they_are_and_each_call_is_its_own() -> None:
    model = Net(lambda m, x: m.act(m.act(F.relu(x)) - 1), act=QCFS(5, torch.tensor([0.5, 2.0])))
    layers = qcfs_layers(replace_activations(model, 3))
    assert {name: layer.levels for name, layer in layers.items()} == {"relu": 3, "act": 5, "act_1": 5}
    assert layers["act"].threshold is not layers["act_1"].threshold
    assert layers["act_1"].threshold.tolist() == [0.5, 2.0]


def test_dtype_and_device_follow_the_parameters() -> None:
    model = Net(lambda m, x: F.relu(m.a(x)), a=nn.Linear(2, 2)).to(torch.bfloat16)
    assert qcfs_layers(replace_activations(model))["relu"].threshold.dtype == torch.bfloat16


def test_state_dict_keeps_the_models_keys() -> None:
    model = network()
    qcfs = replace_activations(model, 4)
    keys = dict(qcfs.state_dict())
    assert keys.keys() - model.state_dict().keys() == {f"{name}.threshold" for name in LAYERS}
    assert not model.state_dict().keys() - keys.keys()
    assert all(torch.equal(keys[name], value) for name, value in model.state_dict().items())
    assert not {p.data_ptr() for p in qcfs.parameters()} & {p.data_ptr() for p in model.parameters()}


def test_modes() -> None:
    model = Net(lambda m, x: F.dropout(F.relu(m.a(x)), 0.5, m.training), a=nn.Linear(50, 50))
    assert not trace(model.train()).training
    assert model.training
    qcfs = replace_activations(model)
    assert qcfs.training
    assert isinstance(qcfs.get_submodule("dropout"), nn.Dropout)
    x = torch.randn(4, 50)
    assert not torch.equal(qcfs(x), qcfs(x)), "in training, it drops"
    assert torch.equal(qcfs.eval()(x), qcfs(x))
    assert not replace_activations(model.eval()).training


def test_layers_that_are_frozen_stay_so() -> None:
    """A batch norm in evaluation mode within a network that trains, as fine-tuning often has."""
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU())
    model[1].eval()
    qcfs = replace_activations(model)
    assert [module.training for module in qcfs.modules()] == [module.training for module in model.modules()]


def test_gradients_reach_weights_and_thresholds() -> None:
    qcfs = replace_activations(network().train(), 4)
    qcfs(torch.rand(2, 3, 8, 8)).sum().backward()
    assert all(p.grad is not None for p in qcfs.parameters())


@pytest.mark.parametrize("levels", [3, {"act": 3}, LevelPlan({"act": 3, "relu_1": 1, "relu": 12})])
def test_levels_of_new_activations(levels: Any) -> None:
    named = levels if isinstance(levels, dict | LevelPlan) else dict.fromkeys(LAYERS, levels)
    assert levels_in(replace_activations(network(), levels)) == dict.fromkeys(LAYERS, 8) | dict(named)


@pytest.mark.parametrize("levels", [3, {"act": 3}, {}, LevelPlan({"act": 3, "relu_1": 1, "relu": 12})])
def test_set_levels_leaves_thresholds_alone(levels: Any) -> None:
    model = replace_activations(network(), 4)
    thresholds = {}
    for name, layer in qcfs_layers(model).items():
        layer.threshold.data = torch.rand(4)
        thresholds[name] = layer.threshold
    before = {name: threshold.clone() for name, threshold in thresholds.items()}
    named = levels if isinstance(levels, dict | LevelPlan) else dict.fromkeys(LAYERS, levels)
    assert set_levels(model, levels) is model
    assert levels_in(model) == dict.fromkeys(LAYERS, 4) | dict(named)
    assert all(layer.threshold is thresholds[name] for name, layer in qcfs_layers(model).items())
    assert all(torch.equal(before[name], threshold) for name, threshold in thresholds.items())


BAD = [
    (0, "at least 1"),
    (2.5, "whole number"),
    ("auto", "'auto'"),
    ({"relu": 5, "act": 0}, "'act'"),
    ({"relu": 5, "nowhere": 4}, r"does not have: \['nowhere'\]; it has \['relu', 'act', 'relu_1'\]"),
    (LevelPlan({"relu": 5}), r"lacks \['act', 'relu_1'\]"),
]


@pytest.mark.parametrize(("levels", "match"), BAD)
def test_levels_that_do_not_fit(levels: Any, match: str) -> None:
    with pytest.raises(PlanError, match=match):
        replace_activations(network(), levels)
    model = replace_activations(network(), 4)
    with pytest.raises(PlanError, match=match):
        set_levels(model, levels)
    assert levels_in(model) == dict.fromkeys(LAYERS, 4), "nothing is changed"


def test_levels_of_learnt_layers_are_not_for_replace_activations_to_change() -> None:
    model = network(QCFS(5))
    assert levels_in(replace_activations(model, 3)) == {"relu": 3, "act": 5, "relu_1": 3}
    assert levels_in(replace_activations(model, {"relu": 3, "act": 5})) == {"relu": 3, "act": 5, "relu_1": 8}
    for levels in ({"act": 4}, LevelPlan.uniform(LAYERS, 4)):
        with pytest.raises(PlanError, match=r"'act': 4 asked, 5 learnt.*pascal_ext\.set_levels"):
            replace_activations(model, levels)


def test_set_levels_needs_layers() -> None:
    with pytest.raises(InvalidArgumentError, match="no QCFS layers"):
        set_levels(network(), 4)
