"""A training step's forward and backward pass as CUDA graphs: one launch each for hundreds of kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pascal_ext.activations import qcfs_layers


class Captured:
    """An objective that is captured when it is first called, and replayed from then on (``make_graphed_callables``).

    A kernel of a small network takes less time than its launch. What is captured are the kernels of eager mode, QCFS's
    fused ones among them, so that there is nothing to compile. Inputs of other shapes, and levels that were
    reallocated, are captured anew.

    Args:
        student: the network in training whose parameters get gradients, on a GPU.
        objective: tensors to a tuple of tensors, by way of ``student``.
    """

    def __init__(self, student: nn.Module, objective: Callable[..., Any]) -> None:
        self.student, self.objective = student, objective
        self._replay: Callable[..., Any] | None = None
        self._of: object = None

    def __call__(self, *inputs: Tensor) -> Any:
        levels = [layer.levels for layer in qcfs_layers(self.student).values()]
        captured = [(tensor.shape, tensor.dtype) for tensor in inputs], levels
        if self._replay is None or captured != self._of:
            self._replay, self._of = self._capture(inputs), captured
        return self._replay(*inputs)

    def _capture(self, inputs: tuple[Tensor, ...]) -> Callable[..., Any]:
        step = _Step(self.student, self.objective)
        device = inputs[0].device
        buffers = list(self.student.buffers())
        before = [buffer.clone() for buffer in buffers]
        mixed = torch.autocast(
            device.type,
            torch.get_autocast_dtype(device.type),
            torch.is_autocast_enabled(device.type),
            cache_enabled=False,  # what is kept of one step would be part of no other's graph
        )
        with mixed, torch.random.fork_rng(devices=[device]):
            torch.cuda.make_graphed_callables(step, tuple(tensor.clone() for tensor in inputs))
        with torch.no_grad():  # warming up has run batch norms
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
        return step.forward


class _Step(nn.Module):
    """The objective as a module: what is captured has to know whose parameters get gradients."""

    def __init__(self, student: nn.Module, objective: Callable[..., Any]) -> None:
        super().__init__()
        self.student, self.objective = student, objective

    def forward(self, *inputs: Tensor) -> Any:
        return self.objective(*inputs)
