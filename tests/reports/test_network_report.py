"""A report on a converted network: what it tells about costs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import pascal_ext
from pascal_ext.energy import measure
from pascal_ext.reports.network_report import network_report
from tests.cases import Net, alive


def test_costs_are_those_that_were_measured() -> None:
    ann = alive(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)))
    data = [torch.rand(4, 1, 6, 6)]
    snn = pascal_ext.convert(ann, data, 4, progress=False)
    report = network_report(ann, snn, data)
    cost = measure(snn, data, progress=False)
    assert report.figures_of_merit["synaptic operations per sample"] == f"{cost.synaptic_operations:,.0f}"
    assert report.figures_of_merit["T_eff"] == f"{cost.effective_timesteps:.3g}"
    assert "4.6 pJ" in report.notes[0]


def test_a_network_whose_costs_cannot_be_counted_has_a_report_without_them() -> None:
    def forward(self: Net, x: Tensor) -> Tensor:
        return self.out(self.rnn(self.relu(self.stem(x)))[0][:, -1])

    layers = {"stem": nn.Linear(3, 4), "relu": nn.ReLU(), "rnn": nn.LSTM(4, 5, batch_first=True)}
    ann = Net(forward, **layers, out=nn.Linear(5, 2)).eval()
    data = [torch.randn(4, 6, 3)]
    snn = pascal_ext.convert(ann, data, 4, on_unsupported="analog", progress=False)
    report = network_report(ann, snn, data)
    assert not any("operations per sample" in label for label in report.figures_of_merit)
    assert ["decoded values" in note for note in report.notes] == [True]


def test_the_mode_of_the_network_makes_no_difference_and_it_is_left_as_it_was() -> None:
    ann = alive(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3)))
    data = [(torch.randn(20, 4), torch.randint(3, (20,)))]
    snn = pascal_ext.convert(ann.eval(), data, 4, progress=False)
    expected = network_report(ann, snn, data)
    for network in (ann, snn):
        network.train()
    before = copy.deepcopy(snn.state_dict())
    assert network_report(ann, snn, data) == expected
    assert snn.training
    assert all(torch.equal(value, before[name]) for name, value in snn.state_dict().items())


def _accuracy(outputs: int, target: Tensor) -> str | None:
    """What the page tells about the accuracy of a network of so many outputs whose answer is always class 0."""
    ann = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, outputs)).eval()
    nn.init.zeros_(ann[2].weight)
    nn.init.constant_(ann[2].bias, 0).data[0] = 1
    data = [(torch.rand(20, 4), target)]
    snn = pascal_ext.convert(ann, data, 4, progress=False)
    return network_report(ann, snn, data).figures_of_merit.get("accuracy")


def test_accuracy_is_told_of_class_scores_with_classes_alone() -> None:
    classes = torch.tensor([0] * 15 + [1] * 5)
    for dtype in (torch.int64, torch.int32, torch.uint8):
        assert _accuracy(3, classes.to(dtype)) == "75.00%"
    assert _accuracy(3, torch.tensor([0] * 5 + [1] * 5 + [-100] * 10)) == "50.00%"
    for outputs, target in (
        (1, classes),
        (1, classes.unsqueeze(1)),
        (3, torch.rand(20)),
        (3, classes.bool()),
        (3, torch.zeros(20, 3, dtype=torch.int64)),
    ):
        assert _accuracy(outputs, target) is None


def test_accuracy_of_a_class_for_each_pixel() -> None:
    ann = alive(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1)))
    images, classes = torch.rand(4, 1, 6, 6), torch.randint(3, (4, 6, 6))
    snn = pascal_ext.convert(ann, [images], 4, progress=False)
    share = (snn(images).argmax(1) == classes).double().mean()
    assert network_report(ann, snn, [(images, classes)]).figures_of_merit["accuracy"] == f"{100 * share:.2f}%"


def test_a_network_without_neurons_has_a_page() -> None:
    ann, data = nn.Sequential(nn.Linear(4, 3)).eval(), [torch.rand(5, 4)]
    with pytest.warns(UserWarning, match="no layer of the network spikes"):
        snn = pascal_ext.convert(ann, data, progress=False)
    assert "<svg" not in network_report(ann, snn, data).to_html()
