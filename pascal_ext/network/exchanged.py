"""Calling a layer with other parameters than its own, and keeping those from call to call."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.module import _has_any_global_hook
from torch.nn.utils import parametrize
from torch.optim.optimizer import register_optimizer_step_post_hook

from pascal_ext.observers import is_symbolic

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_kept: weakref.WeakKeyDictionary[nn.Module, _Kept] = weakref.WeakKeyDictionary()


class _Seen(NamedTuple):
    """A tensor as it was.

    Attributes:
        tensor: the object. Its memory, and its place among Python's objects, are another's once it is gone.
        storage: held, so that memory that comes in the place of this one (``half()`` sets the parameters' ``data``, and
            ``float()`` again) has another address.
        state: what tells changes of the object.
    """

    tensor: weakref.ref[Tensor]
    storage: Any
    state: tuple[Any, ...]


class _Kept(NamedTuple):
    tensors: list[_Seen]
    option: Any
    parameters: dict[str, Tensor]


def call_with(layer: nn.Module, parameters: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
    """``layer(*args, **kwargs)`` with ``parameters`` in the place of its own of these names; its hooks run, and get it.

    A twin of the layer has them, since other threads may be in the layer itself. Only for those who hold on to the
    layer, a compiler, hooks of all modules (operation counters) or a ``forward`` that was exchanged, it takes them
    itself for the time of the call: with these, one thread at a time.
    """
    if torch.compiler.is_compiling() or _has_any_global_hook() or "forward" in vars(layer):
        return functional_call(layer, parameters, args, kwargs)
    kind: type[nn.Module] = parametrize.type_before_parametrizations(layer)
    twin = kind.__new__(kind)
    vars(twin).update(vars(layer), **parameters)  # attributes come before what nn.Module keeps under their names
    vars(twin).pop("_compiled_call_impl", None)  # of layer.compile(), which calls the layer
    for name in _HOOKS:
        hooks = vars(layer)[name]
        if hooks:
            vars(twin)[name] = {key: _of(layer, hook) for key, hook in hooks.items()}
    return twin(*args, **kwargs)


def _of(layer: nn.Module, hook: Callable[..., Any]) -> Callable[..., Any]:
    return lambda _, *args: hook(layer, *args)


def kept(
    layer: nn.Module, tensors: Sequence[Tensor | None], option: Any, make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """What ``make`` makes of ``tensors`` and ``option``: from the last call for ``layer``, where these are the same.

    Changes are seen but for those in place behind autograd's back, through ``.data``; those of an optimizer's step are,
    whether it counts them (a fused one does not) or not. Nothing is kept of tensors made in ``torch.inference_mode``,
    whose changes nobody counts, nor within ``vmap`` and its like, nor for a trace.
    """
    present = [x for x in tensors if x is not None]
    if is_symbolic() or not all(map(_tells_changes, present)):
        return make()
    known = _kept.get(layer)
    if known is None or known.option != option or not _are(known.tensors, present):
        seen = [_Seen(weakref.ref(x), x.untyped_storage(), _state(x)) for x in present]
        known = _kept[layer] = _Kept(seen, option, make())
    return known.parameters


def _forget(*_: Any) -> None:
    _kept.clear()


register_optimizer_step_post_hook(_forget)


def _tells_changes(x: Tensor) -> bool:
    return type(x) in (Tensor, nn.Parameter) and not x.is_inference()


def _are(seen: list[_Seen], tensors: list[Tensor]) -> bool:
    """Whether these are the tensors that were seen, and did not change."""
    if len(seen) != len(tensors):
        return False
    return all(was.tensor() is x and was.state == _state(x) for was, x in zip(seen, tensors, strict=True))


def _state(x: Tensor) -> tuple[Any, ...]:
    return x._version, x.data_ptr(), x.stride(), x.dtype, x.device
