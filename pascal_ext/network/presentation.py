"""What a converted network takes: a batch of the ANN, or in multi-step mode a sequence of them."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree

from pascal_ext.errors import InvalidArgumentError
from pascal_ext.ops import timefold

Bounds = tuple[float, float]  # the least and the largest number of dimensions
ANY: Bounds = (1, math.inf)


def batch_ndim(graph: fx.Graph, root: nn.Module) -> Bounds:
    """How many dimensions a batch of the ANN has, as far as the layer that reads it tells."""
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        return ANY
    least, largest = ANY
    for module in (root.get_submodule(str(user.target)) for user in inputs[0].users if user.op == "call_module"):
        if isinstance(module, _ConvNd):
            least = largest = module.weight.ndim
        elif isinstance(module, nn.Linear) or (isinstance(module, nn.Flatten) and module.start_dim == 1):
            least = max(least, 2)
    return least, largest


def presented(inputs: Any, step_mode: str, bounds: Bounds) -> tuple[int, Any]:
    """The batch size, and what the inputs mean over time: [N, ...].

    Args:
        inputs: tensors [N, ...], or with ``step_mode="m"`` [T, N, ...], in whatever containers.
        step_mode: of the network.
        bounds: see :func:`batch_ndim`.

    Raises:
        InvalidArgumentError: no tensor among the inputs, different batch sizes, another number of dimensions, no
            timesteps, or several of integers.
    """
    multi_step = step_mode == "m"
    sizes: list[int] = []  # which need not be numbers while a graph is exported

    def mean(x: Tensor) -> Tensor:
        if not bounds[0] <= x.ndim - multi_step <= bounds[1]:
            raise InvalidArgumentError(_wrong(tuple(x.shape), step_mode, bounds))
        if multi_step and not len(x):
            raise InvalidArgumentError(f"an input has no timesteps, {tuple(x.shape)}; step mode 'm' takes [T, N, ...]")
        if multi_step and len(x) > 1 and not (x.is_floating_point() or x.is_complex()):
            raise InvalidArgumentError(
                f"an input of {x.dtype} has no temporal mean over {len(x)} timesteps; give spikes and frames as "
                "x.float(), and numbers of rows, for an embedding, in one timestep, x.unsqueeze(0)"
            )
        sizes.append(x.shape[int(multi_step)])
        return timefold.mean(x) if multi_step else x

    means = pytree.tree_map_only(Tensor, mean, inputs)
    if not sizes or any(size != sizes[0] for size in sizes):
        raise InvalidArgumentError(
            f"all inputs must have the same batch size; got {sizes or 'no tensor'} in step mode {step_mode!r}"
        )
    return sizes[0], means


def _wrong(shape: tuple[int, ...], step_mode: str, bounds: Bounds) -> str:
    multi_step = step_mode == "m"
    least, largest = bounds
    counted = f"{'at least ' * (least < largest)}{least + multi_step:g} dimensions"
    message = f"step mode {step_mode!r} takes inputs [{'T, ' * multi_step}N, ...] of {counted}, got {shape}"
    if multi_step and least <= len(shape) <= largest:
        return f"{message}; give a batch that does not change over time as x.unsqueeze(0), or set step_mode='s'"
    if not multi_step and len(shape) > largest:
        return f"{message}; set step_mode='m' for sequences"
    return message
