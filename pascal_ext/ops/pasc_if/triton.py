"""PASC-IF and QCFS as fused Triton kernels: what a layer has to read is read once, what it writes is written once."""

from __future__ import annotations

import functools
import os
from typing import Any

import torch
from torch import Tensor

from pascal_ext.ops.pasc_if.layout import dense_steps, divisor
from pascal_ext.ops.pasc_if.selection import Backend, installed
from pascal_ext.ops.pasc_if.ties import margin
from pascal_ext.ops.pasc_if.vectorised import empty_train

BLOCK = 1024
INDEXABLE = 2**31 - BLOCK  # elements that 32 bits can index


def _spikes(x_seq: Tensor, threshold: Tensor, levels: int) -> Tensor:
    x_seq = dense_steps(x_seq)
    return _launch(x_seq, threshold, levels, empty_train(x_seq, levels))


def _counts(x_seq: Tensor, threshold: Tensor, levels: int) -> Tensor:
    x_seq = dense_steps(x_seq)
    return _launch(x_seq, threshold, levels, torch.empty_like(x_seq[0], dtype=torch.int32), counts=True)


def _settled(x_seq: Tensor, threshold: Tensor, levels: int, reference: Tensor) -> tuple[Tensor, Tensor]:
    x_seq = dense_steps(x_seq)
    if reference.stride() != x_seq[0].stride():
        reference = torch.empty_like(x_seq[0], dtype=reference.dtype).copy_(reference)
    ties = torch.zeros((), dtype=torch.int64, device=x_seq.device)
    return _launch(x_seq, threshold, levels, empty_train(x_seq, levels), reference=reference, ties=ties), ties


def _launch(
    x_seq: Tensor,
    threshold: Tensor,
    levels: int,
    out: Tensor,
    *,
    counts: bool = False,
    reference: Tensor | None = None,
    ties: Tensor | None = None,
) -> Tensor:
    window, step = x_seq.shape[0], x_seq[0]
    by, neurons, step_stride = divisor(threshold, step, levels, window), step.numel(), x_seq.stride(0)
    largest = by.value if reference is None or by.channels == 1 else torch.linalg.vector_norm(by.value, torch.inf)
    if neurons:
        with torch.cuda.device_of(x_seq):
            _kernels().pasc_if_kernel[(-(-neurons // BLOCK),)](
                x_seq, by.value, largest, reference, out, ties, neurons, step_stride,
                *margin(levels, x_seq.dtype, x_seq.device.type),
                channels=by.channels, inner=by.inner, window=window, levels=levels, powers_of_two=by.powers_of_two,
                counts=counts, settles=reference is not None,
                wide=max(neurons * levels, step_stride * window) > INDEXABLE, block=BLOCK,
            )  # fmt: skip
    return out


def _activation(z: Tensor, threshold: Tensor, levels: int, out: Tensor, counts: Tensor | None) -> None:
    by = divisor(threshold, z, levels)
    neurons = z.numel()
    if neurons:
        with torch.cuda.device_of(z):
            _kernels().qcfs_kernel[(-(-neurons // BLOCK),)](
                z, by.value, out, counts, neurons,
                channels=by.channels, inner=by.inner, levels=levels, powers_of_two=by.powers_of_two,
                counts=counts is not None, wide=neurons > INDEXABLE, block=BLOCK,
            )  # fmt: skip


def _gradient(grad: Tensor, z: Tensor, threshold: Tensor, levels: int, out: Tensor, slopes: Tensor | None) -> None:
    by = divisor(threshold, z, levels)
    neurons = z.numel()
    if neurons:
        with torch.cuda.device_of(z):
            _kernels().qcfs_gradient_kernel[(-(-neurons // BLOCK),)](
                grad, z, by.value, out, slopes, neurons,
                channels=by.channels, inner=by.inner, levels=levels, powers_of_two=by.powers_of_two,
                slopes=slopes is not None, wide=neurons > INDEXABLE, block=BLOCK,
            )  # fmt: skip


@functools.cache
def _kernels() -> Any:
    from pascal_ext.ops.pasc_if import triton_kernel

    return triton_kernel


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _refuses(x_seq: Tensor) -> str:
    if x_seq.device.type == "cuda" or _interpreted():
        return ""
    return "Triton needs a CUDA device (TRITON_INTERPRET=1 interprets the kernel on a CPU)"


TRITON = Backend(
    _spikes,
    _counts,
    missing=lambda: installed("triton", "pip install 'pascal-ext[triton]'"),
    refuses=_refuses,
    settled=_settled,
    activation=_activation,
    gradient=_gradient,
)
