"""What a comparison charges: an image is no spikes, and what reads it does so once, whatever values it has."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import pascal_ext
from pascal_ext.adapters.spikingjelly import stock
from pascal_ext.comparison.conversions import Conversion, convert_pascal, convert_rate, convert_stock
from pascal_ext.comparison.operations import ann_operations, operations
from tests.cases import Net

Batches = list[tuple[Tensor, Tensor]]
METHODS: dict[str, Callable[[nn.Module, Batches], Conversion]] = {
    "stock": lambda model, data: convert_stock(model, data, 4, method=next(iter(stock.STOCK_METHODS))),
    "if": lambda model, data: convert_rate(tuned(model, data), data, 4, kind="if"),
    "cos": lambda model, data: convert_rate(tuned(model, data), data, 4, kind="cos", extra=2),
    "pascal": lambda model, data: convert_pascal(tuned(model, data), data, 4),
}
FIRST, REST = 4 * 36 * 9, 5 * 144  # multiplications for one image


def tuned(model: nn.Module, data: Batches) -> nn.Module:
    return pascal_ext.calibrate(pascal_ext.replace_activations(model, 4), data, progress=False)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()


def stem() -> nn.Module:
    """Two convolutions read the image: one as it is, and one what a pooling lets through."""
    layers = {"pool": nn.MaxPool2d(3, 1, 1), "b": nn.Conv2d(1, 4, 3), "a": nn.Conv2d(1, 4, 3), "relu": nn.ReLU()}
    network = Net(lambda m, x: m.last(m.relu(m.a(x) + m.b(m.pool(x))).flatten(1)), **layers, last=nn.Linear(144, 5))
    return network.eval()


@pytest.fixture
def binary() -> Batches:
    generator = torch.Generator().manual_seed(0)
    return [((torch.rand(20, 1, 8, 8, generator=generator) > 0.8).float(), torch.zeros(20).long())]


@pytest.mark.parametrize("method", METHODS)
def test_binary_images_are_no_spikes(method: str, binary: Batches) -> None:
    assert ann_operations(model(), binary[0])["macs"] == FIRST + REST
    found = operations(METHODS[method](model(), binary), binary[0])
    assert found["macs"][1:] == [FIRST] * len(found["macs"][1:]) or method in ("cos", "pascal")
    assert found["macs"][-1] == FIRST * (2 if method == "cos" else 1)  # COS reads the image a second time
    assert 0 < found["synaptic_operations"][-1] <= 6 * REST
    assert 0 < found["firing_rate"][-1] < 1


@pytest.mark.parametrize("method", ["stock", "if", "pascal"])
@pytest.mark.parametrize("values", ["gray", "binary"])
def test_all_that_reads_the_image_is_counted_once(method: str, values: str, binary: Batches) -> None:
    data = binary if values == "binary" else [(torch.rand(20, 1, 8, 8), binary[0][1])]
    assert ann_operations(stem(), data[0])["macs"] == 2 * FIRST + REST
    assert operations(METHODS[method](stem(), data), data[0])["macs"][-1] == 2 * FIRST
