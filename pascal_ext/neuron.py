"""The PASC-IF neuron as a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pascal_ext import functional
from pascal_ext.errors import InvalidArgumentError
from pascal_ext.ops.pasc_if import check_backend
from pascal_ext.plan import check_levels
from pascal_ext.qcfs import QCFS, describe_threshold

EXECUTIONS = ("spikes", "counts")


def check_execution(execution: str) -> str:
    """Return ``execution``; raise :class:`InvalidArgumentError` unless it is ``"spikes"`` or ``"counts"``."""
    if execution not in EXECUTIONS:
        raise InvalidArgumentError(f"execution={execution!r} is unknown; choose one of {list(EXECUTIONS)}")
    return execution


class PascIF(nn.Module):
    """A layer of PASC-IF neurons; see :func:`pascal_ext.functional.pasc_if` for the equations.

    The neuron is a barrier: it answers when its whole window has arrived, so it always takes a sequence, and it keeps
    no state between calls.

    Shapes: currents [T1, N, ...] -> spikes [levels, N, ...] in {0, 1}. With ``execution="counts"`` the train is not
    spelled out: the result is its temporal mean, [1, N, ...] in {0, 1/L, ..., 1}.

    Args:
        levels: L, the number of emitted timesteps.
        v_threshold: λ, a scalar or one value per channel; the buffer ``v_threshold``.
        backend: see :func:`pascal_ext.functional.pasc_if`.
        execution: ``"spikes"`` or ``"counts"``.
    """

    v_threshold: Tensor

    def __init__(
        self, levels: int, v_threshold: float | Tensor = 1.0, *, backend: str = "auto", execution: str = "spikes"
    ) -> None:
        super().__init__()
        self.levels = check_levels(levels)
        self.backend = check_backend(backend)
        self.execution = check_execution(execution)
        self.register_buffer("v_threshold", torch.as_tensor(v_threshold).detach().clone())

    @classmethod
    def from_qcfs(cls, qcfs: QCFS, backend: str = "auto") -> PascIF:
        """The neuron that computes what ``qcfs`` computes, in units of its threshold."""
        return cls(qcfs.levels, qcfs.threshold, backend=backend)

    def forward(self, x_seq: Tensor) -> Tensor:
        if self.execution == "counts":
            counts = functional.pasc_if_counts(x_seq, self.v_threshold, self.levels)
            return counts.to(x_seq.dtype).div_(self.levels).unsqueeze(0)
        return functional.pasc_if(x_seq, self.v_threshold, self.levels, self.backend)

    def reset(self) -> None:
        """Nothing to do: the neuron keeps no state between calls. Here because SNN training loops call it."""

    def extra_repr(self) -> str:
        return f"levels={self.levels}, {describe_threshold(self.v_threshold)}, backend={self.backend}"
