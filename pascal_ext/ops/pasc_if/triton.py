"""PASC-IF as one fused Triton kernel: T1 steps are read once, and L steps, or a count, written once."""

from __future__ import annotations

import functools
import os
from typing import Any

import torch
from torch import Tensor

from pascal_ext.ops.pasc_if.layout import dense_steps, divisor
from pascal_ext.ops.pasc_if.selection import Backend, installed
from pascal_ext.ops.pasc_if.vectorised import empty_train

BLOCK = 1024


def _spikes(x_seq: Tensor, threshold: Tensor, levels: int) -> Tensor:
    x_seq = dense_steps(x_seq)
    return _launch(x_seq, threshold, levels, empty_train(x_seq, levels), counts=False)


def _counts(x_seq: Tensor, threshold: Tensor, levels: int) -> Tensor:
    x_seq = dense_steps(x_seq)
    return _launch(x_seq, threshold, levels, torch.empty_like(x_seq[0], dtype=torch.int32), counts=True)


def _launch(x_seq: Tensor, threshold: Tensor, levels: int, out: Tensor, counts: bool) -> Tensor:
    by = divisor(threshold, x_seq, levels)
    neurons = x_seq[0].numel()
    if neurons:
        _kernel()[(-(-neurons // BLOCK),)](
            x_seq, by.value, out, neurons, by.channels, by.inner, x_seq.stride(0),
            window=x_seq.shape[0], levels=levels, powers_of_two=by.powers_of_two, per_channel=by.channels > 1,
            counts=counts, block=BLOCK,
        )  # fmt: skip
    return out


@functools.cache
def _kernel() -> Any:
    from pascal_ext.ops.pasc_if.triton_kernel import pasc_if_kernel

    return pasc_if_kernel


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _refuses(x_seq: Tensor) -> str:
    if x_seq.device.type == "cuda" or _interpreted():
        return ""
    return "Triton needs a CUDA device (TRITON_INTERPRET=1 interprets the kernel on a CPU)"


TRITON = Backend(
    _spikes, _counts, missing=lambda: installed("triton", "pip install 'pascal-ext[triton]'"), refuses=_refuses
)
