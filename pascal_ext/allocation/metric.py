"""The paper's metric of a layer's activations: how far its levels can be reduced (arXiv 2505.01730, section 5)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from pascal_ext.errors import CalibrationError, InvalidArgumentError

BINS = 5
OCTAVES = 2  # between the levels of a flat histogram and those of one that fills a single bin


def al_metric(activations: Any, bins: int = BINS) -> float:
    r"""The adaptive-layer metric of one layer: the higher, the more its levels can be reduced.

    .. math::
        M = A \cdot (g^2 + 1) \cdot \left(\kappa + \frac{3 b^2}{(b - 2)(b - 3)}\right), \qquad
        A = 1 - \frac{S - 1}{b - 1}

    of the histogram of the activations in :math:`b` bins of equal width between the smallest and the largest: ``S``
    bins hold at least their share (total/b), g is the skewness and κ the excess kurtosis *of the bin counts*
    (population moments). A flat histogram, whose g and κ are 0/0, has S = b and so A = 0: its metric is 0.
    Activations that are all the same fill one bin. With five bins, M is between 0 and 41.4 (:func:`largest_metric`).

    Args:
        activations: what the layer puts out after QCFS, any shape: a tensor, or what :func:`torch.as_tensor` takes.
        bins: b, at least 4.

    Raises:
        CalibrationError: there are no activations, or some are not finite.
        InvalidArgumentError: the activations are no numbers; or the bins are no whole number, or fewer than 4, for
            which the formula is not defined.
    """
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 4:
        raise InvalidArgumentError(f"bins must be a whole number of at least 4, got {bins!r}")
    try:
        values = torch.as_tensor(activations).detach().flatten().double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidArgumentError(f"activations must be a tensor or an array of numbers: {error}") from None
    if values.numel() == 0:
        raise CalibrationError("al_metric needs at least one activation")
    if not bool(values.isfinite().all()):
        raise CalibrationError("al_metric got activations that are not finite")
    return metric_of_counts(bin_counts(values, torch.ones_like(values), bins))


def bin_counts(values: Tensor, weights: Tensor, bins: int) -> Tensor:
    """[bins], how much of ``weights`` falls into each of the bins between the smallest and the largest value, [n]."""
    low, width = values.min(), values.max() - values.min()
    position = (values - low) / width * bins if width > 0 else torch.zeros_like(values)
    # the multiples of λ/L that lie on an edge belong above it, whatever their rounding
    index = (position + 1e-6).long().clamp_(max=bins - 1)
    return torch.zeros(bins, dtype=weights.dtype, device=weights.device).index_add_(0, index, weights)


def metric_of_levels(counts: Tensor, bins: int = BINS) -> float:
    """:func:`al_metric` of a layer of which ``counts[k]`` activations are at level k, [levels + 1]."""
    occupied = counts.nonzero().flatten()
    return metric_of_counts(bin_counts(occupied.double(), counts[occupied].double(), bins))


def metric_of_counts(counts: Tensor) -> float:
    """:func:`al_metric` of a histogram, [bins]."""
    bins = counts.numel()
    counts = counts.double().cpu()
    filled = int((counts * bins >= counts.sum()).sum())
    centred = counts - counts.mean()
    variance = centred.square().mean()
    if variance == 0:
        return 0.0
    skewness = centred.pow(3).mean() / variance.pow(1.5)
    kurtosis = centred.pow(4).mean() / variance.square() - 3
    share = 1 - (filled - 1) / (bins - 1)
    return float(share * (skewness.square() + 1) * (kurtosis + 3 * bins**2 / ((bins - 2) * (bins - 3))))


def largest_metric(bins: int = BINS) -> float:
    """The metric of a histogram with everything in one bin, the largest there is."""
    return metric_of_counts(torch.eye(bins)[0])


def ideal_levels(metric: float, bins: int = BINS) -> float:
    r"""The levels a layer should have in proportion to others', in (0, 1]: ``2**(-2·M/M_max)``.

    The paper does not say how levels follow from M. Here the most concentrated histogram gets a quarter of the levels
    of a flat one, two octaves as in the plan published for ResNet-18, and what lies between is spread evenly over them.
    Three, as in that for VGG-16, cost an untrained ResNet-20 three points.
    """
    return float(2.0 ** (-OCTAVES * max(metric, 0.0) / largest_metric(bins)))


def metric_losses(metric: float, choices: Iterable[int]) -> dict[int, float]:
    r"""Levels -> :math:`s^3/L^2`, with s the :func:`ideal_levels`: what ``strategy="al"`` minimises the sum of.

    1/L² is how the squared error of a quantiser falls, and the power of s makes the plan follow it: within a budget of
    mean levels, the sum over layers is least where every :math:`L_i \propto s_i`.
    """
    share = ideal_levels(metric)
    return {level: share**3 / level**2 for level in choices}
