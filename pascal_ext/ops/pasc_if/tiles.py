"""Tiles: pieces of tensors that stay in a CPU's cache while several operations pass over them.

A chain of n elementwise operations reads and writes main memory n times, unless it is applied piece by piece: then the
first operation of the chain brings a piece into the cache, the others find it there, and a scratch tensor of the size
of one tile takes the place of temporaries as large as the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pascal_ext.ops.thresholds import accumulation_dtype

# elements for each thread: in float32 a quarter of a MiB, of which a few fit into its second level of cache
TILE = 1 << 16


def can_tile(x: Tensor) -> bool:
    """Whether a chain of in-place operations is the way to work on ``x``, in tiles where it is large.

    Not on accelerators, where one broadcast operation costs fewer launches; not in half precisions, which are
    accumulated in another dtype; not while compiling, since compilers fuse what is written without side effects, nor in
    ``torch.func``'s transformations, which follow values only.
    """
    if x.device.type != "cpu" or accumulation_dtype(x.dtype) != x.dtype:
        return False
    return not torch.compiler.is_compiling() and not torch._C._functorch.peek_interpreter_stack()


def tiles(channelwise: tuple[Tensor, ...], channel_dim: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut tensors into tiles, views that cover each of them once; for tensors that :func:`can_tile`.

    Args:
        channelwise: thresholds, and what else has one value, or one for each channel; broadcastable against each of
            ``tensors``.
        channel_dim: the dimension of ``tensors`` that holds the channels, where there are several values.
        tensors: of one shape and one order in memory.

    Yields:
        The values of ``channelwise`` that belong to the tile, which broadcast against its pieces, then one piece of
        each tensor. A single tile, the tensors themselves, where they are small, or have gaps in memory, or different
        orders.
    """
    first, size = tensors[0], TILE * torch.get_num_threads()
    order = _order(first) if first.numel() > 2 * size else None
    if order is None or any(_order(x) is not order for x in tensors):
        yield *channelwise, *tensors
    elif channelwise[0].numel() == 1:
        pieces = (x.permute(order(x)).view(-1).split(size) for x in tensors)
        yield from ((*channelwise, *piece) for piece in zip(*pieces, strict=True))
    else:
        permuted = [x.permute(order(x)) for x in tensors]
        yield from _by_channel(channelwise, order(first).index(channel_dim), permuted, size)


def _by_channel(
    channelwise: tuple[Tensor, ...], position: int, tensors: list[Tensor], size: int
) -> Iterator[tuple[Tensor, ...]]:
    """Tiles of ``size`` elements of contiguous tensors with the channels in dimension ``position``."""
    channels = tensors[0].shape[position]
    tensors = [x.view(x.shape[:position].numel(), channels, -1) for x in tensors]
    columns = [x.view(-1, 1) for x in channelwise]
    inner = tensors[0].shape[2]
    if channels * inner <= size:
        pieces = (x.split(max(1, size // (channels * inner))) for x in tensors)
        yield from ((*columns, *piece) for piece in zip(*pieces, strict=True))
        return
    step = max(1, size // inner)
    for rows in zip(*tensors, strict=True):
        yield from zip(*(x.split(step) for x in (*columns, *rows)), strict=True)


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
