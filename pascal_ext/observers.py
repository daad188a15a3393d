"""The modes of a network, and who could notice how it computes: hooks, gradients, modes that see every operation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack


def unobserved(*modules: nn.Module) -> bool:
    """Whether values of ``modules`` may be overwritten: no hook keeps them or is to see them, and no gradient needs
    them.
    """
    return not torch.is_grad_enabled() and not has_hooks(*modules)


def has_hooks(*modules: nn.Module) -> bool:
    """Whether a hook of ``modules``, or of all modules, sees what goes into them, or out of them."""
    return _has_any_global_hook() or any(map(hooks_of, modules))


def hooks_of(module: nn.Module) -> bool:
    """Whether a hook of ``module`` itself sees what goes into it, or out of it, or gradients of these."""
    forward = module._forward_hooks or module._forward_pre_hooks
    return bool(forward or module._backward_hooks or module._backward_pre_hooks)


def makes_weights(hook: Any) -> bool:
    """Whether a hook is torch's own (pruning, the older weight and spectral norm), and sets what ``forward`` reads."""
    return type(hook).__module__.startswith("torch.nn.utils.")


def is_changed(module: nn.Module) -> bool:
    """Whether a hook sees ``module``, or a ``forward`` was put into the object, in the place of its class's."""
    return "forward" in vars(module) or has_hooks(module)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the context ``model`` is in evaluation mode, and its buffers are copies, since some count their calls;
    afterwards every module has the mode and the buffers that it had.
    """
    modules = list(model.modules())
    training = [module for module in modules if module.training]
    buffers = [dict(module._buffers) for module in modules]
    copies: dict[Tensor, Tensor] = {}  # a shared buffer stays shared
    for module in modules:
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = copies.setdefault(buffer, buffer.clone())
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for module, before in zip(modules, buffers, strict=True):
            module._buffers.clear()
            module._buffers.update(before)


def is_watched() -> bool:
    """Whether a dispatch mode (an operation counter, say) sees every operation."""
    return not torch.compiler.is_compiling() and bool(_get_current_dispatch_mode_stack())


def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` (``vmap``, ``grad``) is running, whose tensors stand for others."""
    return not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None


def is_jit_tracing() -> bool:
    """Whether ``torch.jit.trace`` is recording."""
    return not torch.compiler.is_compiling() and bool(torch._C._is_tracing())


def has_tangents() -> bool:
    """Whether tensors may carry tangents, of forward-mode differentiation (``torch.func.jvp``, ``jacfwd``)."""
    return forward_ad._current_level >= 0


def is_symbolic() -> bool:
    """Whether tensors may stand for others: while compiling, in ``torch.jit.trace``, with tangents, and in a transform.
    What is then done in place, or decided by a shape, may be lost, or hold for these tensors alone.
    """
    if torch.compiler.is_compiling() or is_jit_tracing() or has_tangents():
        return True
    return torch._C._functorch.peek_interpreter_stack() is not None
