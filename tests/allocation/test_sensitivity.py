"""Losses against networks in which one layer really is quantised."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pascal_ext import replace_activations
from pascal_ext.activations import qcfs_layers
from pascal_ext.allocation.sensitivity import Losses, sensitivities
from pascal_ext.allocation.statistics import collect, traced_layers
from pascal_ext.data import split_batch
from tests.cases import Net

CHOICES = [1, 2, 4, 16, 256]


class Residual(nn.Module):
    """Two layers beside one another and one behind them, and a shortcut: [N, 6] -> [N, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 5)
        self.act_a, self.act_b, self.act_c = nn.ReLU(), nn.ReLU6(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act_a(self.a(x)) + self.act_b(self.b(x))
        return self.head(self.act_c(self.c(y)) + y)


@pytest.fixture
def data() -> list[Tensor]:
    return [2 * torch.randn(40, 6), 2 * torch.randn(24, 6)]


def found(model: nn.Module, data: list[Tensor], choices: Any = None) -> tuple[Losses, str]:
    traced, layers = traced_layers(model)
    batches = [split_batch(x) for x in data]
    with torch.no_grad():
        collect(traced, layers, batches, False, None)
        return sensitivities(traced, layers, choices or dict.fromkeys(layers, CHOICES), batches, None)


@torch.no_grad()
def test_a_loss_is_the_mean_divergence_with_that_layer_quantised(data: list[Tensor]) -> None:
    model = Residual()
    losses, title = found(model, data)
    assert title == "KL"
    traced, layers = traced_layers(model)
    collect(traced, layers, [split_batch(x) for x in data], False, None)
    x = torch.cat(data)
    for name, row in losses.items():
        for levels, loss in row.items():
            quantised = copy.deepcopy(model)
            setattr(quantised, name, layers[name].quantiser(levels))
            p, q = model(x).double().softmax(1), quantised(x).double().softmax(1)
            assert loss == pytest.approx(float((p * (p / q).log()).sum(1).mean()), rel=1e-4, abs=1e-9)


def test_many_levels_lose_little(data: list[Tensor]) -> None:
    losses, _ = found(Residual(), data)
    for row in losses.values():
        assert row[1] > 10 * row[16] > 0
        assert row[256] < 0.01 * row[4]


def test_a_layer_that_matters_is_seen(data: list[Tensor]) -> None:
    model = Residual()
    with torch.no_grad():
        model.b.weight.mul_(1e-3)
        model.b.bias.mul_(1e-3)
    losses, _ = found(model, data)
    assert all(losses["act_b"][level] < 1e-3 * losses["act_a"][level] for level in (1, 2, 4))


def test_the_order_of_the_data_does_not_matter(data: list[Tensor]) -> None:
    model = Residual()
    x = torch.cat(data)
    shuffled = list(x[torch.randperm(len(x))].split(16))
    one, other = found(model, data)[0], found(model, shuffled)[0]
    for name, row in one.items():
        assert list(other[name].values()) == pytest.approx(list(row.values()), rel=1e-4, abs=1e-9)


def test_learnt_levels_cost_nothing(data: list[Tensor]) -> None:
    model = replace_activations(Residual(), 4)
    for layer in qcfs_layers(model).values():
        layer.threshold.data.fill_(1.7)
    losses, _ = found(model, data)
    assert all(row[4] == 0 for row in losses.values())
    assert all(row[1] > row[2] > 0 for row in losses.values())


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_other_outputs_have_a_squared_error_whatever_their_scale(data: list[Tensor], scale: float) -> None:
    def several(m: Any, x: Tensor) -> dict[str, Any]:
        y = m.body(x)
        return {"a": y.unsqueeze(2) * scale, "b": (y[:, :1] * scale, 3)}

    torch.manual_seed(3)
    losses, title = found(Net(several, body=Residual()), data)
    assert title == "squared error"
    torch.manual_seed(3)
    reference, _ = found(Net(lambda m, x: several(m, x)["a"], body=Residual()), data)
    assert all(0 < row[16] < row[1] < 1 for row in losses.values())
    assert losses["body.act_c"][2] == pytest.approx(reference["body.act_c"][2], rel=0.5)


def test_no_loss_is_negative(data: list[Tensor]) -> None:
    """As divergences are, but for the rounding of their sum."""
    model = Residual().double()
    with torch.no_grad():
        model.c.weight.mul_(1e-12)
        model.c.bias.mul_(1e-12)
    for seed in range(8):
        torch.manual_seed(seed)
        losses, _ = found(model, [torch.randn(40, 6, dtype=torch.float64)])
        assert all(loss >= 0 for row in losses.values() for loss in row.values())
