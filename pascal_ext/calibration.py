"""Thresholds from data: what the activations of the un-quantised network say λ should be."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Container, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pascal_ext.data import batches, device_of
from pascal_ext.errors import CalibrationError, InvalidArgumentError
from pascal_ext.qcfs import QCFS
from pascal_ext.tracing import qcfs_layers

M = TypeVar("M", bound=nn.Module)

METHODS = ("mse", "percentile", "max")
BINS = 2048
CANDIDATES = 256  # thresholds tried by "mse", evenly spaced up to the largest activation


class Histogram:
    """Histograms of non-negative values, one for each channel or one for all, built in a single pass.

    Each range starts at the first batch's maximum and doubles when a value exceeds it: neighbouring bins are merged, so
    no sample has to be seen twice and at least half of the bins are in use.

    Attributes:
        counts: [C, bins], float64; C = 1 for the whole layer. None before the first update.
        upper: [C], where the ranges end; 0 as long as all values are zero.
    """

    counts: Tensor | None
    upper: Tensor

    def __init__(self, bins: int = BINS) -> None:
        self.bins = bins
        self.counts = None
        self.upper = torch.zeros(0)

    def update(self, values: Tensor) -> None:
        """Add ``values``, [C, n], all finite and >= 0."""
        largest = values.amax(1).double()
        if self.counts is None:
            self.counts = torch.zeros(values.shape[0], self.bins, dtype=torch.float64, device=values.device)
            self.upper = largest
        self.upper = torch.where(self.upper == 0, largest, self.upper)  # only zeros so far, which are in the first bin
        while (grows := largest > self.upper).any():
            merged = self.counts.unflatten(1, (self.bins // 2, 2)).sum(2)
            doubled = torch.cat([merged, torch.zeros_like(merged)], 1)
            self.counts = torch.where(grows.unsqueeze(1), doubled, self.counts)
            self.upper = torch.where(grows, 2 * self.upper, self.upper)
        upper = self.upper.to(values.dtype).clamp_min(torch.finfo(values.dtype).tiny).unsqueeze(1)
        index = (values / upper).mul_(self.bins).long().clamp_(max=self.bins - 1)
        offset = torch.arange(values.shape[0], device=values.device).unsqueeze(1) * self.bins
        flat = torch.bincount((index + offset).flatten(), minlength=self.counts.numel())
        self.counts += flat.view_as(self.counts)

    @property
    def widths(self) -> Tensor:
        """The width of the bins of each range, [C] float64."""
        return self.upper / self.bins

    @property
    def centres(self) -> Tensor:
        """The middle of each bin, [C, bins] float64."""
        return torch.outer(self.widths, torch.arange(self.bins, device=self.upper.device) + 0.5)


def calibrate(
    model: M,
    dataloader: Iterable[Any],
    method: str = "mse",
    *,
    per_channel: bool = False,
    percentile: float = 99.9,
    only: Container[str] | None = None,
    progress: bool = True,
) -> M:
    """Set the thresholds of the model's QCFS layers from data, in one pass.

    The statistics are those of the un-quantised network: while they are taken, every QCFS acts as the ReLU (or ReLU6,
    ...) that it stands for.

    Args:
        model: a model with :class:`QCFS` layers, such as :func:`pascal_ext.replace_activations` makes.
        dataloader: batches as :func:`pascal_ext.data.split_batch` understands them; labels are not used.
        method: ``"mse"``, the λ whose QCFS has the least squared error against the ReLU (depends on the levels);
            ``"percentile"`` of the activations; or their ``"max"``.
        per_channel: one λ for each channel (dimension 1) instead of one for each layer.
        percentile: for ``method="percentile"``, in (0, 100].
        only: names of the layers to calibrate; the others keep their thresholds, and quantise meanwhile.
        progress: show a progress bar.

    Returns:
        ``model`` itself, with new thresholds and its train/eval flags as they were.

    Raises:
        InvalidArgumentError: the model has no QCFS layer, or an argument is out of range.
        CalibrationError: the loader is empty, an activation is not finite, or a layer is never reached. The thresholds
            are then as they were.

    Warns:
        UserWarning: a layer is dead, that is, all its activations are zero. It keeps its threshold.
    """
    if method not in METHODS:
        raise InvalidArgumentError(f"method={method!r} is unknown; choose one of {list(METHODS)}")
    if not 0 < percentile <= 100:
        raise InvalidArgumentError(f"percentile must be in (0, 100], got {percentile}")
    layers = {name: layer for name, layer in qcfs_layers(model).items() if only is None or name in only}
    if not layers:
        raise InvalidArgumentError("the model has no QCFS layers; make some with pascal_ext.replace_activations(model)")
    statistics = collect(model, layers, dataloader, per_channel, "calibrate" if progress else None)
    found = {name: _thresholds(statistics[name], layer, method, percentile) for name, layer in layers.items()}
    for name, layer in layers.items():
        threshold = found[name]
        dead = threshold <= 0
        if dead.any():
            which = "all its activations are" if dead.all() else f"{int(dead.sum())} of {dead.numel()} channels are"
            warnings.warn(f"layer {name!r} is dead on this data: {which} zero; threshold kept", stacklevel=2)
            threshold = torch.where(dead, layer.threshold.detach().abs().max().double(), threshold)
        value = (threshold if per_channel else threshold.squeeze(0)).to(layer.threshold)
        if value.shape == layer.threshold.shape:
            layer.threshold.data.copy_(value)  # the same Parameter: optimizers may hold it
        else:
            layer.threshold = nn.Parameter(value, requires_grad=layer.threshold.requires_grad)
    return model


def collect(
    model: nn.Module, layers: dict[str, QCFS], dataloader: Iterable[Any], per_channel: bool, desc: str | None
) -> dict[str, Histogram]:
    """Histograms of what the activations that ``layers`` stand for put out on the data.

    Raises:
        CalibrationError: see :func:`calibrate`.
    """
    histograms = {name: Histogram() for name in layers}

    def observe(name: str, layer: QCFS, z: Tensor) -> Tensor:
        out = z.clamp(0.0, None if math.isinf(layer.ceiling) else layer.ceiling)
        values = (out.detach().transpose(0, 1).flatten(1) if per_channel else out.detach().reshape(1, -1)).float()
        if not bool(values.isfinite().all()):
            raise CalibrationError(
                f"layer {name!r} has activations that are not finite; look for NaN or Inf in the data or the weights"
            )
        histograms[name].update(values)
        return out

    with instead_of_quantising(model, layers, observe), torch.no_grad():
        for args, kwargs, _ in batches(dataloader, device_of(model), desc):
            model(*args, **kwargs)
    unseen = [name for name, histogram in histograms.items() if histogram.counts is None]
    if unseen:
        raise CalibrationError(f"the data never reaches the layers {unseen}; are they used in forward()?")
    return histograms


@contextlib.contextmanager
def instead_of_quantising(model: nn.Module, layers: dict[str, QCFS], observe: Any) -> Iterator[None]:
    """Within the context, in evaluation mode, each layer returns ``observe(name, layer, z)``; flags are restored."""
    modes = {module: module.training for module in model.modules()}
    handles = [
        layer.register_forward_hook(lambda layer, args, _, name=name: observe(name, layer, args[0]))
        for name, layer in layers.items()
    ]
    model.eval()
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training


def _thresholds(histogram: Histogram, layer: QCFS, method: str, percentile: float) -> Tensor:
    """λ for each row of the histogram, [C] float64; 0 where all values are zero."""
    assert histogram.counts is not None
    counts, centres, width = histogram.counts.cpu(), histogram.centres.cpu(), histogram.widths.cpu()
    occupied = counts > 0
    last = (occupied * torch.arange(1, histogram.bins + 1)).amax(1)  # 1-based index of the highest bin in use
    largest = last * width
    if method == "max":
        threshold = largest
    elif method == "percentile":
        reached = counts.cumsum(1) >= (percentile / 100) * counts.sum(1, keepdim=True)
        threshold = (reached.long().argmax(1) + 1) * width
    else:
        threshold = least_squares(counts, centres, largest, layer.levels)
    return torch.where(largest > 0, threshold.double(), 0.0)


def least_squares(counts: Tensor, centres: Tensor, largest: Tensor, levels: int) -> Tensor:
    r"""The λ of least squared error :math:`\sum_a (a - \mathrm{QCFS}_\lambda(a))^2` for each row of a histogram.

    Args:
        counts: [C, bins], how often each activation occurs.
        centres: [C, bins], the activations.
        largest: [C], the largest activation; candidates are ``CANDIDATES`` fractions of it.
        levels: L.

    Returns:
        [C], the best candidate.
    """
    best = largest.clone().double()
    least = torch.full_like(best, math.inf)
    for step in range(1, CANDIDATES + 1):
        threshold = (largest.double() * (step / CANDIDATES)).clamp_min(torch.finfo(torch.float64).tiny).unsqueeze(1)
        quantised = (centres * levels / threshold + 0.5).floor().clamp(0, levels) * (threshold / levels)
        error = (counts * (centres - quantised).square()).sum(1)
        better = error < least
        least, best = torch.where(better, error, least), torch.where(better, threshold.squeeze(1), best)
    return best
