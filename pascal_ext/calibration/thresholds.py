"""Thresholds from data: what the activations of the un-quantised network say λ should be."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from pascal_ext.activations import NO_QCFS_LAYERS, qcfs_layers
from pascal_ext.calibration.correction import find_corrections, insert_bias_currents, overwrite, settled
from pascal_ext.calibration.histogram import Histogram, rectified
from pascal_ext.calibration.signs import turned
from pascal_ext.data import batches, call
from pascal_ext.errors import CalibrationError, InvalidArgumentError
from pascal_ext.graph.traceable import check_has_values, unwrapped
from pascal_ext.observers import evaluating
from pascal_ext.plan import chosen
from pascal_ext.qcfs import QCFS

M = TypeVar("M", bound=nn.Module)

METHODS = ("mse", "percentile", "max")
CORRECTIONS = (None, "bias")


def calibrate(
    model: M,
    dataloader: Iterable[Any],
    method: str = "mse",
    *,
    per_channel: bool | str = False,
    percentile: float = 99.9,
    correct: str | None = None,
    only: Collection[str] | None = None,
    progress: bool = True,
) -> M:
    """Set the thresholds of the model's QCFS layers from data, in one pass.

    The thresholds are those that suit the un-quantised network: while its activations are observed, every QCFS acts as
    the ReLU (or ReLU6, ...) that it stands for. ``correct="bias"`` also corrects what quantisation does to the means,
    layer by layer (:mod:`pascal_ext.calibration.correction`): each layer then reads its pre-activations plus a
    constant, the parameter ``<layer>_bias_current`` of the graph. That costs two passes, and memory for the activations
    of all batches at the widest place of the network.

    A negative threshold, as checkpoints trained elsewhere have them, stays negative: its QCFS stands for min(z, 0).

    Args:
        model: a model with :class:`QCFS` layers, such as :func:`pascal_ext.replace_activations` makes.
        dataloader: batches as :func:`pascal_ext.data.split_batch` understands them; labels are not used.
        method: ``"mse"``, the λ whose QCFS has the least squared error against the ReLU (depends on the levels);
            ``"percentile"`` of the activations; or their ``"max"``.
        per_channel: one λ for each channel (dimension 1, where there is one) instead of one for each layer; with a
            correction also ``"auto"``: where a channel has some thousands of activations to tell it from.
        percentile: for ``method="percentile"``, in (0, 100].
        correct: None, or ``"bias"``; needs the graph that :func:`pascal_ext.replace_activations` returns.
        only: names of the layers to calibrate; the others keep their thresholds, and quantise meanwhile.
        progress: show a progress bar.

    Returns:
        ``model`` itself, with new thresholds and its train/eval flags as they were. The parameters are the same ones,
        so that optimizers go on training them; but what an optimizer remembers of one that was given another shape
        (momentum) does not fit it any more: calibrate first, then make the optimizer.

    Raises:
        InvalidArgumentError: the model has no QCFS layer, ``only`` names others, an argument is out of range, a layer
            that gets one threshold has some of both signs, or tensors of the model are on the meta device.
        CalibrationError: the loader is empty, an activation is not finite, a layer is never reached, or one without a
            correction has other channels in each batch. The thresholds are then as they were.

    Warns:
        UserWarning: layers, or channels of theirs, are dead, that is, all their activations are zero. They keep their
            thresholds. One warning tells of all.
    """
    if method not in METHODS:
        raise InvalidArgumentError(f"method={method!r} is unknown; choose one of {list(METHODS)}")
    if not 0 < percentile <= 100:
        raise InvalidArgumentError(f"percentile must be in (0, 100], got {percentile}")
    if correct not in CORRECTIONS:
        raise InvalidArgumentError(f"correct={correct!r} is unknown; choose one of {list(CORRECTIONS)}")
    if per_channel not in (True, False) and (per_channel != "auto" or correct is None):
        raise InvalidArgumentError(f"per_channel={per_channel!r}: it is True, False, or 'auto' with correct='bias'")
    inner = unwrapped(model)
    check_has_values(inner)
    layers = qcfs_layers(inner)
    if not layers:
        raise InvalidArgumentError(NO_QCFS_LAYERS)
    wanted = chosen(only, layers)
    layers = {name: layer for name, layer in layers.items() if name in wanted}
    desc = "calibrate" if progress else None
    biases: dict[str, Tensor] = {}
    dead: dict[str, str] = {}
    if correct is None:
        statistics = collect(inner, layers, dataloader, bool(per_channel), desc)
        found = {name: statistics[name].threshold(layer.levels, method, percentile) for name, layer in layers.items()}
        thresholds = {
            name: settled(name, layers[name], value if per_channel else value.squeeze(0), dead)
            for name, value in found.items()
        }
    else:
        thresholds, biases = find_corrections(inner, layers, dataloader, method, per_channel, percentile, desc, dead)
    if dead:
        warnings.warn(_told(dead), stacklevel=2)
    for name, layer in layers.items():
        overwrite(layer.threshold, thresholds[name])
    if isinstance(inner, fx.GraphModule):
        insert_bias_currents(inner, biases)
    return model


def _told(dead: dict[str, str]) -> str:
    """One warning, however many layers: dead channels are common, and a deep network has many layers."""
    (name, what), *others = dead.items()
    also = f"; so are {', '.join(f'{name!r} ({what})' for name, what in others)}" if others else ""
    return f"layer {name!r} is dead on this data: {what} are zero; threshold kept{also}"


def collect(
    model: nn.Module, layers: dict[str, QCFS], dataloader: Iterable[Any], per_channel: bool, desc: str | None
) -> dict[str, Histogram]:
    """Histograms of what the activations that ``layers`` stand for put out on the data.

    Raises:
        CalibrationError: see :func:`calibrate`.
    """
    histograms = {name: Histogram() for name in layers}

    def observe(name: str, layer: QCFS, z: Tensor) -> Tensor:
        size = rectified(name, turned(layer, z), layer.ceiling)
        histograms[name].observe(name, size, per_channel)
        return turned(layer, size)

    with instead_of_quantising(model, layers, observe), torch.no_grad():
        for batch in batches(dataloader, model, desc):
            call(model, batch)
    unseen = [name for name, histogram in histograms.items() if histogram.counts is None]
    if unseen:
        raise CalibrationError(f"the data never reaches the layers {unseen}; are they used in forward()?")
    for histogram in histograms.values():
        histogram.reduce()
    return histograms


@contextlib.contextmanager
def instead_of_quantising(model: nn.Module, layers: dict[str, QCFS], observe: Any) -> Iterator[None]:
    """Within the context, in evaluation mode, each layer returns ``observe(name, layer, z)``; flags are restored."""
    handles = [
        layer.register_forward_hook(lambda layer, args, _, name=name: observe(name, layer, args[0]))
        for name, layer in layers.items()
    ]
    try:
        with evaluating(model):
            yield
    finally:
        for handle in handles:
            handle.remove()
