"""A batch in pieces: samples do not depend on each other, so that memory can be traded for calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pascal_ext.errors import InvalidArgumentError


def split(inputs: Any, size: int, dim: int) -> Iterator[Any]:
    """Every tensor in ``inputs`` cut along ``dim`` into pieces of ``size`` samples, the last may be smaller."""
    leaves, spec = pytree.tree_flatten(inputs)
    cut = [leaf.split(size, dim) if isinstance(leaf, Tensor) else None for leaf in leaves]
    count = next(len(pieces) for pieces in cut if pieces is not None)
    for index in range(count):
        part = [leaf if pieces is None else pieces[index] for leaf, pieces in zip(leaves, cut, strict=True)]
        yield pytree.tree_unflatten(part, spec)


def join(outputs: list[Any], dim: int, size: int) -> Any:
    """The outputs for the whole batch; what is no tensor, or the same constant in every piece, stays as it is.

    Raises:
        InvalidArgumentError: an output does not hold the samples of its piece in ``dim``.
    """
    leaves = [pytree.tree_flatten(output)[0] for output in outputs]
    joined = [_join(pieces, dim, size) for pieces in zip(*leaves, strict=True)]
    return pytree.tree_unflatten(joined, pytree.tree_flatten(outputs[0])[1])


def _join(pieces: tuple[Any, ...], dim: int, size: int) -> Any:
    first = pieces[0]
    if not isinstance(first, Tensor) or all(piece.data_ptr() == first.data_ptr() for piece in pieces):
        return first
    if first.ndim <= dim or first.shape[dim] != size:
        raise InvalidArgumentError(
            f"chunk={size}, but an output has the shape {tuple(first.shape)}, which does not hold one entry for each "
            f"of the {size} samples in dimension {dim}; set chunk to None"
        )
    return torch.cat(pieces, dim)
