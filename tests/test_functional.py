"""The neuron: every implementation emits what the paper's three stages and the closed form say."""

from __future__ import annotations

import math
from fractions import Fraction
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pascal_ext import functional
from pascal_ext.errors import InvalidArgumentError, PlanError

SIZES = (1, 2, 3, 4, 8, 16, 31, 32)
CHANNELS = 8
THRESHOLDS = {
    "one": 1.0,
    "small": torch.tensor(0.0371, dtype=torch.float64),
    "negative": -2.6,
    "per channel": torch.tensor([0.05, 0.3, 1.0, 1.7, 12.0, -0.2, -1.0, -9.0], dtype=torch.float64),
}
QUANTUM = 2.0**-6


def random_currents(window: int, threshold: Tensor | float, dtype: torch.dtype = torch.float64) -> Tensor:
    """[window, 512, CHANNELS]: means from well below 0 to well above λ, single currents far outside of that."""
    mean = torch.rand(512, CHANNELS, dtype=dtype) * 2 - 0.5
    noise = torch.randn(window, 512, CHANNELS, dtype=dtype)
    return (mean + noise - noise.mean(0)) * threshold


@pytest.mark.parametrize("threshold", THRESHOLDS.values(), ids=THRESHOLDS)
@pytest.mark.parametrize("levels", SIZES)
@pytest.mark.parametrize("window", SIZES)
def test_vectorised_is_the_reference(window: int, levels: int, threshold: Tensor | float) -> None:
    """256 cases of 4,096 neurons: more than a million."""
    x_seq = random_currents(window, threshold)
    expected = functional.pasc_if(x_seq, threshold, levels, backend="reference")
    assert expected.shape == (levels, 512, CHANNELS)
    assert torch.equal(functional.pasc_if(x_seq, threshold, levels, backend="torch"), expected)
    assert torch.equal(functional.pasc_if_counts(x_seq, threshold, levels), expected.sum(0).int())


def in_units(currents: list[int]) -> Tensor:
    """Currents given in units of QUANTUM as a window of a single neuron, [T1, 1], exactly."""
    return torch.tensor(currents, dtype=torch.float64).view(-1, 1) * QUANTUM


def exact_count(currents: list[int], threshold: Fraction, levels: int) -> int:
    """``clip(⌊z·L/λ + 1/2⌋, 0, L)`` in rational arithmetic, currents in units of QUANTUM."""
    z = sum(currents) * Fraction(QUANTUM) / len(currents)
    return min(max((z * levels / threshold + Fraction(1, 2)).__floor__(), 0), levels)


@st.composite
def exact_cases(draw: st.DrawFn) -> tuple[list[int], float, int]:
    """Currents in units of QUANTUM, a threshold and levels, such that the reference makes no rounding error either.

    Half of the means lie within one quantum of a boundary between two levels, or on it.
    """
    levels = draw(st.integers(1, 32))
    step = draw(st.integers(1, 64)) * draw(st.sampled_from([-1, 1]))  # θ of one current, λ/L, in units of 2·QUANTUM
    currents = draw(st.lists(st.integers(-2000, 2000), min_size=1, max_size=32))
    if draw(st.booleans()):
        boundary = (2 * draw(st.integers(0, levels + 1)) - 1) * step * len(currents)
        currents[-1] += boundary - sum(currents) + draw(st.integers(-1, 1))
    return currents, 2 * step * levels * QUANTUM, levels


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("levels", SIZES)
@pytest.mark.parametrize("window", SIZES)
def test_every_boundary_belongs_to_the_level_above(window: int, levels: int, sign: int, backend: str) -> None:
    """Means on each boundary (k − 1/2)·λ/L, one quantum below it, and one above; k = 0 and L + 1 are clipped."""
    step = 5  # λ/L is 2·step quanta
    k = torch.arange(levels + 2).unsqueeze(1)
    offset = torch.tensor([-1, 0, 1])
    currents = torch.randint(-300, 300, (window, *torch.broadcast_shapes(k.shape, offset.shape)))
    currents[-1] += (2 * k - 1) * step * window + offset - currents.sum(0)
    expected = (k - (offset < 0).long()).clamp(0, levels)
    spikes = functional.pasc_if(currents.double() * sign * QUANTUM, 2 * step * levels * sign * QUANTUM, levels, backend)
    assert torch.equal(spikes.sum(0).long(), expected)


@given(exact_cases())
@settings(max_examples=300)
def test_counts_are_exact(case: tuple[list[int], float, int]) -> None:
    currents, threshold, levels = case
    x_seq = in_units(currents)
    expected = exact_count(currents, Fraction(threshold), levels)
    for backend in ("reference", "torch"):
        spikes = functional.pasc_if(x_seq, threshold, levels, backend)
        assert spikes.flatten().tolist() == [1.0] * expected + [0.0] * (levels - expected), backend


@given(exact_cases(), st.randoms(use_true_random=False))
def test_only_the_sum_of_the_currents_counts(case: tuple[list[int], float, int], random: Random) -> None:
    currents, threshold, levels = case
    shuffled = list(currents)
    random.shuffle(shuffled)
    for backend in ("reference", "torch"):
        one, other = (functional.pasc_if(in_units(order), threshold, levels, backend) for order in (currents, shuffled))
        assert torch.equal(one, other), backend


@given(st.integers(1, 33), st.integers(-4000, 4000), st.integers(-400, 400).filter(bool))
def test_a_single_current_is_quantised_exactly(levels: int, current: int, threshold: int) -> None:
    """Levels that divide no power of two make θ inexact, which the closed form does not need."""
    x_seq = in_units([current])
    expected = exact_count([current], Fraction(threshold * QUANTUM), levels)
    assert functional.pasc_if_counts(x_seq, threshold * QUANTUM, levels).item() == expected


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
def test_trains_are_binary_and_spikes_come_first(backend: str) -> None:
    threshold = THRESHOLDS["per channel"]
    spikes = functional.pasc_if(random_currents(5, threshold), threshold, 6, backend)
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(spikes, spikes.sort(dim=0, descending=True).values)


def test_the_elementwise_maximum_of_trains_is_the_train_of_the_maximum() -> None:
    a, b = (functional.pasc_if(random_currents(4, 1.0), 1.0, 7) for _ in range(2))
    maximum = torch.maximum(a, b)
    assert torch.equal(maximum, maximum.sort(dim=0, descending=True).values)
    assert torch.equal(maximum.sum(0), torch.maximum(a.sum(0), b.sum(0)))


@pytest.mark.parametrize("shape", [(), (3,), (3, 4), (3, 4, 5), (3, 4, 2, 2), (3, 4, 2, 2, 2)])
def test_any_number_of_dimensions(shape: tuple[int, ...]) -> None:
    x_seq = torch.randn(5, *shape)
    assert functional.pasc_if(x_seq, 0.7, 4).shape == (4, *shape)
    assert functional.pasc_if_counts(x_seq, 0.7, 4).shape == shape
    if len(shape) > 1:
        threshold = torch.tensor([0.2, -0.7, 1.0, 3.0])
        per_channel = functional.pasc_if(x_seq, threshold, 4)
        for channel, value in enumerate(threshold):
            alone = functional.pasc_if(x_seq[:, :, channel : channel + 1], value, 4)
            assert torch.equal(per_channel[:, :, channel : channel + 1], alone)


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
def test_an_empty_batch(backend: str) -> None:
    assert functional.pasc_if(torch.zeros(2, 0, 3), 1.0, 4, backend).shape == (4, 0, 3)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions_are_accumulated_in_float32(dtype: torch.dtype, backend: str) -> None:
    threshold = THRESHOLDS["per channel"].to(dtype)
    x_seq = random_currents(8, threshold, torch.float32).to(dtype)
    spikes = functional.pasc_if(x_seq, threshold, 16, backend)
    assert spikes.dtype == dtype
    assert torch.equal(spikes.float(), functional.pasc_if(x_seq.float(), threshold.float(), 16, backend))

    large_then_small = torch.tensor([2048.0] + [1.0] * 31, dtype=dtype).view(-1, 1)  # adds up to 2048 in half precision
    assert functional.pasc_if_counts(large_then_small, 2079.0, 2079).item() == 65  # ⌊2079/32 + 1/2⌋


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_counts_are_integers(dtype: torch.dtype) -> None:
    assert functional.pasc_if_counts(torch.ones(3, 2, dtype=dtype), 2.0, 4).dtype == torch.int32


def test_many_levels_of_a_float_count_do_not_drift() -> None:
    """A count kept in float, and a current that is no binary fraction: where step-by-step loops go wrong."""
    x_seq = torch.full((32, 1), 0.1)
    for levels in (30, 31, 32, 100):
        assert functional.pasc_if(x_seq, 0.1, levels, "reference").sum().item() == levels


def test_inputs_are_not_changed() -> None:
    x_seq, threshold = torch.randn(3, 4, 2), torch.tensor([0.5, -0.5])
    before = x_seq.clone(), threshold.clone()
    for backend in ("torch", "reference"):
        functional.pasc_if(x_seq, threshold, 4, backend)
    functional.pasc_if_counts(x_seq[:1], threshold, 4)
    assert torch.equal(x_seq, before[0])
    assert torch.equal(threshold, before[1])


def test_a_tensor_of_one_element_is_a_scalar_threshold() -> None:
    x_seq = torch.randn(3, 5, 4)
    for threshold in (torch.tensor(0.5), torch.tensor([0.5]), torch.tensor([[0.5]])):
        assert torch.equal(functional.pasc_if(x_seq, threshold, 4), functional.pasc_if(x_seq, 0.5, 4))


@pytest.mark.parametrize(
    ("x_seq", "threshold", "message"),
    [
        (torch.ones(2, 3, dtype=torch.int64), 1.0, r"torch\.int64; call \.float\(\)"),
        (torch.ones(1, 3, dtype=torch.bool), 1.0, r"torch\.bool; call \.float\(\)"),
        (torch.ones(0, 3), 1.0, r"at least one timestep, got shape \(0, 3\)"),
        (torch.tensor(1.0), 1.0, r"at least one timestep, got shape \(\)"),
        (torch.ones(2, 3, 4), torch.ones(3), r"shape \(3,\).*4 channels.*shape \(2, 3, 4\)"),
        (torch.ones(2, 3, 4), torch.ones(4, 1), r"shape \(4, 1\)"),
        (torch.ones(2, 3), torch.ones(3), r"shape \(3,\)"),
        ([[1.0]], 1.0, r"must be a tensor \[T1, N, ...\], got \[\[1.0\]\]"),
        *(
            (torch.ones(2, 3), wrong, "v_threshold must be finite and not zero")
            for wrong in (0, -0.0, math.nan, math.inf)
        ),
    ],
)
def test_errors_name_what_is_wrong(x_seq: Any, threshold: Tensor | float, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        functional.pasc_if(x_seq, threshold, 4)
    with pytest.raises(InvalidArgumentError, match=message):
        functional.pasc_if_counts(x_seq, threshold, 4)


@pytest.mark.parametrize("levels", [0, -1, 2.5, True, "4", None])
def test_levels_are_whole_numbers_of_at_least_1(levels: object) -> None:
    for function in (functional.pasc_if, functional.pasc_if_counts):
        with pytest.raises(PlanError, match=f"levels must be .*, got {levels!r}"):
            function(torch.ones(1, 1), 1.0, levels)


def test_an_unknown_backend_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidArgumentError, match=r"backend='fast' is unknown; choose one of .*'auto'.*'torch'"):
        functional.pasc_if(torch.ones(1, 1), 1.0, 4, backend="fast")
