"""Histograms that widen as they go, against the values themselves."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pascal_ext.calibration.histogram import CANDIDATES, Histogram, least_squares


def filled(parts: list[Tensor], bins: int = 64) -> Histogram:
    histogram = Histogram(bins)
    for part in parts:
        histogram.update(part)
    return histogram


def values() -> list[Tensor]:
    """Parts [3, n] that grow, of channels of very different size."""
    scale = torch.tensor([1.0, 1e-3, 50.0]).unsqueeze(1)
    return [torch.rand(3, 40) * scale * factor for factor in (0.0, 0.01, 1.0, 7.0)]


def test_order_and_cut_do_not_matter() -> None:
    """Ranges are powers of two, so merged bins are those that would have been filled."""
    parts = values()
    whole = filled([torch.cat(parts, 1)])
    for order in (parts, parts[::-1], [row for part in parts for row in part.split(9, 1)]):
        again = filled(order)
        assert torch.equal(again.upper, whole.upper)
        assert torch.equal(again.largest, whole.largest)
        assert torch.equal(again.counts, whole.counts)


def test_centres_are_near_the_values() -> None:
    parts = values()
    histogram = filled(parts)
    mean = (histogram.counts * histogram.centres).sum(1) / histogram.counts.sum(1)
    exact = torch.cat(parts, 1).double().mean(1)
    assert ((mean - exact).abs() <= histogram.upper / histogram.bins / 2).all()


def error(histogram: Histogram, threshold: Tensor, levels: int) -> Tensor:
    """Of QCFS, literally, for each channel."""
    by = threshold.unsqueeze(1)
    quantised = (histogram.centres * levels / by + 0.5).floor().clamp(0, levels) * (by / levels)
    return (histogram.counts * (histogram.centres - quantised).square()).sum(1)


@pytest.mark.parametrize("levels", [1, 2, 3, 8, 32])
def test_the_threshold_has_the_least_squared_error(levels: int) -> None:
    histogram = filled([part.pow(2) for part in values()])
    found = error(histogram, histogram.threshold(levels), levels)
    candidates = [histogram.largest * step / CANDIDATES for step in range(1, CANDIDATES + 1)]
    least = torch.stack([error(histogram, candidate, levels) for candidate in candidates]).amin(0)
    torch.testing.assert_close(found, least, rtol=1e-9, atol=0)


def one_by_one(counts: Tensor, width: Tensor, largest: Tensor, levels: int) -> Tensor:
    """:func:`least_squares`, one candidate after the other."""
    middles = torch.arange(counts.shape[1], dtype=torch.float64) + 0.5
    above, sums = (F.pad(x, (0, 1)).flip(1).cumsum(1).flip(1) for x in (counts, counts * middles))
    length = torch.where(largest > 0, largest / width, 0.0)
    odd = torch.arange(1, 2 * levels, 2)
    best, least = largest.clone(), torch.full_like(length, math.inf)
    for step in range(1, CANDIDATES + 1):
        theta = (length * (step / CANDIDATES) / levels).unsqueeze(1)
        first = (theta * odd / 2 - 0.5).ceil().long().clamp(0, counts.shape[1])
        error = (odd * theta.square() * above.gather(1, first) - 2 * theta * sums.gather(1, first)).sum(1)
        better = error < least
        least, best = torch.where(better, error, least), torch.where(better, largest * (step / CANDIDATES), best)
    return torch.where(largest > 0, best, 0.0)


@pytest.mark.parametrize("channels", [1, 5, 300])
@pytest.mark.parametrize("levels", [1, 3, 8, 500])
def test_candidates_are_tried_together_as_one_by_one(channels: int, levels: int) -> None:
    """To the last bit, whatever share of the candidates is looked at together."""
    scale = torch.rand(channels, 1) * 10
    scale[channels // 2 :: 7] = 0
    histogram = filled([torch.randn(channels, 400).relu() * scale, torch.rand(channels, 50) * scale], 256)
    assert histogram.counts is not None
    inputs = (histogram.counts, histogram.upper / histogram.bins, histogram.largest, levels)
    assert torch.equal(least_squares(*inputs), one_by_one(*inputs))


def test_a_channel_without_activations_has_no_threshold() -> None:
    histogram = filled([torch.tensor([[0.0, 0.0], [0.0, 2.0]])])
    found = histogram.threshold(4)
    assert found[0] == 0
    assert found[1] > 0
