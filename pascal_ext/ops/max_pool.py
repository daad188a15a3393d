"""Max pooling without positions.

A CPU's max pool looks for the position of each maximum, window by window, whether anyone asks for it or not. But the
maximum over a window of several dimensions is the maximum along one of them of the maxima along the others: a few
operations on whole tensors give the same values in a fraction of the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _ntuple

from pascal_ext.observers import is_symbolic, is_watched

Sizes = int | tuple[int, ...]
_TORCHS: dict[int, Callable[..., Tensor]] = {2: F.max_pool2d, 3: F.max_pool3d}


class Window(NamedTuple):
    """What is pooled along one dimension."""

    size: int
    stride: int
    padding: int
    dilation: int

    def places(self, length: int, ceil_mode: bool) -> int:
        """How many there are; with ``ceil_mode``, those that begin within x, or its padding, and end beyond it."""
        room = length + 2 * self.padding - self.dilation * (self.size - 1) - 1
        count = (room + (self.stride - 1) * ceil_mode) // self.stride + 1
        return count - (ceil_mode and (count - 1) * self.stride >= length + self.padding)


def max_pool(
    dims: int,
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """:func:`torch.nn.functional.max_pool2d` for ``dims=2``, ``max_pool3d`` for 3.

    One dimension after the other; the last one, which lies in one piece, by torch's own loop.
    """
    options = (kernel_size, stride or kernel_size, padding, dilation)
    windows = [Window(*numbers) for numbers in zip(*map(_ntuple(dims), options), strict=True)]
    if not _can_separate(input, windows, ceil_mode):
        return _TORCHS[dims](input, *options, ceil_mode)
    x = input
    for dim, window in enumerate(windows[:-1], start=x.ndim - dims):
        x = _along(x, dim, window, ceil_mode)
    return F.max_pool1d(x.flatten(0, -2), *windows[-1], ceil_mode).view(*x.shape[:-1], -1)


def _can_separate(x: Tensor, windows: list[Window], ceil_mode: bool) -> bool:
    """On a CPU, without gradients, and in the usual layout (torch's own is fast where the channels are last), as long
    as nobody counts operations, or records or transforms them; and where torch would not refuse.
    """
    plain = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and x.is_contiguous() and x.numel() > 0
    if not plain or torch.is_grad_enabled() or is_symbolic() or is_watched() or x.ndim <= len(windows):
        return False
    lengths = x.shape[-len(windows) :]
    return all(
        window.places(length, ceil_mode) > 0 and 2 * window.padding <= window.size
        for window, length in zip(windows, lengths, strict=True)
    )


def _along(x: Tensor, dim: int, window: Window, ceil_mode: bool) -> Tensor:
    """The maxima along one dimension."""
    length, stride = x.shape[dim], window.stride
    count = window.places(length, ceil_mode)
    elements = []  # of a window, one after the other: the windows that have it within x, and its values there
    for start in range(-window.padding, window.dilation * window.size - window.padding, window.dilation):
        first, last = max(0, -(start // stride)), min(count - 1, (length - 1 - start) // stride)
        if first <= last:
            positions = slice(start + first * stride, start + last * stride + 1, stride)
            elements.append((first, last + 1, x[(*[slice(None)] * dim, positions)]))
    elements.sort(key=lambda element: element[0] - element[1])  # what all windows have comes first
    everywhere = sum(last - first == count for first, last, _ in elements)
    maxima = x.new_empty((*x.shape[:dim], count, *x.shape[dim + 1 :]))
    if everywhere > 1:
        torch.maximum(elements.pop(0)[2], elements.pop(0)[2], out=maxima)
    elif everywhere:
        maxima.copy_(elements.pop(0)[2])
    else:
        maxima.fill_(-math.inf)
    for first, last, values in elements:
        part = maxima.narrow(dim, first, last - first)
        torch.maximum(part, values, out=part)
    return maxima
