"""Statistics over all processes of a ``torch.distributed`` group; on one process, what is given."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether there are other processes to reduce with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def total(value: Tensor) -> Tensor:
    """The sum of ``value`` over the processes."""
    return _reduce(value, "SUM")


def largest(value: Tensor) -> Tensor:
    """The maximum of ``value``, element by element, over the processes."""
    return _reduce(value, "MAX")


def _reduce(value: Tensor, operation: str) -> Tensor:
    if not is_distributed():
        return value
    device = value.device
    if dist.get_backend() == "nccl" and device.type == "cpu":
        value = value.to(torch.device("cuda", torch.cuda.current_device()))
    value = value.clone()
    dist.all_reduce(value, getattr(dist.ReduceOp, operation))
    return value.to(device)
