"""Shapes and precision of thresholds, the same for every kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from pascal_ext.errors import InvalidArgumentError


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype membrane potentials are accumulated in: float32 for half precisions, else ``dtype`` itself."""
    if dtype in (torch.float32, torch.float64):
        return dtype
    if dtype in (torch.float16, torch.bfloat16):
        return torch.float32
    raise InvalidArgumentError(f"input currents must be floating point, got {dtype}; call .float() on them first")


def as_threshold(value: Tensor | float) -> Tensor:
    """A new tensor, scalar or [C], from what a user gave as a threshold.

    Raises:
        InvalidArgumentError: it is no number or tensor, zero somewhere, not finite, or of more than one dimension.
    """
    try:
        threshold = torch.as_tensor(value).detach().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidArgumentError(f"threshold must be a number or a tensor, got {value!r:.80}") from error
    if not threshold.is_floating_point():
        threshold = threshold.to(torch.get_default_dtype())
    if threshold.ndim > 1 or threshold.numel() == 0:
        raise InvalidArgumentError(f"threshold must be a scalar or [C], got shape {tuple(threshold.shape)}")
    if not threshold.is_meta and not bool((threshold.isfinite() & (threshold != 0)).all()):
        raise InvalidArgumentError(f"threshold must be finite and not zero, got {value!r}")
    return threshold


def broadcastable(threshold: Tensor | float, like: Tensor, channel_dim: int) -> Tensor:
    """``threshold`` in the accumulation dtype of ``like``, shaped to broadcast against it.

    Args:
        threshold: a number, a tensor of one element, or one value per channel, shape [C].
        like: the tensor the threshold is compared with, for its shape, dtype and device.
        channel_dim: the dimension of ``like`` that holds the channels.

    Raises:
        InvalidArgumentError: ``threshold`` is neither scalar nor of shape [C].
    """
    if not isinstance(threshold, Tensor):
        # not torch.tensor, which copies to a GPU and waits for it
        return torch.full((), threshold, dtype=accumulation_dtype(like.dtype), device=like.device)
    threshold = threshold.to(accumulation_dtype(like.dtype))
    if threshold.numel() == 1:
        return threshold.reshape(())
    check_channels(threshold, like, channel_dim)
    return threshold.reshape(-1, *[1] * (like.ndim - channel_dim - 1))


def check_channels(threshold: Tensor, like: Tensor, channel_dim: int) -> None:
    """Raise :class:`InvalidArgumentError` unless ``threshold`` has one value for each channel of ``like``."""
    channels = like.shape[channel_dim] if like.ndim > channel_dim else None
    if threshold.ndim != 1 or threshold.shape[0] != channels:
        raise InvalidArgumentError(
            f"the threshold has shape {tuple(threshold.shape)}; expected a scalar or one value for each of the "
            f"{channels} channels in dimension {channel_dim} of an input of shape {tuple(like.shape)}"
        )


def exactly(number: int, like: Tensor) -> Tensor | int:
    """``number``, in such a form that dividing ``like`` by it rounds once, on every device.

    Where a tensor on a GPU is divided by a Python number, torch multiplies by the rounded reciprocal instead.
    """
    return number if like.device.type == "cpu" else like.new_full((), number)
