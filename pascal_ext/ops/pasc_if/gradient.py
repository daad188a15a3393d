"""Straight-through gradients: the floor counts as the identity, and the clip as the one to 0 < z/λ < 1.

That is how the networks of Bu et al. (ICLR 2022) were trained: their code clips z/λ to [0, 1] before the floor. Their
equations 13 and 14 have it half a level lower, at -1/(2L) < z/λ < 1 - 1/(2L), as the formula's clip comes after the
shift. Only the first is where the activation changes: averaged over noise of one level's width, uniform on
(-λ/(2L), λ/(2L)), QCFS is clip(z, 0, λ), and ∂/∂z is this average's own derivative. Networks of few levels learn more
with it, see docs/training.md.

With ``u = z·L/λ + 1/2``, as the closed form has it, the window is 1/2 < u < L + 1/2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pascal_ext.ops.pasc_if.closed_form import divisor_of, shifted
from pascal_ext.ops.pasc_if.fusion import fused
from pascal_ext.ops.pasc_if.tiles import can_tile, tiles
from pascal_ext.ops.thresholds import accumulation_dtype, broadcastable


def activation_gradient(
    grad: Tensor, z: Tensor, threshold: Tensor, levels: int, needs_threshold: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of ``QCFS(z)``: ∂/∂z is 1 for 0 < z/λ < 1; ∂/∂λ is QCFS(z)/λ − z/λ there, 0 below, and 1 above.

    Args:
        grad: with respect to the activation, [N, ...] or [N, C, ...].
        z: pre-activations.
        threshold: λ, scalar or [C].
        levels: L.
        needs_threshold: whether the second gradient is wanted.

    Returns:
        Gradients with respect to ``z`` and ``threshold``, in their shapes and dtypes.
    """
    by = broadcastable(threshold, z, 1)
    is_recorded = torch.is_grad_enabled()  # for a gradient of this gradient, which has to see every operation
    in_tiles = can_tile(z) and not is_recorded
    total = torch.zeros_like(by, dtype=torch.float64 if in_tiles else by.dtype)
    backend = None if is_recorded else fused(z)
    if backend is not None and backend.gradient is not None:
        grad = grad if grad.stride() == z.stride() else torch.empty_like(z).copy_(grad)
        grad_z, slopes = torch.empty_like(z), torch.empty_like(z, dtype=by.dtype) if needs_threshold else None
        backend.gradient(grad, z, threshold, levels, grad_z, slopes)
        total = total if slopes is None else slopes.sum_to_size(by.shape)
    elif in_tiles:
        grad_z = torch.empty_like(z)
        for scale, subtotal, above, source, target in tiles((by, total), 1, grad, z, grad_z):
            _, slope = _slopes(above, source, scale, levels, needs_threshold, out=target)
            if slope is not None:
                subtotal += slope.sum_to_size(subtotal.shape)
    else:
        grad_z, slope = _slopes(grad.to(by.dtype), z.to(by.dtype), by, levels, needs_threshold)
        total = total if slope is None else slope.sum_to_size(by.shape)
    return grad_z.to(z.dtype), total.reshape(threshold.shape).to(threshold.dtype) if needs_threshold else None


def activation_tangent(
    tangent_z: Tensor, tangent_threshold: Tensor, z: Tensor, threshold: Tensor, levels: int
) -> Tensor:
    """The derivative of ``QCFS(z)`` along a direction, with the slopes of :func:`activation_gradient`."""
    by = broadcastable(threshold, z, 1)
    grad_z, slope = _slopes(torch.ones_like(z, dtype=by.dtype), z.to(by.dtype), by, levels, True)
    assert slope is not None
    return (grad_z * tangent_z + slope * broadcastable(tangent_threshold, z, 1)).to(z.dtype)


def _slopes(
    grad: Tensor, z: Tensor, threshold: Tensor, levels: int, needs_threshold: bool, out: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """The gradients with respect to z, in ``out`` where that is given, and, element by element, to λ."""
    u = shifted(z, divisor_of(threshold, levels), levels)
    to = {} if out is None else {"grad_input": out}  # transformations know no operations that write elsewhere
    grad_z = torch.ops.aten.hardtanh_backward(grad, u, 0.5, levels + 0.5, **to)  # grad inside, else 0
    if not needs_threshold:
        return grad_z, None
    if out is None:  # gradients of this are recorded, perhaps, or there are many in one tensor
        activation = u.floor().clamp(0, levels) * grad * (1 / levels)
        return grad_z, torch.addcmul(activation, grad_z, z / threshold, value=-1)
    activation = u.floor_().clamp_(0, levels).mul_(grad).mul_(1 / levels)
    return grad_z, activation.addcmul_(grad_z, z / threshold, value=-1)


def train_tangent(
    tangent_x: Tensor, tangent_threshold: Tensor, x_seq: Tensor, threshold: Tensor, levels: int
) -> Tensor:
    """The derivative of a spike train along a direction, [L, N, ...], with the slopes of :func:`train_gradient`."""
    dtype = accumulation_dtype(x_seq.dtype)
    z, by = x_seq.mean(0, dtype=dtype), broadcastable(threshold, x_seq, 2)
    u = shifted(z, divisor_of(by, levels), levels)
    inside = torch.ops.aten.hardtanh_backward(torch.ones_like(u), u, 0.5, levels + 0.5) / by
    along = tangent_x.mean(0, dtype=dtype) - z / by * broadcastable(tangent_threshold, x_seq, 2)
    return (inside * along).to(x_seq.dtype).expand(levels, *z.shape)


def train_gradient(grad: Tensor, x_seq: Tensor, threshold: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Gradients of a spike train, of which λ times the mean is QCFS of the mean current.

    Each spike counts as ``clip(z/λ, 0, 1)``: ∂s_t/∂z = 1/λ and ∂s_t/∂λ = −z/λ² for 0 < z/λ < 1, whatever t.

    Args:
        grad: with respect to the spikes, [L, N, ...].
        x_seq: currents, [T1, N, ...].
        threshold: λ, scalar or [C].
        levels: L.

    Returns:
        Gradients with respect to ``x_seq`` and ``threshold``, in their shapes and dtypes.
    """
    dtype = accumulation_dtype(x_seq.dtype)
    z = x_seq.mean(0, dtype=dtype)
    by = broadcastable(threshold, x_seq, 2)
    u = shifted(z, divisor_of(by, levels), levels)
    inside = torch.ops.aten.hardtanh_backward(grad.sum(0, dtype=dtype), u, 0.5, levels + 0.5) / by
    grad_threshold = -(inside * z / by).sum_to_size(by.shape)
    window = x_seq.shape[0]
    grad_x = (inside / window).to(x_seq.dtype).expand_as(x_seq)
    return grad_x, grad_threshold.reshape(threshold.shape).to(threshold.dtype)
