"""Stateless functions: the neuron without the module."""

from __future__ import annotations

import math

from torch import Tensor

from pascal_ext.errors import InvalidArgumentError
from pascal_ext.ops import pasc_if as _kernels
from pascal_ext.ops.thresholds import accumulation_dtype, broadcastable
from pascal_ext.plan import check_levels

__all__ = ["pasc_if", "pasc_if_counts"]


def pasc_if(x_seq: Tensor, v_threshold: Tensor | float, levels: int, backend: str = "auto") -> Tensor:
    r"""The PASC-IF neuron (arXiv 2505.01730): a window of currents in, a spike train out.

    .. math::
        k = \mathrm{clip}\left(\left\lfloor \bar{x} L / \lambda + 1/2 \right\rfloor, 0, L\right), \qquad
        s_t = [\,t < k\,], \quad t = 0 \dots L - 1

    where :math:`\bar{x}` is the mean of the currents over their window, so that
    ``v_threshold * pasc_if(x_seq, v_threshold, levels).mean(0)`` is ``QCFS(x_seq.mean(0))``. Half-precision currents
    are accumulated in float32, and counts are integers.

    The gradient is straight through, that of :class:`~pascal_ext.QCFS` for the mean of the spikes: each ∂s_t/∂x̄ is
    1/λ for 0 < x̄/λ < 1, else 0.

    Args:
        x_seq: input currents, [T1, N, ...], T1 >= 1.
        v_threshold: the threshold λ of the activation (not λ/L): a number, a tensor of one element, or one value per
            channel, [C], for currents [T1, N, C, ...]. It may be negative, but neither zero nor infinite. A tensor is
            not looked into, for which the host would have to wait for the device.
        levels: L, the number of levels and of emitted timesteps.
        backend: ``"torch"`` (closed form), ``"reference"`` (the paper's three stages, step by step), ``"triton"`` or
            ``"cupy"`` (one fused kernel on a GPU), ``"host"`` (stage 1 on SpikingJelly's own integrate-and-fire neuron,
            once :mod:`pascal_ext.adapters.spikingjelly` is imported), or ``"auto"``: ``"triton"`` on CUDA where it is
            installed, else ``"torch"``.

    Returns:
        Spikes, [levels, N, ...], 0 or 1, in the dtype of ``x_seq``; all ones come first.

    Raises:
        InvalidArgumentError: the currents are not floating point or have no window, the threshold's shape does not fit,
            it is a number that is zero or not finite, or there is no such backend.
        BackendError: ``backend`` names one that cannot run here.
        PlanError: ``levels`` is not a whole number of at least 1.
    """
    return _kernels.pasc_if(*_checked(x_seq, v_threshold), check_levels(levels), backend)


def pasc_if_counts(x_seq: Tensor, v_threshold: Tensor | float, levels: int, backend: str = "auto") -> Tensor:
    """The number of spikes that :func:`pasc_if` emits, [N, ...] int32, without the train; same arguments."""
    return _kernels.pasc_if_counts(*_checked(x_seq, v_threshold), check_levels(levels), backend)


def _checked(x_seq: Tensor, threshold: Tensor | float) -> tuple[Tensor, Tensor]:
    """The currents, and the threshold as a tensor.

    Raises:
        InvalidArgumentError: the currents are no tensor, have no window, or are not floating point; or the threshold is
            a number, and zero or not finite.
    """
    if not isinstance(x_seq, Tensor):
        raise InvalidArgumentError(f"x_seq must be a tensor [T1, N, ...], got {x_seq!r:.80}")
    if x_seq.ndim < 1 or x_seq.shape[0] < 1:
        raise InvalidArgumentError(
            f"x_seq must be [T1, N, ...] with at least one timestep, got shape {tuple(x_seq.shape)}"
        )
    accumulation_dtype(x_seq.dtype)  # raises where there is none
    if isinstance(threshold, Tensor):
        return x_seq, threshold
    if threshold == 0 or not -math.inf < threshold < math.inf:
        raise InvalidArgumentError(f"v_threshold must be finite and not zero, got {threshold!r}")
    return x_seq, broadcastable(threshold, x_seq, 2)
