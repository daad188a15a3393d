"""Time-folded tensors: [T·N, ...], so that stateless modules run on all timesteps at once, untouched.

Each tensor may have its own number of timesteps; the batch size N, the same for all, tells how many there are. The
temporal mean of a folded tensor is the value that the tensor has in the ANN.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pascal_ext.errors import InvalidArgumentError, UnsupportedOperationError
from pascal_ext.ops.pasc_if.ties import Reference
from pascal_ext.ops.thresholds import broadcastable


def unfold(x: Tensor, batch: int) -> Tensor:
    """[T·N, ...] -> [T, N, ...]."""
    if x.shape[0] == batch:
        return x.unsqueeze(0)
    if batch < 1 or x.shape[0] % batch:
        raise InvalidArgumentError(
            f"a tensor of shape {tuple(x.shape)} is no whole number of timesteps for a batch of {batch}: all inputs "
            "must have the same batch size, and the model must keep the batch in dimension 0"
        )
    return x.unflatten(0, (-1, batch))


def fold(x_seq: Tensor) -> Tensor:
    """[T, N, ...] -> [T·N, ...]."""
    return x_seq.flatten(0, 1)


def drop(dropout: Any, x: Tensor, batch: int) -> Tensor:
    """What a dropout makes of a folded tensor: in training, what it drops, it drops at all timesteps of a sample."""
    if not dropout.training or x.shape[0] == batch:
        same: Tensor = dropout(x)
        return same
    x_seq = unfold(x, batch)
    return fold(x_seq * dropout(torch.ones_like(x_seq[0])))


def mean(x_seq: Tensor) -> Tensor:
    """[T, N, ...] -> [N, ...]; of one step, which need not be floating point, that step."""
    return x_seq[0] if x_seq.shape[0] == 1 else x_seq.mean(0)


def decode(x: Any, batch: int) -> Any:
    """[T·N, ...] -> [N, ...], the temporal mean: a barrier, after which any operation is exact. Also for sequences."""
    return pytree.tree_map_only(Tensor, lambda x: mean(unfold(x, batch)), x)


def present(output: Any, batch: int | None) -> Any:
    """An output of the network, or a sequence of them, as [T, N, ...]; T = 1 where it is not folded (no ``batch``)."""

    def presented(x: Tensor) -> Tensor:
        return x.unsqueeze(0) if batch is None or not x.ndim else unfold(x, batch)

    return pytree.tree_map_only(Tensor, presented, output)


def align(tensors: list[Tensor], batch: int) -> list[Tensor]:
    """Bring folded tensors to the longest T among them, each with its temporal mean kept.

    Where T divides the longest, every step is repeated, which keeps binary spikes binary and thermometer codes
    thermometer codes; else the mean is.
    """
    steps = max(x.shape[0] for x in tensors) // batch
    return [_stretch(x, batch, steps) for x in tensors]


def _stretch(x: Tensor, batch: int, steps: int) -> Tensor:
    x_seq = unfold(x, batch)
    window = x_seq.shape[0]
    if window == steps:
        return x
    if steps % window:
        x_seq, window = x_seq.mean(0, keepdim=True), 1
    return x_seq.unsqueeze(1).expand(-1, steps // window, *x_seq.shape[1:]).flatten(0, 2)


def scale(x: Any, threshold: Tensor) -> Any:
    """Spikes, or a sequence of them, times their threshold: one value, or one per channel (dimension 1).

    After ``flatten``, several features in a row belong to each channel.
    """

    def scaled(x: Tensor) -> Tensor:
        by_channel = threshold
        if threshold.numel() > 1 and x.shape[1] != threshold.numel():
            by_channel = threshold.repeat_interleave(x.shape[1] // threshold.numel())
        return x * broadcastable(by_channel, x, channel_dim=1).to(x.dtype)

    return pytree.tree_map_only(Tensor, scaled, x)


def rate(train: Tensor, threshold: Tensor) -> Tensor:
    """[L, R, ...] spikes -> [R, ...], the activation that they stand for."""
    return scale(train.mean(0), threshold)


def join_scales(thresholds: list[Tensor | None], channels: list[int]) -> Tensor:
    """One threshold for each channel of a concatenation; 1 where an operand (None) has none."""
    like = next(threshold for threshold in thresholds if threshold is not None)
    parts = [like.new_ones(1) if threshold is None else threshold.reshape(-1) for threshold in thresholds]
    return torch.cat([part.expand(count) for part, count in zip(parts, channels, strict=True)])


def as_sequence(x: Tensor) -> Tensor:
    """[N, ...] -> [1, N, ...]."""
    return x.unsqueeze(0)


def only_step(x_seq: Tensor) -> Tensor:
    """[1, N, ...] -> [N, ...]."""
    return x_seq[0]


def pick(references: tuple[Reference, ...] | None, index: int) -> Tensor | None:
    """The reference counts of one layer, where there are any."""
    return None if references is None else references[index].counts


def keep_batch(x: Tensor, source: Tensor, where: str) -> Tensor:
    """``x``, after a check that the operation ``where`` left dimension 0, which holds time and batch, alone."""
    if x.shape[0] != source.shape[0]:
        raise UnsupportedOperationError(
            f"{where} turned dimension 0 of {tuple(source.shape)} into {x.shape[0]}. A converted network folds time "
            "into the batch, so forward() must keep dimension 0: write x.flatten(1) or x.reshape(x.shape[0], -1)"
        )
    return x


def with_rows(shape: torch.Size, rows: int) -> tuple[int, ...]:
    """The shape of a tensor that is like one of ``shape``, for another number of timesteps."""
    return (rows, *shape[1:])


def need_ndim(x: Tensor, ndim: int, where: str) -> Tensor:
    """``x``, after a check that it has at least ``ndim`` dimensions, so that a negative index misses dimension 0."""
    if x.ndim < ndim:
        raise UnsupportedOperationError(
            f"{where} works across dimension 0 (the batch) of a tensor of shape {tuple(x.shape)}; "
            "a converted network folds time into the batch and cannot mix samples"
        )
    return x


def keep_rows(x: Any, batch: int, where: str) -> Any:
    """``x``, after a check that the operation ``where`` gave one row for each sample."""
    for tensor in pytree.tree_leaves(x):
        if isinstance(tensor, Tensor) and (not tensor.ndim or tensor.shape[0] != batch):
            raise UnsupportedOperationError(
                f"{where} gave {tuple(tensor.shape)} for a batch of {batch}: dimension 0 must hold the samples, since "
                "a converted network folds time into it"
            )
    return x


def entry(container: Any, index: int) -> Any:
    """``container[index]``, where the network's input is a sequence."""
    if isinstance(container, Tensor):
        raise UnsupportedOperationError(
            f"x[{index}] of an input of shape {tuple(container.shape)} picks one sample out of the batch; a converted "
            "network folds time into the batch and cannot mix samples"
        )
    return container[index]
