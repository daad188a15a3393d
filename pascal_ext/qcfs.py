"""The QCFS activation: what PASCAL networks are trained with."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from pascal_ext.ops.pasc_if import qcfs_activation, quantise
from pascal_ext.ops.thresholds import as_threshold
from pascal_ext.plan import check_levels


class QCFS(nn.Module):
    r"""Quantization-Clip-Floor-Shift activation (Bu et al., ICLR 2022).

    .. math::
        \mathrm{QCFS}(z) = \frac{\lambda}{L}\,
            \mathrm{clip}\left(\left\lfloor \frac{z L}{\lambda} + \frac12 \right\rfloor, 0, L\right)

    The gradient treats the floor as the identity (straight-through): ∂QCFS/∂z is 1 for 0 < z/λ < 1, else 0;
    ∂QCFS/∂λ is QCFS(z)/λ − z/λ for 0 < z/λ < 1, 0 below and 1 above. That is what the authors' code does; their
    equations 13 and 14 have the window half a level lower, see :mod:`pascal_ext.ops.pasc_if.gradient`.

    Shapes: [N, ...] -> [N, ...] for a scalar threshold, [N, C, ...] -> [N, C, ...] for one per channel.

    Args:
        levels: L >= 1; also a settable attribute.
        threshold: the initial λ: a number or a tensor of one element (scalar), or a tensor [C] (per channel). The
            learnable Parameter ``threshold``. Negative values are allowed, as checkpoints trained elsewhere have them.
        ceiling: the largest value of the activation this one stands for (6 for ReLU6); calibration observes no more.

    ``load_state_dict`` takes over the threshold's shape too, so that a model whose thresholds were calibrated per
    channel loads into a fresh one of ``replace_activations``. What an optimizer remembers of a threshold of another
    shape (momentum) does not fit it any more: load first, then make the optimizer.

    Raises:
        InvalidArgumentError: the threshold is zero, not finite, or of more than one dimension.
        PlanError: ``levels`` is not a whole number of at least 1.
    """

    threshold: nn.Parameter

    def __init__(self, levels: int, threshold: float | Tensor = 1.0, *, ceiling: float = math.inf) -> None:
        super().__init__()
        self.threshold = nn.Parameter(as_threshold(threshold))
        self.levels = levels
        self.ceiling = float(ceiling)

    @property
    def levels(self) -> int:
        """L, the number of levels above zero, and of timesteps after conversion."""
        return self._levels

    @levels.setter
    def levels(self, value: int) -> None:
        self._levels = check_levels(value)

    def forward(self, z: Tensor) -> Tensor:
        return qcfs_activation(z, self.threshold, self._levels)

    def counts(self, z: Tensor) -> Tensor:
        """The level of each element, 0 ... L, int32: what the spiking neuron's spikes add up to."""
        return quantise(z, self.threshold, self._levels).int()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved = state_dict.get(f"{prefix}threshold")
        if isinstance(saved, Tensor) and saved.ndim < 2 and saved.shape != self.threshold.shape:
            self.threshold.data = self.threshold.new_ones(saved.shape)  # the same Parameter: an optimizer may hold it
            self.threshold.grad = None
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"levels={self.levels}, {describe_threshold(self.threshold)}"


def describe_threshold(threshold: Tensor) -> str:
    """A threshold for ``repr``: its value where scalar, else its range over the channels."""
    if threshold.is_meta:
        return f"threshold=[{threshold.numel()} on meta]"
    if threshold.numel() == 1:
        return f"threshold={threshold.item():.4g}"
    return f"threshold=[{threshold.numel()} channels, {threshold.min().item():.4g}..{threshold.max().item():.4g}]"
