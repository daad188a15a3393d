"""Tiles: pieces of tensors that stay in a CPU's cache while several operations pass over them.

A chain of n elementwise operations reads and writes main memory n times, unless it is applied piece by piece: then the
first operation of the chain brings a piece into the cache, the others find it there, and a scratch tensor of the size
of one tile takes the place of temporaries as large as the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pascal_ext.observers import is_symbolic
from pascal_ext.ops.thresholds import accumulation_dtype

# elements for each thread: in float32 a quarter of a MiB, of which a few fit into its second level of cache
TILE = 1 << 16


def can_tile(x: Tensor) -> bool:
    """Whether a chain of in-place operations is the way to work on ``x``, in tiles where it is large.

    Not on accelerators, where one broadcast operation costs fewer launches; not in half precisions, which are
    accumulated in another dtype; nor where tensors stand for others: compilers fuse what is written without side
    effects, ``torch.func``'s transformations follow values only, and a trace would hold tiles of one size.
    """
    return x.device.type == "cpu" and accumulation_dtype(x.dtype) == x.dtype and not is_symbolic()


def tiles(channelwise: tuple[Tensor, ...], channel_dim: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut tensors into tiles, views that cover each of them once; for tensors that :func:`can_tile`.

    Args:
        channelwise: thresholds, and what else has one value, or one for each channel; broadcastable against each of
            ``tensors``.
        channel_dim: the dimension of ``tensors`` that holds the channels, where there are several values: 1, or 2 where
            the first dimension is time.
        tensors: of one shape, but for their numbers of timesteps, and of one order in memory. Timesteps are not cut.

    Yields:
        The values of ``channelwise`` that belong to the tile, which broadcast against its pieces, then one piece of
        each tensor. A single tile, the tensors themselves, where they are small, or have gaps in memory, or different
        orders.
    """
    times = channel_dim - 1
    steps = tensors if not times else [x[0] for x in tensors]
    first, size = steps[0], TILE * torch.get_num_threads()
    order = _order(first) if first.numel() > 2 * size else None
    if order is None or any(_order(step) is not order for step in steps):
        yield *channelwise, *tensors
        return
    dims = order(first)
    permuted = [x.permute(*range(times), *(times + dim for dim in dims)) for x in tensors]
    if channelwise[0].numel() == 1:
        pieces = (x.flatten(times).split(size, times) for x in permuted)
        yield from ((*channelwise, *piece) for piece in zip(*pieces, strict=True))
    else:
        yield from _by_channel(channelwise, dims.index(1), permuted, size, times)


def _by_channel(
    channelwise: tuple[Tensor, ...], position: int, tensors: list[Tensor], size: int, times: int
) -> Iterator[tuple[Tensor, ...]]:
    """Tiles of ``size`` elements of steps that are contiguous, with the channels in their dimension ``position``."""
    rows, channels = tensors[0].shape[times : times + position], tensors[0].shape[times + position]
    tensors = [x.view(*x.shape[:times], rows.numel(), channels, -1) for x in tensors]
    columns = [x.view(-1, 1) for x in channelwise]
    in_row = tensors[0].shape[-1]
    if channels * in_row <= size:
        pieces = (x.split(max(1, size // (channels * in_row)), times) for x in tensors)
        yield from ((*columns, *piece) for piece in zip(*pieces, strict=True))
        return
    step = max(1, size // in_row)
    for row in zip(*(x.unbind(times) for x in tensors), strict=True):
        yield from zip(*(x.split(step) for x in columns), *(x.split(step, times) for x in row), strict=True)


def _as_is(x: Tensor) -> tuple[int, ...]:
    return tuple(range(x.ndim))


def _channels_last(x: Tensor) -> tuple[int, ...]:
    return (0, *range(2, x.ndim), 1)


def _order(x: Tensor) -> Callable[[Tensor], tuple[int, ...]] | None:
    """How to permute ``x`` to make it contiguous; None where there are gaps."""
    if x.is_contiguous():
        return _as_is
    if x.ndim in (4, 5) and x.is_contiguous(
        memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    ):
        return _channels_last
    return None
