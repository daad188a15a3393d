"""Max pooling without positions.

A CPU's max pool looks for the position of each maximum, window by window, whether anyone asks for it or not. But the
maximum over a window of several dimensions is the maximum along one of them of the maxima along the others: a few
operations on whole tensors give the same values in a fraction of the time.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _pair, _triple

from pascal_ext.observers import is_watched

Sizes = int | tuple[int, ...]
Windows = list[tuple[int, int, int, int]]  # of each dimension: size, stride, padding, dilation


def max_pool2d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """:func:`torch.nn.functional.max_pool2d`."""
    if not _can_separate(input):
        return F.max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode)
    windows = zip(*map(_pair, (kernel_size, stride or kernel_size, padding, dilation)), strict=True)
    return _separately(input, list(windows), ceil_mode)


def max_pool3d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """:func:`torch.nn.functional.max_pool3d`."""
    if not _can_separate(input):
        return F.max_pool3d(input, kernel_size, stride, padding, dilation, ceil_mode)
    windows = zip(*map(_triple, (kernel_size, stride or kernel_size, padding, dilation)), strict=True)
    return _separately(input, list(windows), ceil_mode)


def _can_separate(x: Tensor) -> bool:
    """On a CPU, without gradients, and in the usual layout (torch's own is fast where the channels are last), as long
    as nobody counts operations, or records them to compile them.
    """
    plain = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and x.is_contiguous() and x.numel() > 0
    if not plain or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return not torch.jit.is_tracing() and not is_watched()


def _separately(x: Tensor, windows: Windows, ceil_mode: bool) -> Tensor:
    """One dimension after the other; the last one, which lies in one piece, by torch's own loop."""
    for dim, window in enumerate(windows[:-1], start=x.ndim - len(windows)):
        x = _along(x, dim, *window, ceil_mode)
    return F.max_pool1d(x.flatten(0, -2), *windows[-1], ceil_mode).view(*x.shape[:-1], -1)


def _along(x: Tensor, dim: int, size: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> Tensor:
    """The maxima of windows along one dimension."""
    length = x.shape[dim]
    count = _count(length, size, stride, padding, dilation, ceil_mode)
    elements = []  # of a window, one after the other: the windows that have it within x, and its values there
    for start in range(-padding, dilation * size - padding, dilation):
        first, last = max(0, -(start // stride)), min(count - 1, (length - 1 - start) // stride)
        if first <= last:
            positions = slice(start + first * stride, start + last * stride + 1, stride)
            elements.append((first, last + 1, x[(*[slice(None)] * dim, positions)]))
    everywhere = next((values for first, last, values in elements if last - first == count), None)
    if everywhere is None:
        maxima = x.new_full((*x.shape[:dim], count, *x.shape[dim + 1 :]), -math.inf)
    else:
        maxima = everywhere.clone(memory_format=torch.contiguous_format)
    for first, last, values in elements:
        if values is not everywhere:
            part = maxima.narrow(dim, first, last - first)
            torch.maximum(part, values, out=part)
    return maxima


def _count(length: int, size: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """How many windows there are; with ``ceil_mode``, those that begin within x, or its padding, and end beyond it."""
    room = length + 2 * padding - dilation * (size - 1) - 1
    count = (room + (stride - 1) * ceil_mode) // stride + 1
    return count - (ceil_mode and (count - 1) * stride >= length + padding)
