"""Reconstruction: closer to the un-quantised network, on samples it has not seen, and nothing else is changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pascal_ext import QCFS, LevelPlan, calibrate, convert, reconstruct, replace_activations, verify
from pascal_ext.activations import qcfs_layers
from pascal_ext.errors import CalibrationError, InvalidArgumentError, PlanError
from tests.cases import Net, Pair, alive, conv

LEVELS = 3


@pytest.fixture
def model() -> nn.Module:
    """A residual network whose inputs have fewer dimensions than pixels, as images have."""
    torch.manual_seed(0)
    return alive(
        Net(
            lambda m, x: m.head(m.end(m.act(m.b(m.act(m.bn(m.a(x)))) + m.a(x))).relu().mean((2, 3))),
            a=conv(3, 8),
            bn=nn.BatchNorm2d(8),
            act=nn.ReLU(),
            b=conv(8, 8),
            end=conv(8, 16),
            head=nn.Linear(16, 5),
        )
    )


def images(count: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 2, 2, generator=generator)
    return nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear")


@pytest.fixture
def loader() -> list[Any]:
    return [(images(96, seed), torch.zeros(96)) for seed in (1, 2)]


def error(ours: nn.Module, model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float(nn.functional.mse_loss(ours.eval()(x), model(x)))


def run(model: nn.Module, loader: Any, **options: Any) -> nn.Module:
    return reconstruct(model, loader, **{"levels": LEVELS, "steps": 60, "progress": False, **options})


def test_closer_than_thresholds_and_means(model: nn.Module, loader: list[Any]) -> None:
    start = replace_activations(model, LEVELS)
    calibrate(start, loader, correct="bias", per_channel="auto", progress=False)
    found = run(model, loader, steps=100)
    unseen = images(200, seed=3)
    assert error(found, model, unseen) < 0.8 * error(start, model, unseen)


def test_spikes_are_those_of_the_network_it_returns(model: nn.Module, loader: list[Any]) -> None:
    qcfs = run(model, loader)
    report = verify(qcfs, convert(qcfs), loader, progress=False)
    assert report.exact
    assert {layer.levels for layer in qcfs_layers(qcfs).values()} == {LEVELS}


def test_nothing_else_is_changed(model: nn.Module, loader: list[Any]) -> None:
    """Not the model, torch's generator, which parameters train, nor the statistics of batch norms."""
    model.a.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    with torch.no_grad():
        qcfs = run(model.train(), loader)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert qcfs.training
    assert not qcfs.a.weight.requires_grad
    assert qcfs.b.weight.requires_grad
    assert all(parameter.grad is None for parameter in qcfs.parameters())
    assert torch.equal(qcfs.bn.running_mean, model.bn.running_mean)
    assert not torch.equal(qcfs.a.weight, model.a.weight)


def test_the_seed_decides(model: nn.Module, loader: list[Any]) -> None:
    def noisy(x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x)

    first, again, other = (run(model, loader, steps=5, augment=noisy, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.a.weight, again.a.weight)
    assert not torch.equal(first.a.weight, other.a.weight)


def test_batches_of_any_size_and_kind(loader: list[Any]) -> None:
    model = alive(Pair(lambda m, x, y: {"out": m.b(m.a(x).relu() + y)}, a=conv(3, 4), b=conv(4, 2)))
    x, y = images(40), torch.randn(40, 4, 8, 8)
    cut = [((x[:30], y[:30]), torch.zeros(30)), ((x[30:], y[30:]), torch.zeros(10))]
    whole = [((x, y), torch.zeros(40))]
    assert torch.equal(run(model, cut, steps=3).a.weight, run(model, whole, steps=3).a.weight)


def test_bounded_activations_plans_and_learnt_layers() -> None:
    learnt = QCFS(5, 0.7)
    model = alive(Net(lambda m, x: m.b(m.q(m.a(nn.functional.relu6(x)))), a=conv(3, 4), q=learnt, b=conv(4, 2)))
    qcfs = run(model, [images(64)], levels=LevelPlan({"relu6": 2, "q": 5}))
    assert {name: layer.levels for name, layer in qcfs_layers(qcfs).items()} == {"relu6": 2, "q": 5}
    with pytest.raises(PlanError):
        run(model, [images(64)], levels=LevelPlan({"no layer": 2}))


def test_where_nothing_becomes_better(model: nn.Module, loader: list[Any]) -> None:
    start = replace_activations(model, LEVELS)
    calibrate(start, loader, correct="bias", per_channel="auto", progress=False)
    with pytest.warns(UserWarning, match="made nothing better"):
        found = run(model, loader, rate=1e3, steps=3)
    assert error(found, start.eval(), images(20)) == 0


@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": 2.5}, {"batch_size": True}, {"rate": 0.0}, {"rate": "x"}])
def test_options_out_of_range(model: nn.Module, loader: list[Any], options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match=next(iter(options))):
        run(model, loader, **options)


def test_what_cannot_be_reconstructed(model: nn.Module, loader: list[Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="no ReLU-like"):
        run(replace_activations(model), loader)
    with pytest.raises(InvalidArgumentError, match="16 bits"):
        run(model.bfloat16(), [images(4).bfloat16()])
    with pytest.raises(CalibrationError, match="empty"):
        run(model.float(), [])
    with pytest.raises(CalibrationError, match="one shape"):
        run(model, [images(4), images(4)[..., :6]])


def test_parameters_of_integers_are_left_alone() -> None:
    index = nn.Parameter(torch.tensor([2, 0, 1]), requires_grad=False)
    net = alive(Net(lambda m, x: m.b(m.a(x[:, m.index]).relu()), a=nn.Linear(3, 8), b=nn.Linear(8, 2), index=index))
    found = reconstruct(net, [torch.rand(32, 3)], LEVELS, steps=2, progress=False)
    assert torch.equal(found.index, index)
    assert not found.index.requires_grad


def test_inference_mode_and_numbers_of_numpy_change_nothing(model: nn.Module, loader: list[Any]) -> None:
    options: dict[str, Any] = {"levels": LEVELS, "progress": False}
    expected = reconstruct(model, loader, steps=8, batch_size=16, **options)
    with torch.inference_mode():
        there = [(x.clone(), y) for x, y in loader]
        found = reconstruct(model, there, steps=np.int64(8), batch_size=np.int64(16), rate=np.float32(0.01), **options)
    torch.testing.assert_close(found.state_dict(), expected.state_dict())
    found(loader[0][0]).sum().backward()  # it can be trained on
