"""The model that is to be traced: out of its wrappers, what stands in the way, and where tracing ended."""

from __future__ import annotations

import copy
import inspect
import os
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel
from torch.utils import _pytree as pytree

import pascal_ext
from pascal_ext.errors import InvalidArgumentError, TracingError
from pascal_ext.graph.operations import unlike
from pascal_ext.qcfs import QCFS

M = TypeVar("M", bound=nn.Module)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model within ``torch.compile``, ``DataParallel``, ``DistributedDataParallel`` and ``AveragedModel``.

    Raises:
        InvalidArgumentError: it is no module at all.
    """
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)):
            model = model.module
        elif type(model).__name__ == "OptimizedModule" and isinstance(original := model._orig_mod, nn.Module):
            model = original  # told by its name, since importing torch.compile's modules takes seconds
        elif isinstance(model, nn.Module):
            return model
        else:
            raise InvalidArgumentError(f"expected a model, that is, a torch.nn.Module, got {model!r:.80}")


def copied(model: M) -> M:
    """A copy of ``model``, its compiled parts as they were before.

    Weights that a hook computes anew in each forward (pruning, the older weight and spectral norm), and activations
    that the model keeps, have a gradient function once there was one, and torch copies no such tensor; the copy has its
    value.
    """
    attributes = [value for module in model.modules() for value in pytree.tree_leaves(dict(vars(module)))]
    computed = [value for value in attributes if isinstance(value, Tensor) and not value.is_leaf]
    copy_of = copy.deepcopy(model, {id(value): value.detach().clone() for value in computed})
    _unwrap_parts(copy_of)
    return copy_of


def _unwrap_parts(model: nn.Module) -> None:
    for name, part in model._modules.items():
        if part is not None:
            model._modules[name] = inner = unwrapped(part)
            _unwrap_parts(inner)


def check_traceable(model: nn.Module) -> None:
    """Refuse what cannot be traced whatever its code is.

    Raises:
        TracingError: the model is TorchScript, or a single :class:`QCFS`, whose place in a graph would have no name; or
            it has lazy layers that have seen no data, whose copies would get weights of their own.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise TracingError("the model is TorchScript, which cannot be traced; hand in the nn.Module it was made from")
    if isinstance(model, QCFS):
        raise TracingError("the model is a QCFS activation by itself; put it into a model, nn.Sequential(qcfs)")
    lazy = [name for name, value in (*model.named_parameters(), *model.named_buffers()) if is_lazy(value)]
    if lazy:
        raise TracingError(f"{lazy} are not initialised yet; call the model on a batch first")


def check_has_values(model: nn.Module) -> None:
    """Refuse a model whose tensors are not all there: on the meta device they have shapes and no values.

    Raises:
        InvalidArgumentError: some are on the meta device; the message names them.
    """
    empty = [name for name, value in (*model.named_parameters(), *model.named_buffers()) if value.is_meta]
    if empty:
        named = f"{empty[:5]}{f' and {len(empty) - 5} more' if len(empty) > 5 else ''}"
        raise InvalidArgumentError(
            f"{named} are on the meta device, without values; load them first, with "
            "model.load_state_dict(state_dict, assign=True), or make the model on another device"
        )


def takes_any_keyword(model: nn.Module) -> bool:
    """Whether ``forward`` has a ``**kwargs``."""
    parameters = inspect.signature(model.forward).parameters.values()
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def spell_out_parameters(model: nn.Module, keywords: Iterable[str]) -> nn.Module:
    """Let ``forward`` have parameters that can be traced; returns ``model``.

    Tracing reads parameters off the code of the class's ``forward``. That of a decorated one is the decorator's, one
    that was put into the model itself is not seen, and a ``**kwargs`` would be one value that is no dictionary.

    Args:
        model: a model that no one else has.
        keywords: what a ``**kwargs`` is given.

    Raises:
        TypeError: a keyword is no name.
    """
    parameters = inspect.signature(model.forward).parameters.values()
    kinds = {parameter.kind for parameter in parameters}
    is_plain = "forward" not in vars(model) and inspect.unwrap(type(model).forward) is type(model).forward
    if inspect.Parameter.VAR_POSITIONAL in kinds or (is_plain and inspect.Parameter.VAR_KEYWORD not in kinds):
        return model
    taken = {p.name for p in parameters} | {*keywords}
    own, forward, defaults = (unlike(name, taken) for name in ("self", "forward", "defaults"))
    positional: list[str] = []  # as they stand in the header
    named: list[str] = []
    passed: list[str] = []
    for p in parameters:
        if p.kind is p.VAR_KEYWORD:
            names = [name for name in keywords if all(name != other.name for other in parameters)]
            if not all(name.isidentifier() for name in names):
                raise TypeError(f"forward() is given {names}, not all of which are names")
            named += names
            passed += [f"{name}={name}" for name in names]
        else:
            part = named if p.kind is p.KEYWORD_ONLY else positional
            part.append(p.name if p.default is p.empty else f"{p.name}={defaults}[{p.name!r}]")
            passed.append(p.name if p.kind is p.POSITIONAL_ONLY else f"{p.name}={p.name}")
    header = [own, *positional, *(["*", *named] if named else [])]
    scope: dict[str, Any] = {forward: model.forward, defaults: {p.name: p.default for p in parameters}}
    exec(f"def spelled_out({', '.join(header)}): return {forward}({', '.join(passed)})", scope)  # of names alone
    model.__class__ = type(type(model).__name__, (type(model),), {"forward": scope["spelled_out"]})
    return model


def place(error: Exception) -> str:
    """Where in the model's own code tracing ended: " at FILE:LINE, `CODE`"; empty where it never came there."""
    standard = Path(os.__file__).parent
    ours = tuple(f"{Path(file).parent}{os.sep}" for file in (torch.__file__, pascal_ext.__file__))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_file() and file.parent != standard and not frame.filename.startswith(ours):
            return f" at {frame.filename}:{frame.lineno}, `{frame.line}`"
    return ""
