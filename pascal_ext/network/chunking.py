"""A batch in pieces: samples do not depend on each other, so that memory can be traded for calls.

Spikes take L times the room of the ANN's tensors. What a layer writes is still in a CPU's cache when the next one reads
it only where a piece is small. But each piece calls every layer again, which reads its weights and puts them in another
order: smaller pieces pay until all their trains together are about as large as one and a half times the weights, and
:data:`CALL` for each layer; or, in networks of small layers, until the largest train is :data:`CACHE`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from pascal_ext.errors import InvalidArgumentError
from pascal_ext.graph.dimensions import dims_of
from pascal_ext.graph.operations import argument, describe, name_of, shape_argument
from pascal_ext.ops import timefold

AUTO = "auto"
CACHE = 2 << 20  # bytes, of which there may be two: what a layer reads and what it writes
FRESH = 32 << 20  # bytes; larger tensors get new memory from the system every time (glibc's DEFAULT_MMAP_THRESHOLD_MAX)
CALL = 400 << 10  # bytes that move while a layer is called
IMAGES = 16  # torch on one thread multiplies 1×1 convolutions of fewer images one by one,
PIXELS = 16  # which is slow where an image has fewer of these
_WHOLE = "amax amin mean roll sum".split()
_DIMS = {  # where their dimensions stand among the arguments; those of _WHOLE work along all where there are none
    **dict.fromkeys("amax amin argsort cummax cummin cumprod cumsum flip log_softmax logcumsumexp".split(), 1),
    **dict.fromkeys("mean softmax softmin sort sum".split(), 1),
    **dict.fromkeys("normalize roll topk".split(), 2),
}
_SHAPED = ("view", "reshape", "expand", "new_zeros", "new_ones", "new_full", "new_empty")


@functools.cache
def keep_freed_memory() -> None:
    """Let the C library keep what layers free for the layers that follow, where it is glibc.

    It gives the free end of its heap back to the system once that is twice as large as the largest block which it ever
    got from there by itself and freed (``mallopt(3)``, M_MMAP_THRESHOLD). In a process that knows smaller blocks only,
    every layer of a spiking network then touches new pages, and so do its convolutions inside. One block just below
    :data:`FRESH`, which is never touched, is enough for 64 MiB to be kept.
    """
    torch.empty(FRESH - (1 << 16), dtype=torch.uint8, device="cpu")


def check_chunk(value: Any) -> int | str | None:
    """Return ``value``; raise :class:`InvalidArgumentError` unless it is a number of samples, "auto" or None."""
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not whole and value is not None and value != AUTO:
        raise InvalidArgumentError(
            f"chunk must be a number of samples, at least 1, or {AUTO!r}, or None; got {value!r}"
        )
    chunk: int | str | None = value
    return chunk


def holds_samples(graph: fx.Graph) -> bool:
    """Whether all outputs of a time-folded graph surely hold one entry for each sample; else some may be constants.

    Args:
        graph: see :class:`pascal_ext.conversion.lowering.Lowering`.
    """
    return not any(node.target is timefold.present and node.args[1] is None for node in graph.nodes)


def mixing(graph: fx.Graph, root: nn.Module) -> str | None:
    """An operation of a time-folded graph that makes of one sample what depends on the others, or on their number.

    Only operations on decoded values can. Those that do not give a row for each sample, a network refuses when it runs;
    of the others the common ones are found out.

    Args:
        graph: see :class:`pascal_ext.conversion.lowering.Lowering`.
        root: what its modules are found in.
    """
    batch, _, *inputs = (node for node in graph.nodes if node.op == "placeholder")
    values = set(inputs)  # and all that depends on them
    for node in graph.nodes:
        if not values.isdisjoint(node.all_input_nodes):
            values.add(node)
        if getattr(node.target, "__module__", None) == timefold.__name__:
            continue
        shapes = name_of(node) in _SHAPED and shape_argument(node)[0] is batch
        if (batch in node.all_input_nodes and not shapes) or (node in values and _works_across(node, root)):
            return describe(node, root)
    return None


def _works_across(node: fx.Node, root: nn.Module) -> bool:
    """Whether an operation surely works along dimension 0."""
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        by_batch = isinstance(module, _BatchNorm) and module.running_mean is None
        return by_batch or getattr(module, "dim", None) == 0
    name = name_of(node)
    if name == "batch_norm":
        return bool(argument(node, 5, "training", False))
    if name in ("getitem", "assigned"):  # else of a sequence, it may be
        return getattr(node.args[0], "target", None) is timefold.decode and 0 in (dims_of(node, root) or ())
    if name not in _DIMS:
        return False
    dims = argument(node, _DIMS[name], "dims" if name in ("flip", "roll") else "dim", None)
    if dims is None or dims in ([], ()):
        return name in _WHOLE
    return dims == 0 or (isinstance(dims, (tuple, list)) and 0 in dims)


def samples_at_a_time(
    trains: Sequence[int], pixels: int, convolutions: Sequence[Any], levels: float, batch: int
) -> int:
    """How many of ``batch`` samples to simulate at a time.

    Args:
        trains: the bytes of each layer's spikes for one sample; where there are none, nothing is to be simulated.
        pixels: of the smallest feature map.
        convolutions: the network's.
        levels: their mean.
        batch: number of samples.
    """
    if not trains:
        return batch
    kernels = sum(layer.weight.nbytes for layer in convolutions)
    return size_for_cache(trains, kernels, batch, least_samples(convolutions, pixels, levels))


def size_for_cache(trains: Sequence[int], kernels: int, batch: int, least: int = 1) -> int:
    """How many of ``batch`` samples to simulate at a time.

    Args:
        trains: the bytes of each layer's spikes for one sample.
        kernels: the bytes of the convolutions' weights, which every piece reads again.
        batch: number of samples.
        least: not fewer than these.
    """
    largest = max(trains, default=1)
    paying = (kernels * 3 // 2 + CALL * len(trains)) // max(1, sum(trains))
    size = max(min(max(CACHE // largest, paying), FRESH // largest), least, 1)
    pieces = -(-batch // size)
    return min(batch, max(least, -(-batch // pieces)))


def least_samples(convolutions: Iterable[Any], pixels: int, levels: float) -> int:
    """How many samples make the :data:`IMAGES` that 1×1 convolutions want over that many timesteps.

    Args:
        convolutions: the network's; 1 sample is enough where none of them is 1×1.
        pixels: of the smallest feature map; likewise where it has :data:`PIXELS`.
        levels: the mean number of timesteps.
    """
    pointwise = any(set(layer.kernel_size) == {1} and set(layer.stride) == {1} for layer in convolutions)
    return math.ceil(IMAGES / levels) if pointwise and pixels < PIXELS else 1


def split(inputs: Any, size: int, dim: int) -> Iterator[Any]:
    """Every tensor in ``inputs`` cut along ``dim`` into pieces of ``size`` samples, the last may be smaller."""
    leaves, spec = pytree.tree_flatten(inputs)
    cut = [leaf.split(size, dim) if isinstance(leaf, Tensor) else None for leaf in leaves]
    count = next(len(pieces) for pieces in cut if pieces is not None)
    for index in range(count):
        part = [leaf if pieces is None else pieces[index] for leaf, pieces in zip(leaves, cut, strict=True)]
        yield pytree.tree_unflatten(part, spec)


def join(outputs: list[Any], dim: int, size: int, constants: bool = False) -> Any:
    """The outputs for the whole batch; what is no tensor stays as it is.

    Args:
        outputs: of each piece.
        dim: the dimension of the samples.
        size: samples of all pieces but the last.
        constants: whether some tensors may be constants of the network, which are not joined.

    Raises:
        InvalidArgumentError: an output does not hold the samples of its piece in ``dim``.
    """
    leaves = [pytree.tree_flatten(output)[0] for output in outputs]
    joined = [_join(pieces, dim, size, constants) for pieces in zip(*leaves, strict=True)]
    return pytree.tree_unflatten(joined, pytree.tree_flatten(outputs[0])[1])


def _join(pieces: tuple[Any, ...], dim: int, size: int, constants: bool) -> Any:
    first = pieces[0]
    if not isinstance(first, Tensor) or (constants and _is_constant(pieces, dim)):
        return first
    if first.ndim <= dim or first.shape[dim] != size:
        raise InvalidArgumentError(
            f"chunk={size}, but an output has the shape {tuple(first.shape)}, which does not hold one entry for each "
            f"of the {size} samples in dimension {dim}; set chunk to None"
        )
    return torch.cat(pieces, dim)


def _is_constant(pieces: tuple[Tensor, ...], dim: int) -> bool:
    """Whether the pieces are one tensor, and not one sample repeated, or nothing."""
    first = pieces[0]
    if any(piece.data_ptr() != first.data_ptr() or piece.shape != first.shape for piece in pieces):
        return False
    return first.ndim <= dim or (first.numel() > 0 and first.stride(dim) > 0)
