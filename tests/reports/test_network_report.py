"""A report on a converted network: what it tells about costs."""

from __future__ import annotations

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
