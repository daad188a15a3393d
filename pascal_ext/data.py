"""Reading batches: what a data loader may yield, and which part of a batch the model gets."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import length_hint
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from tqdm.auto import tqdm

from pascal_ext.errors import CalibrationError, PascalError

_LABEL_KEYS = frozenset({"label", "labels", "target", "targets", "y"})


class Batch(NamedTuple):
    """One batch, split into what ``model(*args, **kwargs)`` takes and the target, where there is one."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    target: Any


def cloned(batch: Batch) -> Batch:
    """A batch of its own, for a model that may write over its inputs: one that begins with an in-place ReLU does."""
    args, kwargs = pytree.tree_map_only(Tensor, Tensor.clone, (batch.args, batch.kwargs))
    return Batch(args, kwargs, batch.target)


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer; the CPU where it has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def reads_integers(model: nn.Module) -> bool:
    """Whether ``model`` looks rows up by their numbers, so that batches may hold token ids and nothing else."""
    return any(isinstance(module, (nn.Embedding, nn.EmbeddingBag)) for module in model.modules())


def split_batch(batch: Any, integers: bool = False) -> Batch:
    """Split what a loader yielded into model inputs and target.

    Understood are a tensor ``x``; ``(x,)`` and ``(x, y)``; ``((x1, x2), y)`` for models of several inputs; and dicts,
    whose entries are keyword arguments but for a label (``label``, ``labels``, ``target``, ``targets``, ``y``). Inputs
    are floating-point numbers, or bytes (uint8) that a model scales by itself.

    Args:
        batch: what the loader yielded.
        integers: whether tensors of integers are inputs, too, see :func:`reads_integers`; else they are taken for
            labels where nothing else is there.

    Raises:
        CalibrationError: the batch holds no input.
    """
    target = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(batch, Tensor):
        args = (batch,)
    elif isinstance(batch, Mapping):
        kwargs = {key: value for key, value in batch.items() if key not in _LABEL_KEYS}
        target = next((value for key, value in batch.items() if key in _LABEL_KEYS), None)
    elif isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) > 0:
        inputs = batch[0]
        target = batch[1] if len(batch) > 1 else None
        if isinstance(inputs, Mapping):
            kwargs = dict(inputs)
        else:
            args = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if not any(tensor.is_floating_point() or integers or _is_image(tensor) for tensor in tensors):
        kind = "" if integers else "floating-point "
        found = [f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in tensors] or type(batch).__name__
        arrays = any(isinstance(leaf, np.ndarray) for leaf in pytree.tree_leaves(batch))
        hint = " Make tensors of NumPy's arrays, with torch.from_numpy." if arrays else ""
        raise CalibrationError(
            f"a batch without {kind}inputs: {found}. Expected inputs, (inputs, labels), "
            f"((input, input), labels) or a dict of keyword arguments; are these labels without inputs?{hint}"
        )
    return Batch(args, kwargs, target)


def batches(loader: Iterable[Any], model: nn.Module | None = None, desc: str | None = None) -> Iterator[Batch]:
    """Iterate over ``loader`` as :class:`Batch`; batches of no samples are left out.

    Args:
        loader: see :func:`split_batch` for what it may yield.
        model: what is to be called with the batches, which are moved to its device.
        desc: name of a progress bar; None for no bar.

    Raises:
        CalibrationError: the loader is not iterable, yields no samples, or yields batches without inputs, or with
            others than ``model`` takes.
    """
    if isinstance(loader, Tensor) or not isinstance(loader, Iterable):
        raise CalibrationError(
            f"expected a DataLoader or another iterable of batches, got {type(loader).__name__}; "
            "wrap a single batch in a list"
        )
    device = device_of(model) if model is not None else None
    integers = model is not None and reads_integers(model)
    empty = True
    one_pass = iter(loader)  # tqdm would ask for two, and start the workers of a DataLoader twice
    for raw in tqdm(one_pass, desc=desc, total=length_hint(loader) or None, disable=desc is None, leave=False):
        batch = split_batch(raw, integers)
        if _has_no_samples(batch):
            continue
        if empty and model is not None:
            _check_call(model, batch)
        empty = False
        if device is not None:
            batch = Batch(*(_to(part, device) for part in batch))
        yield batch
    if empty:
        raise CalibrationError(
            "the data loader is empty (or an iterator that was already used up, or all its batches are of 0 samples)"
        )


def call(model: nn.Module, batch: Batch) -> Any:
    """What ``model`` gives for ``batch``.

    Raises:
        CalibrationError: it cannot take it, as its own code or a layer says.
    """
    with refusals_told(lambda: "the model", (batch.args, batch.kwargs)):
        return model(*batch.args, **batch.kwargs)


@contextlib.contextmanager
def refusals_told(what: Callable[[], str], inputs: Any) -> Iterator[None]:
    """Name ``what()`` and the ``inputs`` it was given in an error of what others' code raises inside the block.

    Raises:
        CalibrationError: something was raised that is neither an error of ours nor about memory.
    """
    try:
        yield
    except (PascalError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever the code of a model raises
        leaves = pytree.tree_leaves(inputs)
        told = [f"{leaf.dtype} {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves]
        raise CalibrationError(
            f"{what()} cannot take inputs of {', '.join(told)}: {type(error).__name__}: {error}"
        ) from error


def first_batch(loader: Iterable[Any] | None, model: nn.Module) -> Batch | None:
    """The first batch for ``model``; None without a loader, or where reading it would take it away from others.

    Raises:
        CalibrationError: see :func:`batches`.
    """
    return None if loader is None or isinstance(loader, Iterator) else next(batches(loader, model))


def inputs_of(model: nn.Module, batch: Batch) -> list[Any]:
    """The parameters of ``model.forward``, in their order, as ``batch`` and their defaults have them."""
    bound = inspect.signature(model.forward).bind(*batch.args, **batch.kwargs)
    bound.apply_defaults()
    return list(bound.arguments.values())


def _check_call(model: nn.Module, batch: Batch) -> None:
    """Refuse inputs that are not the arguments of ``model.forward``."""
    forward = inspect.signature(model.forward)
    try:
        forward.bind(*batch.args, **batch.kwargs)
    except TypeError as error:
        given = f"the keys {list(batch.kwargs)}" if batch.kwargs else f"{len(batch.args)} inputs"
        raise CalibrationError(
            f"a batch has {given}, which are not the arguments of forward({', '.join(forward.parameters)}): {error}. "
            "Yield (inputs, labels), ((input, input), labels) or a dict of keyword arguments"
        ) from error


def _is_image(tensor: Tensor) -> bool:
    """Bytes [N, ...], which a model turns into numbers by itself; labels are int64, and one for each sample."""
    return tensor.dtype == torch.uint8 and tensor.ndim > 1


def _has_no_samples(batch: Batch) -> bool:
    leaves = pytree.tree_leaves((batch.args, batch.kwargs))
    sizes = [len(leaf) for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim > 0]
    return bool(sizes) and not any(sizes)


def _to(part: Any, device: torch.device) -> Any:
    return pytree.tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, part)
