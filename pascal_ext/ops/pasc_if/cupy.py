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

# One thread for each neuron. The operations and their order are those of closed_form.closed_form; the intrinsics keep a
# compiler from contracting or approximating them. T: type of currents and spikes, A: of sums and thresholds.
SOURCE = r"""
__device__ inline float divide(float a, float b) { return __fdiv_rn(a, b); }
__device__ inline double divide(double a, double b) { return __ddiv_rn(a, b); }

template <typename T, typename A>
__device__ inline A shifted(const T* x, const A* threshold, long long i, long long channels, long long inner,
                            long long step_stride, int window, int levels, int powers_of_two) {
    A total = static_cast<A>(x[i]);
    for (int time = 1; time < window; ++time) total += static_cast<A>(x[time * step_stride + i]);
    A by = threshold[channels > 1 ? i / inner % channels : 0];
    if (powers_of_two) by *= static_cast<A>(window) / static_cast<A>(levels);
    else total = divide(total, static_cast<A>(window)) * static_cast<A>(levels);
    return divide(total, by) + static_cast<A>(0.5);
}

template <typename T, typename A>
__global__ void pasc_if_spikes(const T* x, const A* threshold, T* out, long long neurons, long long channels,
                               long long inner, long long step_stride, int window, int levels, int powers_of_two) {
    long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= neurons) return;
    A u = shifted(x, threshold, i, channels, inner, step_stride, window, levels, powers_of_two);
    for (int time = 0; time < levels; ++time)
        out[time * neurons + i] = static_cast<T>(u >= static_cast<A>(time + 1) ? 1.0f : 0.0f);
}

template <typename T, typename A>
__global__ void pasc_if_counts(const T* x, const A* threshold, int* out, long long neurons, long long channels,
                               long long inner, long long step_stride, int window, int levels, int powers_of_two) {
    long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= neurons) return;
    A u = shifted(x, threshold, i, channels, inner, step_stride, window, levels, powers_of_two);
    out[i] = u >= static_cast<A>(levels) ? levels : u >= static_cast<A>(1) ? static_cast<int>(u) : 0;
}
"""

# torch dtype of the currents -> T, A
TYPES = {
    torch.float32: ("float", "float"),
    torch.float64: ("double", "double"),
    torch.float16: ("__half", "float"),
    torch.bfloat16: ("__nv_bfloat16", "float"),
}
KERNELS = ("pasc_if_spikes", "pasc_if_counts")
HEADERS = "#include <cuda_fp16.h>\n#include <cuda_bf16.h>\n"


def _spikes(x_seq: Tensor, threshold: Tensor, levels: int) -> Tensor:
    x_seq = dense_steps(x_seq)
    return _launch("pasc_if_spikes", x_seq, threshold, levels, empty_train(x_seq, levels))


def _counts(x_seq: Tensor, threshold: Tensor, levels: int) -> Tensor:
    x_seq = dense_steps(x_seq)
    return _launch("pasc_if_counts", x_seq, threshold, levels, torch.empty_like(x_seq[0], dtype=torch.int32))


def arguments(x_seq: Tensor, threshold: Tensor, levels: int) -> tuple[Tensor, tuple[int, ...], tuple[int, ...]]:
    """What a kernel gets besides the currents and its output: thresholds, then 64-bit, then 32-bit numbers."""
    by = divisor(threshold, x_seq, levels)
    sizes = (x_seq[0].numel(), by.channels, by.inner, x_seq.stride(0))
    return by.value, sizes, (x_seq.shape[0], levels, int(by.powers_of_two))


def _launch(name: str, x_seq: Tensor, threshold: Tensor, levels: int, out: Tensor) -> Tensor:
    import cupy
    import numpy as np

    value, sizes, settings = arguments(x_seq, threshold, levels)
    if not sizes[0]:
        return out
    pointers = (np.uint64(tensor.data_ptr()) for tensor in (x_seq, value, out))
    numbers = (*pointers, *map(np.int64, sizes), *map(np.int32, settings))
    stream = torch.cuda.current_stream(x_seq.device).cuda_stream
    with cupy.cuda.Device(x_seq.device.index), cupy.cuda.ExternalStream(stream):
        kernel = _module().get_function(_expression(name, x_seq.dtype))
        kernel((-(-sizes[0] // THREADS),), (THREADS,), numbers)
    return out


def _expression(name: str, dtype: torch.dtype) -> str:
    return f"{name}<{', '.join(TYPES[dtype])}>"


@functools.cache
def _module() -> Any:
    import cupy

    names = [_expression(name, dtype) for name in KERNELS for dtype in TYPES]
    return cupy.RawModule(code=HEADERS + SOURCE, options=("--std=c++14",), name_expressions=names)


def _refuses(x_seq: Tensor) -> str:
    return "" if x_seq.device.type == "cuda" else "CuPy needs a CUDA device"


CUPY = Backend(
    _spikes,
    _counts,
    missing=lambda: installed("cupy", "pip install 'pascal-ext[cupy12x]' (or cupy13x)"),
    refuses=_refuses,
)
