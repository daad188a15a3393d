"""Peak memory of a forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


class _Living(TorchDispatchMode):
    """Watches the storages that operations make, and remembers how much there was at most."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._storages[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes())
        self._storages = {key: entry for key, entry in self._storages.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._storages.values()))
        return out


@torch.inference_mode()
def peak_bytes(run: Callable[[Tensor], Any], images: Tensor) -> int:
    """Bytes of the tensors that ``run(images)`` makes and that are alive together, at most; weights are not among them.

    On a GPU it is what the allocator says. On a CPU, where there is no such count, it is that of the tensors that
    operations return; what an operation needs inside is left out.
    """
    if images.is_cuda:
        before = torch.cuda.memory_allocated(images.device)
        torch.cuda.reset_peak_memory_stats(images.device)
        run(images)
        return torch.cuda.max_memory_allocated(images.device) - before
    with _Living() as living:
        run(images)
    return living.peak
