"""The Triton kernels. Importing them imports Triton, so :mod:`pascal_ext.ops.pasc_if.triton` does it when needed.

They spell their types out, and every operation in the order of :func:`pascal_ext.ops.pasc_if.closed_form.closed_form`.
In all of them, ``neurons`` is the size of a step, and its neuron i belongs to channel ``i // inner % channels``; both
are constants, so that a compiler can do without divisions. ``wide`` says that 32 bits are not enough to index with.
"""

# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl


@triton.jit
def pasc_if_kernel(
    x_ptr, threshold_ptr, largest_ptr, reference_ptr, out_ptr, ties_ptr, neurons, step_stride, margin, widest,
    channels: tl.constexpr, inner: tl.constexpr, window: tl.constexpr, levels: tl.constexpr,
    powers_of_two: tl.constexpr, counts: tl.constexpr, settles: tl.constexpr, wide: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """One program for ``block`` neurons: read their currents once, write their train, or their count, once.

    With ``settles``, ``reference_ptr`` holds the counts that decide ties, and how many were is added to ``ties_ptr``;
    ``largest_ptr`` holds the largest threshold; see :func:`pascal_ext.ops.pasc_if.ties.margin` for the other two.
    """
    index = _index(wide, block)
    inside = index < neurons
    dtype: tl.constexpr = threshold_ptr.dtype.element_ty
    total = tl.load(x_ptr + index, mask=inside, other=0.0).to(dtype)
    for time in tl.static_range(1, window):
        total += tl.load(x_ptr + time * step_stride + index, mask=inside, other=0.0).to(dtype)
    threshold = _threshold(threshold_ptr, index, inside, channels, inner, block)
    u = _shifted(total, threshold, window, levels, powers_of_two, block)
    if settles:
        reference = tl.load(reference_ptr + index, mask=inside, other=0).to(tl.int32)
        largest = tl.abs(tl.load(largest_ptr))
        within = tl.minimum(largest / tl.abs(threshold) * margin, widest)  # as ties.margins
        settled, changed = _settle(u, reference, levels, within)
        ties = tl.sum((changed & inside).to(tl.int64))
        tl.atomic_add(ties_ptr, ties, mask=ties > 0)
        for time in tl.static_range(levels):
            spike = tl.where(u == u, tl.where(settled > time, 1.0, 0.0), u).to(out_ptr.dtype.element_ty)  # NaN stays
            tl.store(out_ptr + _offset(time, neurons, wide) + index, spike, mask=inside)
    elif counts:
        tl.store(out_ptr + index, _count(u, levels).to(out_ptr.dtype.element_ty), mask=inside)
    else:
        for time in tl.static_range(levels):
            spike = tl.where(u >= time + 1, 1.0, 0.0).to(out_ptr.dtype.element_ty)
            tl.store(out_ptr + _offset(time, neurons, wide) + index, spike, mask=inside)


@triton.jit
def qcfs_kernel(
    z_ptr, threshold_ptr, out_ptr, counts_ptr, neurons,
    channels: tl.constexpr, inner: tl.constexpr, levels: tl.constexpr, powers_of_two: tl.constexpr,
    counts: tl.constexpr, wide: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """The activation λ/L · k of pre-activations, where they may lie themselves, and with ``counts`` the k, too."""
    index = _index(wide, block)
    inside = index < neurons
    dtype: tl.constexpr = threshold_ptr.dtype.element_ty
    z = tl.load(z_ptr + index, mask=inside, other=0.0).to(dtype)
    threshold = _threshold(threshold_ptr, index, inside, channels, inner, block)
    count = _count(_shifted(z, threshold, 1, levels, powers_of_two, block), levels)
    activation = tl.where(z == z, count * _divide(threshold, tl.full((block,), levels, dtype)), z)  # NaN stays NaN
    tl.store(out_ptr + index, activation.to(out_ptr.dtype.element_ty), mask=inside)
    if counts:
        tl.store(counts_ptr + index, count.to(counts_ptr.dtype.element_ty), mask=inside)


@triton.jit
def qcfs_gradient_kernel(
    grad_ptr, z_ptr, threshold_ptr, out_ptr, slope_ptr, neurons,
    channels: tl.constexpr, inner: tl.constexpr, levels: tl.constexpr, powers_of_two: tl.constexpr,
    slopes: tl.constexpr, wide: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """What :func:`pascal_ext.ops.pasc_if.gradient.activation_gradient` says; λ's gradient element by element."""
    index = _index(wide, block)
    inside = index < neurons
    dtype: tl.constexpr = threshold_ptr.dtype.element_ty
    grad = tl.load(grad_ptr + index, mask=inside, other=0.0).to(dtype)
    z = tl.load(z_ptr + index, mask=inside, other=0.0).to(dtype)
    threshold = _threshold(threshold_ptr, index, inside, channels, inner, block)
    u = _shifted(z, threshold, 1, levels, powers_of_two, block)
    passed = tl.where((u <= 0.5) | (u >= levels + 0.5), 0.0, grad)
    tl.store(out_ptr + index, passed.to(out_ptr.dtype.element_ty), mask=inside)
    if slopes:
        slope = _count(u, levels) * grad * (1 / levels) - passed * _divide(z, threshold)
        tl.store(slope_ptr + index, slope.to(slope_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _index(wide: tl.constexpr, block: tl.constexpr):
    start = tl.program_id(0)
    if wide:
        start = start.to(tl.int64)
    return start * block + tl.arange(0, block)


@triton.jit
def _offset(time: tl.constexpr, neurons, wide: tl.constexpr):
    if wide:
        return neurons.to(tl.int64) * time
    return neurons * time


@triton.jit
def _threshold(threshold_ptr, index, inside, channels: tl.constexpr, inner: tl.constexpr, block: tl.constexpr):
    if channels > 1:
        return tl.load(threshold_ptr + index // inner % channels, mask=inside, other=1.0)
    return tl.broadcast_to(tl.load(threshold_ptr), (block,))


@triton.jit
def _shifted(
    total, threshold, window: tl.constexpr, levels: tl.constexpr, powers_of_two: tl.constexpr, block: tl.constexpr
):
    """``z·L/λ + 1/2``; where T1 and L are powers of two, λ·T1/L is exact."""
    if powers_of_two:
        return _divide(total, threshold * (window / levels)) + 0.5
    if window > 1:
        total = _divide(total, tl.full((block,), window, total.dtype))
    return _divide(total * levels, threshold) + 0.5


@triton.jit
def _count(u, levels: tl.constexpr):
    """The comparison takes NaN to 0."""
    return tl.minimum(tl.where(u >= 1, tl.floor(u), 0.0), levels)


@triton.jit
def _settle(u, reference, levels: tl.constexpr, within):
    """Counts and whether ``reference`` has changed them; see :func:`pascal_ext.ops.pasc_if.ties.settle`."""
    count = _count(u, levels).to(tl.int32)
    not_below = (reference == 0) | (u >= reference - within)
    not_above = (reference == levels) | (u <= reference + (1 + within))
    takes = not_below & not_above
    return tl.where(takes, reference, count), takes & (reference != count)


@triton.jit
def _divide(a, b):
    """Correctly rounded, which ``/`` on float32 is not."""
    return tl.div_rn(a, b) if a.dtype == tl.float32 else a / b
