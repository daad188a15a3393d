"""The PASC-IF neuron as a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pascal_ext import functional
from pascal_ext.errors import InvalidArgumentError
from pascal_ext.observers import is_transformed
from pascal_ext.ops.pasc_if import check_backend, pasc_if_settled, qcfs_activation, window_mean
from pascal_ext.ops.thresholds import as_threshold
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

    The neuron is a barrier: it answers when its whole window has arrived, so it always takes a sequence, and no
    membrane potential outlives a call.

    Shapes: currents [T1, N, ...] -> spikes [levels, N, ...] in {0, 1}. With ``execution="counts"`` the train is not
    spelled out: the result is what it stands for, the activation ``λ/L · k``, [1, N, ...].

    Args:
        levels: L, the number of emitted timesteps; to have others, convert again.
        v_threshold: λ, a scalar or one value per channel; the buffer ``v_threshold``.
        backend: see :func:`pascal_ext.functional.pasc_if`.
        execution: ``"spikes"`` or ``"counts"``.

    Raises:
        InvalidArgumentError: the threshold is zero, not finite, or of more than one dimension; or an option is unknown.
        PlanError: ``levels`` is not a whole number of at least 1.

    Attributes:
        ties: how many counts were settled by a reference since the last :meth:`reset` (a tensor, not in the state
        dict).
        whole_windows: each call is known to bring a complete window; the networks that are made by conversion set it,
        for neurons of a framework in which others would be called step by step.
    """

    v_threshold: Tensor
    ties: Tensor
    whole_windows: bool = False

    def __init__(
        self, levels: int, v_threshold: float | Tensor = 1.0, *, backend: str = "auto", execution: str = "spikes"
    ) -> None:
        super().__init__()
        self._levels = check_levels(levels)
        self.backend = backend
        self.execution = check_execution(execution)
        threshold = as_threshold(v_threshold)
        self.register_buffer("v_threshold", threshold)
        with torch.inference_mode(False):  # in which it is changed in place, as it is outside
            ties = torch.zeros((), dtype=torch.int64, device=threshold.device)
        self.register_buffer("ties", ties, persistent=False)

    @classmethod
    def from_qcfs(cls, qcfs: QCFS, backend: str = "auto") -> PascIF:
        """The neuron that computes what ``qcfs`` computes, in units of its threshold."""
        return cls(qcfs.levels, qcfs.threshold, backend=backend)

    @property
    def levels(self) -> int:
        """L, for reading: converted networks are made for the levels that their neurons have."""
        return self._levels

    @property
    def backend(self) -> str:
        """How the neuron is computed; see :func:`pascal_ext.functional.pasc_if`.

        Raises:
            InvalidArgumentError: on setting, where there is no backend of that name.
            BackendError: likewise, where it cannot run here.
        """
        return self._backend

    @backend.setter
    def backend(self, value: str) -> None:
        self._backend = check_backend(value)

    def forward(self, x_seq: Tensor, reference: Tensor | None = None, *, in_place: bool = False) -> Tensor:
        """Answer a window of currents.

        Args:
            x_seq: currents, [T1, N, ...].
            reference: counts [N, ...] from a pass in the ANN's own arithmetic; they settle rounding ties, see
                :mod:`pascal_ext.ops.pasc_if.ties`.
            in_place: with ``execution="counts"``, whether the answer may take the place of the currents, as that of an
                in-place ReLU does.
        """
        if self.execution == "counts":
            z = window_mean(x_seq)
            return qcfs_activation(z, self.v_threshold, self.levels, in_place=in_place).to(x_seq.dtype).unsqueeze(0)
        if reference is None:
            return functional.pasc_if(x_seq, self.v_threshold, self.levels, self.backend)
        train, ties = pasc_if_settled(x_seq, self.v_threshold, self.levels, reference)
        if not is_transformed():  # the count would be one of several
            self._own_ties().add_(ties)
        return train

    def reset(self) -> None:
        """Set :attr:`ties` to zero. Nothing else is remembered between calls."""
        self._own_ties().zero_()

    def _own_ties(self) -> Tensor:
        """:attr:`ties`, to be changed in place; a copy made in inference mode could not be changed outside of it."""
        if not (torch.compiler.is_compiling() or torch.is_inference_mode_enabled()) and self.ties.is_inference():
            self.ties = self.ties.clone()
        return self.ties

    def extra_repr(self) -> str:
        return f"levels={self.levels}, {describe_threshold(self.v_threshold)}, backend={self.backend}"
