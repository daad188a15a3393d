"""The metric against its formula in NumPy and SciPy, on any activations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pascal_ext import QCFS, al_metric
from pascal_ext.allocation.metric import OCTAVES, ideal_levels, largest_metric, metric_losses, metric_of_levels
from pascal_ext.allocation.solver import Limit, solve
from pascal_ext.errors import CalibrationError, InvalidArgumentError


def literal(values: np.ndarray, bins: int) -> float:
    """arXiv 2505.01730, section 5, on what ``numpy.histogram`` counts."""
    counts, _ = np.histogram(values, bins)
    share = 1 - ((counts >= values.size / bins).sum() - 1) / (bins - 1)
    skewness, kurtosis = stats.skew(counts), stats.kurtosis(counts)
    return float(share * (skewness**2 + 1) * (kurtosis + 3 * bins**2 / ((bins - 2) * (bins - 3))))


@pytest.mark.parametrize("bins", [4, 5, 7, 16])
@pytest.mark.parametrize("power", [1, 2, 4])
def test_the_formula(bins: int, power: int) -> None:
    values = torch.rand(6, 7, 8, 9) ** power
    assert al_metric(values, bins) == pytest.approx(literal(values.numpy().ravel(), bins), rel=1e-6)


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=17).filter(any))
def test_of_levels_is_of_the_activations_at_these_levels(counts: list[int]) -> None:
    levels = len(counts) - 1
    values = torch.arange(levels + 1).repeat_interleave(torch.tensor(counts)) * (0.7 / levels)
    assert metric_of_levels(torch.tensor(counts)) == pytest.approx(al_metric(values))
    assert 0 <= metric_of_levels(torch.tensor(counts)) <= largest_metric() + 1e-9


def test_scale_and_order_do_not_matter() -> None:
    values = QCFS(7, 1.3)(torch.randn(1000))
    shuffled = values[torch.randperm(1000)].view(10, 100)
    assert al_metric(values) == al_metric(shuffled) == pytest.approx(al_metric(0.01 * values))


def test_a_flat_histogram_has_none_and_a_single_bin_the_largest() -> None:
    assert al_metric(torch.linspace(0, 1, 1000)) == 0
    assert al_metric(torch.full((3, 4), 2.5)) == pytest.approx(largest_metric())
    concentrated = torch.cat([torch.zeros(10**6), torch.ones(1)])
    assert al_metric(concentrated) == pytest.approx(largest_metric(), rel=1e-3)


def test_ideal_levels_fall_to_a_quarter() -> None:
    assert ideal_levels(0.0) == 1
    assert ideal_levels(largest_metric()) == pytest.approx(1 / 4)
    assert ideal_levels(largest_metric() / 2) == pytest.approx(1 / 2)


VGG16 = [8, 4, 4, 1, 4, 4, 1, 1, 1, 1, 1, 4, 8, 8, 8]
RESNET18 = [4, 4, 4, 1, 4, 4, 4, 1, 4, 1, 1, 1, 1, 1, 1, 1, 4]


def published_by_rule(published: list[int]) -> list[int]:
    """What the rule makes, at the mean of a published list, of metrics that are the lower the more levels it has."""
    octaves = [min(math.log2(max(published) / levels), OCTAVES) for levels in published]
    losses = {
        str(layer): metric_losses(largest_metric() * below / OCTAVES, (1, 2, 4, 8, 16))
        for layer, below in enumerate(octaves)
    }
    mean = {name: {level: level / len(losses) for level in row} for name, row in losses.items()}
    return list(solve(losses, [Limit("mean_levels", mean, sum(published) / len(published))]).values())


def test_the_rule_on_the_published_lists() -> None:
    assert published_by_rule(RESNET18) == RESNET18
    # three octaves in two: what had 1 gets 2, what had 8 less
    found = published_by_rule(VGG16)
    assert [level for level, old in zip(found, VGG16, strict=True) if old == 1] == [2] * 6


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_bad_activations(wrong: float) -> None:
    with pytest.raises(CalibrationError, match="not finite"):
        al_metric(torch.tensor([1.0, wrong]))
    with pytest.raises(CalibrationError, match="at least one"):
        al_metric(torch.zeros(0))


@pytest.mark.parametrize("bins", [3, 0, -1, 5.5, True, "5"])
def test_bad_bins(bins: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=f"bins must be a whole number of at least 4, got {bins!r}"):
        al_metric(torch.ones(2), bins=bins)


def test_arrays_and_lists_are_as_good_as_tensors() -> None:
    values = torch.rand(30, dtype=torch.float64)
    assert al_metric(values.numpy()) == al_metric(values.tolist()) == al_metric(values)
    for wrong in ("text", None):
        with pytest.raises(InvalidArgumentError, match="a tensor or an array of numbers"):
            al_metric(wrong)


@pytest.mark.parametrize("levels", [5, 10, 15])
def test_levels_on_an_edge_are_in_the_bin_above_whatever_the_threshold(levels: int) -> None:
    counts = torch.arange(1, levels + 2)
    for threshold in torch.linspace(0.1, 3, 50, dtype=torch.float64):
        values = torch.arange(levels + 1).repeat_interleave(counts) * (threshold / levels)
        assert al_metric(values) == pytest.approx(metric_of_levels(counts))
