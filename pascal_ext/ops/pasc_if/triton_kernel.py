"""The Triton kernel; importing this module imports Triton, so :mod:`pascal_ext.ops.pasc_if.triton` does it when needed.

It spells its types out, and every operation in the order of :func:`pascal_ext.ops.pasc_if.closed_form.closed_form`.
"""

# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl


@triton.jit
def pasc_if_kernel(
    x_ptr, threshold_ptr, out_ptr, neurons, channels, inner, step_stride,
    window: tl.constexpr, levels: tl.constexpr, powers_of_two: tl.constexpr, per_channel: tl.constexpr,
    counts: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """One program for ``block`` neurons: read their currents once, write their train, or their count, once.

    ``threshold_ptr`` holds λ·T1/L where both are powers of two, else λ. The neuron i of a step belongs to channel
    ``i // inner % channels``.
    """
    index = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = index < neurons
    dtype: tl.constexpr = threshold_ptr.dtype.element_ty
    total = tl.load(x_ptr + index, mask=inside, other=0.0).to(dtype)
    for time in range(1, window):
        total += tl.load(x_ptr + time * step_stride + index, mask=inside, other=0.0).to(dtype)
    if per_channel:
        threshold = tl.load(threshold_ptr + index // inner % channels, mask=inside, other=1.0)
    else:
        threshold = tl.load(threshold_ptr)
    if not powers_of_two:
        total = _divide(total, tl.full((block,), window, dtype)) * levels
    u = _divide(total, tl.broadcast_to(threshold, (block,))) + 0.5
    if counts:
        count = tl.minimum(tl.where(u >= 1, tl.floor(u), 0.0), levels)
        tl.store(out_ptr + index, count.to(out_ptr.dtype.element_ty), mask=inside)
    else:
        for time in range(levels):
            spike = tl.where(u >= time + 1, 1.0, 0.0).to(out_ptr.dtype.element_ty)
            tl.store(out_ptr + tl.cast(time, tl.int64) * neurons + index, spike, mask=inside)


@triton.jit
def _divide(a, b):
    """Correctly rounded, which ``/`` on float32 is not."""
    return tl.div_rn(a, b) if a.dtype == tl.float32 else a / b
