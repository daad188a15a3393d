"""Conversions as they are measured: calibration batches, readouts, and the memory of a pass."""

from __future__ import annotations

from typing import Any

import torch

from pascal_ext.comparison import conversions
from pascal_ext.comparison.memory import peak_bytes


def test_small_batches_are_repeated_as_often_as_asked() -> None:
    data = [(torch.arange(25.0).unsqueeze(1), torch.arange(25)), (torch.arange(25.0, 35).unsqueeze(1), torch.zeros(10))]
    batches = conversions.repeated(data, 9)
    assert [len(labels) for _, labels in batches] == [10, 10, 10, 5, 10, 10, 10, 5, 10]
    assert torch.equal(batches[0][0], batches[4][0])


def test_peak_memory_is_of_what_lives_together() -> None:
    images = torch.zeros(1000)
    assert peak_bytes(lambda x: (x + 1) + 1, images) == 8000
    assert peak_bytes(lambda x: ((x + 1) + 1) + 1, images) == 8000
    assert peak_bytes(lambda x: torch.stack([x + 1, x + 2]), images) == 16000


def test_a_delayed_readout_leaves_out_first_outputs() -> None:
    """As SpikingJelly does: from ``delay`` on, or the last five where that would leave fewer than four."""
    outputs = 2.0 ** torch.arange(12).view(-1, 1, 1)  # sums tell which are in them
    ranges = [(0, step) for step in range(1, 6)] + [(step - 5, step) for step in range(6, 10)]
    ranges += [(6, step) for step in range(10, 13)]
    nothing: Any = None
    made = conversions.Conversion(nothing, nothing, [], [], [], [], nothing, delay=6)
    expected = torch.stack([outputs[start:stop].sum(0) for start, stop in ranges])
    assert torch.equal(made.answers(outputs.cumsum(0), delayed=True), expected)
    assert torch.equal(made.answers(outputs.cumsum(0), delayed=False), outputs.cumsum(0))
