"""The neuron as operators of torch: ``torch.ops.pascal_ext.pasc_if``, ``pasc_if_counts`` and ``pasc_if_settled``.

Their kernels run on any device (the backend decides), their fake kernels give shapes and strides to compilers and to
export, and the spikes have a straight-through gradient, see :mod:`pascal_ext.ops.pasc_if.gradient`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pascal_ext.observers import has_tangents, is_transformed
from pascal_ext.ops.pasc_if import vectorised
from pascal_ext.ops.pasc_if.autograd import traceable_train
from pascal_ext.ops.pasc_if.cupy import CUPY
from pascal_ext.ops.pasc_if.gradient import train_gradient
from pascal_ext.ops.pasc_if.reference import pasc_if_reference
from pascal_ext.ops.pasc_if.selection import Backend, register_backend, select
from pascal_ext.ops.pasc_if.triton import TRITON
from pascal_ext.ops.pasc_if.vectorised import empty_train


def _reference_counts(x_seq: Tensor, threshold: Tensor, levels: int) -> Tensor:
    return pasc_if_reference(x_seq, threshold, levels).sum(0, dtype=torch.int32)


register_backend("torch", Backend(vectorised.pasc_if_vectorised, vectorised.pasc_if_counts))
register_backend("reference", Backend(pasc_if_reference, _reference_counts))
register_backend("triton", TRITON)
register_backend("cupy", CUPY)

_library = torch.library.Library("pascal_ext", "DEF")
_library.define("pasc_if(Tensor x_seq, Tensor v_threshold, int levels, str backend) -> Tensor")
_library.define("pasc_if_counts(Tensor x_seq, Tensor v_threshold, int levels, str backend) -> Tensor")
_library.define("pasc_if_settled(Tensor x_seq, Tensor v_threshold, int levels, Tensor reference) -> (Tensor, Tensor)")


def _as_promised(result: Tensor, like: Callable[..., Tensor], x_seq: Tensor) -> Tensor:
    """``result`` in the strides of the fake kernel's result, which ``like`` makes; it answers ``x_seq``."""
    if result.is_contiguous() and (x_seq.is_contiguous() or x_seq[0].is_contiguous()):
        return result
    expected = like(device="meta")
    if result.stride() == expected.stride():
        return result
    return torch.empty_like(expected, device=result.device).copy_(result)


def _pasc_if(x_seq: Tensor, v_threshold: Tensor, levels: int, backend: str) -> Tensor:
    train = select(backend, x_seq)[1].spikes(x_seq, v_threshold, levels)
    return _as_promised(train, partial(empty_train, x_seq, levels), x_seq)


def _pasc_if_counts(x_seq: Tensor, v_threshold: Tensor, levels: int, backend: str) -> Tensor:
    counts = select(backend, x_seq)[1].counts(x_seq, v_threshold, levels)
    return _as_promised(counts, partial(torch.empty_like, x_seq[0], dtype=torch.int32), x_seq)


def _pasc_if_settled(x_seq: Tensor, v_threshold: Tensor, levels: int, reference: Tensor) -> tuple[Tensor, Tensor]:
    settled = select("auto", x_seq)[1].settled or vectorised.pasc_if_settled
    train, ties = settled(x_seq, v_threshold, levels, reference)
    return _as_promised(train, partial(empty_train, x_seq, levels), x_seq), ties


_library.impl("pasc_if", _pasc_if, "CompositeExplicitAutograd")
_library.impl("pasc_if_counts", _pasc_if_counts, "CompositeExplicitAutograd")
_library.impl("pasc_if_settled", _pasc_if_settled, "CompositeExplicitAutograd")


@torch.library.register_fake("pascal_ext::pasc_if", lib=_library)
def _(x_seq: Tensor, v_threshold: Tensor, levels: int, backend: str) -> Tensor:
    return empty_train(x_seq, levels)


@torch.library.register_fake("pascal_ext::pasc_if_counts", lib=_library)
def _(x_seq: Tensor, v_threshold: Tensor, levels: int, backend: str) -> Tensor:
    return torch.empty_like(x_seq[0], dtype=torch.int32)


@torch.library.register_fake("pascal_ext::pasc_if_settled", lib=_library)
def _(x_seq: Tensor, v_threshold: Tensor, levels: int, reference: Tensor) -> tuple[Tensor, Tensor]:
    return empty_train(x_seq, levels), x_seq.new_empty((), dtype=torch.int64)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.levels = inputs[2]
    if isinstance(output, tuple):
        ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    x_seq, threshold = ctx.saved_tensors
    return *train_gradient(grad, x_seq, threshold, ctx.levels), None, None


for _name in ("pasc_if", "pasc_if_settled"):
    torch.library.register_autograd(f"pascal_ext::{_name}", _backward, setup_context=_setup, lib=_library)


def pasc_if(x_seq: Tensor, v_threshold: Tensor, levels: int, backend: str) -> Tensor:
    """The operator; or the closed form itself where it is what would run, and someone looks inside."""
    if _looks_inside(backend, x_seq):
        train: Tensor = traceable_train(x_seq, v_threshold, levels)
        return train
    result: Tensor = torch.ops.pascal_ext.pasc_if.default(x_seq, v_threshold, levels, backend)
    return result


def pasc_if_counts(x_seq: Tensor, v_threshold: Tensor, levels: int, backend: str) -> Tensor:
    """Likewise, [N, ...] int32."""
    if _looks_inside(backend, x_seq):
        return vectorised.pasc_if_counts(x_seq, v_threshold, levels)
    result: Tensor = torch.ops.pascal_ext.pasc_if_counts.default(x_seq, v_threshold, levels, backend)
    return result


def pasc_if_settled(x_seq: Tensor, v_threshold: Tensor, levels: int, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Likewise: the train, and how many of its counts ``reference`` has settled."""
    settle = traceable_train if _looks_inside("torch", x_seq) else torch.ops.pascal_ext.pasc_if_settled.default
    train, ties = settle(x_seq, v_threshold, levels, reference)
    return train, ties


def _looks_inside(backend: str, x_seq: Tensor) -> bool:
    """Whether to call the closed form itself: compilers fuse it, and transforms know no rule of the operators."""
    if is_transformed() or has_tangents():
        return backend in ("auto", "torch")
    return torch.compiler.is_compiling() and (backend == "torch" or (backend == "auto" and x_seq.device.type == "cpu"))
