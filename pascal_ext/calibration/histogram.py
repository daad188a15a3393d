"""Activations of a layer, histograms of them, and the thresholds that they ask for."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pascal_ext import distributed
from pascal_ext.errors import CalibrationError

BINS = 4096
CANDIDATES = 256  # thresholds tried by "mse", evenly spaced up to the largest activation
AT_ONCE = 1 << 18  # boundaries of candidates looked up together: 2 MB in float64


def rectified(name: str, z: Tensor, ceiling: float) -> Tensor:
    """What a ReLU with a ceiling, infinite where it has none, makes of the pre-activations of the layer ``name``.

    Raises:
        CalibrationError: some are not finite.
    """
    values = z.clamp(0.0, None if math.isinf(ceiling) else ceiling)
    if not bool(values.float().isfinite().all()):
        raise CalibrationError(
            f"layer {name!r} has activations that are not finite; look for NaN or Inf in the data or the weights"
        )
    return values


def rows(values: Tensor, per_channel: bool) -> Tensor:
    """[N, C, ...] -> [C, n] or [1, n], float32. Of [N], which has no channels, [1, N]."""
    apart = per_channel and values.ndim > 1
    return (values.transpose(0, 1).flatten(1) if apart else values.reshape(1, -1)).float()


class Histogram:
    """Histograms of non-negative values, one for each channel or one for all, built in a single pass.

    Each range is a power of two that doubles when a value exceeds it: neighbouring bins are merged, so no sample has to
    be seen twice, at least half of the bins are in use, and neither the order of the data nor how it is shared among
    processes changes what comes out.

    Attributes:
        counts: [C, bins], float64; C = 1 for the whole layer. None before the first update.
        upper: [C] float64, where the ranges end; 0 as long as all values are zero.
        largest: [C] float64, the largest value.
    """

    counts: Tensor | None
    upper: Tensor
    largest: Tensor

    def __init__(self, bins: int = BINS) -> None:
        self.bins = bins
        self.counts = None
        self.upper = self.largest = torch.zeros(0)

    def update(self, values: Tensor) -> None:
        """Add ``values``, [C, n], all finite and >= 0."""
        if self.counts is None:
            self.counts = torch.zeros(values.shape[0], self.bins, dtype=torch.float64, device=values.device)
            self.upper = self.largest = self.counts.new_zeros(values.shape[0])
        self._widen(values.amax(1).double())
        upper = self.upper.to(values.dtype).clamp_min(torch.finfo(values.dtype).tiny).unsqueeze(1)
        index = (values / upper).mul_(self.bins).long().clamp_(max=self.bins - 1)
        offset = torch.arange(values.shape[0], device=values.device).unsqueeze(1) * self.bins
        flat = torch.bincount((index + offset).flatten(), minlength=self.counts.numel())
        self.counts += flat.view_as(self.counts)

    def observe(self, name: str, values: Tensor, per_channel: bool) -> None:
        """Add activations of the layer ``name``, [N, C, ...], all finite and >= 0.

        Raises:
            CalibrationError: they have not the channels of those before.
        """
        apart = rows(values.detach(), per_channel)
        if self.counts is not None and len(apart) != len(self.counts):
            raise CalibrationError(
                f"layer {name!r} has {len(self.counts)} channels (dimension 1) in one batch and {len(apart)} in "
                "another, so none can have a threshold of its own; use per_channel=False"
            )
        self.update(apart)

    def reduce(self) -> None:
        """Add up the histograms of all processes."""
        assert self.counts is not None
        self._widen(distributed.largest(self.largest))
        self.counts = distributed.total(self.counts)

    def _widen(self, largest: Tensor) -> None:
        """Let each range hold its value in ``largest``, [C]."""
        assert self.counts is not None
        self.largest = torch.maximum(self.largest, largest)
        mantissa, exponent = torch.frexp(self.largest)
        needed = torch.ldexp(torch.ones_like(mantissa), exponent - (mantissa == 0.5).int())
        needed = torch.where(self.largest > 0, needed, 0.0)
        self.upper = torch.where(self.upper == 0, needed, self.upper)  # only zeros so far, which are in the first bin
        while (grows := needed > self.upper).any():
            merged = self.counts.unflatten(1, (self.bins // 2, 2)).sum(2)
            doubled = torch.cat([merged, torch.zeros_like(merged)], 1)
            self.counts = torch.where(grows.unsqueeze(1), doubled, self.counts)
            self.upper = torch.where(grows, 2 * self.upper, self.upper)

    @property
    def centres(self) -> Tensor:
        """The middle of each bin, [C, bins] float64."""
        return torch.outer(self.upper / self.bins, torch.arange(self.bins, device=self.upper.device) + 0.5)

    def threshold(self, levels: int, method: str = "mse", percentile: float = 99.9) -> Tensor:
        """λ of each channel, [C] float64 on the CPU; 0 where all values are zero; see :func:`pascal_ext.calibrate`."""
        assert self.counts is not None
        counts, largest = self.counts.cpu(), self.largest.cpu()
        if method == "max":
            return largest
        if method == "percentile":
            reached = counts.cumsum(1) >= (percentile / 100) * counts.sum(1, keepdim=True)
            edge = (reached.long().argmax(1) + 1) * (self.upper.cpu() / self.bins)
            return torch.minimum(edge, largest)
        return least_squares(counts, self.upper.cpu() / self.bins, largest, levels)


def least_squares(counts: Tensor, width: Tensor, largest: Tensor, levels: int) -> Tensor:
    r"""The λ of least squared error :math:`\sum_a (a - \mathrm{QCFS}_\lambda(a))^2` for each row of a histogram.

    With θ = λ/L, QCFS(a) is θ times the number of k in 1 ... L with a >= (k - 1/2)θ, and the sum of the first n odd
    numbers is n². So, but for Σ a², the error is made of sums over the activations above boundaries, which are added up
    once for all candidates:

    .. math::
        \sum_{k=1}^{L} \Big( (2k - 1)\, \theta^2 \sum_{a \ge (k - 1/2)\theta} 1
        - 2 \theta \sum_{a \ge (k - 1/2)\theta} a \Big)

    Args:
        counts: [C, bins], how often the activations in each bin occur; all of them count as its middle.
        width: [C], of the bins.
        largest: [C], the largest activation; candidates are ``CANDIDATES`` fractions of it.
        levels: L.

    Returns:
        [C], the best candidate; 0 where the largest activation is.
    """
    bins = counts.shape[1]
    middles = torch.arange(bins, dtype=torch.float64) + 0.5  # lengths are in bins from here on
    above, sums = (F.pad(x, (0, 1)).flip(1).cumsum(1).flip(1) for x in (counts, counts * middles))
    odd = torch.arange(1, 2 * levels, 2)  # 2k - 1

    def errors(thetas: Tensor) -> Tensor:
        """Of candidates [C, S]."""
        theta = thetas.unsqueeze(2)
        first = (theta * odd / 2 - 0.5).ceil().long().clamp_(0, bins).flatten(1)  # bin whose middle is not below
        number, total = (x.gather(1, first).view(*thetas.shape, levels) for x in (above, sums))
        return (odd * theta.square() * number - 2 * theta * total).sum(2)

    shares = torch.arange(1, CANDIDATES + 1, dtype=torch.float64) / CANDIDATES
    thetas = torch.where(largest > 0, largest / width, 0.0).unsqueeze(1) * shares / levels
    at_once = max(1, AT_ONCE // (len(counts) * levels))
    best = torch.cat([errors(some) for some in thetas.split(at_once, 1)], 1).argmin(1)  # the first of equal ones
    return torch.where(largest > 0, largest * shares[best], 0.0)
