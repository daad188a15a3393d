"""Batch norms of classes that tracing looks into."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pascal_ext import calibrate, convert, load, replace_activations, save, verify
from tests.cases import Net


class Subclass(nn.BatchNorm2d):
    pass


class WithActivation(nn.BatchNorm2d):
    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-3, momentum=0.3, affine=False)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


class WrittenOut(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        bn = self.bn
        return F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bias=bn.bias, training=self.training)


@pytest.mark.parametrize("norm", [Subclass, WithActivation, WrittenOut])
def test_their_statistics_follow_the_mode(norm: type[nn.Module], tmp_path: Path) -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.end(torch.relu(m.norm(m.b(torch.relu(m.norm(m.a(x))))))).mean((2, 3))  # called twice

    layers = {"a": nn.Conv2d(3, 4, 3), "norm": norm(4), "b": nn.Conv2d(4, 4, 3), "end": nn.Conv2d(4, 5, 1)}
    model, x = Net(forward, **layers).double().train(), torch.randn(16, 3, 8, 8, dtype=torch.float64)
    model(x)
    quantised = replace_activations(model, 1024, example=x)
    calibrate(quantised, [x], progress=False)
    thresholds = {name for name in quantised.state_dict() if name.endswith(".threshold")}
    assert quantised.state_dict().keys() - thresholds == model.state_dict().keys()
    twin = copy.deepcopy(model)
    for network in (twin, quantised):
        assert network.training
        network(x * 2 + 1)
    mean = next(name for name in model.state_dict() if name.endswith("running_mean"))
    assert not torch.equal(twin.state_dict()[mean], model.state_dict()[mean])
    torch.testing.assert_close(quantised.state_dict()[mean], twin.state_dict()[mean], rtol=0.02, atol=0.02)
    torch.testing.assert_close(quantised.eval()(x), twin.eval()(x), rtol=0.02, atol=0.02)
    for folded in (False, True):
        snn = convert(quantised, fold_batch_norm=folded)
        assert verify(quantised, snn, [x], progress=False).exact
        save(snn, tmp_path / "snn.safetensors")
        assert torch.equal(load(tmp_path / "snn.safetensors")(x), snn(x))


class Frozen(nn.BatchNorm2d):
    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)


def test_frozen_on_purpose(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), Frozen(4), nn.ReLU()).double(), torch.randn(4, 3, 8, 8).double()
    nn.init.uniform_(model[1].running_mean)
    quantised = replace_activations(model, 4).train()
    quantised(x).sum().backward()
    assert torch.equal(quantised.state_dict()["1.running_mean"], model[1].running_mean)
    assert quantised.get_parameter("1.weight").grad is not None
    snn = convert(quantised)
    assert verify(quantised, snn, [x], progress=False).exact
    save(snn, tmp_path / "snn.safetensors")
    assert torch.equal(load(tmp_path / "snn.safetensors")(x), snn(x))

    model[1].register_forward_hook(lambda module, args, output: output + 1)
    with pytest.warns(UserWarning, match="'1' is a frozen batch norm: .* forward hooks"):
        replace_activations(model, 4)


def test_hooks_of_a_subclass_stay() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), Subclass(4), nn.ReLU()), torch.randn(2, 3, 8, 8)
    seen: list[Tensor] = []
    model[1].register_forward_hook(lambda module, args, output: seen.append(output))
    replace_activations(model, 4)(x)
    assert len(seen) == 1


@pytest.mark.parametrize(
    "norm",
    [
        lambda m, x: F.batch_norm(x, m.one.running_mean, m.one.running_var, m.other.weight, m.other.bias),
        lambda m, x: F.batch_norm(x, m.one.running_mean, m.one.running_var, None, m.one.bias),
        lambda m, x: F.batch_norm(x, m.one.running_mean, m.one.running_var, m.one.weight, m.one.bias, eps=0.5),
    ],
)
def test_what_no_module_computes_stays_a_function(norm: Callable[[Any, Tensor], Tensor]) -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        return torch.relu(norm(m, m.a(x)))

    layers = {"a": nn.Conv2d(3, 4, 3), "one": nn.BatchNorm2d(4), "other": nn.BatchNorm2d(4)}
    model, x = Net(forward, **layers).eval(), torch.randn(4, 3, 8, 8)
    nn.init.uniform_(model.one.weight)
    nn.init.uniform_(model.other.weight)
    quantised = replace_activations(model, 1024)
    calibrate(quantised, [x], progress=False)
    torch.testing.assert_close(quantised(x), model(x), rtol=0.02, atol=0.02)
