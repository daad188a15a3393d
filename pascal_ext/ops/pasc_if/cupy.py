"""PASC-IF as a CuPy kernel, for those who have CuPy and no Triton."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from pascal_ext.ops.pasc_if.layout import dense_steps, divisor
from pascal_ext.ops.pasc_if.selection import Backend, installed
from pascal_ext.ops.pasc_if.vectorised import empty_train

THREADS = 256
VECTOR = 16  # bytes, the most that a thread can load at once

# One thread for V neurons that lie side by side. The operations and their order are those of closed_form.closed_form;
# the intrinsics keep a compiler from contracting or approximating them. T: type of currents and spikes, A: of sums and
# thresholds.
SOURCE = r"""
__device__ inline float divide(float a, float b) { return __fdiv_rn(a, b); }
__device__ inline double divide(double a, double b) { return __ddiv_rn(a, b); }

template <typename T, int V>
struct alignas(sizeof(T) * V < 16 ? sizeof(T) * V : 16) Pack { T item[V]; };

template <typename T, typename A, int V>
__device__ inline void shifted(A (&u)[V], const T* x, const A* threshold, long long i, long long channels,
                               long long inner, long long step_stride, int window, int levels, int powers_of_two) {
    for (int time = 0; time < window; ++time) {
        Pack<T, V> currents = *reinterpret_cast<const Pack<T, V>*>(x + time * step_stride + i);
        #pragma unroll
        for (int n = 0; n < V; ++n)
            u[n] = time ? u[n] + static_cast<A>(currents.item[n]) : static_cast<A>(currents.item[n]);
    }
    A by = threshold[channels > 1 ? i / inner % channels : 0];
    #pragma unroll
    for (int n = 0; n < V; ++n) {
        if (channels > 1 && inner % V) by = threshold[(i + n) / inner % channels];
        if (powers_of_two) {
            u[n] = divide(u[n], by * (static_cast<A>(window) / static_cast<A>(levels)));
        } else {
            u[n] = divide(divide(u[n], static_cast<A>(window)) * static_cast<A>(levels), by);
        }
        u[n] += static_cast<A>(0.5);
    }
}

template <typename T, typename A, int V>
__global__ void pasc_if_spikes(const T* x, const A* threshold, T* out, long long neurons, long long channels,
                               long long inner, long long step_stride, int window, int levels, int powers_of_two) {
    long long i = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * V;
    if (i >= neurons) return;
    A u[V];
    shifted<T, A, V>(u, x, threshold, i, channels, inner, step_stride, window, levels, powers_of_two);
    for (int time = 0; time < levels; ++time) {
        Pack<T, V> spikes;
        #pragma unroll
        for (int n = 0; n < V; ++n)
            spikes.item[n] = static_cast<T>(u[n] >= static_cast<A>(time + 1) ? 1.0f : 0.0f);
        *reinterpret_cast<Pack<T, V>*>(out + time * neurons + i) = spikes;
    }
}

template <typename T, typename A, int V>
__global__ void pasc_if_counts(const T* x, const A* threshold, int* out, long long neurons, long long channels,
                               long long inner, long long step_stride, int window, int levels, int powers_of_two) {
    long long i = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * V;
    if (i >= neurons) return;
    A u[V];
    shifted<T, A, V>(u, x, threshold, i, channels, inner, step_stride, window, levels, powers_of_two);
    Pack<int, V> counts;
    #pragma unroll
    for (int n = 0; n < V; ++n)
        counts.item[n] = u[n] >= static_cast<A>(levels) ? levels
                         : u[n] >= static_cast<A>(1)    ? static_cast<int>(u[n]) : 0;
    *reinterpret_cast<Pack<int, V>*>(out + i) = counts;
}
"""

# torch dtype of the currents -> T, A
TYPES = {
    torch.float32: ("float", "float"),
    torch.float64: ("double", "double"),
    torch.float16: ("__half", "float"),
    torch.bfloat16: ("__nv_bfloat16", "float"),
}
HEADERS = "#include <cuda_fp16.h>\n#include <cuda_bf16.h>\n"


def _spikes(x_seq: Tensor, threshold: Tensor, levels: int) -> Tensor:
    x_seq = dense_steps(x_seq)
    return _launch("pasc_if_spikes", x_seq, threshold, levels, empty_train(x_seq, levels))


def _counts(x_seq: Tensor, threshold: Tensor, levels: int) -> Tensor:
    x_seq = dense_steps(x_seq)
    return _launch("pasc_if_counts", x_seq, threshold, levels, torch.empty_like(x_seq[0], dtype=torch.int32))


def arguments(x_seq: Tensor, threshold: Tensor, levels: int) -> tuple[Tensor, tuple[int, ...], tuple[int, ...]]:
    """What a kernel gets besides the currents and its output: thresholds, then 64-bit, then 32-bit numbers."""
    window, step = x_seq.shape[0], x_seq[0]
    by = divisor(threshold, step, levels, window)
    return by.value, (step.numel(), by.channels, by.inner, x_seq.stride(0)), (window, levels, int(by.powers_of_two))


def _launch(name: str, x_seq: Tensor, threshold: Tensor, levels: int, out: Tensor) -> Tensor:
    import cupy
    import numpy as np

    value, sizes, settings = arguments(x_seq, threshold, levels)
    if not sizes[0]:
        return out
    width, device = vector_width(x_seq, out), x_seq.device.index
    pointers = x_seq.data_ptr(), value.data_ptr(), out.data_ptr()
    numbers = (*pointers, *sizes, *map(np.int32, settings))  # CuPy passes an int as 64 bits
    with cupy.cuda.Device(device), cupy.cuda.ExternalStream(torch.cuda.current_stream(device).cuda_stream):
        kernel = _kernel(name, x_seq.dtype, width, device)
        kernel((-(-sizes[0] // (THREADS * width)),), (THREADS,), numbers)
    return out


def vector_width(x_seq: Tensor, out: Tensor) -> int:
    """How many neurons a thread takes: as many as one load brings, where all steps begin where such a load may."""
    neurons = x_seq.numel() // x_seq.shape[0]
    strides = (x_seq.stride(0) * x_seq.itemsize * (x_seq.shape[0] > 1), neurons * x_seq.itemsize)
    begins = (x_seq.data_ptr(), out.data_ptr(), *strides)
    return VECTOR // x_seq.itemsize if all(begin % VECTOR == 0 for begin in begins) else 1


def expression(name: str, dtype: torch.dtype, width: int) -> str:
    """The instance of the kernel template ``name`` for currents of ``dtype``, and as many neurons a thread."""
    return f"{name}<{', '.join(TYPES[dtype])}, {width}>"


@functools.cache
def _kernel(name: str, dtype: torch.dtype, width: int, device: int) -> Any:
    """The instance of the template ``name``, for the device of that index, which is the current one."""
    import cupy

    instance = expression(name, dtype, width)
    module = cupy.RawModule(code=HEADERS + SOURCE, options=("--std=c++14",), name_expressions=[instance])
    return module.get_function(instance)


def _refuses(x_seq: Tensor) -> str:
    return "" if x_seq.device.type == "cuda" else "CuPy needs a CUDA device"


CUPY = Backend(
    _spikes,
    _counts,
    missing=lambda: installed("cupy", "pip install 'pascal-ext[cupy12x]' (or cupy13x)"),
    refuses=_refuses,
)
