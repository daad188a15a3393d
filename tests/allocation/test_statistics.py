"""The layers of a model, and their histograms, against the activations themselves."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pascal_ext import QCFS, al_metric, calibrate, replace_activations
from pascal_ext.activations import qcfs_layers
from pascal_ext.allocation.metric import metric_of_levels
from pascal_ext.allocation.statistics import Layer, collect, traced_layers
from pascal_ext.data import split_batch
from pascal_ext.errors import CalibrationError, InvalidArgumentError
from tests.cases import Net
from tests.zoo import EXACT


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(96, 3)
    ).eval()


def data() -> list[Tensor]:
    torch.manual_seed(2)
    return [torch.randn(8, 3, 8, 8), torch.randn(5, 3, 8, 8)]


def measured(model: nn.Module, per_channel: bool = False) -> dict[str, Layer]:
    traced, layers = traced_layers(model)
    collect(traced, layers, [split_batch(x) for x in data()], per_channel, None)
    return layers


@pytest.mark.parametrize("name", sorted(EXACT))
def test_layers_are_those_of_replace_activations(name: str) -> None:
    model = EXACT[name].build()
    quantised = replace_activations(model)
    _, layers = traced_layers(model)
    assert list(layers) == list(qcfs_layers(quantised))
    for name, layer in qcfs_layers(quantised).items():
        assert layers[name].ceiling == (layer.ceiling if layers[name].levels is None else 1)  # of what has learnt
    _, learnt = traced_layers(quantised)
    assert {name: layer.levels for name, layer in learnt.items()} == {
        name: layer.levels or 8 for name, layer in layers.items()
    }


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("levels", [1, 3, 8])
def test_thresholds_are_those_that_calibration_sets(per_channel: bool, levels: int) -> None:
    wanted = qcfs_layers(
        calibrate(replace_activations(network(), levels), data(), per_channel=per_channel, progress=False)
    )
    for name, layer in measured(network(), per_channel).items():
        quantiser = layer.quantiser(levels)
        assert quantiser.levels == levels
        torch.testing.assert_close(quantiser.threshold, wanted[name].threshold)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_learnt_layer_keeps_its_thresholds_at_all_levels(sign: float) -> None:
    model = replace_activations(network(), 4)
    model.get_submodule("1").threshold.data = sign * torch.tensor([0.3, 0.5, 1.0, 0.1])
    model.get_submodule("3").threshold.data.fill_(0.4)
    layers = measured(model)
    for name, layer in layers.items():
        learnt = model.get_submodule(name).threshold.detach()
        for levels in (1, 2, 3, 4, 8, 64):
            assert torch.equal(layer.quantiser(levels).threshold, learnt)


@pytest.mark.parametrize("levels", [1, 4, 16])
def test_level_counts_are_what_the_quantiser_puts_out(levels: int) -> None:
    layer = measured(network())["1"]
    with torch.no_grad():
        z = torch.cat([network()[0](x) for x in data()])
        counts = layer.quantiser(levels).counts(z)
    exact = torch.bincount(counts.flatten(), minlength=levels + 1)
    found = layer.level_counts(levels)
    assert found.sum() == exact.sum()
    assert (found - exact).abs().sum() <= 0.01 * exact.sum()  # neighbours of an edge share a bin of the histogram
    assert layer.mean_spikes(levels) == pytest.approx(counts.double().mean().item(), rel=0.01)
    assert metric_of_levels(found) == pytest.approx(al_metric(counts), rel=0.05)


def test_dead_layers_and_channels() -> None:
    model = network()
    with torch.no_grad():
        model[0].bias[1] = -1e3
        model[2].bias.fill_(-1e3)
    layers = measured(model, per_channel=True)
    assert [layer.dead for layer in layers.values()] == [False, True]
    assert all(bool((layer.quantiser(4).threshold > 0).all()) for layer in layers.values())
    assert layers["3"].mean_spikes(4) == 0


def test_models_without_levels_to_choose() -> None:
    with pytest.raises(InvalidArgumentError, match="no ReLU-like or QCFS activations"):
        traced_layers(nn.Linear(2, 3))
    with pytest.raises(CalibrationError, match=r"never reaches the layers \['spare'\]"):
        traced_layers(Net(lambda m, x: m.act(x), act=QCFS(4), spare=QCFS(4)))


def test_activations_that_are_not_finite() -> None:
    model = network()
    with torch.no_grad():
        model[2].weight[0, 0, 0, 0] = math.nan
    with pytest.raises(CalibrationError, match="layer '3' has activations that are not finite"):
        measured(model)
