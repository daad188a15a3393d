"""Rounding ties: neurons so close to a floor boundary that the precision cannot tell on which side they are.

A simulated current and the pre-activation of the ANN are the same number, rounded differently: a sum of n products,
summed in another order, or with the threshold multiplied into the weights first, differs by about ``√n · ε ·
max|partial sum|``. In units of the firing threshold λ/L, partial sums reach a few times L, and n some thousands; so a
tie is

    |u − b|  <=  min(TIE · ε · L, 1/2),    u = z·L/λ + 1/2,    b the nearest boundary between two levels

with TIE = 64 and ε of the currents' dtype: 6e-5 of a level in float32 at L = 8. In float32 about one neuron in a
million falls on the other side of its boundary than in the ANN, and in a deep network one flipped spike flips others.

Where torch may round the factors of float32 products to TF32, as convolutions on CUDA by default, λ/L · k and the
spikes that stand for it are rounded apart before anything is added up, and ε is TF32's 2⁻¹¹. Far more neurons then fall
on the other side than in float32.

So the counts of a pass in the ANN's own arithmetic settle ties, between the two levels that meet at the boundary, and
nothing else: a count further away stands as simulated. (In half precision the currents themselves are known to about a
level only, and the margin is all there is: the ANN's rounding then decides between neighbouring levels.)
"""

from __future__ import annotations

import torch
from torch import Tensor

TIE = 64.0
TF32_EPSILON = 2.0**-11


def margin(levels: int, dtype: torch.dtype, device: str) -> float:
    """How far from its boundary a tie is, at most, in levels.

    Args:
        levels: L.
        dtype: of the currents.
        device: its type.
    """
    is_tf32 = dtype == torch.float32 and device == "cuda" and _allows_tf32()
    return min(TIE * (TF32_EPSILON if is_tf32 else torch.finfo(dtype).eps) * levels, 0.5)


def _allows_tf32() -> bool:
    """Whether convolutions or matrix products on CUDA may round their float32 factors to TF32."""
    if torch.compiler.is_compiling():
        return True  # they cannot trace the question, and reorder sums as they like
    backends = torch.backends
    if hasattr(backends.cudnn, "conv"):  # torch 2.9 and newer
        return "tf32" in (backends.cudnn.conv.fp32_precision, backends.cuda.matmul.fp32_precision)
    return bool(backends.cudnn.allow_tf32 or backends.cuda.matmul.allow_tf32)


def settle(u: Tensor, levels: int, reference: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Counts ``clip(⌊u⌋, 0, L)``, but for ties, which ``reference`` decides.

    Args:
        u: ``z·L/λ + 1/2`` as simulated, [N, ...].
        levels: L.
        reference: counts from a pass in the ANN's own arithmetic, [N, ...], of any integer dtype that holds L.
        dtype: of the currents; its ε says how wide a tie is.

    Returns:
        Counts in the dtype of ``reference``, and how many of them it has changed.
    """
    counts = u.floor().clamp_(0, levels).to(reference.dtype)
    boundary = u.round()
    tie = (u - boundary).abs() <= margin(levels, dtype, u.device.type)
    meets = (reference >= (boundary - 1).clamp(0, levels)) & (reference <= boundary.clamp(0, levels))
    settled = torch.where(tie & meets, reference, counts)
    return settled, (settled != counts).sum()
