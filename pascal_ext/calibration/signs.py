"""Thresholds below zero, which checkpoints trained elsewhere have: their QCFS stands for min(z, 0), a ReLU of −z."""

from __future__ import annotations

from torch import Tensor

from pascal_ext.errors import InvalidArgumentError
from pascal_ext.ops.thresholds import broadcastable
from pascal_ext.qcfs import QCFS


def turned(layer: QCFS, values: Tensor) -> Tensor:
    """``values``, [N, C, ...], with the other sign where the layer's threshold is negative: there, and back again."""
    negative = layer.threshold.detach() < 0
    if not negative.any():
        return values
    return values * broadcastable(1 - 2 * negative.to(values), values, 1).to(values)


def with_sign(name: str, layer: QCFS, threshold: Tensor) -> Tensor:
    """``threshold``, scalar or [C], of the size found for the layer ``name``, with the sign of the one that it has.

    Raises:
        InvalidArgumentError: one is wanted for all channels, whose signs differ.
    """
    negative = layer.threshold.detach() < 0
    if threshold.ndim == 0 and negative.any() != negative.all():
        raise InvalidArgumentError(
            f"the thresholds of layer {name!r} are negative in {int(negative.sum())} of {negative.numel()} channels, "
            "and one for all of them cannot be both; pass per_channel=True"
        )
    sign = 1 - 2 * negative.to(threshold)
    return threshold * (sign.flatten()[0] if threshold.ndim == 0 else sign)
