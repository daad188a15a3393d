"""Rounding ties: neurons so close to a floor boundary that the precision cannot tell on which side they are.

A simulated current and the pre-activation of the ANN are the same number, rounded differently: a sum of n products,
summed in another order, or with the threshold multiplied into the weights first, differs by about ``√n · ε ·
max|partial sum|``. Partial sums are of the size of what the layer's channels put out, so of the largest of their
thresholds, and n is some thousands. The counts k of a pass in the ANN's own arithmetic therefore take the place of
those of a simulated u = z·L/λ + 1/2 that is as near to them as

    k − m  <=  u  <=  k + 1 + m,    m = TIE · ε · L · max|λ|/|λ|

(with no lower bound at k = 0, and no upper one at k = L), where TIE = 512, ε is that of the currents' dtype, and the
maximum goes over the layer's channels: 5e-4 of a level in float32 at L = 8 where λ is the largest. In a channel that is
nearly dead λ is small and the sums are not, so there m is larger. Single layers with random weights were up to
97 · ε · max|λ| from float64 (VGG-16), trained ones up to 10.

In float32 about one neuron in a million falls on the other side of its boundary than in the ANN, and in a deep network
one flipped spike flips others.

Where torch may round the factors of float32 products to TF32, as convolutions on CUDA by default, λ/L · k and the
spikes that stand for it are rounded apart before anything is added up: TF32_TIE = 128, of TF32's ε = 2⁻¹¹. Far more
neurons then fall on the other side than in float32.

A count further away stands as simulated. In TF32 and half precisions, which know the currents to about a level only, m
is 1/2 at most: the ANN's rounding then decides between neighbouring levels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# Whole numbers: torch.compile(dynamic=True) takes the floats of a module for inputs, and then fails with gradients.
TIE, TF32_TIE = 512, 128
TF32_BITS = 11  # of TF32's ε = 2⁻¹¹
COARSE_BITS = 13  # a dtype of an ε above 2⁻¹³ knows currents to about a level only


class Reference(NamedTuple):
    """What a pass in the ANN's own arithmetic says of a layer.

    Attributes:
        counts: the spikes of each neuron, [N, ...], of an integer dtype that holds L.
        dtype: that of the layer's currents, and so of its spikes.
        has_nan: whether a current was found to be NaN, which counts cannot hold.
    """

    counts: Tensor
    dtype: torch.dtype
    has_nan: bool = False


def margin(levels: int, dtype: torch.dtype, device: str) -> tuple[float, float]:
    """m in levels, where λ is the largest; and the largest m in other channels.

    Args:
        levels: L.
        dtype: of the currents.
        device: its type.
    """
    epsilon = epsilon_of(dtype, device)
    tie = TF32_TIE if epsilon == 2.0**-TF32_BITS else TIE
    widest = 0.5 if epsilon > 2.0**-COARSE_BITS else math.inf
    return min(tie * epsilon * levels, widest), widest


def margins(threshold: Tensor, levels: int, dtype: torch.dtype, largest: Tensor | None = None) -> Tensor:
    """m in levels; in the shape of λ, one value or one for each channel.

    Args:
        threshold: λ, of all channels or of some.
        levels: L.
        dtype: of the currents.
        largest: max|λ|, where ``threshold`` does not hold it.
    """
    size, (least, widest) = threshold.abs(), margin(levels, dtype, threshold.device.type)
    return ((size.max() if largest is None else largest) / size * least).clamp(max=widest)


def epsilon_of(dtype: torch.dtype, device: str) -> float:
    """ε of products in ``dtype`` on a device of this type: TF32's where torch may round their factors so."""
    if dtype == torch.float32 and device == "cuda" and _allows_tf32():
        return 2.0**-TF32_BITS
    return torch.finfo(dtype).eps


def _allows_tf32() -> bool:
    """Whether convolutions or matrix products on CUDA may round their float32 factors to TF32."""
    if torch.compiler.is_compiling():
        return True  # they cannot trace the question, and reorder sums as they like
    backends = torch.backends
    if hasattr(backends.cudnn, "conv"):  # torch 2.9 and newer
        return "tf32" in (backends.cudnn.conv.fp32_precision, backends.cuda.matmul.fp32_precision)
    return bool(backends.cudnn.allow_tf32 or backends.cuda.matmul.allow_tf32)


def agrees(u: Tensor, levels: int, reference: Tensor) -> bool:
    """Whether ``clip(⌊u⌋, 0, L)`` is ``reference`` everywhere. Not of NaN."""
    if not u.numel():
        return True
    rest = u.clamp(0, levels).sub_(reference)  # exact: the two are near to each other, or far from agreeing
    least, most = rest.aminmax()
    return least.item() >= 0 and most.item() < 1


def settle(u: Tensor, levels: int, reference: Tensor, within: Tensor) -> tuple[Tensor, Tensor]:
    """Counts ``clip(⌊u⌋, 0, L)``, but for those that ``reference`` may decide.

    Args:
        u: ``z·L/λ + 1/2`` as simulated, [N, ...].
        levels: L.
        reference: counts from a pass in the ANN's own arithmetic, [N, ...], of any integer dtype that holds L.
        within: what :func:`margins` says, broadcastable against ``u``.

    Returns:
        Counts in the dtype of ``reference``, and how many of them it has changed.
    """
    counts = u.floor().clamp_(0, levels).to(reference.dtype)
    not_below = (reference == 0) | (u >= reference - within)
    not_above = (reference == levels) | (u <= reference + (1 + within))
    settled = torch.where(not_below & not_above, reference, counts)
    return settled, (settled != counts).sum()
