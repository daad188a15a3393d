"""The stock methods: what SpikingJelly itself would give, on a copy, in either version."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pascal_ext.adapters.spikingjelly import registration, stock
from pascal_ext.adapters.spikingjelly.compat import HAS_RECIPES, Converter, ann2snn
from pascal_ext.errors import InvalidArgumentError, UnsupportedOperationError
from pascal_ext.network.spiking_network import SpikingNetwork


def model_and_data() -> tuple[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]]:
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4)).train()
    return model, [(torch.rand(7, 1, 8, 8), torch.zeros(7, dtype=torch.long)) for _ in range(2)]


@pytest.mark.parametrize("method", stock.STOCK_METHODS)
def test_stock_methods_approach_the_ann_and_leave_it_alone(method: str) -> None:
    model, data = model_and_data()
    before = copy.deepcopy(model.state_dict())
    network = stock.convert_stock(model, data, method)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    images = data[0][0]
    with torch.no_grad():
        means = list(stock.running_mean(network, images, 256))
        again = list(stock.running_mean(network, images, 2))
        expected = copy.deepcopy(model).eval()(images)
    assert len(means) == 256
    assert torch.equal(again[1], means[1])
    early, late = ((mean - expected).abs().mean().item() for mean in (means[3], means[255]))
    assert late < early
    if method != "1/2 max":  # which clips the upper half of the activations
        assert late < 0.1 * expected.abs().mean().item()


def test_the_first_method_is_spikingjellys_own() -> None:
    model, data = model_and_data()
    ours = stock.convert_stock(model, data, "max")
    ann = copy.deepcopy(model).eval()
    if HAS_RECIPES:
        theirs = Converter(ann2snn.RateCodingRecipe(dataloader=data, mode="Max")).convert(ann)
    else:
        theirs = Converter(data, mode="max")(ann)
    with torch.no_grad():
        for a, b in zip(
            stock.running_mean(ours, data[0][0], 4), stock.running_mean(theirs, data[0][0], 4), strict=True
        ):
            assert torch.equal(a, b)


def test_modes_by_name() -> None:
    model, data = model_and_data()
    registration.register()
    try:
        network = stock.convert_by_mode(model.eval(), data, "pascal", levels=4, progress=False)
    finally:
        registration.unregister()
    assert isinstance(network, SpikingNetwork)
    assert dict(network.plan) == {"2": 4}


def test_unknown_methods_are_named() -> None:
    model, data = model_and_data()
    with pytest.raises(InvalidArgumentError, match="no stock method 'best'"):
        stock.convert_stock(model, data, "best")


@pytest.mark.parametrize("activation", [nn.ReLU6(), nn.LeakyReLU()], ids=repr)
def test_what_keeps_an_activation_is_no_spiking_network(activation: nn.Module) -> None:
    data = [(torch.rand(10, 4), torch.zeros(10, dtype=torch.int64))]
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), activation, nn.Linear(8, 3))
    with pytest.raises((UnsupportedOperationError, ValueError)):  # SpikingJelly 2.x has its own
        stock.convert_stock(model, data, "max")
    model[3] = nn.ReLU()
    assert len(list(stock.running_mean(stock.convert_stock(model, data, "max"), data[0][0], 4))) == 4


@pytest.mark.skipif(not HAS_RECIPES, reason="threshold balancing came with SpikingJelly 2.x")
def test_threshold_balancing_needs_batches_not_images() -> None:
    model, data = model_and_data()
    images = torch.cat([batch[0] for batch in data])
    with torch.no_grad():
        expected = copy.deepcopy(model).eval()(images)
    errors = []
    for batches in ([(images, None)], [(image, None) for image in images.split(1)] * 20):  # 1 batch, and 280
        network = stock.convert_stock(model, batches, stock.LOCAL_THRESHOLD_BALANCING)
        with torch.no_grad():
            *_, mean = stock.running_mean(network, images, 256)
        errors.append((mean - expected).abs().mean().item())
    assert errors[1] < 0.1 * expected.abs().mean().item() < errors[0]


@pytest.mark.skipif(not HAS_RECIPES, reason="the delayed readout came with SpikingJelly 2.x")
def test_readout_delay_is_shortened_where_timesteps_are_few() -> None:
    model, data = model_and_data()
    network = stock.convert_stock(model, data, "channel-wise")
    delay = stock.readout_delay(network, data, 10**6)
    assert delay > 0
    assert stock.readout_delay(network, data, delay + 4) == delay
    assert stock.readout_delay(network, data, delay + 3) == max(delay - 2, 0)  # at least 4 outputs are read


@pytest.mark.skipif(HAS_RECIPES, reason="what 0.0.0.0.14 lacks, SpikingJelly 2.x has")
def test_what_the_old_version_lacks() -> None:
    model, data = model_and_data()
    with pytest.raises(InvalidArgumentError, match="no stock method"):
        stock.convert_stock(model, data, stock.LOCAL_THRESHOLD_BALANCING)
    with pytest.raises(InvalidArgumentError, match=r"SpikingJelly 2\.x"):
        stock.readout_delay(model, data, 8)
