"""The model that is to be traced: out of its wrappers, what stands in the way, and where tracing ended."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from pascal_ext.errors import TracingError


def unwrapped(model: nn.Module) -> nn.Module:
    """The model within ``torch.compile``, ``DataParallel`` and ``DistributedDataParallel``."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif type(model).__name__ == "OptimizedModule" and isinstance(original := model._orig_mod, nn.Module):
            model = original  # told by its name, since importing torch.compile's modules takes seconds
        else:
            return model


def check_traceable(model: nn.Module) -> None:
    """Refuse what cannot be traced whatever its code is.

    Raises:
        TracingError: the model is TorchScript, or has lazy layers that have seen no data, whose copies would get
            weights of their own.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise TracingError("the model is TorchScript, which cannot be traced; hand in the nn.Module it was made from")
    lazy = [name for name, value in (*model.named_parameters(), *model.named_buffers()) if is_lazy(value)]
    if lazy:
        raise TracingError(f"{lazy} are not initialised yet; call the model on a batch first")


def place(error: Exception) -> str:
    """Where in the model's own code tracing ended: " at FILE:LINE, `CODE`"; empty where it never came there."""
    standard = Path(os.__file__).parent
    ours = tuple(f"{Path(file).parent}{os.sep}" for file in (torch.__file__, __file__))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_file() and file.parent != standard and not frame.filename.startswith(ours):
            return f" at {frame.filename}:{frame.lineno}, `{frame.line}`"
    return ""
