"""Compiling the activations alone: most of what ``torch.compile`` gives a QCFS network, in a fraction of the time.

In eager mode a QCFS and its gradient pass over memory some twenty times, which costs a small network on a CPU nearly as
much as its convolutions do. Compiled, each is one pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch._dynamo
from torch import nn

from pascal_ext.tracing import qcfs_layers

GRAPHS = 64  # one for each shape and number of levels, in training and in evaluation; the default of 8 is too few


def compile_activations(model: nn.Module) -> None:
    """Compile every QCFS layer of ``model``, in place; needs a C++ compiler (CPU) or Triton (GPU)."""
    torch._dynamo.config.recompile_limit = max(GRAPHS, torch._dynamo.config.recompile_limit)
    for layer in qcfs_layers(model).values():
        layer.compile(dynamic=False)


@contextlib.contextmanager
def eager_activations(model: nn.Module) -> Iterator[None]:
    """Within the context no QCFS layer is compiled; hooks, such as those that calibrate, work."""
    layers = qcfs_layers(model).values()
    compiled = {layer: layer._compiled_call_impl for layer in layers}
    try:
        for layer in layers:
            layer._compiled_call_impl = None
        yield
    finally:
        for layer, call in compiled.items():
            layer._compiled_call_impl = call
