"""Whether a layer's pre-activations can be given to a fused kernel."""

from __future__ import annotations

from torch import Tensor, nn

from pascal_ext.observers import is_symbolic
from pascal_ext.ops.pasc_if.layout import is_dense
from pascal_ext.ops.pasc_if.selection import Backend, select


def fused(z: Tensor) -> Backend | None:
    """The backend whose kernels take ``z``, where there may be one: on accelerators.

    Not where the data of ``z`` cannot be had (compilers, which fuse by themselves, ``torch.func``'s transformations and
    fake tensors), nor where it has gaps in memory.
    """
    if z.device.type == "cpu" or is_symbolic() or type(z) not in (Tensor, nn.Parameter) or not is_dense(z):
        return None
    return select("auto", z)[1]
