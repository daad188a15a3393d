"""The closed form with its straight-through gradient, written so that compilers, ``torch.export`` and ``torch.func``
look into it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pascal_ext.observers import has_tangents, is_jit_tracing
from pascal_ext.ops.pasc_if.gradient import activation_gradient, activation_tangent, train_gradient, train_tangent
from pascal_ext.ops.pasc_if.qcfs import quantised_activation
from pascal_ext.ops.pasc_if.vectorised import pasc_if_settled, pasc_if_vectorised


class _Activation(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, threshold: Tensor, levels: int) -> Tensor:
        return quantised_activation(z, threshold, levels)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _remember(ctx, inputs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        z, threshold = ctx.saved_tensors
        return *activation_gradient(grad_outputs[0], z, threshold, ctx.levels, ctx.needs_input_grad[1]), None


class _Train(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x_seq: Tensor, threshold: Tensor, levels: int, reference: Tensor | None) -> Any:
        if reference is None:
            return pasc_if_vectorised(x_seq, threshold, levels)
        return pasc_if_settled(x_seq, threshold, levels, reference)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _remember(ctx, inputs)
        ctx.settles = isinstance(output, tuple)
        if ctx.settles:
            ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x_seq, threshold = ctx.saved_tensors
        return *train_gradient(grad_outputs[0], x_seq, threshold, ctx.levels), None, None


class _ActivationTangent(_Activation):
    """Apart, since compilers take no function that has a ``jvp``."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        z, threshold = ctx.saved_tensors
        return activation_tangent(tangents[0], tangents[1], z, threshold, ctx.levels)


class _TrainTangent(_Train):
    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        x_seq, threshold = ctx.saved_tensors
        found = train_tangent(tangents[0], tangents[1], x_seq, threshold, ctx.levels)
        return (found, None) if ctx.settles else found


def _remember(ctx: Any, inputs: tuple[Any, ...]) -> None:
    """Keep what derivatives are made of, where some are wanted."""
    if any(ctx.needs_input_grad):
        ctx.save_for_backward(*inputs[:2])
    if has_tangents():
        ctx.save_for_forward(*inputs[:2])
    ctx.levels = inputs[2]


def qcfs_activation(z: Tensor, threshold: Tensor, levels: int, *, in_place: bool = False) -> Tensor:
    """``λ/L · k`` of pre-activations, [N, ...] or [N, C, ...]; differentiable, see :class:`pascal_ext.QCFS`.

    Args:
        z: pre-activations.
        threshold: λ, scalar or [C].
        levels: L.
        in_place: whether the result may take the place of ``z``; it does where no gradient is recorded.
    """
    is_recorded = torch.is_grad_enabled() and (z.requires_grad or threshold.requires_grad)
    if has_tangents() or (is_recorded and not is_jit_tracing()):  # TorchScript has no place for such a function
        function = _ActivationTangent if has_tangents() else _Activation
        found: Tensor = function.apply(z, threshold, levels)
        return found
    return quantised_activation(z, threshold, levels, in_place=in_place)


def traceable_train(x_seq: Tensor, threshold: Tensor, levels: int, reference: Tensor | None = None) -> Any:
    """What the operators ``pasc_if`` and, with a reference, ``pasc_if_settled`` return, in torch's own operations."""
    function = _TrainTangent if has_tangents() else _Train
    return function.apply(x_seq, threshold, levels, reference)
